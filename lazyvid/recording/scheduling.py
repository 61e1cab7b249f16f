"""Keeps an encoder's library from taking the machine over: what it does to threads' scheduling is undone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_THREADS = Path("/proc/self/task")


@contextlib.contextmanager
def kept_scheduling() -> Iterator[None]:
    """Run a block, then give this thread and those begun in it the scheduling that this thread had before.

    SVT-AV1, opened by root as in most containers, makes its threads and the one that opens it SCHED_FIFO with priority
    99 (`svt_create_thread` in its svt_threads.c). They then run before everything else on the machine, the camera loop
    included, and every process started later inherits it: with two cores a spinning child stops the rest.
    """
    if not hasattr(os, "sched_getscheduler"):  # only where the system has such policies
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    before = _threads()
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in (0, *(_threads() - before)):
                with contextlib.suppress(ProcessLookupError):  # it has ended since
                    os.sched_setscheduler(thread, policy, priority)


def _threads() -> set[int]:
    return {int(thread.name) for thread in _THREADS.iterdir()} if _THREADS.is_dir() else set()
