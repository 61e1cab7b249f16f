"""Pictures on disk: a writer whose threads keep up with cameras, and the encoder that makes videos of them afterwards.

Beside the write flow, for recorders that encode at the end of an episode instead of while it runs.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av.logging
import numpy.typing as npt
import torch

from lazyvid.errors import RecordingDiskFullError, RecordingError
from lazyvid.recording.codecs import (
    check_pix_fmt,
    codec_options,
    effort_options,
    encoder_name,
    hush,
    native_options,
    resolve_vcodec,
    suited_pix_fmt,
)
from lazyvid.recording.disk import is_full
from lazyvid.recording.mp4 import Mp4File, StreamSpec
from lazyvid.recording.pictures import PictureMaker
from lazyvid.recording.places import publish_file, temporary_beside
from lazyvid.recording.png import as_png_pixels, decode_png, encode_png
from lazyvid.recording.times import exact_rate
from lazyvid.waiting import LOOK_UP_S

_FRAME_NAME = re.compile(r"frame-(\d{6,})\.png")
_OTHER_CONTAINERS = (".avi", ".m2ts", ".mkv", ".ts", ".webm")
# Without this many channels in a picture's chroma, these encoders have no profile that is widely decoded.
_SUBSAMPLED_ONLY = ("libsvtav1", "hevc")


def frame_path(folder: str | os.PathLike[str], number: int) -> Path:
    """Where the picture of a frame lies: `frame-000000.png` and so on.

    Args:
        folder: The pictures' folder.
        number: The frame's number, from 0.
    """
    return Path(folder) / f"frame-{number:06d}.png"


# -- pictures to videos -----------------------------------------------------------------------------------------------


def encode_video_frames(
    imgs_dir: str | os.PathLike[str],
    video_path: str | os.PathLike[str],
    fps: float | Fraction,
    vcodec: str = "libsvtav1",
    pix_fmt: str = "yuv420p",
    g: int | None = 2,
    crf: float | None = 30,
    fast_decode: int = 0,
    log_level: int | None = None,
    overwrite: bool = False,  # noqa: FBT001, FBT002 - the signature that users of LeRobot know
    preset: str | int | None = None,
    encoder_threads: int | None = None,
) -> None:
    """Make an MP4 of the pictures `frame-000000.png`, `frame-000001.png`, ... of a folder; frame k lies at k / fps.

    The video appears when it is complete. The same frames, streamed through an encoder while they were taken, give the
    same video.

    Args:
        imgs_dir: The pictures' folder; other files in it are let be.
        video_path: The video; folders above it are made.
        fps: Frames per second, exact for a `Fraction` and for decimal rates such as 29.97.
        vcodec: A name of `codecs.VALID_VIDEO_CODECS`.
        pix_fmt: FFmpeg's name of the pixel format in the video.
        g: Largest distance between key frames, in frames; None leaves it to the encoder.
        crf: Quality, the smaller the better; None leaves it to the encoder.
        fast_decode: More than 0 for a video that is cheaper to decode; see `codecs.effort_options`.
        log_level: FFmpeg's level (`av.logging.WARNING`, ...) of what goes to Python's logger "libav" meanwhile; None
            leaves that as it is.
        overwrite: Whether a video that is there is replaced; else it is left, with a warning.
        preset: Speed, by the encoder's own name or number; libsvtav1 gets 12 when it is None.
        encoder_threads: Threads of the encoder; None leaves it to the encoder.

    Raises:
        ValueError: if an argument is invalid, or the pixel format cannot hold the pictures.
        FileNotFoundError: if there is no picture, or a number is missing among them.
        CameraFormatChangedError: if a picture has another size or kind than the first one.
        CorruptVideoError: if a picture is damaged.
        EncoderUnavailableError: if the encoder does not work here.
        EncoderFailedError: if the encoder fails.
        RecordingDiskFullError: if the disk is full.
        OSError: if there is no video in the end.
    """
    target = Path(video_path)
    if target.suffix.lower() in _OTHER_CONTAINERS:
        raise ValueError(f"Invalid video_path {str(target)!r}: expected a name that ends in .mp4; only MP4 is written.")
    rate = exact_rate(fps)
    vcodec = resolve_vcodec(vcodec)
    options = codec_options(vcodec, g, crf, preset)
    options |= effort_options(vcodec, fast_decode=fast_decode, encoder_threads=encoder_threads)
    if target.exists() and not overwrite:
        warnings.warn(f"{target} is there already: left as it is. Set overwrite=True to replace it.", stacklevel=2)
        return
    if pix_fmt == "yuv444p" and vcodec in _SUBSAMPLED_ONLY:
        warnings.warn(f"pix_fmt='yuv444p' becomes 'yuv420p': {vcodec} is not used with it.", stacklevel=2)
        pix_fmt = "yuv420p"
    encoder = encoder_name(vcodec)
    pix_fmt = suited_pix_fmt(encoder, pix_fmt)
    check_pix_fmt(encoder, pix_fmt)
    images = _frames_in(Path(imgs_dir))
    hush(encoder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _log_level(log_level), temporary_beside(target) as temporary:
        _encode(images, temporary, encoder, PictureMaker(pix_fmt), rate, native_options(options))
        publish_file(temporary, target)
    if not target.exists():
        raise OSError(f"Video encoding did not work: expected the video {target}, found none. Check its folder.")


def _frames_in(folder: Path) -> list[Path]:
    """The pictures by number; raises FileNotFoundError where one is missing."""
    names = os.listdir(folder) if folder.is_dir() else []
    numbered = {int(match[1]): folder / match[0] for name in names if (match := _FRAME_NAME.fullmatch(name))}
    if not numbered:
        raise FileNotFoundError(f"No images found in {folder}: expected frame-000000.png, frame-000001.png, ...")
    first, last = min(numbered), max(numbered)
    missing = next((number for number in range(first, last) if number not in numbered), None)
    if missing is not None:
        raise FileNotFoundError(
            f"Expected {frame_path(folder, missing).name} between {numbered[first].name} and {numbered[last].name} in "
            f"{folder}, found none: all frames after it would come too early."
        )
    return [numbered[number] for number in range(first, last + 1)]


def _encode(
    images: list[Path], path: Path, encoder: str, maker: PictureMaker, rate: Fraction, options: dict[str, str]
) -> None:
    file: Mp4File | None = None
    try:
        for tick, image in enumerate(images):
            picture = _picture(image, maker)
            if file is None:
                spec = StreamSpec(
                    encoder=encoder,
                    width=picture.width,
                    height=picture.height,
                    pix_fmt=maker.pix_fmt,
                    rate=rate,
                    time_base=1 / rate,
                    options=options,
                    is_yuv=maker.is_yuv,
                    is_full_range=maker.is_full_range,
                )
                file = Mp4File(str(path), spec)
            file.write(picture, tick)
    except BaseException:
        if file is not None:
            file.abandon()
        raise
    if file is not None:
        file.finish()


def _picture(image: Path, maker: PictureMaker) -> av.VideoFrame:
    """One picture for the encoder; transparency is left out, as a screen over nothing would show it."""
    pixels = decode_png(image.read_bytes(), name=str(image))
    try:
        return maker.make(pixels[..., :3] if pixels.ndim == 3 else pixels)
    except ValueError as error:
        error.add_note(f"The picture is {image}.")
        raise


@contextlib.contextmanager
def _log_level(level: int | None) -> Iterator[None]:
    before = av.logging.get_level()
    if level is not None:
        av.logging.set_level(level)
    try:
        yield
    finally:
        if level is not None:
            av.logging.set_level(before)


# -- cameras to pictures ----------------------------------------------------------------------------------------------


class ImageWriter:
    """Writes pictures as PNG files in threads of its own; what goes wrong there is raised by `wait_until_done`.

    A file has its name only once it is whole. As a context manager it waits at the end of the block; after an exception
    in the block it stops without a further one.

    Args:
        num_threads: How many write at a time; FFmpeg and the disk release the interpreter's lock.
        queue_maxsize: How many pictures may wait; `save_image` blocks beyond that, so that memory stays bounded.

    Raises:
        ValueError: if there is no thread or no place in the queue.
    """

    def __init__(self, num_threads: int = 4, *, queue_maxsize: int = 128) -> None:
        if num_threads < 1 or queue_maxsize < 1:
            raise ValueError(
                f"Invalid num_threads={num_threads!r}, queue_maxsize={queue_maxsize!r}: expected 1 or more of each."
            )
        # What is to be written is counted nowhere else. To queue a picture is one step, which a Ctrl-C does not cut in
        # two, and only the threads, which no signal reaches, change the other number: so waiting has an end.
        self._waiting: deque[tuple[npt.NDArray[Any], Path]] = deque()
        self._at_work = 0
        self._queue_maxsize = queue_maxsize
        self._failures: list[tuple[Path, Exception]] = []
        # Held by itself: a `with` of a lock is not cut in two by a Ctrl-C, one of a condition, written in Python, is.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"lazyvid-images-{k}", daemon=True) for k in range(num_threads)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.stop()
            raise

    @property
    def pending(self) -> int:
        """Pictures that are not on disk yet."""
        with self._lock:
            return self._unwritten()

    def save_image(self, image: npt.NDArray[Any] | torch.Tensor, path: str | os.PathLike[str]) -> None:
        """Write a picture; returns when it is copied and queued.

        Args:
            image: [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4; uint8, or floats in [0, 1]; uint16 with one channel.
            path: The file; folders above it are made, a file that is there is replaced.

        Raises:
            ValueError: if it is no picture that PNG can hold.
            RecordingError: if the writer was stopped.
        """
        self._check_open(path)
        pixels = as_png_pixels(image)
        with self._lock:
            while len(self._waiting) >= self._queue_maxsize:
                self._changed.wait(LOOK_UP_S)
            self._check_open(path)
            self._waiting.append((pixels, Path(path)))
            self._changed.notify_all()

    def wait_until_done(self, timeout: float | None = None) -> None:
        """Wait until all pictures saved so far are on disk.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            RecordingDiskFullError: if a picture could not be written because the disk is full.
            RecordingError: if a picture could not be written for another reason, or the time is over. What was raised
                once is not raised again.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        with self._lock:
            # A Ctrl-C that comes just before a thread blocks does not wake it: it is seen when the thread looks up.
            while self._unwritten() and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(LOOK_UP_S, left))
            if unwritten := self._unwritten():
                raise RecordingError(
                    f"Expected all pictures on disk within {timeout} s, {unwritten} are still to be written. Check "
                    "the disk, or use more threads."
                )
            failures, self._failures = self._failures, []
        if failures:
            path, error = failures[0]
            kind = RecordingDiskFullError if is_full(error) else RecordingError
            others = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
            raise kind(f"Cannot write the picture {path}{others}: {error}. Check the folder and the disk.") from error

    def stop(self) -> None:
        """End the threads once all that is queued is written, without waiting for it; harmless when done before."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all pictures, unless an exception ends the block, and stop."""
        try:
            if kind is None:
                self.wait_until_done()
        finally:
            self.stop()

    def _check_open(self, path: str | os.PathLike[str]) -> None:
        if self._stopped:
            raise RecordingError(f"Cannot save {os.fspath(path)}: the image writer was stopped.")

    def _unwritten(self) -> int:
        return len(self._waiting) + self._at_work

    def _work(self) -> None:
        while (item := self._next()) is not None:
            pixels, path = item
            failure: Exception | None = None
            try:
                _write_whole(path, encode_png(pixels))
            except Exception as error:  # kept for `wait_until_done`: a thread has nobody to raise it to
                failure = error
            with self._lock:
                if failure is not None:
                    self._failures.append((path, failure))
                self._at_work -= 1
                self._changed.notify_all()

    def _next(self) -> tuple[npt.NDArray[Any], Path] | None:
        """The next picture; None once there is none and none comes any more."""
        with self._lock:
            while not self._waiting:
                if self._stopped:
                    return None
                self._changed.wait(LOOK_UP_S)  # a Ctrl-C may have kept whoever had news from telling
            item = self._waiting.popleft()
            self._at_work += 1
            self._changed.notify_all()
            return item


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(path) as temporary:
        temporary.write_bytes(data)
        os.replace(temporary, path)
