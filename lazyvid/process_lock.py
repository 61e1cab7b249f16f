"""`ProcessLock`: a lock for objects that live on in forked children and travel in pickles; below every room."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager


class ProcessLock:
    """A lock between the threads of one process; open again in a forked child and in whoever receives a pickle.

    The thread that holds it may take it again. Another thread of the parent may hold it at the moment of a fork, and is
    not there to open it in the child.

        with lock.here():
            ...
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.RLock] = {}

    def here(self) -> AbstractContextManager[bool]:
        """This process's own, to be taken by a `with`.

        Were `__enter__` and `__exit__` written in Python, a Ctrl-C could come in their midst, and the lock be held for
        ever; those of the lock itself are not.
        """
        # `setdefault`: of two threads of a new child that come at once, both must get the same one.
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def __reduce__(self) -> tuple[type[ProcessLock], tuple[()]]:
        return type(self), ()
