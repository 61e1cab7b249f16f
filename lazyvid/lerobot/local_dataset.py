"""A v3.0 dataset in a local folder, as whoever adds to it sees it: what is there last, and files that grow atomically.

Every file is replaced whole; `info.json` is written last and counts what is there. Whatever lies beyond its counts is
what a kill left, and is removed by `clean`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lazyvid.errors import DatasetError, RecordingError
from lazyvid.lerobot.columns import task_table
from lazyvid.lerobot.episodes import STATS_PREFIX, video_column
from lazyvid.lerobot.metadata import task_texts
from lazyvid.lerobot.schema import EPISODES_PATH, INFO_PATH, STATS_PATH, TASKS_PATH, DatasetInfo, file_path, next_file
from lazyvid.recording.episodes import Stats, combined, stats_from_json, stats_to_json
from lazyvid.recording.places import remove_sidecar
from lazyvid.storage import ObjectStore
from lazyvid.storage.local import TEMPORARY_PREFIX

Place = tuple[int, int]
"""Chunk and number of a file."""

_NO_STATS: Stats = {}


class LocalDataset:
    """A dataset that is added to.

    Args:
        root: Its folder.

    Raises:
        RecordingError: if there is none, or it is of an older format.
        DatasetError: if `info.json` is damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        path = root / INFO_PATH
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise RecordingError(
                f"Expected a LeRobot dataset in {root}, found no {INFO_PATH}. Check the folder."
            ) from error
        self.info = DatasetInfo.parse(data, str(path))
        if not self.info.is_v3:
            raise RecordingError(
                f"Expected a dataset of format v3.0 in {root}, found {self.info.raw['codebase_version']}. Convert it "
                "with LeRobot's own script first: lerobot.scripts.convert_dataset_v21_to_v30."
            )

    @classmethod
    def create(cls, root: Path, info: Mapping[str, Any]) -> LocalDataset:
        """An empty dataset."""
        write_json(root / INFO_PATH, info)
        return cls(root)

    # -- what is there ------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """A file by its name relative to the root."""
        return self.root / name

    def data_path(self, place: Place) -> Path:
        """A file of rows."""
        return self.root / file_path(self.info.data_path, *place)

    def episodes_path(self, place: Place) -> Path:
        """A file of the table of episodes."""
        return self.root / file_path(EPISODES_PATH, *place)

    def video_path(self, key: str, place: Place) -> Path:
        """A video of a camera."""
        return self.root / file_path(self.info.video_path, *place, key=key)

    @cached_property
    def episodes_files(self) -> list[Path]:
        """The files of the table of episodes, in order."""
        return sorted((self.root / "meta/episodes").glob("*/*.parquet"))

    @cached_property
    def data_files(self) -> list[Path]:
        """The files of rows, in order."""
        return sorted((self.root / "data").glob("*/*.parquet"))

    @cached_property
    def last_episode(self) -> dict[str, Any] | None:
        """The last row of the table of episodes without statistics; None without any."""
        if not self.episodes_files:
            return None
        file = pq.ParquetFile(self.episodes_files[-1])
        names = [name for name in file.schema_arrow.names if not name.startswith(STATS_PREFIX)]
        rows = file.read_row_group(file.num_row_groups - 1, columns=names)
        row: dict[str, Any] = rows.slice(rows.num_rows - 1).to_pylist()[0]
        return row

    def episode(self, number: int) -> dict[str, Any] | None:
        """The row of an episode without statistics; None where `info.json` counts none of this number."""
        if not 0 <= number < self.info.total_episodes:
            return None
        for path in reversed(self.episodes_files):
            names = [name for name in pq.read_schema(path).names if not name.startswith(STATS_PREFIX)]
            rows = pq.read_table(path, columns=names)
            found = rows.filter(pc.equal(rows["episode_index"], number))
            if found.num_rows:
                row: dict[str, Any] = found.to_pylist()[0]
                return row
        return None

    @cached_property
    def episodes_schema(self) -> pa.Schema | None:
        """The columns of the table of episodes; None where there is none yet."""
        return pq.read_schema(self.episodes_files[-1]) if self.episodes_files else None

    @cached_property
    def row_schema(self) -> pa.Schema | None:
        """The columns of the files of rows; None where there are none yet."""
        return pq.read_schema(self.data_files[-1]) if self.data_files else None

    @cached_property
    def tasks(self) -> list[str]:
        """The texts of the tasks."""
        path = self.root / TASKS_PATH
        return task_texts(pq.read_table(path), str(path)) if path.exists() else []

    def stats(self) -> Stats:
        """The statistics over all episodes; from those of each where the file counts others."""
        path = self.root / STATS_PATH
        found = stats_from_json(json.loads(path.read_bytes())) if path.exists() else {}
        counted = found.get("index", {}).get("count")
        if counted is None or int(np.sum(counted)) == self.info.total_frames:
            return found
        return self._stats_of_episodes()

    def _stats_of_episodes(self) -> Stats:
        whole: Stats = {}
        for path in self.episodes_files:
            for row in pq.read_table(path).to_pylist():
                own: Stats = {}
                for name, value in row.items():
                    if name.startswith(STATS_PREFIX) and value is not None:
                        key, _, statistic = name.removeprefix(STATS_PREFIX).rpartition("/")
                        own.setdefault(key, {})[statistic] = np.array(value)
                whole = combined(whole, own)
        return whole

    # -- adding -------------------------------------------------------------------------------------------------------

    def next_place(self, last: Place | None, path: Path | None, *, limit: float) -> Place:
        """Where more goes: the file that is there last, while it is below `limit` bytes, else the one after it."""
        if last is None or path is None:
            return 0, 0
        if path.exists() and path.stat().st_size < limit:
            return last
        return next_file(*last, self.info.chunks_size)

    def write_tasks(self, tasks: Sequence[str]) -> None:
        """Replace the table of tasks."""
        write_parquet(self.root / TASKS_PATH, [task_table(tasks)])

    def write_stats(self, stats: Stats) -> None:
        """Replace the statistics over all episodes."""
        write_json(self.root / STATS_PATH, stats_to_json(stats))

    def write_info(self, changes: Mapping[str, Any]) -> None:
        """Change some of `info.json`; what was added counts from here on."""
        write_json(self.root / INFO_PATH, {**self.info.raw, **changes})

    # -- after a kill -------------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """Remove rows and episodes that `info.json` does not count, videos that nobody names, and unfinished files."""
        for folder in ("meta", "data", "videos"):
            for path in sorted((self.root / folder).rglob(f"{TEMPORARY_PREFIX}*")):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        for paths, column, count in (
            (self.episodes_files, "episode_index", self.info.total_episodes),
            (self.data_files, "index", self.info.total_frames),
        ):
            for path in reversed(paths):
                if not _cut(path, column, count):
                    break
        for name in ("episodes_files", "data_files", "last_episode", "episodes_schema", "row_schema"):
            self.__dict__.pop(name, None)
        for key in self.info.keys("video"):
            self._remove_videos_after_last(key)

    def _remove_videos_after_last(self, key: str) -> None:
        last = self.last_place(key)
        for path in sorted((self.root / "videos" / key).glob("*/*.mp4")):
            if last is None or path > self.video_path(key, last):
                remove_sidecar(path)
                path.unlink()

    def last_place(self, key: str) -> Place | None:
        """The file of a camera in which the last episode lies."""
        row = self.last_episode
        if row is None:
            return None
        return int(row[video_column(key, "chunk_index")]), int(row[video_column(key, "file_index")])

    def frames_in_last_video(self, key: str) -> int:
        """Frames of the last video of a camera, up to the end of the last episode."""
        row = self.last_episode or {}
        return round(float(row[video_column(key, "to_timestamp")]) * self.info.fps)


def _cut(path: Path, column: str, count: int) -> bool:
    """Remove the rows of a file whose number is `count` or above; whether there were any."""
    file = pq.ParquetFile(path)
    kept = []
    had_more = False
    for number in range(file.num_row_groups):
        rows = file.read_row_group(number)
        below = rows.filter(pc.less(rows[column], count))
        had_more = had_more or below.num_rows < rows.num_rows
        if below.num_rows:
            kept.append(below)
    if had_more and kept:
        write_parquet(path, kept)
    elif had_more:
        path.unlink()
    return had_more


def append_parquet(path: Path, rows: pa.Table) -> None:
    """Add rows to a file as a row group of their own; the file is made where there is none."""
    groups = []
    if path.exists():
        file = pq.ParquetFile(path)
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    write_parquet(path, [*groups, rows])


def write_parquet(path: Path, groups: Sequence[pa.Table]) -> None:
    """A file of these row groups, whole or not at all, and on the disk when this returns."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, groups[0].schema, compression="snappy", use_dictionary=True) as writer:
        for group in groups:
            writer.write_table(group.cast(groups[0].schema))
    ObjectStore().write(path, sink.getvalue())


def write_json(path: Path, value: Any) -> None:
    """A file of JSON, whole or not at all, and on the disk when this returns."""
    ObjectStore().write(path, json.dumps(value, indent=4, ensure_ascii=False).encode())


def check_whole(dataset: LocalDataset) -> None:
    """Raise DatasetError unless the tables hold as much as `info.json` counts."""
    last = dataset.last_episode
    episodes = 0 if last is None else int(last["episode_index"]) + 1
    frames = 0 if last is None else int(last["dataset_to_index"])
    if (episodes, frames) != (dataset.info.total_episodes, dataset.info.total_frames):
        raise DatasetError(
            f"Expected {dataset.info.total_episodes} episodes and {dataset.info.total_frames} frames in "
            f"{dataset.root}, as {INFO_PATH} counts, found {episodes} and {frames} in the table of episodes. See what "
            f"is wrong: lazyvid lerobot check {dataset.root}"
        )
