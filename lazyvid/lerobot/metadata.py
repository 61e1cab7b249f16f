"""`LeRobotMetadata`: all that a dataset says of itself, of either format version, from wherever it lies.

A snapshot of `meta/` is kept on this machine under a name made of its files' versions; a pickle carries that name, so
that workers map the snapshot and ask the store nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import pyarrow as pa

from lazyvid.errors import DatasetError, ObjectChangedError, ObjectNotFoundError
from lazyvid.lerobot import legacy
from lazyvid.lerobot.episodes import STATS_PREFIX, Episodes, in_order, required_columns
from lazyvid.lerobot.schema import INFO_PATH, STATS_PATH, TASKS_PATH, VIDEO, DatasetInfo, file_path
from lazyvid.lerobot.tables import kept_table, open_parquet, version_of
from lazyvid.recording.episodes import Stats, combined, stats_from_json
from lazyvid.storage import ObjectMeta, ObjectStore, SegmentCache, display_uri, join_uri

_EPISODES, _EPISODES_GLOB = "meta/episodes", "*/*.parquet"
_INFO, _TASKS = b"info", b"tasks"


@dataclass(frozen=True, slots=True)
class DatasetPlace:
    """Where a dataset lies, and where this machine keeps what was made of it."""

    root: str
    """The dataset's folder: a path or a URL, in full."""
    store: ObjectStore
    """Rooted there: relative names stay below the folder."""
    cache: SegmentCache
    """Where tables are kept."""

    @classmethod
    def of(
        cls,
        root: str | os.PathLike[str],
        *,
        store: ObjectStore | None = None,
        storage_options: Mapping[str, Any] | None = None,
        cache: SegmentCache | None = None,
    ) -> DatasetPlace:
        """The place that a user names.

        Args:
            root: The dataset's folder.
            store: Where it lies; by default an `ObjectStore` made from `storage_options`.
            storage_options: Options for fsspec, when no `store` is given.
            cache: Where tables are kept; by default a `SegmentCache` with its own defaults.

        Raises:
            ValueError: if both a store and options are given.
        """
        if store is not None and storage_options is not None:
            raise ValueError("Expected store or storage_options, got both: options belong to the store.")
        given = store or ObjectStore(storage_options=storage_options)
        full = given.resolve(root).rstrip("/")
        return cls(full, given.at(full), cache or SegmentCache())


class LeRobotMetadata:
    """What a LeRobot dataset says of itself.

    Attributes named as in LeRobot mean what they mean there.

    Args:
        place: Where the dataset lies.
        table: Its snapshot.
        name: The snapshot's name.
    """

    def __init__(self, place: DatasetPlace, table: pa.Table, name: str) -> None:
        """Not for users: see `open`."""
        self.place = place
        self._name = name
        facts = table.schema.metadata
        self.info = DatasetInfo.parse(facts[_INFO], self._at(INFO_PATH))
        self.tasks: tuple[str, ...] = tuple(json.loads(facts[_TASKS]))
        """The text of each task, by task_index."""
        listed = Episodes(table)
        # What `info.json` does not count was being added when the snapshot was taken, or when a writer was killed.
        self.episodes = listed.sliced(min(len(listed), self.info.total_episodes))
        """One row an episode: `episodes[i]["length"]`, `episodes["length"]`."""

    @classmethod
    def open(cls, place: DatasetPlace) -> LeRobotMetadata:
        """Read what lies there now.

        Raises:
            ObjectNotFoundError: if there is no dataset.
            DatasetError: if its files are damaged, or of a format that is not known.
        """
        files = _MetaFiles.look(place)
        table = kept_table(place.cache, files.name, files.snapshot)
        return cls(place, table, files.name)

    @classmethod
    def _restore(cls, place: DatasetPlace, name: str) -> LeRobotMetadata:
        """The snapshot of this name: this machine's, else made anew from the store."""

        def made_anew() -> Iterator[pa.RecordBatch]:
            files = _MetaFiles.look(place)
            if files.name != name:
                raise ObjectChangedError(
                    f"Expected the dataset {display_uri(place.root)} as it was when it was pickled, found other files "
                    "in meta/: it was changed. Open it anew."
                )
            return files.snapshot()

        return cls(place, kept_table(place.cache, name, made_anew), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return LeRobotMetadata._restore, (self.place, self._name)

    def __repr__(self) -> str:
        return (
            f"LeRobotMetadata({display_uri(self.root)!r}, episodes={self.total_episodes}, frames={self.total_frames}, "
            f"features={list(self.features)})"
        )

    def _at(self, name: str) -> str:
        return display_uri(join_uri(self.place.root, name))

    # -- facts under LeRobot's names ----------------------------------------------------------------------------------

    @property
    def root(self) -> str:
        """The dataset's folder, in full."""
        return self.place.root

    @property
    def fps(self) -> float:
        """Frames per second; an int in most datasets."""
        return self.info.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """By name: dtype, shape, names, and info of videos."""
        return {key: dict(given) for key, given in self.info.raw["features"].items()}

    @property
    def robot_type(self) -> str | None:
        """What was recorded."""
        return self.info.raw.get("robot_type")

    @property
    def video_keys(self) -> list[str]:
        """Cameras whose pictures lie in videos."""
        return list(self.info.keys(VIDEO))

    @property
    def image_keys(self) -> list[str]:
        """Cameras whose pictures lie in the rows."""
        return list(self.info.keys("image"))

    @property
    def camera_keys(self) -> list[str]:
        """All cameras."""
        return [key for key, feature in self.info.features.items() if feature.is_camera]

    @property
    def depth_keys(self) -> list[str]:
        """Cameras whose pictures are depth maps."""
        return [key for key, feature in self.info.features.items() if feature.is_depth]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each feature."""
        return {key: feature.shape for key, feature in self.info.features.items()}

    @property
    def names(self) -> dict[str, Any]:
        """What the components of each feature are called."""
        return {key: given.get("names") for key, given in self.info.raw["features"].items()}

    @property
    def total_episodes(self) -> int:
        """Episodes, as `info.json` counts them."""
        return self.info.total_episodes

    @property
    def total_frames(self) -> int:
        """Rows, as `info.json` counts them."""
        return self.info.total_frames

    @property
    def total_tasks(self) -> int:
        """Tasks."""
        return len(self.tasks)

    def get_task_index(self, task: str) -> int | None:
        """The number of a task; None when there is no such task."""
        return self.tasks.index(task) if task in self.tasks else None

    @cached_property
    def stats(self) -> Stats:
        """By feature: min, max, mean, std, count and quantiles as arrays; empty when the dataset has none."""
        store = self.place.store
        try:
            return stats_from_json(json.loads(store.read(STATS_PATH)))
        except ObjectNotFoundError:
            if self.info.is_v3:
                return {}
        except (ValueError, AttributeError, TypeError) as error:
            raise DatasetError(f"Cannot read {self._at(STATS_PATH)}: expected statistics, found {error!r}.") from error
        return reduce(combined, legacy.episode_stats(store), {})

    # -- places -------------------------------------------------------------------------------------------------------

    def data_uri(self, chunk: int, file: int) -> str:
        """Where a file of rows lies, relative to the root."""
        return file_path(self.info.data_path, chunk, file)

    def video_uri(self, key: str, chunk: int, file: int) -> str:
        """Where a video of a camera lies, relative to the root."""
        return file_path(self.info.video_path, chunk, file, key=key)

    def get_data_file_path(self, ep_index: int) -> str:
        """Where an episode's rows lie, relative to the root."""
        return self.data_uri(*self.episodes.data_files[ep_index].tolist())

    def get_video_file_path(self, ep_index: int, vid_key: str) -> str:
        """Where an episode's video of a camera lies, relative to the root."""
        return self.video_uri(vid_key, *self.episodes.video_files(vid_key)[ep_index].tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _MetaFiles:
    """The files in `meta/`, at one moment."""

    place: DatasetPlace
    info: DatasetInfo
    info_bytes: bytes
    episodes: tuple[ObjectMeta, ...]
    tasks: ObjectMeta | None

    @classmethod
    def look(cls, place: DatasetPlace) -> _MetaFiles:
        store = place.store
        try:
            data = store.read(INFO_PATH)
        except ObjectNotFoundError as error:
            raise ObjectNotFoundError(
                f"Expected a LeRobot dataset at {display_uri(place.root)}, found no {INFO_PATH}. Give the folder that "
                "holds meta/, data/ and videos/."
            ) from error
        info = DatasetInfo.parse(data, display_uri(join_uri(place.root, INFO_PATH)))
        if info.is_v3:
            episodes = tuple(store.list(_EPISODES, glob=_EPISODES_GLOB))
            tasks = _head(store, TASKS_PATH)
        else:
            episodes = (store.head(legacy.EPISODES_PATH),)
            tasks = _head(store, legacy.TASKS_PATH)
        return cls(place, info, data, episodes, tasks)

    @property
    def name(self) -> str:
        """Names the state of all these files."""
        parts = [version_of(meta) for meta in (*self.episodes, *([self.tasks] if self.tasks else []))]
        digest = hashlib.blake2b(self.info_bytes, digest_size=20)
        for part in parts:
            digest.update(b"\0\0" + part.encode())
        return f"lerobot-meta-1\0{self.place.root}\0{digest.hexdigest()}"

    def snapshot(self) -> Iterator[pa.RecordBatch]:
        """The table of episodes, the other files in its schema."""
        where = display_uri(join_uri(self.place.root, _EPISODES))
        if self.info.is_v3:
            table = self._episodes_v3(where)
            tasks = self._tasks_v3()
        else:
            table = legacy.episodes(self.place.store, self.info)
            tasks = legacy.tasks(self.place.store)
        table = in_order(table, self.info.keys(VIDEO), where)
        facts = {_INFO: self.info_bytes, _TASKS: json.dumps(tasks).encode()}
        table = table.replace_schema_metadata(facts)
        yield from table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]

    def _episodes_v3(self, where: str) -> pa.Table:
        if not self.episodes:
            if self.info.total_episodes:
                raise DatasetError(f"Expected the table of {self.info.total_episodes} episodes in {where}, found none.")
            return _no_episodes(self.info)
        parts = []
        for meta in self.episodes:
            file = open_parquet(self.place.store, meta)
            names = [name for name in file.schema_arrow.names if not name.startswith(STATS_PREFIX)]
            parts.append(file.read(columns=names).replace_schema_metadata(None))
        try:
            return pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as error:
            raise DatasetError(f"Expected files of the same columns in {where}, found others: {error}.") from error

    def _tasks_v3(self) -> list[str]:
        if self.tasks is None:
            return []
        return task_texts(open_parquet(self.place.store, self.tasks).read(), display_uri(self.tasks.uri))


def task_texts(table: pa.Table, where: str) -> list[str]:
    """The texts of `meta/tasks.parquet` by task_index; pandas may have kept them as an index without a name.

    Raises:
        DatasetError: if the table is another one, or its tasks are not numbered 0, 1, 2, ...
    """
    texts = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or not texts:
        raise DatasetError(f"Expected the columns task_index and task in {where}, found {table.column_names}.")
    column = "task" if "task" in texts else texts[0]
    by_number = dict(zip(table["task_index"].to_pylist(), table[column].to_pylist(), strict=True))
    if sorted(by_number) != list(range(table.num_rows)):
        raise DatasetError(f"Expected tasks 0 to {table.num_rows - 1}, each once, in {where}.")
    return [str(by_number[number]) for number in range(len(by_number))]


def _head(store: ObjectStore, name: str) -> ObjectMeta | None:
    try:
        return store.head(name)
    except ObjectNotFoundError:
        return None


def _no_episodes(info: DatasetInfo) -> pa.Table:
    columns = {name: pa.array([], kind) for name, kind in required_columns(info.keys(VIDEO)).items()}
    return pa.table(columns | {"tasks": pa.array([], pa.list_(pa.string()))})
