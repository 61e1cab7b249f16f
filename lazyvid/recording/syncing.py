"""Brings the files of a recording to the disk now and then, beside the threads that write them.

Part of the write flow: an fsync may take a second on a busy disk, which is more than a camera's queue holds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

_log = logging.getLogger(__name__)


class Syncable(Protocol):
    """What is written by another thread."""

    def sync(self) -> None:
        """Bring what is written so far to the disk. Raises OSError; who writes has to hear of that, too."""


class SyncingThread(threading.Thread):
    """Calls `sync` on each of them until it is stopped, so that what is written is on the disk so many seconds later.

    Args:
        written: What writes.
        every_s: Seconds; kept as long as the disk takes less than half of them.
    """

    def __init__(self, written: Sequence[Syncable], *, every_s: float) -> None:
        super().__init__(name="lazyvid-sync", daemon=True)
        self._written = written
        self._every_s = every_s
        self._stopped = threading.Event()

    def run(self) -> None:
        """Sync until stopped; belongs to `threading.Thread`."""
        wait_s = self._every_s / 2
        while not self._stopped.wait(wait_s):
            began = time.monotonic()
            for each in self._written:
                self._sync(each)
            # A frame that comes just after a sync began is on the disk when the next one has ended.
            wait_s = max(self._every_s - 2 * (time.monotonic() - began), self._every_s / 4)

    def stop(self) -> None:
        """End soon; a sync that is going on is not waited for."""
        self._stopped.set()

    def _sync(self, each: Syncable) -> None:
        try:
            each.sync()
        except OSError as error:
            _log.warning("A recording could not be brought to the disk: %s.", error)  # who writes it raises that
