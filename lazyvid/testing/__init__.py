"""For tests of lazyvid and of what users build on it: videos that prove their frames, real and faulty servers."""

from __future__ import annotations

from lazyvid.testing.corpus import CORPUS, CorpusVideo, VideoCorpus
from lazyvid.testing.damage import flip_bit, truncate, zero_run
from lazyvid.testing.faults import Fault, FaultServer, RecordedRequest
from lazyvid.testing.pattern import MAX_FRAME_NUMBER, painted_frame, read_frame_number
from lazyvid.testing.proxy import CountingProxy, ProxiedRequest
from lazyvid.testing.s3 import S3Server
from lazyvid.testing.videos import VideoSpec, write_streams, write_video

__all__ = [
    "CORPUS",
    "MAX_FRAME_NUMBER",
    "CorpusVideo",
    "CountingProxy",
    "Fault",
    "FaultServer",
    "ProxiedRequest",
    "RecordedRequest",
    "S3Server",
    "VideoCorpus",
    "VideoSpec",
    "flip_bit",
    "painted_frame",
    "read_frame_number",
    "truncate",
    "write_streams",
    "write_video",
    "zero_run",
]
