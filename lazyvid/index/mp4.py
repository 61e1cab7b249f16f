"""The boxes of an MP4 or MOV file: which byte ranges hold its headers, and what they claim, checked before FFmpeg sees them.

`HeaderScan` plans requests and does no I/O itself; `check_headers` and `read_tracks` are pure functions over what it found.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazyvid.errors import CorruptVideoError, LimitExceededError, NotAVideoError, TruncatedVideoError
from lazyvid.index.sparse import SparseBytes

if TYPE_CHECKING:
    from lazyvid.frames import Limits

FIRST_READ = 64 * 1024
_LARGEST_READ_AHEAD = 8 * 1024 * 1024
_SMALL_FILE = 256 * 1024
_OPAQUE_BOX = 1024 * 1024
_HINT_SPACING = 512 * 1024
_BOX_HEADER = 16
_TAIL = 64 * 1024
_AUDIO_SAMPLES = 10_000_000


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


class HeaderScan:
    """A walk over the top-level boxes that asks for few, large byte ranges and keeps all but mdat payload.

    Usage: until `wanted()` is empty, fetch what it names and add it to `bytes`.
    """

    def __init__(self, size: int, *, uri: str, limits: Limits) -> None:
        self.size = size
        self.boxes: list[Box] = []
        """Top-level boxes found so far, in file order; the last may claim to end after the file does."""
        self.bytes = SparseBytes(size)
        """Every box but mdat payload, plus whatever else was fetched with them."""
        self._uri, self._limits = uri, limits
        self._position = 0
        self._fragmented = False
        self._asked_tail = False
        self._hints: list[int] = []
        self._read_ahead = _SMALL_FILE

    @property
    def moov(self) -> Box | None:
        """The first movie box; FFmpeg leaves further ones aside."""
        return next((box for box in self.boxes if box.kind == b"moov"), None)

    def wanted(self) -> list[tuple[int, int]]:
        """Walk as far as the known bytes reach; the half-open ranges to fetch next, none when the walk is over.

        Raises:
            LimitExceededError: if the headers are larger than the limits allow.
        """
        if not self.boxes and self.bytes.known_until(0) == 0 and self.size:
            return [(0, self.size if self.size <= _SMALL_FILE else FIRST_READ)]
        while self._position < self.size:
            header_stop = min(self._position + _BOX_HEADER, self.size)
            if missing := self.bytes.missing(self._position, header_stop):
                return self._ask(missing[0][0], header_stop)
            box = read_box(self.bytes.read(self._position, header_stop), self._position, self.size)
            if box is None:
                break  # garbage after the boxes; FFmpeg, too, stops here
            if _is_header(box):
                self._check_size(box)
                if missing := self.bytes.missing(box.start, min(box.stop, self.size)):
                    return self._ask(missing[0][0], min(box.stop, self.size))
                self._look_for_fragments(box)
            self.boxes.append(box)
            self._position = box.stop
        return []

    def fingerprint(self) -> int:
        """crc32 over everything but mdat payload (and the payload of other boxes above 1 MiB but moov and moof)."""
        crc = 0
        for box in self.boxes:
            crc = zlib.crc32(self.bytes.read(box.start, box.stop if _is_header(box) else box.payload), crc)
        return crc

    def _check_size(self, box: Box) -> None:
        header_bytes = box.stop - box.start + sum(b.stop - b.start for b in self.boxes if _is_header(b))
        if header_bytes > self._limits.index_bytes:
            raise LimitExceededError(
                f"Expected at most Limits.index_bytes = {self._limits.index_bytes} bytes of headers, found a "
                f"{box.kind.decode('latin1')!r} box of {box.stop - box.start} bytes at {box.start} in {self._uri}. "
                "Raise the limit if the file is to be trusted."
            )

    def _ask(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges to fetch so that [start, stop) becomes known, and what is likely to be wanted after it."""
        hinted = self._hinted(start)
        if hinted:
            return hinted
        ahead = FIRST_READ
        if self._fragmented:
            ahead, self._read_ahead = self._read_ahead, min(2 * self._read_ahead, _LARGEST_READ_AHEAD)
        elif self.moov is None and start == self._position:
            # After the payload: what is left is nearly always moov, whose size grows with the file's.
            ahead = min(max(_SMALL_FILE, self.size // 32), 2 * _LARGEST_READ_AHEAD)
        ranges = [(start, min(self.size, max(stop + FIRST_READ, start + ahead)))]
        if self._fragmented and not self._asked_tail:
            self._asked_tail = True
            ranges += self.bytes.missing(max(ranges[0][1], self.size - _TAIL), self.size)
        return ranges

    def _look_for_fragments(self, box: Box) -> None:
        if box.kind == b"moof" or (box.kind == b"moov" and child(self.bytes, box, b"mvex")):
            self._fragmented = True

    def _hinted(self, start: int) -> list[tuple[int, int]]:
        """All movie fragments that the index at the end of a fragmented file names, when jumping to them is worth it."""
        if not self._asked_tail:
            return []
        if not self._hints:
            self._hints = fragment_offsets(self.bytes.read(max(0, self.size - _TAIL), self.size)) or [self.size]
        offsets = [offset for offset in self._hints if start <= offset < self.size]
        if not offsets or offsets[0] != start or (self.size - start) // len(offsets) < _HINT_SPACING:
            return []
        self._hints = [self.size]  # asked once; what is missing after that is found by walking
        length = 2 * max((box.stop - box.start for box in self.boxes if box.kind == b"moof"), default=4096)
        return [(offset, min(self.size, offset + length)) for offset in offsets]


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
    for at in range(16, 16 + step * int.from_bytes(payload[12:16], "big"), step):
        if at + step > len(payload):
            return
        yield int.from_bytes(payload[at + time_bytes : at + 2 * time_bytes], "big")


# -- inside the boxes -------------------------------------------------------------------------------------------------


def boxes_in(data: bytes, start: int, stop: int) -> Iterator[Box]:
    """The boxes that lie one after the other in `data[start:stop]`; ends where none is."""
    while start + 8 <= stop:
        box = read_box(data[start : min(start + _BOX_HEADER, stop)], start, stop)
        if box is None:
            return
        yield box
        start = box.stop


def child(source: SparseBytes, parent: Box, kind: bytes) -> Box | None:
    """The first child of this kind of a box whose bytes are known."""
    data = source.read(parent.start, parent.stop)
    for box in boxes_in(data, parent.payload - parent.start, len(data)):
        if box.kind == kind:
            return Box(kind, box.start + parent.start, box.payload + parent.start, box.stop + parent.start)
    return None


@dataclass(frozen=True, slots=True)
class Track:
    """What lazyvid itself reads of a track."""

    handler: bytes
    """b"vide", b"soun", ..."""
    track_id: int
    matrix: tuple[int, ...]
    """The nine numbers of the track's transformation, fixed point."""
    samples: int
    """Samples that its sample table claims; 0 in a fragmented file."""
    picture_sizes: tuple[tuple[int, int], ...]
    """(width, height) of each sample description of a video track."""
    dependencies: bytes
    """Payload of `sdtp`: one byte a sample, b"" when there is none."""


# Boxes that hold a 32-bit number of entries after 4 bytes of version and flags, and the bytes of one entry.
_COUNTED = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4, b"cslg": 0}
_PARENTS = frozenset({b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"mvex", b"moof", b"traf", b"moov"})


class _Headers:
    """The boxes below one moov or moof, each checked to lie inside its parent."""

    def __init__(self, data: bytes, *, uri: str) -> None:
        self.data, self.uri = data, uri

    def children(self, parent: Box) -> list[Box]:
        found = list(boxes_in(self.data, parent.payload, parent.stop))
        for box in found:
            if box.stop > parent.stop:
                raise CorruptVideoError(
                    f"Expected the box {box.kind.decode('latin1')!r} to end inside its parent "
                    f"{parent.kind.decode('latin1')!r}, found it {box.stop - parent.stop} bytes too long in {self.uri}. "
                    "The file's headers are damaged; make it anew or restore it."
                )
        return found

    def find(self, parent: Box, *kinds: bytes) -> Box | None:
        for kind in kinds:
            match = next((box for box in self.children(parent) if box.kind == kind), None)
            if match is None:
                return None
            parent = match
        return parent

    def payload(self, box: Box | None) -> bytes:
        return self.data[box.payload : box.stop] if box else b""

    def number(self, box: Box | None, at: int, length: int = 4) -> int:
        return int.from_bytes(self.payload(box)[at : at + length], "big")


def check_headers(scan: HeaderScan, *, limits: Limits) -> list[Track]:
    """Check what the headers claim against their own size and the limits, and read the tracks.

    Args:
        scan: A finished walk.
        limits: What may be claimed.

    Returns:
        The movie's tracks in their order in the file.

    Raises:
        TruncatedVideoError: if the file ends before its headers do, or has none.
        CorruptVideoError: if a table is longer than its box.
        LimitExceededError: if pictures or tables are larger than the limits allow.
        NotAVideoError: if samples lie in other files.
    """
    moov = scan.moov
    if moov is None or moov.stop > scan.size:
        found = [box.kind.decode("latin1") for box in scan.boxes]
        raise TruncatedVideoError(
            f"Expected a complete index of samples (moov), found {'a cut one' if moov else 'none'} in the {scan.size} bytes "
            f"of {scan._uri} (boxes: {', '.join(found[:8]) or 'none'}). The file was cut, or its recorder was killed; copy "
            "it again, or finish it with `lazyvid recover`."
        )
    data = scan.bytes.read(moov.start, moov.stop)
    headers = _Headers(data, uri=scan._uri)
    root = Box(b"moov", 0, moov.payload - moov.start, len(data))
    traks = [box for box in headers.children(root) if box.kind == b"trak"]
    tracks = [_read_track(headers, trak, limits) for trak in traks]
    budget = limits.frames
    for box in scan.boxes:
        if box.kind == b"moof" and box.stop <= scan.size:
            fragment = _Headers(scan.bytes.read(box.start, box.stop), uri=scan._uri)
            budget -= _fragment_samples(
                fragment, Box(b"moof", 0, box.payload - box.start, box.stop - box.start), tracks
            )
            _check_count(-budget + limits.frames, limits.frames, scan._uri)
    return tracks


def movie_matrix(scan: HeaderScan) -> tuple[int, ...]:
    """The nine numbers of the movie's own transformation, fixed point."""
    moov = scan.moov
    mvhd = child(scan.bytes, moov, b"mvhd") if moov else None
    if mvhd is None:
        return _IDENTITY
    payload = scan.bytes.read(mvhd.payload, mvhd.stop)
    at = 48 if payload[:1] == b"\x01" else 36
    return _matrix(payload[at : at + 36])


_IDENTITY = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def _matrix(data: bytes) -> tuple[int, ...]:
    if len(data) < 36:
        return _IDENTITY
    return tuple(int.from_bytes(data[at : at + 4], "big", signed=True) for at in range(0, 36, 4))


def _read_track(headers: _Headers, trak: Box, limits: Limits) -> Track:
    tkhd = headers.find(trak, b"tkhd")
    long_times = headers.payload(tkhd)[:1] == b"\x01"
    handler = headers.payload(headers.find(trak, b"mdia", b"hdlr"))[8:12]
    stbl = headers.find(trak, b"mdia", b"minf", b"stbl")
    table = {box.kind: box for box in headers.children(stbl)} if stbl else {}
    for kind, box in table.items():
        _check_table(headers, kind, box)
    _check_edits(headers, headers.find(trak, b"edts", b"elst"))
    samples = _samples(headers, table, handler, limits)
    if handler == b"vide":
        _check_data_references(headers, headers.find(trak, b"mdia", b"minf", b"dinf", b"dref"))
    matrix_at = 52 if long_times else 40
    return Track(
        handler=handler,
        track_id=headers.number(tkhd, 20 if long_times else 12),
        matrix=_matrix(headers.payload(tkhd)[matrix_at : matrix_at + 36]),
        samples=samples,
        picture_sizes=_picture_sizes(headers, table.get(b"stsd"), limits) if handler == b"vide" else (),
        dependencies=headers.payload(table.get(b"sdtp"))[4:],
    )


def _check_table(headers: _Headers, kind: bytes, box: Box) -> None:
    entry = _COUNTED.get(kind)
    if entry is None:
        if kind != b"stsz" or headers.number(box, 4) != 0:
            return
        entry, count, room = 4, headers.number(box, 8), box.stop - box.payload - 12
    else:
        count, room = headers.number(box, 4), box.stop - box.payload - 8
    if count * entry > room:
        raise CorruptVideoError(
            f"Expected the {count} entries that the box {kind.decode()!r} claims, found room for {max(0, room) // entry} in "
            f"{headers.uri}. The file's headers are damaged; make it anew or restore it."
        )


def _check_edits(headers: _Headers, elst: Box | None) -> None:
    if elst is None:
        return
    entry = 20 if headers.payload(elst)[:1] == b"\x01" else 12
    count, room = headers.number(elst, 4), elst.stop - elst.payload - 8
    if count * entry > room:
        raise CorruptVideoError(
            f"Expected the {count} edits that the box 'elst' claims, found room for {max(0, room) // entry} in {headers.uri}. "
            "The file's headers are damaged; make it anew or restore it."
        )


def _samples(headers: _Headers, table: dict[bytes, Box], handler: bytes, limits: Limits) -> int:
    """The track's samples, after making sure that expanding its tables allocates no more than the limits allow."""
    claimed = 0
    times: list[tuple[int, int]] = []
    for kind in (b"stts", b"ctts"):
        payload = headers.payload(table.get(kind))[8:]
        runs = [
            (int.from_bytes(payload[at : at + 4], "big"), int.from_bytes(payload[at + 4 : at + 8], "big"))
            for at in range(0, len(payload) - 7, 8)
        ]
        times = runs if kind == b"stts" else times
        claimed = max(claimed, sum(count for count, _ in runs))
    size_box = table.get(b"stsz") or table.get(b"stz2")
    samples = headers.number(size_box, 8)
    # FFmpeg keeps uncompressed audio by chunks, whatever the number of its samples.
    if not (handler == b"soun" and len(times) == 1 and times[0][1] == 1):
        allowed = limits.frames if handler == b"vide" else max(limits.frames, _AUDIO_SAMPLES)
        _check_count(max(claimed, samples), allowed, headers.uri)
    return samples


def _check_count(count: int, allowed: int, uri: str) -> None:
    if count > allowed:
        raise LimitExceededError(
            f"Expected at most Limits.frames = {allowed} samples a track, found headers that claim {count} in {uri}. "
            "Raise the limit if the file is to be trusted."
        )


def _picture_sizes(headers: _Headers, stsd: Box | None, limits: Limits) -> tuple[tuple[int, int], ...]:
    if stsd is None:
        return ()
    sizes = []
    for entry in boxes_in(headers.data, stsd.payload + 8, stsd.stop):
        width, height = headers.number(entry, 24, 2), headers.number(entry, 26, 2)
        if width * height > limits.pixels:
            raise LimitExceededError(
                f"Expected pictures of at most Limits.pixels = {limits.pixels} pixels, found {width}x{height} in "
                f"{headers.uri}. Raise the limit if the file is to be trusted."
            )
        sizes.append((width, height))
    return tuple(sizes)


def _check_data_references(headers: _Headers, dref: Box | None) -> None:
    """Refuse tracks whose samples lie elsewhere: FFmpeg could be led to open other files."""
    if dref is None:
        return
    for entry in boxes_in(headers.data, dref.payload + 8, dref.stop):
        flags = headers.number(entry, 0)
        if not flags & 1 and any(headers.payload(entry)[4:]):
            raise NotAVideoError(
                f"Expected samples inside the file, found a track of {headers.uri} that refers to another file. lazyvid "
                "reads self-contained files only; remux it (`ffmpeg -i IN -c copy OUT`)."
            )


def _fragment_samples(headers: _Headers, moof: Box, tracks: list[Track]) -> int:
    """Samples of the video tracks in one movie fragment, each table checked against its box."""
    video = {track.track_id for track in tracks if track.handler == b"vide"}
    total = 0
    for traf in headers.children(moof):
        if traf.kind != b"traf":
            continue
        is_video = headers.number(headers.find(traf, b"tfhd"), 4) in video
        for trun in headers.children(traf):
            if trun.kind == b"trun":
                count = _run_samples(headers, trun)
                total += count if is_video else 0
    return total


def _run_samples(headers: _Headers, trun: Box) -> int:
    flags, count = headers.number(trun, 1, 3), headers.number(trun, 4)
    entry = 4 * (flags >> 8 & 0xF).bit_count()
    room = trun.stop - trun.payload - 8 - 4 * (flags & 0x5).bit_count()
    if count * entry > room:
        raise CorruptVideoError(
            f"Expected the {count} samples that a box 'trun' claims, found room for {max(0, room) // entry} in {headers.uri}. "
            "The file's headers are damaged; make it anew or restore it."
        )
    return count
