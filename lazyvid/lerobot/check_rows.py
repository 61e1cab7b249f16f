"""The part of the doctor that reads all rows: whose they are, in which order, when, and what their numbers come to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lazyvid.errors import LazyVidError
from lazyvid.lerobot.check_tables import Moments
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lerobot.report import Advance, CheckReport
from lazyvid.lerobot.schema import VIDEO
from lazyvid.lerobot.tables import numbers_of, open_parquet

_COUNTED = ("episode_index", "frame_index", "index", "timestamp", "task_index")


def check(meta: LeRobotMetadata, report: CheckReport, advance: Advance) -> Moments:
    """Whether each episode's rows are there, in order, at their times; and what the numbers of all rows come to.

    Returns:
        By feature of numbers, its moments; nothing where rows could not be read.
    """
    files = meta.episodes.data_files
    places = [(int(a), int(b)) for a, b in np.unique(files, axis=0).tolist()] if len(files) else []
    sums: dict[str, _Sums] = {}
    complete = True
    for done, place in enumerate(places):
        advance("rows", done, len(places))
        name = meta.data_uri(*place)
        numbers = np.flatnonzero((files == place).all(axis=1))
        try:
            table = _read(meta, name)
        except LazyVidError as error:
            complete = False
            for number in numbers.tolist():
                report.error(name, f"cannot be read: {error}", episode=number)
            continue
        missing = [key for key, f in meta.info.features.items() if f.dtype != VIDEO and key not in table.column_names]
        if missing:
            report.error(name, f"expected the columns {', '.join(missing)}, as meta/info.json says, found none")
        if all(key in table.column_names for key in _COUNTED):
            _check_episodes(meta, report, name, table, numbers)
        for key, feature in meta.info.features.items():
            if feature.is_number and key in table.column_names:
                _add(sums.setdefault(key, _Sums()), table.column(key), feature.shape)
    advance("rows", len(places), len(places))
    _check_unnamed(meta, report, {meta.data_uri(*place) for place in places})
    return {key: each.moments() for key, each in sums.items() if each.count} if complete else {}


def _read(meta: LeRobotMetadata, name: str) -> pa.Table:
    """The file's columns but pictures and texts."""
    file = open_parquet(meta.place.store, meta.place.store.head(name))
    wanted = [key for key, f in meta.info.features.items() if f.is_number and key in file.schema_arrow.names]
    others = [key for key in file.schema_arrow.names if key not in wanted]
    table = file.read(columns=wanted)
    # Their names say that they are there.
    for key in others:
        table = table.append_column(key, pa.nulls(table.num_rows))
    return table


def _check_episodes(
    meta: LeRobotMetadata, report: CheckReport, name: str, table: pa.Table, numbers: npt.NDArray[np.int64]
) -> None:
    columns = {key: table.column(key).to_numpy() for key in _COUNTED}
    ends = np.cumsum(meta.episodes.lengths)
    for number in numbers.tolist():
        own = np.flatnonzero(columns["episode_index"] == number)
        length = int(meta.episodes.lengths[number])
        report.episodes[number].rows = len(own)
        if len(own) != length:
            report.error(name, f"expected {length} rows, found {len(own)}", episode=number)
        if len(own) and np.any(np.diff(own) != 1):
            report.error(name, "expected its rows one after the other, found others among them", episode=number)
        frames = columns["frame_index"][own]
        wrong = np.flatnonzero(frames != np.arange(len(own)))
        if len(wrong):
            at = int(wrong[0])
            report.error(name, f"expected frame_index {at} in its row {at}, found {frames[at]}", episode=number)
        _check_values(
            meta, report, name, number, {key: column[own] for key, column in columns.items()}, int(ends[number])
        )


def _check_values(
    meta: LeRobotMetadata, report: CheckReport, name: str, number: int, own: dict[str, npt.NDArray[Any]], end: int
) -> None:
    """The index, times and tasks of an episode's rows."""
    first = end - int(meta.episodes.lengths[number])
    wrong = np.flatnonzero(own["index"] != first + own["frame_index"])
    if len(wrong):
        at = int(wrong[0])
        report.error(name, f"expected index {first + at} in its row {at}, found {own['index'][at]}", episode=number)
    due = own["frame_index"] / meta.fps
    distances = np.abs(own["timestamp"] - due)
    # float32 keeps seven digits.
    far = np.flatnonzero(distances > 1e-4 + 1e-6 * due)
    if len(far):
        at = int(far[np.argmax(distances[far])])
        report.error(
            name,
            f"expected timestamp {due[at]:.6f} s (frame_index / fps) in its row {at}, found "
            f"{own['timestamp'][at]:.6f} s; {len(far)} rows in all are more than 0.1 ms off",
            episode=number,
        )
    unknown = sorted(set(own["task_index"].tolist()) - set(range(len(meta.tasks))))
    if unknown:
        report.error(name, f"expected task_index below {len(meta.tasks)}, found {unknown}", episode=number)


def _check_unnamed(meta: LeRobotMetadata, report: CheckReport, named: set[str]) -> None:
    """Files that no episode names: LeRobot reads them all the same."""
    store, root = meta.place.store, meta.root
    for file in store.list("data", glob="*/*.parquet"):
        name = file.uri.removeprefix(root).lstrip("/")
        if name not in named:
            report.error(
                name, "expected an episode with rows in this file, found none: LeRobot reads its rows as others'"
            )


# -- moments ----------------------------------------------------------------------------------------------------------


class _Sums:
    """Sums over the rows that are finite."""

    def __init__(self) -> None:
        self.count = 0
        self._low = self._high = self._sum = self._squares = np.zeros(0)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take rows in, [N, D]."""
        values = values[np.isfinite(values).all(axis=1)]
        if not len(values):
            return
        if not self.count:
            self._low, self._high = values.min(axis=0), values.max(axis=0)
            self._sum, self._squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        self._low, self._high = np.minimum(self._low, values.min(axis=0)), np.maximum(self._high, values.max(axis=0))
        self._sum, self._squares = self._sum + values.sum(axis=0), self._squares + np.square(values).sum(axis=0)
        self.count += len(values)

    def moments(self) -> dict[str, npt.NDArray[np.float64]]:
        """min, max, mean and std, each [D]."""
        mean = self._sum / self.count
        std = np.sqrt(np.maximum(self._squares / self.count - mean**2, 0.0))
        return {"min": self._low, "max": self._high, "mean": mean, "std": std}


def _add(sums: _Sums, column: pa.ChunkedArray, shape: tuple[int, ...]) -> None:
    values = numbers_of(column)
    if len(values) == len(column) * int(np.prod(shape)):
        sums.add(values.astype(np.float64).reshape(len(column), -1))
