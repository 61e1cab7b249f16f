"""Features and episodes as columns of parquet files, in the form that LeRobot writes; pure.

`adding.py` and `assembling.py` write what is made here. Where a dataset exists already its own columns decide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lazyvid.errors import RecordingError
from lazyvid.lerobot.episodes import STATS_PREFIX
from lazyvid.lerobot.schema import DEFAULT_FEATURES, IMAGE, LANGUAGE, VIDEO
from lazyvid.recording.episodes import Stats

CAPTURE = "capture_timestamp"
"""Column of capture times in seconds, with `.<camera>` behind it; no policy takes it for an observation."""

STATISTICS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
"""Of every feature but texts, in LeRobot's order."""

_ARRAYS = {2: "Array2D", 3: "Array3D", 4: "Array4D", 5: "Array5D"}
_PANDAS = {
    "index_columns": ["task"],
    "column_indexes": [
        {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
         "metadata": {"encoding": "UTF-8"}},
    ],
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",
         "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
    "attributes": {},
    "creator": {"library": "pyarrow", "version": pa.__version__},
    "pandas_version": "2.2.0",
}  # fmt: skip
"""How pandas finds the index of the table of tasks, without which LeRobot does not open it."""


# -- rows -------------------------------------------------------------------------------------------------------------


def capture_columns(features: Mapping[str, Any]) -> list[str]:
    """The names of a dataset's columns of capture times."""
    return [key for key in features if key == CAPTURE or key.startswith(f"{CAPTURE}.")]


def row_schema(features: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The columns of the files of rows, with what `datasets` wants to know of them.

    Args:
        features: Of `info.json`.
    """
    stored = {key: feature for key, feature in features.items() if feature["dtype"] != VIDEO}
    fields = [pa.field(key, _arrow_type(feature)) for key, feature in stored.items()]
    named = {"info": {"features": {key: _hf_feature(feature) for key, feature in stored.items()}}}
    return pa.schema(fields, metadata={"huggingface": json.dumps(named)})


def _arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
    shape = tuple(feature["shape"])
    kind = pa.string() if feature["dtype"] == "string" else pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    if shape == (1,):
        return kind
    if len(shape) == 1:
        return pa.list_(kind, shape[0])
    for _ in shape:
        kind = pa.list_(kind)
    return kind


def _hf_feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    shape = tuple(feature["shape"])
    value = {"dtype": feature["dtype"], "_type": "Value"}
    if shape == (1,):
        return value
    if len(shape) == 1:
        return {"feature": value, "length": shape[0], "_type": "List"}
    return {"shape": list(shape), "dtype": feature["dtype"], "_type": _ARRAYS[len(shape)]}


def as_column(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Values [N, ...] as a column of a type: of one level of lists for each further dimension."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, as_column(values, kind.storage_type))
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        return pa.array(values, kind)
    array = as_column(values.reshape(-1, *values.shape[2:]), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(array, type=kind)
    offsets = pa.array(np.arange(len(values) + 1) * values.shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, array, type=kind)


def row_table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Rows in the columns of a schema.

    Args:
        columns: By feature: values [N, ...], or a list of texts.
        schema: Of the dataset's files; a column of it that is not given is a mistake.
    """
    return pa.table([as_column(columns[field.name], field.type) for field in schema], schema=schema)


# -- episodes ---------------------------------------------------------------------------------------------------------


def stats_columns(stats: Stats, features: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Any, pa.DataType]]:
    """By column: an episode's statistics as nested lists, and the column's type; None where there are none."""
    columns: dict[str, tuple[Any, pa.DataType]] = {}
    for key, feature in features.items():
        if feature["dtype"] in ("string", LANGUAGE):
            continue
        is_camera = feature["dtype"] in (VIDEO, IMAGE)
        depth = 3 if is_camera else max(len(feature["shape"]), 1)
        for name in STATISTICS:
            kind: pa.DataType = pa.int64() if name == "count" else pa.float64()
            for _ in range(1 if name == "count" else depth):
                kind = pa.list_(kind)
            value = stats.get(key, {}).get(name)
            columns[f"{STATS_PREFIX}{key}/{name}"] = (_as_list(value, name), kind)
    return columns


def _as_list(value: Any, name: str) -> Any:
    if value is None:
        return None
    return np.asarray(value, np.int64 if name == "count" else np.float64).tolist()


def episode_table(
    row: Mapping[str, Any],
    stats: Mapping[str, tuple[Any, pa.DataType]],
    place: tuple[int, int],
    schema: pa.Schema | None,
) -> pa.Table:
    """One episode as a row of the table of episodes.

    Args:
        row: Its columns but statistics: ints, floats and, under "tasks", texts.
        stats: As `stats_columns` gives them.
        place: Chunk and number of the file that the row goes into.
        schema: Of the files that are there already, whose columns decide; None without any.
    """
    columns: dict[str, tuple[Any, pa.DataType]] = {key: (value, _plain_type(key, value)) for key, value in row.items()}
    columns |= stats
    columns["meta/episodes/chunk_index"] = (place[0], pa.int64())
    columns["meta/episodes/file_index"] = (place[1], pa.int64())
    if schema is None:
        return pa.table({name: pa.array([value], kind) for name, (value, kind) in columns.items()})
    given = {name: value for name, (value, _) in columns.items()}
    return pa.table([pa.array([given.get(field.name)], field.type) for field in schema], schema=schema)


def _plain_type(key: str, value: Any) -> pa.DataType:
    if key == "tasks":
        return pa.list_(pa.string())
    return pa.float64() if isinstance(value, float) else pa.int64()


# -- tasks and features -----------------------------------------------------------------------------------------------


def task_table(tasks: Sequence[str]) -> pa.Table:
    """The table of tasks, as pandas would have written it."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(_PANDAS)})


def info_features(features: Mapping[str, Mapping[str, Any]], extra: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """A recording's features as `info.json` has them, with those that every row has.

    Args:
        features: As a recording's `Features.to_json` gives them.
        extra: Names of further columns of float64 numbers.
    """
    named: dict[str, dict[str, Any]] = {}
    for key, feature in features.items():
        named[key] = {"dtype": feature["dtype"], "shape": list(feature["shape"]), "names": feature.get("names")}
    for key in extra:
        named[key] = {"dtype": "float64", "shape": [1], "names": None}
    return named | {key: dict(feature) for key, feature in DEFAULT_FEATURES.items()}


def recorded_features(features: Mapping[str, Mapping[str, Any]], extra: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The features of a dataset that a recorder feeds: those of `info.json` without those that every row has.

    Raises:
        RecordingError: if there is one that cannot be recorded.
    """
    kept = {key: dict(given) for key, given in features.items() if key not in DEFAULT_FEATURES and key not in extra}
    for key, given in kept.items():
        info = given.pop("info", None) or {}
        if given["dtype"] in (IMAGE, LANGUAGE) or info.get("is_depth_map") or info.get("video.is_depth_map"):
            what = "depth maps" if given["dtype"] == VIDEO else given["dtype"]
            raise RecordingError(
                f"Cannot record into this dataset: its feature {key!r} is of {what}, which only LeRobot itself writes."
            )
    return kept
