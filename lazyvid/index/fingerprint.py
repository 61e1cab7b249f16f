"""What names a video file by its content: crc32 over its headers, from the same few requests that a header scan makes.

An etag changes when a file is copied; size and fingerprint do not. Used by `probe`, and to tell a stale index.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazyvid.frames import Limits
from lazyvid.index.mp4 import FIRST_READ, HeaderScan
from lazyvid.index.sniff import sniff
from lazyvid.index.sparse import SparseBytes
from lazyvid.storage import display_uri

if TYPE_CHECKING:
    from lazyvid.storage import ObjectMeta, ObjectStore

EDGE_BYTES = 64 * 1024
"""First and last bytes that the fingerprint of a file other than MP4 or MOV covers."""


@dataclass(frozen=True, slots=True)
class ScannedHeaders:
    """What a few requests tell about a file."""

    container: str | None
    """A key of `sniff.DEMUXERS`, None for what is no video."""
    fingerprint: int
    """crc32 of all but mdat payload (MP4, MOV), else of the first and last 64 KiB."""
    bytes: SparseBytes
    """Every byte that was read."""
    mp4: HeaderScan | None
    """The walk over the boxes of an MP4 or MOV file."""


def scan_headers(store: ObjectStore, meta: ObjectMeta, *, limits: Limits | None = None) -> ScannedHeaders:
    """Read a file's headers: for an MP4 whose index is complete at most two requests, for others one or two.

    Args:
        store: Where it lies.
        meta: The version to read, from `store.head`.
        limits: How large headers may be.

    Returns:
        The headers and their fingerprint; no judgement whether they are sound.

    Raises:
        LimitExceededError: if the headers are larger than `limits.index_bytes`.
        StoreError: if the store does not give the bytes.
    """
    scan = HeaderScan(meta.size, uri=display_uri(meta.uri), limits=limits or Limits())
    fetch_into(scan.bytes, scan.wanted(), store=store, meta=meta)
    head = scan.bytes.read(0, FIRST_READ)
    container = sniff(head)
    if container == "mp4":
        while wanted := scan.wanted():
            fetch_into(scan.bytes, wanted, store=store, meta=meta)
        return ScannedHeaders(container, scan.fingerprint(), scan.bytes, scan)
    tail = max(0, meta.size - EDGE_BYTES)
    fetch_into(scan.bytes, scan.bytes.missing(tail, meta.size), store=store, meta=meta)
    crc = zlib.crc32(scan.bytes.read(tail, meta.size), zlib.crc32(scan.bytes.read(0, EDGE_BYTES)))
    return ScannedHeaders(container, crc, scan.bytes, None)


def fingerprint(store: ObjectStore, meta: ObjectMeta, *, limits: Limits | None = None) -> int:
    """The fingerprint of a file: equal for equal files wherever they lie, whatever their etag.

    Args:
        store: Where it lies.
        meta: The version to read, from `store.head`.
        limits: How large headers may be.

    Returns:
        crc32 of all but mdat payload (MP4, MOV), else of the first and last 64 KiB.

    Raises:
        LimitExceededError: if the headers are larger than `limits.index_bytes`.
        StoreError: if the store does not give the bytes.
    """
    return scan_headers(store, meta, limits=limits).fingerprint


def fetch_into(known: SparseBytes, ranges: Sequence[tuple[int, int]], *, store: ObjectStore, meta: ObjectMeta) -> None:
    """Fetch byte ranges of an object in one call and make them known."""
    if ranges:
        parts = store.read_ranges(meta.uri, ranges, pin=meta)
        for (start, _), data in zip(ranges, parts, strict=True):
            known.add(start, data)
