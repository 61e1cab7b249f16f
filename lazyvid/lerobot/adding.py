"""One episode laid down in a LeRobot dataset: its videos, its rows, the tables of `meta/`, then the counts."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.errors import VideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import get_audio_info, get_video_info
from lazyvid.lerobot.columns import (
    CAPTURE,
    capture_columns,
    episode_table,
    info_features,
    row_schema,
    row_table,
    stats_columns,
)
from lazyvid.lerobot.episodes import video_column
from lazyvid.lerobot.local_dataset import LocalDataset, Place, append_parquet
from lazyvid.lerobot.schema import next_file, without_audio
from lazyvid.recording.episodes import Episode, EpisodeVideo, Stats, combined, number_columns, vector_statistics
from lazyvid.recording.features import STRING
from lazyvid.recording.manifest import RecordingState
from lazyvid.recording.places import publish_file, temporary_beside
from lazyvid.recording.splice import Piece, splice
from lazyvid.recording.statistics import ImageStatistics
from lazyvid.recording.video_statistics import as_feature, pictures_of
from lazyvid.storage import sidecar_uri

_log = logging.getLogger(__name__)

_REWRITTEN_ROWS, _REWRITTEN_EPISODES = 8 << 20, 2 << 20


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bytes that files grow to before the next one begins."""

    rows: int
    video: int
    """Of a file that an episode's video is appended to."""


@dataclass(slots=True)
class Adding:
    """One call of `LeRobotLayout.add`."""

    dataset: LocalDataset
    state: RecordingState
    episode: Episode
    limits: FileLimits

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self.state.spec.rate

    @property
    def count(self) -> int:
        """Rows of the episode."""
        return len(self.episode.rows)

    def run(self) -> RecordingState:
        """Videos, rows, the tables of `meta/`, then the counts; the recording's new state."""
        dataset, state = self.dataset, self.state
        videos: dict[str, Any] = {}
        for video in self.episode.videos:
            videos |= self._add_video(video)
        features = self._features()
        schema = dataset.row_schema or row_schema(features)
        tasks = dataset.tasks + [task for task in self.episode.rows.task_names() if task not in dataset.tasks]
        columns = self._columns(features, tasks)
        data_place = self._data_place()
        append_parquet(dataset.data_path(data_place), row_table(columns, schema))
        if len(tasks) > len(dataset.tasks):
            dataset.write_tasks(tasks)
        stats = self._stats(features, columns)
        self._add_row(features, stats, data_place, videos)
        whole = combined(state.stats, stats)
        dataset.write_stats(whole)
        dataset.write_info(
            {
                "total_episodes": state.total_episodes + 1,
                "total_frames": state.total_frames + self.count,
                "total_tasks": len(tasks),
                "splits": {"train": f"0:{state.total_episodes + 1}"},
                "features": features,
            }
        )
        return state.plus(replace(self.episode, stats=stats))

    # -- videos -------------------------------------------------------------------------------------------------------

    def _add_video(self, video: EpisodeVideo) -> dict[str, Any]:
        """Bring an episode's video into a file of the dataset; gives what the table of episodes says of it."""
        last = self.dataset.last_place(video.camera)
        place, before = (0, 0), 0
        if last is not None:
            before = self.dataset.frames_in_last_video(video.camera)
            place = self._appended(video, last, before)
            if place != last:
                before = 0
        if before == 0:
            self._first_in_file(video, self.dataset.video_path(video.camera, place))
        begin, end = float(before / self.rate), float((before + self.count) / self.rate)
        named = {"chunk_index": place[0], "file_index": place[1], "from_timestamp": begin, "to_timestamp": end}
        return {video_column(video.camera, what): value for what, value in named.items()}

    def _appended(self, video: EpisodeVideo, last: Place, before: int) -> Place:
        """Append to the last file of the camera; where that is not to be done, the place of the next one."""
        path = self.dataset.video_path(video.camera, last)
        following = next_file(*last, self.dataset.info.chunks_size)
        if not path.exists() or not Path(sidecar_uri(path)).exists():  # in its store, or another's
            return following
        if get_audio_info(path)["has_audio"]:  # of another's making: copying the pictures would lose it
            return following
        if path.stat().st_size + video.path.stat().st_size > self.limits.video:
            return following
        try:
            index = splice([Piece(path, 0, before), Piece(video.path, 0, self.count)], path, self.rate)
        except VideoError as error:
            _log.info("A new file for episode %d of %s: %s", self.episode.number, video.camera, error)
            return following
        index.save(path)
        return last

    def _first_in_file(self, video: EpisodeVideo, target: Path) -> None:
        """The episode's video as a file of its own, pictures alone."""
        index = video.index
        if _on_grid(index, self.count, self.rate) and not get_audio_info(video.path)["has_audio"]:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary_beside(target) as temporary:
                _link(video.path, temporary)
                publish_file(temporary, target)
        else:
            index = splice([Piece(video.path, 0, self.count)], target, self.rate)
        index.save(target)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _data_place(self) -> Place:
        row = self.dataset.last_episode
        last = None if row is None else (int(row["data/chunk_index"]), int(row["data/file_index"]))
        limit = min(self.limits.rows, _REWRITTEN_ROWS)
        return self.dataset.next_place(last, None if last is None else self.dataset.data_path(last), limit=limit)

    def _features(self) -> dict[str, dict[str, Any]]:
        """`info.json`'s features: with the first episode, columns of capture times and what its videos are."""
        features = {key: dict(given) for key, given in self.dataset.info.raw["features"].items()}
        if self.state.total_episodes:
            return features
        rows = self.episode.rows
        extra = [CAPTURE if camera == "timestamp" else f"{CAPTURE}.{camera}" for camera in (rows.times or [{}])[0]]
        recorded = {key: given for key, given in features.items() if key in self._own_keys()}
        named = info_features(recorded, extra)
        for video in self.episode.videos:
            named[video.camera]["info"] = _video_info(video.path, self.state.spec.encoding)
        return named

    def _own_keys(self) -> set[str]:
        return {feature.name for feature in self.state.spec.features}

    def _columns(self, features: dict[str, dict[str, Any]], tasks: list[str]) -> dict[str, Any]:
        """By feature: the episode's values."""
        rows, spec = self.episode.rows, self.state.spec
        columns: dict[str, Any] = {}
        for name, values in number_columns(rows, spec.features).items():
            columns[name] = values.reshape(self.count) if spec.features.tabular[name].shape == (1,) else values
        for name, feature in spec.features.tabular.items():
            if feature.dtype == STRING:
                columns[name] = list(rows.values[name])
        columns |= self._capture_times(capture_columns(features))
        frames = np.arange(self.count, dtype=np.int64)
        number_of = {task: number for number, task in enumerate(tasks)}
        return columns | {
            "timestamp": (frames / float(self.rate)).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(self.count, self.episode.number, np.int64),
            "index": self.state.total_frames + frames,
            "task_index": np.array([number_of[task] for task in rows.tasks], np.int64),
        }

    def _capture_times(self, names: list[str]) -> dict[str, npt.NDArray[np.float64]]:
        rows = self.episode.rows
        if rows.has_times and not names:
            _log.warning(
                "The capture times of episode %d are not kept: the dataset in %s has no column for them, because its "
                "first episode had none.", self.episode.number, self.dataset.root,
            )  # fmt: skip
        if not rows.has_times:
            return {name: np.full(self.count, np.nan) for name in names}
        cameras = {name: name.removeprefix(CAPTURE).removeprefix(".") or "timestamp" for name in names}
        return {name: np.array([times[camera] for times in rows.times]) for name, camera in cameras.items()}

    # -- meta ---------------------------------------------------------------------------------------------------------

    def _stats(self, features: dict[str, dict[str, Any]], columns: dict[str, Any]) -> Stats:
        """Statistics of every feature that has some."""
        stats: Stats = {key: value for key, value in self.episode.stats.items() if key in features}
        for video in self.episode.videos:
            if video.camera not in stats:
                stats[video.camera] = _of_one_picture(video.path)
        for key, values in columns.items():
            if key in stats or isinstance(values, list):
                continue
            vectors = values.reshape(self.count, -1).astype(np.float64)
            vectors = vectors[np.isfinite(vectors).all(axis=1)]
            if len(vectors):
                stats[key] = vector_statistics(vectors, tuple(features[key]["shape"]))
        return stats

    def _add_row(
        self, features: dict[str, dict[str, Any]], stats: Stats, data_place: Place, videos: dict[str, Any]
    ) -> None:
        first = self.state.total_frames
        row = {
            "episode_index": self.episode.number,
            "tasks": self.episode.rows.task_names(),
            "length": self.count,
            "data/chunk_index": data_place[0],
            "data/file_index": data_place[1],
            "dataset_from_index": first,
            "dataset_to_index": first + self.count,
            **videos,
        }
        known = self.dataset.last_episode
        last = (
            None if known is None else (int(known["meta/episodes/chunk_index"]), int(known["meta/episodes/file_index"]))
        )
        path = None if last is None else self.dataset.episodes_path(last)
        place = self.dataset.next_place(last, path, limit=_REWRITTEN_EPISODES)
        table = episode_table(row, stats_columns(stats, features), place, self.dataset.episodes_schema)
        append_parquet(self.dataset.episodes_path(place), table)


def _on_grid(index: FrameIndex, count: int, rate: Fraction) -> bool:
    """Whether a file holds just so many frames, frame k at k / rate by its own clock."""
    if len(index) != count or len(index.sources) != 1:
        return False
    step = 1 / (rate * index.sources[0].time_base)
    return step.denominator == 1 and bool(np.array_equal(index.packets.pts, np.arange(count) * int(step)))


def _of_one_picture(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Statistics of a video that is too short for an encoder to give some: of its first picture."""
    statistics = ImageStatistics()
    picture = next(iter(pictures_of(path)))
    for _ in range(2):
        statistics.update(picture)
    found = as_feature(statistics.get_statistics())
    return found | {"count": found["count"] // 2}


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _video_info(path: Path, encoding: Any) -> dict[str, Any]:
    """What `info.json` says of a camera's videos, in the words of LeRobot 0.6."""
    info = {key: value for key, value in get_video_info(path).items() if key != "video.is_depth_map"}
    info["video.fps"] = int(info["video.fps"])
    return {
        **without_audio(info),
        "video.g": encoding["g"],
        "video.crf": encoding["crf"],
        "video.preset": encoding["preset"],
        "video.fast_decode": 0,
        "video.video_backend": "pyav",
        "video.extra_options": {},
        "is_depth_map": False,
    }
