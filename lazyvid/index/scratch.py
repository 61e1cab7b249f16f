"""Scratch folders for Lance: removed when they are done with, or, where their process was killed, by the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_YOUNG_S = 5.0
"""A folder this young may still be without the lock that says that it is in use."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder that only this user can look into; gone afterwards.

    A lock on the folder says that it is in use. The system frees the lock of a process that ends, however it ends, and
    the next process that needs a folder removes what has none.
    """
    parent = Path(tempfile.gettempdir()) / f"lazyvid-scratch-{os.getuid()}"
    parent.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed under a long-lived process
    parent.mkdir(mode=0o700, exist_ok=True)
    facts = parent.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():  # laid there by another user
        with tempfile.TemporaryDirectory(prefix="lazyvid-") as own:
            yield Path(own)
        return
    _sweep(parent)
    with tempfile.TemporaryDirectory(dir=parent) as folder, _held(Path(folder)):
        yield Path(folder)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock; gives whether it was free."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a file system without locks
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in parent.iterdir():
        with contextlib.suppress(OSError):  # another process is quicker
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            with _held(folder) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)
