"""Videos as PyTorch datasets: clips that are planned, fetched and decoded a whole batch at a time."""

from __future__ import annotations

from lazyvid.frames import ClipSpec, Window
from lazyvid.training.collate import collate_clips
from lazyvid.training.datasets import ClipDataset, ClipStream, FrameDataset
from lazyvid.training.extents import Extents
from lazyvid.training.loader import ClipLoader
from lazyvid.training.samplers import (
    BlockShuffleSampler,
    ClipSampler,
    DistributedClipSampler,
    EpisodeSampler,
    RandomClipSampler,
    SequentialClipSampler,
    WeightedClipSampler,
)

__all__ = [
    "BlockShuffleSampler",
    "ClipDataset",
    "ClipLoader",
    "ClipSampler",
    "ClipSpec",
    "ClipStream",
    "DistributedClipSampler",
    "EpisodeSampler",
    "Extents",
    "FrameDataset",
    "RandomClipSampler",
    "SequentialClipSampler",
    "WeightedClipSampler",
    "Window",
    "collate_clips",
]
