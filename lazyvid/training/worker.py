"""What runs inside a loader's worker process: reading one ordered batch, and ending when the trainer has ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.queues
import os
import select
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from lazyvid.training.orders import BatchOrder
from lazyvid.training.shared_memory import remove_left_by

_LOOK_S = 1.0
"""How often a worker looks whether its parent lives, where the system cannot tell it."""


@dataclass(frozen=True, slots=True)
class BatchReader(Dataset[Any]):
    """Reads ordered batches: fetches the bytes of the batch after it while this one is decoded."""

    dataset: Any
    """Map style; its `__getitems__` reads a batch together, its `prefetch` fetches the next one's bytes early."""
    collate: Callable[[Sequence[Any]], Any]
    """Makes a batch of samples."""

    def __getitem__(self, order: BatchOrder) -> Any:
        self.announce(order.items)
        self.announce(order.ahead)
        return self.collate(self._samples(order.items))

    def announce(self, items: Sequence[Any]) -> None:
        """Begin to fetch what these items need; does nothing for what is on its way already."""
        prefetch = getattr(self.dataset, "prefetch", None)
        if items and prefetch is not None:
            prefetch(list(items))

    @contextlib.contextmanager
    def announcing(self) -> Iterator[None]:
        """A pass: what an earlier one announced and left is not handed to it, nor what it leaves to a later one.

        Else a fault that has passed would still be reported, by the bytes that were asked for while it lasted.
        """
        forget: Callable[[], None] = getattr(self.dataset, "forget_prefetched", lambda: None)
        forget()
        try:
            yield
        finally:
            forget()

    def _samples(self, items: Sequence[Any]) -> Sequence[Any]:
        read_together = getattr(self.dataset, "__getitems__", None)
        if read_together is not None:
            samples: Sequence[Any] = read_together(list(items))
            return samples
        return [self.dataset[item] for item in items]


@dataclass(frozen=True, slots=True)
class WorkerInit:
    """Called in each worker before it reads: the watch over the trainer, then what the user asked for."""

    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        """Get this worker ready."""
        end_with_parent()
        end_with_what_cannot_be_sent()
        if self.then is not None:
            self.then(worker_id)


def end_with_parent() -> None:
    """End this worker, whatever it is doing, once the process that asked for it has ended.

    torch's own workers look only while they wait for work, and one that writes into a full pipe which its siblings hold
    open waits for ever. The parent is watched by its process, not by this one's: a forkserver's children have the
    forkserver for a parent.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    try:
        watched: int | None = os.pidfd_open(parent.pid)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # an old kernel, or not Linux
        watched = None
    threading.Thread(target=_watch, args=(parent.pid, watched), name="lazyvid-parent-watch", daemon=True).start()


def end_with_what_cannot_be_sent() -> None:
    """End this worker where a batch cannot be handed over, for want of memory say.

    Python's queues print such an error and drop the batch: the trainer would wait for it until its time limit.
    """
    setattr(multiprocessing.queues.Queue, "_on_queue_feeder_error", staticmethod(_give_up))  # noqa: B010 - private


def _give_up(error: BaseException, _: object) -> None:
    traceback.print_exception(error)
    remove_left_by([os.getpid()])  # memory that torch made and could not map keeps its name
    os._exit(1)


def _watch(pid: int, watched: int | None) -> None:
    if watched is not None:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
    else:
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                time.sleep(_LOOK_S)
    remove_left_by([os.getpid()])
    os._exit(1)  # nobody is left who could want anything of this process, or who could be told
