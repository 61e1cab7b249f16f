"""`RandomClipSampler`: windows drawn anew in each epoch, in a fully random order."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from lazyvid.arguments import check_word
from lazyvid.frames import ClipSpec
from lazyvid.training.extents import Extents, IntArray
from lazyvid.training.samplers.arguments import check_some, epoch_length, plan_name, window_spec
from lazyvid.training.samplers.base import DRAWS, OFFSETS, ORDER, ClipSampler
from lazyvid.training.samplers.grids import DrawnGrid, FixedGrid, Grid, StartsGrid
from lazyvid.training.samplers.hashing import below, hashed
from lazyvid.training.samplers.permutation import permuted

Draw = Literal["tiled", "fixed", "independent"]


class RandomClipSampler(ClipSampler):
    """Windows drawn anew in each epoch, in a fully random order.

    An epoch has `sum(n // window_length)` windows over the recordings' numbers of frames n, in every epoch alike; or
    `num_samples`. A recording shorter than a window has none.

    Args:
        videos: A dataset, `Extents`, or a sequence of LazyVideos or frame counts.
        window_length: Frames of a window, at the video's own rate.
        clip: Instead of `window_length`: its span. A dataset's own clip counts where neither is given.
        seed: The order is a pure function of it and the epoch.
        draw: "tiled": in each recording windows side by side from a random offset, new in each epoch, so that an epoch
            sees (nearly) every frame once; `grids.DrawnGrid` says it exactly. "fixed": windows side by side from the
            first frame, the same ones in each epoch, in another order. "independent": each window is any of those that
            the recordings have, all equally likely, with replacement.
        num_samples: Windows of an epoch; None is the number above. With fewer, an epoch is a random part of one; with
            more, it goes round again, with windows drawn anew.

    Raises:
        ValueError: if an argument has a wrong value, or no recording is long enough for a window.
    """

    def __init__(
        self,
        videos: Any,
        window_length: int | None = None,
        *,
        clip: ClipSpec | None = None,
        seed: int = 0,
        draw: Draw = "tiled",
        num_samples: int | None = None,
    ) -> None:
        extents = Extents.of(videos)
        length, _ = window_spec(videos, window_length, clip)
        check_word("draw", draw, get_args(Draw))
        self._draw = draw
        self._grid = _grid(extents, length, draw)
        check_some(self._grid)
        plan = plan_name(type(self).__name__, extents, window_length=length, draw=draw, num_samples=num_samples)
        super().__init__(epoch_length(extents, length, num_samples), plan, seed=seed)

    def _windows(self, positions: IntArray, epoch: int) -> IntArray:
        count = len(self._grid)
        if self._draw == "independent":
            numbers = below(hashed(self.seed, DRAWS, epoch, positions), count)
            return self._grid.windows(*self._grid.locate(numbers), hashed(self.seed, OFFSETS, epoch))
        rounds, places = np.divmod(positions, count) if self._total > count else (0, positions)
        numbers = permuted(places, count, hashed(self.seed, ORDER, epoch, rounds))
        return self._grid.windows(*self._grid.locate(numbers), hashed(self.seed, OFFSETS, epoch, rounds))


def _grid(extents: Extents, length: int, draw: Draw) -> Grid:
    if draw == "tiled":
        return DrawnGrid(extents, length)
    if draw == "fixed":
        return FixedGrid(extents, length, step=length)
    return StartsGrid(extents, length)
