"""Exact ticks to seconds, and which frame is shown when: integers inside, seconds at the edge.

Pure functions over arrays. A frame is *played* at t when its timestamp <= t < the next frame's timestamp.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def ticks_to_seconds(ticks: npt.ArrayLike, time_base: Fraction) -> FloatArray:
    """Convert presentation ticks to seconds.

    The product is exact below 2**53 and the one division is correctly rounded, so that the result is the double
    nearest to the true time. Every part of lazyvid, FFmpeg's `av_q2d` users and torchcodec compare times so made.

    Args:
        ticks: int64 [N], in units of `time_base` seconds.
        time_base: Seconds per tick.

    Returns:
        float64 [N], seconds.
    """
    return np.asarray(ticks, dtype=np.int64).astype(np.float64) * time_base.numerator / time_base.denominator


def seconds_to_ticks(seconds: float, time_base: Fraction) -> int:
    """The tick nearest to `seconds`, halves to the even tick."""
    return round(Fraction(seconds) / time_base)


def median_step(timestamps: FloatArray) -> float:
    """Median time between neighbouring frames in seconds; 0.0 for fewer than two frames."""
    return float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 0.0


def grid_error(timestamps: FloatArray) -> float:
    """Seconds, the most that a frame's time is away from an even grid between the first and the last one."""
    if len(timestamps) < 2:
        return 0.0
    step = (timestamps[-1] - timestamps[0]) / (len(timestamps) - 1)
    return float(np.max(np.abs(timestamps - (timestamps[0] + np.arange(len(timestamps)) * step))))


def frames_before(
    seconds: FloatArray, *, first: FloatArray, last: FloatArray, counts: IntArray, errors: FloatArray
) -> tuple[IntArray, IntArray]:
    """At least and at most how many frames of each of V videos are shown before or at a time, by their grids alone.

    Where both agree, that is what `numpy.searchsorted` over the video's times gives, on either side.

    Args:
        seconds: float64 [V].
        first: float64 [V], each video's first time; NaN without frames.
        last: float64 [V], each video's last time.
        counts: int64 [V], frames of each video.
        errors: float64 [V], `grid_error` of each video's times.
    """
    slack = errors + 8 * np.spacing(np.maximum(np.abs(first), np.abs(last)))
    with np.errstate(divide="ignore", invalid="ignore"):
        step = (last - first) / (counts - 1)
        least = np.ceil((seconds - slack - first) / step)
        most = np.floor((seconds + slack - first) / step) + 1
    even = step > 0  # NaN and a step of 0 are not
    least, most = np.where(even, least, 0), np.where(even, most, counts)
    outside = (seconds < first - slack, (seconds > last + slack) | np.isnan(seconds))
    bounds = (np.select(outside, (0, counts), np.clip(each, 0, counts)) for each in (least, most))
    low, high = (each.astype(np.int64) for each in bounds)
    return low, high


def last_frame_end(timestamps: FloatArray, last_duration: float) -> float:
    """When the last frame stops being shown, in seconds: after its own duration, else after the median step."""
    step = last_duration if last_duration > 0 else median_step(timestamps)
    return float(timestamps[-1]) + step


def played_at(timestamps: FloatArray, seconds: npt.ArrayLike) -> IntArray:
    """Position of the frame played at each time.

    Args:
        timestamps: float64 [N], increasing.
        seconds: float64 [M].

    Returns:
        int64 [M]; -1 before the first frame. Times after the last frame's start give the last frame.
    """
    return np.searchsorted(timestamps, np.asarray(seconds, dtype=np.float64), side="right").astype(np.int64) - 1


def nearest(timestamps: FloatArray, seconds: npt.ArrayLike) -> IntArray:
    """Position of the frame whose timestamp is nearest to each time; of two equally near ones the earlier.

    Args:
        timestamps: float64 [N], increasing, N >= 1.
        seconds: float64 [M].

    Returns:
        int64 [M].
    """
    asked = np.asarray(seconds, dtype=np.float64)
    after = np.clip(np.searchsorted(timestamps, asked, side="left"), 0, len(timestamps) - 1)
    before = np.maximum(after - 1, 0)
    earlier_wins = np.abs(asked - timestamps[before]) <= np.abs(timestamps[after] - asked)
    return np.where(earlier_wins, before, after).astype(np.int64)


def between(timestamps: FloatArray, start: float, end: float) -> tuple[int, int]:
    """Positions [first, stop) of the frames whose timestamp lies in [start, end) seconds; empty when start >= end."""
    first = int(np.searchsorted(timestamps, start, side="left"))
    stop = int(np.searchsorted(timestamps, end, side="left"))
    return first, max(first, stop)


def grid(start: float, stop: float, fps: float) -> FloatArray:
    """Times start + k / fps that lie in [start, stop), as torchcodec's `fps=` resampling counts them.

    Returns:
        float64 [ceil((stop - start) * fps)], seconds.
    """
    count = max(0, int(np.ceil(np.round((stop - start) * fps, 9))))
    return start + np.arange(count, dtype=np.float64) / fps
