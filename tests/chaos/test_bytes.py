"""Damaged and hostile videos, read in a process of little memory: the right frame or a named error, nothing else."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import damaged
import hypothesis
import pytest
from chances import SEED
from children import Child, run_all
from damaged import FORMATS, boxes, draw, header_of, spoil, with_the_index, without_an_index
from hypothesis import strategies as st
from sizes import counts

from lazyvid import LazyVideo
from lazyvid.errors import LazyVidError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("whole")
    return {name: damaged.write(root / name, name) for name in FORMATS}


@counts(8, 300)
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_never_given_as_a_frame(
    name: str, count: int, videos: Mapping[str, Path], child: Child, tmp_path: Path, rng: random.Random
) -> None:
    """By an index with checksums: 0 wrong frames."""
    good, spoilt = videos[name], tmp_path / videos[name].name
    size, header = good.stat().st_size, header_of(good)
    drawn = [draw(rng, size, header) for _ in range(count)]
    tally = run_all(
        child,
        [(str(d), with_the_index, {"good": str(good), "damaged": str(spoilt), "damage": d}) for d in drawn],
    )
    print(name, tally)  # noqa: T201 - shown by -rP
    assert tally.wrong == []
    assert sum(n for what, n in tally.counts.items() if what.startswith("refused")) > count // 4


@counts(6, 120)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_can_be_indexed_or_are_refused(
    name: str, count: int, videos: Mapping[str, Path], child: Child, tmp_path: Path, rng: random.Random
) -> None:
    """Nobody knows what they held, so no frame can be called wrong; but a cut file gives its beginning or nothing."""
    good, spoilt = videos[name], tmp_path / videos[name].name
    size, header = good.stat().st_size, header_of(good)
    drawn = [(draw(rng, size, header), rng.choice(["header", "full"])) for _ in range(count)]
    drawn += [((("cut", rng.randrange(1, size), 0),), "header") for _ in range(count // 4)]
    places = {"good": str(good), "damaged": str(spoilt)}
    tally = run_all(child, [(str(d), without_an_index, {**places, "damage": d, "scan": scan}) for d, scan in drawn])
    print(name, tally)  # noqa: T201
    assert tally.wrong == []


def cuts(data: bytes) -> Iterator[int]:
    """At, in and after each kind of box."""
    seen: set[bytes] = set()
    for kind, start, stop in boxes(data):
        if kind not in seen:
            seen.add(kind)
            yield from (start, start + 4, start + 8, (start + stop) // 2, stop - 1, stop)


@pytest.mark.parametrize("name", ["mp4", "fragmented", "hybrid"])
def test_cut_at_every_kind_of_box(name: str, videos: Mapping[str, Path], child: Child, tmp_path: Path) -> None:
    good, spoilt = videos[name], tmp_path / "clip.mp4"
    data = good.read_bytes()
    places = {"good": str(good), "damaged": str(spoilt)}
    for at in sorted({at for at in cuts(data) if 0 < at < len(data)}):
        for work in (with_the_index, without_an_index):
            outcome = child.ask(work, **places, damage=(("cut", at, 0),))
            assert outcome.kind != "wrong", (at, work, outcome)
            if work is with_the_index:
                assert outcome.kind == "refused", at


# -- hostile headers ---------------------------------------------------------------------------------------------------


def _box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def _patched(data: bytes, kind: bytes, at: int, value: bytes) -> bytes:
    """With bytes of the first box of a kind replaced, counted from the box's start."""
    start = next(start for found, start, _ in boxes(data) if found == kind)
    return data[: start + at] + value + data[start + at + len(value) :]


def _all_patched(data: bytes, kind: bytes, at: int, value: bytes) -> bytes:
    spoilt = bytearray(data)
    for found, start, _ in boxes(data):
        if found == kind:
            spoilt[start + at : start + at + len(value)] = value
    return bytes(spoilt)


def _swapped(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data, old
    return data.replace(old, new, 1)


def _resized(data: bytes, element: bytes) -> bytes:
    """With the size of the first Matroska element of a kind as large as can be written in its 2 or 8 bytes."""
    at = data.index(element) + len(element)
    size = b"\x7f\xfe" if data[at] & 0x40 else b"\x01" + b"\xff" * 6 + b"\xfe"
    return data[:at] + size + data[at + len(size) :]


def _nested(kind: bytes, depth: int) -> bytes:
    return b"".join(struct.pack(">I4s", 8 * (depth - i), kind) for i in range(depth))


FTYP = _box(b"ftyp", b"isom" + bytes(4) + b"isom")
BIG, HUGE = struct.pack(">I", 2**31), struct.pack(">I", 2**32 - 1)
SIDE = struct.pack(">HH", 15360, 15360)
SMALL = b"\xb0\x81\x40\xba\x81\x30"
"""PixelWidth 64, PixelHeight 48."""
LARGE = b"\xb0\x82\x3c\x00\xba\x82\x3c\x00\xec\x84" + bytes(4)
"""15360 each, and nothing in an element of its own."""
HOSTILE: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = {
    "mp4: 2^31 frames": ("mp4", lambda d: _patched(d, b"stts", 12, struct.pack(">III", 1, 2**31, 1)[4:])),
    "mp4: 2^31 runs": ("mp4", lambda d: _patched(d, b"stts", 12, BIG)),
    "mp4: 2^31 sizes": ("mp4", lambda d: _patched(d, b"stsz", 16, BIG)),
    "mp4: 2^31 frames of one size": ("mp4", lambda d: _patched(d, b"stsz", 12, struct.pack(">II", 9, 2**31))),
    "mp4: 2^31 in each chunk": ("mp4", lambda d: _patched(d, b"stsc", 20, BIG)),
    "mp4: pictures of 15360x15360": ("mp4", lambda d: _patched(d, b"stsd", 16 + 32, SIDE)),
    "mp4: stbl past the end": ("mp4", lambda d: _patched(d, b"stbl", 0, HUGE)),
    "mp4: mdat past the end": ("mp4", lambda d: _patched(d, b"mdat", 0, HUGE)),
    "mp4: a box of 2^63 bytes": ("mp4", lambda d: FTYP + struct.pack(">I4sQ", 1, b"moov", 2**63) + d),
    "mp4: 50,000 boxes inside one another": ("mp4", lambda _: FTYP + _nested(b"moov", 50_000)),
    "mp4: 50,000 tracks inside one another": ("mp4", lambda _: FTYP + _box(b"moov", _nested(b"trak", 50_000))),
    "mp4: 50,000 meta boxes inside one another": ("mp4", lambda d: d + _nested(b"udta", 50_000)),
    "mp4: frames in another file": ("mp4", lambda d: damaged.referring(d, damaged.url_entry("clip.mp4"))),
    "mp4: frames in a file without a name": (
        "mp4",
        lambda d: _swapped(d, b"url \x00\x00\x00\x01", b"url \x00\x00\x00\x00"),
    ),
    "fragmented: frames in another file": ("fragmented", lambda d: damaged.referring(d, damaged.url_entry("clip.mp4"))),
    "mp4: time scale 0": ("mp4", lambda d: _patched(d, b"mdhd", 20, bytes(4))),
    "fragmented: 2^31 samples": ("fragmented", lambda d: _all_patched(d, b"trun", 12, BIG)),
    "fragmented: runs elsewhere": ("fragmented", lambda d: _all_patched(d, b"trun", 16, struct.pack(">i", -(2**31)))),
    "fragmented: pictures of 15360x15360": ("fragmented", lambda d: _patched(d, b"stsd", 16 + 32, SIDE)),
    "fragmented: a moof past the end": ("fragmented", lambda d: _all_patched(d, b"moof", 0, HUGE)),
    "fragmented: 50,000 moofs inside one another": ("fragmented", lambda d: d + _nested(b"moof", 50_000)),
    "fragmented: 50,000 empty moofs": ("fragmented", lambda d: d + _box(b"moof", b"") * 50_000),
    "fragmented: durations of 2^32": ("fragmented", lambda d: _all_patched(d, b"tfhd", 16, HUGE)),
    "mkv: pictures of 15360x15360": (
        "mkv",
        lambda d: _swapped(d, SMALL + b"\x54\xb2\x81\x04", b"\xb0\x82\x3c\x00\xba\x82\x3c\x00\xec\x80"),
    ),
    "mkv: a segment of 2^56 bytes": ("mkv", lambda d: _resized(d, b"\x18\x53\x80\x67")),
    "mkv: a cluster past the end": ("mkv", lambda d: _resized(d, b"\x1f\x43\xb6\x75")),
    "mkv: clusters inside clusters": (
        "mkv",
        lambda d: d + b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff" * 50_000,
    ),
    "mkv: tags inside tags": ("mkv", lambda d: d + b"\x12\x54\xc3\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 50_000),
    "webm: pictures of 15360x15360": (
        "webm",
        lambda d: _swapped(d, b"\x23\xe3\x83\x84\x01\xfc\xa0\x55\xe0\x86" + SMALL, b"\xe0\x8e" + LARGE),
    ),
    "webm: a segment of 2^56 bytes": ("webm", lambda d: _resized(d, b"\x18\x53\x80\x67")),
    "ffconcat": ("mp4", lambda _: b"ffconcat version 1.0\nfile clip.mp4\n"),
    "ffconcat with a mark": ("mp4", lambda _: b"\xef\xbb\xbfffconcat version 1.0\nfile clip.mp4\n"),
    "hls": ("mp4", lambda _: b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.mp4\n#EXT-X-ENDLIST\n"),
    "hls of a URL": ("mp4", lambda _: b"#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/clip.mp4\n"),
    "dash": ("mp4", lambda _: b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'),
    "sdp": ("mp4", lambda _: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
    "a file list behind a type": ("mp4", lambda _: FTYP + b"ffconcat version 1.0\nfile clip.mp4\n"),
}
MAY_OPEN = {
    "mp4: 50,000 meta boxes inside one another",
    "fragmented: 50,000 empty moofs",
    "fragmented: 50,000 moofs inside one another",
    "mkv: clusters inside clusters",
    "mkv: tags inside tags",
    "mkv: a segment of 2^56 bytes",
    "mkv: a cluster past the end",
    "webm: a segment of 2^56 bytes",
    "mkv: pictures of 15360x15360",
    "webm: pictures of 15360x15360",
    "mp4: frames in a file without a name",
}
"""Those whose frames are all there, and whose lies nobody has to believe: the stream knows its own size, say."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, videos: Mapping[str, Path], tmp_path: Path, hostile_child: Child) -> None:
    """Within the child's memory; a playlist never opens the video beside it."""
    kind, make = HOSTILE[name]
    (tmp_path / "clip.mp4").write_bytes(videos["mp4"].read_bytes())
    path = tmp_path / f"hostile{videos[kind].suffix}"
    path.write_bytes(make(videos[kind].read_bytes()))
    outcome = hostile_child.ask(damaged.nothing_but_its_own, good=str(videos[kind]), path=str(path))
    assert outcome.kind == "refused" or (name in MAY_OPEN and outcome.kind == "right"), outcome


@pytest.fixture(scope="module")
def hostile_child() -> Iterator[Child]:
    """Of its own: what decoding takes elsewhere must not count against a claim."""
    with Child(warm=damaged.warm, memory_mb=300) as running:
        yield running


# -- mutations of the box tree -----------------------------------------------------------------------------------------


@st.composite
def mutations(draw_: Any, data: bytes) -> bytes:
    """A file whose boxes were resized, renamed, doubled, dropped, emptied or given other numbers."""
    for _ in range(draw_(st.integers(1, 3))):
        found = list(boxes(data))
        if not found:
            break
        _, start, stop = draw_(st.sampled_from(found))
        how = draw_(st.sampled_from(["size", "name", "double", "drop", "empty", "number"]))
        piece = data[start:stop]
        if how == "size":
            piece = (
                struct.pack(">I", draw_(st.sampled_from([0, 1, 7, 8, 9, len(piece) + 1, 2**31, 2**32 - 1]))) + piece[4:]
            )
        elif how == "name":
            piece = piece[:4] + draw_(st.sampled_from([b"free", b"moov", b"trak", b"stsd", b"\0\0\0\0"])) + piece[8:]
        elif how == "double":
            piece = piece * 2
        elif how == "drop":
            piece = b""
        elif how == "empty":
            piece = struct.pack(">I4s", 8, piece[4:8])
        elif len(piece) >= 16:
            at = 8 + 4 * draw_(st.integers(0, (len(piece) - 12) // 4))
            value = draw_(st.sampled_from([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]))
            piece = piece[:at] + struct.pack(">I", value) + piece[at + 4 :]
        data = data[:start] + piece + data[stop:]
    return data


def mutated_case(good: str, path: str, data: bytes) -> str:
    """By the index of the whole file: right or refused; by its own: opened or refused."""
    right = damaged.reference(good)
    Path(path).write_bytes(data)
    try:
        said = damaged.read_in_pieces(LazyVideo(path, frame_index=right.index), right)
    except LazyVidError:
        said = "refused"
    damaged.whatever(path)
    return said


@counts(12, 500)
@pytest.mark.parametrize("name", ["mp4", "fragmented"])
def test_mutated_box_trees(name: str, count: int, videos: Mapping[str, Path], child: Child, tmp_path: Path) -> None:
    good = videos[name]
    path = tmp_path / "clip.mp4"

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(mutations(good.read_bytes()))
    def check(data: bytes) -> None:
        outcome = child.ask(mutated_case, good=str(good), path=str(path), data=data)
        assert outcome.kind != "wrong", outcome.what

    check()


def test_the_tests_own_damage_can_be_seen(videos: Mapping[str, Path]) -> None:
    data = videos["mp4"].read_bytes()
    assert spoil(data, (("cut", 100, 0),)) == data[:100]
    assert spoil(data, (("flip", 9, 1), ("zero", len(data) - 2, 9))) != data
    assert len({kind for kind, _, _ in boxes(data)}) > 15
