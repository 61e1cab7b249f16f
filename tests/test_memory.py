"""Warm memory for batches: used again only when nothing refers to it, bounded, and never shared by two tensors."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lazyvid.memory import BatchMemory

MIB = 1 << 20
SHAPE = (6, 1000, 1000)


def memory(**bounds: int) -> BatchMemory:
    return BatchMemory(**{"least": MIB, **bounds})


@pytest.mark.parametrize("shape", [SHAPE, (3, 5), (0, 4), ()], ids=["large", "small", "empty", "scalar"])
def test_a_tensor_has_its_shape_and_is_aligned(shape: tuple[int, ...]) -> None:
    tensor = memory().empty(shape)
    assert tensor.shape == shape
    assert tensor.dtype == torch.uint8
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % 64 == 0 or not tensor.numel()


def test_what_was_dropped_is_used_again() -> None:
    own = memory()
    place = own.empty(SHAPE).data_ptr()
    assert own.idle_bytes >= 6_000_000
    assert own.empty((1000, 6, 990)).data_ptr() == place, "a little smaller"
    own.empty(SHAPE)
    again = own.empty(SHAPE)
    assert again.data_ptr() == place
    assert own.idle_bytes == 0


def test_smaller_tensors_are_left_to_torch() -> None:
    own = memory()
    own.empty((MIB - 1,))
    assert own.idle_bytes == 0


def test_much_too_large_memory_is_left_for_others() -> None:
    own = memory()
    own.empty((40 * MIB,))
    idle = own.idle_bytes
    kept = own.empty((20 * MIB,))
    assert own.idle_bytes == idle
    assert kept.numel() == 20 * MIB


def _in_a_cycle(tensor: Tensor) -> list[Any]:
    held: list[Any] = [tensor]
    held.append(held)
    return held


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda tensor: tensor,
    "view": lambda tensor: tensor[1, :5],
    "permuted": lambda tensor: tensor.permute(2, 0, 1)[3],
    "storage": lambda tensor: tensor.untyped_storage(),
    "array": lambda tensor: tensor.numpy(),
    "view of the array": lambda tensor: tensor.numpy()[2:, ::7],
    "buffer": lambda tensor: tensor.numpy().data,
    "detached": lambda tensor: tensor.detach(),
    "dlpack": lambda tensor: np.from_dlpack(tensor),
    "from the array": lambda tensor: torch.from_numpy(tensor.numpy()[1:]),
    "cycle": _in_a_cycle,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_nothing_is_used_again_while_anything_refers_to_it(holder: str) -> None:
    own = memory()
    tensor = own.empty(SHAPE)
    place = tensor.data_ptr()
    held = HOLDERS[holder](tensor)
    del tensor
    gc.collect()
    assert own.idle_bytes == 0
    other = own.empty(SHAPE)
    assert abs(other.data_ptr() - place) >= 6_000_000
    del held
    gc.collect()
    assert own.idle_bytes >= 6_000_000


def test_a_tensor_that_moves_to_shared_memory_gives_its_own_back() -> None:
    own = memory()
    tensor = own.empty(SHAPE).fill_(7)
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    assert own.idle_bytes >= 6_000_000
    own.empty(SHAPE).fill_(9)
    assert bool((tensor == 7).all())


def test_a_pickled_tensor_is_a_copy() -> None:
    own = memory()
    there = pickle.loads(pickle.dumps(own.empty(SHAPE).fill_(3)))
    own.empty(SHAPE).fill_(4)
    assert bool((there == 3).all())


@given(
    max_idle=st.integers(0, 24 * MIB),
    steps=st.lists(st.tuples(st.integers(MIB, 9 * MIB), st.booleans(), st.integers(0, 5)), max_size=30),
)
def test_live_tensors_never_meet_and_idle_memory_is_bounded(max_idle: int, steps: list[tuple[int, bool, int]]) -> None:
    own = memory(max_idle=max_idle)
    live: list[Tensor] = []
    for nbytes, drop, which in steps:
        live.append(own.empty((nbytes,)))
        if drop:
            del live[which % len(live)]
        assert own.idle_bytes <= max_idle
        spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.numel()) for tensor in live)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


def test_what_comes_back_waits_for_no_lock_and_is_bounded() -> None:
    """A finalizer runs wherever the last reference goes, also where the lock is held."""
    own = memory(max_idle=16 * MIB)
    lent = [own.empty((6 * MIB,)) for _ in range(8)]
    with own._idle.lock:
        lent.clear()
        assert 8 * MIB < own._idle.nbytes <= 16 * MIB
    assert own.idle_bytes <= 16 * MIB


def test_memory_of_a_new_size_takes_the_place_of_the_oldest() -> None:
    own = memory(max_idle=16 * MIB)
    pair = [own.empty((6 * MIB,)) for _ in range(2)]
    pair.clear()
    place = own.empty((11 * MIB,)).data_ptr()
    assert own.empty((11 * MIB,)).data_ptr() == place


def test_threads_never_share_memory() -> None:
    own = memory(max_idle=64 * MIB)
    start = threading.Barrier(8)

    def work(number: int) -> int:
        start.wait()
        wrong = 0
        for turn in range(60):
            value = (8 * turn + number) % 251
            tensor = own.empty((MIB + 4096 * (turn % 3),)).fill_(value)
            wrong += int((tensor != value).sum())
        return wrong

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(work, range(8))) == [0] * 8


def test_memory_that_comes_back_while_the_lock_is_held_is_kept_later() -> None:
    own = memory()
    tensor = own.empty(SHAPE)
    with own._idle.lock:  # as when the garbage collector runs in the middle of `empty`
        del tensor
    assert own.idle_bytes >= 6_000_000


def _in_child(own: BatchMemory, tensor: Tensor, results: Any) -> None:
    found = [own.idle_bytes, int(tensor[0, 0, 0])]
    mine = own.empty(SHAPE).numpy()  # torch's threads do not survive a fork
    mine.fill(8)
    del tensor  # the parent's memory: it is not this process's to give out
    results.put([*found, own.idle_bytes, int(mine.max())])


def test_a_forked_child_starts_with_nothing() -> None:
    own = memory()
    tensor = own.empty(SHAPE).fill_(5)
    own.empty(SHAPE)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    own._idle.lock.acquire()  # another thread of the parent may hold it at that moment
    child = context.Process(target=_in_child, args=(own, tensor, results))
    child.start()
    own._idle.lock.release()
    child.join(30)
    assert child.exitcode == 0
    assert results.get() == [0, 5, 0, 8]
    assert bool((tensor == 5).all())


@pytest.mark.parametrize("bounds", [{"least": 0}, {"max_idle": -1}])
def test_impossible_bounds_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Expected least >= 1 and max_idle >= 0"):
        BatchMemory(**bounds)
