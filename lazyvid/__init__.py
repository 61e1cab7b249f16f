"""lazyvid feeds video to PyTorch training: exact frames, reading just the bytes that they need."""

from __future__ import annotations

from lazyvid import errors
from lazyvid.decoding import verify_index
from lazyvid.errors import FrameTimestampError, LazyVidError
from lazyvid.frames import Clip, ClipSpec, Frame, Limits, Window
from lazyvid.index import Catalog, FrameIndex, build_index
from lazyvid.lookup import decode_video_frames
from lazyvid.recording import Recorder, VideoWriter
from lazyvid.stats import ReadStats, read_stats, reset_stats
from lazyvid.storage import ObjectMeta, ObjectStore, SegmentCache
from lazyvid.training import (
    BlockShuffleSampler,
    ClipDataset,
    ClipLoader,
    ClipStream,
    DistributedClipSampler,
    EpisodeSampler,
    FrameDataset,
    RandomClipSampler,
    SequentialClipSampler,
    WeightedClipSampler,
    collate_clips,
)
from lazyvid.video import LazyVideo

__all__ = [
    "BlockShuffleSampler",
    "Catalog",
    "Clip",
    "ClipDataset",
    "ClipLoader",
    "ClipSpec",
    "ClipStream",
    "DistributedClipSampler",
    "EpisodeSampler",
    "Frame",
    "FrameDataset",
    "FrameIndex",
    "FrameTimestampError",
    "LazyVidError",
    "LazyVideo",
    "Limits",
    "ObjectMeta",
    "ObjectStore",
    "RandomClipSampler",
    "ReadStats",
    "Recorder",
    "SegmentCache",
    "SequentialClipSampler",
    "VideoWriter",
    "WeightedClipSampler",
    "Window",
    "build_index",
    "collate_clips",
    "decode_video_frames",
    "errors",
    "read_stats",
    "reset_stats",
    "verify_index",
]
