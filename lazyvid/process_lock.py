"""`ProcessLock`: a lock for objects that live on in forked children and travel in pickles; below every room."""

from __future__ import annotations

import os
import threading
from types import TracebackType


class ProcessLock:
    """A lock between the threads of one process; open again in a forked child and in whoever receives a pickle.

    The thread that holds it may take it again. Another thread of the parent may hold it at the moment of a fork, and is
    not there to open it in the child.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.RLock] = {}

    def __enter__(self) -> None:
        # `setdefault`: of two threads of a new child that come at once, both must get the same one.
        self._locks.setdefault(os.getpid(), threading.RLock()).acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._locks[os.getpid()].release()

    def __reduce__(self) -> tuple[type[ProcessLock], tuple[()]]:
        return type(self), ()
