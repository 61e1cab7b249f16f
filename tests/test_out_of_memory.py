"""A process that is out of memory says so: no video is called damaged, skipped, or indexed without some of its frames.

FFmpeg says "invalid data" of a whole H.264 stream whose pictures it finds no memory for.
"""

from __future__ import annotations

import errno
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from starving import is_about_memory, said_with

from lazyvid import ClipDataset, ClipLoader, ClipSpec, LazyVideo, Limits, build_index
from lazyvid.decoding.decoder import PacketDecoder
from lazyvid.errors import CorruptVideoError, DecodeError, StoreError, VideoError, WorkerDiedError
from lazyvid.index import probe_emerging
from lazyvid.index.probe_demux import PacketRows
from lazyvid.index.probe_parameters import first_picture
from lazyvid.testing import FaultServer, write_video

FRAMES = 8
PIXELS = 3 * 1280 * 720 * FRAMES
MIB = 1 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_video(tmp_path_factory.mktemp("small") / "small.mp4", frames=12, gop=6, width=64, height=48)
    build_index(path, scan="full").save(path)
    return path


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, no more memory is to be had, as far as lazyvid can see."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    return lambda: monkeypatch.setattr("lazyvid.out_of_memory.mmap.mmap", refuse)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_pictures_that_find_no_memory_are_no_damage(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", frames=FRAMES, gop=4, width=1280, height=720)
    video = LazyVideo(path, frame_index=build_index(path, scan="full"), channel_format="NHWC")

    def checksum() -> int:
        return zlib.crc32(video[:].numpy())  # needs no memory of its own

    expected = checksum()

    def read() -> None:
        assert checksum() == expected

    said = [said_with(PIXELS + room * MIB, read) for room in (1, 4, 7, 10, 13)]
    assert [text for text in said if text and not is_about_memory(text)] == []
    assert any("pictures of a video" in text for text in said), said


@pytest.mark.parametrize("kind", [av.error.InvalidDataError, av.error.MemoryError])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_what_the_decoder_refuses_without_memory_is_not_skipped(
    kind: type[av.FFmpegError], on_error: Any, small: Path, no_memory: Callable[[], None], monkeypatch: Any
) -> None:
    dataset = ClipDataset([small], ClipSpec(4), on_error=on_error)

    def refuse(*_: Any) -> None:
        raise kind(1, "refused")

    monkeypatch.setattr(PacketDecoder, "feed", refuse)
    with pytest.raises(DecodeError if on_error == "raise" else Exception, match=r"small\.mp4"):
        dataset[0]
    no_memory()
    with pytest.raises(MemoryError, match="cannot have 64 MB more") as raised:
        dataset[0]
    assert isinstance(raised.value.__context__, OSError)


def test_memory_that_was_short_for_a_moment_costs_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that finds none is tried once more."""
    expected = LazyVideo(small)[:]
    real, calls = PacketDecoder.feed, [0]

    def once(decoder: PacketDecoder, payload: bytes, number: int) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise av.error.MemoryError(12, "Cannot allocate memory")
        return real(decoder, payload, number)

    monkeypatch.setattr(PacketDecoder, "feed", once)
    assert torch.equal(LazyVideo(small)[:], expected)


def test_no_index_is_made_of_what_could_not_be_decoded(small: Path, no_memory: Callable[[], None]) -> None:
    """Nor is a file called damaged."""
    source = build_index(small).sources[0]
    rubbish = bytes(100)
    rows = _rows(3)
    assert first_picture("h264", b"", rubbish, limits=Limits()) is None
    assert probe_emerging.silent_packets(rows, lambda n: [rubbish] * n, source, limits=Limits())[0].all()
    broken = small.with_name("broken.mp4")
    broken.write_bytes(small.read_bytes()[:-900])
    with pytest.raises(VideoError):
        build_index(broken)
    no_memory()
    with pytest.raises(MemoryError):
        first_picture("h264", b"", rubbish, limits=Limits())
    with pytest.raises(MemoryError):
        probe_emerging.silent_packets(rows, lambda n: [rubbish] * n, source, limits=Limits())
    with pytest.raises(MemoryError, match=r"broken\.mp4"):
        build_index(broken)


def _rows(count: int) -> PacketRows:
    rows = PacketRows()
    for k in range(count):
        rows.offset.append(100 * k)
        rows.key.append(k == 0)
    return rows


def test_damage_is_damage_while_there_is_memory(small: Path, tmp_path: Path) -> None:
    data = bytearray(small.read_bytes())
    index = build_index(small, scan="full")
    data[int(index.packets.offset[5]) + 9] ^= 1
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(CorruptVideoError, match="checksum"):
        LazyVideo(path, frame_index=index)[:]


def test_a_store_is_not_blamed_either(fault_server: FaultServer, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault_server.objects["small.mp4"] = small.read_bytes()
    video = LazyVideo(
        fault_server.s3_url("small.mp4"), storage_options=fault_server.storage_options, frame_index=build_index(small)
    )
    assert video[0].shape == (3, 48, 64)

    def refuse(*_: Any) -> None:
        raise MemoryError("no room for the answer")

    monkeypatch.setattr("lazyvid.storage.s3.S3Backend.body", refuse)
    with pytest.raises(MemoryError, match="no room for the answer") as raised:
        video[5]
    assert not isinstance(raised.value, StoreError)


class _Unsendable:
    def __reduce__(self) -> Any:
        raise MemoryError("no room to send it")


def _unsendable(_: Any) -> _Unsendable:
    return _Unsendable()


def test_a_batch_that_cannot_be_handed_over_ends_its_worker(small: Path) -> None:
    """Python's queue drops it; the trainer would wait for it until `timeout_s`."""
    loader = ClipLoader(
        ClipDataset([small], ClipSpec(4)),
        collate_fn=_unsendable,
        num_workers=1,
        multiprocessing_context="fork",
        timeout_s=60.0,
    )
    with pytest.raises(WorkerDiedError):
        next(iter(loader))
    loader.close()
