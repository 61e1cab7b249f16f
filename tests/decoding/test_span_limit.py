"""`Limits.span_bytes`: no read holds more encoded bytes at once, and what would is refused before a byte is fetched."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import check_error, with_sidecar

from lazyvid import FrameIndex, LazyVideo, Limits, ObjectStore, SegmentCache, build_index
from lazyvid.errors import CorruptIndexError, DecodeError, LazyVidError, LimitExceededError
from lazyvid.stats import read_stats
from lazyvid.storage.pending import PendingRead, PlannedRead
from lazyvid.testing import FaultServer, write_video
from lazyvid.video import begin_clips

pytestmark = pytest.mark.filterwarnings("ignore:No frame index")

FRAMES = 48
GOP = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of pictures, with a sidecar."""
    path = write_video(tmp_path_factory.mktemp("span") / "clip.mp4", frames=FRAMES, gop=GOP, b_frames=0)
    return with_sidecar(path, scan="full")


@pytest.fixture(scope="module")
def index(clip: Path) -> FrameIndex:
    return LazyVideo(clip).frame_index


def need(index: FrameIndex, frame: int) -> int:
    """Bytes of the packets from the group's first to the frame's own, the disposable ones between them left out."""
    packets = index.packets
    position = int(packets.decode_position[frame])
    start = max(
        p
        for p, key in zip(packets.decode_position.tolist(), packets.key.tolist(), strict=True)
        if key and p <= position
    )
    inside = (packets.decode_position >= start) & (packets.decode_position <= position)
    offsets = packets.offset[inside]
    return int((offsets + packets.size[inside]).max() - offsets.min())


@pytest.mark.parametrize("indexed", [True, False], ids=["sidecar", "no-sidecar"])
@pytest.mark.parametrize("place", ["local", "memory", "http"])
def test_a_frame_that_takes_too_many_bytes_is_refused_before_they_are_fetched(
    clip: Path, index: FrameIndex, place: str, indexed: bool, tmp_path: Path, fault_server: FaultServer
) -> None:
    store = ObjectStore()
    uri = {
        "local": str(tmp_path / "v.mp4"),
        "memory": f"memory://span{indexed}/v.mp4",
        "http": fault_server.url("v.mp4"),
    }[place]
    if place == "http":
        fault_server.objects["v.mp4"] = clip.read_bytes()
        for file in Path(f"{clip}.lance").rglob("*") if indexed else ():
            if file.is_file():
                fault_server.objects[f"v.mp4.lance/{file.relative_to(f'{clip}.lance')}"] = file.read_bytes()
    else:
        store.upload(clip, uri)
        if indexed:
            index.save(uri, store=store)
    limits = Limits(span_bytes=need(index, GOP - 1) - 1)
    video = LazyVideo(uri, store=store, limits=limits, on_missing_index="raise" if indexed else "build")
    whole = LazyVideo(clip)
    assert torch.equal(video[0], whole[0])
    before = read_stats()
    fault_server.script()
    for read in (
        lambda: video[GOP - 1],
        lambda: video[:GOP],
        lambda: begin_clips([(video, np.array([GOP - 1]))]).result(),
    ):
        with pytest.raises(LimitExceededError) as raised:
            read()
        check_error(raised.value, naming=uri)
        assert re.search(rf"frames? (0 to )?{GOP - 1}\b", str(raised.value))
        assert f"Limits.span_bytes = {limits.span_bytes}" in str(raised.value)
        assert str(need(index, GOP - 1)) in str(raised.value)
    spent = read_stats() - before
    assert (spent.requests, spent.bytes_fetched) == (0, 0)
    assert not fault_server.requests
    raised_limit = LazyVideo(uri, store=store, limits=Limits(span_bytes=need(index, GOP - 1)))
    assert torch.equal(raised_limit[GOP - 1], whole[GOP - 1])


def test_whole_copies_hold_no_more_either(
    clip: Path, index: FrameIndex, fault_server: FaultServer, tmp_path: Path
) -> None:
    fault_server.objects["v.mp4"] = clip.read_bytes()
    limits = Limits(span_bytes=need(index, GOP - 1) - 1)
    video = LazyVideo(
        fault_server.url("v.mp4"), limits=limits, frame_index=index, fetch="file", cache=SegmentCache(tmp_path)
    )
    assert video[0].shape == (3, video.height, video.width)
    with pytest.raises(LimitExceededError):
        video[GOP - 1]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each fetch takes, in order."""
    seen: list[int] = []
    begin = ObjectStore.begin_planned

    def begin_planned(store: ObjectStore, reads: Sequence[PlannedRead], *, ahead: bool = True) -> PendingRead:
        seen.append(sum(read.nbytes for read in reads))
        return begin(store, reads, ahead=ahead)

    monkeypatch.setattr(ObjectStore, "begin_planned", begin_planned)
    return seen


def test_a_large_request_is_read_in_pieces_that_are_not_too_large(
    clip: Path, index: FrameIndex, held: list[int]
) -> None:
    largest = max(need(index, frame) for frame in range(FRAMES))
    whole = LazyVideo(clip)[:]
    for limit in (largest, 2 * largest, 2 * largest + 5_000):
        held.clear()
        assert torch.equal(LazyVideo(clip, limits=Limits(span_bytes=limit))[:], whole)
        assert max(held) <= limit
    many = [LazyVideo(clip, limits=Limits(span_bytes=limit)) for limit in (largest, 1 << 30)]
    held.clear()
    clips = begin_clips([(video, np.arange(FRAMES)) for video in many]).result()
    assert all(torch.equal(read.frames, whole) for read in clips)
    assert max(held) <= largest


def test_two_batches_are_held_only_where_both_may_be(
    clip: Path, index: FrameIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [need(index, GOP - 1), need(index, FRAMES - 1)]
    waiting: list[bool] = []
    begin = ObjectStore.begin_planned

    def begun(store: ObjectStore, reads: Sequence[PlannedRead], *, ahead: bool = True) -> PendingRead:
        waiting.append(ahead)
        return begin(store, reads, ahead=ahead)

    monkeypatch.setattr(ObjectStore, "begin_planned", begun)
    for limit, expected in ((max(sizes), [False, False]), (sum(sizes) + 200_000, [False])):
        waiting.clear()
        LazyVideo(clip, limits=Limits(span_bytes=limit))[:]
        assert waiting == expected


def test_the_packets_that_only_spare_a_drain_are_left_out_first(tmp_path: Path) -> None:
    """Frames one after the other, each with just the bytes that it needs itself."""
    clip = write_video(tmp_path / "clip.mp4", frames=FRAMES, gop=GOP, b_frames=2)
    index = build_index(clip)
    whole = LazyVideo(clip)
    for frame in range(FRAMES):
        video = LazyVideo(clip, frame_index=index, limits=Limits(span_bytes=need(index, frame)))
        assert torch.equal(video[frame], whole[frame]), frame


HOSTILE: dict[str, Callable[[np.ndarray, np.ndarray, int], tuple[Any, Any]]] = {
    "each packet is the whole file": lambda offset, size, total: (np.zeros_like(offset), np.full_like(size, total)),
    "packets past the end": lambda offset, size, _: (offset, size + 2**40),
    "packets of 2^62 bytes": lambda offset, size, _: (offset, np.full_like(size, 2**62)),
    "packets far apart": lambda offset, size, _: (np.arange(len(offset)) * 60_000, size),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_sidecar_cannot_make_a_read_larger(
    name: str, place: str, clip: Path, index: FrameIndex, tmp_path: Path
) -> None:
    """The object is large enough for what the sidecar claims, or the claim is larger still."""
    store = ObjectStore()
    uri = str(tmp_path / "v.mp4") if place == "local" else f"memory://hostile/{name}/v.mp4"
    shutil.copy(clip, tmp_path / "large.mp4")
    with (tmp_path / "large.mp4").open("ab") as file:
        file.write((4_000_000).to_bytes(4, "big") + b"mdat" + bytes(4_000_000 - 8))
    store.upload(tmp_path / "large.mp4", uri)
    honest = LazyVideo(uri, store=store).frame_index
    total = honest.sources[0].size
    offset, size = HOSTILE[name](honest.packets.offset, honest.packets.size, total)
    unknown = np.full(len(offset), -1)
    packets = dataclasses.replace(honest.packets, offset=offset, size=size, crc32=unknown)
    dataclasses.replace(honest, packets=packets).save(uri, store=store)
    video = LazyVideo(uri, store=store, on_missing_index="raise", limits=Limits(span_bytes=1_000_000))
    before = read_stats().bytes_fetched
    with pytest.raises((LimitExceededError, CorruptIndexError, DecodeError)):
        video[GOP - 1]
    assert read_stats().bytes_fetched - before <= 1_000_000


@pytest.mark.parametrize(("offset", "size"), [(-5, 0), (0, -(10**6)), (2**63 - 10, 0), (0, -(2**62))])
def test_places_that_cannot_be_are_named_errors(clip: Path, index: FrameIndex, offset: int, size: int) -> None:
    with np.errstate(over="ignore"):
        packets = dataclasses.replace(
            index.packets, offset=index.packets.offset + offset, size=index.packets.size + size
        )
    video = LazyVideo(clip, frame_index=dataclasses.replace(index, packets=packets))
    for frame in (0, GOP - 1):
        with pytest.raises(LazyVidError):
            video[frame]
