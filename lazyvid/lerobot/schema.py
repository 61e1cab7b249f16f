"""What `meta/info.json` says of a dataset: its version, rate, features, and where its files lie; pure.

Between the bytes of the file and everything in this room that reads or writes a dataset.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazyvid.errors import DatasetError

CODEBASE_VERSION = "v3.0"
"""What is written."""
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
CHUNKS_SIZE = 1000
DATA_FILES_SIZE_IN_MB = 100
VIDEO_FILES_SIZE_IN_MB = 200

VIDEO, IMAGE, LANGUAGE = "video", "image", "language"
DEFAULT_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
"""Features that every row has."""

_PATH_FIELDS = ("chunk_index", "file_index", "video_key", "episode_chunk", "episode_index")
_OLDEST, _NEWEST = (2, 0), (3, 0)


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that a dataset holds per frame."""

    key: str
    """Its name in an item."""
    dtype: str
    """"video", "image", "string", "language", "bool", or numpy's name of a number type."""
    shape: tuple[int, ...]
    """Of one frame's value; a camera's is [H, W, C] or [C, H, W]."""
    info: Mapping[str, Any]
    """What is said of a camera's encoding."""

    @property
    def is_camera(self) -> bool:
        """Whether it is pictures, in a video or in the rows."""
        return self.dtype in (VIDEO, IMAGE)

    @property
    def is_depth(self) -> bool:
        """Whether its pictures are depth maps."""
        return self.is_camera and bool(self.info.get("is_depth_map") or self.info.get("video.is_depth_map"))

    @property
    def is_number(self) -> bool:
        """Whether its values are arrays of numbers."""
        return not self.is_camera and self.dtype not in ("string", LANGUAGE)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetInfo:
    """A dataset's `meta/info.json`."""

    raw: Mapping[str, Any]
    """The file as it is."""
    version: tuple[int, int]
    """Of the format: (3, 0) or (2, 1), for example."""
    features: Mapping[str, Feature]
    """By name, in the order of the file."""

    @classmethod
    def parse(cls, data: bytes, where: str) -> DatasetInfo:
        """The file's bytes, checked.

        Args:
            data: JSON.
            where: The file, for messages.

        Raises:
            DatasetError: if they are damaged, or of a version or storage format that is not known here.
        """
        try:
            raw = json.loads(data)
            version = _version(raw["codebase_version"])
            features = {str(key): _feature(str(key), given) for key, given in raw["features"].items()}
            rate = float(raw["fps"])
            _ = int(raw["total_episodes"]), int(raw["total_frames"]), str(raw["data_path"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"Cannot read {where}: expected a LeRobot dataset's info, found {error!r}.") from error
        if not _OLDEST <= version <= _NEWEST:
            raise DatasetError(
                f"Expected {where} to be of LeRobot's format v2.0, v2.1 or v3.0, found {raw['codebase_version']!r}. "
                "Convert the dataset with LeRobot's own scripts, or update lazyvid."
            )
        storage = raw.get("storage_format")
        if storage not in (None, "parquet"):
            raise DatasetError(f"Expected {where} to keep its rows in parquet files, found storage_format {storage!r}.")
        if not 0 < rate < 1e6:
            raise DatasetError(f"Invalid fps {raw['fps']!r} in {where}: expected a positive rate.")
        info = cls(raw, version, features)
        for template in (info.data_path, info.video_path):
            _check_template(template, where)
        return info

    @property
    def is_v3(self) -> bool:
        """Whether files hold many episodes each; in v2 each has its own."""
        return self.version[0] >= 3

    @property
    def fps(self) -> float:
        """Frames per second, as the file has it: an int where it is whole."""
        fps: float = self.raw["fps"]
        return fps

    @property
    def total_episodes(self) -> int:
        """Episodes."""
        return int(self.raw["total_episodes"])

    @property
    def total_frames(self) -> int:
        """Rows."""
        return int(self.raw["total_frames"])

    @property
    def chunks_size(self) -> int:
        """The most files of a kind in a folder."""
        return int(self.raw.get("chunks_size") or CHUNKS_SIZE)

    @property
    def data_path(self) -> str:
        """Template of the rows' files, relative to the root."""
        return str(self.raw["data_path"])

    @property
    def video_path(self) -> str:
        """Template of the videos, relative to the root."""
        return str(self.raw.get("video_path") or VIDEO_PATH)

    def keys(self, *dtypes: str) -> tuple[str, ...]:
        """The names of the features of these dtypes, in order."""
        return tuple(key for key, feature in self.features.items() if feature.dtype in dtypes)


def file_path(template: str, chunk: int, file: int, *, key: str = "") -> str:
    """Where a file lies, relative to the root.

    Args:
        template: Of `info.json`, for v3.0 or v2.
        chunk: Number of its folder.
        file: Its number; in v2 that of its episode.
        key: The camera's name.
    """
    return template.format(video_key=key, chunk_index=chunk, file_index=file, episode_chunk=chunk, episode_index=file)


def next_file(chunk: int, file: int, chunks_size: int) -> tuple[int, int]:
    """Chunk and number of the file that follows: a chunk holds the files 0 to `chunks_size` - 1."""
    return (chunk, file + 1) if file + 1 < chunks_size else (chunk + 1, 0)


def without_audio(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a camera's `info` says, of files that hold its pictures alone."""
    kept = {name: value for name, value in info.items() if not name.startswith("audio.")}
    return {**kept, "has_audio": False} if "has_audio" in kept else kept


def _version(text: object) -> tuple[int, int]:
    """(major, minor) of "v3.0"."""
    major, _, minor = str(text).removeprefix("v").partition(".")
    return int(major), int(minor.partition(".")[0] or 0)


def _feature(key: str, given: Mapping[str, Any]) -> Feature:
    info = {**(given.get("video_info") or {}), **(given.get("info") or {})}
    return Feature(key, str(given["dtype"]), tuple(int(size) for size in given["shape"]), info)


def _check_template(template: str, where: str) -> None:
    """Raise DatasetError unless a template holds plain fields that are known, and nothing else to be evaluated."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise DatasetError(f"Invalid path template {template!r} in {where}: {error}.") from error
    unknown = [field for field in fields if field not in _PATH_FIELDS]
    if unknown:
        raise DatasetError(
            f"Invalid path template {template!r} in {where}: expected the fields {', '.join(_PATH_FIELDS)}, found "
            f"{', '.join(map(repr, unknown))}."
        )
