"""`recover`: finishes what a killed recorder left, videos, rows and uploads, by the same steps as saving.

Beside the write flow: journals and unfinished videos in, a recording in which all is whole out. Doing it again does
nothing.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lazyvid.errors import IndexStateError, NoVideoStreamError, RecordingError, TruncatedVideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.recording import spool
from lazyvid.recording.cameras import CameraFile
from lazyvid.recording.capture import make_episode, streamed_video
from lazyvid.recording.disk import disk_failures
from lazyvid.recording.episodes import NO_FRAME, Episode, EpisodeRows, read_origin, whole_rows
from lazyvid.recording.image_cameras import ImageEncoding, encode_images, images_of, remove_images
from lazyvid.recording.images import frame_path
from lazyvid.recording.journal import read_journal
from lazyvid.recording.layout import Layout, RecordingLayout
from lazyvid.recording.manifest import RecordingSpec
from lazyvid.recording.repair import repair
from lazyvid.recording.spool import RootLock, Spool
from lazyvid.recording.times import CAPTURE_TIME_BASE
from lazyvid.recording.upload import Uploader
from lazyvid.recording.video_statistics import video_statistics
from lazyvid.storage import ObjectStore, display_uri, is_local

_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True)
class RecoveredEpisode:
    """An episode that was not laid down when its recorder ended."""

    number: int
    """The number that it has now."""
    rows: int
    """Rows that it has now; 0 when nothing of it could be had, and there is no such episode."""
    lost_rows: int
    """Rows behind them of which no camera has a frame."""
    missing_frames: Mapping[str, int]
    """By camera: rows without a frame, because it was dropped, or still in the encoder when the recorder ended."""
    saved: bool
    """Whether the user had saved it; otherwise it is what was recorded until then."""


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What `recover` found and did."""

    uri: str
    """What it looked at."""
    episodes: tuple[RecoveredEpisode, ...] = ()
    """Episodes that it finished."""
    videos: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Single files that it finished, and their frames."""
    uploaded: int = 0
    """Videos that it brought into the store."""

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.episodes or self.videos or self.uploaded)

    def __str__(self) -> str:
        lines = [f"{path}: {frames} frames, whole now" for path, frames in self.videos.items()]
        for episode in self.episodes:
            missing = ", ".join(f"{camera} {count}" for camera, count in episode.missing_frames.items() if count)
            lines.append(
                f"episode {episode.number}{'' if episode.saved else ', which was not saved'}: "
                f"{episode.rows} rows kept, {episode.lost_rows} lost, frames missing: {missing or 'none'}"
            )
        if self.uploaded:
            lines.append(f"{self.uploaded} videos uploaded")
        return "\n".join(lines or [f"{display_uri(self.uri)}: nothing to recover"])


def recover(
    path: str | os.PathLike[str],
    *,
    layout: Layout | None = None,
    store: ObjectStore | None = None,
    storage_options: Mapping[str, Any] | None = None,
    spool_dir: str | os.PathLike[str] | None = None,
) -> RecoverReport:
    """Finish what a recorder that was killed left.

    Args:
        path: A recording, local or in a store, as it was given to `Recorder.create`; its spool folder; or a single
            local MP4, which gets a sidecar too.
        layout: The one that the recording was begun with.
        store: Where `path` lies.
        storage_options: Options for fsspec, when no `store` is given.
        spool_dir: As it was given to `Recorder.create`.

    Returns:
        What was done. What was whole before is left as it is.

    Raises:
        TruncatedVideoError: if there is no frame in a single MP4.
        RecordingError: if there is no recording, a recorder is still at work, or a file cannot be made whole.
        StoreError: if something could not be uploaded; it is kept.
    """
    place = spool.place_of(path, store=store, storage_options=storage_options, spool_dir=spool_dir)
    if is_local(place.uri) and place.root.is_file():
        return RecoverReport(str(place.root), videos=recover_video(place.root))
    if not place.root.is_dir():
        return _nothing_here(place)
    layout = layout or RecordingLayout()
    lock = RootLock(place.root)
    try:
        episodes = recover_root(place, layout)
        return RecoverReport(place.uri, tuple(episodes), uploaded=_upload(place, layout))
    finally:
        lock.release()


def recover_video(path: Path) -> dict[str, int]:
    """Make a single MP4 whole and give it a sidecar; its frames by name, nothing where there was nothing to do."""
    repaired = repair(path)
    if not repaired and _has_sidecar(path):
        return {}
    try:
        index = build_index(path, scan="full")
    except NoVideoStreamError as error:  # the header is there, and no frame behind it
        raise TruncatedVideoError(
            f"Expected a frame or more in {path}, found none: {error} The recorder was killed before it wrote one."
        ) from error
    origin = read_origin(path)
    if origin is not None:
        ticks = np.rint(index.timestamp / float(CAPTURE_TIME_BASE)).astype(np.int64).tolist()
        seconds = [float(Fraction(origin) + tick * CAPTURE_TIME_BASE) for tick in ticks]
        index = dataclasses.replace(index, timestamp=np.array(seconds))
    index.save(path)
    return {str(path): len(index)}


def _has_sidecar(path: Path) -> bool:
    try:
        FrameIndex.open(path)
    except IndexStateError:
        return False
    return True


def _nothing_here(place: Spool) -> RecoverReport:
    """A report of nothing, unless there is no recording at all."""
    if place.target is None or not place.store.exists(place.target):
        raise RecordingError(f"Expected a recording or an MP4 at {display_uri(place.uri)}, found none. Check the path.")
    return RecoverReport(place.uri)


# -- a recording ------------------------------------------------------------------------------------------------------


def recover_root(place: Spool, layout: Layout) -> list[RecoveredEpisode]:
    """Lay down every episode of which there is something in the folder, and remove the rest.

    Args:
        place: Where the recording lies; its lock is held.
        layout: What lies on disk.

    Returns:
        The episodes, in order.
    """
    state = layout.open(place.root)
    report = []
    for number in place.unfinished_episodes():
        if number >= state.total_episodes:  # else a kill came between its last step and the removal of these files
            found = _Leftovers(place, layout, state.spec, number, state.total_episodes)
            episode, entry = found.episode(), found.entry
            if episode is not None:
                with disk_failures(f"lay episode {episode.number} down in {place.root}"):
                    state = layout.add(place.root, state, episode)
            report.append(entry)
        shutil.rmtree(place.unfinished(number), ignore_errors=True)
        remove_images(place.root, state.spec.features.videos, number)
    place.tidy()
    return report


class _Leftovers:
    """What there is of an episode that was not laid down.

    Args:
        place: Where the recording lies.
        layout: What lies on disk.
        spec: What is recorded.
        source: The number under which its files lie.
        number: The number that it gets.
    """

    def __init__(self, place: Spool, layout: Layout, spec: RecordingSpec, source: int, number: int) -> None:
        self._place, self._layout, self._spec, self._source, self._number = place, layout, spec, source, number
        self._rows, self._saved = read_journal(place.unfinished(source) / spool.JOURNAL, spec.features)
        self.entry = RecoveredEpisode(number, 0, len(self._rows), {}, self._saved)

    def episode(self) -> Episode | None:
        """The episode, as far as it can be had; fills `entry` in."""
        if not len(self._rows):
            return None
        files = {}
        for camera in self._spec.features.videos:
            file = self._file(camera)
            if file is not None:
                files[camera] = file
        episode = self._made(self._rows, files)
        count = self._rows_to_keep(episode)
        if not count:
            return None
        if count < len(self._rows):
            episode = self._made(self._rows.cut(count), files)
        missing = {video.camera: video.missing for video in episode.videos}
        self.entry = RecoveredEpisode(
            self._number,
            len(episode.rows),
            len(self._rows) - len(episode.rows),
            {camera: missing.get(camera, len(episode.rows)) for camera in self._spec.features.videos},
            self._saved,
        )
        return episode

    def _made(self, rows: EpisodeRows, files: Mapping[str, CameraFile]) -> Episode:
        interrupted = not self._saved or len(rows) < len(self._rows)
        on_grid = self._layout.rules.on_grid
        return make_episode(
            self._spec, self._number, rows, files, strict=False, on_grid=on_grid, interrupted=interrupted
        )

    def _rows_to_keep(self, episode: Episode) -> int:
        """All rows of an episode that was saved, else those up to the last one that a camera has a frame of."""
        cameras = self._spec.features.videos
        if not cameras:
            return len(self._rows)
        if self._layout.rules.needs_all_frames:
            return whole_rows(episode.videos, cameras)
        if self._saved:
            return len(self._rows)
        shown = [np.flatnonzero(video.frame_of_row != NO_FRAME) for video in episode.videos]
        return 1 + max((int(rows[-1]) for rows in shown if len(rows)), default=-1)

    def _file(self, camera: str) -> CameraFile | None:
        """A camera's file, made whole; None when it has no frame."""
        images = images_of(self._place.root, camera, self._source)
        path = self._layout.video_path(self._place.root, self._number, camera)
        if not path.exists():
            path = streamed_video(self._place.unfinished(self._source), camera)
        if not path.exists() and images.is_dir():
            return self._encoded(images, camera)
        try:
            if not path.exists():
                return None
            repair(path)
            return CameraFile(path, video_statistics(path, len(build_index(path))))
        except (TruncatedVideoError, NoVideoStreamError):
            return None

    def _encoded(self, images: Path, camera: str) -> CameraFile | None:
        count = _whole_images(images)
        if not count:
            return None
        encoding = ImageEncoding.from_settings(self._spec.rate, self._spec.encoding)
        rows = self._rows.cut(count)
        rows = rows.untimed() if self._layout.rules.on_grid else rows
        return encode_images(self._place.root, camera, self._source, rows, encoding)


def _whole_images(folder: Path) -> int:
    """Images from the first one on that were written to their end."""
    count = 0
    while (path := frame_path(folder, count)).exists() and path.read_bytes().endswith(_PNG_END):
        count += 1
    return count


def _upload(place: Spool, layout: Layout) -> int:
    """Bring what waits into the store; the number of videos."""
    if place.target is None:
        return 0
    plan = layout.upload_plan(place.root)
    uploader = Uploader(place.root, place.target, store=place.store)
    try:
        uploader.submit(plan, prune=True)
        uploader.wait()
    finally:
        uploader.close()
    place.remove()
    return len(plan.videos)
