"""New datasets of episodes of others: split, merged, or without some of them; always of format v3.0.

Rows are copied with their numbers made anew, videos by `assembling_videos.py`; the sources are left as they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lazyvid.errors import EpisodeMismatchError, RecordingError
from lazyvid.lerobot import legacy
from lazyvid.lerobot.assembling_videos import SourceVideo, plan_groups, write_group
from lazyvid.lerobot.columns import episode_table, row_schema, stats_columns
from lazyvid.lerobot.episodes import STATS_PREFIX, video_column
from lazyvid.lerobot.local_dataset import LocalDataset, Place, append_parquet
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lerobot.schema import (
    CODEBASE_VERSION,
    DATA_FILES_SIZE_IN_MB,
    DATA_PATH,
    EPISODES_PATH,
    INFO_PATH,
    VIDEO,
    VIDEO_FILES_SIZE_IN_MB,
    VIDEO_PATH,
    file_path,
    next_file,
    without_audio,
)
from lazyvid.lerobot.tables import numbers_of, open_parquet
from lazyvid.lerobot.videos import DatasetVideos
from lazyvid.recording.episodes import Stats, combined, vector_statistics
from lazyvid.storage import display_uri

_MB = 1 << 20
_EPISODES_IN_FILE = 1000
_OPEN_VIDEOS = 64
_NEW_NUMBERS = ("index", "episode_index", "task_index")
_V2_ONLY = ("total_videos", "total_chunks", "storage_format")

Advance = Callable[[str, int, int], None]
"""Called with what is done, how many of it are, and how many there are."""


@dataclass(frozen=True, slots=True)
class SourceEpisode:
    """An episode of a dataset."""

    meta: LeRobotMetadata
    number: int

    @property
    def length(self) -> int:
        """Its rows."""
        return int(self.meta.episodes.lengths[self.number])


@dataclass(frozen=True, slots=True)
class AssemblyPlan:
    """What a new dataset will be made of."""

    episodes: tuple[SourceEpisode, ...]
    frames: int
    videos: Mapping[str, tuple[int, int]]
    """By camera: files whose packets are copied, and files that are encoded anew."""


def episodes_of(metas: Sequence[LeRobotMetadata], *, without: Sequence[int] = ()) -> list[SourceEpisode]:
    """All episodes of datasets, but for some of the first one.

    Raises:
        ValueError: if there is no such episode to leave out, or none is left.
    """
    first = metas[0]
    unknown = sorted(set(without) - set(range(len(first.episodes))))
    if unknown:
        raise ValueError(
            f"Expected episodes of {display_uri(first.root)}, 0 to {len(first.episodes) - 1}, got {unknown}."
        )
    gone = set(without)
    return [
        SourceEpisode(meta, number)
        for meta in metas
        for number in range(len(meta.episodes))
        if not (meta is first and number in gone)
    ]


def assemble(
    episodes: Sequence[SourceEpisode],
    root: Path,
    *,
    dry_run: bool = False,
    advance: Advance = lambda _what, _done, _total: None,
) -> AssemblyPlan:
    """Make a dataset of episodes, in this order.

    Audio tracks are left out: LeRobot reads none, and the new files hold the pictures alone.

    Args:
        episodes: One or more, of one or more datasets that fit together.
        root: A local folder that holds no dataset.
        dry_run: Look at everything, write nothing.
        advance: Told how far it is.

    Returns:
        What was, or would be, done.

    Raises:
        ValueError: if there is no episode, or the datasets do not fit together; the message says by what they differ.
        RecordingError: if there is something in the folder.
        EpisodeMismatchError: if an episode has another number of frames than rows.
        LazyVidError: if a source cannot be read.
    """
    if not episodes:
        raise ValueError("Expected an episode or more for a new dataset, got none.")
    metas = list(dict.fromkeys(episode.meta for episode in episodes))
    for other in metas[1:]:
        _check_fits(metas[0], other)
    if (root / INFO_PATH).exists() or (root.exists() and any(root.iterdir())):
        raise RecordingError(f"Expected no files in {root}, found some. Choose another folder.")
    base = metas[0].info
    limit = float(base.raw.get("video_files_size_in_mb") or VIDEO_FILES_SIZE_IN_MB) * _MB
    videos = _find_videos(episodes, metas, advance)
    groups = {key: plan_groups(each, limit=limit, chunks_size=base.chunks_size) for key, each in videos.items()}
    counts = {key: (sum(g.is_copied for g in each), sum(not g.is_copied for g in each)) for key, each in groups.items()}
    plan = AssemblyPlan(tuple(episodes), sum(episode.length for episode in episodes), counts)
    if dry_run:
        return plan
    dataset = LocalDataset.create(root, _info(metas))
    places: dict[str, dict[int, tuple[Place, int]]] = {}
    with tempfile.TemporaryDirectory(prefix="lazyvid-assemble-") as scratch:
        for key, each in groups.items():
            for done, group in enumerate(each):
                advance(f"videos of {key}", done, len(each))
                write_group(group, videos[key], dataset, key, scratch=Path(scratch))
                at = 0
                for number in group.episodes:
                    places.setdefault(key, {})[number] = group.place, at
                    at += episodes[number].length
            advance(f"videos of {key}", len(each), len(each))
    _Tables(dataset, episodes, places, videos, advance).write()
    return plan


def _check_fits(one: LeRobotMetadata, other: LeRobotMetadata) -> None:
    """Raise ValueError unless two datasets can be one."""
    if one.fps != other.fps:
        raise ValueError(
            f"Cannot join {display_uri(other.root)} to {display_uri(one.root)}: expected {one.fps} frames per second, "
            f"found {other.fps}."
        )
    mine, theirs = ({k: (f.dtype, f.shape) for k, f in meta.info.features.items()} for meta in (one, other))
    if mine != theirs:
        unlike = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        shown = "; ".join(f"{key}: {mine.get(key)} and {theirs.get(key)}" for key in unlike)
        raise ValueError(
            f"Cannot join {display_uri(other.root)} to {display_uri(one.root)}: expected the same features, found "
            f"{shown}."
        )


def _find_videos(
    episodes: Sequence[SourceEpisode], metas: Sequence[LeRobotMetadata], advance: Advance
) -> dict[str, list[SourceVideo]]:
    readers = {
        meta: DatasetVideos(meta, on_mismatch="raise", tolerance_s=0.0, capacity=_OPEN_VIDEOS, options={})
        for meta in metas
    }
    found: dict[str, list[SourceVideo]] = {}
    for key in metas[0].video_keys:
        found[key] = []
        for done, episode in enumerate(episodes):
            advance(f"looking at {key}", done, len(episodes))
            found[key].append(SourceVideo.find(readers[episode.meta], episode.meta, key, episode.number))
        advance(f"looking at {key}", len(episodes), len(episodes))
    return found


def _info(metas: Sequence[LeRobotMetadata]) -> dict[str, Any]:
    """The new `info.json`, which counts nothing yet."""
    raw = {key: value for key, value in metas[0].info.raw.items() if key not in _V2_ONLY}
    features = {key: dict(given) for key, given in raw["features"].items()}
    for given in features.values():
        given |= {name: without_audio(given[name]) for name in ("info", "video_info") if given.get(name)}
    robots = {meta.robot_type for meta in metas}
    return {
        **raw,
        "codebase_version": CODEBASE_VERSION,
        "robot_type": robots.pop() if len(robots) == 1 else None,
        "features": features,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": metas[0].info.chunks_size,
        "data_files_size_in_mb": raw.get("data_files_size_in_mb") or DATA_FILES_SIZE_IN_MB,
        "video_files_size_in_mb": raw.get("video_files_size_in_mb") or VIDEO_FILES_SIZE_IN_MB,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if metas[0].video_keys else None,
        "splits": {},
    }


# -- tables -----------------------------------------------------------------------------------------------------------


class _Tables:
    """Writes rows and `meta/` of a new dataset; `info.json` last.

    Args:
        dataset: The new dataset.
        episodes: Its episodes.
        places: By camera and number: the file of an episode, and the frames before it there.
        videos: By camera, those of the sources.
        advance: Told how far it is.
    """

    def __init__(
        self,
        dataset: LocalDataset,
        episodes: Sequence[SourceEpisode],
        places: Mapping[str, Mapping[int, tuple[Place, int]]],
        videos: Mapping[str, Sequence[SourceVideo]],
        advance: Advance,
    ) -> None:
        self._dataset, self._episodes, self._places, self._advance = dataset, episodes, places, advance
        self._videos = videos
        self._fps = dataset.info.fps
        self._tasks: list[str] = []
        self._sources = _SourceRows()
        self._stats: Stats = {}
        self._frames = 0

    def write(self) -> None:
        """Write everything."""
        schema: pa.Schema | None = None
        place, limit = (0, 0), float(self._dataset.info.raw["data_files_size_in_mb"]) * _MB
        writer: pq.ParquetWriter | None = None
        written = 0
        tables: list[pa.Table] = []
        path = self._dataset.data_path(place)
        try:
            for number, episode in enumerate(self._episodes):
                self._advance("rows", number, len(self._episodes))
                rows = self._rows(number, episode)
                schema = schema or self._schema(rows)
                if writer is not None and written + rows.nbytes > limit:
                    writer.close()
                    place, written, writer = next_file(*place, self._dataset.info.chunks_size), 0, None
                if writer is None:
                    path = self._dataset.data_path(place)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=True)
                writer.write_table(rows.cast(schema))
                written += rows.nbytes
                tables.append(self._episode(number, episode, place, rows))
                self._frames += episode.length
        finally:
            if writer is not None:
                writer.close()
        self._advance("rows", len(self._episodes), len(self._episodes))
        self._write_meta(tables)

    def _schema(self, rows: pa.Table) -> pa.Schema:
        """The columns as the features say, or, where they hold more than numbers and texts, as the source has them."""
        features = self._dataset.info.raw["features"]
        if any(feature["dtype"] in ("image", "language") for feature in features.values()):
            return rows.schema
        return row_schema(features)

    def _rows(self, number: int, episode: SourceEpisode) -> pa.Table:
        """An episode's rows with the new dataset's numbers."""
        rows = self._sources.rows(episode)
        if rows.num_rows != episode.length:
            raise EpisodeMismatchError(
                f"Expected {episode.length} rows of episode {episode.number} of {display_uri(episode.meta.root)}, "
                f"found {rows.num_rows}. See what else is wrong: lazyvid lerobot check {display_uri(episode.meta.root)}"
            )
        wanted = [key for key, given in self._dataset.info.raw["features"].items() if given["dtype"] != VIDEO]
        rows = rows.select(wanted)
        texts = [episode.meta.tasks[task] for task in rows["task_index"].to_pylist()]
        self._tasks += [text for text in dict.fromkeys(texts) if text not in self._tasks]
        index_of = {text: place for place, text in enumerate(self._tasks)}
        made = {
            "index": np.arange(self._frames, self._frames + episode.length),
            "episode_index": np.full(episode.length, number),
            "task_index": np.array([index_of[text] for text in texts]),
        }
        for key, values in made.items():
            rows = rows.set_column(rows.column_names.index(key), key, pa.array(values, pa.int64()))
        return rows

    def _episode(self, number: int, episode: SourceEpisode, place: Place, rows: pa.Table) -> pa.Table:
        """An episode's row of the table of episodes."""
        known = episode.meta.episodes
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": known.tasks(episode.number),
            "length": episode.length,
            "data/chunk_index": place[0],
            "data/file_index": place[1],
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + episode.length,
        }
        for key, places in self._places.items():
            (chunk, file), before = places[number]
            row |= {video_column(key, "chunk_index"): chunk, video_column(key, "file_index"): file}
            row[video_column(key, "from_timestamp")] = before / self._fps
            row[video_column(key, "to_timestamp")] = (before + episode.length) / self._fps
        stats = self._completed(self._sources.stats(episode), number, rows)
        self._stats = combined(self._stats, stats)
        columns = stats_columns(stats, self._dataset.info.raw["features"])
        return episode_table(row, columns, divmod_place(number, self._dataset.info.chunks_size), None)

    def _completed(self, stats: Stats, number: int, rows: pa.Table) -> Stats:
        """An episode's statistics with those that its source lacks, and those of the numbers that are new."""
        completed = dict(stats)
        for key, feature in self._dataset.info.features.items():
            if key not in _NEW_NUMBERS and "q01" in stats.get(key, {}):
                continue
            if feature.is_number:
                values = numbers_of(rows.column(key)).reshape(rows.num_rows, -1).astype(np.float64)
                values = values[np.isfinite(values).all(axis=1)]
                if len(values):
                    completed[key] = vector_statistics(values, feature.shape)
            elif key in self._videos and not feature.is_depth:
                completed[key] = self._videos[key][number].statistics()
        return completed

    def _write_meta(self, tables: Sequence[pa.Table]) -> None:
        dataset = self._dataset
        for first in range(0, len(tables), _EPISODES_IN_FILE):
            place = divmod_place(first, dataset.info.chunks_size)
            append_parquet(dataset.episodes_path(place), pa.concat_tables(tables[first : first + _EPISODES_IN_FILE]))
        dataset.write_tasks(self._tasks)
        dataset.write_stats(self._stats)
        dataset.write_info(
            {
                "total_episodes": len(self._episodes),
                "total_frames": self._frames,
                "total_tasks": len(self._tasks),
                "splits": {"train": f"0:{len(self._episodes)}"},
            }
        )


def divmod_place(number: int, chunks_size: int) -> Place:
    """The file of the table of episodes that an episode's row goes into."""
    chunk, file = divmod(number // _EPISODES_IN_FILE, chunks_size)
    return chunk, file


class _SourceRows:
    """Rows and statistics of episodes, file by file: the one used last is kept."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[str, str], pa.Table] | None = None
        self._stats: tuple[tuple[str, str], Any] | None = None

    def rows(self, episode: SourceEpisode) -> pa.Table:
        """An episode's rows, as they are stored."""
        meta = episode.meta
        name = meta.get_data_file_path(episode.number)
        key = meta.root, name
        if self._kept is None or self._kept[0] != key:
            file = open_parquet(meta.place.store, meta.place.store.head(name))
            self._kept = key, file.read()
        table = self._kept[1]
        return table.filter(pc.equal(table["episode_index"], episode.number))

    def stats(self, episode: SourceEpisode) -> Stats:
        """An episode's statistics; empty where the source has none."""
        if not episode.meta.info.is_v3:
            return self._of_lines(episode)
        known = episode.meta.episodes
        if "meta/episodes/file_index" not in known.column_names:
            return {}
        place = (int(known.column(f"meta/episodes/{what}_index")[episode.number]) for what in ("chunk", "file"))
        name = file_path(EPISODES_PATH, *place)
        key = episode.meta.root, name
        if self._stats is None or self._stats[0] != key:
            store = episode.meta.place.store
            table = open_parquet(store, store.head(name)).read()
            columns = [column for column in table.column_names if column.startswith(STATS_PREFIX)]
            numbers = table["episode_index"].to_pylist()
            self._stats = key, dict(zip(numbers, table.select(columns).to_pylist(), strict=True))
        return _nested(self._stats[1].get(episode.number, {}))

    def _of_lines(self, episode: SourceEpisode) -> Stats:
        key = episode.meta.root, legacy.EPISODES_STATS_PATH
        if self._stats is None or self._stats[0] != key:
            self._stats = key, dict(enumerate(legacy.episode_stats(episode.meta.place.store)))
        found: Stats = self._stats[1].get(episode.number, {})
        return found


def _nested(columns: Mapping[str, Any]) -> Stats:
    """Columns of statistics by feature and name."""
    stats: Stats = {}
    for name, value in columns.items():
        key, _, statistic = name.removeprefix(STATS_PREFIX).rpartition("/")
        if value is not None:
            stats.setdefault(key, {})[statistic] = np.array(value)
    return stats
