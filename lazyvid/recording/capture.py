"""How the cameras' pictures of an episode become files: encoded as they come, or kept as images and encoded at its end.

Between `recorder.py`, which says what belongs to which row, and the encoders.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from glob import escape
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import av
import numpy as np
import numpy.typing as npt

from lazyvid.errors import RecordingError
from lazyvid.recording.codecs import effort_options
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.recording.episodes import Episode, EpisodeRows, finish_video, row_statistics
from lazyvid.recording.images import ImageWriter, frame_path
from lazyvid.recording.lane import OnFull
from lazyvid.recording.manifest import RecordingSpec
from lazyvid.recording.mp4 import sync
from lazyvid.recording.pictures import FrameLike
from lazyvid.recording.places import disk_failures
from lazyvid.recording.png import decode_png
from lazyvid.recording.rules import FrameRules
from lazyvid.recording.statistics import ImageStatistics, Statistics, image_feature
from lazyvid.recording.syncing import SyncingThread
from lazyvid.recording.writer import VideoWriter
from lazyvid.storage.local import make_folders, sync_folder

IMAGES = "images"
_SAMPLES = 100
_BYTES = 255.0


@dataclass(frozen=True, slots=True)
class CameraFile:
    """What a camera left of an episode."""

    path: Path
    """The finished MP4."""
    stats: Statistics | None
    """Of its pictures; None when there are too few."""


class Cameras(Protocol):
    """The cameras of a recorder."""

    def begin(self, episode: int, folder: Path, *, origin: float | None) -> None:
        """Get ready for the first frame of an episode, whose files go into the folder; its earliest capture time."""

    def feed(self, camera: str, picture: FrameLike, seconds: float | None) -> None:
        """Take the next picture of a camera."""

    def wait_for_room(self, seconds: float | None) -> bool:
        """Whether none of the cameras would drop its next picture; where one would, it is left out for all."""

    def end(self) -> None:
        """Bring all that was fed to the disk: from here on, the episode's files can be made."""

    def files(self, episode: int, rows: EpisodeRows) -> dict[str, CameraFile]:
        """The finished files of an episode that has ended, by camera."""

    def cancel(self) -> None:
        """Forget the running episode and remove what there is of it."""

    def clean(self, episode: int) -> None:
        """Remove what is no longer needed of an episode whose files are in place."""

    def close(self) -> None:
        """End what runs in the background. Closing twice does nothing."""

    def queued(self) -> dict[str, int]:
        """Pictures that wait for their encoder, by camera; empty where none encodes as they come."""

    def durable(self) -> dict[str, int]:
        """Pictures of the running episode that a SIGKILL now would leave in a file, by camera."""

    def dropped(self) -> dict[str, int]:
        """Pictures of the running or the last episode that were dropped, by camera."""


class StreamingCameras:
    """Encodes pictures as they come.

    Args:
        cameras: Names of the cameras.
        encoder: What encodes them.
    """

    def __init__(self, cameras: Iterable[str], encoder: StreamingVideoEncoder) -> None:
        self._cameras, self._encoder = list(cameras), encoder
        self._files: dict[str, CameraFile] = {}

    def begin(self, episode: int, folder: Path, *, origin: float | None) -> None:
        """Start an encoder for each camera."""
        del episode
        self._files = {}
        if self._cameras:
            self._encoder.start_episode(self._cameras, folder, origin=origin)

    def feed(self, camera: str, picture: FrameLike, seconds: float | None) -> None:
        """Put a copy of the picture into the camera's queue."""
        self._encoder.feed_frame(camera, picture, seconds)

    def wait_for_room(self, seconds: float | None) -> bool:
        """Wait as `feed` would."""
        return not self._cameras or self._encoder.wait_for_room(seconds)

    def end(self) -> None:
        """Wait for the encoders to finish their files."""
        self._files = {}
        if not self._cameras:
            return
        self._files = {
            camera: CameraFile(Path(path), None if stats is None else as_feature(stats))
            for camera, (path, stats) in self._encoder.finish_episode().items()
        }

    def files(self, episode: int, rows: EpisodeRows) -> dict[str, CameraFile]:
        """The files that `end` finished."""
        del episode, rows
        return self._files

    def cancel(self) -> None:
        """Stop the encoders and remove their files."""
        self._encoder.cancel_episode()

    def clean(self, episode: int) -> None:
        """Nothing is left."""
        del episode

    def close(self) -> None:
        """Stop the encoders."""
        self._encoder.close()

    def queued(self) -> dict[str, int]:
        """Pictures that wait for their encoder, by camera."""
        return self._encoder.queued_frames

    def durable(self) -> dict[str, int]:
        """Pictures of the running episode that a SIGKILL now would leave in a file, by camera."""
        return self._encoder.durable_frames

    def dropped(self) -> dict[str, int]:
        """Pictures that found the queue full, by camera."""
        return dict(self._encoder.dropped_frames)


@dataclass(frozen=True, slots=True)
class ImageEncoding:
    """How images become videos."""

    rate: Fraction
    """Frames per second, where there are no capture times."""
    vcodec: str
    """As `VideoWriter` takes it."""
    pix_fmt: str
    """FFmpeg's name of the pixel format."""
    g: int | None
    """Largest distance between key frames."""
    crf: float | None
    """Quality."""
    preset: str | int | None
    """Speed."""
    encoder_threads: int | None
    """None leaves it to the encoder."""

    @classmethod
    def from_settings(cls, rate: Fraction, settings: Mapping[str, Any]) -> ImageEncoding:
        """Of the settings that a recording's manifest keeps."""
        names = ("vcodec", "pix_fmt", "g", "crf", "preset", "encoder_threads")
        return cls(rate, *(settings[name] for name in names))


class ImageCameras:
    """Keeps pictures as PNGs under `images/` and encodes them once an episode, or a batch of them, has ended.

    Args:
        cameras: Names of the cameras.
        root: The recording's local folder.
        encoding: How the images become videos.
        durable_s: What of the running episode a loss of power may cost, in seconds.
    """

    def __init__(self, cameras: Iterable[str], root: Path, encoding: ImageEncoding, *, durable_s: float) -> None:
        self._cameras, self._root, self._encoding = list(cameras), root, encoding
        self._durable_s = durable_s
        self._writer = ImageWriter()
        self._unsynced: deque[Path] = deque()  # the end is added to by the thread that feeds
        self._names_in: set[str] = set()
        self._unsynced_for: OSError | None = None
        self._lock = threading.Lock()
        self._syncing: SyncingThread | None = None
        self._counts: dict[str, int] = {}
        self._episode = -1

    def begin(self, episode: int, folder: Path, *, origin: float | None) -> None:
        """Begin with empty folders of images."""
        del folder, origin
        self.clean(episode)
        self._episode, self._counts = episode, dict.fromkeys(self._cameras, 0)
        for camera in self._cameras:
            self._names_in.update(make_folders(images_of(self._root, camera, episode)))
        if self._cameras:
            self._syncing = SyncingThread([self], every_s=self._durable_s)
            self._syncing.start()

    def feed(self, camera: str, picture: FrameLike, seconds: float | None) -> None:
        """Write the picture in the background."""
        del seconds
        number = self._counts[camera]
        path = frame_path(images_of(self._root, camera, self._episode), number)
        self._writer.save_image(picture, path)
        self._counts[camera] = number + 1
        self._unsynced.append(path)

    def wait_for_room(self, seconds: float | None) -> bool:
        """Writing waits: nothing is dropped."""
        del seconds
        return True

    def end(self) -> None:
        """Wait for the images to be on the disk."""
        self._stop_syncing()
        self._writer.wait_until_done()
        with disk_failures(f"bring the pictures of episode {self._episode} to the disk"):
            self.sync()

    def sync(self) -> None:
        """Bring the images that are written to the disk; for another thread.

        Raises:
            OSError: if the disk does not take one; the same again from then on, until the episode is given up.
        """
        with self._lock:
            if self._unsynced_for is not None:
                raise self._unsynced_for
            try:
                self._sync_written()
            except OSError as error:
                # Told once: the system takes the pages for written from here on, and a later sync would find no fault.
                self._unsynced_for = error
                raise

    def _sync_written(self) -> None:
        written = []
        for path in [self._unsynced.popleft() for _ in range(len(self._unsynced))]:
            if path.exists():
                sync(str(path))
                written.append(path)
            else:  # still in the writer's queue
                self._unsynced.append(path)
        for folder in {str(path.parent) for path in written} | self._names_in:
            sync_folder(folder)
        self._names_in.clear()

    def _stop_syncing(self) -> None:
        if self._syncing is not None:
            self._syncing.stop()
            self._syncing = None

    def files(self, episode: int, rows: EpisodeRows) -> dict[str, CameraFile]:
        """Encode an episode's images."""
        return {camera: encode_images(self._root, camera, episode, rows, self._encoding) for camera in self._cameras}

    def cancel(self) -> None:
        """Remove the running episode's images."""
        self._stop_syncing()
        with contextlib.suppress(RecordingError):  # of images that are no longer wanted
            self._writer.wait_until_done()
        with self._lock:
            self._unsynced.clear()
            self._unsynced_for = None
        self.clean(self._episode)

    def clean(self, episode: int) -> None:
        """Remove an episode's images, and the folders that are empty then."""
        remove_images(self._root, self._cameras, episode)

    def close(self) -> None:
        """End the threads that write images."""
        self._stop_syncing()
        self._writer.stop()

    def queued(self) -> dict[str, int]:
        """None: pictures are encoded after the episode."""
        return {}

    def durable(self) -> dict[str, int]:
        """None: pictures are in no video before the episode has ended."""
        return {}

    def dropped(self) -> dict[str, int]:
        """None: writing waits."""
        return dict.fromkeys(self._cameras, 0)


def streamed_video(folder: Path, camera: str) -> Path:
    """The file into which `StreamingCameras` encodes a camera's pictures, in the folder of an episode."""
    name = f"{quote(camera, safe='')}.mp4"
    return next(folder.glob(f"*/{escape(name)}"), folder / name)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What may differ from one recorder of a recording to the next."""

    queue_maxsize: int
    """Pictures that wait for an encoder, per camera."""
    on_full: OnFull
    """What a full queue does to a picture."""
    durable_s: float
    """Seconds between two fsyncs of each file."""


def cameras_of(spec: RecordingSpec, root: Path, tuning: Tuning, rules: FrameRules) -> Cameras:
    """What makes files of a recording's pictures, by the settings that it was begun with."""
    settings = spec.encoding
    if not settings["streaming_encoding"]:
        encoding = ImageEncoding.from_settings(spec.rate, settings)
        return ImageCameras(spec.features.videos, root, encoding, durable_s=tuning.durable_s)
    encoder = StreamingVideoEncoder(
        spec.rate,
        settings["vcodec"],
        settings["pix_fmt"],
        settings["g"],
        settings["crf"],
        settings["preset"],
        tuning.queue_maxsize,
        settings["encoder_threads"],
        on_full=tuning.on_full,
        repeat_gaps=rules.on_gap == "repeat",
        durable_s=tuning.durable_s,
    )
    return StreamingCameras(spec.features.videos, encoder)


def images_of(root: Path, camera: str, episode: int) -> Path:
    """The folder of an episode's images of a camera."""
    return root / IMAGES / camera / f"episode-{episode:06d}"


def remove_images(root: Path, cameras: Iterable[str], episode: int) -> None:
    """Remove an episode's images, and the folders that are empty then."""
    for camera in cameras:
        folder = images_of(root, camera, episode)
        shutil.rmtree(folder, ignore_errors=True)
        for empty in (folder.parent, folder.parent.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()


def encode_images(root: Path, camera: str, episode: int, rows: EpisodeRows, encoding: ImageEncoding) -> CameraFile:
    """Encode an episode's images of a camera, each under its row's time, into an MP4 beside them.

    Args:
        root: The recording's local folder.
        camera: The camera's name.
        episode: The episode's number.
        rows: Its rows; one image each.
        encoding: How.

    Returns:
        The file, without a sidecar yet.
    """
    folder = images_of(root, camera, episode)
    path = folder / "video.mp4"
    times = rows.camera_seconds(camera, encoding.rate).tolist() if rows.has_times else [None] * len(rows)
    writer = VideoWriter(
        path,
        encoding.rate,
        vcodec=encoding.vcodec,
        pix_fmt=encoding.pix_fmt,
        g=encoding.g,
        crf=encoding.crf,
        preset=encoding.preset,
        options=effort_options(encoding.vcodec, encoder_threads=encoding.encoder_threads),
        origin=min(rows.times[0].values()) if rows.has_times else None,
        write_sidecar=False,
    )
    statistics = ImageStatistics()
    wanted = _sampled(len(rows))
    with writer:
        for number, seconds in enumerate(times):
            image = frame_path(folder, number)
            picture = decode_png(image.read_bytes(), name=str(image))
            writer.add_frame(picture, seconds)
            if number in wanted:
                statistics.update(picture)
    return CameraFile(path, _of(statistics))


def make_episode(
    spec: RecordingSpec,
    number: int,
    rows: EpisodeRows,
    files: Mapping[str, CameraFile],
    *,
    strict: bool,
    on_grid: bool = False,
    interrupted: bool = False,
) -> Episode:
    """An episode of rows and finished files, each file held against the rows.

    Args:
        spec: What is recorded.
        number: The episode's number.
        rows: Its rows.
        files: Its cameras' files.
        strict: Whether a frame that no row has is an error.
        on_grid: Whether frame k lies at k / fps, whatever capture times the rows have.
        interrupted: Whether its end may be missing.

    Raises:
        EncoderFailedError: if a file holds frames at times that no row has.
    """
    shown = rows.untimed() if on_grid else rows
    videos = tuple(
        finish_video(camera, file.path, shown, spec.rate, strict=strict)
        for camera, file in sorted(files.items())
        if file.path.exists()  # a camera all of whose frames were dropped has none
    )
    stats = row_statistics(rows, spec.features)
    stats |= {camera: file.stats for camera, file in files.items() if file.stats is not None}
    return Episode(number, rows, videos, stats, interrupted)


def video_statistics(path: Path, frames: int) -> Statistics | None:
    """Statistics of a sample of a video's frames, as an encoder would have given them; None for fewer than two."""
    statistics = ImageStatistics()
    wanted = _sampled(frames)
    for number, picture in enumerate(pictures_of(path)):
        if number in wanted:
            statistics.update(picture)
    return _of(statistics)


def pictures_of(path: Path) -> Iterator[npt.NDArray[Any]]:
    """The pictures of a local MP4, one after the other: uint8 [H, W, 3], or gray ones as they are."""
    with path.open("rb") as file, av.open(file, "r", format="mp4") as container:
        for frame in container.decode(video=0):
            is_gray = frame.format.name.startswith("gray")
            yield frame.to_ndarray() if is_gray else frame.to_ndarray(format="rgb24")


def _sampled(count: int) -> frozenset[int]:
    """Evenly spaced frames: all of a hundred, fewer and fewer of more."""
    wanted = min(count, max(_SAMPLES, int(count**0.75)))
    return frozenset(np.linspace(0, max(count - 1, 0), wanted).astype(int).tolist())


def _of(statistics: ImageStatistics) -> Statistics | None:
    return as_feature(statistics.get_statistics()) if statistics.frame_count >= 2 else None


def as_feature(levels: Statistics) -> Statistics:
    """Statistics of levels as those of values in [0, 1]; levels above a byte's are of 16 bits."""
    highest = _BYTES if float(np.max(levels["max"])) <= _BYTES else 65535.0
    return image_feature(levels, highest=highest)
