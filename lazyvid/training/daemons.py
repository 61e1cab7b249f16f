"""Threads for work whose end nobody has to wait for, whatever it hangs on: neither a caller nor the interpreter."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

_AT_EXIT_S = 10.0
"""How long the interpreter waits, when it ends, for what is under way: native code may crash if it is cut off."""

_Job = tuple["Future[Any]", Callable[[Any], Any], Any]
_Todo = queue.SimpleQueue["_Job | None"]


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Crew:
    """The threads of a pool; held by each of them, and so there as long as one runs."""

    threads: list[threading.Thread] = field(default_factory=list)


class DaemonPool:
    """Calls functions in threads. Unlike those of a `ThreadPoolExecutor` they are daemons: one that hangs stops nobody.

    Args:
        count: Threads.
        name: What they are called.
    """

    def __init__(self, count: int, *, name: str) -> None:
        todo: _Todo = queue.SimpleQueue()
        crew = _Crew()
        self._todo = todo
        self._dismiss = weakref.finalize(self, _dismiss, todo, count)
        self._dismiss.atexit = False
        weakref.finalize(crew, _end, todo, crew.threads)
        for number in range(count):
            thread = threading.Thread(target=_work, args=(todo, crew), name=f"{name}_{number}", daemon=True)
            crew.threads.append(thread)
            thread.start()

    def submit(self, work: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Have `work(argument)` called, after what was submitted before."""
        future: Future[Any] = Future()
        self._todo.put((future, work, argument))
        return future

    def close(self) -> None:
        """Cancel what was not begun; each thread ends when it has done what it is doing. Does not wait."""
        self._dismiss()


def _work(todo: _Todo, crew: _Crew) -> None:  # noqa: ARG001 - held
    while (job := todo.get()) is not None:
        _do(*job)
        del job  # nothing of it is held while the next one is waited for


def _do(future: Future[Any], work: Callable[[Any], Any], argument: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work(argument)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _dismiss(todo: _Todo, count: int) -> None:
    with contextlib.suppress(queue.Empty):
        while (job := todo.get_nowait()) is not None:
            job[0].cancel()
    for _ in range(count):
        todo.put(None)


def _end(todo: _Todo, threads: list[threading.Thread]) -> None:
    """Let what is under way come to its end, if it does so soon; as the interpreter ends, or in the last of them."""
    _dismiss(todo, len(threads))
    deadline = time.monotonic() + _AT_EXIT_S
    for thread in threads:
        if thread is not threading.current_thread() and thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
