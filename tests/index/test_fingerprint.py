from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from lazyvid.index.fingerprint import EDGE_BYTES, fingerprint, scan_headers
from lazyvid.index.probe import build_index
from lazyvid.storage import ObjectStore
from lazyvid.testing import VideoCorpus

STORE = ObjectStore()


def fingerprint_of(path: Path) -> int:
    return fingerprint(STORE, STORE.head(path))


@pytest.mark.parametrize("name", ["h264_closed", "h264_faststart", "h264_fragmented", "h264_mov", "video_audio"])
def test_an_mp4s_fingerprint_is_the_checksum_of_all_but_mdat_payload(name: str, corpus: VideoCorpus) -> None:
    data, position, rest = corpus[name].read_bytes(), 0, b""
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        rest += data[position : position + (8 if data[position + 4 : position + 8] == b"mdat" else size)]
        position += size
    assert fingerprint_of(corpus[name]) == zlib.crc32(rest)


@pytest.mark.parametrize("name", ["h264_mkv", "mpeg2_ts"])
def test_another_containers_fingerprint_covers_its_two_ends(name: str, corpus: VideoCorpus, tmp_path: Path) -> None:
    data = corpus[name].read_bytes()
    assert fingerprint_of(corpus[name]) == zlib.crc32(data[:EDGE_BYTES] + data[max(0, len(data) - EDGE_BYTES) :])
    long = tmp_path / "long"
    long.write_bytes(data[:100] + bytes(3 * EDGE_BYTES) + data[-100:])
    changed_inside = bytearray(long.read_bytes())
    changed_inside[2 * EDGE_BYTES - 50] ^= 1
    before = fingerprint_of(long)
    long.write_bytes(changed_inside)
    assert fingerprint_of(long) == before
    changed_inside[-1] ^= 1
    long.write_bytes(changed_inside)
    assert fingerprint_of(long) != before


def test_it_tells_files_apart_and_copies_not(corpus: VideoCorpus, tmp_path: Path) -> None:
    names = [
        "h264_closed",
        "h264_gop2",
        "h264_open_gop",
        "hevc",
        "h264_mkv",
        "vp9",
        "h264_ts",
        "mpeg4_avi",
        "audio_only",
    ]
    assert len({fingerprint_of(corpus[name]) for name in names}) == len(names)
    for name in names:
        assert fingerprint_of(corpus.copy(name, tmp_path)) == fingerprint_of(corpus[name])


def test_the_index_holds_it_without_further_requests(corpus: VideoCorpus) -> None:
    for name in ("h264_closed", "h264_fragmented", "h264_mkv"):
        assert build_index(corpus[name]).sources[0].fingerprint == fingerprint_of(corpus[name])


@pytest.mark.parametrize(
    "content", [b"", b"x", b"no video at all" * 9999, bytes(200_000)], ids=["0", "1", "text", "zeros"]
)
def test_whatever_lies_there_has_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "thing.mp4"
    path.write_bytes(content)
    scanned = scan_headers(STORE, STORE.head(path))
    assert scanned.container is None
    assert scanned.fingerprint == zlib.crc32(content[:EDGE_BYTES] + content[max(0, len(content) - EDGE_BYTES) :])


@pytest.mark.parametrize("cut", [9, 40, 5_000, 20_000])
def test_a_cut_mp4_has_one(cut: int, corpus: VideoCorpus, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(corpus["h264_closed"].read_bytes()[:cut])
    assert fingerprint_of(path) != fingerprint_of(corpus["h264_closed"])
