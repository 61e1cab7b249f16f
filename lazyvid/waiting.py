"""Waits that a Ctrl-C ends: one that comes just before a thread blocks does not wake it, so it looks up now and then.

Below every room.
"""

from __future__ import annotations

import contextlib
import math
import queue
import time
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_UP_S = 0.2
"""How long a thread blocks before it looks up."""


def done_within(future: Future[Any], timeout_s: float | None) -> bool:
    """Wait for a future, whatever comes of it.

    Args:
        future: What is waited for.
        timeout_s: Seconds; None waits as long as it takes.

    Returns:
        Whether it is done.
    """
    end = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while not future.done() and (left := end - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError, CancelledError):
            future.exception(min(LOOK_UP_S, left))
    return future.done()


def take(items: queue.SimpleQueue[T], *, timeout_s: float | None = None) -> T:
    """The next item of a queue.

    Args:
        items: The queue; one in C, none of whose locks an interrupt leaves taken.
        timeout_s: Seconds; None waits as long as it takes.

    Raises:
        queue.Empty: if none came in time.
    """
    end = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=min(LOOK_UP_S, left))
    raise queue.Empty
