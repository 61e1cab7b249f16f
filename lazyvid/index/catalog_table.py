"""The table of a catalog: which columns a video's row has, and what makes a table one; no I/O.

`catalog_build` makes rows, `catalog_files` stores and maps them, `Catalog` shows them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lazyvid import timing
from lazyvid.errors import CorruptIndexError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.packing import pack_index
from lazyvid.index.view import FrameView
from lazyvid.storage import ObjectMeta

FORMAT_VERSION = 1
"""Version of the table; readers refuse later ones."""
VERSION_KEY = b"lazyvid:catalog_version"
"""Stands in the schema's metadata of every catalog."""

_NUMBER = "lazyvid:number"
_CELLS: dict[str, pa.DataType] = {"pins": pa.binary(), "index": pa.large_binary()}
_FACTS: dict[str, pa.DataType] = {
    "uri": pa.string(),
    "frames": pa.int64(),
    "duration": pa.float64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "codec": pa.string(),
    "size": pa.int64(),
    "etag": pa.string(),
    "fingerprint": pa.uint32(),
    "packet_bytes": pa.int64(),
    "first_timestamp": pa.float64(),
    "last_timestamp": pa.float64(),
    "median_step": pa.float64(),
    "grid_error": pa.float64(),
    "content_hash": pa.string(),
}
"""What is known of each video beside its index:

`duration` in seconds; `width` and `height` as shown; `codec`, `etag` and `fingerprint` of its first file; `size` in
bytes of all its files; `packet_bytes` of the packets that its frames are coded in; times in seconds; `grid_error` the
most that a frame is away from an even grid between the first and the last; `content_hash` of the index.
"""
_OWN = {**_FACTS, **_CELLS}
FACTS = tuple(_FACTS)
"""Names of the columns that every catalog has and that users see."""
RESERVED = frozenset(_OWN)
"""Names that a user's columns cannot have."""

Row = Mapping[str, Any]
"""A video's facts and cells by column."""


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """One version of a catalog, as it lies in a mapped file."""

    content_hash: str
    """Names this version."""
    cells: pa.RecordBatch
    """What is looked up one video at a time: pins and packed indexes."""
    columns: pa.RecordBatch
    """What is cheap enough to be looked at for all videos: the facts, and then the user's columns."""

    def __len__(self) -> int:
        return int(self.columns.num_rows)


def video_row(uri: str, index: FrameIndex, pins: Sequence[ObjectMeta]) -> Row:
    """The row of a video.

    Args:
        uri: Absolute.
        index: Its sources' URIs relative to the video.
        pins: For each source, the version of its file.
    """
    view = FrameView(index)
    times, source = view.timestamps, index.sources[0]
    height, width = source.display_size
    first, last = (float(times[0]), float(times[-1])) if len(times) else (np.nan, np.nan)
    return {
        "uri": uri,
        "frames": len(index),
        "duration": view.end_seconds - view.begin_seconds,
        "width": width,
        "height": height,
        "codec": source.codec,
        "size": sum({pin.uri: pin.size for pin in pins}.values()),
        "etag": pins[0].etag,
        "fingerprint": source.fingerprint,
        "packet_bytes": int(index.packets.size.sum()),
        "first_timestamp": first,
        "last_timestamp": last,
        "median_step": timing.median_step(times),
        "grid_error": timing.grid_error(times),
        "content_hash": index.content_hash(),
        "pins": json.dumps([[pin.uri, pin.size, pin.etag, pin.version, pin.modified_ns] for pin in pins]).encode(),
        "index": pack_index(index),
    }


def read_pins(cell: bytes) -> tuple[ObjectMeta, ...]:
    """For each source of a video, the version of its file.

    Raises:
        CorruptIndexError: if the cell holds something else.
    """
    try:
        return tuple(ObjectMeta(*values) for values in json.loads(cell))
    except (ValueError, TypeError) as error:
        raise CorruptIndexError(f"Expected the versions of a video's files, found other bytes: {error}") from error


def make_table(rows: Sequence[Row], user: pa.Table | None) -> pa.Table:
    """The table to be stored.

    Args:
        rows: One a video, one or more.
        user: The user's columns, one row a video.
    """
    return _combined(_own(rows), user)


def with_rows(table: CatalogTable, rows: Sequence[Row], user: pa.Table | None) -> pa.Table:
    """The table to be stored when more videos follow those that are there.

    Args:
        table: What is there.
        rows: Of the videos that follow.
        user: Their columns of the user's.

    Raises:
        ValueError: if a column of the user's has other types before and after.
    """
    own = pa.concat_tables([_own_of(table), _own(rows)])
    return _combined(own, _stacked([_user_of(table), user], [len(table), len(rows)]))


def with_changes(table: CatalogTable, rows: Sequence[Row], dropped: Collection[str]) -> pa.Table:
    """The table to be stored when videos have new rows, and others are gone; the user's columns stay.

    Args:
        table: What is there.
        rows: New rows of videos that are there.
        dropped: URIs of videos that leave.
    """
    uris = table.columns.column("uri").to_pylist()
    kept = [number for number, uri in enumerate(uris) if uri not in set(dropped)]
    fresh = {row["uri"]: len(uris) + number for number, row in enumerate(rows)}
    own = pa.concat_tables([_own_of(table), _own(rows)]).take([fresh.get(uris[number], number) for number in kept])
    user = _user_of(table)
    return _combined(own, None if user is None else user.take(kept))


def _own(rows: Sequence[Row]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in _OWN.items()})


def _own_of(table: CatalogTable) -> pa.Table:
    batches = {name: table.cells if name in _CELLS else table.columns for name in _OWN}
    return pa.table({name: batch.column(name) for name, batch in batches.items()})


def _user_of(table: CatalogTable) -> pa.Table | None:
    names = [name for name in table.columns.schema.names if name not in RESERVED]
    return pa.Table.from_batches([table.columns]).select(names) if names else None


def _stacked(tables: Sequence[pa.Table | None], lengths: Sequence[int]) -> pa.Table | None:
    """The user's columns of several runs of videos, one after the other; null where a run has no such column.

    Args:
        tables: Of each run.
        lengths: Videos of each run.

    Raises:
        ValueError: if a column has types that do not go together.
    """
    if all(table is None for table in tables):
        return None
    # A table without columns has no length, so the runs without any get one that is dropped again.
    marked = [
        pa.table({"uri": pa.nulls(n)}) if table is None else table for table, n in zip(tables, lengths, strict=True)
    ]
    try:
        joined = pa.concat_tables(marked, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"The columns do not fit those that the catalog has: {error}") from error
    return joined.drop_columns(["uri"]) if "uri" in joined.column_names else joined


def _combined(own: pa.Table, user: pa.Table | None) -> pa.Table:
    """Facts, then the user's columns, then the cells; marked as a catalog of this format."""
    columns = {name: own.column(name) for name in _FACTS}
    columns |= {} if user is None else {name: user.column(name) for name in user.column_names}
    columns |= {name: own.column(name) for name in _CELLS}
    return pa.table(columns).replace_schema_metadata({VERSION_KEY: str(FORMAT_VERSION)})


def rows_where(table: CatalogTable, filters: Sequence[Any]) -> npt.NDArray[np.int64]:
    """int64 [V], the rows for which all conditions are true, in order.

    Args:
        table: What is looked at.
        filters: `pyarrow.compute.Expression`s over its columns.

    Raises:
        ValueError: if one names a column that is not there, or is no condition.
    """
    numbered = pa.Table.from_batches([table.columns]).append_column(_NUMBER, pa.array(np.arange(len(table))))
    try:
        for expression in filters:
            numbered = numbered.filter(expression)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(
            f"Cannot filter a catalog by {filters[-1]}: expected a condition over the columns "
            f"{', '.join(table.columns.schema.names)}: {error}"
        ) from error
    rows: npt.NDArray[np.int64] = numbered.column(_NUMBER).to_numpy().astype(np.int64)
    return rows


def check_version(metadata: Mapping[bytes, bytes] | None) -> None:
    """Raise CorruptIndexError unless a schema's metadata is that of a catalog of this format version."""
    version = (metadata or {}).get(VERSION_KEY, b"").decode(errors="replace")
    if not version.isascii() or not version.isdigit():
        raise CorruptIndexError("it is no catalog: its schema's metadata states no version of one.")
    if int(version) != FORMAT_VERSION:
        raise CorruptIndexError(
            f"expected format version {FORMAT_VERSION}, the one this lazyvid knows, found version {int(version)}: "
            "install a newer lazyvid, or build the catalog anew."
        )


def split_table(table: pa.Table) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(cells, columns) of a table that was stored, once its version and columns were found to be right.

    Raises:
        CorruptIndexError: if they are not.
    """
    check_version(table.schema.metadata)
    for name, kind in _OWN.items():
        found = table.column(name) if table.schema.names.count(name) == 1 else None
        if found is None or found.type != kind or (found.null_count and name != "etag"):
            described = "none of this name" if found is None else f"{found.type} with {found.null_count} nulls"
            raise CorruptIndexError(f"expected the column {name} to be {kind} without nulls, found {described}.")
    if not table.num_rows:
        raise CorruptIndexError("expected one row a video, found no row at all.")
    names = [name for name in table.schema.names if name not in _CELLS]
    return _batch(table.select(list(_CELLS))), _batch(table.select(names))


def _batch(table: pa.Table) -> pa.RecordBatch:
    (batch,) = table.replace_schema_metadata(None).combine_chunks().to_batches()
    return batch
