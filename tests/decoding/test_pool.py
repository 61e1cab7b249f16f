"""`DecoderPool`: one user a context, bounds, what is dropped, and a clean start after a fork."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from decoding_samples import opened
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.decoding.plan import Standing
from lazyvid.decoding.pool import DecoderPool, default_pool
from lazyvid.errors import UnsupportedCodecError
from lazyvid.index.frame_index import Source
from lazyvid.testing import VideoCorpus, read_frame_number


@pytest.fixture(scope="module")
def gop2(corpus: VideoCorpus) -> tuple[Source, list[bytes]]:
    _, source, payloads = opened(corpus["h264_gop2"])
    return source, payloads


def _like(source: Source, number: int) -> Source:
    """A source that needs a context of its own."""
    return dataclasses.replace(source, color_primaries=2 + number)


def test_a_context_is_lent_again(gop2: tuple[Source, list[bytes]]) -> None:
    source, payloads = gop2
    pool = DecoderPool()
    with pool.checkout(source) as first:
        first.feed(payloads[0], 0)
        assert pool.size() == 0
    assert pool.size() == 1
    with pool.checkout(source) as second:
        assert second is first
        assert second.drain() == []  # it was restarted: the picture fed before is gone
        second.restart()
        second.feed(payloads[2], 2)
        (picture,) = second.drain()
        assert read_frame_number(picture.to_ndarray(format="rgb24")) == 2


def test_other_parameters_need_another_context(gop2: tuple[Source, list[bytes]]) -> None:
    source, _ = gop2
    pool = DecoderPool()
    others = [
        dataclasses.replace(source, extradata=b""),
        dataclasses.replace(source, width=source.width * 2),
        dataclasses.replace(source, color_range=2),
        dataclasses.replace(source, colorspace=1),
    ]
    with pool.checkout(source) as first:
        pass
    for other in others:
        with pool.checkout(other) as context:
            assert context is not first
    with pool.checkout(dataclasses.replace(source, uri="elsewhere.mp4", size=1, etag=None, rotation=90)) as context:
        assert context is first


def test_no_context_is_lent_to_two_at_once(gop2: tuple[Source, list[bytes]]) -> None:
    source, _ = gop2
    pool = DecoderPool(max_contexts=3)
    in_use: set[int] = set()
    lock = threading.Lock()

    def borrow(_: int) -> None:
        with pool.checkout(source) as context:
            with lock:
                assert id(context) not in in_use
                in_use.add(id(context))
            time.sleep(0.001)
            with lock:
                in_use.remove(id(context))

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(borrow, range(200), timeout=240))
    assert pool.size() <= 3
    with pool.checkout(source) as one, pool.checkout(source) as other:
        assert one is not other


@given(max_contexts=st.integers(0, 4), numbers=st.lists(st.integers(0, 5), max_size=12))
def test_it_holds_no_more_than_it_may(gop2: tuple[Source, list[bytes]], max_contexts: int, numbers: list[int]) -> None:
    source, _ = gop2
    pool = DecoderPool(max_contexts=max_contexts)
    kept: list[int] = []
    contexts: dict[int, int] = {}
    for number in numbers:
        with pool.checkout(_like(source, number)) as context:
            assert (number in kept) == (contexts.get(number) == id(context))
        contexts = {**{n: i for n, i in contexts.items() if n in kept}, number: id(context)}
        kept = [*(n for n in kept if n != number), number][-max_contexts:] if max_contexts else []
        contexts = {n: i for n, i in contexts.items() if n in kept}
        assert pool.size() == len(kept)


def test_its_bytes_are_bounded_too(gop2: tuple[Source, list[bytes]]) -> None:
    source, _ = gop2
    estimate = source.width * source.height * 2 * 8
    pool = DecoderPool(max_contexts=100, max_bytes=2 * estimate)
    for number in range(4):
        with pool.checkout(_like(source, number)):
            pass
    assert pool.size() == 2
    large = DecoderPool(max_bytes=estimate)
    with large.checkout(dataclasses.replace(source, width=source.width + 16)):
        pass
    assert large.size() == 0
    with pytest.raises(ValueError, match="max_contexts=-1"):
        DecoderPool(max_contexts=-1)


def test_an_error_inside_drops_the_context(gop2: tuple[Source, list[bytes]]) -> None:
    source, _ = gop2
    pool = DecoderPool()
    with pytest.raises(RuntimeError, match="mine"), pool.checkout(source):
        raise RuntimeError("mine")
    assert pool.size() == 0
    with pytest.raises(KeyboardInterrupt), pool.checkout(source):
        raise KeyboardInterrupt
    assert pool.size() == 0
    with pytest.raises(UnsupportedCodecError), pool.checkout(dataclasses.replace(source, codec="invented")):
        pass
    assert pool.size() == 0


def test_a_tainted_context_is_dropped(corpus: VideoCorpus) -> None:
    _, source, payloads = opened(corpus["h264_inband_parameters"])
    pool = DecoderPool()
    with pool.checkout(source) as decoder:
        decoder.feed(payloads[0], 0)
    assert pool.size() == 1
    with pool.checkout(source) as decoder:
        for payload in payloads[:61]:
            decoder.feed(payload, 0)
    assert pool.size() == 0


def test_clear_drops_all(gop2: tuple[Source, list[bytes]]) -> None:
    pool = DecoderPool()
    with pool.checkout(gop2[0]):
        pass
    pool.clear()
    assert pool.size() == 0


def test_a_child_forked_while_the_pool_is_in_use_begins_with_none(gop2: tuple[Source, list[bytes]]) -> None:
    source, payloads = gop2
    pool = DecoderPool()
    with pool.checkout(source) as mine:
        mine.feed(payloads[0], 0)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def decode() -> None:
        sizes = [pool.size()]
        with pool.checkout(source) as decoder:
            decoder.feed(payloads[4], 4)
            (picture,) = decoder.drain()
        sizes.append(pool.size())
        sender.send((sizes, read_frame_number(picture.to_ndarray(format="rgb24"))))

    with pool._own().lock:  # as if another thread were in the middle of taking one
        child = context.Process(target=decode)
        child.start()
    assert receiver.poll(240), "the child hangs on the parent's lock"
    assert receiver.recv() == ([0, 1], 4)
    child.join(240)
    assert pool.size() == 1
    with pool.checkout(source) as again:
        assert again is mine


def test_a_pickle_carries_the_bounds_and_no_context(gop2: tuple[Source, list[bytes]]) -> None:
    source, _ = gop2
    pool = DecoderPool(max_contexts=1)
    with pool.checkout(source):
        pass
    copy = pickle.loads(pickle.dumps(pool))
    assert copy.size() == 0
    for number in range(2):
        with copy.checkout(_like(source, number)):
            pass
    assert copy.size() == 1


def test_readers_share_one_pool_of_the_process() -> None:
    assert default_pool() is default_pool()


def _standing(stream: str) -> Standing:
    return Standing(stream, 0, 1, set())


def test_a_context_that_stands_somewhere_goes_on_only_for_what_it_serves(gop2: tuple[Source, list[bytes]]) -> None:
    source, payloads = gop2
    pool = DecoderPool()
    with pool.checkout(source) as first:
        first.feed(payloads[0], 0)
        first.standing = _standing("a")
    with pool.checkout(source, serves=lambda standing: standing.stream == "b") as other:
        assert other is not first
    with pool.checkout(source) as free:
        assert free is other
    with pool.checkout(source, serves=lambda standing: standing.stream == "a") as again:
        assert again is first
        assert again.standing is not None
        again.standing = None
    assert pool.size() == 2
    with pool.checkout(source, serves=lambda _: True) as restarted:
        assert restarted.standing is None


def test_not_too_many_contexts_stand_and_wait(gop2: tuple[Source, list[bytes]]) -> None:
    source, payloads = gop2
    pool = DecoderPool()
    for number in range(20):
        with pool.checkout(source) as decoder:
            assert decoder.standing is None
            decoder.feed(payloads[0], 0)
            decoder.standing = _standing(str(number))
    streams = [decoder.standing.stream for _, decoder in pool._own().contexts.values() if decoder.standing]
    assert streams == ["16", "17", "18", "19"]


def test_frames_that_follow_are_known() -> None:
    pool = DecoderPool()
    assert pool.follow("a", 0, 9) is None
    assert pool.follow("a", 10, 19) == 0
    assert pool.follow("b", 20, 29) is None
    pool.note_held_back("a", 2)
    pool.note_held_back("a", 1)
    pool.note_held_back("never read", 1)
    assert pool.follow("a", 22, 25) == 2
    assert pool.follow("a", 25, 30) is None
    assert pool.follow("a", 40, 41) is None
    assert pool.follow("a", 42, 42) == 2
    for number in range(100):
        pool.follow(number, 0, 0)
    assert pool.follow("a", 43, 43) is None
    assert len(pool._own().trails) <= 65
