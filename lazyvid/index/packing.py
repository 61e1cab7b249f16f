"""A `FrameIndex` in as few bytes as it takes, about three a frame: a cell of a catalog's table; pure.

What follows from other columns is left out. Packets lie in the order in which they are decoded, where each begins where
the one before it ends, and every column is stored as the differences that are smallest; zstd does the rest. The numbers
that come back are exactly those that went in, whatever they are.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lazyvid import timing
from lazyvid.errors import CorruptIndexError
from lazyvid.index.arrow import source_from_values, source_values
from lazyvid.index.frame_index import PACKET_DTYPES, FrameIndex, PacketTable, Segment, Source

IntArray = npt.NDArray[np.int64]

MOST_BYTES = 1 << 32
"""What a packed index may unpack to."""
_MAGIC = b"lvp1"
_HEAD = struct.Struct("<4sI")  # magic, crc32 of what follows
_SIZE = struct.Struct("<Q")  # bytes of what follows when decompressed
_TEXT = struct.Struct("<I")  # bytes of JSON, which comes before the columns
_DTYPES = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8")
_MOST_DIFFERENCES = 2
_FAILURES = (
    *(pa.ArrowException, OSError, struct.error),
    *(ValueError, TypeError, LookupError, ZeroDivisionError, OverflowError),
)
"""What malformed bytes raise where their checksum is right all the same."""
# In this order, each for frames and then hidden packets, sorted by source and decode position. "offset" stands for the
# bytes between a packet's begin and the end of the one before it.
_COLUMNS = ("row", *PACKET_DTYPES)


def pack_index(index: FrameIndex) -> bytes:
    """The index as bytes that `unpack_index` makes an equal one of."""
    packets = PacketTable.concat([index.packets, index.hidden], source_shifts=[0, 0])
    order = np.lexsort((packets.decode_position, packets.source_idx)).astype(np.int64)
    columns = {name: getattr(packets, name)[order].astype(np.int64) for name in PACKET_DTYPES}
    columns["offset"] = _gaps(columns["offset"], columns["size"])
    columns["row"] = order
    times = index.timestamp.view(np.int64)  # bit by bit: 0.0 equals -0.0
    by_pts = _times_by_pts(index.packets, index.sources).view(np.int64)
    stored = [] if np.array_equal(times, by_pts) else [times]
    encoded = [_encode(column) for column in (*(columns[name] for name in _COLUMNS), *stored)]
    text = json.dumps(
        {
            "frames": len(index),
            "hidden": len(index.hidden),
            "sources": [_source_to_json(source) for source in index.sources],
            "segments": [[segment.source_idx, segment.frame_count] for segment in index.segments],
            "columns": [head for head, _ in encoded],
        },
        separators=(",", ":"),
    ).encode()
    raw = b"".join([_TEXT.pack(len(text)), text, *(body for _, body in encoded)])
    packed: bytes = pa.compress(raw, codec="zstd", asbytes=True)
    body = _SIZE.pack(len(raw)) + packed
    return _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


def unpack_index(data: bytes | memoryview | pa.Buffer) -> FrameIndex:
    """The index that was packed.

    Raises:
        CorruptIndexError: if the bytes are not those that `pack_index` gave.
    """
    view = memoryview(data)
    if len(view) < _HEAD.size + _SIZE.size:
        raise CorruptIndexError(f"Expected a packed index, found {len(view)} bytes.")
    (magic, crc), body = _HEAD.unpack_from(view), view[_HEAD.size :]
    if magic != _MAGIC or zlib.crc32(body) != crc:
        raise CorruptIndexError(f"Expected a packed index with crc32 {crc:08x}, found other bytes.")
    try:
        (size,) = _SIZE.unpack_from(body)
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes")
        return _unpack(pa.decompress(body[_SIZE.size :], decompressed_size=size, codec="zstd", asbytes=True))
    except _FAILURES as error:
        raise CorruptIndexError(f"Expected a packed index, found bytes that cannot be unpacked: {error}") from error


def _unpack(raw: bytes) -> FrameIndex:
    (length,) = _TEXT.unpack_from(raw)
    head = json.loads(raw[_TEXT.size : _TEXT.size + length])
    frames, total = head["frames"], head["frames"] + head["hidden"]
    at = _TEXT.size + length
    decoded: list[IntArray] = []
    for number, facts in enumerate(head["columns"]):
        column, at = _decode(raw, at, facts, total if number < len(_COLUMNS) else frames)
        decoded.append(column)
    columns = dict(zip(_COLUMNS, decoded, strict=False))
    columns["offset"] = _places(columns["offset"], columns["size"])
    back = np.empty_like(columns["row"])
    back[columns["row"]] = np.arange(total)
    packets = PacketTable(**{name: columns[name][back].astype(dtype) for name, dtype in PACKET_DTYPES.items()})
    shown = packets.take(slice(0, frames))
    sources = tuple(_source_from_json(values) for values in head["sources"])
    segments = tuple(Segment(*values) for values in head["segments"])
    counts = [segment.frame_count for segment in segments]
    times = decoded[len(_COLUMNS) :]
    return FrameIndex(
        segment_idx=np.repeat(np.arange(len(segments)), counts),
        local_frame_idx=np.concatenate([np.arange(count) for count in counts] or [np.empty(0, np.int64)]),
        timestamp=times[0].view(np.float64) if times else _times_by_pts(shown, sources),
        packets=shown,
        hidden=packets.take(slice(frames, None)),
        sources=sources,
        segments=segments,
    )


# -- what follows from other columns ----------------------------------------------------------------------------------


def _times_by_pts(packets: PacketTable, sources: Sequence[Source]) -> npt.NDArray[np.float64]:
    """float64 [N], seconds by each packet's pts and its source's time base, as a scan computes them."""
    times = np.zeros(len(packets))
    for number, source in enumerate(sources):
        own = packets.source_idx == number
        times[own] = timing.ticks_to_seconds(packets.pts[own], source.time_base)
    return times


def _gaps(offset: IntArray, size: IntArray) -> IntArray:
    gaps = offset.copy()
    gaps[1:] -= offset[:-1] + size[:-1]
    return gaps


def _places(gaps: IntArray, size: IntArray) -> IntArray:
    """The inverse of `_gaps`."""
    steps = gaps.copy()
    steps[1:] += size[:-1]
    return np.cumsum(steps)


# -- columns ----------------------------------------------------------------------------------------------------------


def _encode(column: IntArray) -> tuple[list[Any], bytes]:
    """A column as its first values and the smallest of its differences; int64 wraps, so that any number comes back."""
    heads: list[list[int]] = [[]]
    differences = [column]
    while len(differences) <= min(_MOST_DIFFERENCES, len(column) - 1):
        heads.append([*heads[-1], int(differences[-1][0])])
        differences.append(np.diff(differences[-1]))
    costs = [np.log2(np.abs(each.astype(np.float64)) + 1).sum() for each in differences]
    best = int(np.argmin(costs))
    dtype = _narrowest(differences[best])
    return [dtype, *heads[best]], differences[best].astype(dtype).tobytes()


def _narrowest(values: IntArray) -> str:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    fits = (np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max for dtype in _DTYPES)
    return next(dtype for dtype, good in zip(_DTYPES, fits, strict=True) if good)


def _decode(raw: bytes, at: int, facts: Sequence[Any], length: int) -> tuple[IntArray, int]:
    dtype, *heads = facts
    if dtype not in _DTYPES or len(heads) > _MOST_DIFFERENCES:
        raise ValueError(f"unknown column {facts!r}")
    count = length - len(heads)
    column = np.frombuffer(raw, dtype, count, at).astype(np.int64)
    for head in reversed(heads):
        column = np.cumsum(np.concatenate([[head], column]))
    return column, at + count * np.dtype(dtype).itemsize


# -- sources ----------------------------------------------------------------------------------------------------------


def _source_to_json(source: Source) -> dict[str, Any]:
    values = source_values(source)
    return values | {"extradata": base64.b64encode(values["extradata"]).decode()}


def _source_from_json(values: dict[str, Any]) -> Source:
    return source_from_values(values | {"extradata": base64.b64decode(values["extradata"], validate=True)})
