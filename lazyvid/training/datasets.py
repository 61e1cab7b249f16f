"""The datasets by name: clips, single frames, and clips as a stream."""

from __future__ import annotations

from lazyvid.training.clip_dataset import ClipDataset
from lazyvid.training.frame_dataset import FrameDataset
from lazyvid.training.stream import ClipStream

__all__ = ["ClipDataset", "ClipStream", "FrameDataset"]
