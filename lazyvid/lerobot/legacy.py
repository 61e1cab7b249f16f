"""Datasets of LeRobot's format v2.0 and v2.1, whose metadata are lines of JSON: read as the tables of v3.0.

Each episode has files of its own there, so its rows and frames begin at 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from lazyvid.errors import DatasetError, ObjectNotFoundError
from lazyvid.lerobot.episodes import video_column
from lazyvid.lerobot.schema import VIDEO, DatasetInfo
from lazyvid.recording.episodes import Stats, stats_from_json
from lazyvid.storage import ObjectStore, display_uri

EPISODES_PATH = "meta/episodes.jsonl"
TASKS_PATH = "meta/tasks.jsonl"
EPISODES_STATS_PATH = "meta/episodes_stats.jsonl"


def episodes(store: ObjectStore, info: DatasetInfo) -> pa.Table:
    """The table of episodes, with the columns that v3.0 has."""
    rows = list(_lines(store, EPISODES_PATH, ("episode_index", "length")))
    numbers = np.array([row["episode_index"] for row in rows], np.int64)
    lengths = np.array([row["length"] for row in rows], np.int64)
    order = np.argsort(numbers, kind="stable")
    ends = np.empty(len(rows), np.int64)
    ends[order] = np.cumsum(lengths[order])
    chunks = numbers // info.chunks_size
    columns: dict[str, Any] = {
        "episode_index": numbers,
        "tasks": pa.array([[str(task) for task in row.get("tasks") or ()] for row in rows], pa.list_(pa.string())),
        "length": lengths,
        "data/chunk_index": chunks,
        "data/file_index": numbers,
        "dataset_from_index": ends - lengths,
        "dataset_to_index": ends,
    }
    for key in info.keys(VIDEO):
        columns[video_column(key, "chunk_index")] = chunks
        columns[video_column(key, "file_index")] = numbers
        columns[video_column(key, "from_timestamp")] = np.zeros(len(rows))
        columns[video_column(key, "to_timestamp")] = lengths / info.fps
    return pa.table(columns)


def tasks(store: ObjectStore) -> list[str]:
    """The text of each task, by task_index."""
    try:
        rows = list(_lines(store, TASKS_PATH, ("task_index", "task")))
    except ObjectNotFoundError:
        return []
    by_number = {int(row["task_index"]): str(row["task"]) for row in rows}
    if sorted(by_number) != list(range(len(rows))):
        raise DatasetError(f"Expected tasks 0 to {len(rows) - 1}, each once, in {_shown(store, TASKS_PATH)}.")
    return [by_number[number] for number in range(len(by_number))]


def episode_stats(store: ObjectStore) -> Iterator[Stats]:
    """The statistics of each episode; none where the dataset has none."""
    try:
        for row in _lines(store, EPISODES_STATS_PATH, ("stats",)):
            yield stats_from_json(row["stats"])
    except ObjectNotFoundError:
        return


def _lines(store: ObjectStore, name: str, keys: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(store.read(name).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            _ = [row[key] for key in keys]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"Cannot read line {number} of {_shown(store, name)}: expected JSON with {', '.join(keys)}, found "
                f"{error!r}."
            ) from error
        yield row


def _shown(store: ObjectStore, name: str) -> str:
    return display_uri(store.resolve(name))
