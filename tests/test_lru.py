"""The per-process cache: bounds, order of use, threads and forks."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.lru import ProcessLRU


def test_a_value_is_made_once() -> None:
    cache: ProcessLRU[str, list[int]] = ProcessLRU(2)
    first = cache.get("a", lambda: [1])
    assert cache.get("a", lambda: pytest.fail("made again")) is first


@given(capacity=st.integers(1, 4), keys=st.lists(st.integers(0, 6), max_size=40))
def test_it_keeps_the_values_used_last(capacity: int, keys: list[int]) -> None:
    cache: ProcessLRU[int, int] = ProcessLRU(capacity)
    kept: list[int] = []  # least recently used first
    for key in keys:
        made = []
        assert cache.get(key, lambda key=key, made=made: made.append(key) or 10 * key) == 10 * key
        assert bool(made) == (key not in kept)
        kept = [*(k for k in kept if k != key), key][-capacity:]
        assert len(cache) == len(kept)


@given(max_bytes=st.integers(1, 40), sizes=st.lists(st.integers(0, 20), max_size=40))
def test_it_keeps_no_more_bytes_than_it_may(max_bytes: int, sizes: list[int]) -> None:
    cache: ProcessLRU[int, bytes] = ProcessLRU(4, nbytes=len, max_bytes=max_bytes)
    for number, size in enumerate(sizes):
        key = number % 7
        if key == 6:
            cache.forget(number % 5)
        value = cache.get(key, lambda size=size: bytes(size))
        held = [len(kept) for k in range(7) if (kept := cache._values.get(k)) is not None]
        assert cache.nbytes == sum(held)
        assert cache.nbytes <= max_bytes or held == [len(value)], "the one used last stays"


def test_a_forgotten_value_is_made_again() -> None:
    cache: ProcessLRU[str, int] = ProcessLRU(2)
    cache.get("a", lambda: 1)
    cache.forget("a")
    cache.forget("never there")
    assert cache.get("a", lambda: 2) == 2


def test_an_error_while_making_leaves_nothing_behind() -> None:
    cache: ProcessLRU[str, float] = ProcessLRU(2)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)
    assert len(cache) == 0
    assert cache.get("a", lambda: 2.0) == 2.0


def test_threads_that_make_the_same_value_at_once_all_get_one() -> None:
    cache: ProcessLRU[str, object] = ProcessLRU(2)
    barrier = threading.Barrier(4)

    def make() -> object:
        barrier.wait(timeout=240)  # all four are making before one is kept
        return object()

    with ThreadPoolExecutor(4) as executor:
        values = [f.result(timeout=240) for f in [executor.submit(cache.get, "a", make) for _ in range(4)]]
    assert len({id(value) for value in values}) == 1


def test_a_child_forked_while_the_lock_is_held_keeps_the_values() -> None:
    cache: ProcessLRU[str, int] = ProcessLRU(2)
    cache.get("a", lambda: 1)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with cache._lock.here():
        child = context.Process(target=lambda: sender.send((cache.get("a", lambda: -1), cache.get("b", lambda: 2))))
        child.start()
    assert receiver.poll(240), "the child hangs on the parent's lock"
    assert receiver.recv() == (1, 2)
    child.join(240)
    assert len(cache) == 1
