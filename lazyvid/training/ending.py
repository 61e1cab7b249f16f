"""The end of a loader's workers by torch's own means, which wait without limit for locks; used by `processes.py`.

An interrupt in the midst of a queue's `put`, or a worker killed while it held a semaphore, leaves one taken.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from lazyvid.waiting import take

_ENDING_S = 15.0


def ends_in_time(end: Callable[[], None]) -> bool:
    """Call torch's `end` in a thread, as it may wait for ever; whether it came back.

    Raises:
        Exception: what it raised.
    """
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def body() -> None:
        try:
            end()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=body, name="lazyvid-end-workers", daemon=True).start()
    try:
        failure = take(ended, timeout_s=_ENDING_S)
    except queue.Empty:
        return False
    if failure is not None:
        raise failure
    return True


def forget_queues(batches: Any) -> None:
    """Let this process end although the queues to its workers can no longer be closed.

    Args:
        batches: torch's iterator.
    """
    for orders in getattr(batches, "_index_queues", ()):
        orders.cancel_join_thread()
        for finalizer in (orders._close, orders._jointhread):
            if finalizer is not None:
                finalizer.cancel()
