"""Ordered batches read in this process: one after the other, or by threads, which share memory and need no copies.

FFmpeg and the store work outside Python's lock, so threads decode side by side; transforms written in Python do not.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from lazyvid.errors import LoaderTimeoutError
from lazyvid.training.daemons import DaemonPool
from lazyvid.training.orders import BatchOrder
from lazyvid.training.stream import ClipStream
from lazyvid.training.worker import BatchReader
from lazyvid.waiting import done_within


class Inline:
    """Reads each batch when it is asked for, in the thread that asks."""

    readers = 1

    def __init__(self, reader: BatchReader) -> None:
        self._reader = reader

    def read(self, orders: Iterable[BatchOrder]) -> Iterator[Any]:
        """The batches, in the order of their orders."""
        with self._reader.announcing():
            for order in orders:
                yield self._reader[order]

    def close(self) -> None:
        """Nothing is kept."""


class InlineStream:
    """Reads a stream in the thread that asks; it fetches ahead by itself."""

    readers = 1

    def __init__(self, stream: ClipStream) -> None:
        self._stream = stream

    def read(self, orders: Iterable[BatchOrder]) -> Iterator[Any]:  # noqa: ARG002 - the stream knows what to read
        """The stream's batches."""
        return iter(self._stream)

    def close(self) -> None:
        """Nothing is kept."""


class WorkerThreads:
    """Reads ordered batches in threads of this process, some batches ahead of the trainer.

    Args:
        reader: Reads a batch; called from several threads at once.
        num_threads: Threads, and so batches that are decoded at a time.
        prefetch_factor: Batches that are read ahead for each thread.
        timeout_s: Seconds that a batch may take; None waits as long as it takes.
    """

    def __init__(self, reader: BatchReader, *, num_threads: int, prefetch_factor: int, timeout_s: float | None) -> None:
        self._reader = reader
        self._ahead = num_threads * prefetch_factor
        self._timeout_s = timeout_s
        self.readers = num_threads
        self._pool: DaemonPool | None = None
        self._pid = os.getpid()

    def read(self, orders: Iterable[BatchOrder]) -> Iterator[Any]:
        """The batches, in the order of their orders.

        Raises:
            LoaderTimeoutError: if a batch took longer than `timeout_s`.
            Exception: what was raised while a batch was read.
        """
        pool = self._running()
        waiting: deque[Future[Any]] = deque()
        number = 0
        with self._reader.announcing(), _cancelling(waiting):
            for order in orders:
                waiting.append(pool.submit(self._reader.__getitem__, order))
                if len(waiting) > self._ahead:
                    yield self._result(waiting.popleft(), number)
                    number += 1
            while waiting:
                yield self._result(waiting.popleft(), number)
                number += 1

    def _result(self, future: Future[Any], number: int) -> Any:
        if done_within(future, self._timeout_s):
            return future.result()
        self.close()
        raise LoaderTimeoutError(
            f"Expected batch {number} within {self._timeout_s} s (timeout_s), got none of {self.readers} threads. "
            "Look for a transform or a file system that hangs, or raise timeout_s."
        )

    def _running(self) -> DaemonPool:
        if self._pool is None or self._pid != os.getpid():  # threads do not survive a fork
            self._pid = os.getpid()
            self._pool = DaemonPool(self.readers, name="lazyvid-reader")
        return self._pool

    def close(self) -> None:
        """End the threads, once they have done what they are doing; the next `read` starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.close()


@contextlib.contextmanager
def _cancelling(waiting: Iterable[Future[Any]]) -> Iterator[None]:
    """Give up what was not begun when the pass ends early."""
    try:
        yield
    finally:
        for future in waiting:
            future.cancel()
