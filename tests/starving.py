"""Processes that are out of memory, but for as much as a test leaves them."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

from lazyvid.decoding.pool import default_pool
from lazyvid.memory import default_memory

_SLACK = 16 << 20
_PIECES = (1 << 20, 128 << 10, 16 << 10, 2 << 10)
_LONGEST_S = 60


def leave(nbytes: int) -> None:
    """Let this process have so much more memory, in one piece, and no more.

    A limit alone would leave all that the C library holds in reserve: that is taken, piece by piece, and not touched.
    """
    assert (default_memory().idle_bytes, default_pool().size()) == (0, 0), "a fork forgets what its parent kept warm"
    gc.collect()
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + nbytes + _SLACK, most))
    left = library.malloc(nbytes)
    for size in _PIECES:
        while library.malloc(size):
            pass
    library.free(left)


def said_with(nbytes: int, work: Callable[[], object]) -> str:
    """What a forked child says that does a piece of work with so much memory left: "", an error, or its own death."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        pid = os.fork()
    if not pid:
        try:
            signal.alarm(_LONGEST_S)
            os.write(writing, _said(nbytes, work).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"died: {signal.Signals(-code).name}" if code < 0 else said


def _said(nbytes: int, work: Callable[[], object]) -> str:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        leave(nbytes)
        work()
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        return f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    return ""


def is_about_memory(said: str) -> bool:
    """Whether an error is one that a process without memory may end with: it names memory, and no fault of a video."""
    return (
        "emory" in said and "VideoError" not in said.partition(":")[0] and "DecodeError" not in said.partition(":")[0]
    )
