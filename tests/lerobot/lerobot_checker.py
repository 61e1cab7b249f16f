"""Whether a folder is a LeRobot dataset of format v3.0, by the format's description alone; knows nothing of lazyvid.

Reads as LeRobot does: files by glob in order of their names, episodes by position, frames as round(t * fps).
"""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq

STATISTICS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
MANDATORY = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
INFO_KEYS = {
    "codebase_version", "robot_type", "total_episodes", "total_frames", "total_tasks", "chunks_size",
    "data_files_size_in_mb", "video_files_size_in_mb", "fps", "splits", "data_path", "video_path", "features",
}  # fmt: skip


class Checker:
    """Collects what is wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        self.info = json.loads((root / "meta/info.json").read_text())
        self.features: dict[str, Any] = self.info["features"]
        self.fps = self.info["fps"]
        self.cameras = [key for key, feature in self.features.items() if feature["dtype"] == "video"]

    def say(self, ok: bool, problem: str) -> None:
        if not ok:
            self.problems.append(problem)

    def run(self) -> list[str]:
        self._info()
        rows = self._rows()
        episodes = self._episodes()
        if rows and episodes:
            self._rows_and_episodes(rows, episodes)
            self._tasks(rows, episodes)
            self._stats(rows, episodes)
            for camera in self.cameras:
                self._videos(camera, episodes)
        return self.problems

    def _info(self) -> None:
        self.say(self.info.keys() >= INFO_KEYS, f"info.json lacks {INFO_KEYS - self.info.keys()}")
        self.say(self.info["codebase_version"] == "v3.0", "another version")
        self.say(isinstance(self.fps, int) and self.fps > 0, f"fps {self.fps!r} is no positive int")
        self.say(self.info["splits"] == {"train": f"0:{self.info['total_episodes']}"}, f"splits {self.info['splits']}")
        for key, dtype in MANDATORY.items():
            feature = self.features.get(key, {})
            self.say((feature.get("dtype"), feature.get("shape")) == (dtype, [1]), f"feature {key}: {feature}")
        for key in self.features:
            self.say("/" not in key, f"feature {key} has a slash")

    def _rows(self) -> dict[str, np.ndarray[Any, Any]]:
        columns: dict[str, list[Any]] = {}
        self.file_of_row: list[Path] = []
        for path in sorted((self.root / "data").glob("*/*.parquet")):
            file = pq.ParquetFile(path)
            stored = [key for key, feature in self.features.items() if feature["dtype"] != "video"]
            self.say(file.schema_arrow.names == stored, f"{path.name} has the columns {file.schema_arrow.names}")
            for field in file.schema_arrow:
                self._type(path, field)
            for group in range(file.num_row_groups):
                inside = set(file.read_row_group(group, columns=["episode_index"])["episode_index"].to_pylist())
                self.say(len(inside) == 1, f"row group {group} of {path.name} holds the episodes {inside}")
            table = file.read()
            self.file_of_row += [path] * table.num_rows
            for name in table.column_names:
                columns.setdefault(name, []).extend(table[name].to_pylist())
        return {name: np.array(values) for name, values in columns.items()}

    def _type(self, path: Path, field: Any) -> None:
        feature = self.features[field.name]
        dtype = {"string": "string", "float32": "float", "float64": "double"}.get(feature["dtype"], feature["dtype"])
        shape = feature["shape"]
        if shape == [1]:
            expected = dtype
        elif len(shape) == 1:
            expected = f"fixed_size_list<element: {dtype}>[{shape[0]}]"
        else:
            expected = "list<" * len(shape) + "..."
        found = str(field.type).replace("item:", "element:")
        same = found == expected if not expected.endswith("...") else found.startswith("list<element: list<")
        self.say(same, f"{field.name} in {path.name} is {found}, expected {expected}")

    def _episodes(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        schemas = set()
        for path in sorted((self.root / "meta/episodes").glob("*/*.parquet")):
            schemas.add(tuple(pq.read_schema(path).names))
            for row in pq.read_table(path).to_pylist():
                name = (
                    f"chunk-{row['meta/episodes/chunk_index']:03d}/file-{row['meta/episodes/file_index']:03d}.parquet"
                )
                self.say(str(path).endswith(name), f"a row of {path} says that it is in {name}")
                rows.append(row)
        self.say(len(schemas) == 1, "files of meta/episodes have different columns")
        self.say(
            [row["episode_index"] for row in rows] == list(range(self.info["total_episodes"])),
            f"episodes {[row['episode_index'] for row in rows]}, {self.info['total_episodes']} counted",
        )
        return rows

    def _rows_and_episodes(self, rows: dict[str, Any], episodes: list[dict[str, Any]]) -> None:
        total = self.info["total_frames"]
        self.say(np.array_equal(rows["index"], np.arange(total)), "index does not count 0 .. total_frames - 1")
        start = 0
        for episode in episodes:
            number, length = episode["episode_index"], episode["length"]
            stop = start + length
            self.say(
                (episode["dataset_from_index"], episode["dataset_to_index"]) == (start, stop), f"bounds of {number}"
            )
            own = slice(start, stop)
            self.say(set(rows["episode_index"][own].tolist()) == {number}, f"episode_index of the rows of {number}")
            self.say(rows["frame_index"][own].tolist() == list(range(length)), f"frame_index of {number}")
            times = (np.arange(length) / self.fps).astype(np.float32)
            self.say(np.array_equal(rows["timestamp"][own].astype(np.float32), times), f"timestamps of {number}")
            path = self.root / self.info["data_path"].format(
                chunk_index=episode["data/chunk_index"], file_index=episode["data/file_index"]
            )
            self.say(set(self.file_of_row[own]) == {path}, f"the rows of {number} are not in {path}")
            start = stop
        self.say(start == total, f"{start} rows in episodes, {total} counted")
        self._numbering(sorted((self.root / "data").glob("*/*.parquet")))

    def _numbering(self, paths: list[Path]) -> None:
        size = self.info["chunks_size"]
        places = [(int(p.parent.name[6:]), int(p.stem[5:])) for p in paths]
        self.say(places == [divmod(k, size) for k in range(len(paths))], f"files are numbered {places}")

    def _tasks(self, rows: dict[str, Any], episodes: list[dict[str, Any]]) -> None:
        table = pq.read_table(self.root / "meta/tasks.parquet")
        pandas = json.loads(table.schema.metadata[b"pandas"])
        self.say(pandas["index_columns"] == ["task"], "the index of the table of tasks is not the task")
        self.say(table["task_index"].to_pylist() == list(range(table.num_rows)), "tasks are not in order")
        self.say(table.num_rows == self.info["total_tasks"], "total_tasks")
        tasks = table["task"].to_pylist()
        for episode in episodes:
            own = rows["task_index"][episode["dataset_from_index"] : episode["dataset_to_index"]]
            self.say({tasks[k] for k in own.tolist()} == set(episode["tasks"]), f"tasks of {episode['episode_index']}")

    def _stats(self, rows: dict[str, Any], episodes: list[dict[str, Any]]) -> None:
        whole = json.loads((self.root / "meta/stats.json").read_text())
        for key, feature in self.features.items():
            if feature["dtype"] == "string":
                continue
            is_video = feature["dtype"] == "video"
            shape = (3, 1, 1) if is_video else tuple(feature["shape"])
            each = [{name: episode.get(f"stats/{key}/{name}") for name in STATISTICS} for episode in episodes]
            for episode, stats in zip(episodes, each, strict=True):
                where = f"stats of {key} in episode {episode['episode_index']}"
                if any(value is None for value in stats.values()):
                    self.problems.append(f"{where}: {[name for name, value in stats.items() if value is None]} missing")
                    continue
                arrays = {name: np.array(value) for name, value in stats.items()}
                self.say(arrays["count"].shape == (1,), f"{where}: count")
                self.say(all(a.shape == shape for n, a in arrays.items() if n != "count"), f"{where}: shape")
                ordered = [arrays[name] for name in ("min", "q01", "q10", "q50", "q90", "q99", "max")]
                self.say(all((a <= b + 1e-9).all() for a, b in pairwise(ordered)), f"{where}: order")
                if not is_video:
                    own = rows[key][episode["dataset_from_index"] : episode["dataset_to_index"]].reshape(-1, *shape)
                    for name in ("min", "max", "mean", "std"):
                        expected = getattr(own.astype(np.float64), name)(axis=0)
                        self.say(np.allclose(arrays[name], expected, rtol=1e-5, atol=1e-6), f"{where}: {name}")
                    self.say(arrays["count"].tolist() == [len(own)], f"{where}: count")
                else:
                    self.say((arrays["min"] >= 0).all() and (arrays["max"] <= 1).all(), f"{where}: not in [0, 1]")
            self._aggregate(key, whole.get(key), each)

    def _aggregate(self, key: str, whole: dict[str, Any] | None, each: list[dict[str, Any]]) -> None:
        if whole is None or any(value is None for stats in each for value in stats.values()):
            self.say(whole is not None, f"stats.json lacks {key}")
            return
        counts = np.array([stats["count"][0] for stats in each], np.float64)
        means = np.array([stats["mean"] for stats in each])
        weights = counts.reshape(-1, *[1] * (means.ndim - 1)) / counts.sum()
        self.say(whole["count"] == [int(counts.sum())], f"stats.json: count of {key}")
        self.say(np.allclose(whole["mean"], (means * weights).sum(axis=0)), f"stats.json: mean of {key}")
        self.say(np.allclose(whole["min"], np.min([s["min"] for s in each], axis=0)), f"stats.json: min of {key}")
        self.say(np.allclose(whole["max"], np.max([s["max"] for s in each], axis=0)), f"stats.json: max of {key}")

    def _videos(self, camera: str, episodes: list[dict[str, Any]]) -> None:
        inside: dict[Path, int] = {}
        for episode in episodes:
            path = self.root / self.info["video_path"].format(
                video_key=camera,
                chunk_index=episode[f"videos/{camera}/chunk_index"],
                file_index=episode[f"videos/{camera}/file_index"],
            )
            first = inside.get(path, 0)
            begin, end = episode[f"videos/{camera}/from_timestamp"], episode[f"videos/{camera}/to_timestamp"]
            where = f"{camera} of episode {episode['episode_index']}"
            self.say(begin == first / self.fps, f"{where} begins at {begin} s, expected {first / self.fps} s")
            inside[path] = first + episode["length"]
            self.say(end == inside[path] / self.fps, f"{where} ends at {end} s")
        paths = sorted((self.root / "videos" / camera).glob("*/*.mp4"))
        self.say(paths == sorted(inside), f"videos of {camera}: {paths} on the disk, {sorted(inside)} in the table")
        self._numbering(paths)
        for path, frames in inside.items():
            if path.exists():
                self._video(camera, path, frames)

    def _video(self, camera: str, path: Path, frames: int) -> None:
        height, width, _ = self.features[camera]["shape"]
        info = self.features[camera].get("info")
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            size = (stream.height, stream.width)
            said = (info["video.height"], info["video.width"]) if info else size
            self.say(size == (height, width) == said, f"{path.name}: size {size}")
            codec = stream.codec_context.codec.canonical_name
            self.say(info is None or codec == info["video.codec"], f"{path.name}: {codec}, info says {info}")
            self.say(stream.average_rate == self.fps, f"{path.name}: average rate {stream.average_rate}")
            times = [frame.pts * stream.time_base for frame in container.decode(stream)]
        self.say(times == [Fraction(k, self.fps) for k in range(frames)], f"{path}: {len(times)} frames or other times")


def problems(root: Path) -> list[str]:
    """What is wrong with a dataset; nothing where it is right."""
    return Checker(root).run()
