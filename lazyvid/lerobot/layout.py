"""`LeRobotLayout`: a recorder's episodes as a LeRobot dataset of format v3.0, which LeRobot opens.

    <root>/videos/<camera>/chunk-000/file-000.mp4      many episodes each, frame k at k / fps exactly; with its sidecar
    <root>/data/chunk-000/file-000.parquet             one row a frame, one row group an episode
    <root>/meta/episodes/chunk-000/file-000.parquet    one row an episode, with its statistics
    <root>/meta/tasks.parquet, stats.json, lazyvid.json
    <root>/meta/info.json                                counts what is whole; written last

An episode's video is appended to the last file by copying packets while that file is small, so that no more than
`rewrite_in_mb` are ever written again; then a file begins. After every saved episode all files are whole.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.arguments import check_word
from lazyvid.errors import LazyVidError, RecordingError, VideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index, get_video_info
from lazyvid.lerobot.columns import (
    episode_table,
    info_features,
    recorded_features,
    row_schema,
    row_table,
    stats_columns,
)
from lazyvid.lerobot.episodes import video_column
from lazyvid.lerobot.local_dataset import LocalDataset, Place, append_parquet, check_whole, write_json
from lazyvid.lerobot.schema import (
    CHUNKS_SIZE,
    CODEBASE_VERSION,
    DATA_FILES_SIZE_IN_MB,
    DATA_PATH,
    INFO_PATH,
    STATS_PATH,
    TASKS_PATH,
    VIDEO,
    VIDEO_FILES_SIZE_IN_MB,
    VIDEO_PATH,
    next_file,
)
from lazyvid.recording.capture import as_feature, pictures_of
from lazyvid.recording.episodes import Episode, EpisodeVideo, Stats, combined, number_columns, vector_statistics
from lazyvid.recording.features import STRING, Features
from lazyvid.recording.layout import UploadPlan
from lazyvid.recording.manifest import RecordingSpec, RecordingState
from lazyvid.recording.places import publish_file, temporary_beside
from lazyvid.recording.rules import FrameRules, OnGap
from lazyvid.recording.splice import Piece, splice
from lazyvid.recording.statistics import ImageStatistics
from lazyvid.storage import sidecar_uri

_log = logging.getLogger(__name__)

CAPTURE = "capture_timestamp"
"""Column of capture times in seconds, with `.<camera>` behind it; no policy takes it for an observation."""
_SETTINGS_PATH = "meta/lazyvid.json"
_MB = 1 << 20
_REWRITTEN_ROWS, _REWRITTEN_EPISODES = 8 * _MB, 2 * _MB
_ENCODERS = {"av1": "libsvtav1", "h264": "h264", "hevc": "hevc"}


@dataclass(frozen=True, slots=True)
class LeRobotLayout:
    """A LeRobot dataset, for `Recorder.create(..., layout=LeRobotLayout())`. Any number of recordings may use one.

    Rows have the features that the recorder was given, LeRobot's own, and, where frames have capture times, a column
    `capture_timestamp.<camera>` in seconds (float64): LeRobot's `timestamp` is always frame_index / fps. The first
    episode decides whether there are such columns.
    """

    robot_type: str | None = None
    """What is recorded."""
    on_gap: OnGap = "repeat"
    """What becomes of a frame that a camera had to drop: "repeat" encodes the one before it again, "drop_row" leaves
    the row out for all cameras. Both are counted in `Recorder.dropped_frames`."""
    chunks_size: int = CHUNKS_SIZE
    """The most files of a kind in a folder."""
    data_files_size_in_mb: float = DATA_FILES_SIZE_IN_MB
    """The most that a file of rows grows to."""
    video_files_size_in_mb: float = VIDEO_FILES_SIZE_IN_MB
    """The most that a video grows to."""
    rewrite_in_mb: float = 16
    """The most of a video that is written again to append an episode; beyond it a new file begins. 0 gives each episode
    files of its own."""

    def __post_init__(self) -> None:
        check_word("on_gap", self.on_gap, ("repeat", "drop_row"))
        for name in ("chunks_size", "data_files_size_in_mb", "video_files_size_in_mb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Invalid {name} {getattr(self, name)!r}: expected a positive number.")
        if not self.rewrite_in_mb >= 0:
            raise ValueError(f"Invalid rewrite_in_mb {self.rewrite_in_mb!r}: expected 0 or more.")

    @property
    def rules(self) -> FrameRules:
        """Frame k lies at k / fps, and there is one for every row."""
        return FrameRules(on_grid=True, on_gap=self.on_gap)

    # -- a recording --------------------------------------------------------------------------------------------------

    def create(self, root: Path, spec: RecordingSpec) -> RecordingState:
        """Begin an empty dataset in a folder.

        Raises:
            ValueError: if the rate is no whole number, or a feature has too many dimensions.
            RecordingError: if there is a dataset already, or the folder cannot be made.
        """
        if spec.rate.denominator != 1:
            raise ValueError(f"Invalid fps {spec.rate}: LeRobot's datasets have a whole number of frames per second.")
        if (root / INFO_PATH).exists():
            raise RecordingError(
                f"Expected no dataset in {root}, found one. Choose another folder, or go on with it: "
                "Recorder.resume(root, layout=LeRobotLayout())."
            )
        taken = _capture_columns(spec.features.to_json())
        if taken:
            raise ValueError(f"Invalid feature name {taken[0]!r}: capture times have it; choose another name.")
        features = info_features(_as_written(spec.features))
        row_schema(features)  # raises for what parquet files of LeRobot cannot hold
        info = {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self.robot_type,
            "total_episodes": 0,
            "total_frames": 0,
            "total_tasks": 0,
            "chunks_size": self.chunks_size,
            "data_files_size_in_mb": self.data_files_size_in_mb,
            "video_files_size_in_mb": self.video_files_size_in_mb,
            "fps": int(spec.rate),
            "splits": {},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if spec.features.videos else None,
            "features": features,
        }
        try:
            root.mkdir(parents=True, exist_ok=True)
            _write_settings(root, spec)
            LocalDataset.create(root, info)
        except (OSError, LazyVidError) as error:
            raise RecordingError(f"Cannot make a dataset in {root}: {error}. Check the folder.") from error
        return RecordingState(spec, missing_frames=dict.fromkeys(spec.features.videos, 0))

    def open(self, root: Path) -> RecordingState:
        """The dataset that lies there, also one that LeRobot made, rid of what its `info.json` does not count.

        Raises:
            RecordingError: if there is none, or it cannot be recorded into.
            DatasetError: if it is damaged.
        """
        dataset = LocalDataset(root)
        if (root / _SETTINGS_PATH).exists():  # else it is another's, and what seems to be too much may be dear to him
            dataset.clean()
        check_whole(dataset)
        raw = dataset.info.raw["features"]
        try:
            features = Features(recorded_features(raw, _capture_columns(raw)))
            rate = Fraction(dataset.info.fps)
        except ValueError as error:
            raise RecordingError(f"Cannot record into the dataset in {root}: {error}") from error
        for key in features.videos:
            _mend(dataset, key)
        spec = RecordingSpec(rate, features, _encoding(root, raw))
        return RecordingState(
            spec,
            dataset.info.total_episodes,
            dataset.info.total_frames,
            dict.fromkeys(features.videos, 0),
            dataset.stats(),
        )

    def video_path(self, root: Path, episode: int, camera: str) -> Path:
        """Where an episode's video of a camera lies; of one that is not laid down, where nothing lies."""
        dataset = LocalDataset(root)
        row = dataset.episode(episode)
        if row is None:
            return root / ".unfinished" / "none" / f"{episode:06d}.mp4"
        place = row[video_column(camera, "chunk_index")], row[video_column(camera, "file_index")]
        return dataset.video_path(camera, place)

    def add(self, root: Path, state: RecordingState, episode: Episode) -> RecordingState:
        """Lay the next episode down: videos, rows, the tables of `meta/`, then the counts. Its own files stay."""
        dataset = LocalDataset(root)
        if not (root / _SETTINGS_PATH).exists():
            _write_settings(root, state.spec)
        return _Adding(self, dataset, state, episode).run()

    def finish(self, root: Path, state: RecordingState) -> None:
        """Nothing is left to be tidied."""

    def upload_plan(self, root: Path) -> UploadPlan:
        """What there is to bring into a store: files that grow no more, then the last ones, `info.json` at the end."""
        return upload_plan(LocalDataset(root))


def _write_settings(root: Path, spec: RecordingSpec) -> None:
    write_json(root / _SETTINGS_PATH, {"format_version": 1, "encoding": dict(spec.encoding)})


def _as_written(features: Features) -> dict[str, dict[str, Any]]:
    """A recording's features with pictures as [height, width, channels]."""
    given = features.to_json()
    for key, feature in features.videos.items():
        given[key] |= {"shape": list(feature.picture), "names": ["height", "width", "channels"]}
    return given


def _capture_columns(features: dict[str, Any]) -> list[str]:
    return [key for key in features if key == CAPTURE or key.startswith(f"{CAPTURE}.")]


def _encoding(root: Path, features: dict[str, Any]) -> dict[str, Any]:
    """The encoder's settings: those that lazyvid noted, else those that the videos' info tells."""
    path = root / _SETTINGS_PATH
    if path.exists():
        try:
            return dict(json.loads(path.read_bytes())["encoding"])
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(f"Cannot read {path}: expected a recorder's settings, found {error!r}.") from error
    info = next((given.get("info") or {} for given in features.values() if given["dtype"] == VIDEO), {})
    return {"streaming_encoding": True, "batch_encoding_size": 1, "encoder_threads": None, **video_settings(info)}


def video_settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's settings that a camera's info tells, by the names of `VideoWriter`; else LeRobot's defaults."""
    codec = info.get("video.codec")
    return {
        "vcodec": _ENCODERS.get(str(codec), "libsvtav1"),
        "pix_fmt": info.get("video.pix_fmt", "yuv420p"),
        "g": info.get("video.g", 2),
        "crf": info.get("video.crf", 30),
        "preset": info.get("video.preset"),
    }


def _mend(dataset: LocalDataset, key: str) -> None:
    """After a kill: take the frames that nobody counts from a camera's last video, and give it back its sidecar."""
    place = dataset.last_place(key)
    if place is None or not (dataset.root / _SETTINGS_PATH).exists():
        return
    path = dataset.video_path(key, place)
    if not path.exists():  # sent to its store
        return
    counted = _frames_in_file(dataset, key)
    try:
        index = build_index(path)
        if len(index) > counted:
            index = splice([Piece(path, 0, counted)], path, Fraction(dataset.info.fps))
    except VideoError as error:
        _log.warning("Leaving %s as it is: %s", path, error)
        return
    if not Path(sidecar_uri(path)).exists():
        index.save(path)


def _frames_in_file(dataset: LocalDataset, key: str) -> int:
    """Frames of the last video of a camera, up to the end of the last episode."""
    row = dataset.last_episode or {}
    return round(float(row[video_column(key, "to_timestamp")]) * dataset.info.fps)


@dataclass(slots=True)
class _Adding:
    """One call of `LeRobotLayout.add`."""

    layout: LeRobotLayout
    dataset: LocalDataset
    state: RecordingState
    episode: Episode

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self.state.spec.rate

    @property
    def count(self) -> int:
        """Rows of the episode."""
        return len(self.episode.rows)

    def run(self) -> RecordingState:
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
            before = _frames_in_file(self.dataset, video.camera)
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
        limit = min(self.layout.video_files_size_in_mb, self.layout.rewrite_in_mb) * _MB
        if not path.exists() or not Path(sidecar_uri(path)).exists():  # in its store, or another's
            return following
        if path.stat().st_size + video.path.stat().st_size > limit:
            return following
        try:
            index = splice([Piece(path, 0, before), Piece(video.path, 0, self.count)], path, self.rate)
        except VideoError as error:
            _log.info("A new file for episode %d of %s: %s", self.episode.number, video.camera, error)
            return following
        index.save(path)
        return last

    def _first_in_file(self, video: EpisodeVideo, target: Path) -> None:
        """The episode's video as a file of its own."""
        index = video.index
        if _on_grid(index, self.count, self.rate):
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
        limit = min(self.layout.data_files_size_in_mb * _MB, _REWRITTEN_ROWS)
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
        columns |= self._capture_times(_capture_columns(features))
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
        **info,
        "video.g": encoding["g"],
        "video.crf": encoding["crf"],
        "video.preset": encoding["preset"],
        "video.fast_decode": 0,
        "video.video_backend": "pyav",
        "video.extra_options": {},
        "is_depth_map": False,
    }


# -- uploads ----------------------------------------------------------------------------------------------------------


def upload_plan(dataset: LocalDataset) -> UploadPlan:
    """What a local dataset holds that belongs into a store.

    The last file of each kind may still grow: it goes with `info.json`, each time anew.
    """
    growing: list[Path] = []
    for key in dataset.info.keys(VIDEO):
        last = dataset.last_place(key)
        if last is not None and (path := dataset.video_path(key, last)).exists():
            sidecar = [file for file in sorted(Path(sidecar_uri(path)).rglob("*")) if file.is_file()]
            growing += [path, *sorted(sidecar, key=lambda file: file.suffix == ".manifest")]
    growing += dataset.data_files[-1:]
    growing += [path for path in (dataset.path(TASKS_PATH),) if path.exists()]
    growing += dataset.episodes_files[-1:]
    growing += [path for name in (STATS_PATH, _SETTINGS_PATH, INFO_PATH) if (path := dataset.path(name)).exists()]
    videos = [path for path in sorted((dataset.root / "videos").glob("*/*/*.mp4")) if path not in growing]
    videos = [path for path in videos if not path.name.startswith(".")]
    files = dataset.data_files[:-1] + dataset.episodes_files[:-1]

    def named(path: Path) -> str:
        return path.relative_to(dataset.root).as_posix()

    return UploadPlan(
        videos=tuple(map(named, videos)),
        files=tuple(map(named, files)),
        manifest=tuple((named(path), path.read_bytes()) for path in growing),
        tables=(),
    )
