"""Indexing videos that were indexed before: all their files anew, under the times and segments that were known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from lazyvid.frames import Limits
from lazyvid.index.frame_index import UNKNOWN, FrameIndex, appended
from lazyvid.index.placing import distinct_files, located, public
from lazyvid.storage import ObjectMeta, ObjectStore, parent_uri, relative_uri

Scan = Literal["header", "full"]


def is_full(index: FrameIndex) -> bool:
    """Whether each payload that can be read was read."""
    return all(np.all(table.crc32 != UNKNOWN) for table in (index.packets, index.hidden)) or any(
        source.addressing == "sequential" for source in index.sources
    )


def scan_again(
    video: str,
    known: FrameIndex | None,
    *,
    store: ObjectStore,
    scan: Scan,
    heads: Mapping[str, ObjectMeta] | None = None,
    limits: Limits | None = None,
) -> FrameIndex:
    """A fresh index of a video; of all its files, where the index that was known names several.

    Args:
        video: Its URI, resolved.
        known: What was known of it; may be stale.
        store: Where it lies.
        scan: As for `build_index`.
        heads: What is known of its files by their URIs; the others are asked for.
        limits: The largest file that is accepted.

    Raises:
        VideoError: if a file cannot be indexed.
        StoreError: if the store does not give it.
    """
    from lazyvid.index.probe import scan_version  # FFmpeg is loaded only where a file is scanned

    files = [video] if known is None else distinct_files(located(known, video))
    stream = known.sources[0].stream if known is not None else None
    indexes = []
    for file in files:
        head = (heads or {}).get(file) or store.head(file)
        index = scan_version(store, head, scan=scan, stream=stream, limits=limits or Limits())
        name = "" if file == video else relative_uri(public(file), base=parent_uri(public(video)))
        indexes.append(index.with_source_uris([name] * len(index.sources)))
    joined = FrameIndex.join(indexes)
    return joined if np.all(np.diff(joined.timestamp) > 0) else FrameIndex.join(appended(indexes))


def with_known_times(scanned: FrameIndex, known: FrameIndex) -> FrameIndex:
    """The new packet table under the times and segments that were known: a recorder knows more than its file says.

    Where the packets are not the same ones, `scanned` as it is.
    """
    same = (
        len(known.sources) == len(scanned.sources)
        and np.array_equal(known.packets.pts, scanned.packets.pts)
        and np.array_equal(known.packets.source_idx, scanned.packets.source_idx)
    )
    if not same:
        return scanned
    return dataclasses.replace(known, packets=scanned.packets, hidden=scanned.hidden, sources=scanned.sources)
