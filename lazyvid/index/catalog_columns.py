"""A user's own columns of a catalog (labels, splits, ...), however they were given; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from lazyvid.index.catalog_table import RESERVED
from lazyvid.storage import ObjectStore, display_uri

Columns: TypeAlias = "Mapping[str, Any] | Any"
"""A `pyarrow.Table` with a column `uri`; or `{uri: {column: value}}`; or `{column: values}`, the values one a video in
order, or `{uri: value}`."""


def user_columns(columns: Columns | None, uris: Sequence[str], store: ObjectStore) -> pa.Table | None:
    """The user's columns for videos, one row each, null where nothing is said of a video.

    Args:
        columns: As the user gave them; URIs as they may be given anywhere.
        uris: The videos, resolved.
        store: What the URIs are resolved by.

    Raises:
        ValueError: if they speak of other videos, or twice of one; if a name is taken; if values have no common type.
    """
    if columns is None:
        return None
    try:
        table = columns if isinstance(columns, pa.Table) else _from_mapping(columns, uris, store)
        chosen = _by_uri(table, uris, store)
    except pa.ArrowException as error:
        raise ValueError(f"Cannot make columns of what was given: {error}") from error
    taken = sorted(RESERVED.intersection(chosen.column_names))
    if taken:
        raise ValueError(f"The column names {', '.join(taken)} are the catalog's own: choose others.")
    return chosen


def _from_mapping(columns: Mapping[str, Any], uris: Sequence[str], store: ObjectStore) -> pa.Table:
    """A table with a column `uri`."""
    known = set(uris)
    if any(_resolved(key, store) in known for key in columns):
        names = list(dict.fromkeys(name for row in columns.values() for name in row))
        rows = list(columns.values())
        return pa.table({"uri": list(map(str, columns)), **{n: pa.array([row.get(n) for row in rows]) for n in names}})
    table = pa.table({"uri": list(uris)})
    for name, values in columns.items():
        table = table.append_column(name, _column(name, values, uris, store))
    return table


def _column(name: str, values: Any, uris: Sequence[str], store: ObjectStore) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, Mapping):
        pairs = pa.table({"uri": list(map(str, values)), name: pa.array(list(values.values()))})
        return _by_uri(pairs, uris, store).column(name)
    array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    if len(array) != len(uris):
        raise ValueError(f"Expected {len(uris)} values in the column {name}, one a video, got {len(array)}.")
    return array


def _by_uri(table: pa.Table, uris: Sequence[str], store: ObjectStore) -> pa.Table:
    """The rows of a table with a column `uri` in the order of `uris`, without that column."""
    if "uri" not in table.column_names:
        raise ValueError(f"Expected a table with a column `uri`, got the columns {', '.join(table.column_names)}.")
    keys = [_resolved(key, store) for key in table.column("uri").to_pylist()]
    twice = len(keys) - len(set(keys))
    unknown = sorted(set(keys).difference(uris))
    if twice or unknown:
        shown = ", ".join(map(display_uri, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise ValueError(
            f"Expected columns for the {len(uris)} videos that were given, each at most once; got {twice} URIs again "
            f"and {len(unknown)} of other videos{': ' + shown if unknown else ''}."
        )
    rows = pc.index_in(pa.array(uris, pa.string()), pa.array(keys, pa.string()))
    return table.drop_columns(["uri"]).take(rows)


def _resolved(key: Any, store: ObjectStore) -> str:
    return store.resolve(key) if key else ""
