"""Episodes as rows of tables: which columns there are, and what stands in them.

Made for `layout.py`, which writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from lazyvid.recording.episodes import NO_FRAME, Episode, number_columns, stats_to_json
from lazyvid.recording.features import STRING, Features

EPISODE_COLUMNS = (
    "episode_index", "length", "tasks", "begin", "end", "has_capture_times", "interrupted", "videos", "stats",
)  # fmt: skip


def columns_of(features: Features) -> dict[str, str]:
    """The column of every feature; a camera's is the beginning of two. Lance takes no dots in names."""
    columns = {feature.name: feature.name.replace(".", "_") for feature in features}
    names = frame_columns(features, columns)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Invalid features: more than one would be the column {twice[0]!r}; rename one.")
    return columns


def frame_columns(features: Features, columns: Mapping[str, str] | None = None) -> list[str]:
    """All columns of the table of frames."""
    columns = columns_of(features) if columns is None else columns
    cameras = [f"{columns[name]}_{what}" for name in features.videos for what in ("timestamp", "frame")]
    return [
        "episode_index",
        "frame_index",
        "timestamp",
        "task",
        *(columns[name] for name in features.tabular),
        *cameras,
    ]


def frame_rows(features: Features, rate: Fraction, episode: Episode) -> pa.Table:
    """One row a frame: numbers, time, task, features, and for each camera when and as what frame it was taken."""
    rows, count = episode.rows, len(episode.rows)
    names = columns_of(features)
    columns: dict[str, Any] = {
        "episode_index": pa.array(np.full(count, episode.number, np.int64)),
        "frame_index": pa.array(np.arange(count, dtype=np.int64)),
        "timestamp": pa.array(rows.seconds(rate)),
        "task": pa.array(rows.tasks, pa.string()),
    }
    for name, values in number_columns(rows, features).items():
        columns[names[name]] = _number_array(values, features.tabular[name].shape)
    for name, feature in features.tabular.items():
        if feature.dtype == STRING:
            columns[names[name]] = pa.array(rows.values[name], pa.string())
    videos = {video.camera: video for video in episode.videos}
    for camera in features.videos:
        frame_of_row = videos[camera].frame_of_row if camera in videos else np.full(count, NO_FRAME, np.int64)
        gone = frame_of_row == NO_FRAME
        columns[f"{names[camera]}_timestamp"] = pa.array(rows.camera_seconds(camera, rate), mask=gone)
        columns[f"{names[camera]}_frame"] = pa.array(frame_of_row, mask=gone)
    return pa.table(columns)


def _number_array(values: np.ndarray[Any, Any], shape: tuple[int, ...]) -> Any:
    """A column of numbers; of fixed lists where a row has more than one, flat where it has more than one axis."""
    flat = pa.array(values.reshape(-1))
    size = int(np.prod(shape))
    return flat if shape == (1,) else pa.FixedSizeListArray.from_arrays(flat, size)


def episode_row(paths: Mapping[str, str], rate: Fraction, episode: Episode) -> pa.Table:
    """One row for an episode.

    Args:
        paths: By camera, where its video lies, relative to the recording.
        rate: Frames per second, where there are no capture times.
        episode: The episode.
    """
    seconds = episode.rows.seconds(rate)
    videos = [
        {
            "camera": video.camera,
            "path": paths[video.camera],
            "frames": len(video.index),
            "missing": video.missing,
        }
        for video in episode.videos
    ]
    kind = pa.struct([("camera", pa.string()), ("path", pa.string()), ("frames", pa.int64()), ("missing", pa.int64())])
    return pa.table(
        {
            "episode_index": pa.array([episode.number], pa.int64()),
            "length": pa.array([len(episode.rows)], pa.int64()),
            "tasks": pa.array([episode.rows.task_names()], pa.list_(pa.string())),
            "begin": pa.array([seconds[0]], pa.float64()),
            "end": pa.array([seconds[-1]], pa.float64()),
            "has_capture_times": pa.array([episode.rows.has_times]),
            "interrupted": pa.array([episode.interrupted]),
            "videos": pa.array([videos], pa.list_(kind)),
            "stats": pa.array([json.dumps(stats_to_json(episode.stats))], pa.string()),
        }
    )
