"""Recordings in lazyvid's own layout, and plain folders of videos and tables, made into LeRobot datasets.

`conversion_sources.py` reads either as episodes; here each is laid down by `LeRobotLayout`, its packets copied onto the
grid of the rate where there is a frame for every row, encoded anew where there is not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.errors import EpisodeMismatchError, MissingIndexError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.lerobot.conversion_sources import SourceEpisode, SourceRecording, open_source
from lazyvid.lerobot.layout import LeRobotLayout
from lazyvid.recording.episodes import NO_FRAME, Episode, EpisodeRows, EpisodeVideo, Stats, row_statistics
from lazyvid.recording.manifest import RecordingSpec
from lazyvid.recording.video_statistics import video_statistics
from lazyvid.recording.writer import VideoWriter
from lazyvid.video import LazyVideo

IntArray = npt.NDArray[np.int64]
Advance = Callable[[str, int, int], None]
"""Called with what is done, how many of it are, and how many there are."""

_ENCODED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class ConvertedEpisode:
    """What became of an episode."""

    name: str
    """In the source."""
    rows: int
    """In the dataset."""
    left_out: int
    """Rows without a frame of every camera that were left out."""
    repeated: int
    """Frames, of all cameras together, that stand for others that were missing."""
    encoded: tuple[str, ...]
    """Cameras whose frames were encoded anew."""


def convert(
    source: Path,
    target: Path,
    *,
    layout: LeRobotLayout | None = None,
    fps: int | None = None,
    task: str | None = None,
    dry_run: bool = False,
    advance: Advance = lambda _what, _done, _total: None,
) -> list[ConvertedEpisode]:
    """Make a LeRobot dataset of a recording or a folder of videos.

    Args:
        source: A local folder: a recording of lazyvid's own layout; or MP4s, each episode's under one name in a folder
            a camera, with a Parquet or CSV file of that name that has a row a frame. Columns of that file are features;
            `task` says what is done and `timestamp` when, in seconds.
        target: A local folder that holds no dataset.
        layout: How it is laid down, and what becomes of gaps.
        fps: Frames per second; None is the source's own rate.
        task: What is done in episodes that do not say it themselves.
        dry_run: Look at everything, write nothing.
        advance: Told how far it is.

    Returns:
        What became of each episode.

    Raises:
        ValueError: if the source's rate is no whole number and none is given, a task is missing, or episodes have
            different features.
        EpisodeMismatchError: if an episode's table and videos have different numbers of rows and frames.
        LazyVidError: if the source cannot be read, or there is a dataset at the target.
    """
    recording = open_source(source, fps=fps, task=task)
    layout = layout or LeRobotLayout()
    report = []
    state = None if dry_run else layout.create(target, recording.spec)
    with tempfile.TemporaryDirectory(prefix="lazyvid-convert-") as scratch:
        for number, episode in enumerate(recording.episodes):
            advance("episodes", number, recording.count)
            fitted = _Fitting(recording, episode, layout, Path(scratch))
            report.append(fitted.outcome())
            if state is not None and len(fitted.kept):
                state = layout.add(target, state, fitted.episode(state.total_episodes))
    advance("episodes", recording.count, recording.count)
    return report


class _Fitting:
    """One episode, brought into the form that a LeRobot dataset needs: a frame of every camera for each row.

    Args:
        recording: What it belongs to.
        source: The episode.
        layout: What becomes of gaps.
        scratch: A folder for what is encoded anew.
    """

    def __init__(self, recording: SourceRecording, source: SourceEpisode, layout: LeRobotLayout, scratch: Path) -> None:
        self._spec: RecordingSpec = recording.spec
        self._source, self._scratch = source, scratch
        count = len(source.rows)
        self._indexes = {camera: _index(path) for camera, path in source.videos.items()}
        frames = {camera: self._frames(camera, count) for camera in self._spec.features.videos}
        missing = {camera: np.flatnonzero(each == NO_FRAME) for camera, each in frames.items()}
        gone = np.unique(np.concatenate([np.empty(0, np.int64), *missing.values()]))
        if layout.on_gap == "drop_row":
            self.kept: IntArray = np.setdiff1d(np.arange(count), gone)
            self._repeated = 0
        else:
            lost = any(len(each) == count for each in missing.values())  # nothing to be repeated
            self.kept = np.arange(0 if lost else count)
            self._repeated = 0 if lost else sum(map(len, missing.values()))
            frames = {camera: _filled(each) for camera, each in frames.items()}
        self._wanted = {camera: each[self.kept] for camera, each in frames.items()}

    def _frames(self, camera: str, count: int) -> IntArray:
        """int64 [rows], the frame of each row; checked where the source does not say it."""
        known = self._source.frame_of_row.get(camera)
        if known is not None:
            return known
        if camera not in self._indexes:
            return np.full(count, NO_FRAME, np.int64)
        if len(self._indexes[camera]) != count:
            raise EpisodeMismatchError(
                f"Expected {count} frames of {camera} in episode {self._source.name!r}, as its table has rows, found "
                f"{len(self._indexes[camera])} in {self._source.videos[camera]}."
            )
        return np.arange(count)

    def _is_whole(self, camera: str) -> bool:
        """Whether the video is wanted as it is."""
        return np.array_equal(self._wanted[camera], np.arange(len(self._indexes[camera])))

    def outcome(self) -> ConvertedEpisode:
        """What becomes of the episode."""
        left_out = len(self._source.rows) - len(self.kept)
        encoded = tuple(camera for camera in self._wanted if len(self.kept) and not self._is_whole(camera))
        return ConvertedEpisode(self._source.name, len(self.kept), left_out, self._repeated, encoded)

    def episode(self, number: int) -> Episode:
        """The episode, ready to be laid down."""
        rows = _rows(self._source.rows, self.kept)
        videos = tuple(self._video(camera) for camera in sorted(self._wanted))
        stats: Stats = row_statistics(rows, self._spec.features)
        for video in videos:
            known = self._source.stats.get(video.camera) or video_statistics(video.path, len(video.index))
            if known is not None:
                stats[video.camera] = known
        return Episode(number, rows, videos, stats)

    def _video(self, camera: str) -> EpisodeVideo:
        path, index = self._source.videos[camera], self._indexes[camera]
        if not self._is_whole(camera):
            path = self._encoded(camera, path, index)
            index = build_index(path)
        return EpisodeVideo(camera, path, index, np.arange(len(self.kept)))

    def _encoded(self, camera: str, path: Path, index: FrameIndex) -> Path:
        """The wanted frames, encoded anew."""
        target = self._scratch / f"{camera}.mp4"
        video = LazyVideo(path, frame_index=index, channel_format="NHWC")
        names = ("vcodec", "pix_fmt", "g", "crf", "preset")
        settings: Mapping[str, Any] = {name: self._spec.encoding[name] for name in names}
        with VideoWriter(target, Fraction(self._spec.rate), write_sidecar=False, **settings) as writer:
            for first in range(0, len(self.kept), _ENCODED_AT_ONCE):
                for picture in video.get_frames_at(self._wanted[camera][first : first + _ENCODED_AT_ONCE]).frames:
                    writer.add_frame(picture)
        return target


def _index(path: Path) -> FrameIndex:
    try:
        return FrameIndex.open(path)
    except MissingIndexError:
        return build_index(path)


def _filled(frames: IntArray) -> IntArray:
    """The last frame before each gap in its place; at the beginning the first one there is."""
    have = np.flatnonzero(frames != NO_FRAME)
    if not len(have):
        return frames
    before = np.searchsorted(have, np.arange(len(frames)), side="right") - 1
    return frames[have[np.maximum(before, 0)]]


def _rows(rows: EpisodeRows, kept: IntArray) -> EpisodeRows:
    """Some of the rows."""
    places = kept.tolist()
    return EpisodeRows(
        [rows.tasks[k] for k in places],
        {name: [values[k] for k in places] for name, values in rows.values.items()},
        [rows.times[k] for k in places] if rows.has_times else [],
    )
