"""Sidecars of other tools: their segments and times stand, packets come from a scan of the files, joined by pts; pure.

`sidecar` hands out the `ForeignTable`, `opening` scans the files and calls `join`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lazyvid.errors import CorruptIndexError, StaleIndexError
from lazyvid.index.arrow import CONTRACT_COLUMNS
from lazyvid.index.frame_index import FrameIndex, PacketTable, Segment

_MOST_EMPTY_SEGMENTS = 1 << 16  # more is no recording but a damaged number
_ARROW_TYPES = (pa.int64(), pa.int64(), pa.int64(), pa.float64())


@dataclass(frozen=True, slots=True, eq=False)
class ForeignTable:
    """The four columns that every sidecar has, one row a frame, sorted by (segment_idx, local_frame_idx)."""

    segment_idx: npt.NDArray[np.int64]
    """int64 [N], from 0."""
    local_frame_idx: npt.NDArray[np.int64]
    """int64 [N], from 0 in each segment."""
    pts: npt.NDArray[np.int64]
    """int64 [N], in the time base of the file that the segment lies in."""
    timestamp: npt.NDArray[np.float64]
    """float64 [N], seconds."""

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def segment_count(self) -> int:
        """Number of segments; some may be empty."""
        return int(self.segment_idx[-1]) + 1

    @classmethod
    def from_arrow(cls, table: Any) -> ForeignTable:
        """Take the columns out of a `pyarrow.Table`; others are left alone.

        Raises:
            CorruptIndexError: if one is missing, holds nulls or another type, or a frame is there twice or not at all.
        """
        missing = [name for name in CONTRACT_COLUMNS if name not in table.column_names]
        if missing:
            raise CorruptIndexError(
                f"Expected the columns {', '.join(CONTRACT_COLUMNS)}, found no {', '.join(missing)}."
            )
        if not table.num_rows:
            raise CorruptIndexError("Expected one row a frame, found no row at all.")
        columns = [_column(table, name, kind) for name, kind in zip(CONTRACT_COLUMNS, _ARROW_TYPES, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        sorted_table = cls(*(column[order] for column in columns))
        sorted_table._check()
        return sorted_table

    def _check(self) -> None:
        first, last = int(self.segment_idx[0]), int(self.segment_idx[-1])
        if first < 0 or last >= len(self) + _MOST_EMPTY_SEGMENTS:
            raise CorruptIndexError(
                f"Expected segments numbered from 0, found numbers from {first} to {last} in {len(self)} rows."
            )
        same = (np.diff(self.segment_idx) == 0) & (np.diff(self.local_frame_idx) == 0)
        if same.any():
            row = int(np.flatnonzero(same)[0])
            raise CorruptIndexError(
                f"Expected each frame once, found {int(same.sum())} twice, first frame {self.local_frame_idx[row]} of "
                f"segment {self.segment_idx[row]}."
            )
        counts = np.bincount(self.segment_idx)
        expected = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
        bad = np.flatnonzero(self.local_frame_idx != expected)
        if len(bad):
            raise CorruptIndexError(
                f"Expected the frames of segment {self.segment_idx[bad[0]]} numbered from 0 without gaps, found number "
                f"{self.local_frame_idx[bad[0]]} in place {expected[bad[0]]}."
            )


def _column(table: Any, name: str, kind: Any) -> npt.NDArray[Any]:
    column = table.column(name)
    if column.null_count:
        raise CorruptIndexError(f"Expected no nulls in the column {name}, found {column.null_count}.")
    try:
        column = column.cast(kind)
    except pa.ArrowException as error:
        raise CorruptIndexError(f"Expected the column {name} to hold {kind}, found {column.type}.") from error
    array: npt.NDArray[Any] = np.ascontiguousarray(column.to_numpy())
    return array


def join(table: ForeignTable, scans: Sequence[FrameIndex], scan_of_segment: Sequence[int]) -> FrameIndex:
    """The index of the frames that a foreign sidecar lists.

    A file's frames that it does not list stay packets that the decoder can be fed, hidden. A segment that lists frames
    which an earlier segment of the same file lists too gets that file as a source of its own: one source has each
    packet once.

    Args:
        table: The sidecar.
        scans: The index of each file, built by a scan.
        scan_of_segment: For each segment, the position of its file among `scans`.

    Raises:
        StaleIndexError: if a frame that is listed is not in its file.
    """
    groups = _grouped(table, scan_of_segment)
    parts = [_Group(table, scans[scan], scan, segments) for scan, segments in groups]
    shifts = np.cumsum([0, *(len(scans[scan].sources) for scan, _ in groups)])[:-1].tolist()
    packets = PacketTable.concat([part.shown for part in parts], source_shifts=shifts)
    # The groups' frames in the order of the table's rows.
    packets = packets.take(np.argsort(np.concatenate([part.rows for part in parts]), kind="stable"))
    first_source = {segment: shifts[k] for k, (_, segments) in enumerate(groups) for segment in segments}
    counts = np.bincount(table.segment_idx, minlength=table.segment_count)
    starts = np.cumsum(counts) - counts
    return FrameIndex(
        segment_idx=table.segment_idx,
        local_frame_idx=table.local_frame_idx,
        timestamp=table.timestamp,
        packets=packets,
        hidden=PacketTable.concat([part.hidden for part in parts], source_shifts=shifts),
        sources=tuple(source for scan, _ in groups for source in scans[scan].sources),
        segments=tuple(
            Segment(int(packets.source_idx[start]) if count else first_source[k], int(count))
            for k, (start, count) in enumerate(zip(starts, counts, strict=True))
        ),
    )


def _grouped(table: ForeignTable, scan_of_segment: Sequence[int]) -> list[tuple[int, list[int]]]:
    """(file, segments) for each copy of a file's sources: segments together, as long as no two list the same pts."""
    groups: list[tuple[int, list[int]]] = []
    seen: dict[int, tuple[int, set[int]]] = {}  # file -> (its newest group, the pts in it)
    bounds = np.searchsorted(table.segment_idx, np.arange(len(scan_of_segment) + 1)).tolist()
    for segment, scan in enumerate(scan_of_segment):
        pts = set(table.pts[bounds[segment] : bounds[segment + 1]].tolist())
        if scan not in seen or seen[scan][1] & pts:
            seen[scan] = (len(groups), set())
            groups.append((scan, []))
        group, together = seen[scan]
        groups[group][1].append(segment)
        together |= pts
    return groups


class _Group:
    """The segments of one source, joined with the scan of its file."""

    def __init__(self, table: ForeignTable, scan: FrameIndex, number: int, segments: Sequence[int]) -> None:
        self.rows = np.flatnonzero(np.isin(table.segment_idx, segments))
        # Frames first: of packets with one pts, the shown one is meant.
        every = PacketTable.concat([scan.packets, scan.hidden], source_shifts=[0, 0])
        wanted = table.pts[self.rows]
        order = np.argsort(every.pts, kind="stable")
        places = np.minimum(np.searchsorted(every.pts[order], wanted), max(len(every) - 1, 0))
        found = order[places] if len(every) else np.zeros(len(wanted), np.int64)
        lacking = every.pts[found] != wanted if len(every) else np.ones(len(wanted), np.bool_)
        if lacking.any():
            row = int(self.rows[np.flatnonzero(lacking)[0]])
            raise StaleIndexError(
                f"Expected {len(wanted)} frames in file {number} of the video, as the sidecar lists them, found "
                f"{int((~lacking).sum())}: {int(lacking.sum())} are missing, the first with pts {table.pts[row]} "
                "(frame "
                f"{table.local_frame_idx[row]} of segment {table.segment_idx[row]})."
            )
        unlisted = np.ones(len(every), np.bool_)
        unlisted[found] = False
        if len(found) != len(every) - int(unlisted.sum()):
            values, counts = np.unique(wanted, return_counts=True)
            raise CorruptIndexError(
                f"Expected each pts once in a segment, found pts {values[counts > 1][0]} several times."
            )
        self.shown, self.hidden = every.take(found), every.take(unlisted)
