"""`FrameView`: which frames of an index a video shows, in the order of their times; pure.

Positions count inside the view; rows count in the index.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lazyvid import timing
from lazyvid.index.frame_index import FrameIndex

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(slots=True, eq=False)
class FrameView:
    """Windows over the frames of an index that was sorted by time where its times were out of order."""

    index: FrameIndex
    windows: tuple[tuple[int, int], ...] | None = None
    """Half-open ranges of ranks in time order, one after the other; None is all frames."""
    part_sizes: tuple[int, ...] | None = None
    """Frames of each of the videos that were joined: each is sorted by itself. None is one video."""
    _time_order: IntArray | None = field(init=False, default=None)
    """int64 [N], the rows by time; None where they already are."""
    rows: IntArray = field(init=False)
    """int64 [n], the row of the index at each position."""
    timestamps: FloatArray = field(init=False)
    """float64 [n], seconds, read-only."""

    def __post_init__(self) -> None:
        times = self.index.timestamp
        self._time_order = _time_order(times, self.part_sizes or (len(times),))
        if self.windows is None:
            ranks = np.arange(len(self.index))
            whole = self._time_order is None
        else:
            ranks = np.concatenate([np.arange(a, b) for a, b in self.windows] or [np.empty(0, np.int64)])
            whole = False
        self.rows = ranks if self._time_order is None else self._time_order[ranks]
        self.timestamps = times if whole else times[self.rows]
        for array in (self.rows, self.timestamps):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.rows)

    def window(self, first: int, stop: int) -> tuple[tuple[int, int], ...]:
        """The ranges of ranks that hold the positions [first, stop) of this view."""
        pieces = []
        offset = 0
        for a, b in self._ranges():
            lo, hi = max(first, offset), min(stop, offset + b - a)
            if lo < hi:
                pieces.append((a + lo - offset, a + hi - offset))
            offset += b - a
        return tuple(pieces) or ((self._rank_at(first),) * 2,)

    def _ranges(self) -> tuple[tuple[int, int], ...]:
        return ((0, len(self.index)),) if self.windows is None else self.windows

    def _rank_at(self, position: int) -> int:
        """The rank of a position, for an empty window to remember where it lies."""
        offset = rank = 0
        for a, b in self._ranges():
            rank = a + min(max(position - offset, 0), b - a)
            if position < offset + b - a:
                break
            offset += b - a
        return rank

    def _time_of_rank(self, rank: int) -> float:
        """When the frame of a rank begins; at one past the last, when the last frame ends."""
        if rank >= len(self.index):
            return self._end_of_index()
        row = rank if self._time_order is None else int(self._time_order[rank])
        return float(self.index.timestamp[row])

    def _end_of_index(self) -> float:
        if not len(self.index):
            return 0.0
        if self._time_order is None:
            return self.index.end_seconds
        last = int(self._time_order[-1])
        return timing.last_frame_end(self.index.timestamp[self._time_order], self.index.frame_duration(last))

    @property
    def begin_seconds(self) -> float:
        """When the first frame begins; of an empty view, where it lies."""
        return float(self.timestamps[0]) if len(self) else self._time_of_rank(self._ranges()[0][0])

    @property
    def end_seconds(self) -> float:
        """When the last frame stops being shown: at the next frame of the whole video, else after its duration."""
        return self._time_of_rank(self._ranges()[-1][1]) if len(self) else self.begin_seconds

    def durations(self, positions: IntArray) -> FloatArray:
        """float64 [M], seconds until the next frame of the view, or until its end."""
        times = self.timestamps
        ends: FloatArray = times.take(positions + 1, mode="clip")
        last = positions == len(times) - 1
        if last.any():
            ends[last] = self.end_seconds
        return ends - times[positions]

    def segment_frame_counts(self) -> IntArray:
        """int64 [S], frames of each segment of the index that lie in the view."""
        segments = self.index.segment_idx[self.rows]
        return np.bincount(segments, minlength=len(self.index.segments)).astype(np.int64)


def _time_order(times: FloatArray, part_sizes: tuple[int, ...]) -> IntArray | None:
    """int64 [N], the rows with each part in order of time; None where they already are."""
    edges = np.concatenate([[0], np.cumsum(part_sizes)])
    falls = np.flatnonzero(np.diff(times) < 0) + 1
    if not len(np.setdiff1d(falls, edges)):
        return None
    pieces = [a + np.argsort(times[a:b], kind="stable") for a, b in itertools.pairwise(edges)]
    return np.concatenate(pieces)
