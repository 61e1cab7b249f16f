"""`PendingRead`: byte ranges that are on their way while their reader does something else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NoReturn

from lazyvid.storage import local
from lazyvid.storage.objects import ObjectMeta
from lazyvid.storage.process import wait_for
from lazyvid.storage.ranges import MergePlan


@dataclass(frozen=True, slots=True)
class PlannedRead:
    """One object's ranges, merged into spans."""

    uri: str
    """Resolved: an absolute path, or a URL."""
    plan: MergePlan
    pin: ObjectMeta | None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that reading it takes."""
        return self.plan.held_bytes

    @property
    def is_local(self) -> bool:
        """Whether the object is a file of this machine."""
        return self.uri.startswith("/")


class PendingRead:
    """Ranges of several objects; made by `ObjectStore.begin_many`.

    Belongs to the process that began it: it neither travels in a pickle nor answers in a forked child. Local files are
    read by `result`.
    """

    def __init__(
        self, reads: Sequence[PlannedRead], remote: Future[list[bytes]] | None, *, timeout_s: float | None
    ) -> None:
        """Takes over a read that was begun.

        Args:
            reads: What is read, local and remote objects mixed.
            remote: Gives the bytes of each span of the remote ones, in order; None where there are none.
            timeout_s: The longest that `result` waits.
        """
        self._reads = reads
        self._remote = remote
        self._timeout_s = timeout_s
        self._pid = os.getpid()

    def result(self) -> list[list[bytes]]:
        """Wait for the bytes.

        Returns:
            For each request, the bytes of each of its ranges.

        Raises:
            StoreError: as `ObjectStore.read_ranges`.
            concurrent.futures.CancelledError: if it was cancelled.
            RuntimeError: in a process that did not begin it.
        """
        if self._pid != os.getpid():
            raise RuntimeError("A read that was begun in another process cannot end in this one: begin it here.")
        bodies = wait_for(self._remote, timeout_s=self._timeout_s) if self._remote is not None else []
        spans = iter(bodies)
        return [
            read.plan.cut(
                local.read_spans(read.uri, read.plan.spans, pin=read.pin)
                if read.is_local
                else [next(spans) for _ in read.plan.spans]
            )
            for read in self._reads
        ]

    def cancel(self) -> None:
        """Give the read up: connections that are in use for it are closed, bytes that came are dropped."""
        if self._remote is not None and self._pid == os.getpid():
            self._remote.cancel()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A pending read belongs to its process and cannot be pickled: send what it reads instead.")
