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
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lazyvid.arguments import check_word
from lazyvid.errors import LazyVidError, RecordingError, VideoError
from lazyvid.index.probe import build_index
from lazyvid.lerobot.adding import Adding, FileLimits
from lazyvid.lerobot.columns import (
    capture_columns,
    info_features,
    recorded_features,
    row_schema,
)
from lazyvid.lerobot.episodes import video_column
from lazyvid.lerobot.local_dataset import LocalDataset, check_whole, write_json
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
)
from lazyvid.recording.episodes import Episode
from lazyvid.recording.features import Features
from lazyvid.recording.layout import UploadPlan
from lazyvid.recording.manifest import RecordingSpec, RecordingState
from lazyvid.recording.rules import FrameRules, OnGap
from lazyvid.recording.splice import Piece, splice
from lazyvid.storage import sidecar_uri

_log = logging.getLogger(__name__)

_SETTINGS_PATH = "meta/lazyvid.json"
_MB = 1 << 20
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
        taken = capture_columns(spec.features.to_json())
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
            features = Features(recorded_features(raw, capture_columns(raw)))
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
        limits = FileLimits(
            rows=round(self.data_files_size_in_mb * _MB),
            video=round(min(self.video_files_size_in_mb, self.rewrite_in_mb) * _MB),
        )
        return Adding(dataset, state, episode, limits).run()

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
    counted = dataset.frames_in_last_video(key)
    try:
        index = build_index(path)
        if len(index) > counted:
            index = splice([Piece(path, 0, counted)], path, Fraction(dataset.info.fps))
    except VideoError as error:
        _log.warning("Leaving %s as it is: %s", path, error)
        return
    if not Path(sidecar_uri(path)).exists():
        index.save(path)


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
