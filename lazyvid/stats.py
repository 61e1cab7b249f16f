"""Counters of what was fetched, fed and returned, of this process and of its workers.

Each process counts in a small file of its own that it maps into memory; `read_stats(scope="all")` adds up the files of
the processes that descend from the caller. A file is named by its owner's ancestors, so that it works with every start
method and needs nothing handed to the worker.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import mmap
import multiprocessing
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class ReadStats:
    """Counts since the process started (or since `reset_stats`)."""

    requests: int = 0
    """Requests sent to object stores, tries included."""
    bytes_fetched: int = 0
    """Bytes received from object stores."""
    retries: int = 0
    """Requests that were sent again."""
    packets_fed: int = 0
    """Encoded packets handed to a decoder."""
    packets_skipped: int = 0
    """Packets inside a fed run that were left out because nothing refers to them."""
    frames_decoded: int = 0
    """Pictures that came out of decoders, wanted or not."""
    frames_returned: int = 0
    """Frames handed to callers."""
    decode_restarts: int = 0
    """Runs tried again from an earlier key packet."""
    cache_hits: int = 0
    """Whole-file cache look-ups that found the file."""
    cache_misses: int = 0
    """Whole-file cache look-ups that had to download."""
    samples_skipped: int = 0
    """Samples of datasets that could not be read and were replaced by others."""
    refetches: int = 0
    """Runs of packets fetched once more because their bytes did not fit their checksums."""
    frames_dropped: int = 0
    """Frames of cameras that an encoder had no room for."""

    def __sub__(self, earlier: ReadStats) -> ReadStats:
        """What was counted between `earlier` and this."""
        return ReadStats(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))


_NAMES = tuple(f.name for f in fields(ReadStats))
_SLOT = {name: i for i, name in enumerate(_NAMES)}
_BYTES = 8 * len(_NAMES)
_KEPT_S = 24 * 3600.0
_PARENT, _START_TIME = 1, 19  # fields of /proc/PID/stat, counted from after the process's name


def _directory() -> Path:
    """This user's folder of counters, made if need be; OSError where another user laid something there."""
    folder = Path(tempfile.gettempdir()) / f"lazyvid-stats-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
    return folder


def _ancestors() -> list[str]:
    """Names of this process, its parent, its parent's parent, ...; where /proc is absent, of it and its parent.

    A name is a pid with the process's start time, since pids come again.
    """
    chain: list[str] = []
    pid = os.getpid()
    # Process 1 too: in a container it may be the training script itself.
    while pid > 0 and len(chain) < 16:
        values = _proc_stat(pid)
        if values is None:
            return chain or [str(os.getpid()), str(os.getppid())]
        chain.append(f"{pid}.{values[_START_TIME]}")
        pid = int(values[_PARENT])
    return chain


def _proc_stat(pid: int | str) -> list[str] | None:
    """What the system says of a process, counted from after its name; None where it is gone or there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rsplit(")", 1)[1].split()  # the name is in brackets and may hold anything


def _start_time(pid: str) -> str | None:
    values = _proc_stat(pid)
    return None if values is None else values[_START_TIME]


class _ProcessCounters:
    """The counters of one process; made anew in a forked child."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        lineage = _ancestors()
        self.name = lineage[0]
        self.path: Path | None = None
        buffer: mmap.mmap | bytearray
        try:
            directory = _directory()
            _sweep(directory)
            path = directory / ("-".join(lineage) + ".counters")
            with path.open("w+b") as file:
                file.truncate(_BYTES)
                buffer = mmap.mmap(file.fileno(), _BYTES)
            self.path = path
        except OSError:  # counting must never stop reading: without a place for the file, count in memory
            buffer = bytearray(_BYTES)
        self.values = memoryview(buffer).cast("q")


class _Registry:
    """Holds this process's counters, guarded by pid."""

    def __init__(self) -> None:
        self._counters: _ProcessCounters | None = None
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> _ProcessCounters:
        counters = self._counters
        if counters is not None and counters.pid == os.getpid():
            return counters
        # The parent's lock may have been held when it forked; the threads of a process must agree on one, or each makes
        # counters of its own: the second one's file cuts the first one's off under its mapping, which ends in SIGBUS.
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if self._counters is None or self._counters.pid != os.getpid():
                self._counters = _ProcessCounters()
                atexit.register(_remove_files_of, self._counters)
            return self._counters


_registry = _Registry()


def _lineage(path: Path) -> list[str]:
    """The names of a counter file's owner and of its ancestors."""
    return path.name.removesuffix(".counters").split("-")


def _files_below(name: str) -> list[Path]:
    """The counter files of a process and of every one that descends from it."""
    with contextlib.suppress(OSError):
        return [path for path in _directory().glob("*.counters") if name in _lineage(path)]
    return []


def _sweep(directory: Path) -> None:
    """Delete the counters that killed processes left, once nobody can still want to add them up."""
    for path in directory.glob("*.counters"):
        owner, _, born = _lineage(path)[0].partition(".")
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_S and _start_time(owner) != born:
                path.unlink()


def _remove_files_of(counters: _ProcessCounters) -> None:
    """Delete the counters of a process that ends, and of those below it, unless an ancestor of its own still counts."""
    if os.getpid() != counters.pid or counters.path is None or multiprocessing.parent_process() is not None:
        return  # a worker leaves its counters to its parent, which may begin to count only after the worker's end
    ancestors = set(_lineage(counters.path)[1:])
    if not any(_lineage(path)[0] in ancestors for path in _directory().glob("*.counters")):
        for path in _files_below(counters.name):
            with contextlib.suppress(OSError):
                path.unlink()


def count(**amounts: int) -> None:
    """Add to this process's counters, by the names of `ReadStats`. Thread-safe."""
    counters = _registry.get()
    with counters.lock:
        for name, amount in amounts.items():
            counters.values[_SLOT[name]] += amount


def read_stats(*, scope: Literal["process", "all"] = "process") -> ReadStats:
    """Counts of what was read.

    Args:
        scope: "process" for this process alone; "all" adds every process started from it, ended ones too.

    Returns:
        The sums since each process started or since `reset_stats`.

    Raises:
        ValueError: if `scope` is another word.
    """
    if scope not in ("process", "all"):
        raise ValueError(f"Invalid scope {scope!r}: expected 'process' or 'all'.")
    return ReadStats(*_registry.get().values) if scope == "process" else read_stats_besides(())


def process_name() -> str:
    """What this process is called among the counters of this machine."""
    return _registry.get().name


def read_stats_besides(others: Iterable[str]) -> ReadStats:
    """Counts of this process and of every one started from it, but for some of them and what these have started.

    Args:
        others: Their `process_name`s. What stands above this process in the line is no matter.
    """
    own = _registry.get()
    others = frozenset(others)
    totals = list(own.values)
    for path in _files_below(own.name):
        lineage = _lineage(path)
        if path == own.path or not others.isdisjoint(lineage[: lineage.index(own.name)]):
            continue
        with contextlib.suppress(OSError, ValueError, TypeError):  # gone, or not written in full yet
            totals = [a + b for a, b in zip(totals, memoryview(path.read_bytes()).cast("q"), strict=True)]
    return ReadStats(*totals)


def reset_stats() -> None:
    """Set this process's counters to zero and forget those of workers that it had."""
    own = _registry.get()
    with own.lock:
        for i in range(len(_NAMES)):
            own.values[i] = 0
    for path in _files_below(own.name):
        if path != own.path:
            with contextlib.suppress(OSError), path.open("r+b") as file:
                file.write(bytes(_BYTES))  # in place: were it cut first, a worker that counts would find no memory
