"""Clips that are fetched ahead: the same as those read at once, whatever happens between beginning and result."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import files_below, in_process, need_torchcodec, numbers_of, put_all, with_sidecar

from lazyvid import Clip, LazyVideo, ObjectStore, SegmentCache, build_index, read_stats
from lazyvid.decoding import reader
from lazyvid.decoding.decoder import PacketDecoder
from lazyvid.decoding.pool import DecoderPool
from lazyvid.errors import CorruptIndexError, CorruptVideoError, ObjectChangedError, ObjectNotFoundError
from lazyvid.index import local
from lazyvid.index.frame_index import Source
from lazyvid.storage.process import process_io
from lazyvid.testing import CountingProxy, S3Server, VideoCorpus, write_video
from lazyvid.video import begin_clips, read_clips

pytestmark = pytest.mark.filterwarnings("ignore:No frame index")

FRAMES = 60
GOP = 12
PATIENCE_S = 120.0
Request = tuple[LazyVideo, Any]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYVID_INDEX_DIR", str(tmp_path / "indexes"))
    monkeypatch.setenv("LAZYVID_CACHE_DIR", str(tmp_path / "copies"))
    local.clear()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with its sidecar, checksums included; not to be changed."""
    path = write_video(tmp_path_factory.mktemp("ahead") / "clip.mp4", frames=FRAMES, gop=GOP, b_frames=2)
    return with_sidecar(path, scan="full")


@pytest.fixture
def s3_store(s3_server: S3Server) -> ObjectStore:
    return ObjectStore(storage_options=s3_server.storage_options)


@pytest.fixture
def far(
    counting_proxy: CountingProxy, s3_server: S3Server, s3_store: ObjectStore, s3_prefix: str, original: Path
) -> LazyVideo:
    """The video in a bucket, opened through the proxy."""
    put_all(s3_store, s3_prefix, files_below(original.parent))
    counted = ObjectStore(storage_options=counting_proxy.storage_options_for(s3_server))
    video = LazyVideo(f"{s3_prefix}/clip.mp4", store=counted, on_missing_index="raise")
    assert len(video) == FRAMES
    counting_proxy.reset()
    return video


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.005)


def requests_of(video: LazyVideo, *ranges: Sequence[int]) -> list[Request]:
    return [(video, np.array(numbers, np.int64)) for numbers in ranges]


def assert_same(clips: Sequence[Clip], others: Sequence[Clip]) -> None:
    for clip, other in zip(clips, others, strict=True):
        for field in dataclasses.fields(Clip):
            one, two = getattr(clip, field.name), getattr(other, field.name)
            assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two, field.name


ASKED = ([50, 1, 26], range(20, 36), [0, 0], [])


# -- the same clips ---------------------------------------------------------------------------------------------------


def test_clips_of_a_bucket_are_on_their_way_before_they_are_asked_for(
    far: LazyVideo, counting_proxy: CountingProxy, original: Path
) -> None:
    read_clips(requests_of(far, *ASKED))
    needed = len(counting_proxy.requests)
    counting_proxy.reset()
    pending = begin_clips(requests_of(far, *ASKED))
    wait_until(lambda: len(counting_proxy.requests) == needed and _all_answered(counting_proxy))
    clips = pending.result()
    assert len(counting_proxy.requests) == needed, "nothing more is asked for"
    assert [numbers_of(clip.frames) for clip in clips] == [list(numbers) for numbers in ASKED]
    assert_same(clips, read_clips(requests_of(LazyVideo(original), *ASKED)))
    assert pending.result()[1] is clips[1]


@pytest.mark.parametrize("name", ["h264_closed", "h264_intra_refresh", "h264_ts", "mpeg4_avi", "hevc_open_gop"])
def test_local_files_too_of_every_way_of_reading(corpus: VideoCorpus, name: str) -> None:
    video = LazyVideo(corpus[name])
    asked = requests_of(video, [len(video) - 1, 3], range(5, 9))
    pending = begin_clips(asked)
    other = begin_clips(asked[::-1])
    assert_same(pending.result(), read_clips(asked))
    assert_same(other.result(), read_clips(asked)[::-1])


@pytest.mark.parametrize("options", [{"fetch": "file"}, {"backend": "torchcodec"}])
def test_other_ways_of_fetching(far: LazyVideo, original: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    if "backend" in options:
        need_torchcodec()
    video = LazyVideo(far.uri, store=far._recipe.stores[0], cache=SegmentCache(tmp_path / "cache"), **options)
    asked = requests_of(video, *ASKED) + requests_of(LazyVideo(original), *ASKED)
    assert_same(begin_clips(asked).result(), read_clips(asked))


# -- one batch ahead --------------------------------------------------------------------------------------------------


class _Watch(DecoderPool):
    """Does something before each run is decoded."""

    def __init__(self, before: Callable[[int], None]) -> None:
        super().__init__()
        self.runs = 0
        self._before = before

    @contextlib.contextmanager
    def checkout(self, source: Source, **options: Any) -> Iterator[PacketDecoder]:
        self._before(self.runs)
        self.runs += 1
        with super().checkout(source, **options) as decoder:
            yield decoder


def test_while_a_batch_decodes_the_next_one_is_fetched_and_no_more(
    far: LazyVideo, counting_proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five groups of pictures, a batch each."""
    monkeypatch.setattr(reader, "_BATCH_BYTES", 1)
    numbers = range(3, FRAMES, GOP)
    seen: list[int] = []

    def before(run: int) -> None:
        wait_until(lambda: len(counting_proxy.requests) >= min(run + 2, 5) and _all_answered(counting_proxy))
        time.sleep(0.05)  # were more to come, they would
        seen.append(len(counting_proxy.requests))

    watch = _Watch(before)
    monkeypatch.setattr(reader, "default_pool", lambda: watch)
    pending = begin_clips(requests_of(far, numbers))
    wait_until(lambda: len(counting_proxy.requests) == 1)
    (clip,) = pending.result()
    assert numbers_of(clip.frames) == list(numbers)
    assert seen == [2, 3, 4, 5, 5]
    assert not [r for r in counting_proxy.requests if not r.if_match]


def _all_answered(proxy: CountingProxy) -> bool:
    return all(request.last_byte_s for request in proxy.requests)


def test_an_error_in_one_batch_gives_up_the_next_one(
    far: LazyVideo, counting_proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_BATCH_BYTES", 1)

    def fail(run: int) -> None:
        wait_until(lambda: len(counting_proxy.requests) == run + 2)
        if run == 1:
            raise ZeroDivisionError

    monkeypatch.setattr(reader, "default_pool", lambda: _Watch(fail))
    pending = begin_clips(requests_of(far, range(3, FRAMES, GOP)))
    with pytest.raises(ZeroDivisionError):
        pending.result()
    _nothing_is_left()
    assert len(counting_proxy.requests) == 3


# -- several clips of one file ----------------------------------------------------------------------------------------


def test_what_several_clips_want_is_decoded_once(original: Path) -> None:
    video, window = LazyVideo(original), LazyVideo(original).lazy_slice(0.5, 1.5)
    before = read_stats()
    read_clips(requests_of(video, range(20, 36)))
    once = read_stats() - before
    before = read_stats()
    asked = requests_of(video, range(20, 36), [30, 21], range(20, 30)) + requests_of(window, range(5, 21), [9, 9])
    clips = read_clips(asked)
    together = read_stats() - before
    assert together.packets_fed == once.packets_fed
    assert together.bytes_fetched == once.bytes_fetched
    assert together.frames_returned == 16 + 2 + 10 + 16 + 2
    assert_same(clips, [clip for request in asked for clip in read_clips([request])])


LOOKS: Sequence[dict[str, Any]] = (
    {},
    {"colorspace": "G"},
    {"resize": (48, 64)},
    {"resize": (48, 64), "interpolation": "area"},
    {"channel_format": "NHWC"},
)


@given(data=st.data())
@settings(max_examples=25)
def test_clips_read_together_are_those_read_alone(original: Path, data: st.DataObject) -> None:
    videos = [LazyVideo(original, **look) for look in LOOKS]
    numbers = st.lists(st.integers(0, FRAMES - 1), max_size=5)
    clips = data.draw(st.lists(st.tuples(st.sampled_from(videos), numbers), max_size=6))
    asked = [(video, np.array(positions, np.int64)) for video, positions in clips]
    assert_same(read_clips(asked), [clip for request in asked for clip in read_clips([request])])


def test_files_of_other_content_are_not_mixed(original: Path, tmp_path: Path) -> None:
    """Two files with the same index content but for their places, of other pictures."""
    other = write_video(tmp_path / "other.mp4", frames=FRAMES, gop=GOP, b_frames=2, first_number=500)
    copied = tmp_path / "copy.mp4"
    copied.write_bytes(original.read_bytes())
    videos = [LazyVideo(path) for path in (original, other, copied)]
    clips = read_clips([(video, np.array([7, 30], np.int64)) for video in videos])
    assert [numbers_of(clip.frames) for clip in clips] == [[7, 30], [507, 530], [7, 30]]


# -- given up, forked, pickled ----------------------------------------------------------------------------------------


def _nothing_is_left() -> None:
    loop = process_io()._loop
    assert loop is not None
    wait_until(lambda: not asyncio.all_tasks(loop))


def test_nothing_is_left_of_cancelled_clips(far: LazyVideo, counting_proxy: CountingProxy) -> None:
    counting_proxy.delay_s = 30.0
    pending = begin_clips(requests_of(far, *ASKED))
    wait_until(lambda: bool(counting_proxy.requests))
    before = read_stats()
    pending.cancel()
    pending.cancel()
    with pytest.raises(CancelledError):
        pending.result()
    _nothing_is_left()
    counting_proxy.delay_s = 0.0
    since = read_stats() - before
    assert (since.bytes_fetched, since.retries) == (0, 0)
    assert numbers_of(far[7:9]) == [7, 8]


def test_clips_that_are_there_stay_when_cancelled(original: Path) -> None:
    pending = begin_clips(requests_of(LazyVideo(original), [4]))
    (clip,) = pending.result()
    pending.cancel()
    assert pending.result() == [clip]


def test_a_forked_child_fetches_anew(far: LazyVideo, counting_proxy: CountingProxy) -> None:
    pending = begin_clips(requests_of(far, *ASKED))
    wait_until(lambda: bool(counting_proxy.requests))
    unread = begin_clips(requests_of(far, *ASKED))
    expected = [list(numbers) for numbers in ASKED]
    assert in_process("fork", _numbers, pending) == expected
    assert _numbers(pending) == expected
    assert in_process("fork", _numbers, pending) == expected
    assert in_process("fork", _cancelled, unread)
    assert _numbers(unread) == expected


def _numbers(pending: Any) -> list[list[int]]:
    return [numbers_of(clip.frames) for clip in pending.result()]


def _cancelled(pending: Any) -> bool:
    pending.cancel()
    with pytest.raises(CancelledError):
        pending.result()
    return True


def test_pending_clips_are_not_pickled(original: Path) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(begin_clips(requests_of(LazyVideo(original), [1])))


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_what_is_wrong_comes_out_of_the_result(far: LazyVideo, s3_store: ObjectStore, original: Path) -> None:
    data = original.read_bytes()
    pending = begin_clips(requests_of(far, *ASKED))
    pending.result()
    s3_store.write(far.uri, data + b"more")
    changed = begin_clips(requests_of(far, *ASKED))
    with pytest.raises(ObjectChangedError):
        changed.result()
    s3_store.delete(far.uri)
    gone = begin_clips(requests_of(far, *ASKED))
    with pytest.raises(ObjectNotFoundError):
        gone.result()
    s3_store.write(far.uri, data)
    assert _numbers(gone) == [list(numbers) for numbers in ASKED], "a further call tries again"


def test_a_local_file_that_changes_between_is_an_error(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(original.read_bytes())
    video = LazyVideo(path)
    pending = begin_clips(requests_of(video, [5]))
    os.utime(path, (1, 1))
    with pytest.raises(ObjectChangedError):
        pending.result()
    path.unlink()
    with pytest.raises(ObjectNotFoundError):
        begin_clips(requests_of(video, [5])).result()


def test_damaged_packets_are_read_twice_and_then_an_error(original: Path, tmp_path: Path) -> None:
    data = bytearray(original.read_bytes())
    index = build_index(original, scan="full")
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    video = LazyVideo(path, frame_index=index)
    pending = begin_clips(requests_of(video, [40]))
    facts = path.stat()
    at = int(index.packets.offset[40]) + 20
    data[at] ^= 255
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    with pytest.raises(CorruptVideoError, match="twice"):
        pending.result()


def test_pictures_that_do_not_come_out_are_tried_from_earlier(corpus: VideoCorpus) -> None:
    video = LazyVideo(corpus["h264_intra_refresh"])
    before = read_stats()
    clips = [begin_clips(requests_of(video, [number])) for number in range(3, len(video), 9)]
    assert [n for clip in clips for n in numbers_of(clip.result()[0].frames)] == list(range(3, len(video), 9))
    assert (read_stats() - before).decode_restarts > 0


def test_an_index_that_makes_no_sense_is_an_error_of_the_result(original: Path) -> None:
    index = build_index(original)
    packets = dataclasses.replace(index.packets, decode_position=index.packets.decode_position + 1)
    video = LazyVideo(original, frame_index=dataclasses.replace(index, packets=packets))
    pending = begin_clips(requests_of(video, [0]))
    with pytest.raises(CorruptIndexError):
        pending.result()
