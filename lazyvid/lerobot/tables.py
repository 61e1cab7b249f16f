"""Arrow tables that this machine's processes share: made once, kept in a `SegmentCache`, mapped into memory.

Used for the table of episodes and for the rows. Where nothing can be kept, a table lives in the memory of its process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lazyvid.errors import DatasetError, StoreError
from lazyvid.lru import ProcessLRU
from lazyvid.storage import ObjectMeta, ObjectStore, SegmentCache, display_uri, is_local

_log = logging.getLogger(__name__)
_said: ProcessLRU[str, bool] = ProcessLRU(capacity=64)

Arrays = Mapping[str, npt.NDArray[Any]]


def version_of(meta: ObjectMeta) -> str:
    """What names a version of an object, for names in the cache."""
    return f"{meta.uri}\0{meta.etag or meta.version or meta.modified_ns}\0{meta.size}"


def open_parquet(store: ObjectStore, meta: ObjectMeta) -> pq.ParquetFile:
    """A parquet file of a dataset, at the version that was seen: a local one mapped, a remote one fetched whole.

    Raises:
        DatasetError: if it is no whole parquet file.
        StoreError: if it cannot be read.
    """
    try:
        if is_local(meta.uri):
            return pq.ParquetFile(meta.uri, memory_map=True)
        return pq.ParquetFile(pa.BufferReader(store.read(meta.uri)))
    except pa.ArrowException as error:
        raise DatasetError(
            f"Cannot read {display_uri(meta.uri)}: expected a whole parquet file, found {error}. A recorder that was "
            "killed leaves files without their footer; restore the file, or delete it with the episodes in it."
        ) from error


def kept_table(cache: SegmentCache, name: str, make: Callable[[], Iterator[pa.RecordBatch]]) -> pa.Table:
    """A table by the name of its content: mapped from the cache's file, which is made first where there is none.

    Args:
        cache: Where tables are kept.
        name: Of the content: equal names, equal tables.
        make: Gives the table's batches, one or more.

    Returns:
        The table, its columns in as many chunks as there were batches.

    Raises:
        LazyVidError: what `make` raised.
    """
    failed: list[Exception] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from make()
        except Exception as error:
            failed.append(error)
            raise

    def write(file: BinaryIO) -> None:
        source = batches()
        first = next(source)
        with pa.ipc.new_file(file, first.schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
            writer.write_batch(first)
            for batch in source:
                writer.write_batch(batch)

    for _try in range(2):
        try:
            path = cache.derived(name, write)
        except StoreError as error:
            if failed:
                raise
            _say_unkept(str(error))
            break
        try:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except FileNotFoundError:
            continue  # another process made room since
        except (pa.ArrowInvalid, OSError):
            path.unlink(missing_ok=True)  # cut short by a failing disk
    return pa.Table.from_batches(list(make()))


def _say_unkept(why: str) -> None:
    """Say once a process what it costs."""

    def say() -> bool:
        _log.warning("Rows of LeRobot datasets stay in the memory of each process: %s", why)
        return True

    _said.get(why, say)


def numbers_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The numbers of a column, those of lists one after the other; null becomes NaN."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    while not pa.types.is_primitive(array.type):
        array = array.storage if isinstance(array.type, pa.BaseExtensionType) else array.flatten()
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def to_batch(arrays: Arrays) -> pa.RecordBatch:
    """Arrays [N, ...] as one batch, from which `from_table` gives them back without a copy."""
    columns = {}
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array).reshape(len(array), int(np.prod(array.shape[1:])))
        values = pa.array(flat.reshape(-1).view(np.uint8) if flat.dtype == np.bool_ else flat.reshape(-1))
        if flat.shape[1] == 0:
            columns[name] = pa.nulls(len(array))
        elif array.ndim == 1:
            columns[name] = values
        else:
            columns[name] = pa.FixedSizeListArray.from_arrays(values, flat.shape[1])
    facts = {name: f"{array.dtype.str} {','.join(map(str, array.shape[1:]))}" for name, array in arrays.items()}
    return pa.RecordBatch.from_pydict(columns).replace_schema_metadata(facts)


def from_table(table: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """The arrays that `to_batch` was given; views of the table's memory, read-only."""
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    found: dict[str, npt.NDArray[Any]] = {}
    for name in table.column_names:
        kind, _, sizes = facts[name].partition(" ")
        shape = (table.num_rows, *(int(size) for size in sizes.split(",") if size))
        if 0 in shape:
            found[name] = np.empty(shape, np.dtype(kind))
            continue
        chunk = table.column(name).chunk(0)
        flat = chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk
        found[name] = flat.to_numpy().view(np.dtype(kind)).reshape(shape)
    return found
