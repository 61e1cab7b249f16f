"""What is converted, read as episodes of rows and videos: recordings of lazyvid's own layout, and plain folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from lazyvid import timing
from lazyvid.errors import EpisodeMismatchError, ObjectNotFoundError
from lazyvid.index.probe import build_index
from lazyvid.lerobot.tables import numbers_of
from lazyvid.recording.episodes import NO_FRAME, EpisodeRows, Stats
from lazyvid.recording.features import RESERVED, STRING, TASK, TIMESTAMP, VIDEO, Features
from lazyvid.recording.layout import RecordingLayout
from lazyvid.recording.manifest import MANIFEST, RecordingSpec, read_manifest
from lazyvid.recording.rows import columns_of

IntArray = npt.NDArray[np.int64]

ENCODING = {
    "streaming_encoding": True, "batch_encoding_size": 1, "vcodec": "libsvtav1", "pix_fmt": "yuv420p", "g": 2,
    "crf": 30, "preset": None, "encoder_threads": None,
}  # fmt: skip
"""How frames that must be encoded anew are: as LeRobot does."""

_CAMERA = "video"
_RATE_SLACK = 1e-3


@dataclass(frozen=True, slots=True)
class SourceEpisode:
    """An episode of a source."""

    name: str
    rows: EpisodeRows
    videos: Mapping[str, Path]
    """By camera."""
    frame_of_row: Mapping[str, IntArray] = field(default_factory=dict)
    """By camera, int64 [rows]: the frame of each row, where the source knows; else there is one for each."""
    stats: Stats = field(default_factory=dict)
    """Of its cameras, where the source knows."""


@dataclass(frozen=True, slots=True)
class SourceRecording:
    """What is converted."""

    spec: RecordingSpec
    count: int
    """Episodes."""
    episodes: Iterable[SourceEpisode]


def open_source(folder: Path, *, fps: int | None, task: str | None) -> SourceRecording:
    """A recording of lazyvid's own layout, or a folder of videos and tables.

    Args:
        folder: The folder.
        fps: Frames per second; None takes the source's.
        task: Of episodes that do not say what is done in them.

    Raises:
        ObjectNotFoundError: if there is neither.
        ValueError: if the rate is no whole number, a task is missing, or episodes have different features.
        LazyVidError: if it cannot be read.
    """
    if (folder / MANIFEST).exists():
        return _own(folder, fps)
    return _plain(folder, fps, task)


def _whole_rate(rate: Fraction, fps: int | None, what: object) -> Fraction:
    if fps is not None:
        return Fraction(fps)
    if rate.denominator != 1:
        raise ValueError(
            f"Expected a whole number of frames per second, as LeRobot's datasets have, found {float(rate):.6g} in "
            f"{what}. Give the rate that they shall have (fps=...): frame k will lie at k / fps."
        )
    return rate


# -- lazyvid's own layout ---------------------------------------------------------------------------------------------


def _own(folder: Path, fps: int | None) -> SourceRecording:
    state = read_manifest(folder)
    spec = replace(state.spec, rate=_whole_rate(state.spec.rate, fps, folder))
    return SourceRecording(spec, state.total_episodes, _own_episodes(folder, spec) if state.total_episodes else ())


def _own_episodes(folder: Path, spec: RecordingSpec) -> Iterator[SourceEpisode]:
    layout = RecordingLayout()
    frames, episodes = layout.frames(folder), layout.episodes(folder)
    names = columns_of(spec.features)
    for row in episodes.to_pylist():
        own = frames.filter(pc.equal(frames["episode_index"], row["episode_index"])).combine_chunks()
        paths = {video["camera"]: folder / video["path"] for video in row["videos"] if video["frames"]}
        frame_of_row = {
            camera: own[f"{names[camera]}_frame"].fill_null(NO_FRAME).to_numpy().astype(np.int64)
            for camera in spec.features.videos
        }
        values = {name: _values(own[names[name]], feature.shape) for name, feature in spec.features.tabular.items()}
        rows = EpisodeRows(
            own["task"].to_pylist(), values, _own_times(own, spec, names) if row["has_capture_times"] else []
        )
        yield SourceEpisode(str(row["episode_index"]), rows, paths, frame_of_row)


def _own_times(own: pa.Table, spec: RecordingSpec, names: Mapping[str, str]) -> list[dict[str, float]]:
    """Capture times by camera; where a camera has no frame, that of the row."""
    cameras = list(spec.features.videos)
    if not cameras:
        return [{TIMESTAMP: seconds} for seconds in own["timestamp"].to_pylist()]
    whole = own["timestamp"]
    columns = [pc.coalesce(own[f"{names[camera]}_timestamp"], whole).to_pylist() for camera in cameras]
    return [dict(zip(cameras, times, strict=True)) for times in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray, shape: tuple[int, ...]) -> list[Any]:
    """A column's values, one array or text a row."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    return list(numbers_of(column).reshape(len(column), *shape))


# -- plain folders ----------------------------------------------------------------------------------------------------


def _plain(folder: Path, fps: int | None, task: str | None) -> SourceRecording:
    videos: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.mp4")):
        camera = ".".join(path.parent.relative_to(folder).parts) or _CAMERA
        videos.setdefault(path.stem, {})[camera] = path
    tables = {path.stem: path for kind in ("*.csv", "*.parquet") for path in sorted(folder.rglob(kind))}
    names = sorted(videos.keys() | tables.keys())
    if not names:
        raise ObjectNotFoundError(
            f"Expected a recording ({MANIFEST}), or videos (*.mp4) with tables (*.parquet, *.csv), in {folder}, found "
            "neither."
        )
    first = _plain_episode(names[0], videos, tables, task)
    features = _features(first, _table(tables.get(names[0])))
    rate = Fraction(fps) if fps is not None else _rate_of(first)
    spec = RecordingSpec(_whole_rate(rate, fps, folder), features, ENCODING)

    def episodes() -> Iterator[SourceEpisode]:
        for name in names:
            episode = _plain_episode(name, videos, tables, task)
            _check_same(spec.features, episode, names[0])
            yield episode

    return SourceRecording(spec, len(names), episodes())


def _table(path: Path | None) -> pa.Table | None:
    if path is None:
        return None
    return pq.read_table(path) if path.suffix == ".parquet" else pa_csv.read_csv(path)


def _plain_episode(
    name: str, videos: Mapping[str, Mapping[str, Path]], tables: Mapping[str, Path], task: str | None
) -> SourceEpisode:
    table, own = _table(tables.get(name)), videos.get(name, {})
    count = table.num_rows if table is not None else len(build_index(next(iter(own.values()))))
    tasks = [str(text) for text in table[TASK].to_pylist()] if table is not None and TASK in table.column_names else []
    if not tasks:
        if task is None:
            raise ValueError(
                f"Expected a column {TASK!r} in the table of episode {name!r}, or task=..., found neither."
            )
        tasks = [task] * count
    values: dict[str, list[Any]] = {}
    times: list[dict[str, float]] = []
    if table is not None:
        values = {key: _values(table[key], _shape(table[key], name)) for key in _columns(table)}
        if TIMESTAMP in table.column_names:
            seconds = pc.cast(table[TIMESTAMP], pa.float64()).to_pylist()
            times = [dict.fromkeys(own, each) or {TIMESTAMP: each} for each in seconds]
    return SourceEpisode(name, EpisodeRows(tasks, values, times), own)


def _columns(table: pa.Table) -> list[str]:
    """Those that become features."""
    return [key for key in table.column_names if key not in RESERVED]


def _shape(column: pa.ChunkedArray, name: str) -> tuple[int, ...]:
    """Of one row's value."""
    if not (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        return (1,)
    sizes = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(sizes) != 1 or not sizes[0]:
        raise EpisodeMismatchError(f"Expected lists of one length in each column of episode {name!r}, found {sizes}.")
    return (int(sizes[0]),)


def _features(episode: SourceEpisode, table: pa.Table | None) -> Features:
    """What the first episode holds."""
    features: dict[str, dict[str, Any]] = {}
    for camera, path in episode.videos.items():
        height, width = build_index(path).sources[0].display_size
        features[camera] = {"dtype": VIDEO, "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    for key in _columns(table) if table is not None else ():
        values = episode.rows.values[key]
        is_text = bool(values) and isinstance(values[0], str)
        dtype = STRING if is_text else str(values[0].dtype)
        features[key] = {"dtype": dtype, "shape": [1] if is_text else list(values[0].shape), "names": None}
    return Features(features)


def _rate_of(episode: SourceEpisode) -> Fraction:
    """The first video's rate, to the whole number that it lies next to."""
    for path in episode.videos.values():
        step = timing.median_step(build_index(path).timestamp)
        if step > 0:
            rate = 1 / step
            whole = round(rate)
            return Fraction(whole) if abs(rate - whole) < _RATE_SLACK * rate else Fraction(rate).limit_denominator(1001)
    raise ValueError("Expected a video of two frames or more, or a rate (fps=...), found neither.")


def _check_same(features: Features, episode: SourceEpisode, first: str) -> None:
    """Raise ValueError unless an episode holds what the first one does."""
    mine = set(features.videos) | set(features.tabular)
    theirs = set(episode.videos) | set(episode.rows.values)
    if mine != theirs:
        raise ValueError(
            f"Expected episode {episode.name!r} to hold what {first!r} does, found only one of them to have "
            f"{', '.join(map(repr, sorted(mine ^ theirs)))}."
        )
    for key, feature in features.tabular.items():
        values = episode.rows.values[key]
        if feature.is_number and values and values[0].shape != feature.shape:
            raise ValueError(
                f"Expected {key!r} of shape {list(feature.shape)} in episode {episode.name!r}, as in {first!r}, found "
                f"{list(values[0].shape)}."
            )
