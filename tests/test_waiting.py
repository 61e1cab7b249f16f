"""Waits end when there is something, when their time is over, and by an interrupt."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from lazyvid import waiting
from lazyvid.waiting import done_within, take


@pytest.mark.parametrize("end", ["result", "error", "its own TimeoutError", "cancelled"])
def test_a_future_is_waited_for_whatever_comes_of_it(end: str) -> None:
    future: Future[Any] = Future()
    ends = {
        "result": lambda: future.set_result(1),
        "error": lambda: future.set_exception(ValueError("no")),
        "its own TimeoutError": lambda: future.set_exception(TimeoutError("its own")),
        "cancelled": lambda: future.cancel(),
    }
    timer = threading.Timer(0.3, ends[end])  # after it looked up once
    timer.start()
    assert done_within(future, None)
    timer.join()
    assert done_within(future, 0.0)


def test_time_may_be_over_first() -> None:
    assert not done_within(Future(), 0.01)
    assert not done_within(Future(), 0.0)
    with pytest.raises(queue.Empty):
        take(queue.SimpleQueue(), timeout_s=0.01)


def test_an_item_is_waited_for() -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    timer = threading.Timer(0.3, items.put, [7])
    timer.start()
    assert take(items) == 7
    timer.join()


def test_an_interrupt_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that did not wake the thread: it is seen when the thread looks up."""

    class Interrupted(Future[Any]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            assert timeout is not None
            assert timeout <= waiting.LOOK_UP_S
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done_within(Interrupted(), None)
