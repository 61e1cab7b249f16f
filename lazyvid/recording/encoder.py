"""`StreamingVideoEncoder`: the frames of several cameras encoded while they are recorded, episode after episode.

Upper end of the write flow for several cameras: `lane.py` takes a camera's frames, `camera.py` encodes them.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args
from urllib.parse import quote

from lazyvid.errors import LazyVidError, RecordingError
from lazyvid.recording.camera import CameraEncoderThread, EncoderResult, FrameItem
from lazyvid.recording.codecs import check_pix_fmt, codec_options, effort_options, encoder_name, resolve_vcodec
from lazyvid.recording.codecs import suited_pix_fmt as _suited_pix_fmt
from lazyvid.recording.lane import Lane, OnFull
from lazyvid.recording.origin import EpisodeOrigin
from lazyvid.recording.pictures import FrameLike, PictureMaker
from lazyvid.recording.statistics import Statistics
from lazyvid.recording.syncing import SyncingThread
from lazyvid.recording.times import exact_rate
from lazyvid.storage.local import make_folders, sync_folder

__all__ = ["CameraEncoderThread", "StreamingVideoEncoder"]

_CANCEL_S = 5.0


class StreamingVideoEncoder:
    """Encodes each camera of an episode in a thread of its own, into a crash-safe MP4 per camera.

    Feeding a frame costs a copy. Each camera may be fed by another thread; the other methods belong to one thread.

    Example:
        >>> encoder = StreamingVideoEncoder(30, "h264", preset="ultrafast")     # doctest: +SKIP
        >>> encoder.start_episode(["left", "right"], "recording")               # doctest: +SKIP
        >>> for left, right in cameras:                                         # doctest: +SKIP
        ...     encoder.feed_frame("left", left)
        ...     encoder.feed_frame("right", right)
        >>> videos = encoder.finish_episode()                                   # doctest: +SKIP

    Args:
        fps: Frames per second: the times of frames without capture times, which a dropped frame does not shift.
        vcodec: A name of `lazyvid.recording.codecs.VALID_VIDEO_CODECS`; tried here and now.
        pix_fmt: FFmpeg's name of the pixel format in the files.
        g: Largest distance between key frames, in frames: as many may be lost in a crash. None leaves it to the
            encoder.
        crf: Quality, the smaller the better; None leaves it to the encoder.
        preset: Speed, by the encoder's own name or number; None leaves it to the encoder (12 for libsvtav1).
        queue_maxsize: Frames of a camera that may wait for its encoder.
        encoder_threads: `lp` for libsvtav1, threads for other encoders, per camera; None leaves it to the encoder.
        on_full: What happens to a frame when as many wait: "drop" leaves it out and counts it; who feeds faster
            than `fps` is first held up, for half a second an episode. "block" waits; "raise" raises `QueueFullError`.
        repeat_gaps: Whether a dropped frame without capture time is made up for by encoding the one before it again.
        options: Further options of the encoder, by FFmpeg's names.
        durable_s: Seconds between two fsyncs of each file: what a loss of power may cost. A killed process loses only
            what `durable_frames` does not count.
        stall_timeout_s: Seconds that an encoder may spend on one frame before it counts as stalled.
        finish_timeout_s: Seconds that `finish_episode` takes at most; what an encoder still holds may be dozens of
            frames.

    Raises:
        ValueError: if an argument is invalid.
        EncoderUnavailableError: if the encoder does not work here.
    """

    def __init__(
        self,
        fps: float | Fraction,
        vcodec: str = "libsvtav1",
        pix_fmt: str = "yuv420p",
        g: int | None = 2,
        crf: float | None = 30,
        preset: str | int | None = None,
        queue_maxsize: int = 30,
        encoder_threads: int | None = None,
        *,
        on_full: OnFull = "drop",
        repeat_gaps: bool = False,
        options: Mapping[str, Any] | None = None,
        durable_s: float = 1.0,
        stall_timeout_s: float = 20.0,
        finish_timeout_s: float = 120.0,
    ) -> None:
        if on_full not in get_args(OnFull):
            raise ValueError(f"Invalid on_full {on_full!r}: expected 'drop', 'block' or 'raise'.")
        if queue_maxsize < 1:
            raise ValueError(f"Invalid queue_maxsize {queue_maxsize!r}: expected 1 or more.")
        if not min(durable_s, stall_timeout_s, finish_timeout_s) > 0:
            raise ValueError(
                f"Invalid durable_s={durable_s!r}, stall_timeout_s={stall_timeout_s!r}, "
                f"finish_timeout_s={finish_timeout_s!r}: expected seconds, more than 0."
            )
        self.fps = fps
        self._rate = exact_rate(fps)
        self.vcodec = resolve_vcodec(vcodec)
        encoder = encoder_name(self.vcodec)
        self.pix_fmt = PictureMaker(_suited_pix_fmt(encoder, pix_fmt)).pix_fmt
        check_pix_fmt(encoder, self.pix_fmt)
        codec_options(self.vcodec, g, crf, preset)  # raises for numbers that are none
        effort_options(self.vcodec, encoder_threads=encoder_threads)
        self.g = g
        self.crf = crf
        self.preset = preset
        self.queue_maxsize = queue_maxsize
        self.encoder_threads = encoder_threads
        self.on_full = on_full
        self.repeat_gaps = repeat_gaps
        self.options = dict(options or {})
        self.durable_s = durable_s
        self.stall_timeout_s = stall_timeout_s
        self.finish_timeout_s = finish_timeout_s
        self._lanes: dict[str, Lane] = {}
        self._folder: Path | None = None
        self._syncing: SyncingThread | None = None
        self._finished: dict[str, tuple[Path, Statistics | None]] = {}
        self._is_active = False
        self._is_closed = False

    # -- what happened ------------------------------------------------------------------------------------------------

    @property
    def dropped_frames(self) -> dict[str, int]:
        """Frames dropped, by camera; of this episode, or of the last one until the next begins."""
        return {key: len(lane.dropped_timestamps) for key, lane in self._lanes.items()}

    @property
    def dropped_timestamps(self) -> dict[str, list[float]]:
        """Seconds, by camera: capture times, or places on the grid, of the frames dropped; as `dropped_frames`."""
        return {key: list(lane.dropped_timestamps) for key, lane in self._lanes.items()}

    @property
    def durable_frames(self) -> dict[str, int]:
        """Frames by camera that the files would still have if the process were killed now; as `dropped_frames`."""
        return {key: lane.thread.durable_frames for key, lane in self._lanes.items()}

    @property
    def queued_frames(self) -> dict[str, int]:
        """Frames by camera that wait for its encoder."""
        return {key: lane.thread.frame_queue.qsize() for key, lane in self._lanes.items()}

    @property
    def finished_videos(self) -> dict[str, tuple[Path, Statistics | None]]:
        """What the last `finish_episode` finished, also where it raised an error because of another camera."""
        return dict(self._finished)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "recording" if self._is_active else "idle"
        return f"StreamingVideoEncoder(fps={self.fps}, vcodec={self.vcodec!r}, cameras={list(self._lanes)}, {state})"

    # -- episodes -----------------------------------------------------------------------------------------------------

    def start_episode(
        self,
        video_keys: Sequence[str],
        temp_dir: str | os.PathLike[str],
        *,
        origin: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Begin an episode; one that is going on is cancelled.

        Args:
            video_keys: The cameras.
            temp_dir: Folder in which a new folder is made for the episode's files, named by their keys.
            origin: Capture time, in seconds, that lies at 0 in all files. By default the earliest of the first frames.
            metadata: Tags for the files' headers.

        Raises:
            ValueError: if there is no camera, or one twice, or the origin is not finite.
            RecordingError: if the folder cannot be made, or the encoder is closed.
        """
        if self._is_closed:
            raise RecordingError("Cannot start an episode: the encoder is closed. Make another one.")
        keys = list(video_keys)
        if isinstance(video_keys, str) or not keys or len(set(keys)) < len(keys):
            raise ValueError(f"Invalid video_keys {video_keys!r}: expected one name or more, none of them twice.")
        shared_origin = EpisodeOrigin(keys, origin)
        self.cancel_episode()
        self._folder = _episode_folder(Path(temp_dir))
        self._finished, self._lanes = {}, {}
        self._is_active = True  # from here on, so that what was begun is cancelled where the rest fails
        try:
            self._lanes = {key: self._lane(key, self._folder, shared_origin, metadata) for key in keys}
            for lane in self._lanes.values():
                lane.thread.start()
            self._syncing = SyncingThread([lane.thread for lane in self._lanes.values()], every_s=self.durable_s)
            self._syncing.start()
        except BaseException:
            self.cancel_episode()
            raise

    def feed_frame(self, video_key: str, image: FrameLike, timestamp: float | None = None) -> None:
        """Hand over a frame of a camera. It is copied, so that the caller may reuse its memory at once.

        Args:
            video_key: The camera.
            image: A numpy array or tensor, uint8 or floats in [0, 1]: RGB [H, W, 3] or [3, H, W], gray [H, W] or with
                one channel, RGBA where the pixel format has alpha; uint16 with one channel for gray formats of more
                than 8 bits, whose samples it becomes as it is. The first frame fixes size and format.
            timestamp: Seconds, when it was taken, on a clock that all cameras share; for all frames of a camera or for
                none. Times increase.

        Raises:
            RuntimeError: if there is no episode.
            KeyError: if the episode has no such camera.
            ValueError: if the frame is no picture that the pixel format can hold, or its time does not increase, lies
                before the origin, or only some frames have one. The frame is not taken; the recording may go on.
            CameraFormatChangedError: if it has another size or format than the first frame; likewise.
            QueueFullError: if there is no room and `on_full` is "raise"; likewise.
            EncoderStalledError: if there is no room, the encoder does not go on, and `on_full` is "block".
            EncoderFailedError: if the camera's encoder failed; other cameras go on.
            RecordingDiskFullError: if the disk is full; the file remains as far as it was written.
        """
        if not self._is_active:
            raise RuntimeError("No active episode. Call start_episode() before feed_frame().")
        lane = self._lanes.get(video_key)
        if lane is None:
            raise KeyError(f"Expected a camera of the episode ({', '.join(self._lanes)}), got {video_key!r}.")
        lane.feed(image, timestamp)

    def wait_for_room(self, timestamp: float | None = None) -> bool:
        """Whether none of the cameras would drop its next frame; waits as `feed_frame` would.

        Where one would, the frame is left out for all of them: `dropped_frames` counts it, and it takes no place on the
        grid. To be asked before the first camera is fed, by the thread that feeds all.

        Args:
            timestamp: Seconds, when the frame was taken.

        Raises:
            RuntimeError: if there is no episode.
            EncoderFailedError: if a camera's encoder failed.
            RecordingDiskFullError: if the disk is full.
        """
        if not self._is_active:
            raise RuntimeError("No active episode. Call start_episode() before wait_for_room().")
        if all(lane.wait_for_room() for lane in self._lanes.values()):
            return True
        for lane in self._lanes.values():
            lane.leave_out(timestamp)
        return False

    def finish_episode(self) -> dict[str, tuple[Path, Statistics | None]]:
        """End the episode: encode what still waits and finish the files.

        Returns:
            By camera, its MP4, which is complete and on the disk, and its statistics per channel in the pixels' own
            levels (0 to 255), or None with fewer than two frames. A camera without a frame has no file at its path.

        Raises:
            RuntimeError: if there is no episode.
            EncoderFailedError: if a camera's encoder failed. Here and below the other cameras' files are finished, see
                `finished_videos`, the failed one's remains as far as it was written, and notes name further failures.
            EncoderStalledError: if one did not finish in time.
            RecordingDiskFullError: if the disk is full.
        """
        if not self._is_active:
            raise RuntimeError("No active episode to finish.")
        deadline = time.monotonic() + self.finish_timeout_s
        for lane in self._lanes.values():
            lane.end()
        errors: list[LazyVidError] = []
        try:
            for key, lane in self._lanes.items():
                try:
                    self._finished[key] = lane.thread.video_path, self._result(lane, deadline)
                except LazyVidError as error:
                    errors.append(error)
        finally:
            self._end_episode()
        if errors:
            for other in errors[1:]:
                errors[0].add_note(str(other))
            raise errors[0]
        return dict(self._finished)

    def cancel_episode(self) -> None:
        """Give the episode up and remove its files; does nothing without one."""
        if not self._is_active:
            return
        for lane in self._lanes.values():
            lane.discard()
        deadline = time.monotonic() + _CANCEL_S
        for lane in self._lanes.values():
            if lane.thread.is_alive():  # not where it could not be started
                lane.thread.join(max(0.0, deadline - time.monotonic()))
        self._end_episode()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Cancel an episode that is going on and take no more. Closing twice does nothing."""
        self.cancel_episode()
        self._is_closed = True

    def __enter__(self) -> Self:
        """The encoder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _lane(self, key: str, folder: Path, origin: EpisodeOrigin, metadata: Mapping[str, str] | None) -> Lane:
        frames: queue.Queue[FrameItem] = queue.Queue(self.queue_maxsize)
        results: queue.Queue[EncoderResult] = queue.Queue(1)
        thread = CameraEncoderThread(
            folder / f"{quote(key, safe='')}.mp4",
            self.fps,
            self.vcodec,
            self.pix_fmt,
            self.g,
            self.crf,
            self.preset,
            frames,
            results,
            threading.Event(),
            self.encoder_threads,
            origin=origin,
            metadata=metadata,
            options=self.options,
            repeat_gaps=self.repeat_gaps,
        )
        return Lane(
            key,
            thread,
            frames,
            origin=origin,
            rate=self._rate,
            on_full=self.on_full,
            stall_timeout_s=self.stall_timeout_s,
        )

    def _result(self, lane: Lane, deadline: float) -> Statistics | None:
        """The statistics of a camera whose file is finished; raises if it is not."""
        thread = lane.thread
        while thread.is_alive():
            left = deadline - time.monotonic()
            error = lane.stalled()
            if error is None and left <= 0:
                error = lane.stall(f"it did not finish within {self.finish_timeout_s} s")
            if error is not None:
                thread.discard()
                raise error
            thread.join(min(left, self._stall_in(thread)))
        lane.raise_if_dead()
        statistics = thread.result_queue.get_nowait()[1]
        return statistics if isinstance(statistics, dict) else None

    def _stall_in(self, thread: CameraEncoderThread) -> float:
        """Seconds until the thread, if it is at one frame until then, counts as stalled."""
        since = thread.busy_since
        spent = 0.0 if since is None else time.monotonic() - since
        return max(0.01, self.stall_timeout_s - spent)

    def _end_episode(self) -> None:
        self._is_active = False
        if self._syncing is not None:
            self._syncing.stop()
            self._syncing = None


def _episode_folder(parent: Path) -> Path:
    try:
        for changed in make_folders(parent):
            sync_folder(changed)
        return Path(tempfile.mkdtemp(prefix="episode-", dir=parent))
    except OSError as error:
        raise RecordingError(f"Cannot make a folder for the episode in {parent}: {error}. Choose another.") from error
