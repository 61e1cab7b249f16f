"""`Prefetched`: batches of this process whose bytes are on their way until somebody asks for them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from lazyvid.process_lock import ProcessLock


class Pending(Protocol):
    """What is on its way."""

    def cancel(self) -> None:
        """Give up what has not arrived."""


P = TypeVar("P", bound=Pending)


class Prefetched(Generic[P]):
    """Pending batches by what was asked for; at most a few, the oldest gives way. Thread-safe.

    Whoever receives a pickle, and a forked child, begins with none: what is pending belongs to its process.
    """

    def __init__(self, capacity: int = 16) -> None:
        self._capacity = capacity
        self._lock = ProcessLock()
        self._pid = os.getpid()
        self._pending: OrderedDict[Hashable, P] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._capacity,)

    def add(self, key: Hashable, begin: Callable[[], P]) -> None:
        """Begin a batch, unless it has begun."""
        if self._has(key):
            return
        begun = begin()  # takes its time, in which others may begin and ask for theirs
        with self._lock.here():
            self._forget_others()
            dropped = [begun] if self._pending.setdefault(key, begun) is not begun else []
            dropped += [self._pending.popitem(last=False)[1] for _ in range(len(self._pending) - self._capacity)]
        for pending in dropped:
            pending.cancel()

    def _has(self, key: Hashable) -> bool:
        with self._lock.here():
            self._forget_others()
            return key in self._pending

    def pop(self, key: Hashable) -> P | None:
        """The batch that was begun, which is then no longer kept here; None where there is none."""
        with self._lock.here():
            self._forget_others()
            return self._pending.pop(key, None)

    def clear(self) -> None:
        """Give up what nobody will ask for any more."""
        with self._lock.here():
            self._forget_others()
            dropped, self._pending = list(self._pending.values()), OrderedDict()
        for pending in dropped:
            pending.cancel()

    def __len__(self) -> int:
        with self._lock.here():
            self._forget_others()
            return len(self._pending)

    def _forget_others(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._pending = os.getpid(), OrderedDict()
