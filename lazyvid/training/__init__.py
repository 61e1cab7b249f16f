"""Videos as PyTorch datasets: clips that are planned, fetched and decoded a whole batch at a time."""

from __future__ import annotations

from lazyvid.frames import ClipSpec, Window
from lazyvid.training.collate import collate_clips
from lazyvid.training.datasets import ClipDataset

__all__ = ["ClipDataset", "ClipSpec", "Window", "collate_clips"]
