"""`EpisodeSampler`: windows, or single frames, of chosen episodes without their first and last frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.frames import ClipSpec
from lazyvid.training.extents import Extents, IntArray
from lazyvid.training.samplers.arguments import check_some, plan_name, window_spec
from lazyvid.training.samplers.base import DRAWS, ORDER, ClipSampler
from lazyvid.training.samplers.grids import FixedGrid
from lazyvid.training.samplers.hashing import hashed
from lazyvid.training.samplers.permutation import permuted

Episodes = Sequence[int] | Sequence[bool] | npt.NDArray[Any] | Callable[[int], bool]


class EpisodeSampler(ClipSampler):
    """Windows that lie inside chosen episodes, in order or shuffled; each one once an epoch.

    An episode is a recording of the dataset, or any part of one: `Extents.intervals` makes episodes of those. With
    `window_length=1` it gives single frames, as LeRobot's `EpisodeAwareSampler` does.

    Args:
        videos: A dataset, `Extents`, or a sequence of LazyVideos or frame counts; one an episode.
        window_length: Frames of a window, at the video's own rate.
        episodes: Which episodes: their numbers, a bool for each, or a function that is called with each number. None is
            all. They keep the dataset's order.
        drop_first: Frames at each episode's begin that no window touches.
        drop_last: Frames at each episode's end that no window touches.
        step: Frames between the starts of neighbouring windows; None is that of `clip`, or the window's length.
        shuffle: A fully random order, another in each epoch; else episode after episode.
        clip: Instead of `window_length`: its span, and its step. A dataset's own clip counts where neither is given.
        seed: A shuffled order is a pure function of it and the epoch.

    Raises:
        IndexError: if there is no episode of a given number.
        ValueError: if an argument has a wrong value, or no chosen episode is long enough for a window.
    """

    def __init__(
        self,
        videos: Any,
        window_length: int | None = None,
        *,
        episodes: Episodes | None = None,
        drop_first: int = 0,
        drop_last: int = 0,
        step: int | None = None,
        shuffle: bool = False,
        clip: ClipSpec | None = None,
        seed: int = 0,
    ) -> None:
        length, own_step = window_spec(videos, window_length, clip)
        step = own_step or length if step is None else step
        for name, value, least in (("drop_first", drop_first, 0), ("drop_last", drop_last, 0), ("step", step, 1)):
            if value < least:
                raise ValueError(f"Invalid {name} {value}: expected {least} or more frames.")
        extents = Extents.of(videos)
        if episodes is not None:
            extents = extents.select(_chosen(episodes, len(extents)))
        extents = extents.trimmed(drop_first, drop_last)
        self._grid = FixedGrid(extents, length, step=step)
        check_some(self._grid)
        self._shuffle = shuffle
        plan = plan_name(type(self).__name__, extents, window_length=length, step=step, shuffle=shuffle)
        super().__init__(len(self._grid), plan, seed=seed)

    def _windows(self, positions: IntArray, epoch: int) -> IntArray:
        if self._shuffle:
            positions = permuted(positions, self._total, hashed(self.seed, ORDER, epoch))
        return self._grid.windows(*self._grid.locate(positions), hashed(self.seed, DRAWS, epoch))


def _chosen(episodes: Episodes, count: int) -> IntArray:
    """int64 [E], numbers of the chosen episodes, increasing."""
    if callable(episodes):
        return np.flatnonzero([bool(episodes(number)) for number in range(count)])
    given = np.asarray(episodes)
    if given.ndim != 1 or (len(given) and given.dtype.kind not in "iub"):
        raise TypeError(f"Expected numbers of episodes, or a bool for each, got {given.dtype} of shape {given.shape}.")
    if given.dtype == np.bool_:
        if len(given) != count:
            raise ValueError(f"Expected a bool for each of {count} episodes, got {len(given)}.")
        return np.flatnonzero(given)
    outside = (given < 0) | (given >= count)
    if outside.any():
        raise IndexError(f"Expected numbers of episodes from 0 to {count - 1}, got {given[outside][:8].tolist()}.")
    return np.unique(given).astype(np.int64)
