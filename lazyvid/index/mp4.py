"""Which byte ranges of an MP4 or MOV file hold its headers: a walk over its boxes that asks for few, large ranges.

`HeaderScan` plans requests and does no I/O itself; `fingerprint.scan_headers` fetches for it, `mp4_checks` reads what
it found. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazyvid.errors import LimitExceededError
from lazyvid.index.sparse import SparseBytes

if TYPE_CHECKING:
    from lazyvid.frames import Limits

FIRST_READ = 64 * 1024
"""Bytes that are read of any file to begin with."""
MOST_BOXES = 1_000_000
"""Top-level boxes that are walked over: a day of fragments of 0.2 s."""

_SMALL_FILE = 256 * 1024
_LARGEST_READ_AHEAD = 8 * 1024 * 1024
_LEAST_TAIL, _LARGEST_TAIL = 1024 * 1024, 16 * 1024 * 1024
_OPAQUE_BOX = 1024 * 1024
_HINT_SPACING = 512 * 1024
_BOX_HEADER = 16
_TAIL = 64 * 1024


@dataclass(frozen=True, slots=True)
class Box:
    """One box: `start` is the first byte of its header, `payload` the first one after it, `stop` one past its last."""

    kind: bytes
    start: int
    payload: int
    stop: int


def read_box(header: bytes, start: int, limit: int) -> Box | None:
    """The box whose header these bytes are.

    Args:
        header: 16 bytes, or fewer at the end of the file.
        start: Where they lie.
        limit: One past the last byte that the box could have: where a box of size 0 ends.

    Returns:
        The box, whose `stop` may lie behind `limit` when it claims so; None when these bytes are no box.
    """
    if len(header) < 8:
        return None
    size, kind, payload = int.from_bytes(header[:4], "big"), header[4:8], start + 8
    if size == 1:
        if len(header) < 16:
            return None
        size, payload = int.from_bytes(header[8:16], "big"), start + 16
    elif size == 0:
        size = limit - start
    if size < payload - start or not all(32 <= byte < 127 or byte == 0xA9 for byte in kind):
        return None
    return Box(kind, start, payload, start + size)


def boxes_in(data: bytes, start: int, stop: int) -> Iterator[Box]:
    """The boxes that lie one after the other in `data[start:stop]`; ends where none is."""
    while start + 8 <= stop:
        box = read_box(data[start : min(start + _BOX_HEADER, stop)], start, stop)
        if box is None:
            return
        yield box
        start = box.stop


class HeaderScan:
    """A walk over the top-level boxes of one file.

    Usage: until `wanted()` is empty, fetch what it names and add it to `bytes`.
    """

    def __init__(self, size: int, *, uri: str, limits: Limits) -> None:
        self.size, self.uri = size, uri
        self.boxes: list[Box] = []
        """Top-level boxes found so far, in file order; the last may claim to end after the file does."""
        self.bytes = SparseBytes(size)
        """Every box but mdat payload, plus whatever else was fetched with them."""
        self._limits = limits
        self._position = 0
        self._header_bytes = 0
        self._moov: Box | None = None
        self._fragmented = False
        self._asked_tail = False
        self._hints: list[int] | None = None
        self._read_ahead = _SMALL_FILE

    @property
    def moov(self) -> Box | None:
        """The first movie box; FFmpeg leaves further ones aside."""
        return self._moov

    def wanted(self) -> list[tuple[int, int]]:
        """Walk as far as the known bytes reach.

        Returns:
            The half-open ranges to fetch next; none when the walk is over.

        Raises:
            LimitExceededError: if the headers are larger than the limits allow.
        """
        if self.size and self.bytes.known_until(0) == 0:
            return [(0, self.size if self.size <= _SMALL_FILE else FIRST_READ)]
        while self._position < self.size:
            if missing := self.bytes.missing(self._position, min(self._position + _BOX_HEADER, self.size)):
                return self._ask(missing[0][0], missing[-1][1])
            header = self.bytes.read(self._position, self._position + _BOX_HEADER)
            box = read_box(header, self._position, self.size)
            if box is None:
                break  # garbage after the boxes; FFmpeg, too, stops here
            if missing := self._missing_of_header(box):
                return self._ask(missing[0][0], missing[-1][1])
            self._take(box)
        return []

    @property
    def cut_in_header(self) -> bool:
        """Whether the file ends inside what would be the header of one more fragment, or inside a fragment's own."""
        rest = self.size - self._position
        cut_fragment = any(box.kind == b"moof" and box.stop > self.size for box in self.boxes[-1:])
        return cut_fragment or (self._fragmented and 0 < rest < 8)

    def fingerprint(self) -> int:
        """crc32 over everything but mdat payload (and the payload of other boxes above 1 MiB but moov and moof)."""
        crc = 0
        for box in self.boxes:
            crc = zlib.crc32(self.bytes.read(box.start, box.stop if _is_header(box) else box.payload), crc)
        return crc

    def _missing_of_header(self, box: Box) -> list[tuple[int, int]]:
        """What is not yet known of a box that is wanted whole."""
        if not _is_header(box):
            return []
        if self._header_bytes + box.stop - box.start > self._limits.index_bytes:
            raise LimitExceededError(
                f"Expected at most Limits.index_bytes = {self._limits.index_bytes} bytes of headers, found a box "
                f"{box.kind.decode('latin1')!r} of {box.stop - box.start} bytes at {box.start} in {self.uri}. "
                "Raise the limit if the file is to be trusted."
            )
        return self.bytes.missing(box.start, min(box.stop, self.size))

    def _take(self, box: Box) -> None:
        if len(self.boxes) >= MOST_BOXES:
            raise LimitExceededError(f"Expected at most {MOST_BOXES} boxes, found more in {self.uri}. Remux the video.")
        if _is_header(box):
            self._header_bytes += box.stop - box.start
        if box.kind == b"moov" and self._moov is None:
            self._moov = box
            moov = self.bytes.read(box.start, box.stop)
            children = boxes_in(moov, box.payload - box.start, len(moov))
            self._fragmented = any(child.kind == b"mvex" for child in children)
        self._fragmented |= box.kind == b"moof"
        self.boxes.append(box)
        self._position = box.stop

    def _ask(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges to fetch so that [start, stop) becomes known, and what is likely to be wanted after it."""
        if hinted := self._hinted(start):
            return hinted
        ahead = FIRST_READ
        if self._fragmented:
            ahead, self._read_ahead = self._read_ahead, min(2 * self._read_ahead, _LARGEST_READ_AHEAD)
        elif self._moov is None and start == self._position:
            # After the payload: what is left is nearly always moov, so that the end of the file cuts this short.
            ahead = min(max(_LEAST_TAIL, self.size // 8), _LARGEST_TAIL)
        ranges = [(start, min(self.size, max(stop + FIRST_READ, start + ahead)))]
        if self._fragmented and not self._asked_tail:
            self._asked_tail = True
            ranges += self.bytes.missing(max(ranges[0][1], self.size - _TAIL), self.size)
        return ranges

    def _hinted(self, start: int) -> list[tuple[int, int]]:
        """All fragments that the index at the end of a fragmented file names, where jumping to them is worth it."""
        if not self._asked_tail or self._hints is not None:
            return []  # they are asked for once; what is missing after that is found by walking
        self._hints = fragment_offsets(self.bytes.read(max(0, self.size - _TAIL), self.size))
        offsets = [offset for offset in self._hints if start <= offset < self.size]
        if not offsets or (self.size - start) // len(offsets) < _HINT_SPACING:
            return []
        length = 2 * max((box.stop - box.start for box in self.boxes if box.kind == b"moof"), default=4096)
        return [(offset, min(self.size, offset + length)) for offset in sorted({start, *offsets})]


def _is_header(box: Box) -> bool:
    if box.kind in (b"moov", b"moof"):
        return True
    return box.kind != b"mdat" and box.stop - box.start <= _OPAQUE_BOX


def fragment_offsets(tail: bytes) -> list[int]:
    """Offsets of the movie fragments that a file's random access index (mfra) at its very end names, increasing.

    Args:
        tail: The last bytes of the file.
    """
    if len(tail) < 16 or tail[-12:-8] != b"mfro":
        return []
    size = int.from_bytes(tail[-4:], "big")
    if not 16 <= size <= len(tail):
        return []
    offsets: set[int] = set()
    mfra = tail[len(tail) - size :]
    for box in boxes_in(mfra, 8, size):
        if box.kind == b"tfra" and box.payload + 16 <= box.stop:
            offsets.update(_tfra_offsets(mfra[box.payload : box.stop]))
    return sorted(offsets)


def _tfra_offsets(payload: bytes) -> Iterator[int]:
    lengths = payload[11]
    time_bytes = 8 if payload[0] == 1 else 4
    step = 2 * time_bytes + sum(((lengths >> shift) & 3) + 1 for shift in (4, 2, 0))
    count = min(int.from_bytes(payload[12:16], "big"), (len(payload) - 16) // step)
    for at in range(16, 16 + step * count, step):
        yield int.from_bytes(payload[at + time_bytes : at + 2 * time_bytes], "big")
