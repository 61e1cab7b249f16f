"""The capture time that lies at 0 in the files of all cameras of an episode, found while their first frames arrive.

Part of the write flow: `lane.py` offers each camera's first time, `camera.py` asks before it opens its file.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

_PATIENCE_S = 0.25


class EpisodeOrigin:
    """The earliest first capture time of some cameras. Cameras may be fed by threads of their own.

    Cameras do not begin in the order of their times, and a file cannot hold a time before its origin. So the first file
    waits until every camera has had a frame, but for no more than a fraction of a second: less than a queue holds.

    Args:
        cameras: Their keys.
        origin: Seconds, when it is known beforehand.

    Raises:
        ValueError: if `origin` is not finite.
    """

    def __init__(self, cameras: Iterable[str], origin: float | None = None) -> None:
        if origin is not None and not math.isfinite(origin):
            raise ValueError(f"Invalid origin {origin!r}: expected seconds, finite, or None.")
        self._awaited = set(cameras)
        self._earliest: float | None = origin
        self._is_settled = origin is not None
        self._changed = threading.Condition()

    def offer(self, camera: str, seconds: float | None) -> None:
        """Say when a camera took its first frame; None when it gives no times.

        Raises:
            ValueError: if the origin is settled, and later than that.
        """
        with self._changed:
            if seconds is not None and self._earliest is not None and seconds < self._earliest:
                if self._is_settled:
                    raise ValueError(
                        f"Invalid timestamp {seconds} s for frame 0 of {camera!r}: expected none before the episode's "
                        f"origin, {self._earliest} s, which all its cameras share. Feed the cameras' first frames "
                        "together, or give start_episode an earlier origin."
                    )
                self._earliest = seconds
            elif seconds is not None and self._earliest is None:
                self._earliest = seconds
            self._awaited.discard(camera)
            if not self._awaited:
                self._changed.notify_all()

    def settled(self) -> float:
        """The origin, which does not change from now on; waits for cameras that had no frame yet.

        Raises:
            ValueError: if no camera offered a time.
        """
        with self._changed:
            if not self._is_settled:
                self._changed.wait_for(lambda: self._is_settled or not self._awaited, timeout=_PATIENCE_S)
            if self._earliest is None:
                raise ValueError("Expected a capture time of at least one camera before the origin is asked for.")
            self._is_settled = True
            return self._earliest
