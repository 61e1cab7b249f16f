"""Worker processes that read ordered batches: a `torch.utils.data.DataLoader` whose failures have names and an end.

Sits under `loader.py`: it knows orders and batches, not samplers, epochs or states.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from lazyvid.errors import LoaderTimeoutError, WorkerDiedError, WorkerStartError
from lazyvid.training import shared_memory
from lazyvid.training.checks import check_picklable
from lazyvid.training.deaths import hold_news
from lazyvid.training.ending import ends_in_time, forget_queues
from lazyvid.training.interrupts import HeedingInterrupts
from lazyvid.training.orders import BatchOrder
from lazyvid.training.sizes import batch_nbytes
from lazyvid.training.stream import ClipStream
from lazyvid.training.worker import BatchReader, WorkerInit

_log = logging.getLogger(__name__)

_PRELOADED = ("torch", "lazyvid.training", "lazyvid.training.worker")
"""What the forkserver imports once, for all workers that it forks."""
_SOCKET_NAME_BYTES = 107 if sys.platform == "linux" else 103
_SOCKET_NAME = "/listener-12345678"
"""What multiprocessing calls the sockets by which workers hand over memory, in its temporary folder."""
_JOIN_S = 5.0
_DYING_S = 1.0
_GUARD = (
    'A script whose loader starts workers needs `if __name__ == "__main__":` around what it does, since each worker '
    "imports the script; multiprocessing_context='fork' or num_threads=... needs none."
)


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """How worker processes are started and waited for."""

    num_workers: int
    context: str | BaseContext
    """Start method, or a context that has one."""
    prefetch_factor: int
    """Batches that each worker reads ahead of the trainer."""
    timeout_s: float | None
    """Seconds that a batch may take; None waits as long as its workers live."""
    persistent: bool
    """Whether workers live on after an epoch."""
    pin_memory: bool
    """Whether batches are copied into page-locked memory by a thread of this process."""
    then: Any = None
    """Called in each worker with its number."""


class WorkerProcesses:
    """Reads ordered batches in processes; batch b comes from worker b mod n. Starts them when first read from."""

    def __init__(self, source: BatchReader | ClipStream, options: ProcessOptions) -> None:
        self._source = source
        self.readers = options.num_workers
        self._options = options
        self._feed = _Feed()
        self._loader: DataLoader[Any] | None = None
        self._batches: Iterator[Any] | None = None
        self._processes: list[BaseProcess] = []
        self._ending: list[BaseProcess] = []
        """Those that are being ended: their deaths are no news."""
        self._pid = os.getpid()
        self._measured = False
        self._starts = False
        self.waits = False
        """Whether a batch is being waited for."""

    def employs(self, pid: int) -> bool:
        """Whether a process is one of the workers; while they are started it may be."""
        return self._starts or any(process.pid == pid for process in (*self._processes, *self._ending))

    def read(self, orders: Iterable[BatchOrder]) -> Iterator[Any]:
        """The batches, in the order of their orders.

        Raises:
            WorkerStartError: if workers cannot be started, or could hand nothing over.
            WorkerDiedError: if a worker ended without being told to.
            LoaderTimeoutError: if a batch took longer than `timeout_s`.
            Exception: what a worker raised while it read.
        """
        self._feed.orders = orders
        number = 0
        try:
            self._start()
            while True:
                try:
                    batch = self._next(number)
                except StopIteration:
                    return
                if not self._measured:
                    self._measured = True
                    in_flight = self._options.num_workers * self._options.prefetch_factor + 1
                    shared_memory.warn_if_too_small(batch_nbytes(batch), in_flight=in_flight)
                yield batch
                number += 1
        except GeneratorExit:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers, at once; the next `read` starts new ones. Does nothing in a forked child."""
        kept = self._loader, self._batches
        processes, batches = self._processes, self._batches
        self._ending = processes
        self._loader, self._batches, self._processes = None, None, []
        if self._pid != os.getpid():
            # They are the parent's: to collect their iterator here would tell them to end.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
            self._pid = os.getpid()
            return
        # torch ends workers when their iterator is collected, which an exception's traceback puts off; it has no public
        # call for it. It also forgets their pids, so that the kill below does not look like a failure to it.
        end: Callable[[], None] = getattr(batches, "_shutdown_workers", lambda: None)
        try:
            if processes and not ends_in_time(end):
                forget_queues(batches)
        finally:
            for process in processes:
                process.kill()
        for process in processes:
            process.join(_JOIN_S)
        self._ending = []
        shared_memory.remove_left_by(process.pid for process in processes if process.pid is not None)

    # -- one batch ----------------------------------------------------------------------------------------------------

    def _next(self, number: int) -> Any:
        batches = self._batches
        if batches is None:
            raise WorkerDiedError("Expected workers to read from, but the loader was closed during this pass.")
        if dead := self._failed():
            raise WorkerDiedError(_obituary(dead, number))
        limit = _Limit(self._options.timeout_s, self._processes)
        try:
            with limit:  # whose thread no news of a death may interrupt while it starts and ends
                return self._waited(batches)
        except StopIteration:
            raise
        except Exception as error:
            if limit.passed:
                raise LoaderTimeoutError(
                    f"Expected batch {number} within {self._options.timeout_s} s (timeout_s), got none; its "
                    f"{len(self._processes)} workers were ended. Look for a transform or a file system that hangs, or "
                    "raise timeout_s."
                ) from error
            if dead := self._dead(error):
                raise WorkerDiedError(_obituary(dead, number)) from error
            raise

    def _waited(self, batches: Iterator[Any]) -> Any:
        self.waits = True
        try:
            with HeedingInterrupts():
                return next(batches)
        finally:
            self.waits = False

    def _failed(self) -> list[BaseProcess]:
        """The workers that died while nobody waited for them."""
        return [process for process in self._processes if process.exitcode not in (None, 0)]

    def _dead(self, error: Exception) -> list[BaseProcess]:
        """The workers that have died, where `error` may be the first sign of it."""
        # torch's signal handler raises wherever this thread stands, once for each of them: here, while we look.
        with contextlib.suppress(RuntimeError):
            # A worker that died while it sent a batch shows as a broken connection before it shows as dead.
            if isinstance(error, (OSError, EOFError)):
                ended = wait([process.sentinel for process in self._processes], _DYING_S)
                for process in self._processes:
                    if process.sentinel in ended:
                        process.join(_DYING_S)  # its pipes close a moment before it counts as dead
        for _ in self._processes:
            with contextlib.suppress(RuntimeError):
                return [process for process in self._processes if not process.is_alive()]
        return []

    # -- starting -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._pid != os.getpid():
            self.close()
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise WorkerStartError(f"Expected a loader to be read by a program, not while it is imported. {_GUARD}")
        if self._failed():  # between two epochs: new ones start
            _log.warning("Workers died between two passes: %s", _obituary(self._failed(), 0))
            self.close()
        if self._loader is None:
            _check_socket_names(multiprocessing.util.get_temp_dir())
            self._loader = self._made()
        others = set(multiprocessing.active_children())
        hold_news(self)
        self._starts = True
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Got pickle error")  # ours says what cannot be pickled
                self._batches = iter(self._loader)
            self._processes = _workers_of(self._batches)
        except BaseException as error:
            self._processes += [process for process in multiprocessing.active_children() if process not in others]
            self.close()
            if isinstance(error, (pickle.PicklingError, AttributeError, TypeError)):
                raise WorkerStartError(_unpicklable(self._source, self._options, error)) from error
            raise
        finally:
            self._starts = False

    def _made(self) -> DataLoader[Any]:
        options = self._options
        context = options.context
        if isinstance(context, str):
            context = multiprocessing.get_context(context)
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(list(_PRELOADED))
        return DataLoader(
            self._source,
            sampler=None if isinstance(self._source, ClipStream) else self._feed,  # a stream knows what to read
            batch_size=None,
            num_workers=options.num_workers,
            collate_fn=_unchanged,
            # torch's own limit would look for dead workers only when it is over: ours looks all the time.
            timeout=0,
            multiprocessing_context=context,
            prefetch_factor=options.prefetch_factor,
            persistent_workers=options.persistent,
            pin_memory=options.pin_memory,
            worker_init_fn=WorkerInit(options.then),
        )


@dataclass(slots=True)
class _Feed:
    """The sampler of the inner loader: gives on the orders of the epoch that is read."""

    orders: Iterable[BatchOrder] = ()

    def __iter__(self) -> Iterator[BatchOrder]:
        return iter(self.orders)


@dataclass(slots=True)
class _Limit:
    """Kills workers when a wait takes too long: torch then finds them dead, whatever it was waiting for."""

    timeout_s: float | None
    processes: list[BaseProcess]
    passed: bool = False
    _timer: threading.Timer | None = field(default=None)

    def __enter__(self) -> None:
        if self.timeout_s is not None:
            self._timer = threading.Timer(self.timeout_s, self._end)
            self._timer.daemon = True
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self.passed = True
        for process in self.processes:
            with contextlib.suppress(ValueError, OSError):  # closed or gone already
                process.kill()


def _check_socket_names(folder: str) -> None:
    """Where names are too long for sockets, a worker's first batch would never come: its feeding thread dies of it."""
    size = len(os.fsencode(folder + _SOCKET_NAME))
    if size > _SOCKET_NAME_BYTES:
        raise WorkerStartError(
            f"Expected a temporary folder whose sockets have names of {_SOCKET_NAME_BYTES} bytes at most, got {size} "
            f"in {folder!r}. Set TMPDIR to a shorter path before Python starts, or use num_threads=..."
        )


def _workers_of(batches: Any) -> list[BaseProcess]:
    """The processes behind torch's iterator, those too that have died already."""
    return list(batches._workers)


def _unchanged(batch: Any) -> Any:
    return batch


def _obituary(dead: list[BaseProcess], number: int) -> str:
    codes = {process.pid: process.exitcode for process in dead}
    text = ", ".join(f"{pid} with {_code_text(code)}" for pid, code in codes.items())
    hint = f" {_GUARD}" if number == 0 and any((code or 0) > 0 for code in codes.values()) else ""
    return f"Expected batch {number}, but of its workers died: process {text}.{hint}"


def _code_text(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    why = {
        "SIGKILL": " (killed: by hand, or by the system for want of memory: fewer workers, smaller batches)",
        "SIGBUS": f" ({shared_memory.FOLDER} is full: enlarge it, or use fewer workers or num_threads=...)",
        "SIGSEGV": " (a crash in native code: faulthandler.enable() shows where)",
    }
    return name + why.get(name, "")


def _unpicklable(source: BatchReader | ClipStream, options: ProcessOptions, error: BaseException) -> str:
    """Which part of a loader cannot be sent to a worker."""
    parts: dict[str, Any] = {"worker_init_fn": options.then}
    if isinstance(source, ClipStream):
        parts["stream"] = source
    else:
        parts |= {"collate_fn": source.collate, "dataset": source.dataset}
    for name, part in parts.items():
        try:
            check_picklable(part, name=name)
        except TypeError as found:
            return f"{found} Threads need nothing sent either: num_threads=..."
    return f"Expected a loader that can be sent to worker processes, but pickling it failed: {error}"
