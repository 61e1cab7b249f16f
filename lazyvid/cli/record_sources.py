"""What `lazyvid record` records: painted cameras, a video played again, or real cameras, each as rows of pictures."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.recording.devices import CameraDevice, Flag
from lazyvid.storage import ObjectStore
from lazyvid.testing import painted_frame
from lazyvid.testing.pattern import MAX_FRAME_NUMBER
from lazyvid.video import LazyVideo

Picture = npt.NDArray[Any]
Row = tuple[Mapping[str, Picture], Mapping[str, float]]
"""By camera, RGB uint8 [H, W, 3]; and, by camera too, its time: the seconds since the first row began."""

_NUMBERS_APART = 10_000
_PLAYED_AT_ONCE = 16
_LOOK_UP_S = 0.1


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from."""

    fps: float
    """Nominal rows per second."""
    sizes: Mapping[str, tuple[int, int]]
    """(height, width) of each camera's pictures."""
    rows: Iterator[Row]
    """When each is due, or, from a real camera, when it came."""


def painted(cameras: int, size: tuple[int, int], fps: float, stopped: Flag) -> Source:
    """Cameras that do not exist: moving pictures, each of which shows its own number.

    Args:
        cameras: How many. Row k of camera c shows the number k + 10,000 c.
        size: (height, width) of the pictures.
        fps: Rows per second.
        stopped: Ends it.
    """
    names = [f"camera-{number}" for number in range(cameras)]

    def rows() -> Iterator[Row]:
        for k in _counted(stopped):
            pictures = {name: _painted(k + _NUMBERS_APART * c, size) for c, name in enumerate(names)}
            yield pictures, dict.fromkeys(names, k / fps)

    return Source(fps, dict.fromkeys(names, size), _paced(rows(), stopped))


def played(uri: str, store: ObjectStore, stopped: Flag) -> Source:
    """A video, played as a camera would have given it, by its own times.

    Args:
        uri: The video.
        store: Where it lies.
        stopped: Ends it.

    Raises:
        LazyVidError: if it cannot be opened.
    """
    video = LazyVideo(uri, store=store, channel_format="NHWC")

    def rows() -> Iterator[Row]:
        for first in range(0, len(video), _PLAYED_AT_ONCE):
            if stopped.is_set():
                return
            clip = video[first : first + _PLAYED_AT_ONCE]
            times = video.timestamps[first : first + _PLAYED_AT_ONCE]
            for picture, seconds in zip(clip.numpy(), times, strict=True):
                yield {"camera-0": picture}, {"camera-0": float(seconds - video.begin_seconds)}

    size = (video.height, video.width)
    return Source(float(video.average_fps), {"camera-0": size}, _paced(rows(), stopped))


@contextlib.contextmanager
def real(
    devices: Sequence[str], size: tuple[int, int] | None, fps: float, driver: str, stopped: Flag
) -> Iterator[Source]:
    """Cameras on this machine, held for as long as the context.

    A row is made as soon as each camera has a new picture, so the slowest camera sets the pace.

    Args:
        devices: Such as "/dev/video0"; the first one is camera-0.
        size: (height, width) to ask for.
        fps: Pictures per second to ask for.
        driver: FFmpeg's name of the kind of device.
        stopped: Ends it.

    Raises:
        RecordingError: if one cannot be opened.
    """
    waiting = {"waiting": 1} if len(devices) > 1 else {}
    with contextlib.ExitStack() as held:
        cameras = {
            f"camera-{number}": held.enter_context(CameraDevice(device, size=size, fps=fps, driver=driver, **waiting))
            for number, device in enumerate(devices)
        }
        rates = [camera.fps for camera in cameras.values() if camera.fps]
        sizes = {name: (camera.height, camera.width) for name, camera in cameras.items()}
        yield Source(min(rates, default=fps), sizes, _taken_together(cameras, stopped))
        for camera in cameras.values():
            if camera.skipped:
                warnings.warn(
                    f"{camera.skipped} pictures of {camera.device} were left out: they came faster than they were "
                    "taken. Record smaller pictures, or fewer a second, and with others a camera that is as slow.",
                    stacklevel=2,
                )


def _taken_together(cameras: Mapping[str, CameraDevice], stopped: Flag) -> Iterator[Row]:
    # The slowest first: by the time that it has a picture, the others have one as new.
    names = sorted(cameras, key=lambda name: cameras[name].fps or 0.0)
    first = None
    for taken in zip(*(cameras[name].frames(stopped) for name in names), strict=False):
        first = min(seconds for _picture, seconds in taken) if first is None else first
        pictures = dict(zip(names, (picture for picture, _seconds in taken), strict=True))
        yield pictures, dict(zip(names, (seconds - first for _picture, seconds in taken), strict=True))


def _counted(stopped: Flag) -> Iterator[int]:
    k = 0
    while not stopped.is_set():
        yield k
        k += 1


def _painted(number: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return painted_frame(number % (MAX_FRAME_NUMBER + 1), width=size[1], height=size[0])


def _paced(rows: Iterator[Row], stopped: Flag) -> Iterator[Row]:
    """Each row when it is due; late ones at once."""
    started = time.monotonic()
    for row in rows:
        due = started + min(row[1].values())
        while not stopped.is_set() and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_UP_S))
        if stopped.is_set():
            return
        yield row
