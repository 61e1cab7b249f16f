"""`delta_timestamps` as frames before and after the current one, clamped to its episode; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DeltaWindows:
    """Which frames of an episode belong to an item, by feature."""

    offsets: Mapping[str, tuple[int, ...]]
    """By feature: frames relative to the item's own."""

    @classmethod
    def of(
        cls,
        delta_timestamps: Mapping[str, Sequence[float]] | None,
        *,
        fps: float,
        tolerance_s: float,
        features: Iterable[str],
    ) -> DeltaWindows:
        """The windows of `delta_timestamps`.

        Args:
            delta_timestamps: By feature, seconds relative to the item's time.
            fps: Frames per second.
            tolerance_s: How far, in seconds, a time may be from a multiple of 1 / fps.
            features: The features that there are.

        Raises:
            ValueError: if a feature is unknown or has no time, or a time is no multiple of 1 / fps.
        """
        known = set(features)
        offsets = {}
        for key, deltas in (delta_timestamps or {}).items():
            if key not in known:
                raise ValueError(
                    f"Invalid delta_timestamps: there is no feature {key!r}; expected some of "
                    f"{', '.join(map(repr, sorted(known)))}."
                )
            seconds = [float(delta) for delta in deltas]
            if not seconds:
                raise ValueError(f"Invalid delta_timestamps: expected a time or more for {key!r}, got none.")
            # Python's round, halves to even, and the same products as LeRobot's.
            far = [s for s in seconds if not (isfinite(s) and abs(s * fps - round(s * fps)) / fps <= tolerance_s)]
            if far:
                raise ValueError(
                    f"Invalid delta_timestamps of {key!r}: expected multiples of 1/{fps} s to within tolerance_s="
                    f"{tolerance_s}, got {', '.join(map(str, far[:8]))}."
                )
            offsets[key] = tuple(round(s * fps) for s in seconds)
        return cls(offsets)

    def frames(self, key: str, current: IntArray, lengths: IntArray) -> tuple[IntArray, BoolArray]:
        """The frames of a feature, for a batch.

        Args:
            key: The feature; one without a window is asked for the current frame alone.
            current: int64 [B], the items' own frames, counted in their episodes.
            lengths: int64 [B], frames of these episodes.

        Returns:
            int64 [B, T], frames clamped to the episodes; and bool [B, T], which of them were.
        """
        wanted = current[:, None] + np.array(self.offsets.get(key, (0,)), np.int64)
        last = lengths[:, None] - 1
        return np.clip(wanted, 0, last), (wanted < 0) | (wanted > last)
