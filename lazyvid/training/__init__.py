"""Videos as PyTorch datasets: clips that are planned, fetched and decoded a whole batch at a time."""

from __future__ import annotations

from lazyvid.frames import ClipSpec, Window
from lazyvid.training.collate import collate_clips
from lazyvid.training.datasets import ClipDataset
from lazyvid.training.extents import Extents
from lazyvid.training.frame_dataset import FrameDataset
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
from lazyvid.training.stream import ClipStream

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
