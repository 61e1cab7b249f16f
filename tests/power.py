"""Every state that a loss of power can leave: what was synced is kept, and nothing else of what was written."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import pytest
from moments import Moment, Tree

T = TypeVar("T")
Inode = tuple[int, int]
Names = Literal["dropped", "kept"]
"""What becomes of names that no fsync of their folder followed. POSIX promises none of them; ext4 and others write
their journals soon, so that a name may be there whose contents are not."""

NAMES: tuple[Names, ...] = ("dropped", "kept")


@dataclass(frozen=True, slots=True)
class _Synced:
    """One fsync: what the file or the folder held when it was called."""

    inode: Inode
    contents: bytes | dict[str, Inode]
    step: str


@dataclass(frozen=True, slots=True)
class _Loss(Generic[T]):
    """The last instant before the next fsync ends."""

    synced: int
    """How many had ended."""
    names: dict[str, Inode]
    """By path, all that is there."""
    promise: T


@dataclass(slots=True)
class PowerLosses(Generic[T]):
    """What would be left of a folder if the power went, at every fsync of whoever writes there while `watched`.

    A file is what it was when its last fsync was *called*, or empty; a folder holds the names that it had then. The
    power goes as late as can be, just before the next fsync ends: then most is promised for the same state.

    Args:
        base: The folder; all that is in it at the beginning is on the disk.
        promise: Says what has been promised so far.
    """

    base: Path
    promise: Callable[[], T]
    slowest_s: float = 0.0
    """The longest that an fsync took, with what is noted of it."""
    _events: list[_Synced] = field(default_factory=list)
    _losses: list[_Loss[T]] = field(default_factory=list)
    _held: dict[Inode, int] = field(default_factory=dict)
    _folders: set[Inode] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __len__(self) -> int:
        return len(self._losses)

    def moments(self, names: Names) -> list[Moment[T]]:
        """The states, each with what must be found in it."""
        return [Moment(self._tree(loss, names), loss.promise, self._step(loss, names)) for loss in self._losses]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of every fsync inside the block."""
        real = os.fsync

        def noted(descriptor: Any) -> None:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            path = os.readlink(f"/proc/self/fd/{number}")
            if not (path + "/").startswith(f"{self.base}/"):
                real(number)
                return
            with self._lock:  # one after the other, as a disk does it
                began = time.monotonic()
                event = self._seen(number, path)
                self._losses.append(self._loss())
                real(number)
                self._events.append(event)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)

        for path in [self.base, *self.base.rglob("*")]:
            descriptor = os.open(path, os.O_RDONLY)
            self._events.append(self._seen(descriptor, str(path)))
            os.close(descriptor)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", noted)
            yield
            with self._lock:
                self._losses.append(self._loss())
        for descriptor in self._held.values():
            os.close(descriptor)

    # -- what is there ------------------------------------------------------------------------------------------------

    def _seen(self, descriptor: int, path: str) -> _Synced:
        inode = self._inode(os.fstat(descriptor))
        step = f"fsync {len(self._events)} of {path.removeprefix(str(self.base))}"
        self._hold(f"/proc/self/fd/{descriptor}", inode)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            self._folders.add(inode)
            return _Synced(inode, dict(self._entries(f"/proc/self/fd/{descriptor}")), step)
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:
            return _Synced(inode, file.read(), step)

    def _loss(self) -> _Loss[T]:
        names: dict[str, Inode] = {}
        folders = [(str(self.base), "")]
        while folders:
            folder, below = folders.pop()
            for name, child in self._entries(folder):
                names[below + name] = child
                if child in self._folders:
                    folders.append((f"{folder}/{name}", f"{below}{name}/"))
        return _Loss(len(self._events), names, self.promise())

    def _entries(self, folder: str) -> list[tuple[str, Inode]]:
        found = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(folder)):
                with contextlib.suppress(FileNotFoundError):
                    inode = self._inode(os.lstat(f"{folder}/{name}"))
                    if os.path.isdir(f"{folder}/{name}"):
                        self._folders.add(inode)
                    self._hold(f"{folder}/{name}", inode)
                    found.append((name, inode))
        return found

    def _inode(self, facts: os.stat_result) -> Inode:
        return facts.st_dev, facts.st_ino

    def _hold(self, path: str, inode: Inode) -> None:
        """Keep the inode, so that no later file gets its number."""
        if inode not in self._held:
            with contextlib.suppress(FileNotFoundError):
                self._held[inode] = os.open(path, os.O_PATH)

    # -- what is left -------------------------------------------------------------------------------------------------

    def _tree(self, loss: _Loss[T], names: Names) -> Tree:
        last = {event.inode: event.contents for event in self._events[: loss.synced]}
        if names == "kept":
            found = loss.names
        else:
            found = {}
            folders = [(self._events[0].inode, "")]
            while folders:
                inode, below = folders.pop()
                entries = last.get(inode, {})
                for name, child in entries.items() if isinstance(entries, dict) else ():
                    found[below + name] = child
                    if child in self._folders:
                        folders.append((child, f"{below}{name}/"))
        tree: Tree = {}
        for name, inode in sorted(found.items()):
            contents = last.get(inode, b"")
            tree[name] = None if inode in self._folders else contents if isinstance(contents, bytes) else b""
        return tree

    def _step(self, loss: _Loss[T], names: Names) -> str:
        return f"names {names}: {self._events[loss.synced - 1].step}"


class Lateness:
    """How late a thread is that wants to wake up now and then, as the threads that sync do: this machine's share."""

    def __init__(self, every_s: float) -> None:
        self.worst_s = 0.0
        self._every_s = every_s
        self._over = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look inside the block."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    @property
    def slack_s(self) -> float:
        """How much later than planned another thread may have come to do something."""
        return 0.3 + 3 * self.worst_s

    def _look(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self._over.wait(self._every_s)
            self.worst_s = max(self.worst_s, time.monotonic() - began - self._every_s)
