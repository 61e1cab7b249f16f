"""`Recorder`: episodes of cameras and numbers, from a control loop to a folder or a bucket that training can read.

The write flow from end to end: `beginning.py` opens a recording, `running.py` takes the frames of an episode,
`capture.py` makes its files, and `saving.py` has it laid down and sent into a store.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

from lazyvid.errors import EncoderFailedError, EncoderStalledError, RecordingDiskFullError, RecordingError
from lazyvid.recording import beginning, spool
from lazyvid.recording.beginning import OpenRecording
from lazyvid.recording.capture import Tuning
from lazyvid.recording.lane import OnFull
from lazyvid.recording.layout import Layout, RecordingLayout
from lazyvid.recording.manifest import RecordingMeta
from lazyvid.recording.running import RunningEpisode
from lazyvid.recording.saving import SavedEpisodes
from lazyvid.storage import ObjectStore, display_uri

_log = logging.getLogger(__name__)


class Recorder:
    """Records episodes of frames, each of several cameras and numbers; made by `create` or `resume`.

    A frame is a mapping: every feature by name, `task` (a text), and, where there are capture times, `timestamp`:
    seconds on any clock, or one such number by camera. An episode has them in all of its frames or in none; without
    them, frame k lies at k / fps.

    As a context manager it calls `finalize` at the end of the block; after an exception, the running episode is given
    up first. Belongs to one thread.

    Example:
        >>> features = {                                                    # doctest: +SKIP
        ...     "front": {"dtype": "video", "shape": [480, 640, 3]},
        ...     "state": {"dtype": "float32", "shape": [6], "names": ["j1", "j2", "j3", "j4", "j5", "grip"]},
        ... }
        >>> with Recorder.create("runs/pick", fps=30, features=features) as recorder:   # doctest: +SKIP
        ...     for _ in range(50):
        ...         for picture, state in episode():
        ...             recorder.add_frame({"front": picture, "state": state, "task": "pick up the cube"})
        ...         recorder.save_episode()
    """

    def __init__(self, recording: OpenRecording) -> None:
        """Not for users: see `create` and `resume`."""
        self._place, self._cameras, self._lock = recording.place, recording.cameras, recording.lock
        self._spec, self._durable_s = recording.state.spec, recording.durable_s
        self._rules = recording.layout.rules
        try:
            self._saved = SavedEpisodes(recording.place, recording.layout, recording.state, recording.cameras)
        except BaseException:
            self._cameras.close()
            self._lock.release()
            raise
        self._ended = False
        self._failed: BaseException | None = None
        self._episode = self._next_episode()

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        fps: float | Fraction,
        features: Mapping[str, Mapping[str, Any]],
        *,
        layout: Layout | None = None,
        streaming_encoding: bool = True,
        batch_encoding_size: int = 1,
        vcodec: str = "libsvtav1",
        pix_fmt: str = "yuv420p",
        g: int | None = 2,
        crf: float | None = 30,
        preset: str | int | None = None,
        queue_maxsize: int = 30,
        encoder_threads: int | None = None,
        on_full: OnFull = "drop",
        durable_s: float = 1.0,
        store: ObjectStore | None = None,
        storage_options: Mapping[str, Any] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Begin a recording.

        Args:
            root: Where it goes: a folder, or a URL of any scheme that fsspec can write to.
            fps: Frames per second; nominal where frames have capture times.
            features: What a frame holds, by name: `{"dtype": ..., "shape": [...], "names": ...}`, the dtype "video",
                "string", or numpy's name of a number type.
            layout: What lies on disk; by default lazyvid's own.
            streaming_encoding: Encode while recording. False keeps PNGs under `images/` first and encodes them when the
                episode is saved.
            batch_encoding_size: Without streaming: encode that many episodes at once, when the last of them is saved.
            vcodec: "h264", "hevc", "libsvtav1", a hardware encoder's name, or "auto": the first that works here.
            pix_fmt: FFmpeg's name of the pixel format in the files.
            g: Largest distance between key frames, in frames; None leaves it to the encoder.
            crf: Quality, the smaller the better; None leaves it to the encoder.
            preset: Speed, by the encoder's own name or number.
            queue_maxsize: Frames that wait for an encoder, per camera.
            encoder_threads: Threads of an encoder; None leaves it to the encoder.
            on_full: What a full queue does to a frame: "drop" leaves it out of the video and counts it, "block" waits,
                "raise" is an error.
            durable_s: Seconds between two moments at which everything is brought to the disk: what a loss of power may
                cost. A killed process loses what the encoders still hold.
            store: Where `root` lies; by default an `ObjectStore` made from `storage_options`.
            storage_options: Options for fsspec, when no `store` is given.
            spool_dir: For a remote `root`: the folder in which recordings wait to be uploaded; by default one in the
                system's temporary folder.

        Raises:
            ValueError: if an argument is invalid; the message names it.
            EncoderUnavailableError: if the encoder does not work here.
            RecordingError: if there is a recording at `root` already, or the folder cannot be made.
        """
        encoding = {
            "streaming_encoding": streaming_encoding,
            "batch_encoding_size": batch_encoding_size,
            "vcodec": vcodec,
            "pix_fmt": pix_fmt,
            "g": g,
            "crf": crf,
            "preset": preset,
            "encoder_threads": encoder_threads,
        }
        spec = beginning.spec_of(fps, features, encoding)
        place = spool.place_of(root, store=store, storage_options=storage_options, spool_dir=spool_dir)
        tuning = Tuning(queue_maxsize, on_full, durable_s)
        return cls(beginning.begin(spec, place, layout or RecordingLayout(), tuning))

    @classmethod
    def resume(
        cls,
        root: str | os.PathLike[str],
        *,
        layout: Layout | None = None,
        queue_maxsize: int = 30,
        on_full: OnFull = "drop",
        durable_s: float = 1.0,
        store: ObjectStore | None = None,
        storage_options: Mapping[str, Any] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Go on with a recording, as it was begun; what a killed recorder left is recovered first.

        Args:
            root: as `create`, like all others.
            layout: The one that it was begun with.
            queue_maxsize: Frames that wait for an encoder, per camera.
            on_full: What a full queue does to a frame.
            durable_s: Seconds between two moments at which everything is brought to the disk.
            store: Where `root` lies.
            storage_options: Options for fsspec, when no `store` is given.
            spool_dir: For a remote `root`: the folder in which recordings wait to be uploaded.

        Raises:
            RecordingError: if there is no recording at `root`, or it is damaged.
        """
        place = spool.place_of(root, store=store, storage_options=storage_options, spool_dir=spool_dir)
        tuning = Tuning(queue_maxsize, on_full, durable_s)
        return cls(beginning.take_up(place, layout or RecordingLayout(), tuning))

    @property
    def root(self) -> str:
        """Where the recording goes, in full."""
        return self._place.uri

    @property
    def meta(self) -> RecordingMeta:
        """How much was saved so far."""
        return self._saved.meta

    @property
    def episode_frames(self) -> int:
        """Frames of the running episode."""
        return len(self._episode.rows)

    @property
    def dropped_frames(self) -> dict[str, int]:
        """Frames of the running or the last episode that found a queue full, by camera."""
        return self._cameras.dropped()

    @property
    def queued_frames(self) -> dict[str, int]:
        """Frames that wait for their encoder, by camera."""
        return self._cameras.queued()

    @property
    def durable_frames(self) -> dict[str, int]:
        """Frames of the running episode that a SIGKILL now would leave in a file, by camera."""
        return self._cameras.durable()

    def __repr__(self) -> str:
        return (
            f"Recorder({display_uri(self.root)!r}, episodes={self.meta.total_episodes}, "
            f"running={self.episode_frames} frames{', finalized' if self._ended else ''})"
        )

    def video_uri(self, episode: int, camera: str, *, wait: bool = True) -> str:
        """Where a saved episode's video lies, for `LazyVideo`.

        Args:
            episode: The episode's number.
            camera: The camera's name.
            wait: For a remote recording: return when the video and its sidecar are there.

        Raises:
            ValueError: if there is no such episode or camera, or the episode still waits to be encoded.
            StoreError: if the upload failed.
        """
        return self._saved.video_uri(episode, camera, wait=wait)

    # -- recording ----------------------------------------------------------------------------------------------------

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Add a frame to the running episode, which begins with its first one.

        Args:
            frame: Every feature by name, `task`, and `timestamp` where there are capture times. Pictures: numpy arrays
                or tensors, uint8 or floats in [0, 1], channels last or first. Numbers: arrays of the feature's dtype
                and shape, or Python's own. Everything is copied.

        Raises:
            ValueError: if a key is missing or unknown, a value has another shape or dtype than its feature, or a time
                does not increase; the message names it. The episode is as it was.
            CameraFormatChangedError: if a picture is of another kind than the episode's first one. As above.
            QueueFullError: with `on_full="raise"`, if an encoder does not keep up. As above.
            EncoderFailedError: if an encoder failed: the episode cannot be saved.
            RecordingDiskFullError: if the disk is full; `recover` finishes what is there.
            RecordingError: if the row cannot be written for another reason, or the recorder was finalized.
        """
        self._check_open("add a frame")
        try:
            self._episode.add(frame)
        except (EncoderFailedError, EncoderStalledError, RecordingDiskFullError) as error:
            self._fail(error)
            raise

    def save_episode(self) -> None:
        """End the running episode and lay it down: videos, rows, then the manifest. On the disk when this returns.

        Raises:
            ValueError: if the episode has no frame.
            EncoderFailedError: if an encoder failed. Here and below, the other cameras' files are finished, and what
                there is of the episode is kept: `recover` lays it down, `clear_episode_buffer` gives it up.
            EncoderStalledError: if an encoder does not end.
            RecordingDiskFullError: if the disk is full.
            RecordingError: if the disk does not take rows, sidecars or the manifest for another reason, the recorder
                was finalized, or an episode before failed.
        """
        self._check_open("save an episode")
        episode = self._episode
        if not len(episode.rows):
            raise ValueError("Expected a frame or more in the episode that is saved, found none: call add_frame first.")
        try:
            episode.save()
            self._saved.take(episode)
            self._episode = self._next_episode()
            if self._saved.is_due:
                self._saved.lay_down()
        except BaseException as error:
            self._fail(error)
            raise

    def clear_episode_buffer(self) -> None:
        """Give the running episode up: its frames and files are removed. Harmless when there is none."""
        if self._episode.is_begun:
            self._failed = None
            self._episode.cancel()
            self._episode = self._next_episode()

    def finalize(self) -> None:
        """Encode what waits, tidy the tables up and wait for all uploads. Finalizing twice does nothing.

        Frames that were added and not saved are given up, with a warning in the log.

        Raises:
            StoreError: if something could not be uploaded; its note names the folder that keeps it. Finalizing again
                tries again.
            RecordingError: if a waiting episode cannot be encoded.
        """
        if self._ended:
            return
        if self._failed is None:
            self._give_up()
            self._saved.lay_down()
        self._cameras.close()
        self._saved.finish(keep=self._failed is not None)
        self._lock.release()
        self._ended = True

    def __enter__(self) -> Self:
        """The recorder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finalize; after an exception, give the running episode up first, and let the exception through."""
        if error is None:
            self.finalize()
            return
        try:
            if self._failed is None:
                self.clear_episode_buffer()
            self.finalize()
        except Exception as another:
            error.add_note(f"Besides, the recording could not be finalized: {type(another).__name__}: {another}")

    # -- episodes -----------------------------------------------------------------------------------------------------

    def _next_episode(self) -> RunningEpisode:
        """An episode behind all that were saved."""
        number = self._saved.count
        folder = self._place.unfinished(number)
        return RunningEpisode(number, folder, self._spec, self._cameras, rules=self._rules, durable_s=self._durable_s)

    def _check_open(self, action: str) -> None:
        if self._ended:
            raise RecordingError(f"Cannot {action} in {display_uri(self.root)}: the recording was finalized.")
        if self._failed is not None:
            raise RecordingError(
                f"Cannot {action} in {display_uri(self.root)}: an episode failed with {type(self._failed).__name__}. "
                "What there is of it is kept for lazyvid.recording.recover, once the recorder is finalized; or give "
                "the running one up by clear_episode_buffer()."
            )

    def _fail(self, error: BaseException) -> None:
        """From here on, what there is of the episode is for `recover`."""
        self._failed = error
        self._episode.leave()
        error.add_note(
            f"What there is of the episode is kept in {self._place.unfinished_root}: lazyvid.recording.recover lays it "
            "down."
        )

    def _give_up(self) -> None:
        """Clear the running episode before the recorder ends, and say so."""
        if len(self._episode.rows):
            _log.warning(
                "Giving up %d frames of episode %d in %s: they were not saved before the recorder was finalized.",
                len(self._episode.rows), self._episode.number, display_uri(self.root),
            )  # fmt: skip
        self.clear_episode_buffer()


class VideoEncodingManager:
    """A block at whose end a recorder is finalized, whatever happens inside.

    After an exception the running episode is given up, episodes that wait are encoded and what the interrupted one left
    is removed; the exception goes on.

    Args:
        recorder: The recorder.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> Self:
        """The manager itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """As the recorder's own."""
        self.recorder.__exit__(kind, error, traceback)
