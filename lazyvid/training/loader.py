"""`ClipLoader`: batches of a dataset, read by processes or threads, in an order that a checkpoint can go on with.

sampler ─▶ course.py ─▶ orders ─▶ processes.py or threads.py ─▶ worker.py ─▶ dataset ─▶ collate ─▶ batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Protocol

import torch
from torch.utils.data import SequentialSampler

from lazyvid.training.collate import collate_clips
from lazyvid.training.course import Course, SamplerCourse, StreamCourse
from lazyvid.training.orders import BatchOrder
from lazyvid.training.processes import ProcessOptions, WorkerProcesses
from lazyvid.training.progress import progress_of
from lazyvid.training.samplers import ClipSampler
from lazyvid.training.sizes import pinned
from lazyvid.training.stream import ClipStream
from lazyvid.training.threads import Inline, InlineStream, WorkerThreads
from lazyvid.training.worker import BatchReader

_VERSION = 1


class Engine(Protocol):
    """Who reads what is ordered."""

    readers: int
    """Workers that take the batches in turn."""

    def read(self, orders: Iterable[BatchOrder]) -> Iterator[Any]:
        """The batches, in the order of their orders."""

    def close(self) -> None:
        """End the workers; the next `read` starts new ones."""


class ClipLoader:
    """Batches of a dataset, epoch after epoch, with an exact state in the middle of one.

    A `torch.utils.data.DataLoader` over the same dataset and sampler gives the same batches. This one starts workers as
    they should be (at the first batch, from a forkserver that has imported what they need, ending with the trainer
    whatever happens), fetches the bytes of each worker's next batch while it decodes this one, names what goes wrong,
    and can be saved and resumed, also with another number of workers or ranks.

    An epoch that was read to its end makes the next one follow; `set_epoch` chooses another. Lightning leaves this
    loader as it is, calls `set_epoch` on `loader.sampler`, and keeps its state in its checkpoints.

    A script that starts worker processes needs the usual `if __name__ == "__main__":`; threads need none.

    Args:
        dataset: A `ClipDataset`, or any map-style dataset; with `__getitems__` a batch is read together. Or a
            `ClipStream` with a `batch_size`, which brings its own sampler and collate function.
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

    Raises:
        TypeError: if `sampler` is none, or comes with a stream.
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
        self._source: BatchReader | ClipStream
        self._course: Course
        if isinstance(dataset, ClipStream):
            batch_size = _stream_batch_size(dataset, sampler=sampler, batch_size=batch_size, num_threads=num_threads)
            self._source, self._course = dataset, StreamCourse(dataset)
        else:
            progress = progress_of(SequentialSampler(dataset) if sampler is None else sampler)
            if isinstance(sampler, ClipSampler) and hasattr(dataset, "replacing_from"):
                dataset = dataset.replacing_from(sampler)  # what the sampler leaves out replaces nothing
            self._source = BatchReader(dataset, collate_fn)
            self._course = SamplerCourse(progress, batch_size=batch_size, drop_last=drop_last)
        self.batch_size = batch_size
        """Samples of a batch, on each rank."""
        self._num_threads = num_threads
        self._options = ProcessOptions(
            num_workers=num_workers,
            context=multiprocessing_context,
            prefetch_factor=prefetch_factor,
            timeout_s=timeout_s,
            persistent=persistent_workers,
            pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
            then=worker_init_fn,
        )
        self._engine: Engine | None = None
        self._passes = 0

    @property
    def sampler(self) -> Any:
        """The sampler, dealt out to the ranks; `set_epoch` may be called on it."""
        return self._course.sampler

    @property
    def epoch(self) -> int:
        """The epoch that is read, or comes next."""
        return self._course.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass reads."""
        self._course.set_epoch(epoch)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, also after a state in its middle was loaded."""
        return len(self._course)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the epoch, from the place that was loaded.

        Nothing is drawn and no worker is started before the first `next`: what calls `iter` first and `set_epoch` then,
        as Lightning does, gets the epoch that it asked for. A pass ends the one before it.
        """
        return self._pass()

    def _pass(self) -> Iterator[Any]:
        self._passes += 1
        number = self._passes
        engine = self._running()
        for batch in engine.read(self._course.begin(readers=engine.readers)):
            if number != self._passes:
                raise RuntimeError("Expected one pass at a time over a ClipLoader: a later one has begun.")
            self._course.deliver()
            yield pinned(batch) if self._options.pin_memory and not self._options.num_workers else batch
        if number == self._passes:
            self._course.end_epoch()

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, after the last batch that it gave; the same on every rank, for any number of workers.

        Raises:
            ValueError: if the sampler's order cannot be drawn again.
        """
        return {"version": _VERSION, "sampler": self._course.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next pass gives the batches that came after it, in the same order.

        A state at an epoch's end begins the next one. `set_epoch` to another epoch forgets the place.

        Raises:
            ValueError: if the state is of another plan (other videos, sampler or seed), or of a later version.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"Expected a ClipLoader's state of version {_VERSION}, got {state.get('version')!r}.")
        self._course.load(state["sampler"])
        self._passes += 1  # a pass that is running is not what was loaded

    # -- workers ------------------------------------------------------------------------------------------------------

    def _running(self) -> Engine:
        if self._engine is None:
            self._engine = _engine(self._source, self._options, num_threads=self._num_threads)
        return self._engine

    def close(self) -> None:
        """End the workers at once; the loader may be used again, with new ones."""
        if self._engine is not None:
            self._engine.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    def __repr__(self) -> str:
        threads = self._num_threads
        readers = f"num_threads={threads}" if threads else f"num_workers={self._options.num_workers}"
        return f"ClipLoader(batch_size={self.batch_size}, {readers}, sampler={self.sampler!r})"


def _engine(source: BatchReader | ClipStream, options: ProcessOptions, *, num_threads: int) -> Engine:
    if options.num_workers:
        return WorkerProcesses(source, options)
    if isinstance(source, ClipStream):
        return InlineStream(source)
    if num_threads:
        return WorkerThreads(
            source, num_threads=num_threads, prefetch_factor=options.prefetch_factor, timeout_s=options.timeout_s
        )
    return Inline(source)


def _stream_batch_size(stream: ClipStream, *, sampler: Any, batch_size: int, num_threads: int) -> int:
    """The batch size of a stream, if what else was asked for goes with one."""
    if sampler is not None:
        raise TypeError("Expected no sampler with a ClipStream, which has its own: ClipStream(sampler=...).")
    if stream.batch_size is None or batch_size not in (1, stream.batch_size):
        raise ValueError(
            f"Expected a stream that makes the batches, got {stream!r}: ClipStream(batch_size={batch_size})."
        )
    if num_threads:
        raise ValueError("Expected num_workers with a ClipStream, got num_threads: it is one stream for each process.")
    return stream.batch_size


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        least = 0 if name.startswith("num_") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"Invalid {name}={value!r}: expected an int, {least} or more.")
