"""Running statistics of what is recorded: exact moments, and quantiles to within a bin, in a single pass and mergeable.

Beside the write flow: the encoder threads feed pictures in, the recorder its tabular features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
"""Those that robot learning normalises with."""

_TARGET_SIDE = 150
_DOUBLE_BITS = 52
_LOWEST_EXPONENT = -1074  # of the smallest double; that of the bins while all values are 0
_DEEPEST = {np.dtype(np.uint8): 1 << 8, np.dtype(np.uint16): 1 << 16}

Statistics = dict[str, npt.NDArray[Any]]
"""By name: `min`, `max`, `mean`, `std` and `q01`, `q10`, ... each [D]; `count` int64 [1]."""


class RunningQuantileStats:
    """Minimum, maximum, mean, standard deviation, count and quantiles of vectors that come in batches.

    The bins of the histograms are as wide as a power of two and begin at its multiples. So a wider range merges whole
    bins, no value ever moves to another bin, and the result does not depend on how the values were batched or merged.

    Args:
        quantile_list: The quantiles, each in [0, 1].
        num_quantile_bins: Bins per dimension: a quantile is right to within (max - min) / `num_quantile_bins`.

    Raises:
        ValueError: if a quantile lies outside, or there is no bin.
    """

    def __init__(self, quantile_list: Sequence[float] = QUANTILES, num_quantile_bins: int = 5000) -> None:
        if not all(0 <= q <= 1 for q in quantile_list):
            raise ValueError(f"Invalid quantile_list {list(quantile_list)!r}: expected numbers from 0 to 1.")
        if num_quantile_bins < 1:
            raise ValueError(f"Invalid num_quantile_bins {num_quantile_bins!r}: expected 1 or more.")
        self.quantile_list = tuple(quantile_list)
        self.num_quantile_bins = num_quantile_bins
        self._count = 0
        self._min: npt.NDArray[Any]
        self._max: npt.NDArray[Any]
        self._mean: npt.NDArray[np.float64]
        self._squares: npt.NDArray[np.float64]  # sum of squared distances from the mean
        self._bins: _DyadicHistogram

    def __repr__(self) -> str:
        return f"RunningQuantileStats(count={self._count}, dimensions={len(self._mean) if self._count else 0})"

    def update(self, batch: npt.ArrayLike | torch.Tensor) -> None:
        """Take vectors in.

        Args:
            batch: [..., D], numbers; [D] is a single vector. None of them is taken in when one is refused.

        Raises:
            ValueError: if it holds no vectors, vectors of another length than before, or values that are not finite.
        """
        vectors = _as_vectors(batch)
        if not len(vectors):
            return
        if self._count and vectors.shape[1] != len(self._mean):
            raise ValueError(
                f"Expected vectors of length {len(self._mean)} as before, got a batch of shape {np.shape(vectors)}."
            )
        values = vectors.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Expected finite numbers, found NaN or infinity in a batch of statistics.")
        reference = values[0]
        centred = values - reference  # first, so that a large offset costs no digits
        middle = centred.mean(axis=0)
        squares = np.square(centred - middle).sum(axis=0)
        if not self._count:
            self._bins = _DyadicHistogram(vectors.shape[1], 2 * self.num_quantile_bins + 1)
        self._absorb(len(values), vectors.min(axis=0), vectors.max(axis=0), reference + middle, squares)
        self._bins.add(values, self._min, self._max)

    def merge(self, other: RunningQuantileStats) -> None:
        """Take in all that another one has seen, as if its vectors had come here.

        Args:
            other: With the same number of bins; left as it is.

        Raises:
            ValueError: if its vectors have another length, or it has another number of bins.
        """
        if not other._count:
            return
        if other.num_quantile_bins != self.num_quantile_bins:
            raise ValueError(
                f"Expected statistics with {self.num_quantile_bins} bins, got some with {other.num_quantile_bins}."
            )
        if self._count and len(other._mean) != len(self._mean):
            raise ValueError(f"Expected vectors of length {len(self._mean)}, got statistics of {len(other._mean)}.")
        if not self._count:
            self._bins = _DyadicHistogram(len(other._mean), 2 * self.num_quantile_bins + 1)
        self._absorb(other._count, other._min, other._max, other._mean, other._squares)
        self._bins.merge(other._bins, self._min, self._max)

    def _absorb(
        self,
        count: int,
        low: npt.NDArray[Any],
        high: npt.NDArray[Any],
        mean: npt.NDArray[np.float64],
        squares: npt.NDArray[np.float64],
    ) -> None:
        """Join the moments of a group with those of all before it (Chan, Golub and LeVeque)."""
        if not self._count:
            self._count, self._min, self._max = count, low.copy(), high.copy()
            self._mean, self._squares = mean.copy(), squares.copy()
            return
        total = self._count + count
        distance = mean - self._mean
        self._squares = self._squares + squares + np.square(distance) * (self._count * count / total)
        self._mean = self._mean + distance * (count / total)
        self._min, self._max = np.minimum(self._min, low), np.maximum(self._max, high)
        self._count = total

    def get_statistics(self) -> Statistics:
        """The statistics of all vectors so far.

        Returns:
            `min` and `max` [D] in the values' own type; `mean`, `std` (of the population) and the quantiles [D]
            float64, under names such as `q01` for 0.01; `count` int64 [1].

        Raises:
            ValueError: if fewer than two vectors came.
        """
        _check_count(self._count)
        statistics = _moments(self._min, self._max, self._mean, np.sqrt(self._squares / self._count), self._count)
        quantiles = self._bins.quantiles(self.quantile_list, self._min, self._max)
        return statistics | dict(zip(map(_name, self.quantile_list), quantiles, strict=True))


class _DyadicHistogram:
    """Counts of values, each dimension in bins [k 2^e, (k + 1) 2^e) for integers k, e as small as the range allows.

    e depends on the range alone, and bins of one e are unions of bins of a smaller one.

    Args:
        dimensions: How many.
        bins: The most bins that the values of a dimension may spread over; as many again are spare.
    """

    def __init__(self, dimensions: int, bins: int) -> None:
        self._most = bins
        self._width = 2 * bins
        self._exponent = np.full(dimensions, _LOWEST_EXPONENT, np.int64)
        self._first = np.zeros(dimensions, np.int64)  # k of each dimension's bin 0
        self._counts = np.zeros((dimensions, self._width), np.int64)

    def add(self, values: npt.NDArray[np.float64], low: npt.NDArray[Any], high: npt.NDArray[Any]) -> None:
        """Count `values` [N, D]; `low` and `high` [D] are the range of all values so far, these included."""
        self._cover(low, high)
        k = _floored(values, self._exponent).astype(np.int64)
        flat = k - self._first + np.arange(len(self._first)) * self._width
        np.add.at(self._counts.reshape(-1), flat.reshape(-1), 1)

    def merge(self, other: _DyadicHistogram, low: npt.NDArray[Any], high: npt.NDArray[Any]) -> None:
        """Add another one's counts; `low` and `high` [D] are the range of all values of both."""
        self._cover(low, high)
        dimension, position = np.nonzero(other._counts)
        k = (other._first[dimension] + position) >> _shift(self._exponent - other._exponent)[dimension]
        flat = k - self._first[dimension] + dimension * self._width
        np.add.at(self._counts.reshape(-1), flat, other._counts[dimension, position])

    def quantiles(
        self, wanted: Sequence[float], low: npt.NDArray[Any], high: npt.NDArray[Any]
    ) -> list[npt.NDArray[np.float64]]:
        """float64 [D] for each quantile wanted, from values known to within their bins; `low` and `high` are exact."""
        ends = np.cumsum(self._counts, axis=1)

        def value_of(rank: int) -> npt.NDArray[np.float64]:
            """The values of a rank, taking those of a bin to lie evenly in it."""
            dimensions = np.arange(len(ends))
            bins = (ends <= rank).sum(axis=1)
            here = self._counts[dimensions, bins]
            inside = (rank - (ends[dimensions, bins] - here) + 0.5) / here
            value = np.ldexp(self._first + bins + inside, self._exponent)
            clipped: npt.NDArray[np.float64] = np.clip(value, low.astype(np.float64), high.astype(np.float64))
            return clipped

        return [_interpolated(value_of, q, int(ends[0, -1])) for q in wanted]

    def _cover(self, low: npt.NDArray[Any], high: npt.NDArray[Any]) -> None:
        """Make the bins reach from `low` to `high`, wider where they must be."""
        low, high = low.astype(np.float64), high.astype(np.float64)
        exponent = _exponents(low, high, self._most)
        start = _floored(low, exponent).astype(np.int64)
        stop = _floored(high, exponent).astype(np.int64) + 1
        moved = (exponent > self._exponent) | (start < self._first) | (stop > self._first + self._width)
        for dimension in np.flatnonzero(moved):
            self._rebin(dimension, exponent[dimension], start[dimension], stop[dimension])

    def _rebin(self, dimension: np.intp, exponent: np.int64, start: np.int64, stop: np.int64) -> None:
        first = start - (self._width - (stop - start)) // 2  # in the middle: room to grow on both sides
        (used,) = np.nonzero(self._counts[dimension])
        k = (self._first[dimension] + used) >> _shift(exponent - self._exponent[dimension])
        counts = np.zeros(self._width, np.int64)
        np.add.at(counts, k - first, self._counts[dimension, used])
        self._counts[dimension] = counts
        self._first[dimension], self._exponent[dimension] = first, exponent


def _floored(values: npt.NDArray[np.float64], exponent: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Values / 2**exponent rounded down, also where the quotient underflows: then a negative one is -1, not 0."""
    scaled = np.ldexp(values, -exponent)
    return np.where((scaled == 0) & (values < 0), -1.0, np.floor(scaled))


def _exponents(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.int64]:
    """int64 [D], the smallest e with which [low, high] spreads over at most `most` bins, each numbered exactly."""
    magnitude = np.maximum(np.abs(low), np.abs(high))
    smallest = np.where(magnitude > 0, np.frexp(magnitude)[1] - _DOUBLE_BITS, _LOWEST_EXPONENT)
    half_range = high / 2 - low / 2  # halved, so that the largest doubles do not overflow
    # 2**e is at most half the width wanted; one of the next three fits. A range of 0 asks for nothing.
    wanted = np.where(half_range > 0, np.frexp(half_range / most)[1] - 1, _LOWEST_EXPONENT)
    exponent: npt.NDArray[np.int64] = np.maximum(wanted, np.maximum(smallest, _LOWEST_EXPONENT)).astype(np.int64)
    for _ in range(3):
        spread = _floored(high, exponent) - _floored(low, exponent) + 1
        exponent += spread > most
    return exponent


def _shift(difference: Any) -> Any:
    """By how much to shift bin numbers to the right for larger exponents: beyond 63 bits only their sign is left."""
    return np.minimum(difference, 63)


class ImageStatistics:
    """Statistics of a camera's pictures per channel, exact, over pixels at about 150 to a side of each picture.

    A picture costs the count of how often each value occurs, and nothing else; so an encoder thread can afford it.

    Args:
        quantile_list: The quantiles, each in [0, 1].
    """

    def __init__(self, quantile_list: Sequence[float] = QUANTILES) -> None:
        self.quantile_list = tuple(quantile_list)
        self.frame_count = 0
        """Pictures so far."""
        self._counts: npt.NDArray[np.int64] | None = None  # [C, values that a pixel can have]

    def update(self, image: npt.NDArray[Any] | torch.Tensor) -> None:
        """Take a picture in.

        Args:
            image: [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4; uint8, uint16, or floats in [0, 1], which count as
                the bytes that are recorded for them.

        Raises:
            ValueError: if it is no such picture, or one of other channels or type than before.
        """
        pixels = _as_levels(downsampled(_as_channels_last(np.asarray(image))))
        channels, depth = pixels.shape[-1], _DEEPEST[pixels.dtype]
        if self._counts is None:
            self._counts = np.zeros((channels, depth), np.int64)
        elif self._counts.shape != (channels, depth):
            raise ValueError(
                f"Expected pictures of {self._counts.shape[0]} channels and {self._counts.shape[1]} levels as before, "
                f"got {channels} channels and {depth} levels."
            )
        for channel in range(channels):
            self._counts[channel] += np.bincount(pixels[..., channel].reshape(-1), minlength=depth)
        self.frame_count += 1

    def get_statistics(self) -> Statistics:
        """The statistics of all pictures so far, in levels: 0 to 255, or to 65535.

        Returns:
            `min`, `max`, `mean`, `std` (of the population) and the quantiles [C] float64; `count` int64 [1], in pixels.
            `image_feature` makes of them what datasets normalise with.

        Raises:
            ValueError: if fewer than two pictures came.
        """
        _check_count(self.frame_count)
        counts = np.zeros((1, 1), np.int64) if self._counts is None else self._counts
        levels = np.arange(counts.shape[1], dtype=np.float64)
        ends = np.cumsum(counts, axis=1)
        total = int(ends[0, -1])
        mean = counts @ levels / total
        std = np.sqrt((counts * np.square(levels - mean[:, None])).sum(axis=1) / total)

        def value_of(rank: int) -> npt.NDArray[np.float64]:
            level: npt.NDArray[np.float64] = (ends <= rank).sum(axis=1).astype(np.float64)
            return level

        statistics = _moments(value_of(0), value_of(total - 1), mean, std, total)
        return statistics | {_name(q): _interpolated(value_of, q, total) for q in self.quantile_list}


def image_feature(statistics: Statistics, *, highest: float = 255.0) -> Statistics:
    """Statistics of a picture's levels as those of an image feature with values in [0, 1].

    Args:
        statistics: As `ImageStatistics.get_statistics` gives them.
        highest: The level that stands for 1.

    Returns:
        The same names; each float64 [C, 1, 1], so that they broadcast over [C, H, W], but for `count` int64 [1].
    """
    return {
        name: values if name == "count" else values.reshape(-1, 1, 1) / highest for name, values in statistics.items()
    }


def downsampled(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A picture with rows and columns left out until its longer side has 150 to 299 pixels; smaller ones as they are.

    Args:
        image: [H, W, ...].

    Returns:
        A view.
    """
    step = max(1, max(image.shape[:2]) // _TARGET_SIDE)
    return image[::step, ::step]


# -- shared -----------------------------------------------------------------------------------------------------------


def _as_vectors(batch: npt.ArrayLike | torch.Tensor) -> npt.NDArray[Any]:
    """The batch as [N, D] of a number type."""
    array = np.asarray(batch)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"Expected vectors [..., D], got an array of shape {list(array.shape)}.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"Expected numbers, got an array of dtype {array.dtype}.")
    return array.reshape(-1, array.shape[-1])


def _as_channels_last(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The picture as a view [H, W, C]."""
    if image.ndim == 2:
        return image[..., None]
    if image.ndim == 3 and image.shape[-1] not in (1, 3, 4) and image.shape[0] in (1, 3, 4):
        return image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"Invalid picture of shape {list(image.shape)}: expected [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 "
            "channels."
        )
    return image


def _as_levels(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pixels as uint8 or uint16: floats in [0, 1] as the nearest bytes."""
    if pixels.dtype in _DEEPEST:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"Invalid picture of dtype {pixels.dtype}: expected uint8, uint16, or floats in [0, 1].")
    if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):  # also where they are NaN
        raise ValueError(f"Invalid picture: expected floats in [0, 1], found {pixels.min()} to {pixels.max()}.")
    return np.rint(pixels * 255.0).astype(np.uint8)


def _moments(
    low: npt.NDArray[Any], high: npt.NDArray[Any], mean: npt.NDArray[Any], std: npt.NDArray[Any], count: int
) -> Statistics:
    return {
        "min": low.copy(),
        "max": high.copy(),
        "mean": mean.copy(),
        "std": std,
        "count": np.array([count], dtype=np.int64),
    }


def _interpolated(value_of: Callable[[int], npt.NDArray[np.float64]], q: float, count: int) -> npt.NDArray[np.float64]:
    """A quantile between the two values of neighbouring rank, as `numpy.quantile` takes it."""
    place = q * (count - 1)
    rank = min(int(place), count - 1)
    below = value_of(rank)
    return below if place == rank else below + (value_of(rank + 1) - below) * (place - rank)


def _name(q: float) -> str:
    """`q01` for 0.01, `q50` for 0.5, `q99.5` for 0.995."""
    whole, point, rest = f"{q * 100:g}".partition(".")
    return f"q{whole.zfill(2)}{point}{rest}"


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"Cannot compute statistics of less than 2 vectors or pictures, got {count}.")
