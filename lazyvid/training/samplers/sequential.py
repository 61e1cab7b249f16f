"""`SequentialClipSampler`: windows in the order of the recordings and their frames, for evaluation and export."""

from __future__ import annotations

from typing import Any, get_args

from lazyvid.arguments import check_word
from lazyvid.frames import ClipSpec
from lazyvid.training.extents import Extents, IntArray
from lazyvid.training.samplers.arguments import check_some, plan_name, window_spec
from lazyvid.training.samplers.base import DRAWS, ClipSampler
from lazyvid.training.samplers.grids import FixedGrid, Tail
from lazyvid.training.samplers.hashing import hashed


class SequentialClipSampler(ClipSampler):
    """Windows in order: of each recording in turn those that start at multiples of `step`, the same in each epoch.

    Args:
        videos: A dataset, `Extents`, or a sequence of LazyVideos or frame counts.
        window_length: Frames of a window, at the video's own rate.
        step: Frames between the starts of neighbouring windows; None is that of `clip`, or the window's length.
        clip: Instead of `window_length`: its span, and its step. A dataset's own clip counts where neither is given.
        tail: What becomes of frames that whole windows leave over at a recording's end. "drop": they are left out.
            "overlap": one more window, which ends with the recording and overlaps the one before it. "pad": one more
            window, which reaches over the end, for datasets with `ClipSpec(pad="repeat")`; then a recording shorter
            than a window has one, too.
        seed: Of the windows' seeds alone.

    Raises:
        ValueError: if an argument has a wrong value, or no recording is long enough for a window.
    """

    def __init__(
        self,
        videos: Any,
        window_length: int | None = None,
        step: int | None = None,
        *,
        clip: ClipSpec | None = None,
        tail: Tail = "drop",
        seed: int = 0,
    ) -> None:
        extents = Extents.of(videos)
        length, own_step = window_spec(videos, window_length, clip)
        step = own_step or length if step is None else step
        if step < 1:
            raise ValueError(f"Invalid step {step}: expected 1 frame or more.")
        check_word("tail", tail, get_args(Tail))
        self._grid = FixedGrid(extents, length, step=step, tail=tail)
        check_some(self._grid)
        plan = plan_name(type(self).__name__, extents, window_length=length, step=step, tail=tail)
        super().__init__(len(self._grid), plan, seed=seed)

    def _windows(self, positions: IntArray, epoch: int) -> IntArray:
        return self._grid.windows(*self._grid.locate(positions), hashed(self.seed, DRAWS, epoch))
