"""LeRobot datasets for benchmarks: cameras of one video, in as many files as asked for, no two of them equal."""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from content import FPS

from lazyvid.index.fingerprint import fingerprint
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.storage import ObjectStore

CAMERAS = ("observation.images.front", "observation.images.wrist")
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_ROW_KEYS = ("frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True, slots=True)
class Shape:
    """A dataset."""

    files: int
    """Of each camera."""
    frames: int
    """Of each file."""
    episode_frames: int
    """Of each episode; a divisor of `frames`."""

    @property
    def total(self) -> int:
        """Frames of each camera."""
        return self.files * self.frames


def write_dataset(root: Path, shape: Shape, video: bytes) -> None:
    """A dataset whose files are copies of a video, each with its sidecar.

    Files that are equal byte by byte would share an index and more; a number behind each makes them differ.
    """
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    pq.write_table(_rows(shape), root / _DATA.format(chunk_index=0, file_index=0))
    pq.write_table(_episodes(shape), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["pick"]}), root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(_info(shape)))
    index: FrameIndex | None = None
    for number in range(shape.files * len(CAMERAS)):
        path = root / video_path(CAMERAS[number % len(CAMERAS)], number // len(CAMERAS))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video + struct.pack(">I4sI", 12, b"free", number))
        index = index or build_index(path)
        _own(index, path).save(path)


def video_path(camera: str, file: int) -> str:
    """A video's place in the dataset."""
    return VIDEO.format(video_key=camera, chunk_index=file // 1000, file_index=file % 1000)


def _own(index: FrameIndex, path: Path) -> FrameIndex:
    """The index of a file that differs from the indexed one in its number alone."""
    store = ObjectStore()
    (source,) = index.sources
    mine = dataclasses.replace(source, fingerprint=fingerprint(store, store.head(path)))
    return dataclasses.replace(index, sources=(mine,))


def _rows(shape: Shape) -> pa.Table:
    frames = np.tile(np.arange(shape.episode_frames), shape.total // shape.episode_frames)
    vectors = np.random.default_rng(0).normal(size=shape.episode_frames * 6).astype(np.float32)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.resize(vectors, shape.total * 6)), 6)
    return pa.table(
        {
            "observation.state": vector,
            "action": vector,
            "timestamp": pa.array((frames / FPS).astype(np.float32)),
            "frame_index": pa.array(frames),
            "episode_index": pa.array(np.arange(shape.total) // shape.episode_frames),
            "index": pa.array(np.arange(shape.total)),
            "task_index": pa.array(np.zeros(shape.total, np.int64)),
        }
    )


def _episodes(shape: Shape) -> pa.Table:
    count = shape.total // shape.episode_frames
    numbers, zeros = np.arange(count), np.zeros(count, np.int64)
    files, within = np.divmod(numbers * shape.episode_frames, shape.frames)
    columns: dict[str, Any] = {
        "episode_index": numbers,
        "tasks": pa.array([["pick"]] * count),
        "length": np.full(count, shape.episode_frames),
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": numbers * shape.episode_frames,
        "dataset_to_index": (numbers + 1) * shape.episode_frames,
    }
    for camera in CAMERAS:
        columns |= {f"videos/{camera}/chunk_index": files // 1000, f"videos/{camera}/file_index": files % 1000}
        columns[f"videos/{camera}/from_timestamp"] = within / FPS
        columns[f"videos/{camera}/to_timestamp"] = (within + shape.episode_frames) / FPS
    return pa.table(columns)


def _info(shape: Shape) -> dict[str, Any]:
    features: dict[str, Any] = {key: {"dtype": "video", "shape": [480, 640, 3], "names": None} for key in CAMERAS}
    features |= {key: {"dtype": "float32", "shape": [6], "names": None} for key in ("observation.state", "action")}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    features |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in _ROW_KEYS}
    return {
        "codebase_version": "v3.0", "fps": FPS, "features": features,
        "total_episodes": shape.total // shape.episode_frames, "total_frames": shape.total, "total_tasks": 1,
        "chunks_size": 1000, "data_path": _DATA, "video_path": VIDEO, "robot_type": None, "splits": {},
    }  # fmt: skip
