"""What a loader asks of its workers: one batch at a time, with what follows it so that its bytes can be fetched early.

Pure: no process, no thread and no dataset.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """A batch to be read, and the one that the same worker will be asked for after it."""

    items: tuple[Any, ...]
    """What the sampler gave: `Window`s or ints."""
    ahead: tuple[Any, ...] = ()
    """The items of the next batch of the same worker; empty where there is none."""

    def __len__(self) -> int:
        return len(self.items)


def batches(items: Iterable[Any], batch_size: int, *, drop_last: bool) -> Iterator[tuple[Any, ...]]:
    """Items in runs of `batch_size`; a shorter last run is left out where `drop_last` says so."""
    source = iter(items)
    while run := tuple(itertools.islice(source, batch_size)):
        if len(run) == batch_size or not drop_last:
            yield run


def orders(runs: Iterable[tuple[Any, ...]], *, readers: int) -> Iterator[BatchOrder]:
    """Orders for batches that are dealt to `readers` in turn: batch b + readers goes where batch b went.

    Args:
        runs: The batches' items; drawn `readers` batches before they are given out.
        readers: Workers that take the batches in turn; 1 or more.
    """
    waiting: deque[tuple[Any, ...]] = deque()
    for run in runs:
        waiting.append(run)
        if len(waiting) > readers:
            yield BatchOrder(waiting.popleft(), waiting[readers - 1])
    while waiting:
        yield BatchOrder(waiting.popleft())


def batch_count(items: int, batch_size: int, *, drop_last: bool) -> int:
    """How many batches `items` make."""
    return items // batch_size if drop_last else -(-items // batch_size)
