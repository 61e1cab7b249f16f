"""`BlockShuffleSampler`: a random order in which windows that are neighbours in bytes stay near one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from lazyvid.arguments import check_word
from lazyvid.frames import ClipSpec
from lazyvid.training.extents import Extents, IntArray
from lazyvid.training.samplers.arguments import array_digest, check_some, plan_name, window_spec
from lazyvid.training.samplers.base import GROUPS, OFFSETS, ORDER, ClipSampler
from lazyvid.training.samplers.grids import DrawnGrid, FixedGrid, Grid
from lazyvid.training.samplers.hashing import hashed
from lazyvid.training.samplers.permutation import permuted

Draw = Literal["tiled", "fixed"]


class BlockShuffleSampler(ClipSampler):
    """Windows in a random order that reads a few blocks of bytes at a time, for caches and slow stores.

    A block is a recording, or a part of one of at most `block_bytes`. The blocks come in random order, `blocks_mixed`
    of them at a time, and the windows of these come in random order: a shuffle buffer whose content is known
    beforehand. All is drawn anew in each epoch. The windows are those of `RandomClipSampler` with the same seed, as
    many an epoch.

    It takes memory in proportion to the blocks, not to the windows. `mixing` says how near it comes to a full shuffle.

    Args:
        videos: A dataset, `Extents`, or a sequence of LazyVideos or frame counts.
        window_length: Frames of a window, at the video's own rate.
        clip: Instead of `window_length`: its span. A dataset's own clip counts where neither is given.
        seed: The order is a pure function of it and the epoch.
        block_bytes: The most encoded bytes of a block, at the recording's mean rate; recordings of more are cut into
            blocks of equally many windows. None: each recording is a block. Blocks never reach over two recordings.
        blocks_mixed: Blocks whose windows are shuffled together.
        draw: "tiled": windows side by side from a random offset, new in each epoch; "fixed": from the first frame.

    Raises:
        ValueError: if an argument has a wrong value, no recording is long enough for a window, or `block_bytes` is
            given and nobody knows the recordings' bytes.
    """

    def __init__(
        self,
        videos: Any,
        window_length: int | None = None,
        *,
        clip: ClipSpec | None = None,
        seed: int = 0,
        block_bytes: int | None = None,
        blocks_mixed: int = 16,
        draw: Draw = "tiled",
    ) -> None:
        extents = Extents.of(videos)
        length, _ = window_spec(videos, window_length, clip)
        check_word("draw", draw, get_args(Draw))
        if blocks_mixed < 1:
            raise ValueError(f"Invalid blocks_mixed {blocks_mixed}: expected 1 block or more.")
        self._grid: Grid = DrawnGrid(extents, length) if draw == "tiled" else FixedGrid(extents, length, step=length)
        check_some(self._grid)
        self._blocks = Blocks(self._grid.counts, _blocks_of(extents, self._grid.counts, block_bytes))
        self._mixed = int(blocks_mixed)
        self._layout: Layout | None = None  # of the epoch asked for last
        plan = plan_name(
            type(self).__name__,
            extents,
            window_length=length,
            block_bytes=block_bytes,
            blocks_mixed=blocks_mixed,
            draw=draw,
            blocks=len(self._blocks) if block_bytes is None else self._blocks.digest(),
        )
        super().__init__(len(self._grid), plan, seed=seed)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_layout": None}

    @property
    def mixing(self) -> float:
        """How near the order comes to a full shuffle, in (0, 1].

        It is how far apart in the order two windows are expected that are neighbours in a recording, relative to a full
        shuffle of the epoch's N windows, where it is (N + 1) / 3. Neighbours in one block are shuffled in one group,
        and in a group of s windows they lie (s + 1) / 3 apart; neighbours in two blocks lie as in a full shuffle. So
        `mixing` is about the part of the epoch that is shuffled together, and 1 where that is all of it.
        """
        sizes, total = self._blocks.sizes(), self._total
        blocks = len(sizes)
        last = (blocks - 1) % self._mixed + 1  # blocks of the last group
        full = blocks - last
        others = (full * (min(self._mixed, blocks) - 1) + last * (last - 1)) / blocks
        group = sizes + others * (total - sizes) / max(blocks - 1, 1)  # expected windows of each block's group
        inside = sizes - 1
        neighbours = total - int(np.count_nonzero(self._grid.counts))
        if not neighbours:
            return 1.0
        across = neighbours - int(inside.sum())
        return float((inside @ (group + 1) / (total + 1) + across) / neighbours)

    def _windows(self, positions: IntArray, epoch: int) -> IntArray:
        layout = self._layout
        if layout is None or layout.epoch != epoch:
            order = permuted(np.arange(len(self._blocks)), len(self._blocks), hashed(self.seed, ORDER, epoch))
            self._layout = layout = Layout.of(epoch, order, self._blocks.sizes()[order], self._mixed)
        group, first, size = layout.groups_at(positions)
        places = first + permuted(positions - first, size, hashed(self.seed, GROUPS, epoch, group))
        rows, numbers = self._blocks.windows_at(*layout.blocks_at(places))
        return self._grid.windows(rows, numbers, hashed(self.seed, OFFSETS, epoch, 0))


class Blocks:
    """The windows of each recording in blocks of neighbours, as equal as they come; B blocks."""

    def __init__(self, windows: IntArray, blocks: IntArray) -> None:
        """Cut recordings.

        Args:
            windows: int64 [R], windows of each recording.
            blocks: int64 [R], into how many blocks they are cut; each at most as many as there are windows.
        """
        self._windows = windows
        self._blocks = blocks
        self._cumulative = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._cumulative[-1])

    def sizes(self) -> IntArray:
        """int64 [B], windows of each."""
        rows = np.repeat(np.arange(len(self._blocks)), self._blocks)
        number = np.arange(len(self)) - self._cumulative[rows]
        return self._begin(rows, number + 1) - self._begin(rows, number)

    def windows_at(self, blocks: IntArray, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """int64 [K], the recording, and int64 [K], the number in it, of these windows of these blocks."""
        rows = np.searchsorted(self._cumulative, blocks, side="right") - 1
        return rows, self._begin(rows, blocks - self._cumulative[rows]) + numbers

    def _begin(self, rows: IntArray, number: IntArray) -> IntArray:
        return number * self._windows[rows] // self._blocks[rows]

    def digest(self) -> str:
        """Names the cuts."""
        return array_digest(self._blocks)


@dataclass(frozen=True, slots=True)
class Layout:
    """One epoch's blocks in their order: where each begins and which are mixed."""

    epoch: int
    order: IntArray
    """int64 [B], blocks."""
    ends: IntArray
    """int64 [B], one past the last place of each."""
    group_ends: IntArray
    """int64 [G], one past the last place of each group of mixed blocks."""

    @classmethod
    def of(cls, epoch: int, order: IntArray, sizes: IntArray, mixed: int) -> Layout:
        """Lay blocks of these sizes, int64 [B], one after the other."""
        ends = np.cumsum(sizes)
        last_of_groups = np.minimum(np.arange(mixed - 1, len(order) + mixed - 1, mixed), len(order) - 1)
        return cls(epoch, order, ends, ends[last_of_groups])

    def groups_at(self, positions: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """int64 [K] each: the group of each position, its first position and its windows."""
        group = np.searchsorted(self.group_ends, positions, side="right")
        first = np.where(group > 0, self.group_ends[group - 1], 0)
        return group, first, self.group_ends[group] - first

    def blocks_at(self, places: IntArray) -> tuple[IntArray, IntArray]:
        """int64 [K] each: the block that lies at each place, and which of its windows."""
        slot = np.searchsorted(self.ends, places, side="right")
        return self.order[slot], places - np.where(slot > 0, self.ends[slot - 1], 0)


def _blocks_of(extents: Extents, windows: IntArray, block_bytes: int | None) -> IntArray:
    """int64 [R], into how many blocks each recording is cut."""
    if block_bytes is None:
        return np.minimum(windows, 1)
    if block_bytes < 1:
        raise ValueError(f"Invalid block_bytes {block_bytes}: expected 1 or more.")
    if extents.nbytes is None:
        raise ValueError(
            f"Expected recordings whose encoded bytes are known for block_bytes={block_bytes}: give a dataset, videos "
            "or a catalog instead of frame counts, or leave block_bytes out, so that each recording is a block."
        )
    nbytes = np.maximum(extents.nbytes, 1)
    in_a_block = np.maximum(windows * np.minimum(block_bytes, nbytes) // nbytes, 1)
    return -(-windows // in_a_block)
