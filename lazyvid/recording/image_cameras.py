"""Cameras whose pictures are kept as images while an episode runs, and encoded when one, or a batch, has ended."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lazyvid.errors import RecordingError
from lazyvid.recording.cameras import CameraFile
from lazyvid.recording.codecs import effort_options
from lazyvid.recording.disk import disk_failures
from lazyvid.recording.episodes import EpisodeRows
from lazyvid.recording.images import ImageWriter, frame_path
from lazyvid.recording.mp4 import sync
from lazyvid.recording.pictures import FrameLike
from lazyvid.recording.png import decode_png
from lazyvid.recording.statistics import ImageStatistics
from lazyvid.recording.syncing import SyncingThread
from lazyvid.recording.video_statistics import feature_of, sampled
from lazyvid.recording.writer import VideoWriter
from lazyvid.storage.local import make_folders, sync_folder

IMAGES = "images"


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
    wanted = sampled(len(rows))
    with writer:
        for number, seconds in enumerate(times):
            image = frame_path(folder, number)
            picture = decode_png(image.read_bytes(), name=str(image))
            writer.add_frame(picture, seconds)
            if number in wanted:
                statistics.update(picture)
    return CameraFile(path, feature_of(statistics))
