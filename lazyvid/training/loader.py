"""`ClipLoader`: batches of a dataset, read by processes or threads, in an order that a checkpoint can go on with.

sampler ─▶ progress.py ─▶ orders.py ─▶ processes.py or threads.py ─▶ worker.py ─▶ dataset ─▶ collate ─▶ batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import SequentialSampler

from lazyvid.training.collate import collate_clips
from lazyvid.training.orders import BatchOrder, batch_count, batches, orders
from lazyvid.training.processes import ProcessOptions, WorkerProcesses
from lazyvid.training.progress import progress_of
from lazyvid.training.sizes import pinned
from lazyvid.training.threads import Inline, WorkerThreads
from lazyvid.training.worker import BatchReader

_VERSION = 1


class ClipLoader:
    """Batches of a dataset, epoch after epoch, with an exact state in the middle of one.

    A `torch.utils.data.DataLoader` over the same dataset and sampler gives the same batches. This one starts workers as
    they should be (at the first batch, from a forkserver that has imported what they need, ending with the trainer
    whatever happens), fetches the bytes of each worker's next batch while it decodes this one, names what goes wrong,
    and can be saved and resumed, also with another number of workers or ranks.

    An epoch that was read to its end makes the next one follow; `set_epoch` chooses another. Lightning leaves this
    loader as it is, calls `set_epoch` on `loader.sampler`, and keeps its state in its checkpoints.

    Args:
        dataset: A `ClipDataset`, or any map-style dataset; with `__getitems__` a batch is read together.
        sampler: What is read, in which order: a `ClipSampler`, which is dealt out to the ranks of `torch.distributed`;
            or any other sampler. None reads the dataset's plain enumeration.
        batch_size: Samples of a batch, on each rank.
        num_workers: Processes that read. 0 reads in this one.
        num_threads: Threads of this process that read, instead of processes: nothing is copied between processes, and
            nothing need be picklable.
        multiprocessing_context: Start method of the processes: "forkserver", "spawn" or "fork"; or a context.
        prefetch_factor: Batches that each worker reads ahead.
        drop_last: Leave out a last batch that is smaller than the others.
        collate_fn: Makes a batch of samples, in the worker.
        worker_init_fn: Called in each worker process with its number.
        timeout_s: Seconds that a batch may take; None waits as long as its workers live.
        persistent_workers: Keep the processes from one epoch to the next.
        pin_memory: Bring batches into page-locked memory; None does so where there is a CUDA device.

    Attributes:
        sampler: The sampler, dealt out to the ranks.
        batch_size: As given.

    Raises:
        ValueError: if an argument has a wrong value.
    """

    batch_sampler = None
    """Lightning looks for one to replace here; there is none."""

    def __init__(
        self,
        dataset: Any,
        *,
        sampler: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        num_threads: int = 0,
        multiprocessing_context: str | BaseContext = "forkserver",
        prefetch_factor: int = 2,
        drop_last: bool = False,
        collate_fn: Callable[[Sequence[Any]], Any] = collate_clips,
        worker_init_fn: Callable[[int], None] | None = None,
        timeout_s: float | None = 300.0,
        persistent_workers: bool = True,
        pin_memory: bool | None = None,
    ) -> None:
        _check_counts(batch_size=batch_size, num_workers=num_workers, num_threads=num_threads)
        _check_counts(prefetch_factor=prefetch_factor)
        if num_workers and num_threads:
            raise ValueError(f"Expected num_workers or num_threads, got both: {num_workers=}, {num_threads=}.")
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"Invalid timeout_s={timeout_s!r}: expected seconds, more than 0, or None.")
        self._progress = progress_of(SequentialSampler(dataset) if sampler is None else sampler)
        self.batch_size = batch_size
        self._drop_last = drop_last
        self._pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._reader = BatchReader(dataset, collate_fn)
        self._num_threads, self._timeout_s = num_threads, timeout_s
        self._processes = ProcessOptions(
            num_workers=num_workers,
            context=multiprocessing_context,
            prefetch_factor=prefetch_factor,
            timeout_s=timeout_s,
            persistent=persistent_workers,
            pin_memory=self._pin_memory,
            then=worker_init_fn,
        )
        self._engine: WorkerProcesses | WorkerThreads | Inline | None = None
        self._passes = 0
        self._consumed = 0  # items of the batches that the running pass has given
        self._remaining = len(self._progress)  # items that it had to give

    @property
    def sampler(self) -> Any:
        """The sampler, dealt out to the ranks; `set_epoch` may be called on it."""
        return self._progress.sampler

    @property
    def epoch(self) -> int:
        """The epoch that is read, or comes next."""
        return self._progress.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass reads."""
        self._progress.set_epoch(epoch)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, also after a state in its middle was loaded."""
        return batch_count(len(self._progress), self.batch_size, drop_last=self._drop_last)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the epoch, from the place that was loaded.

        Nothing is drawn and no worker is started before the first `next`: what calls `iter` first and `set_epoch` then,
        as Lightning does, gets the epoch that it asked for. A pass ends the one before it.
        """
        return self._pass()

    def _pass(self) -> Iterator[Any]:
        self._passes += 1
        number = self._passes
        self._consumed, self._remaining = 0, self._progress.remaining
        items = self._progress.begin()
        # How many items each batch holds, noted when it is ordered: the orders run ahead of the batches.
        sizes: list[int] = []
        for batch in self._running().read(self._ordered(items, sizes)):
            if number != self._passes:
                raise RuntimeError("Expected one pass at a time over a ClipLoader: a later one has begun.")
            self._consumed += sizes.pop(0)
            yield pinned(batch) if self._pin_memory and not self._processes.num_workers else batch
        if number == self._passes:
            self._progress.end_epoch()
            self._consumed = 0

    def _ordered(self, items: Iterator[Any], sizes: list[int]) -> Iterator[BatchOrder]:
        runs = batches(items, self.batch_size, drop_last=self._drop_last)
        for order in orders(runs, readers=self._running().readers):
            sizes.append(len(order))
            yield order

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, after the last batch that it gave; the same on every rank, for any number of workers.

        Raises:
            ValueError: if the sampler's order cannot be drawn again.
        """
        consumed = self._consumed
        if self._drop_last and consumed and self._remaining - consumed < self.batch_size:
            consumed = self._remaining  # what is left makes no batch: the epoch is over
        return {"version": _VERSION, "sampler": self._progress.state(consumed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next pass gives the batches that came after it, in the same order.

        A state at an epoch's end begins the next one. `set_epoch` to another epoch forgets the place.

        Raises:
            ValueError: if the state is of another plan (other videos, sampler or seed), or of a later version.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"Expected a ClipLoader's state of version {_VERSION}, got {state.get('version')!r}.")
        self._progress.load(state["sampler"])
        self._passes += 1  # a pass that is running is not what was loaded
        self._consumed = 0

    # -- workers ------------------------------------------------------------------------------------------------------

    def _running(self) -> WorkerProcesses | WorkerThreads | Inline:
        if self._engine is None:
            if self._processes.num_workers:
                self._engine = WorkerProcesses(self._reader, self._processes)
            elif self._num_threads:
                self._engine = WorkerThreads(
                    self._reader,
                    num_threads=self._num_threads,
                    prefetch_factor=self._processes.prefetch_factor,
                    timeout_s=self._timeout_s,
                )
            else:
                self._engine = Inline(self._reader)
        return self._engine

    def close(self) -> None:
        """End the workers at once; the loader may be used again, with new ones."""
        if self._engine is not None:
            self._engine.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    def __repr__(self) -> str:
        threads = self._num_threads
        readers = f"num_threads={threads}" if threads else f"num_workers={self._processes.num_workers}"
        return f"ClipLoader(batches={len(self)}, batch_size={self.batch_size}, {readers}, sampler={self.sampler!r})"


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        least = 0 if name.startswith("num_") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"Invalid {name}={value!r}: expected an int, {least} or more.")
