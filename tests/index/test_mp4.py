from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mp4_builder import box, full_box

from lazyvid.errors import LazyVidError, LimitExceededError
from lazyvid.frames import Limits
from lazyvid.index.fingerprint import scan_headers
from lazyvid.index.mp4 import HeaderScan, boxes_in, fragment_offsets, read_box
from lazyvid.index.mp4_checks import check_headers
from lazyvid.storage import ObjectStore
from lazyvid.testing import VideoCorpus

STORE = ObjectStore()


def walk(data: bytes, *, limits: Limits | None = None) -> tuple[HeaderScan, list[list[tuple[int, int]]]]:
    """Feed a walk from memory; also what it asked for, request by request."""
    scan, asked = HeaderScan(len(data), uri="memory", limits=limits or Limits()), []
    while wanted := scan.wanted():
        asked.append(wanted)
        assert all(0 <= start < stop <= len(data) for start, stop in wanted)
        known = scan.bytes.known
        for start, stop in wanted:
            scan.bytes.add(start, data[start:stop])
        assert scan.bytes.known > known, "each request must bring something new"
    return scan, asked


def top_level(data: bytes) -> list[tuple[bytes, int, int]]:
    return [(found.kind, found.start, found.stop) for found in boxes_in(data, 0, len(data))]


FTYP = box(b"ftyp", b"isom", bytes(4))
BOXES = st.lists(
    st.one_of(
        st.sampled_from([b"moov", b"free", b"udta", b"mdat", b"moof"]).flatmap(
            lambda kind: st.integers(0, 400_000).map(lambda size: box(kind, bytes(size)))
        ),
        st.integers(0, 300_000).map(lambda size: struct.pack(">I4sQ", 1, b"mdat", 16 + size) + bytes(size)),
    ),
    max_size=6,
)


@given(parts=BOXES, rest=st.sampled_from([b"", b"\0", b"\xff" * 30]))
def test_a_walk_finds_every_box_and_reads_all_but_payload(parts: list[bytes], rest: bytes) -> None:
    data = FTYP + b"".join(parts) + rest
    scan, _ = walk(data)
    found = [(one.kind, one.start, one.stop) for one in scan.boxes]
    assert found == top_level(FTYP + b"".join(parts))
    for one in scan.boxes:
        stop = one.payload if one.kind == b"mdat" else one.stop
        assert scan.bytes.read(one.start, stop) == data[one.start : stop]
        assert not scan.bytes.missing(one.start, stop)


@given(data=st.binary(max_size=300))
def test_a_walk_over_any_bytes_ends(data: bytes) -> None:
    scan, _ = walk(FTYP + data)
    with contextlib.suppress(LazyVidError):
        check_headers(scan, limits=Limits())


@given(data=st.data())
def test_checks_of_damaged_headers_answer_with_a_named_error_or_none(corpus: VideoCorpus, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["h264_closed", "h264_fragmented", "video_audio", "h264_edit_list"]))
    content = bytearray(corpus[name].read_bytes())
    moov = content.index(b"moov")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(moov - 4, min(moov + 1500, len(content) - 1)))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LazyVidError):
        check_headers(walk(bytes(content))[0], limits=Limits())


@pytest.mark.parametrize(
    ("parts", "requests"),
    [
        ([box(b"moov", bytes(30_000)), box(b"mdat", bytes(5_000_000))], 1),
        ([box(b"moov", bytes(900_000)), box(b"mdat", bytes(5_000_000))], 2),
        ([box(b"mdat", bytes(5_000_000)), box(b"moov", bytes(900_000))], 2),
        ([box(b"mdat", bytes(5_000_000)), box(b"moov", bytes(100_000)), box(b"free", bytes(9))], 2),
        ([box(b"free", bytes(100)), box(b"mdat", bytes(200_000)), box(b"moov", bytes(10))], 1),
        ([box(b"mdat", bytes(20_000_000)), box(b"moov", bytes(600_000))], 2),
    ],
    ids=["moov first", "large moov first", "moov last", "moov before free", "small file", "large moov last"],
)
def test_headers_of_an_ordinary_file_take_two_requests(parts: list[bytes], requests: int) -> None:
    data = FTYP + b"".join(parts)
    scan, asked = walk(data)
    assert len(asked) == requests
    assert scan.moov is not None
    payload_bytes = sum(len(part) for part in parts if part[4:8] == b"mdat")
    assert scan.bytes.known < len(data) - payload_bytes + 3 * 64 * 1024 or len(data) < 256 * 1024


def fragmented(fragments: int, payload: int) -> bytes:
    moov = box(b"moov", box(b"mvex", full_box(b"trex", bytes(20))))
    return FTYP + moov + (box(b"moof", bytes(500)) + box(b"mdat", bytes(payload))) * fragments


@pytest.mark.parametrize(("fragments", "payload", "requests"), [(100, 1_000, 1), (500, 20_000, 8), (5_000, 300, 6)])
def test_small_fragments_are_read_ahead_in_growing_pieces(fragments: int, payload: int, requests: int) -> None:
    scan, asked = walk(fragmented(fragments, payload))
    assert sum(one.kind == b"moof" for one in scan.boxes) == fragments
    assert len(asked) <= requests


def test_large_fragments_are_jumped_to_by_the_index_at_the_end() -> None:
    data = fragmented(40, 900_000)
    offsets = [start for kind, start, _ in top_level(data) if kind == b"moof"]
    rows = b"".join(struct.pack(">QQBBB", i, offset, 1, 1, 1) for i, offset in enumerate(offsets))
    tfra = box(b"tfra", b"\1\0\0\0", struct.pack(">III", 1, 0, len(offsets)), rows)
    size = 8 + len(tfra) + 16
    data += box(b"mfra", tfra, full_box(b"mfro", struct.pack(">I", size)))
    assert fragment_offsets(data[-64 * 1024 :]) == offsets
    scan, asked = walk(data)
    assert sum(one.kind == b"moof" for one in scan.boxes) == 40
    assert len(asked) <= 4
    assert scan.bytes.known < 1_000_000


@given(tail=st.binary(max_size=80), size=st.integers(0, 100))
def test_any_index_of_fragments_has_an_answer(tail: bytes, size: int) -> None:
    for body in (tail, box(b"mfra", box(b"tfra", tail))):
        assert isinstance(fragment_offsets(body + full_box(b"mfro", struct.pack(">I", size))), list)


def test_headers_beyond_the_limit_are_not_fetched() -> None:
    data = FTYP + struct.pack(">I4s", 50_000_000, b"moov") + bytes(300_000)
    with pytest.raises(LimitExceededError, match="1000000 bytes of headers"):
        walk(data, limits=Limits(index_bytes=1_000_000))


@pytest.mark.parametrize(
    "header", [b"", b"\0\0\0\7moov", b"\0\0\0\x10\xff\xff\xff\xff", b"\0\0\0\1moov", b"\0\0\0\1moov\0\0\0\0\0\0\0\x0f"]
)
def test_what_is_no_box_is_none(header: bytes) -> None:
    assert read_box(header, 0, 100) is None


def each_track(scan: HeaderScan) -> Iterator[tuple[bool, int]]:
    return ((track.is_video, track.samples) for track in check_headers(scan, limits=Limits()).tracks)


def test_tracks_of_corpus_files_are_read(corpus: VideoCorpus) -> None:
    def tracks(path: Path) -> list[tuple[bool, int]]:
        scanned = scan_headers(STORE, STORE.head(path))
        assert scanned.mp4 is not None
        return list(each_track(scanned.mp4))

    assert tracks(corpus["h264_closed"]) == [(True, 90)]
    assert tracks(corpus["two_videos"]) == [(True, 60), (True, 60)]
    assert [is_video for is_video, _ in tracks(corpus["video_audio"])] == [True, False]
    assert tracks(corpus["h264_fragmented"]) == [(True, 0)]
