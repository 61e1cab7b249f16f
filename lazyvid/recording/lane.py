"""What lies between a camera and its encoder thread: checks, a bounded queue, and the account of what did not fit.

Part of the write flow: `encoder.py` has a lane for each camera of an episode, `camera.py` takes frames from its queue.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import time
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lazyvid.errors import EncoderFailedError, EncoderStalledError, QueueFullError, RecordingDiskFullError
from lazyvid.recording.camera import CameraEncoderThread, FrameItem, QueuedFrame
from lazyvid.recording.origin import EpisodeOrigin
from lazyvid.recording.pictures import FrameLike, PictureMaker
from lazyvid.stats import count

OnFull = Literal["drop", "block", "raise"]
"""What happens to a frame when the queue is full."""

_MICROSECOND = Fraction(1, 1_000_000)
_WARN_EVERY = 10
_LOOK_EVERY_S = 0.2
_BURST_S = 0.5
_LOOK_SOON_S = 0.002

_log = logging.getLogger(__name__)


class Patience:
    """How long a camera may be kept waiting before its frame is dropped.

    Who feeds frames faster than the frame rate has time: it may be held up until it is no longer ahead, for half a
    second an episode. A loop in real time is never ahead, so it never waits.

    Args:
        rate: Frames per second.
    """

    def __init__(self, rate: Fraction) -> None:
        self._interval = float(1 / rate)
        self._began = time.monotonic()
        self._left = _BURST_S

    def begin(self) -> None:
        """Start the clock, with the first frame."""
        self._began = time.monotonic()

    def most(self, fed: int) -> float:
        """Seconds that may be waited now, after `fed` frames."""
        ahead = fed * self._interval - (time.monotonic() - self._began)
        return max(0.0, min(self._left, ahead))

    def spend(self, seconds: float) -> None:
        """Count a wait."""
        self._left -= seconds


class Lane:
    """One camera of an episode. Fed by one thread.

    Args:
        key: The camera's name.
        thread: Its encoder.
        frame_queue: What the encoder takes from.
        origin: Shared by the episode's cameras.
        rate: Frames per second, exact.
        on_full: What happens when the queue is full.
        stall_timeout_s: Seconds that the encoder may spend on one frame before it counts as stalled.
    """

    def __init__(
        self,
        key: str,
        thread: CameraEncoderThread,
        frame_queue: queue.Queue[FrameItem],
        *,
        origin: EpisodeOrigin,
        rate: Fraction,
        on_full: OnFull,
        stall_timeout_s: float,
    ) -> None:
        self.key = key
        self.thread = thread
        self.dropped_timestamps: list[float] = []
        """Seconds, of each frame that was dropped: its capture time, or its place on the grid."""
        self._queue = frame_queue
        self._origin = origin
        self._rate = rate
        self._on_full = on_full
        self._stall_timeout_s = stall_timeout_s
        self._pictures = PictureMaker(thread.pix_fmt)
        self._patience = Patience(rate)
        self._fed = 0  # dropped frames counted
        self._last: float | None = None

    def feed(self, image: FrameLike, timestamp: float | None) -> None:
        """Hand a frame to the encoder, as a copy; see `StreamingVideoEncoder.feed_frame`."""
        self.raise_if_dead()
        seconds = None if timestamp is None else float(timestamp)
        self._check_time(seconds)
        pixels = self._pictures.check(image)
        if self._fed == 0:
            self._patience.begin()
            self._origin.offer(self.key, seconds)
        if not self._put(pixels, seconds):
            self._count_drop(seconds)
        self._fed += 1
        self._last = seconds

    def raise_if_dead(self) -> None:
        """Raise what ended the encoder's thread.

        Raises:
            EncoderFailedError: if it failed (a RuntimeError).
            RecordingDiskFullError: if the disk was full.
        """
        error = self.thread.error
        if error is None:
            return
        kind = RecordingDiskFullError if isinstance(error, RecordingDiskFullError) else EncoderFailedError
        raise kind(f"The encoder of camera {self.key!r} ended: {error or type(error).__name__}") from error

    def stalled(self) -> EncoderStalledError | None:
        """What to raise when the encoder is at one thing for too long; None while it is not."""
        since = self.thread.busy_since
        if since is None or time.monotonic() - since < self._stall_timeout_s:
            return None
        return self.stall(f"it has been at one frame for {self._stall_timeout_s} s")

    def stall(self, why: str) -> EncoderStalledError:
        """The error that says so."""
        return EncoderStalledError(
            f"The encoder of camera {self.key!r} stalled: {why}. {self.thread.durable_frames} frames can be played in "
            f"its unfinished file, {self.thread.video_path}. Check the disk and the encoder, or take a faster one."
        )

    def end(self) -> None:
        """Tell the encoder that no frame comes any more; never waits."""
        self.thread.grid_frames = self._fed
        self.thread.stop_event.set()  # seen when the queue is empty, so that a full one does not matter
        with contextlib.suppress(queue.Full):  # nor one that its feeder fills at this moment
            self._queue.put_nowait(None)  # wakes a thread that waits

    def discard(self) -> None:
        """Tell the encoder to end without what still waits."""
        self.thread.discard()
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self.end()

    # -- times --------------------------------------------------------------------------------------------------------

    def _check_time(self, seconds: float | None) -> None:
        if self._fed and (seconds is None) != (self._last is None):
            raise ValueError(
                f"Expected {'no' if self._last is None else 'a'} timestamp for frame {self._fed} of {self.key!r}, as "
                f"for those before it, got {seconds}. Give all frames of a camera one, or none."
            )
        if seconds is None:
            return
        if not math.isfinite(seconds):
            raise ValueError(f"Invalid timestamp {seconds} for frame {self._fed} of {self.key!r}: expected seconds.")
        # More than a tick of the file, so that no two frames share one, whatever the origin.
        if self._last is not None and Fraction(seconds) - Fraction(self._last) < _MICROSECOND:
            raise ValueError(
                f"Invalid timestamp {seconds} s for frame {self._fed} of {self.key!r}, after {self._last} s of frame "
                f"{self._fed - 1}: expected capture times that increase by a microsecond or more."
            )

    # -- rows ---------------------------------------------------------------------------------------------------------

    def wait_for_room(self) -> bool:
        """Whether the next frame will not be dropped; waits for it as `feed` would.

        Raises:
            EncoderFailedError: if the encoder failed.
            RecordingDiskFullError: if the disk is full.
        """
        self.raise_if_dead()
        if self._on_full != "drop":
            return True
        started = time.monotonic()
        most = self._patience.most(self._fed) if self._queue.full() else 0.0
        while self._queue.full() and time.monotonic() - started < most:
            time.sleep(min(_LOOK_SOON_S, most))
        if most:
            self._patience.spend(time.monotonic() - started)
        return not self._queue.full()

    def leave_out(self, timestamp: float | None) -> None:
        """Count a frame whose row is left out: those after it take its place on the grid."""
        self._count_drop(timestamp)

    # -- the queue ----------------------------------------------------------------------------------------------------

    def _put(self, pixels: npt.NDArray[Any], seconds: float | None) -> bool:
        """Queue a copy of the frame; False if there was no room and there need be none."""
        wait = 0.0
        if self._queue.full():
            if self._on_full == "raise":
                raise QueueFullError(
                    f"No room for frame {self._fed} of {self.key!r}: {self._queue.qsize()} frames wait for its "
                    "encoder. This one was not taken. Feed it again later, or record with a faster encoder or preset."
                )
            wait = self._patience.most(self._fed) if self._on_full == "drop" else _LOOK_EVERY_S
            if wait <= 0.0:
                return False
        # In the layout that it has: the copy is then as fast as memory is, also of [C, H, W].
        frame = QueuedFrame(np.array(pixels, order="K"), self._fed, seconds)
        if wait == 0.0:
            try:
                self._queue.put_nowait(frame)
            except queue.Full:  # nobody else puts frames, but whoever ends the episode puts a None
                raise self._ended() from None
            return True
        return self._put_within(frame, wait) if self._on_full == "drop" else self._put_at_last(frame, wait)

    def _put_within(self, frame: QueuedFrame, wait: float) -> bool:
        started = time.monotonic()
        try:
            self._queue.put(frame, timeout=wait)
        except queue.Full:
            return False
        finally:
            self._patience.spend(time.monotonic() - started)
        return True

    def _put_at_last(self, frame: QueuedFrame, wait: float) -> bool:
        while True:
            try:
                self._queue.put(frame, timeout=wait)
            except queue.Full:
                is_alive = self.thread.is_alive()
                self.raise_if_dead()
                error = self.stalled() if is_alive else self._ended()
                if error is not None:
                    raise error from None
            else:
                return True

    def _ended(self) -> RuntimeError:
        """What to raise when the episode ended, in another thread, before there was room."""
        return RuntimeError(f"No active episode: it ended before there was room for frame {self._fed} of {self.key!r}.")

    def _count_drop(self, seconds: float | None) -> None:
        self.dropped_timestamps.append(float(self._fed / self._rate) if seconds is None else seconds)
        count(frames_dropped=1)
        dropped = len(self.dropped_timestamps)
        if dropped % _WARN_EVERY == 0 or dropped == 1:
            _log.warning(
                "Camera %r: %d frame(s) dropped of %d, the last one at %s s: its encoder is too slow for it. Record "
                "with a faster encoder or preset, or smaller frames.",
                self.key,
                dropped,
                self._fed + 1,
                self.dropped_timestamps[-1],
            )
