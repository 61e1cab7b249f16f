"""Indexes made of numbers, for the tests of this room: no video stands behind them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lazyvid.index.frame_index import NO_PTS, FrameIndex, PacketTable, Segment, Source


def make_source(**changes: Any) -> Source:
    values: dict[str, Any] = {
        "uri": "",
        "size": 123_456,
        "etag": '"abc"',
        "fingerprint": 0xDEADBEEF,
        "container": "mp4",
        "codec": "h264",
        "extradata": b"\x01d\x00\x1f\xff",
        "width": 160,
        "height": 120,
        "pix_fmt": "yuv420p",
        "time_base": Fraction(1, 15360),
        "sample_aspect_ratio": Fraction(4, 3),
    }
    return Source(**(values | changes))


def make_packets(count: int, *, sources: int = 1, seed: int = 0, first: int = 0) -> PacketTable:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50_000, count)
    return PacketTable(
        source_idx=np.sort(rng.integers(0, sources, count)),
        offset=48 + np.cumsum(sizes) - sizes,
        size=sizes,
        pts=np.where(rng.random(count) < 0.02, NO_PTS, (first + np.arange(count)) * 512),
        dts=(first + np.arange(count)) * 512 - 1024,
        duration=np.full(count, 512),
        decode_position=first + np.arange(count),
        key=np.arange(count) % 30 == 0,
        disposable=rng.integers(-1, 2, count),
        crc32=np.where(rng.random(count) < 0.3, -1, rng.integers(0, 2**32, count)),
    )


def make_index(count: int = 300, *, segments: int = 1, hidden: int = 3, seed: int = 0, **source: Any) -> FrameIndex:
    bounds = [count * k // segments for k in range(segments + 1)]
    counts = [b - a for a, b in itertools.pairwise(bounds)]
    sources = tuple(make_source(**{"uri": f"{k}.mp4" if k else "", **source}) for k in range(segments))
    return FrameIndex(
        segment_idx=np.repeat(np.arange(segments), counts),
        local_frame_idx=np.concatenate([np.arange(c) for c in counts]),
        timestamp=np.cumsum(np.random.default_rng(seed).random(count)) + 0.5,
        packets=make_packets(count, sources=segments, seed=seed),
        hidden=make_packets(hidden, seed=seed + 1, first=count),
        sources=sources,
        segments=tuple(Segment(k, c) for k, c in enumerate(counts)),
    )


def same(one: FrameIndex, other: FrameIndex) -> bool:
    """Whether two indexes hold the same, types included."""
    return (
        one.content_hash() == other.content_hash()
        and one.sources == other.sources
        and one.segments == other.segments
        and one.packets.key.dtype == other.packets.key.dtype
    )


_ticks = st.integers(1, 2**31 - 1)  # an AVRational is two of them
_rational = st.builds(Fraction, _ticks, _ticks)
_text = st.text(max_size=12)
sources = st.builds(
    make_source,
    uri=_text,
    size=st.integers(0, 2**62),
    etag=st.none() | _text,
    fingerprint=st.integers(0, 2**32 - 1),
    extradata=st.binary(max_size=40),
    codec_tag=_text,
    addressing=st.sampled_from(["packets", "container", "sequential"]),
    rotation=st.sampled_from([0, 90, 180, 270]),
    hflip=st.booleans(),
    stream=st.integers(0, 9),
    time_base=_rational,
    sample_aspect_ratio=_rational,
)


@st.composite
def indexes(draw: st.DrawFn, *, min_frames: int = 1) -> FrameIndex:
    """Any index: empty segments, several sources, unknown times and checksums."""
    source_list = draw(st.lists(sources, min_size=1, max_size=3))
    counts = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(lambda c: sum(c) >= min_frames))
    count = sum(counts)
    times = st.floats(allow_nan=False, allow_infinity=False)
    seed = draw(st.integers(0, 2**32 - 1))
    return FrameIndex(
        segment_idx=np.repeat(np.arange(len(counts)), counts),
        local_frame_idx=np.concatenate([np.arange(c) for c in counts]),
        timestamp=np.array(draw(st.lists(times, min_size=count, max_size=count)), np.float64),
        packets=make_packets(count, sources=len(source_list), seed=seed),
        hidden=make_packets(draw(st.integers(0, 5)), sources=len(source_list), seed=seed + 1, first=count),
        sources=tuple(source_list),
        segments=tuple(Segment(draw(st.integers(0, len(source_list) - 1)), c) for c in counts),
    )


Damage = Callable[[bytes, np.random.Generator], bytes]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def zeroed(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    return data[:start] + bytes(len(data[start : start + 64])) + data[start + 64 :]


DAMAGES: dict[str, tuple[int, Damage]] = {
    "emptied": (1, lambda _data, _rng: b""),
    "truncated": (8, lambda data, rng: data[: int(rng.integers(1, len(data)))]),
    "flipped": (50, flipped),
    "zeroed": (8, zeroed),
    "longer": (1, lambda data, _rng: data + b"\0" * 10),
}
