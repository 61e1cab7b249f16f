"""`build_index`: looks at a video file and says where every frame is, with as few bytes read as the container allows.

First step of the read flow, between an object store and a `FrameIndex`. FFmpeg gets a demuxer of our choice and a file
object, never a name; `sniff`, the box walk of `mp4` and the limits come before it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from lazyvid.errors import NotAVideoError
from lazyvid.frames import Limits
from lazyvid.index.fingerprint import scan_headers
from lazyvid.index.mp4 import FIRST_READ
from lazyvid.index.probe_file import VideoFile
from lazyvid.index.probe_info import (
    get_audio_info,
    get_video_duration_in_s,
    get_video_info,
    get_video_pixel_channels,
)
from lazyvid.index.probe_mp4 import index_mp4
from lazyvid.index.probe_other import index_other
from lazyvid.index.sniff import describe_bytes
from lazyvid.out_of_memory import blaming_memory_first
from lazyvid.storage import ObjectMeta, ObjectStore, display_uri

if TYPE_CHECKING:
    from lazyvid.index.frame_index import FrameIndex

__all__ = [
    "build_index",
    "get_audio_info",
    "get_video_duration_in_s",
    "get_video_info",
    "get_video_pixel_channels",
]


def build_index(
    uri: str | os.PathLike[str],
    *,
    store: ObjectStore | None = None,
    storage_options: Mapping[str, Any] | None = None,
    scan: Literal["header", "full"] = "header",
    stream: int | None = None,
    limits: Limits | None = None,
) -> FrameIndex:
    """Find every frame of a video file.

    Nothing is decoded but where the packets alone do not tell: AVI, streams that begin inside a group of pictures, and
    H.264 that may be coded in fields (such a file is read whole).

    A file that ends early is an error, but for those that are whole shorter ones by every byte of theirs: a fragmented
    MP4 cut between fragments, an MPEG transport stream between its packets, an MPEG programme stream, a live Matroska
    file.

    Args:
        uri: The file.
        store: Where it lies; by default an `ObjectStore` with `storage_options`.
        storage_options: For the store, when none is given.
        scan: "header" reads the headers and the first key packet, for MP4 and MOV; "full" reads every packet once and
            fills in checksums and which packets are disposable. Other containers are always read in full.
        stream: Position among the file's video streams, cover art not counted; by default the first.
        limits: The largest video that is accepted.

    Returns:
        The index: one segment, one source (more where codec parameters change inside the file), the source's uri "".

    Raises:
        ValueError: if `scan` is another word.
        NotAVideoError: if the first bytes are of no container that lazyvid reads.
        NoVideoStreamError: if there is no (such) video stream, or it has no frame.
        TruncatedVideoError: if the file ends before what its headers promise.
        CorruptVideoError: if its bytes contradict one another.
        LimitExceededError: if it is larger than `limits`.
        UnsupportedCodecError: if FFmpeg has no decoder for it here.
        StoreError: if the store does not give the bytes.
        MemoryError: if this process has no memory left for it.
    """
    if scan not in ("header", "full"):
        raise ValueError(f"Invalid scan {scan!r}: expected 'header' or 'full'.")
    store = store if store is not None else ObjectStore(storage_options=storage_options)
    return scan_version(store, store.head(uri), scan=scan, stream=stream, limits=limits or Limits())


def scan_version(
    store: ObjectStore, meta: ObjectMeta, *, scan: Literal["header", "full"], stream: int | None, limits: Limits
) -> FrameIndex:
    """`build_index` of the version of a file that is known already."""
    with blaming_memory_first():
        return _scanned(store, meta, full=scan == "full", stream=stream, limits=limits)


def _scanned(store: ObjectStore, meta: ObjectMeta, *, full: bool, stream: int | None, limits: Limits) -> FrameIndex:
    headers = scan_headers(store, meta, limits=limits)
    if headers.container is None:
        found = describe_bytes(headers.bytes.read(0, FIRST_READ))
        raise NotAVideoError(
            f"Expected an MP4, MOV, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, FLV or Ogg file, found {meta.size} bytes "
            f"that begin with {found} at {display_uri(meta.uri)}. Check the URI and how the object was made."
        )
    file = VideoFile(store, meta, headers, headers.container, stream, limits)
    return index_other(file) if headers.mp4 is None else index_mp4(file, headers.mp4, full=full)
