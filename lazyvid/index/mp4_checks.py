"""What an MP4's headers claim, held against their own size and the limits before FFmpeg allocates anything for it.

Between `mp4` (where the headers lie) and `probe_demux` (FFmpeg reads them). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lazyvid.errors import CorruptVideoError, LimitExceededError, NotAVideoError, TruncatedVideoError
from lazyvid.index.mp4 import Box, HeaderScan, boxes_in

if TYPE_CHECKING:
    from lazyvid.frames import Limits

IDENTITY_MATRIX = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""A transformation that changes nothing: 3x3, row by row, with 16, 16 and 30 fractional bits in its columns."""

_COUNTED = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4}
"""Tables: 4 bytes of version and flags, a 32-bit number of entries, and entries of so many bytes."""
_MOST_CHILDREN = 10_000
_LEAST_AUDIO_SAMPLES = 10_000_000
"""What tracks other than video may hold whatever `Limits.frames` says: 60 hours of AAC."""
_DAMAGED = "The file's headers are damaged; make it anew or restore it."
_RAISE_THE_LIMIT = "Raise the limit if the file is to be trusted."


@dataclass(frozen=True, slots=True)
class Track:
    """What lazyvid itself reads of a track."""

    track_id: int
    is_video: bool
    samples: int
    """Samples that its table claims; those of fragments are not among them."""
    matrix: tuple[int, ...]
    """Its transformation, as `IDENTITY_MATRIX`."""


@dataclass(frozen=True, slots=True)
class Movie:
    """What lazyvid itself reads of a movie box."""

    matrix: tuple[int, ...]
    """Its transformation, which follows that of each track."""
    tracks: tuple[Track, ...]
    """In their order in the file."""


class _Boxes:
    """The boxes inside one moov or moof."""

    def __init__(self, scan: HeaderScan, box: Box) -> None:
        self.data, self.uri = scan.bytes.read(box.start, box.stop), scan.uri
        self.root = Box(box.kind, 0, box.payload - box.start, len(self.data))

    def children(self, parent: Box) -> list[Box]:
        """All boxes of a parent, which must hold them whole."""
        found: list[Box] = []
        for box in boxes_in(self.data, parent.payload, parent.stop):
            if box.stop > parent.stop or len(found) >= _MOST_CHILDREN:
                raise CorruptVideoError(
                    f"Expected the box {_name(parent)} to hold at most {_MOST_CHILDREN} boxes and each of them whole, "
                    f"found {len(found)} and {_name(box)} of {box.stop - box.start} bytes in {self.uri}. {_DAMAGED}"
                )
            found.append(box)
        return found

    def find(self, parent: Box, *path: bytes) -> Box | None:
        """The first box at a path."""
        for kind in path:
            match = next((box for box in self.children(parent) if box.kind == kind), None)
            if match is None:
                return None
            parent = match
        return parent

    def payload(self, box: Box | None) -> bytes:
        """The payload of a box; nothing when there is no box."""
        return self.data[box.payload : box.stop] if box else b""

    def number(self, box: Box | None, at: int, length: int = 4) -> int:
        """The unsigned number at a byte of a box's payload; 0 when there is no box."""
        return int.from_bytes(self.payload(box)[at : at + length], "big")

    def check_room(self, box: Box, *, count: int, entry: int, room: int) -> None:
        """Raise unless a table's entries fit into its box."""
        if count * entry > room:
            raise CorruptVideoError(
                f"Expected the {count} entries that a box {_name(box)} claims, found room for {max(0, room) // entry} "
                f"in {self.uri}. {_DAMAGED}"
            )


def check_headers(scan: HeaderScan, *, limits: Limits) -> Movie:
    """Check what the headers claim, and read what lazyvid needs of them itself.

    Args:
        scan: A finished walk.
        limits: What may be claimed.

    Raises:
        TruncatedVideoError: if the file ends before its headers do, or has none.
        CorruptVideoError: if a table is longer than its box, or tables of one track contradict each other.
        LimitExceededError: if pictures or tables are larger than the limits allow.
        NotAVideoError: if samples lie in other files.
    """
    moov = scan.moov
    if moov is None or moov.stop > scan.size:
        found = ", ".join(box.kind.decode("latin1") for box in scan.boxes[:8]) or "none"
        raise TruncatedVideoError(
            f"Expected a complete index of samples (moov), found {'a cut one' if moov else 'none'} in the {scan.size} "
            f"bytes of {scan.uri} (boxes: {found}). The file was cut, or its recorder was killed; copy it again, or "
            "finish it with `lazyvid recover`."
        )
    if scan.cut_in_header:
        raise TruncatedVideoError(
            f"Expected whole movie fragments, found that the last one is cut at the end of the {scan.size} bytes of "
            f"{scan.uri}. Copy the file again, or finish the recording with `lazyvid recover`."
        )
    boxes = _Boxes(scan, moov)
    traks = [box for box in boxes.children(boxes.root) if box.kind == b"trak"]
    tracks = tuple(_read_track(boxes, trak, limits) for trak in traks)
    _check_fragments(scan, tracks, limits)
    return Movie(_matrix(boxes, boxes.find(boxes.root, b"mvhd"), 36), tracks)


def _name(box: Box) -> str:
    return repr(box.kind.decode("latin1"))


def _matrix(boxes: _Boxes, header: Box | None, at: int) -> tuple[int, ...]:
    """The transformation in a movie or track header; version 1 of either has 12 bytes more before it."""
    payload = boxes.payload(header)
    at += 12 if payload[:1] == b"\x01" else 0
    numbers = np.frombuffer(payload[at : at + 36].ljust(36, b"\0"), ">i4")
    return tuple(numbers.tolist()) if len(payload) >= at + 36 else IDENTITY_MATRIX


def _read_track(boxes: _Boxes, trak: Box, limits: Limits) -> Track:
    header = boxes.find(trak, b"tkhd")
    handler = boxes.payload(boxes.find(trak, b"mdia", b"hdlr"))[8:12]
    _check_edits(boxes, boxes.find(trak, b"edts", b"elst"))
    media = boxes.find(trak, b"mdia", b"minf")
    sample_table = boxes.find(media, b"stbl") if media else None
    tables = {box.kind: box for box in boxes.children(sample_table)} if sample_table else {}
    for box in tables.values():
        _check_table(boxes, box)
    samples = _check_sample_counts(boxes, tables, handler, limits)
    if handler == b"vide":
        _check_times(boxes, boxes.find(trak, b"mdia", b"mdhd"))
        _check_places(boxes, tables, samples)
        _check_picture_sizes(boxes, tables.get(b"stsd"), limits)
        _check_data_references(boxes, boxes.find(media, b"dinf", b"dref") if media else None)
    return Track(
        track_id=boxes.number(header, 20 if boxes.payload(header)[:1] == b"\x01" else 12),
        is_video=handler == b"vide",
        samples=samples,
        matrix=_matrix(boxes, header, 40),
    )


def _check_table(boxes: _Boxes, box: Box) -> None:
    size = box.stop - box.payload
    if box.kind in _COUNTED:
        boxes.check_room(box, count=boxes.number(box, 4), entry=_COUNTED[box.kind], room=size - 8)
    elif box.kind == b"stsz" and boxes.number(box, 4) == 0:  # else all samples have that size, and there is no table
        boxes.check_room(box, count=boxes.number(box, 8), entry=4, room=size - 12)


def _check_edits(boxes: _Boxes, edits: Box | None) -> None:
    if edits is not None:
        entry = 20 if boxes.payload(edits)[:1] == b"\x01" else 12
        room = edits.stop - edits.payload - 8
        boxes.check_room(edits, count=boxes.number(edits, 4), entry=entry, room=room)


def _check_sample_counts(boxes: _Boxes, tables: dict[bytes, Box], handler: bytes, limits: Limits) -> int:
    """The number of samples, once expanding the tables is known to allocate no more than the limits allow.

    One run of 8 bytes may claim 2^32 samples.
    """
    durations, offsets = (_runs(boxes.payload(tables.get(kind))) for kind in (b"stts", b"ctts"))
    sizes = boxes.number(tables.get(b"stsz") or tables.get(b"stz2"), 8)
    if handler == b"soun" and len(durations) == 1 and durations[0, 1] == 1:
        return sizes  # FFmpeg keeps uncompressed audio by chunks, whatever the number of its samples
    claimed = max(int(durations[:, 0].sum()), int(offsets[:, 0].sum()), sizes)
    allowed = limits.frames if handler == b"vide" else max(limits.frames, _LEAST_AUDIO_SAMPLES)
    _check_count(claimed, allowed, boxes.uri)
    return sizes


def _check_times(boxes: _Boxes, header: Box | None) -> None:
    if header is not None and not boxes.number(header, 20 if boxes.payload(header)[:1] == b"\x01" else 12):
        raise CorruptVideoError(
            f"Expected a number of ticks a second in the media header (mdhd), found 0 in {boxes.uri}. {_DAMAGED}"
        )


def _check_places(boxes: _Boxes, tables: dict[bytes, Box], samples: int) -> None:
    """Raise unless chunks have room for all samples: FFmpeg gives those that have a place, and says nothing."""
    chunks = max(boxes.number(tables.get(kind), 4) for kind in (b"stco", b"co64"))
    table = boxes.payload(tables.get(b"stsc"))[8:]
    entries = np.frombuffer(table[: len(table) // 12 * 12], ">u4").astype(np.int64).reshape(-1, 3)
    first = entries[:, 0]
    each = np.where(entries[:, 1] < 1 << 31, entries[:, 1], 1)  # as FFmpeg takes what is negative to it
    stops = np.append(first[1:], chunks + 1).clip(max=chunks + 1)
    placed = int(((stops - first).clip(min=0) * each).sum())
    if placed < samples:
        raise CorruptVideoError(
            f"Expected places for the {samples} samples that the tables of {boxes.uri} claim, found {placed} in "
            f"{chunks} chunks. {_DAMAGED}"
        )


def _runs(table: bytes) -> npt.NDArray[np.int64]:
    """int64 [n, 2], the entries of a table of (count, value)."""
    entries = (len(table) - 8) // 8 if len(table) > 8 else 0
    return np.frombuffer(table, ">u4", count=2 * entries, offset=min(8, len(table))).astype(np.int64).reshape(-1, 2)


def _check_count(count: int, allowed: int, uri: str) -> None:
    if count > allowed:
        raise LimitExceededError(
            f"Expected at most Limits.frames = {allowed} samples, found headers that claim {count} in {uri}. "
            f"{_RAISE_THE_LIMIT}"
        )


def _check_picture_sizes(boxes: _Boxes, descriptions: Box | None, limits: Limits) -> None:
    if descriptions is None:
        return
    for entry in boxes_in(boxes.data, descriptions.payload + 8, descriptions.stop):
        width, height = boxes.number(entry, 24, 2), boxes.number(entry, 26, 2)
        if width * height > limits.pixels:
            raise LimitExceededError(
                f"Expected pictures of at most Limits.pixels = {limits.pixels} pixels, found {width}x{height} in "
                f"{boxes.uri}. {_RAISE_THE_LIMIT}"
            )


def _check_data_references(boxes: _Boxes, references: Box | None) -> None:
    """Refuse tracks whose samples lie elsewhere: FFmpeg could be led to open other files."""
    if references is None:
        return
    for entry in boxes_in(boxes.data, references.payload + 8, references.stop):
        lies_here = boxes.number(entry, 0) & 1
        if not lies_here and any(boxes.payload(entry)[4:]):
            raise NotAVideoError(
                f"Expected samples inside the file, found a track that refers to another file in {boxes.uri}. lazyvid "
                "reads self-contained files only; remux it (`ffmpeg -i IN -c copy OUT`)."
            )


def _check_fragments(scan: HeaderScan, tracks: tuple[Track, ...], limits: Limits) -> None:
    """Check the tables of movie fragments and the sum of their samples."""
    video = {track.track_id for track in tracks if track.is_video}
    frames = others = 0
    for box in scan.boxes:
        if box.kind != b"moof" or box.stop > scan.size:
            continue
        boxes = _Boxes(scan, box)
        for fragment in boxes.children(boxes.root):
            if fragment.kind == b"traf":
                _check_duration(boxes, boxes.find(fragment, b"tfhd"))
                samples = sum(_run_samples(boxes, run) for run in boxes.children(fragment) if run.kind == b"trun")
                if boxes.number(boxes.find(fragment, b"tfhd"), 4) in video:
                    frames += samples
                else:
                    others += samples
        _check_count(frames, limits.frames, scan.uri)
        _check_count(others, max(limits.frames, _LEAST_AUDIO_SAMPLES), scan.uri)


def _check_duration(boxes: _Boxes, header: Box | None) -> None:
    """Raise where samples last longer than 31 bits can say: FFmpeg takes it for less than nothing, and loses frames."""
    flags = boxes.number(header, 1, 3)
    duration = boxes.number(header, 8 + 8 * (flags & 1) + 4 * (flags >> 1 & 1)) if flags & 0x8 else 0
    if duration >= 1 << 31:
        raise CorruptVideoError(
            f"Expected samples of less than 2^31 ticks, found a fragment with samples of {duration} in {boxes.uri}. "
            f"{_DAMAGED}"
        )


def _run_samples(boxes: _Boxes, run: Box) -> int:
    """The samples of one run; its flags say which of four 32-bit fields each has, and which two the run itself has."""
    flags, count = boxes.number(run, 1, 3), boxes.number(run, 4)
    room = run.stop - run.payload - 8 - 4 * (flags & 0b101).bit_count()
    if entry := 4 * (flags >> 8 & 0b1111).bit_count():
        boxes.check_room(run, count=count, entry=entry, room=room)
    return count
