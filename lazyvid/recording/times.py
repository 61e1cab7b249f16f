"""When each frame of a recording was taken: an exact grid, or capture times; seconds outside, ticks in the file.

Used by `writer.py` between a frame's arrival and its encoding.
"""

from __future__ import annotations

import math
import numbers
from array import array
from fractions import Fraction
from typing import cast

import numpy as np
import numpy.typing as npt

from lazyvid import timing

CAPTURE_TIME_BASE = Fraction(1, 1_000_000)
"""Seconds per tick of a recording with capture times."""

_HIGHEST_RATE = 10_000


def exact_rate(fps: float | Fraction) -> Fraction:
    """A frame rate as the fraction that it stands for: 29.97 is 2997/100, 30000 / 1001 is 30000/1001.

    Args:
        fps: Frames per second; a float is taken for the simplest fraction that it can be.

    Raises:
        ValueError: if it is no positive, finite number, or above 10,000.
    """
    is_number = isinstance(fps, numbers.Real) and not isinstance(fps, bool)
    if not is_number or not math.isfinite(fps) or not 0 < fps <= _HIGHEST_RATE:
        raise ValueError(f"Invalid fps {fps!r}: expected frames per second, above 0 and at most {_HIGHEST_RATE}.")
    given = Fraction(fps) if isinstance(fps, Fraction) else Fraction(float(fps))
    simple = given.limit_denominator(1001)
    if abs(simple - given) > given / 10**9:
        simple = given.limit_denominator(1_000_000)
    if simple <= 0 or simple.numerator >= 1 << 31:
        raise ValueError(f"Invalid fps {fps!r}: expected a rate that is a fraction of numbers below 2**31.")
    return simple


class GridTimes:
    """Frame k lies at k / fps, exactly.

    Args:
        rate: Frames per second.
    """

    def __init__(self, rate: Fraction) -> None:
        self.time_base = 1 / rate
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def tick(self, timestamp: float | None) -> int:
        """The next frame's tick; raises ValueError if it has a timestamp. The frame counts once it is added."""
        if timestamp is not None:
            raise ValueError(
                f"Expected no timestamp for frame {len(self)}, because the frames before it had none, got {timestamp}. "
                "Give all frames one, or none."
            )
        return self._count

    def add(self, timestamp: float | None) -> None:
        """Count a frame whose `tick` was taken."""
        del timestamp
        self._count += 1

    def expected_seconds(self) -> npt.NDArray[np.float64]:
        """float64 [N], the times that the file must say."""
        return timing.ticks_to_seconds(np.arange(self._count), self.time_base)


class CaptureTimes:
    """Frames lie where they were taken, to the microsecond; the times themselves are kept as they were given.

    Args:
        origin: Seconds; the capture time that lies at 0 in the file. None takes the first frame's.

    Raises:
        ValueError: if the origin is not finite.
    """

    time_base = CAPTURE_TIME_BASE

    def __init__(self, origin: float | None = None) -> None:
        if origin is not None and not math.isfinite(origin):
            raise ValueError(f"Invalid origin {origin!r}: expected seconds, finite, or None.")
        self.origin = origin
        self._seconds = array("d")
        self._last_tick = -1

    def __len__(self) -> int:
        return len(self._seconds)

    def tick(self, timestamp: float | None) -> int:
        """The tick of a frame taken at `timestamp`; raises ValueError unless it lies after the last one added."""
        if timestamp is None:
            raise ValueError(
                f"Expected a timestamp for frame {len(self)}, because the frames before it had one, got none. Give all "
                "frames one, or none."
            )
        if not math.isfinite(timestamp):
            raise ValueError(f"Invalid timestamp {timestamp} for frame {len(self)}{self._after()}: expected seconds.")
        tick = self._to_tick(timestamp)
        if tick < 0:
            raise ValueError(
                f"Invalid timestamp {timestamp} s for frame {len(self)}: expected none before the origin, "
                f"{self.origin} s."
            )
        if tick <= self._last_tick:
            raise ValueError(
                f"Invalid timestamp {timestamp} s for frame {len(self)}{self._after()}: expected capture times that "
                "increase by a microsecond or more."
            )
        return tick

    def add(self, timestamp: float | None) -> None:
        """Count a frame whose `tick` was taken."""
        tick = self.tick(timestamp)
        seconds = cast("float", timestamp)  # `tick` refuses None
        if self.origin is None:
            self.origin = seconds
        self._seconds.append(seconds)
        self._last_tick = tick

    def seconds(self) -> npt.NDArray[np.float64]:
        """float64 [N], the capture times, as they were given."""
        return np.array(self._seconds, dtype=np.float64)

    def expected_seconds(self) -> npt.NDArray[np.float64]:
        """float64 [N], the times that the file must say."""
        return timing.ticks_to_seconds([self._to_tick(t) for t in self._seconds], self.time_base)

    def _to_tick(self, timestamp: float) -> int:
        """Exact: the difference of two large floats loses what matters here."""
        origin = timestamp if self.origin is None else self.origin
        return round((Fraction(timestamp) - Fraction(origin)) / CAPTURE_TIME_BASE)

    def _after(self) -> str:
        return f", after {self._seconds[-1]} s of frame {len(self) - 1}" if len(self) else ""
