"""One camera's encoder in a thread of its own: frames from a queue, out into a crash-safe MP4, with their statistics.

Part of the write flow between `encoder.py`, which feeds a thread for each camera, and `mp4.py`, which encodes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from av.video.frame import VideoFrame

from lazyvid.recording.codecs import codec_options, effort_options, encoder_name, hush, native_options, suited_pix_fmt
from lazyvid.recording.fragments import GrowingMp4
from lazyvid.recording.mp4 import ORIGIN_TAG, Mp4File, StreamSpec, disk_error
from lazyvid.recording.origin import EpisodeOrigin
from lazyvid.recording.pictures import FrameLike, PictureMaker
from lazyvid.recording.statistics import ImageStatistics, Statistics
from lazyvid.recording.times import CaptureTimes, exact_rate

_POLL_S = 0.1
# Of the first frames each counts for the statistics, of later ones some: neighbours say the same, and counting costs
# as much as a tenth of encoding.
_COUNTED_ALL, _COUNTED_EVERY = 100, 4


@dataclass(frozen=True, slots=True)
class QueuedFrame:
    """A frame on its way to the encoder."""

    pixels: FrameLike
    """The picture; nobody else changes it any more."""
    number: int
    """Its place on the grid of the frame rate, dropped frames counted; means nothing where there is a time."""
    seconds: float | None = None
    """Capture time."""


FrameItem = FrameLike | tuple[FrameLike, float | None] | QueuedFrame | None
"""What a camera's queue holds: pictures, pictures with their capture time in seconds, and None at the end."""

EncoderResult = tuple[Literal["ok"], Statistics | None] | tuple[Literal["error"], str]
"""What a camera's thread says at its end."""


class CameraEncoderThread(threading.Thread):
    """Encodes the frames of a queue into an MP4 until a None comes, and puts one result on `result_queue`.

    The result is ("ok", statistics) when two frames or more came, ("ok", None) when fewer did (without any there is no
    file), or ("error", message); the file then remains as far as it can be played. The statistics are those of the
    first 100 frames and of every fourth one after them.

    Args:
        video_path: The file; its folder is made.
        fps: Frames per second, for frames without capture times; nominal for those with.
        vcodec: As `lazyvid.recording.codecs.encoder_name` takes it.
        pix_fmt: FFmpeg's name of the pixel format in the file.
        g: Largest distance between key frames, in frames; None leaves it to the encoder.
        crf: Quality, the smaller the better; None leaves it to the encoder.
        preset: Speed, by the encoder's own name or number; None leaves it to the encoder (12 for libsvtav1).
        frame_queue: Pictures [H, W, C], [C, H, W] or [H, W], uint8 or floats in [0, 1], alone or as (picture, capture
            time in seconds); then None. The thread takes them as they are, so nobody may change them.
        result_queue: Takes the result.
        stop_event: Once set, the thread finishes its file when the queue is empty, as after a None.
        encoder_threads: `lp` for libsvtav1, threads for other encoders; None leaves it to the encoder.
        origin: The capture time that lies at 0 in the file; None takes the first frame's.
        metadata: Tags for the file's header.
        options: Further options of the encoder, by FFmpeg's names.
        repeat_gaps: Whether the frame before a gap on the grid is encoded again until the gap is filled; one at the
            beginning is filled with the first frame, one at the end where `grid_frames` says how many there were.
    """

    def __init__(
        self,
        video_path: str | os.PathLike[str],
        fps: float | Fraction,
        vcodec: str,
        pix_fmt: str,
        g: int | None,
        crf: float | None,
        preset: str | int | None,
        frame_queue: queue.Queue[FrameItem],
        result_queue: queue.Queue[EncoderResult],
        stop_event: threading.Event,
        encoder_threads: int | None = None,
        *,
        origin: EpisodeOrigin | None = None,
        metadata: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        repeat_gaps: bool = False,
    ) -> None:
        super().__init__(name=f"lazyvid-encoder-{Path(video_path).name}", daemon=True)
        self.video_path = Path(video_path)
        self.fps = fps
        self.vcodec = vcodec
        self.pix_fmt = pix_fmt
        self.g = g
        self.crf = crf
        self.preset = preset
        self.frame_queue = frame_queue
        self.result_queue = result_queue
        self.stop_event = stop_event
        self.encoder_threads = encoder_threads
        self.error: Exception | None = None
        """What ended the thread, if it was an error."""
        self.frame_count = 0
        """Frames handed to the encoder."""
        self.durable_frames = 0
        """Frames that the file would still have if the process were killed now."""
        self.busy_since: float | None = None
        """When the thread began with the frame that it is at, by `time.monotonic`; None while it is at none."""
        self.repeat_gaps = repeat_gaps
        self.grid_frames = 0
        """Frames that there were in all, those counted that were dropped; set before the end."""
        self._kept: FrameLike | None = None  # the last picture, to be repeated
        self._origin = origin
        self._metadata = dict(metadata or {})
        self._options = {str(name): str(value) for name, value in (options or {}).items()}
        self._discarded = threading.Event()
        self._unsynced: OSError | None = None
        self._statistics = ImageStatistics()
        self._growing = GrowingMp4(str(self.video_path))
        self._file: Mp4File | None = None
        self._times: CaptureTimes | None = None
        self._next_number = 0
        self._last_number = -1

    def run(self) -> None:
        """Encode until the end; belongs to `threading.Thread`."""
        try:
            statistics = self._record()
        except Exception as error:  # the thread's boundary: whatever it is, who feeds or finishes must hear of it
            self.error = error
            self.result_queue.put(("error", str(error) or type(error).__name__))
        else:
            self.result_queue.put(("ok", statistics))
        finally:
            self.busy_since = None

    def discard(self) -> None:
        """End soon, without the frames that still wait; the file is worth nothing any more."""
        self._discarded.set()
        self.stop_event.set()

    def sync(self) -> None:
        """Bring what is written so far to the disk; for another thread, so that a slow disk does not hold up encoding.

        Raises:
            OSError: if the disk does not take it.
        """
        try:
            self._growing.sync()
        except OSError as error:
            # Told once: the system takes the pages for written from here on, and a later sync would find no fault.
            self._unsynced = error
            raise

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _record(self) -> Statistics | None:
        pictures = PictureMaker(self._suited_pix_fmt())
        try:
            for item in self._items():
                self._encode(self._queued(item), pictures)
            if self._kept is not None and not self._discarded.is_set():
                self._fill_gap(self.grid_frames, self._kept, pictures)
            return self._finish()
        except BaseException:
            if self._file is not None:
                self._file.abandon()
                with contextlib.suppress(OSError):  # the error that is under way says more
                    self._growing.trim()
            raise
        finally:
            self._growing.close()

    def _suited_pix_fmt(self) -> str:
        self._encoder = encoder_name(self.vcodec)
        hush(self._encoder)
        return suited_pix_fmt(self._encoder, self.pix_fmt)

    def _items(self) -> Iterator[FrameLike | tuple[FrameLike, float | None] | QueuedFrame]:
        """What comes, until None, or until the queue is empty once the thread shall stop."""
        while not self._discarded.is_set():
            # Asked before the queue is: what was put before the event was set is still to be encoded.
            stopping = self.stop_event.is_set()
            self.busy_since = None
            try:
                item = self.frame_queue.get(timeout=0 if stopping else _POLL_S)
            except queue.Empty:
                if stopping:
                    break
                continue
            self.busy_since = time.monotonic()
            if item is None:
                break
            yield item
        # Not a sign of a stall while finishing: an encoder may have dozens of frames to go in one call.
        self.busy_since = None

    def _queued(self, item: FrameLike | tuple[FrameLike, float | None] | QueuedFrame) -> QueuedFrame:
        if isinstance(item, QueuedFrame):
            return item
        pixels, seconds = item if isinstance(item, tuple) else (item, None)
        return QueuedFrame(pixels, self._next_number, None if seconds is None else float(seconds))

    def _encode(self, frame: QueuedFrame, pictures: PictureMaker) -> None:
        tick = self._tick(frame)
        pixels = pictures.check(frame.pixels)
        picture = pictures.make(pixels)
        if self._file is None:
            self._file = self._opened(picture, pictures)
        if self.repeat_gaps and self._times is None:
            self._fill_gap(frame.number, pixels if self._kept is None else self._kept, pictures)
            self._kept = pixels
        self._check_synced()
        self._file.write(picture, tick)
        if self._times is not None:
            self._times.add(frame.seconds)
        self._next_number = frame.number + 1
        if self.frame_count < _COUNTED_ALL or self.frame_count % _COUNTED_EVERY == 0:
            self._statistics.update(pixels)
        self.frame_count += 1
        self.durable_frames = self._growing.count()

    def _check_synced(self) -> None:
        """Raise what another thread heard of the disk."""
        if self._unsynced is not None:
            raise disk_error("sync", str(self.video_path), self._unsynced) from self._unsynced

    def _fill_gap(self, stop: int, pixels: FrameLike, pictures: PictureMaker) -> None:
        """Encode a picture in the places on the grid up to `stop` that are still empty."""
        for number in range(self._next_number, stop):
            if self._file is not None:
                self._file.write(pictures.make(pixels), number)
                self.frame_count += 1
        self._next_number = max(self._next_number, stop)

    def _tick(self, frame: QueuedFrame) -> int:
        if self.frame_count == 0 and frame.seconds is not None:
            self._times = CaptureTimes(frame.seconds if self._origin is None else self._origin.settled())
        if self._times is not None:
            return self._times.tick(frame.seconds)
        if frame.seconds is not None:
            raise ValueError(
                f"Expected no timestamp for frame {self.frame_count}, because the frames before it had none, got "
                f"{frame.seconds}. Give all frames one, or none."
            )
        return frame.number

    def _opened(self, picture: VideoFrame, pictures: PictureMaker) -> Mp4File:
        rate = exact_rate(self.fps)
        options = native_options(codec_options(self.vcodec, self.g, self.crf, self.preset))
        spec = StreamSpec(
            encoder=self._encoder,
            width=picture.width,
            height=picture.height,
            pix_fmt=pictures.pix_fmt,
            rate=rate,
            time_base=1 / rate if self._times is None else self._times.time_base,
            options=options | effort_options(self.vcodec, encoder_threads=self.encoder_threads) | self._options,
            is_yuv=pictures.is_yuv,
            is_full_range=pictures.is_full_range,
        )
        origin = {} if self._times is None else {ORIGIN_TAG: repr(self._times.origin)}
        self.video_path.parent.mkdir(parents=True, exist_ok=True)
        # FFmpeg makes the file later; until then an older one would be taken for it.
        self.video_path.unlink(missing_ok=True)
        return Mp4File(str(self.video_path), spec, metadata=self._metadata | origin)

    def _finish(self) -> Statistics | None:
        if self._file is None:
            return None
        if self._discarded.is_set():
            self._file.abandon()
            return None
        self._file.finish()
        self._check_synced()
        self.durable_frames = self.frame_count
        return self._statistics.get_statistics() if self.frame_count > 1 else None
