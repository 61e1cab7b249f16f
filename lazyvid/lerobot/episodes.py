"""The table of a dataset's episodes: how long each is, and in which files its rows and frames lie.

Made by `metadata.py` from the files of either format version; columns stay Arrow and numpy.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lazyvid.errors import DatasetError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

STATS_PREFIX = "stats/"


def video_column(key: str, what: str) -> str:
    """The column that says something of a camera's video: "chunk_index", "from_timestamp", ..."""
    return f"videos/{key}/{what}"


def required_columns(cameras: Sequence[str]) -> dict[str, pa.DataType]:
    """The columns that reading needs, and their types."""
    ints = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    ints += [video_column(key, what) for key in cameras for what in ("chunk_index", "file_index")]
    floats = [video_column(key, what) for key in cameras for what in ("from_timestamp", "to_timestamp")]
    return dict.fromkeys(ints, pa.int64()) | dict.fromkeys(floats, pa.float64())


def in_order(table: pa.Table, cameras: Sequence[str], where: str) -> pa.Table:
    """The table in one piece, episode by episode, its needed columns of one type each.

    Raises:
        DatasetError: if a column is missing or holds nothing, or the episodes are not numbered 0, 1, 2, ...
    """
    wanted = required_columns(cameras)
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DatasetError(
            f"Expected the columns {', '.join(wanted)} in {where}, found none of the name {', '.join(missing)}."
        )
    for name, kind in wanted.items():
        column = table.column(name)
        if column.null_count:
            raise DatasetError(f"Expected a value for every episode in the column {name} of {where}, found nulls.")
        if column.type != kind:
            table = table.set_column(table.column_names.index(name), name, column.cast(kind))
    numbers = table.column("episode_index").to_numpy()
    if np.any(np.diff(numbers) < 0):
        table = table.take(pa.array(np.argsort(numbers, kind="stable")))
        numbers = np.sort(numbers)
    wrong = np.flatnonzero(numbers != np.arange(len(numbers)))
    if len(wrong):
        raise DatasetError(
            f"Expected episodes 0 to {len(numbers) - 1}, each once, in {where}, found {numbers[wrong[0]]} in the place "
            f"of {wrong[0]}."
        )
    return table.combine_chunks()


class Episodes(Sequence[Mapping[str, Any]]):
    """The episodes of a dataset: `episodes[3]` is one as a mapping, `episodes["length"]` a column.

    Args:
        table: One row an episode, as `in_order` gives it.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        return f"Episodes({len(self)} episodes, {int(self.lengths.sum())} frames)"

    @property
    def column_names(self) -> list[str]:
        """The names of all columns."""
        return list(self._table.column_names)

    @overload
    def __getitem__(self, key: SupportsIndex) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> list[Mapping[str, Any]]: ...
    @overload
    def __getitem__(self, key: str) -> npt.NDArray[Any]: ...
    def __getitem__(self, key: SupportsIndex | slice | str) -> Any:
        """An episode by number, several by a slice, or a column by name (of tasks: an array of lists of texts)."""
        if isinstance(key, str):
            return self.column(key)
        if isinstance(key, slice):
            return self._table.take(pa.array(range(*key.indices(len(self))), pa.int64())).to_pylist()
        number = operator.index(key)
        if not -len(self) <= number < len(self):
            raise IndexError(f"Episode {number} is out of range: there are {len(self)}.")
        row: dict[str, Any] = self._table.slice(number % len(self), 1).to_pylist()[0]
        return row

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column as an array, a view where it holds numbers.

        Raises:
            KeyError: if there is none of this name.
        """
        if name not in self._table.column_names:
            raise KeyError(f"There is no column {name!r}; there are {', '.join(self._table.column_names)}.")
        column = self._table.column(name)
        if column.num_chunks == 1 and not column.null_count and pa.types.is_primitive(column.type):
            return column.chunk(0).to_numpy(zero_copy_only=not pa.types.is_boolean(column.type))  # type: ignore[no-any-return]
        return column.to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def lengths(self) -> IntArray:
        """int64 [E], rows of each episode."""
        return self.column("length")

    @cached_property
    def data_files(self) -> IntArray:
        """int64 [E, 2], chunk and number of the file of each episode's rows."""
        return np.stack([self.column("data/chunk_index"), self.column("data/file_index")], axis=1)

    def video_files(self, key: str) -> IntArray:
        """int64 [E, 2], chunk and number of each episode's video of a camera."""
        columns = [self.column(video_column(key, what)) for what in ("chunk_index", "file_index")]
        return np.stack(columns, axis=1)

    def video_times(self, key: str) -> FloatArray:
        """float64 [E, 2], when each episode begins and ends in a camera's video, in seconds."""
        columns = [self.column(video_column(key, what)) for what in ("from_timestamp", "to_timestamp")]
        return np.stack(columns, axis=1)

    def tasks(self, episode: int) -> list[str]:
        """What is done in an episode."""
        if "tasks" not in self._table.column_names:
            return []
        return [str(task) for task in self._table.column("tasks")[episode].as_py() or ()]

    def sliced(self, count: int) -> Episodes:
        """The first `count` episodes."""
        return Episodes(self._table.slice(0, count))

    def total_frames(self) -> int:
        """Rows of all episodes."""
        return int(pc.sum(self._table.column("length")).as_py() or 0)
