"""LeRobot datasets written and read by pyarrow, av and json alone, from the format's description.

What lazyvid is held to: nothing here may use lazyvid but for painting numbers into frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lazyvid.testing import painted_frame

CAMERAS = ("observation.images.front", "observation.images.wrist")
TASKS = ("stack the cups", "open the drawer")
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
V21_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V21_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
ROW_KEYS = ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class Plan:
    """What a written dataset holds."""

    lengths: tuple[int, ...] = (12, 17, 9)
    file_of: tuple[int, ...] = (0, 0, 1)
    """By episode: the number of its video file, the same for all cameras."""
    fps: int = 30
    width: int = 96
    height: int = 64
    cameras: tuple[str, ...] = CAMERAS
    codec: str = "libx264"
    gop: int = 2
    features: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Further features of the rows; their columns come from `columns`."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Of further features: an arrow array of all rows."""

    @property
    def total(self) -> int:
        return sum(self.lengths)

    def number(self, camera: str, episode: int, frame: int) -> int:
        """The number painted into a frame."""
        return 1000 * self.cameras.index(camera) + 100 * episode + frame

    def rows(self) -> dict[str, Any]:
        """The columns of all rows."""
        rng = np.random.default_rng(0)
        episodes = np.repeat(np.arange(len(self.lengths)), self.lengths)
        frames = np.concatenate([np.arange(n) for n in self.lengths])
        vectors = {
            key: pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=6 * self.total).astype(np.float32)), 6)
            for key in ("observation.state", "action")
        }
        return {
            **vectors,
            **self.columns,
            "timestamp": pa.array((frames / self.fps).astype(np.float32)),
            "frame_index": pa.array(frames.astype(np.int64)),
            "episode_index": pa.array(episodes.astype(np.int64)),
            "index": pa.array(np.arange(self.total)),
            "task_index": pa.array((episodes % 2).astype(np.int64)),
        }

    def info(self, version: str) -> dict[str, Any]:
        """`meta/info.json`."""
        video = {"dtype": "video", "shape": [self.height, self.width, 3], "names": ["height", "width", "channels"]}
        features: dict[str, Any] = {camera: dict(video) for camera in self.cameras}
        for key in ("observation.state", "action"):
            features[key] = {"dtype": "float32", "shape": [6], "names": [f"j{i}" for i in range(6)]}
        features |= self.features
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for key in ROW_KEYS[3:]:
            features[key] = {"dtype": "int64", "shape": [1], "names": None}
        v3 = version == "v3.0"
        return {
            "codebase_version": version,
            "robot_type": "toy",
            "total_episodes": len(self.lengths),
            "total_frames": self.total,
            "total_tasks": len(TASKS),
            "chunks_size": 1000,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.lengths)}"},
            "data_path": V3_DATA if v3 else V21_DATA,
            "video_path": V3_VIDEO if v3 else V21_VIDEO,
            "features": features,
        }


def write_mp4(path: Path, frames: Sequence[np.ndarray[Any, Any]], plan: Plan, *, pix_fmt: str = "yuv420p") -> None:
    """Pictures on the grid of the frame rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        options = {"g": str(plan.gop), "crf": "20"} | ({"preset": "veryfast"} if plan.codec == "libx264" else {})
        stream = output.add_stream(plan.codec, plan.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, pix_fmt
        for number, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, plan.fps)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())


def write_v3(root: Path, plan: Plan) -> Path:
    """A dataset of format v3.0 whose frames show `plan.number`."""
    _write_info(root, plan.info("v3.0"))
    table = pa.table(plan.rows())
    path = root / V3_DATA.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    starts = np.concatenate([[0], np.cumsum(plan.lengths)]).tolist()
    with pq.ParquetWriter(path, table.schema, compression="snappy") as writer:
        for start, length in zip(starts, plan.lengths, strict=False):
            writer.write_table(table.slice(start, length))
    rows = []
    ends: dict[int, int] = {}
    for episode, length in enumerate(plan.lengths):
        file = plan.file_of[episode]
        begin = ends.get(file, 0)
        ends[file] = begin + length
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": [TASKS[episode % 2]],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": starts[episode],
            "dataset_to_index": starts[episode + 1],
        }
        for camera in plan.cameras:
            row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
            row[f"videos/{camera}/from_timestamp"] = begin / plan.fps
            row[f"videos/{camera}/to_timestamp"] = (begin + length) / plan.fps
        rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    pq.write_table(pa.table({"task_index": [0, 1], "task": list(TASKS)}), root / "meta/tasks.parquet")
    for camera in plan.cameras:
        for file in sorted(set(plan.file_of)):
            pictures = [
                _painted(plan, camera, episode, frame)
                for episode, length in enumerate(plan.lengths)
                if plan.file_of[episode] == file
                for frame in range(length)
            ]
            write_mp4(root / V3_VIDEO.format(video_key=camera, chunk_index=0, file_index=file), pictures, plan)
    return root


def write_v21(root: Path, plan: Plan) -> Path:
    """A dataset of format v2.1: a file an episode, metadata as lines of JSON."""
    _write_info(root, plan.info("v2.1"))
    table = pa.table(plan.rows())
    start = 0
    lines: dict[str, list[Any]] = {"episodes": [], "episodes_stats": [], "tasks": []}
    for episode, length in enumerate(plan.lengths):
        path = root / V21_DATA.format(episode_chunk=0, episode_index=episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = table.slice(start, length)
        pq.write_table(rows, path)
        start += length
        lines["episodes"].append({"episode_index": episode, "tasks": [TASKS[episode % 2]], "length": length})
        action = np.array(rows["action"].to_pylist())
        stats = {name: getattr(action, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
        lines["episodes_stats"].append({"episode_index": episode, "stats": {"action": stats | {"count": [length]}}})
        for camera in plan.cameras:
            pictures = [_painted(plan, camera, episode, frame) for frame in range(length)]
            mp4 = root / V21_VIDEO.format(episode_chunk=0, episode_index=episode, video_key=camera)
            write_mp4(mp4, pictures, plan)
    lines["tasks"] = [{"task_index": number, "task": task} for number, task in enumerate(TASKS)]
    for name, each in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in each))
    return root


def _painted(plan: Plan, camera: str, episode: int, frame: int) -> np.ndarray[Any, Any]:
    return painted_frame(plan.number(camera, episode, frame), width=plan.width, height=plan.height)


def _write_info(root: Path, info: dict[str, Any]) -> None:
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))


# -- read ------------------------------------------------------------------------------------------------------------


class Golden:
    """The items of a v3.0 dataset, worked out by pyarrow and a sequential decode."""

    def __init__(self, root: Path) -> None:
        self.info = json.loads((root / "meta/info.json").read_text())
        data = sorted((root / "data").glob("*/*.parquet"))
        self.rows = pa.concat_tables([pq.read_table(path) for path in data]).to_pylist()
        meta = sorted((root / "meta/episodes").glob("*/*.parquet"))
        self.episodes = [row for path in meta for row in pq.read_table(path).to_pylist()]
        tasks = pq.read_table(root / "meta/tasks.parquet").to_pylist()
        self.tasks = {row["task_index"]: row["task"] for row in tasks}
        self.cameras = [key for key, feature in self.info["features"].items() if feature["dtype"] == "video"]
        self._root = root
        self._decoded: dict[Path, dict[int, np.ndarray[Any, Any]]] = {}

    def _frames(self, camera: str, episode: dict[str, Any]) -> dict[int, np.ndarray[Any, Any]]:
        """Every frame of an episode's file by its number on the grid from 0."""
        numbers = {key: episode[f"videos/{camera}/{key}"] for key in ("chunk_index", "file_index")}
        path = self._root / self.info["video_path"].format(video_key=camera, **numbers)
        if path not in self._decoded:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                self._decoded[path] = {
                    round(frame.pts * stream.time_base * self.info["fps"]): frame.to_ndarray(format="rgb24")
                    for frame in container.decode(stream)
                }
        return self._decoded[path]

    def item(self, index: int, deltas: Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
        """What LeRobot gives for a row, `deltas` in frames."""
        row = self.rows[index]
        episode = self.episodes[row["episode_index"]]
        first, stop = episode["dataset_from_index"], episode["dataset_to_index"]
        item = {key: value if isinstance(value, str) else torch.tensor(value) for key, value in row.items()}
        for key, offsets in (deltas or {}).items():
            wanted = [index + offset for offset in offsets]
            clamped = [min(max(place, first), stop - 1) for place in wanted]
            item[f"{key}_is_pad"] = torch.tensor([a != b for a, b in zip(wanted, clamped, strict=True)])
            if key not in self.cameras:
                item[key] = torch.stack([torch.tensor(self.rows[place][key]) for place in clamped])
        for camera in self.cameras:
            begin = round(episode[f"videos/{camera}/from_timestamp"] * self.info["fps"])
            offsets = (deltas or {}).get(camera, [0])
            places = [min(max(index + offset, first), stop - 1) - first for offset in offsets]
            pixels = np.stack([self._frames(camera, episode)[begin + place] for place in places])
            frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255
            item[camera] = frames.squeeze(0)
        item["task"] = self.tasks[row["task_index"]]
        return item


def assert_same_item(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Same keys, types, shapes and values."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype, key
            assert found[key].shape == value.shape, key
            assert torch.equal(found[key], value), key
        else:
            assert found[key] == value, key
