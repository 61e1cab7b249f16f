"""Damaged, hostile and wrong files: a named error, or the right index; never a shorter one in silence."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from struct import pack

import numpy as np
import pytest
from mp4_builder import Mp4, box, full_box, mp4_from, table

from lazyvid.errors import (
    CorruptVideoError,
    LazyVidError,
    LimitExceededError,
    NotAVideoError,
    NoVideoStreamError,
    ObjectNotFoundError,
    TruncatedVideoError,
)
from lazyvid.frames import Limits
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.testing import VideoCorpus, VideoSpec, write_video

SCANS = ("header", "full")


def same_frames(one: FrameIndex, other: FrameIndex) -> bool:
    columns = ("offset", "size", "pts", "dts", "key", "decode_position", "source_idx")
    return one.timestamp.tolist() == other.timestamp.tolist() and all(
        np.array_equal(getattr(one.packets, name), getattr(other.packets, name)) for name in columns
    )


def cuts_of(size: int) -> list[int]:
    """Sixty places over the file, and every kind of place near its ends."""
    spread = np.linspace(0, size - 1, 60).astype(int).tolist()
    return sorted({*spread, *range(0, 40, 3), *(size - k for k in (1, 2, 7, 8, 9, 15, 16, 20, 100))})


def outcome_of(path: Path, scan: str, whole: FrameIndex) -> str:
    try:
        index = build_index(path, scan=scan)  # type: ignore[arg-type]
    except LazyVidError as error:
        return type(error).__name__ if path.name in str(error) else "an error of 0 frames that names no file"
    return "same" if same_frames(index, whole) else f"{len(index)} frames"


@pytest.mark.parametrize(
    "name",
    [
        "h264_closed",
        "h264_faststart",
        "h264_fragmented",
        "h264_hybrid",
        "h264_edit_list",
        "h264_mov",
        "h264_mkv",
        "vp9",
        "av1_mkv",
        "video_audio",
        "hevc_open_gop",
        "mpeg4_avi",
    ],
)
def test_a_cut_file_is_an_error_wherever_it_is_cut(name: str, corpus: VideoCorpus, tmp_path: Path) -> None:
    """Not told, and so not tested: a fragmented MP4 cut exactly between fragments, which is a whole shorter one."""
    data, whole = corpus[name].read_bytes(), build_index(corpus[name])
    path = tmp_path / f"cut{corpus[name].suffix}"
    for cut in cuts_of(len(data)):
        path.write_bytes(data[:cut])
        for scan in SCANS:
            assert not outcome_of(path, scan, whole).endswith("frames"), (cut, scan)


@pytest.mark.parametrize(("name", "packet"), [("h264_ts", 188), ("mpeg2_ts", 188)])
def test_a_cut_transport_stream_is_an_error_unless_cut_between_its_packets(
    name: str, packet: int, corpus: VideoCorpus, tmp_path: Path
) -> None:
    data, whole = corpus[name].read_bytes(), build_index(corpus[name])
    path = tmp_path / "cut.ts"
    for cut in cuts_of(len(data)):
        path.write_bytes(data[:cut])
        assert cut % packet == 0 or not outcome_of(path, "full", whole).endswith("frames"), cut


def test_a_cut_file_says_how_much_is_there(corpus: VideoCorpus, tmp_path: Path) -> None:
    data, whole = corpus["h264_faststart"].read_bytes(), build_index(corpus["h264_faststart"])
    ends = np.sort(whole.packets.offset + whole.packets.size)
    path = tmp_path / "cut.mp4"
    for end in (int(ends[20]), int(ends[20]) + 1, int(ends[21]) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(TruncatedVideoError, match="it has 21 of 60 frames"):
            build_index(path)


def test_a_recording_that_was_killed_is_named(corpus: VideoCorpus, tmp_path: Path) -> None:
    path = tmp_path / "killed.mp4"
    path.write_bytes(corpus["h264_closed"].read_bytes()[:10_000])
    with pytest.raises(TruncatedVideoError, match=r"index of samples \(moov\), found none .*lazyvid recover"):
        build_index(path)


NO_VIDEOS = {
    "nothing": (b"", "no bytes at all"),
    "text": (b"hello, this is no video\n", "hello, this is n"),
    "html": (b"<!DOCTYPE html><html>404 Not Found</html>", "<!DOCTYPE html><"),
    "error page": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "<\\?xml version="),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(500), "89 50 4e 47"),
    "concat": (b"ffconcat version 1.0\nfile victim.mp4\n", "ffconcat version"),
    "playlist": (b"#EXTM3U\n#EXTINF:10,\nvictim.mp4\n", "#EXTM3U"),
    "zeros": (bytes(300_000), "00 00 00 00"),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_is_no_video_is_named_by_its_first_bytes(name: str, corpus: VideoCorpus, tmp_path: Path) -> None:
    content, named = NO_VIDEOS[name]
    corpus.copy("h264_closed", tmp_path).rename(tmp_path / "victim.mp4")
    path = tmp_path / "thing.mp4"
    path.write_bytes(content)
    for scan in SCANS:
        with pytest.raises(NotAVideoError, match=named):
            build_index(path, scan=scan)  # type: ignore[arg-type]


def test_a_name_means_nothing(corpus: VideoCorpus, tmp_path: Path) -> None:
    for name in ("h264_mkv", "h264_ts", "mpeg4_avi", "h264_closed"):
        path = tmp_path / "misnamed.png"
        path.write_bytes(corpus[name].read_bytes())
        assert same_frames(build_index(path), build_index(corpus[name]))


def test_a_missing_file_is_the_stores_error(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError):
        build_index(tmp_path / "none.mp4")


# -- what headers claim -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Mp4:
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    return mp4_from(write_video(path, VideoSpec(frames=20, b_frames=0, gop=10)))


def with_size(description: bytes, width: int, height: int) -> bytes:
    return description[:32] + pack(">HH", width, height) + description[36:]


CLAIMS: dict[str, tuple[type[LazyVidError], Callable[[Mp4], Mp4 | bytes]]] = {
    "2^31 frames in one run": (LimitExceededError, lambda m: replaced(m, table(b"stts", [(2**31, 1)]))),
    "2^35 frames in runs": (LimitExceededError, lambda m: replaced(m, table(b"stts", [(2**32 - 1, 1)] * 8))),
    "2^31 frames of one size": (LimitExceededError, lambda m: replaced(m, full_box(b"stsz", pack(">II", 9, 2**31)))),
    "2^31 offsets in one run": (LimitExceededError, lambda m: replaced(m, table(b"ctts", [(2**31, 1)]))),
    "2^31 sizes": (CorruptVideoError, lambda m: replaced(m, full_box(b"stsz", pack(">II", 0, 2**31)))),
    "chunks for one sample": (CorruptVideoError, lambda m: replaced(m, table(b"stsc", [(1, 1, 1), (2, 0, 1)]))),
    "no ticks a second": (
        CorruptVideoError,
        lambda m: replaced(m, full_box(b"mdhd", pack(">IIIIHH", 0, 0, 0, 100, 0x55C4, 0))),
    ),
    "2^30 runs": (CorruptVideoError, lambda m: replaced(m, full_box(b"stts", pack(">III", 2**30, 1, 1)))),
    "2^30 chunks": (CorruptVideoError, lambda m: replaced(m, full_box(b"stco", pack(">II", 2**30, 1)))),
    "2^30 keys": (CorruptVideoError, lambda m: replaced(m, full_box(b"stss", pack(">II", 2**30, 1)))),
    "sizes of 2 GB": (
        CorruptVideoError,
        lambda m: replaced(m, full_box(b"stsz", pack(">II20I", 0, 20, *[2**31 - 1] * 20))),
    ),
    "places beyond the end": (TruncatedVideoError, lambda m: replaced(m, table(b"stco", [(2**31,)] * 20))),
    "no table of sizes": (NoVideoStreamError, lambda m: replaced(m, box(b"free"), b"stsz")),
    "no frames": (
        NoVideoStreamError,
        lambda m: dataclasses.replace(m, samples=[], description_of=[], keys=[]),
    ),
    "pictures of 15360 x 15360": (
        LimitExceededError,
        lambda m: dataclasses.replace(m, descriptions=[with_size(m.descriptions[0], 15360, 15360)]),
    ),
    "samples in another file": (
        NotAVideoError,
        lambda m: dataclasses.replace(m, data_reference=full_box(b"url ", b"file:///etc/passwd\0")),
    ),
    "samples behind an alias": (
        NotAVideoError,
        lambda m: dataclasses.replace(m, data_reference=full_box(b"alis", b"some alias record")),
    ),
    "two frames at one time": (
        CorruptVideoError,
        lambda m: dataclasses.replace(m, composition_offsets=[0] * 9 + [1] + [0] * 10),
    ),
    "moov of 4 GB": (LimitExceededError, lambda _: box(b"ftyp", b"isom", bytes(4)) + pack(">I4s", 2**32 - 1, b"moov")),
    "moov of 2^63 bytes": (
        LimitExceededError,
        lambda _: box(b"ftyp", b"isom", bytes(4)) + pack(">I4sQ", 1, b"moov", 2**63),
    ),
    "50 000 boxes in one": (
        CorruptVideoError,
        lambda _: box(b"ftyp", b"isom", bytes(4)) + box(b"moov", box(b"free") * 50_000),
    ),
    "50 000 boxes inside one another": (LazyVidError, lambda _: box(b"ftyp", b"isom", bytes(4)) + nested(50_000)),
    "no moov": (TruncatedVideoError, lambda _: box(b"ftyp", b"isom", bytes(4)) + box(b"mdat", bytes(100))),
    "nothing but a type": (TruncatedVideoError, lambda _: box(b"ftyp", b"isom", bytes(4))),
}


def replaced(movie: Mp4, new: bytes, kind: bytes | None = None) -> Mp4:
    return dataclasses.replace(movie, replaced={kind or new[4:8]: new})


def nested(depth: int) -> bytes:
    return b"".join(pack(">I4s", 8 * (depth - i), b"moov" if i == 0 else b"trak") for i in range(depth))


@pytest.mark.parametrize("name", CLAIMS)
def test_false_claims_are_named_errors(name: str, plain: Mp4, tmp_path: Path) -> None:
    error, make = CLAIMS[name]
    made = make(plain)
    path = tmp_path / "claims.mp4"
    path.write_bytes(made if isinstance(made, bytes) else made.bytes())
    for scan in SCANS:
        with pytest.raises(error, match=r"claims\.mp4"):
            build_index(path, scan=scan)  # type: ignore[arg-type]


def test_false_claims_cost_no_memory(plain: Mp4, tmp_path: Path) -> None:
    """Each claim is met in one process that may take little more memory than it has after opening a sound file."""
    paths = []
    for number, (_, make) in enumerate(CLAIMS.values()):
        made = make(plain)
        paths.append(tmp_path / f"{number}.mp4")
        paths[-1].write_bytes(made if isinstance(made, bytes) else made.bytes())
    sound = tmp_path / "sound.mp4"
    sound.write_bytes(plain.bytes())
    script = """
import contextlib, resource, sys
from lazyvid.errors import LazyVidError
from lazyvid.index.probe import build_index
build_index(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    with contextlib.suppress(LazyVidError):
        build_index(path)
sys.exit((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    arguments = [sys.executable, "-c", script, str(sound), *map(str, paths)]
    megabytes = subprocess.run(arguments, timeout=240, check=False).returncode
    assert 0 <= megabytes < 50


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(frames=5), "Limits.frames = 5"),
        (Limits(pixels=5_000), "Limits.pixels = 5000"),
        (Limits(index_bytes=500), "Limits.index_bytes = 500"),
    ],
)
def test_limits_hold_for_every_container(
    limits: Limits, named: str, plain: Mp4, corpus: VideoCorpus, tmp_path: Path
) -> None:
    path = tmp_path / "plain.mp4"
    path.write_bytes(plain.bytes())
    paths = [path, corpus["h264_fragmented"], corpus["h264_mkv"], corpus["h264_ts"], corpus["mpeg4_avi"]]
    for path in paths[:2] if "index_bytes" in named else paths:
        with pytest.raises(LimitExceededError, match=named):
            build_index(path, limits=limits)


def test_pictures_larger_than_their_headers_say_are_refused_before_they_are_decoded(plain: Mp4, tmp_path: Path) -> None:
    """The container says 16 x 16; the stream's own parameter set says 160 x 120."""
    path = tmp_path / "small.mp4"
    small = dataclasses.replace(plain, descriptions=[with_size(plain.descriptions[0], 16, 16)], width=16, height=16)
    path.write_bytes(small.bytes())
    with pytest.raises(LazyVidError, match=r"small\.mp4"):
        build_index(path, limits=Limits(pixels=1_000))


# -- damage -----------------------------------------------------------------------------------------------------------


def test_the_damaged_real_file(shared_videos: Path) -> None:
    """Its headers are sound: a header scan gives its index, a full scan sees the packet of which four bytes are ff."""
    path = shared_videos / "corrupted.mp4"
    assert len(build_index(path)) == 50
    with pytest.raises(CorruptVideoError, match=r"packet 30 \(decode order, 555 bytes\)"):
        build_index(path, scan="full")


@pytest.mark.parametrize("name", ["h264_closed", "h264_fragmented", "hevc", "vp9_odd"])
def test_flipped_bits_in_headers_end_in_an_index_or_a_named_error(
    name: str, corpus: VideoCorpus, tmp_path: Path
) -> None:
    data = corpus[name].read_bytes()
    moov = data.index(b"moov") - 4
    path = tmp_path / "flipped.mp4"
    random = np.random.default_rng(7)
    for at in random.integers(moov, min(len(data), moov + 3_000), 150).tolist():
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(flipped)
        with contextlib.suppress(LazyVidError):
            build_index(path)


@pytest.mark.parametrize("name", ["h264_mkv", "h264_ts", "mpeg4_avi", "mpeg2_ps", "vp8"])
def test_random_damage_ends_in_an_index_or_a_named_error(name: str, corpus: VideoCorpus, tmp_path: Path) -> None:
    data = corpus[name].read_bytes()
    path = tmp_path / "damaged"
    random = np.random.default_rng(11)
    for _ in range(40):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 20).tolist():
            damaged[at] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(LazyVidError):
            build_index(path)


def test_garbage_and_a_second_movie_after_the_first_are_passed_over(plain: Mp4, tmp_path: Path) -> None:
    """As FFmpeg does."""
    path = tmp_path / "more.mp4"
    path.write_bytes(plain.bytes())
    whole = build_index(path)
    for more in (b"\xde\xad\xbe\xef" * 100, b"\0", plain.bytes(), bytes(1000)):
        path.write_bytes(plain.bytes() + more)
        assert same_frames(build_index(path), whole)
