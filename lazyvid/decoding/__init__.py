"""From an index to pictures: plan, fetch, verify, decode, convert."""

from __future__ import annotations

from lazyvid.decoding.convert import PictureFormat
from lazyvid.decoding.files import VideoFiles
from lazyvid.decoding.pool import DecoderPool
from lazyvid.decoding.reader import PendingFrames, begin_frames, read_frames
from lazyvid.decoding.targets import ReadRequest
from lazyvid.decoding.verify import VerifyReport, verify_index

__all__ = [
    "DecoderPool",
    "PendingFrames",
    "PictureFormat",
    "ReadRequest",
    "VerifyReport",
    "VideoFiles",
    "begin_frames",
    "read_frames",
    "verify_index",
]
