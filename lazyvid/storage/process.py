"""What a process holds open for its stores: one I/O thread with an event loop, and the handles; made anew after a fork.

A forked child inherits the parent's objects but not the thread that serves them, and shares the parent's sockets and
its epoll instance. So a child never uses, closes or even collects them: they are kept alive, untouched, and left alone.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from lazyvid.errors import StoreError, StoreTimeoutError
from lazyvid.waiting import done_within

T = TypeVar("T")

_CLOSING_S = 2.0


class Closable(Protocol):
    """A handle that lives on the I/O thread's event loop."""

    async def close(self) -> None:
        """Close what is open."""


class ProcessIO:
    """The I/O thread and the open handles of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._handles: dict[Hashable, Any] = {}

    def handle(self, key: Hashable, make: Callable[[], T]) -> T:
        """The handle known as `key`, made on its first use in this process."""
        found: T | None = self._handles.get(key)
        if found is not None:
            return found
        with self._lock:
            if key not in self._handles:
                self._handles[key] = make()
            made: T = self._handles[key]
            return made

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the I/O thread; `wait_for` gives what it returns, the future's `cancel` ends it."""
        return asyncio.run_coroutine_threadsafe(work, self._running_loop())

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None:
            return self._loop
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="lazyvid-io", daemon=True)
                self._thread.start()
                self._loop = loop
                atexit.register(self.close)
            return self._loop

    def close(self) -> None:
        """Close every handle and end the thread; called when the process exits. Does nothing in a forked child."""
        if self.pid != os.getpid() or self._loop is None or self._thread is None:
            return
        with self._lock:
            loop, thread, handles = self._loop, self._thread, list(self._handles.values())
            self._loop = self._thread = None
            self._handles = {}
        with contextlib.suppress(Exception):  # at exit there is nobody left to tell
            asyncio.run_coroutine_threadsafe(_close_all(handles), loop).result(_CLOSING_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSING_S)
        if not thread.is_alive():
            loop.close()


def wait_for(future: Future[T], *, timeout_s: float | None) -> T:
    """What a coroutine returns that `ProcessIO.begin` started.

    Args:
        future: it is cancelled when the wait ends early, by the time limit or by Ctrl-C.
        timeout_s: seconds; None waits as long as it takes.

    Raises:
        StoreTimeoutError: if it did not end in time.
    """
    try:
        done_within(future, timeout_s)
        return future.result(0)
    except StoreError:
        raise
    except TimeoutError as error:
        future.cancel()
        raise StoreTimeoutError(f"The store did not answer within {timeout_s} s. Check the network.") from error
    except BaseException:
        future.cancel()
        raise


async def _close_all(handles: list[Closable]) -> None:
    current = asyncio.current_task()
    running = [task for task in asyncio.all_tasks() if task is not current]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, *(handle.close() for handle in handles), return_exceptions=True)
    await asyncio.sleep(0)  # closed transports report it in the loop's next turn


class _PerProcess:
    """Gives each process its own `ProcessIO`."""

    def __init__(self) -> None:
        self._current: ProcessIO | None = None

    def get(self) -> ProcessIO:
        current = self._current
        if current is not None and current.pid == os.getpid():
            return current
        if current is not None:
            # Without this reference the child would collect the parent's transports, which unregisters the parent's
            # sockets from the epoll instance that both share.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(current))
        # No lock: one inherited from the parent might be held forever. Two threads that race here make one too many.
        fresh = ProcessIO()
        if self._current is current:
            self._current = fresh
        made = self._current
        return made if made is not None else fresh


_per_process = _PerProcess()


def process_io() -> ProcessIO:
    """The I/O thread and handles of the calling process."""
    return _per_process.get()
