"""Work on many items at once that a Ctrl-C ends at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lazyvid.waiting import take

Item = TypeVar("Item")
Result = TypeVar("Result")


def each_as_done(work: Callable[[Item], Result], items: Sequence[Item], *, jobs: int) -> Iterator[tuple[Item, Result]]:
    """Do work on items in threads and give results as they come.

    The threads are daemons and not those of a `ThreadPoolExecutor`, which the interpreter would wait for when it ends:
    whoever stops taking results does not wait for those under way.

    Args:
        work: Called with each item.
        items: What to work on.
        jobs: Threads.

    Raises:
        Exception: what `work` raised first; no further item is begun then.
    """
    todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Item, Result | None, Exception | None]] = queue.SimpleQueue()
    stopped = threading.Event()
    for item in items:
        todo.put(item)

    def body() -> None:
        while not stopped.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((item, work(item), None))
            except Exception as error:
                # Raised again where the results are taken.
                done.put((item, None, error))

    try:
        for _ in range(min(jobs, len(items))):
            threading.Thread(target=body, name="lazyvid-job", daemon=True).start()
        for _ in items:
            item, result, error = take(done)
            if error is not None:
                raise error
            yield item, result  # type: ignore[misc]  # without an error there is a result
    finally:
        stopped.set()
