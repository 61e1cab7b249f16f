"""The rows of a dataset: its parquet files as arrays that this machine's processes share, gathered for whole batches.

A file is read once, when a row of it is first asked for: numbers become arrays that are mapped into memory, texts and
pictures an Arrow table. `dataset.py` asks, `metadata.py` says which file an episode lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lazyvid.errors import DatasetError, EpisodeMismatchError
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lerobot.schema import VIDEO, Feature
from lazyvid.lerobot.tables import from_table, kept_table, open_parquet, to_batch, version_of
from lazyvid.lru import ProcessLRU
from lazyvid.storage import ObjectMeta, display_uri, is_local

IntArray = npt.NDArray[np.int64]

_FILES_AT_ONCE = 16


class DataFile:
    """One file of rows.

    Args:
        numbers: By feature, [N, *shape] or [N]; `episode_index` and `frame_index` are among them.
        objects: What is no number, in the order of the rows; None where there is nothing of the kind.
    """

    def __init__(self, numbers: dict[str, npt.NDArray[Any]], objects: pa.Table | None) -> None:
        self.numbers = numbers
        self._objects = objects
        episodes = numbers["episode_index"]
        edges = np.flatnonzero(np.diff(episodes)) + 1
        self._starts = np.concatenate([[0], edges]).astype(np.int64) if len(episodes) else np.empty(0, np.int64)
        self._counts = np.diff(np.append(self._starts, len(episodes)))
        self._episodes = episodes[self._starts]
        self._order = np.argsort(self._episodes, kind="stable")
        sizes = [len(chunk) for chunk in objects.column(0).chunks] if objects is not None else []
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def find(self, episodes: IntArray) -> tuple[IntArray, IntArray]:
        """int64 [B] each: where these episodes' rows begin, and how many there are; 0 of one that is not here."""
        found = np.searchsorted(self._episodes, episodes, sorter=self._order)
        places = self._order[np.minimum(found, max(len(self._order) - 1, 0))] if len(self._order) else found * 0
        if not len(self._order):
            return places, np.zeros(len(episodes), np.int64)
        here = self._episodes[places] == episodes
        return self._starts[places], np.where(here, self._counts[places], 0)

    def object(self, key: str, row: int) -> Any:
        """A text, picture or structure, as Python has it."""
        chunk = int(np.searchsorted(self._offsets, row, side="right")) - 1
        return self._objects.column(key).chunk(chunk)[row - int(self._offsets[chunk])].as_py()  # type: ignore[union-attr]


class Rows:
    """All rows of a dataset, by episode and frame.

    Args:
        meta: The dataset.
        capacity: Files of rows kept open.
    """

    def __init__(self, meta: LeRobotMetadata, *, capacity: int = 64) -> None:
        self._meta = meta
        self._files = meta.episodes.data_files
        stored = [feature for feature in meta.info.features.values() if feature.dtype != VIDEO]
        self.numbers = {feature.key: feature for feature in stored if feature.is_number}
        """Features whose values are numbers."""
        self.objects = {feature.key: feature for feature in stored if not feature.is_number}
        """Features whose values are texts, pictures or structures."""
        for key in ("episode_index", "frame_index", "task_index"):
            if key not in self.numbers:
                raise DatasetError(f"Expected the feature {key!r} in {meta!r}, found none.")
        self._open: ProcessLRU[tuple[int, int], DataFile] = ProcessLRU(capacity)

    def batch(self, episodes: IntArray) -> RowBatch:
        """The rows of a batch's episodes, int64 [B].

        Raises:
            EpisodeMismatchError: if an episode has another number of rows than the table of episodes says.
            DatasetError: if a file is damaged.
            StoreError: if one cannot be read.
        """
        places, group_of = np.unique(self._files[episodes], axis=0, return_inverse=True)
        keys = [(chunk, file) for chunk, file in places.tolist()]
        group_of = group_of.reshape(-1)
        starts = np.empty(len(episodes), np.int64)
        groups = []
        for number, (key, file) in enumerate(zip(keys, self._all(keys), strict=True)):
            items = np.flatnonzero(group_of == number)
            first, counts = file.find(episodes[items])
            self._check(key, episodes[items], counts)
            starts[items] = first
            groups.append((file, items))
        return RowBatch(starts, groups)

    def _check(self, key: tuple[int, int], episodes: IntArray, counts: IntArray) -> None:
        expected = self._meta.episodes.lengths[episodes]
        wrong = np.flatnonzero(counts != expected)
        if len(wrong):
            at = int(wrong[0])
            raise EpisodeMismatchError(
                f"Expected {expected[at]} rows of episode {episodes[at]} in {self._shown(key)}, as the table of "
                f"episodes says, found {counts[at]}. See what else is wrong: lazyvid lerobot check "
                f"{display_uri(self._meta.root)}"
            )

    def _all(self, keys: Sequence[tuple[int, int]]) -> list[DataFile]:
        if len(keys) < 2 or is_local(self._meta.root):
            return [self._file(key) for key in keys]
        with ThreadPoolExecutor(min(len(keys), _FILES_AT_ONCE)) as pool:
            return list(pool.map(self._file, keys))

    def _file(self, key: tuple[int, int]) -> DataFile:
        return self._open.get(key, lambda: self._read(key))

    def _shown(self, key: tuple[int, int]) -> str:
        return display_uri(self._meta.place.store.resolve(self._meta.data_uri(*key)))

    def _read(self, key: tuple[int, int]) -> DataFile:
        place = self._meta.place
        meta = place.store.head(self._meta.data_uri(*key))
        reading = _Reading(self._meta, meta, self.numbers, self.objects)
        numbers = from_table(kept_table(place.cache, reading.name("numbers"), reading.numbers))
        objects = kept_table(place.cache, reading.name("objects"), reading.objects) if self.objects else None
        return DataFile(numbers, objects)


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows of a batch's episodes."""

    starts: IntArray
    """int64 [B], each episode's first row in its file."""
    groups: Sequence[tuple[DataFile, IntArray]]
    """Each file with the items that lie in it."""

    def numbers(self, key: str, frames: IntArray) -> npt.NDArray[Any]:
        """A feature's values at frames, int64 [B, T], of the batch's episodes: [B, T, *shape], or [B, T] of scalars."""
        rows = self.starts[:, None] + frames
        first = self.groups[0][0].numbers[key]
        if len(self.groups) == 1:
            gathered: npt.NDArray[Any] = first[rows]
            return gathered
        values = np.empty((*frames.shape, *first.shape[1:]), first.dtype)
        for file, items in self.groups:
            values[items] = file.numbers[key][rows[items]]
        return values

    def objects(self, key: str, frames: IntArray) -> list[list[Any]]:
        """A feature's values at frames, int64 [B, T], as Python has them: a list of T for each item."""
        rows = self.starts[:, None] + frames
        values: list[list[Any]] = [[] for _ in range(len(rows))]
        for file, items in self.groups:
            for item in items.tolist():
                values[item] = [file.object(key, row) for row in rows[item].tolist()]
        return values


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """A file of rows that is read from its parquet."""

    meta: LeRobotMetadata
    file: ObjectMeta
    number_features: dict[str, Feature]
    object_features: dict[str, Feature]

    def name(self, kind: str) -> str:
        """Of what is made of it."""
        features = self.number_features if kind == "numbers" else self.object_features
        columns = "|".join(f"{f.key}:{f.dtype}:{f.shape}" for f in features.values())
        return f"lerobot-rows-1\0{kind}\0{columns}\0{version_of(self.file)}"

    def numbers(self) -> Iterator[pa.RecordBatch]:
        """One batch of all numbers."""
        table = self._parquet(self.number_features).read(columns=list(self.number_features))
        arrays = {key: self._array(table.column(key), feature) for key, feature in self.number_features.items()}
        self._check_runs(arrays["episode_index"], arrays["frame_index"])
        yield to_batch(arrays)

    def objects(self) -> Iterator[pa.RecordBatch]:
        """A batch for each row group of what is no number."""
        file = self._parquet(self.object_features)
        names = list(self.object_features)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=names).select(names).combine_chunks()
            yield from table.replace_schema_metadata(None).to_batches()
        if not file.num_row_groups:
            yield pa.RecordBatch.from_pylist([], schema=file.schema_arrow)

    def _parquet(self, features: dict[str, Feature]) -> pq.ParquetFile:
        file = open_parquet(self.meta.place.store, self.file)
        missing = [key for key in features if key not in file.schema_arrow.names]
        if missing:
            raise DatasetError(
                f"Expected the columns {', '.join(features)} in {self._shown}, as meta/info.json says, found none of "
                f"the name {', '.join(missing)}."
            )
        return file

    @property
    def _shown(self) -> str:
        return display_uri(self.file.uri)

    def _array(self, column: pa.ChunkedArray, feature: Feature) -> npt.NDArray[Any]:
        """A column as [N, *shape], or [N] where a row has one number."""
        count = len(column)
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        array = self._flat(array, feature)
        shape = () if feature.shape == (1,) else feature.shape
        values = array.to_numpy(zero_copy_only=False)
        if values.size != count * int(np.prod(shape)):
            raise DatasetError(
                f"Expected {count} values of shape {list(feature.shape)} in the column {feature.key} of {self._shown}, "
                f"found {values.size} numbers."
            )
        try:
            shaped: npt.NDArray[Any] = values.reshape(count, *shape).astype(np.dtype(feature.dtype), copy=False)
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"Expected {feature.dtype} in the column {feature.key} of {self._shown}, found {values.dtype}."
            ) from error
        return shaped

    def _flat(self, array: pa.Array, feature: Feature) -> pa.Array:
        """The numbers of nested lists, one after the other."""
        while True:
            if isinstance(array.type, pa.BaseExtensionType):  # of the package `datasets`, where it is imported
                array = array.storage
            if array.null_count:
                raise DatasetError(f"Expected no nulls in the column {feature.key} of {self._shown}, found some.")
            if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or _is_fixed(array)):
                return array
            if not _is_fixed(array) and len(pc.unique(pc.list_value_length(array))) > 1:
                raise DatasetError(
                    f"Expected values of shape {list(feature.shape)} in the column {feature.key} of {self._shown}, "
                    "found lists of different lengths."
                )
            array = array.flatten()

    def _check_runs(self, episodes: IntArray, frames: IntArray) -> None:
        """Raise EpisodeMismatchError unless each episode's rows lie together, numbered 0, 1, 2, ..."""
        if not len(episodes):
            return
        starts = np.concatenate([[0], np.flatnonzero(np.diff(episodes)) + 1])
        run = np.cumsum(np.isin(np.arange(len(episodes)), starts)) - 1
        wrong = np.flatnonzero(frames != np.arange(len(episodes)) - starts[run])
        if len(wrong):
            row = int(wrong[0])
            raise EpisodeMismatchError(
                f"Expected the rows of episode {episodes[row]} in {self._shown} one after the other, frame_index "
                f"counting from 0; found frame_index {frames[row]} in row {row}, where {row - starts[run[row]]} should "
                "be."
            )
        if len(np.unique(episodes[starts])) != len(starts):
            raise EpisodeMismatchError(
                f"Expected the rows of each episode in {self._shown} together, found some in several places."
            )


def _is_fixed(array: pa.Array) -> bool:
    return bool(pa.types.is_fixed_size_list(array.type))
