"""`WeightedClipSampler`: recordings, or classes of recordings, drawn as often as asked."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.frames import ClipSpec
from lazyvid.training.extents import Extents, IntArray
from lazyvid.training.samplers.arguments import array_digest, check_some, epoch_length, plan_name, window_spec
from lazyvid.training.samplers.base import DRAWS, OFFSETS, ClipSampler
from lazyvid.training.samplers.grids import StartsGrid
from lazyvid.training.samplers.hashing import below, hashed, unit

FloatArray = npt.NDArray[np.float64]


class WeightedClipSampler(ClipSampler):
    """Windows drawn with replacement: a recording in proportion to its weight, then any window of it.

    A recording shorter than a window is never drawn.

    Args:
        videos: A dataset, `Extents`, or a sequence of LazyVideos or frame counts.
        window_length: Frames of a window, at the video's own rate.
        weights: One a recording, 0 or more: how often it is drawn, whatever its length. With `classes`, one a class:
            how often that class is drawn; all windows of a class are equally likely. None, with `classes`: each class
            as often as the others.
        classes: The class of each recording.
        clip: Instead of `window_length`: its span. A dataset's own clip counts where neither is given.
        seed: The draws are a pure function of it and the epoch.
        num_samples: Windows of an epoch; None is `sum(n // window_length)` over the recordings' numbers of frames n.

    Raises:
        TypeError: if weights and classes do not go together.
        ValueError: if an argument has a wrong value, or nothing can be drawn.
    """

    def __init__(
        self,
        videos: Any,
        window_length: int | None = None,
        *,
        weights: Sequence[float] | npt.NDArray[Any] | Mapping[Any, float] | None = None,
        classes: Sequence[Hashable] | npt.NDArray[Any] | None = None,
        clip: ClipSpec | None = None,
        seed: int = 0,
        num_samples: int | None = None,
    ) -> None:
        extents = Extents.of(videos)
        length, _ = window_spec(videos, window_length, clip)
        self._grid = StartsGrid(extents, length)
        check_some(self._grid)
        if classes is not None:
            by_recording = _by_class(self._grid.counts, classes, weights)
        elif weights is not None and not isinstance(weights, Mapping):
            by_recording = np.where(self._grid.counts > 0, _checked(weights, len(extents)), 0.0)
        else:
            raise TypeError("Expected weights, one a recording, or classes, one a recording, and weights by class.")
        self._cumulative = np.cumsum(by_recording)
        if not self._cumulative[-1] > 0:
            raise ValueError(f"Expected a positive weight for a recording of {length} frames or more, found none.")
        self._last = int(np.flatnonzero(by_recording)[-1])
        plan = plan_name(
            type(self).__name__,
            extents,
            window_length=length,
            weights=array_digest(by_recording),
            num_samples=num_samples,
        )
        super().__init__(epoch_length(extents, length, num_samples), plan, seed=seed)

    def _windows(self, positions: IntArray, epoch: int) -> IntArray:
        drawn = unit(hashed(self.seed, DRAWS, epoch, positions)) * self._cumulative[-1]
        # The product may round up to the sum itself, which lies behind the last one that can be drawn.
        rows = np.minimum(np.searchsorted(self._cumulative, drawn, side="right"), self._last)
        key = hashed(self.seed, OFFSETS, epoch, positions)
        return self._grid.windows(rows, below(key, self._grid.counts[rows]), key)


def _by_class(windows: IntArray, classes: Any, weights: Any) -> FloatArray:
    """float64 [R], the weight of each recording: its class's, shared out by the windows that there are."""
    labels = classes.tolist() if isinstance(classes, np.ndarray) else list(classes)
    if len(labels) != len(windows):
        raise ValueError(f"Expected a class for each of {len(windows)} recordings, got {len(labels)}.")
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    if weights is not None and not isinstance(weights, Mapping):
        raise TypeError(f"Expected weights by class, a mapping, got {type(weights).__name__}.")
    if weights is not None and (missing := [label for label in numbers if label not in weights]):
        raise ValueError(f"Expected a weight for each class, found none for {missing[:8]}.")
    asked = [1.0 if weights is None else weights[label] for label in numbers]
    of_class = _checked(asked, len(numbers))
    codes = np.array([numbers[label] for label in labels], np.int64)
    there = np.bincount(codes, weights=windows, minlength=len(numbers))
    if len(empty := np.flatnonzero((there == 0) & (of_class > 0))):
        raise ValueError(
            f"Expected a recording long enough for a window in each class of positive weight, found none in "
            f"{[label for label, number in numbers.items() if number in empty][:8]}."
        )
    return np.divide(of_class[codes] * windows, there[codes], out=np.zeros(len(codes)), where=there[codes] > 0)


def _checked(weights: Any, count: int) -> FloatArray:
    values = np.asarray(weights, np.float64)
    if values.shape != (count,):
        raise ValueError(f"Expected {count} weights, one a recording, got shape {values.shape}.")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"Expected finite weights of 0 or more, got {values[~(values >= 0)][:8].tolist()}.")
    return values
