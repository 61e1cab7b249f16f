"""Packets of one stream, in decode order, made into a `FrameIndex`: which are shown, in which order, and when. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lazyvid import timing
from lazyvid.errors import CorruptVideoError, NoVideoStreamError
from lazyvid.index.frame_index import NO_PTS, UNKNOWN, FrameIndex, PacketTable, Segment, Source

if TYPE_CHECKING:
    from lazyvid.index.probe_demux import PacketRows
    from lazyvid.index.probe_payload import PayloadFacts


def assemble(
    rows: PacketRows,
    *,
    sources: Sequence[Source],
    source_idx: npt.NDArray[np.int32],
    shown: npt.NDArray[np.bool_],
    facts: PayloadFacts | None,
    offsets: Sequence[int] | None,
    uri: str,
) -> FrameIndex:
    """The index of packets whose times are known.

    Args:
        rows: N packets in decode order.
        sources: Sets of codec parameters.
        source_idx: int32 [N], each packet's.
        shown: bool [N], whether it becomes a frame.
        facts: What the payloads told; None where they were not read.
        offsets: N first bytes of payload; None where packets are not addressable.
        uri: Named in errors.

    Raises:
        NoVideoStreamError: if no packet is shown.
        CorruptVideoError: if two shown packets have one time.
    """
    if not shown.any():
        raise NoVideoStreamError(
            f"Expected at least one frame, found a video stream of {len(rows)} packets, none of them shown, in {uri}."
        )
    table = PacketTable(
        source_idx=source_idx,
        offset=np.full(len(rows), -1) if offsets is None else np.asarray(offsets, np.int64),
        size=rows.column("size"),
        pts=rows.column("pts"),
        dts=rows.column("dts"),
        duration=rows.column("duration"),
        decode_position=_positions(source_idx),
        key=rows.column("key"),
        # Not from the container either: FFmpeg writes SVT-AV1's packets with hidden references as disposable (sdtp).
        disposable=np.full(len(rows), UNKNOWN) if facts is None else np.asarray(facts.disposable, np.int8),
        crc32=np.full(len(rows), UNKNOWN) if facts is None else np.asarray(facts.crc32, np.int64),
    )
    order = np.flatnonzero(shown)
    order = order[np.argsort(table.pts[order], kind="stable")]
    frames = table.take(order)
    timestamps = timing.ticks_to_seconds(frames.pts, sources[0].time_base)
    _check_times(frames.pts, timestamps, uri=uri)
    return one_segment(frames, table.take(np.flatnonzero(~shown)), timestamps, sources)


def one_segment(
    frames: PacketTable, hidden: PacketTable, timestamps: npt.NDArray[np.float64], sources: Sequence[Source]
) -> FrameIndex:
    """An index of one segment."""
    return FrameIndex(
        segment_idx=np.zeros(len(frames), np.int64),
        local_frame_idx=np.arange(len(frames)),
        timestamp=timestamps,
        packets=frames,
        hidden=hidden,
        sources=tuple(sources),
        segments=(Segment(int(frames.source_idx[0]), len(frames)),),
    )


def shown_packets(rows: PacketRows, facts: PayloadFacts | None) -> npt.NDArray[np.bool_]:
    """Which packets become frames, bool [N]: not those that an edit list or their own payload hides."""
    shown = ~rows.column("discard")
    return shown if facts is None else shown & np.asarray(facts.shown, np.bool_)


def needs_counting(rows: PacketRows, shown: npt.NDArray[np.bool_]) -> bool:
    """Whether a shown packet has no time, so that frames can only be told apart by counting decoded pictures."""
    return bool(np.any(rows.column("pts")[shown] == NO_PTS))


def _positions(source_idx: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """int64 [N], each packet's place among the packets of its own source."""
    positions = np.zeros(len(source_idx), np.int64)
    for source in np.unique(source_idx):
        of_source = source_idx == source
        positions[of_source] = np.arange(of_source.sum())
    return positions


def _check_times(pts: npt.NDArray[np.int64], timestamps: npt.NDArray[np.float64], *, uri: str) -> None:
    equal = np.flatnonzero(np.diff(timestamps) <= 0)
    if len(equal):
        i = int(equal[0])
        raise CorruptVideoError(
            f"Expected frames with different times, found {len(equal)} that share theirs, the first at pts {pts[i]} "
            f"({timestamps[i]} s, frames {i} and {i + 1}) in {uri}. Remux or encode the video anew."
        )
