"""Makes a long MP4 of a short one without encoding: its tables list the same frames over and over again.

LeRobot fills a video file up to 200 MB before it begins the next one, so that a dataset of hundreds of files has tables
of tens of thousands of frames each, which whoever opens a file has to read. Files that large do not fit a benchmark's
disk by the hundred; files whose tables are as long, and whose frames lie in the same bytes, do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")
# Where these boxes of version 0 hold a duration, in bytes behind their head.
_DURATIONS = {b"mvhd": 16, b"tkhd": 20, b"mdhd": 16, b"elst": 8}
_HEAD = struct.Struct(">I4s")


def repeated(video: bytes, times: int, *, share_bytes: bool) -> bytes:
    """A video shown several times in a row.

    Args:
        video: An MP4 of one video stream, its `moov` behind its one `mdat`, as FFmpeg writes it.
        times: How often.
        share_bytes: Whether all repetitions lie in the same bytes; else each has its own, as a real file has.

    Raises:
        ValueError: if the file is built in another way.
    """
    boxes = list(_boxes(video))
    if [box.kind for box in boxes if box.kind in (b"mdat", b"moov")] != [b"mdat", b"moov"]:
        raise ValueError(f"Expected one mdat and then moov, found {[box.kind for box in boxes]}.")
    before = b"".join(box.whole for box in boxes if box.kind not in (b"mdat", b"moov"))
    mdat, moov = (next(box for box in boxes if box.kind == kind) for kind in (b"mdat", b"moov"))
    stride = 0 if share_bytes else len(mdat.body)
    payload = mdat.body if share_bytes else mdat.body * times
    # What stood before mdat still does; what stood behind it is put there, too.
    start = len(before) + _HEAD.size
    tables = _Tables(times, stride=stride, shift=start - mdat.start, samples=_count(moov.body, b"stsz", 8),
                     chunks=_count(moov.body, b"stco", 4))  # fmt: skip
    return before + _box(b"mdat", payload) + _box(b"moov", tables.repeated(moov.body))


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    whole: bytes
    body: bytes
    start: int
    """Of the body in the file."""


def _boxes(data: bytes) -> Iterator[_Box]:
    at = 0
    while at < len(data):
        size, kind = _HEAD.unpack_from(data, at)
        if size < _HEAD.size:
            raise ValueError(f"Expected boxes with sizes of 32 bits, found {kind!r} of {size} bytes.")
        yield _Box(kind, data[at : at + size], data[at + _HEAD.size : at + size], at + _HEAD.size)
        at += size


def _box(kind: bytes, body: bytes) -> bytes:
    return _HEAD.pack(len(body) + _HEAD.size, kind) + body


def _count(moov: bytes, kind: bytes, place: int) -> int:
    """The number of entries of the one table of a kind."""
    if moov.count(kind) != 1:
        raise ValueError(f"Expected one {kind!r}, found {moov.count(kind)}: a file of one stream is needed.")
    (count,) = struct.unpack_from(">I", moov, moov.index(kind) + 4 + place)
    return int(count)


@dataclass(frozen=True, slots=True)
class _Tables:
    """How tables are repeated."""

    times: int
    stride: int
    """Bytes from one repetition's payload to the next one's."""
    shift: int
    """Bytes by which the payload has moved."""
    samples: int
    """Of one repetition."""
    chunks: int
    """Of one repetition."""

    def repeated(self, body: bytes) -> bytes:
        """The boxes in `body`, for all repetitions."""
        return b"".join(_box(box.kind, self._one(box)) for box in _boxes(body))

    def _one(self, box: _Box) -> bytes:
        kind, body = box.kind, box.body
        if kind in _NESTED:
            return self.repeated(body)
        if kind in _DURATIONS:
            at = _DURATIONS[kind]
            (duration,) = struct.unpack_from(">I", body, at)
            return body[:at] + struct.pack(">I", duration * self.times) + body[at + 4 :]
        if kind in (b"stts", b"ctts"):
            return self._table(body, 2, steps=(0, 0))
        if kind == b"stss":
            return self._table(body, 1, steps=(self.samples,))
        if kind == b"stsc":
            return self._table(body, 3, steps=(self.chunks, 0, 0))
        if kind == b"stco":
            return self._table(body, 1, steps=(self.stride,), shift=self.shift)
        if kind == b"stsz":
            return body[:8] + struct.pack(">I", self.samples * self.times) + body[12:] * self.times
        return body

    def _table(self, body: bytes, columns: int, *, steps: tuple[int, ...], shift: int = 0) -> bytes:
        """A table of 32-bit numbers behind its count, each column grown by its step from one repetition to the next."""
        (count,) = struct.unpack_from(">I", body, 4)
        values = struct.unpack_from(f">{count * columns}I", body, 8)
        grown = [
            value + shift + number * steps[place % columns]
            for number in range(self.times)
            for place, value in enumerate(values)
        ]
        return body[:4] + struct.pack(f">{len(grown) + 1}I", count * self.times, *grown)
