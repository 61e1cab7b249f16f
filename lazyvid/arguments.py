"""Arguments as users give them, checked and brought into one form; below everything that takes them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lazyvid.errors import FrameIndexError, FrameTimestampError


def checked_size(resize: tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) as ints, each 1 or more; None stays None.

    Raises:
        ValueError: if it is anything else.
    """
    if resize is None:
        return None
    try:
        height, width = (operator.index(value) for value in resize)
    except (TypeError, ValueError):
        raise ValueError(f"Invalid resize {resize!r}: expected (height, width) in pixels.") from None
    if height < 1 or width < 1:
        raise ValueError(f"Invalid resize {resize!r}: expected a height and width of 1 or more pixels.")
    return height, width


def checked_times(seconds: Iterable[Any] | Tensor) -> npt.NDArray[np.float64]:
    """float64 [N], finite seconds.

    Raises:
        FrameTimestampError: (a ValueError) if one is NaN or infinite.
    """
    values = _as_list(seconds)
    asked = np.array([float(value) for value in values], dtype=np.float64)
    if not np.all(np.isfinite(asked)):
        raise FrameTimestampError(f"Expected finite times in seconds, got {listed(asked)}.")
    return asked


def checked_positions(
    indices: Iterable[Any] | Tensor, length: int, *, what: Callable[[], str]
) -> npt.NDArray[np.int64]:
    """int64 [N], numbers from the start of something of `length` frames, however they were given.

    Args:
        indices: Ints; negative ones count from the end.
        length: Frames.
        what: Names their owner, for messages.

    Raises:
        FrameIndexError: (an IndexError) if one is out of range.
        TypeError: if one is no int.
    """
    values = _as_list(indices)
    if bool in map(type, values):
        raise TypeError("Expected frame numbers, got booleans.")
    asked = [operator.index(value) for value in values]
    positions = [number + length if number < 0 else number for number in asked]
    if positions and not (min(positions) >= 0 and max(positions) < length):
        outside = [number for number in asked if not -length <= number < length]
        raise FrameIndexError(
            f"Expected frame numbers from {-length} to {length - 1} in {what()} ({length} frames), got "
            f"{listed(outside)}."
        )
    return np.array(positions, dtype=np.int64)


def check_type(name: str, value: object, expected: type) -> None:
    """Raise TypeError naming the expected type unless `value` is None or of it."""
    if value is not None and not isinstance(value, expected):
        raise TypeError(f"Expected {name} to be a {expected.__name__}, got {value!r}.")


def check_word(name: str, value: object, valid: Sequence[str]) -> None:
    """Raise ValueError naming the valid words unless `value` is one of them."""
    if value not in valid:
        raise ValueError(f"Invalid {name} {value!r}: expected one of {', '.join(map(repr, valid))}.")


def listed(values: npt.NDArray[Any] | list[int]) -> str:
    """The first few values, for a message."""
    shown = ", ".join(str(value) for value in _as_list(values[:8]))
    return f"{shown}, ... ({len(values)} in all)" if len(values) > 8 else shown


def _as_list(values: Iterable[Any] | Tensor) -> list[Any]:
    return values.tolist() if isinstance(values, (Tensor, np.ndarray)) else list(values)
