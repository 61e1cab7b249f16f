"""lazyvid feeds video to PyTorch training: exact frames, reading just the bytes that they need."""

from __future__ import annotations

from lazyvid import errors
from lazyvid.frames import Clip, ClipSpec, Frame, Limits, Window
from lazyvid.index import FrameIndex, build_index
from lazyvid.lookup import decode_video_frames
from lazyvid.stats import ReadStats, read_stats, reset_stats
from lazyvid.storage import ObjectMeta, ObjectStore, SegmentCache
from lazyvid.video import LazyVideo

__all__ = [
    "Clip",
    "ClipSpec",
    "Frame",
    "FrameIndex",
    "LazyVideo",
    "Limits",
    "ObjectMeta",
    "ObjectStore",
    "ReadStats",
    "SegmentCache",
    "Window",
    "build_index",
    "decode_video_frames",
    "errors",
    "read_stats",
    "reset_stats",
]
