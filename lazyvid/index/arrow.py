"""A `FrameIndex` as Arrow tables and back: the sidecar's table, and the flat blocks that are memory-mapped; no I/O.

`sidecar` writes and reads the first with Lance, `local` the second as mapped files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lazyvid.errors import CorruptIndexError
from lazyvid.index.frame_index import PACKET_DTYPES, UNKNOWN, FrameIndex, PacketTable, Segment, Source

FORMAT_VERSION = 1
"""Version of the sidecar's table; readers refuse later ones."""

CONTRACT_COLUMNS = ("segment_idx", "local_frame_idx", "pts", "timestamp")
"""The columns that every reader and writer of sidecars knows."""

_PREFIX = "lazyvid:"
_VERSION_KEY = _PREFIX + "format_version"
_CHECKSUM_KEY = _PREFIX + "checksum"
_COUNT_KEYS = ("frames", "hidden", "sources", "segments")
_ZSTD = {"lance-encoding:compression": "zstd"}
# Column of the sidecar -> column of PacketTable, where the names differ.
_PACKET_COLUMNS = {
    "pts": "pts",
    "source_idx": "source_idx",
    "packet_offset": "offset",
    "packet_size": "size",
    "dts": "dts",
    "duration": "duration",
    "decode_position": "decode_position",
    "key": "key",
    "disposable": "disposable",
    "crc32": "crc32",
}
_FRAME_TYPES: dict[str, pa.DataType] = {
    "segment_idx": pa.int64(),
    "local_frame_idx": pa.int64(),
    "pts": pa.int64(),
    "timestamp": pa.float64(),
    "source_idx": pa.int32(),
    "packet_offset": pa.int64(),
    "packet_size": pa.int64(),
    "dts": pa.int64(),
    "duration": pa.int64(),
    "decode_position": pa.int64(),
    "key": pa.bool_(),
    "disposable": pa.bool_(),
    "crc32": pa.uint32(),
}
_NULLABLE = frozenset({"disposable", "crc32"})
_BLOBS = ("sources", "segments", "hidden_packets")
SIDECAR_COLUMNS = (*_FRAME_TYPES, *_BLOBS)
"""The columns of the sidecar's table, in order."""

# -- sidecar table ----------------------------------------------------------------------------------------------------


def to_sidecar_table(index: FrameIndex) -> pa.Table:
    """The sidecar's table: one row a frame; sources, segments and hidden packets as Arrow IPC on row 0 alone.

    Args:
        index: At least one frame; source URIs as they shall be stored.

    Raises:
        ValueError: if the index has no frame: there is no row 0 to carry its parts.
    """
    if not len(index):
        raise ValueError("A sidecar needs at least one frame, got an index without any.")
    arrays: dict[str, Any] = {name: _to_arrow(_frame_column(index, name), name) for name in _FRAME_TYPES}
    blobs = {
        "sources": _ipc(_sources_table(index.sources)),
        "segments": _ipc(_segments_table(index.segments)),
        "hidden_packets": _ipc(_packet_table(index.hidden)),
    }
    empty = pa.nulls(len(index) - 1, pa.binary())
    arrays |= {name: pa.concat_arrays([pa.array([blob], pa.binary()), empty]) for name, blob in blobs.items()}
    fields = [pa.field(n, t, nullable=n in _NULLABLE, metadata=_ZSTD) for n, t in _FRAME_TYPES.items()]
    fields += [pa.field(name, pa.binary(), nullable=True, metadata=_ZSTD) for name in _BLOBS]
    counts = _counts(index)
    metadata = {_VERSION_KEY: str(FORMAT_VERSION), **{_PREFIX + key: str(n) for key, n in counts.items()}}
    metadata[_CHECKSUM_KEY] = _checksum(counts, {n: _frame_column(index, n) for n in _FRAME_TYPES}, blobs)
    return pa.table(arrays, schema=pa.schema(fields, metadata=metadata))


def is_own(table: pa.Table) -> bool:
    """Whether lazyvid wrote the table, as its schema's metadata says."""
    return _VERSION_KEY.encode() in (table.schema.metadata or {})


def from_sidecar_table(table: pa.Table) -> FrameIndex:
    """The index that a sidecar's table holds, after its version, counts and checksum were verified.

    Raises:
        CorruptIndexError: if the table is from a later format version, or is not what was written.
    """
    metadata = _check_version(table)
    missing = [name for name in (*_FRAME_TYPES, *_BLOBS) if name not in table.column_names]
    if missing:
        raise CorruptIndexError(f"Expected the columns of a lazyvid index, found none named {', '.join(missing)}.")
    if not table.num_rows:
        raise CorruptIndexError("Expected one row a frame, found no row at all.")
    columns = {name: _from_arrow(table.column(name), name) for name in _FRAME_TYPES}
    blobs = {name: _first_value(table.column(name), name) for name in _BLOBS}
    try:
        counts = {key: int(metadata[_PREFIX + key]) for key in _COUNT_KEYS}
        expected = metadata[_CHECKSUM_KEY]
    except (KeyError, ValueError) as error:
        raise CorruptIndexError(f"Expected counts and a checksum in the schema's metadata: {error!r}.") from error
    if counts["frames"] != table.num_rows:
        raise CorruptIndexError(f"Expected {counts['frames']} rows, found {table.num_rows}.")
    found = _checksum(counts, columns, blobs)
    if found != expected:
        raise CorruptIndexError(f"Expected checksum {expected} over the columns, found {found}.")
    index = _assemble(columns, blobs)
    if _counts(index) != counts:
        raise CorruptIndexError(f"Expected {counts}, found {_counts(index)}.")
    return index


def _check_version(table: pa.Table) -> dict[str, str]:
    raw: Mapping[bytes, bytes] = table.schema.metadata or {}
    metadata = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in raw.items()}
    version = metadata.get(_VERSION_KEY, "")
    if not version.isascii() or not version.isdigit():
        raise CorruptIndexError(f"Expected a format version in the schema's metadata, found {version!r}.")
    if int(version) != FORMAT_VERSION:
        raise CorruptIndexError(
            f"Expected format version {FORMAT_VERSION}, the one this lazyvid knows, found version {int(version)}: "
            "install a newer lazyvid, or index the video anew."
        )
    return metadata


def _assemble(columns: Mapping[str, npt.NDArray[Any]], blobs: Mapping[str, bytes]) -> FrameIndex:
    try:
        sources = _read_sources(_read_ipc(blobs["sources"]))
        segments = _read_segments(_read_ipc(blobs["segments"]))
        hidden = _read_packets(_read_ipc(blobs["hidden_packets"]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CorruptIndexError(f"Expected sources, segments and hidden packets as Arrow IPC: {error}") from error
    return FrameIndex(
        segment_idx=columns["segment_idx"],
        local_frame_idx=columns["local_frame_idx"],
        timestamp=columns["timestamp"],
        packets=_packets_from(columns),
        hidden=hidden,
        sources=sources,
        segments=segments,
    )


def _counts(index: FrameIndex) -> dict[str, int]:
    return {
        "frames": len(index),
        "hidden": len(index.hidden),
        "sources": len(index.sources),
        "segments": len(index.segments),
    }


def _checksum(counts: Mapping[str, int], columns: Mapping[str, npt.NDArray[Any]], blobs: Mapping[str, bytes]) -> str:
    digest = hashlib.blake2b(repr([counts[key] for key in _COUNT_KEYS]).encode(), digest_size=16)
    for name in _FRAME_TYPES:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(columns[name]).data)
    for name in _BLOBS:
        digest.update(f"{name}:{len(blobs[name])}:".encode())
        digest.update(blobs[name])
    return digest.hexdigest()


# -- columns ----------------------------------------------------------------------------------------------------------


def _frame_column(index: FrameIndex, name: str) -> npt.NDArray[Any]:
    """A column of the sidecar with the dtype that `FrameIndex` gives it."""
    array: npt.NDArray[Any] = (
        getattr(index.packets, _PACKET_COLUMNS[name]) if name in _PACKET_COLUMNS else (getattr(index, name))
    )
    return array


def _packets_from(columns: Mapping[str, npt.NDArray[Any]]) -> PacketTable:
    return PacketTable(**{attribute: columns[name] for name, attribute in _PACKET_COLUMNS.items()})


def _to_arrow(array: npt.NDArray[Any], name: str) -> pa.Array:
    kind = _FRAME_TYPES[name]
    if name not in _NULLABLE:
        return pa.array(array, kind)
    # What was not read is null in the file, and a negative number in memory.
    unknown = array == UNKNOWN
    return pa.array(np.where(unknown, 0, array).astype(kind.to_pandas_dtype()), kind, mask=unknown)


def _from_arrow(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    kind = _FRAME_TYPES[name]
    if column.type != kind:
        raise CorruptIndexError(f"Expected the column {name} to be {kind}, found {column.type}.")
    dtype = PACKET_DTYPES[_PACKET_COLUMNS[name]] if name in _PACKET_COLUMNS else kind.to_pandas_dtype()
    if column.null_count and name not in _NULLABLE:
        raise CorruptIndexError(f"Expected no nulls in the column {name}, found {column.null_count}.")
    if name not in _NULLABLE:
        return np.ascontiguousarray(column.to_numpy(), dtype=dtype)
    known = column.is_valid().to_numpy()
    values = column.fill_null(pa.scalar(value=0).cast(kind)).to_numpy().astype(dtype)
    return np.where(known, values, np.asarray(UNKNOWN, dtype))


def _first_value(column: pa.ChunkedArray, name: str) -> bytes:
    if not pa.types.is_binary(column.type) or column.null_count != len(column) - 1 or not column[0].is_valid:
        raise CorruptIndexError(f"Expected the column {name} to be set on row 0 alone, found otherwise.")
    value: bytes = column[0].as_py()
    return value


# -- the parts --------------------------------------------------------------------------------------------------------


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _read_ipc(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
        return reader.read_all()


def _packet_table(packets: PacketTable) -> pa.Table:
    return pa.table({name: _to_arrow(getattr(packets, field), name) for name, field in _PACKET_COLUMNS.items()})


def _read_packets(table: pa.Table) -> PacketTable:
    return _packets_from({name: _from_arrow(table.column(name), name) for name in _PACKET_COLUMNS})


def _segments_table(segments: Sequence[Segment]) -> pa.Table:
    return pa.table(
        {
            "source_idx": pa.array([segment.source_idx for segment in segments], pa.int64()),
            "frame_count": pa.array([segment.frame_count for segment in segments], pa.int64()),
        }
    )


def _read_segments(table: pa.Table) -> tuple[Segment, ...]:
    columns = (table.column(name).to_pylist() for name in ("source_idx", "frame_count"))
    return tuple(Segment(*values) for values in zip(*columns, strict=True))


_SOURCE_FIELDS = tuple(field.name for field in dataclasses.fields(Source))
_RATIONALS = ("time_base", "sample_aspect_ratio")
_SOURCE_TYPES: dict[str, pa.DataType] = {
    "uri": pa.string(),
    "etag": pa.string(),
    "container": pa.string(),
    "codec": pa.string(),
    "extradata": pa.binary(),
    "pix_fmt": pa.string(),
    "addressing": pa.string(),
    "codec_tag": pa.string(),
    "hflip": pa.bool_(),
}


def source_values(source: Source) -> dict[str, Any]:
    """A source's fields by name, fractions as two integers."""
    values: dict[str, Any] = {}
    for name in _SOURCE_FIELDS:
        value = getattr(source, name)
        if name in _RATIONALS:
            values |= {name + "_num": value.numerator, name + "_den": value.denominator}
        else:
            values[name] = value
    return values


def source_from_values(values: Mapping[str, Any]) -> Source:
    """The source with these fields; those that are not known are left out."""
    fields: dict[str, Any] = dict(values)
    for name in _RATIONALS:
        fields[name] = Fraction(fields.pop(name + "_num"), fields.pop(name + "_den"))
    # Fields of a later lazyvid that mean something would have come with a later format version.
    return Source(**{name: value for name, value in fields.items() if name in _SOURCE_FIELDS})


def _sources_table(sources: Sequence[Source]) -> pa.Table:
    rows = [source_values(source) for source in sources]
    names = _SOURCE_COLUMN_NAMES
    return pa.table({n: pa.array([row[n] for row in rows], _SOURCE_TYPES.get(n, pa.int64())) for n in names})


_SOURCE_COLUMN_NAMES = tuple(
    column for name in _SOURCE_FIELDS for column in ((name + "_num", name + "_den") if name in _RATIONALS else (name,))
)


def _read_sources(table: pa.Table) -> tuple[Source, ...]:
    return tuple(source_from_values(row) for row in table.to_pylist())


# -- mapped layout ----------------------------------------------------------------------------------------------------

_FLAT_TYPES: dict[str, pa.DataType] = {
    "segment_idx": pa.int64(),
    "local_frame_idx": pa.int64(),
    "timestamp": pa.float64(),
    "source_idx": pa.int32(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "pts": pa.int64(),
    "dts": pa.int64(),
    "duration": pa.int64(),
    "decode_position": pa.int64(),
    "key": pa.uint8(),
    "disposable": pa.int8(),
    "crc32": pa.int64(),
}
_FRAME_ONLY = ("segment_idx", "local_frame_idx", "timestamp")
_DIRECTORY_SCHEMA = pa.schema(
    {
        "start": pa.int64(),
        "frames": pa.int64(),
        "hidden": pa.int64(),
        "crc32": pa.int64(),
        "content_hash": pa.string(),
        "sources": pa.large_binary(),
        "segments": pa.large_binary(),
    }
)


def to_blocks(indexes: Sequence[FrameIndex], hashes: Sequence[str]) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Indexes as two record batches that need no conversion when they are read.

    Args:
        indexes: One or more.
        hashes: The content hash of each.

    Returns:
        (rows, directory). The rows hold, for each index in turn, its frames and then its hidden packets, with the
        dtypes of `FrameIndex` (bool as uint8); the directory says, one row an index, which rows those are, their crc32,
        and sources and segments.
    """
    columns = {name: _flat_column(indexes, name) for name in _FLAT_TYPES}
    rows = pa.record_batch({n: pa.array(column, _FLAT_TYPES[n]) for n, column in columns.items()})
    lengths = np.array([len(index) + len(index.hidden) for index in indexes], np.int64)
    starts = np.cumsum(lengths) - lengths
    directory = {
        "start": starts,
        "frames": [len(index) for index in indexes],
        "hidden": [len(index.hidden) for index in indexes],
        "crc32": [_rows_crc32(columns, int(a), int(a + n)) for a, n in zip(starts, lengths, strict=True)],
        "content_hash": list(hashes),
        "sources": [_ipc(_sources_table(index.sources)) for index in indexes],
        "segments": [json.dumps([[s.source_idx, s.frame_count] for s in i.segments]).encode() for i in indexes],
    }
    return rows, pa.record_batch(directory, schema=_DIRECTORY_SCHEMA)


def from_blocks(rows: pa.RecordBatch, directory: pa.RecordBatch, position: int) -> tuple[str, FrameIndex]:
    """One index of `to_blocks`, without a copy of its columns, after its crc32 was verified.

    Returns:
        (content hash, index); the index's arrays are views of `rows`.

    Raises:
        CorruptIndexError: if the rows are not those that were written.
    """
    start, frames, hidden, crc, content_hash, sources, segments = (
        directory.column(name)[position].as_py() for name in _DIRECTORY_SCHEMA.names
    )
    middle, stop = start + frames, start + frames + hidden
    columns = {name: rows.column(name).to_numpy(zero_copy_only=True) for name in _FLAT_TYPES}
    if not 0 <= start <= middle <= stop <= rows.num_rows or _rows_crc32(columns, start, stop) != crc:
        raise CorruptIndexError(f"Expected rows {start} to {stop} with crc32 {crc}, found others.")
    columns["key"] = columns["key"].view(np.bool_)
    index = FrameIndex(
        **{name: columns[name][start:middle] for name in _FRAME_ONLY},
        packets=PacketTable(**{name: columns[name][start:middle] for name in PACKET_DTYPES}),
        hidden=PacketTable(**{name: columns[name][middle:stop] for name in PACKET_DTYPES}),
        sources=_read_sources(_read_ipc(sources)),
        segments=tuple(Segment(*values) for values in json.loads(segments)),
    )
    return content_hash, index


def _flat_column(indexes: Sequence[FrameIndex], name: str) -> npt.NDArray[Any]:
    parts: list[npt.NDArray[Any]] = []
    for index in indexes:
        if name in _FRAME_ONLY:
            column = getattr(index, name)
            parts += [column, np.zeros(len(index.hidden), column.dtype)]
        else:
            parts += [getattr(index.packets, name), getattr(index.hidden, name)]
    joined = np.concatenate(parts)
    return joined.view(np.uint8) if name == "key" else joined


def _rows_crc32(columns: Mapping[str, npt.NDArray[Any]], start: int, stop: int) -> int:
    crc = 0
    for name in _FLAT_TYPES:
        crc = zlib.crc32(np.ascontiguousarray(columns[name][start:stop]).data, crc)
    return crc
