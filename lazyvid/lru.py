"""`ProcessLRU`: the values last used in this process, safe to hold across a fork; below every room."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from lazyvid.process_lock import ProcessLock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ProcessLRU(Generic[K, V]):
    """A bounded least-recently-used cache. Thread-safe.

    A forked child keeps the values (they must be plain data, without handles) but not the lock, which another thread of
    the parent may have held at that moment.

    Args:
        capacity: The most values.
        nbytes: What a value holds, in bytes.
        max_bytes: The most that all values may hold together; the one used last stays whatever it holds.
    """

    def __init__(
        self, capacity: int, *, nbytes: Callable[[V], int] = lambda _value: 0, max_bytes: int = sys.maxsize
    ) -> None:
        self._capacity, self._nbytes, self._max_bytes = capacity, nbytes, max_bytes
        self._held = 0
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = ProcessLock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, made first where there is none; two threads may make it at once, then one's is kept."""
        with self._lock.here():
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock.here():
            if key not in self._values:
                self._held += self._nbytes(value)
            value = self._values.setdefault(key, value)
            self._values.move_to_end(key)
            while len(self._values) > self._capacity or (len(self._values) > 1 and self._held > self._max_bytes):
                self._held -= self._nbytes(self._values.popitem(last=False)[1])
        return value

    def peek(self, key: K) -> V | None:
        """The value of `key`, which counts as used; None where there is none."""
        with self._lock.here():
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def forget(self, key: K) -> None:
        """Drop the value of `key`, if there is one."""
        with self._lock.here():
            if key in self._values:
                self._held -= self._nbytes(self._values.pop(key))

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """What all values hold, in bytes."""
        return self._held
