"""How recordings are cut into windows: from a window's number to its frames, by arithmetic alone; pure.

A grid holds a few numbers a recording and never a list of windows. Windows are numbered recording after recording, in
the order of their frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np

from lazyvid.training.extents import Extents, IntArray
from lazyvid.training.samplers.hashing import UintArray, below, hashed

Tail = Literal["drop", "overlap", "pad"]


class Grid(ABC):
    """Windows of `length` frames, `counts` of each recording."""

    def __init__(self, extents: Extents, length: int, counts: IntArray) -> None:
        self.extents = extents
        self.length = length
        self.counts = counts
        self.cumulative = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """int64 [R + 1], windows of the recordings before each."""

    def __len__(self) -> int:
        return int(self.cumulative[-1])

    def locate(self, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """int64 [K], the recording of each window, and int64 [K], its number among that recording's."""
        rows = np.searchsorted(self.cumulative, numbers, side="right") - 1
        return rows, numbers - self.cumulative[rows]

    def windows(self, rows: IntArray, numbers: IntArray, key: UintArray) -> IntArray:
        """int64 [K, 3]: video, start, stop.

        Args:
            rows: int64 [K], recordings.
            numbers: int64 [K], windows of these.
            key: uint64 [] or [K], names the draw.
        """
        start = self.extents.first[rows] + self._offsets(rows, numbers, key)
        videos = rows if self.extents.video is None else self.extents.video[rows]
        return np.stack([videos, start, start + self.length], axis=1)

    @abstractmethod
    def _offsets(self, rows: IntArray, numbers: IntArray, key: UintArray) -> IntArray:
        """int64 [K], frames between the first usable one and each window's start."""


class FixedGrid(Grid):
    """Windows that start at multiples of a step, the same in each epoch."""

    def __init__(self, extents: Extents, length: int, *, step: int, tail: Tail = "drop") -> None:
        frames = extents.counts
        whole = np.where(frames >= length, (frames - length) // step + 1, 0)
        # One more where whole windows, and not the gaps between them, leave frames over.
        covered = np.where(whole > 0, (whole - 1) * step + length, 0)
        more = (covered < frames) & (whole * step < frames)
        if tail == "drop":
            more[:] = False
        elif tail == "overlap":
            more &= whole > 0
        super().__init__(extents, length, whole + more)
        self._step = step
        self._tail = tail

    def _offsets(self, rows: IntArray, numbers: IntArray, key: UintArray) -> IntArray:  # noqa: ARG002 - nothing is drawn
        offsets = numbers * self._step
        if self._tail == "overlap":
            offsets = np.minimum(offsets, self.extents.counts[rows] - self.length)
        return offsets


class DrawnGrid(Grid):
    """Windows side by side from a random offset; n frames give n // length windows, whatever the offset.

    Let o be the offset, uniform in [0, length). The windows lie at o, o + length, ... as far as they fit. Where one
    fewer than n // length fit, the frames left over at both ends are together as many as a window has, or more; the
    missing one is laid at that end where more of them are, and overlaps its neighbour. So a frame is in at most two
    windows of an epoch, fewer than `length` frames of a recording are in none, and another epoch has others. A
    recording with room for one window alone has it anywhere, each start being as likely.
    """

    def __init__(self, extents: Extents, length: int) -> None:
        super().__init__(extents, length, extents.counts // length)

    def _offsets(self, rows: IntArray, numbers: IntArray, key: UintArray) -> IntArray:
        frames, counts = self.extents.counts[rows], self.counts[rows]
        over = frames - counts * self.length  # frames that n // length windows leave
        single = counts == 1
        offset = below(hashed(key, rows), np.where(single, over + 1, self.length))
        offsets = offset + numbers * self.length
        missing = ~single & (offset > over)
        left, right = offset, self.length + over - offset  # frames before the first and after the last that fit
        at_begin = missing & (left >= right)
        # The windows stay in the order of their frames: the one at the begin comes first.
        offsets = np.where(at_begin, np.where(numbers == 0, 0, offsets - self.length), offsets)
        return np.where(missing & ~at_begin & (numbers == counts - 1), frames - self.length, offsets)


class StartsGrid(Grid):
    """Every window there is: one for each frame that it may start at."""

    def __init__(self, extents: Extents, length: int) -> None:
        super().__init__(extents, length, np.maximum(extents.counts - length + 1, 0))

    def _offsets(self, rows: IntArray, numbers: IntArray, key: UintArray) -> IntArray:  # noqa: ARG002 - nothing is drawn
        return numbers
