"""MP4 files made box by box: what no muxer writes, but some file in the world holds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av

IDENTITY = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
TIMESCALE = 30


def box(kind: bytes, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def full_box(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", flags), *parts)


def table(kind: bytes, entries: Sequence[tuple[int, ...]]) -> bytes:
    numbers = [number for entry in entries for number in entry]
    return full_box(kind, struct.pack(f">I{len(numbers)}I", len(entries), *numbers))


@dataclass
class Mp4:
    """One video track; every sample is a chunk of its own and lasts one tick."""

    samples: list[bytes]
    descriptions: list[bytes]
    """Whole sample entries (`avc1` boxes)."""
    description_of: list[int]
    """Each sample's, counted from 1."""
    keys: list[int]
    """Sync samples, counted from 0."""
    width: int = 160
    height: int = 120
    matrix: tuple[int, ...] = IDENTITY
    movie_matrix: tuple[int, ...] = IDENTITY
    data_reference: bytes = field(default_factory=lambda: full_box(b"url ", flags=1))
    composition_offsets: list[int] | None = None
    replaced: dict[bytes, bytes] = field(default_factory=dict)
    """Boxes of the sample table put in place of the right ones."""
    extra_tracks: list[bytes] = field(default_factory=list)

    def bytes(self) -> bytes:
        ftyp = box(b"ftyp", b"isom", struct.pack(">I", 512), b"isom")
        offsets = []
        position = len(ftyp) + 8
        for sample in self.samples:
            offsets.append(position)
            position += len(sample)
        return ftyp + box(b"mdat", *self.samples) + self.moov(offsets)

    def moov(self, offsets: list[int]) -> bytes:
        count = len(self.samples)
        mvhd = full_box(
            b"mvhd",
            struct.pack(">IIIIIH10x", 0, 0, TIMESCALE, count, 1 << 16, 1 << 8),
            struct.pack(">9i", *self.movie_matrix),
            struct.pack(">24xI", 2),
        )
        return box(b"moov", mvhd, self.trak(offsets), *self.extra_tracks)

    def trak(self, offsets: list[int]) -> bytes:
        count = len(self.samples)
        tkhd = full_box(
            b"tkhd",
            struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, count, 0, 0, 0, 0),
            struct.pack(">9i", *self.matrix),
            struct.pack(">II", self.width << 16, self.height << 16),
            flags=3,
        )
        mdhd = full_box(b"mdhd", struct.pack(">IIIIHH", 0, 0, TIMESCALE, count, 0x55C4, 0))
        hdlr = full_box(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"\0")
        dinf = box(b"dinf", full_box(b"dref", struct.pack(">I", 1), self.data_reference))
        vmhd = full_box(b"vmhd", bytes(8), flags=1)
        return box(b"trak", tkhd, box(b"mdia", mdhd, hdlr, box(b"minf", vmhd, dinf, self.sample_table(offsets))))

    def sample_table(self, offsets: list[int]) -> bytes:
        count = len(self.samples)
        runs = [
            (i + 1, 1, description)
            for i, description in enumerate(self.description_of)
            if i == 0 or description != self.description_of[i - 1]
        ]
        boxes = {
            b"stsd": full_box(b"stsd", struct.pack(">I", len(self.descriptions)), *self.descriptions),
            b"stts": table(b"stts", [(count, 1)]),
            b"stss": table(b"stss", [(key + 1,) for key in self.keys]),
            b"stsc": table(b"stsc", runs),
            b"stsz": full_box(b"stsz", struct.pack(f">II{count}I", 0, count, *map(len, self.samples))),
            b"stco": table(b"stco", [(offset,) for offset in offsets]),
        }
        if self.composition_offsets is not None:
            boxes[b"ctts"] = table(b"ctts", [(1, offset) for offset in self.composition_offsets])
        return box(b"stbl", *(boxes | self.replaced).values())


def mp4_from(path: Path) -> Mp4:
    """The first video track of a file without B-frames, to be changed."""
    data = path.read_bytes()
    start = data.index(b"avc1", data.index(b"stsd")) - 4
    description = data[start : start + int.from_bytes(data[start : start + 4], "big")]
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    return Mp4(
        samples=[bytes(packet) for packet in packets],
        descriptions=[description],
        description_of=[1] * len(packets),
        keys=[i for i, packet in enumerate(packets) if packet.is_keyframe],
    )
