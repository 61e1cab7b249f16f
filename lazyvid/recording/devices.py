"""Cameras that FFmpeg can open, such as V4L2 devices: their pictures as they come, each with the time it came at.

Before the write flow: `lazyvid record` gives these pictures to a `Recorder`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from lazyvid.errors import RecordingError

_CLOSE_S = 2.0
_POLL_S = 0.1

Picture = npt.NDArray[np.uint8]


class Flag(Protocol):
    """What says whether to end, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether to end."""


class CameraDevice:
    """A camera, read by a thread of its own, so that a device that says nothing does not hold its user up.

    Who takes pictures too slowly gets the newest ones: what a camera gave meanwhile is left out and counted.

    Args:
        device: The device, such as "/dev/video0".
        size: (height, width) in pixels to ask for; None leaves it to the device, which may give another one anyway.
        fps: Pictures per second to ask for; likewise.
        driver: FFmpeg's name of the kind of device.
        silence_s: Seconds without a picture after which the device counts as broken.
        waiting: Pictures that wait to be taken, at most. With one, that is the newest whenever it is taken, so that
            pictures of several cameras fit together.

    Raises:
        RecordingError: if there is no such device, or it cannot be opened.
    """

    def __init__(
        self,
        device: str,
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        driver: str = "v4l2",
        silence_s: float = 10.0,
        waiting: int = 4,
    ) -> None:
        self.device = device
        self.skipped = 0
        """Pictures between the first and the last one taken that nobody took in time."""
        self._silence_s = silence_s
        self._stopped = threading.Event()
        self._pictures: queue.Queue[tuple[int, Picture, float] | Exception | None] = queue.Queue(waiting)
        container = _opened(device, driver, _options(size, fps))
        stream = container.streams.video[0]
        self.height, self.width = stream.height, stream.width
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else fps
        """Pictures per second as the device says, or as asked for; None where neither is known."""
        self._thread = threading.Thread(target=self._read, args=(container,), name="lazyvid-device", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._stopped.set()  # a Ctrl-C does not keep the thread from running, and nobody will close it
            raise

    def frames(self, stopped: Flag) -> Iterator[tuple[Picture, float]]:
        """Pictures, RGB uint8 [height, width, 3], and the seconds of `time.monotonic` at which they came.

        Args:
            stopped: Ends it, also while no picture comes.

        Raises:
            RecordingError: if the device fails, or gives no picture for too long.
        """
        last, due = time.monotonic(), None
        while not stopped.is_set():
            try:
                item = self._pictures.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() - last > self._silence_s:
                    raise RecordingError(
                        f"Expected pictures from {self.device}, got none in {self._silence_s:g} seconds. Check that it "
                        "is a camera and that no other program holds it."
                    ) from None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise RecordingError(f"The camera {self.device} failed: {item}.") from item
            number, picture, last = item
            self.skipped += 0 if due is None else number - due
            due = number + 1
            yield picture, last

    def close(self) -> None:
        """Let go of the device. Closing twice does nothing."""
        self._stopped.set()
        self._thread.join(_CLOSE_S)

    def __enter__(self) -> Self:
        """The device itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _read(self, container: InputContainer) -> None:
        with container:
            try:
                for number, frame in enumerate(container.decode(video=0)):
                    self._put((number, frame.to_ndarray(format="rgb24"), time.monotonic()))
                    if self._stopped.is_set():
                        return
            except Exception as error:  # whatever it is, who takes pictures must hear of it
                self._put(error)
            else:
                self._put(None)

    def _put(self, item: Any) -> None:
        """Add to the queue, in place of its oldest picture where it is full."""
        while True:
            try:
                self._pictures.put_nowait(item)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._pictures.get_nowait()


def _options(size: tuple[int, int] | None, fps: float | None) -> dict[str, str]:
    options = {} if size is None else {"video_size": f"{size[1]}x{size[0]}"}
    return options if fps is None else options | {"framerate": f"{fps:g}"}


def _opened(device: str, driver: str, options: dict[str, str]) -> InputContainer:
    try:
        container = av.open(device, format=driver, options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        present = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise RecordingError(
            f"Expected a camera ({driver}) at {device}, cannot open it: {error}. Video devices here: {present}."
        ) from error
    if not container.streams.video:
        container.close()
        raise RecordingError(f"Expected a camera ({driver}) at {device}, found no video in what it gives.")
    return container
