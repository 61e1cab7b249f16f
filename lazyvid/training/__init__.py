"""Videos as PyTorch datasets: clips that are planned, fetched and decoded a whole batch at a time."""

from __future__ import annotations

from lazyvid.frames import ClipSpec, Window
from lazyvid.training.collate import collate_clips
from lazyvid.training.datasets import ClipDataset
from lazyvid.training.extents import Extents
from lazyvid.training.frame_dataset import FrameDataset
from lazyvid.training.samplers import ClipSampler, DistributedClipSampler, RandomClipSampler, SequentialClipSampler

__all__ = [
    "ClipDataset",
    "ClipSampler",
    "ClipSpec",
    "DistributedClipSampler",
    "Extents",
    "FrameDataset",
    "RandomClipSampler",
    "SequentialClipSampler",
    "Window",
    "collate_clips",
]
