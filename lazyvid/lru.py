"""`ProcessLRU`: the values last used in this process, safe to hold across a fork; below every room."""

from __future__ import annotations

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
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = ProcessLock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, made first where there is none; two threads may make it at once, then one's is kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            value = self._values.setdefault(key, value)
            self._values.move_to_end(key)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
        return value

    def peek(self, key: K) -> V | None:
        """The value of `key`, which counts as used; None where there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def forget(self, key: K) -> None:
        """Drop the value of `key`, if there is one."""
        with self._lock:
            self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)
