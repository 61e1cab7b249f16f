"""Where Lance runs: in this process while that is safe, else in a helper subprocess; used by `sealed` alone.

Lance must not run on both sides of a fork (crashes, hangs), and damaged files can abort the process that reads them.
So a forked child whose parent may have used Lance, and everyone who reads bytes that nothing vouches for, asks the
helper.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lazyvid.index import lance_helper

DEADLINE_S = 60.0
"""A request to the helper that takes longer is given up, and the helper is ended."""

_IMPORTED_BY = os.getpid()
_CHUNK = 1 << 20


class LanceError(Exception):
    """Lance could not read what lies in the folder; the message is one line of Lance's own words."""


class LanceUnavailableError(RuntimeError):
    """Lance cannot be run here at all: not installed, helper not startable, killed from outside, or too slow."""


class _Process:
    """What one process knows of its helper."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.helper: _Helper | None = None

    def end(self) -> None:
        if self.helper is not None:
            self.helper.close()
            self.helper = None


_processes: dict[int, _Process] = {}  # by pid: a fork inherits the entry of its parent and must not use it
_used_by: int | None = None  # the process that first ran Lance in itself; inherited by forks


def _this_process() -> _Process:
    pid = os.getpid()
    if pid not in _processes:
        inherited = list(_processes)
        process = _processes.setdefault(pid, _Process())
        for other in inherited:
            parent = _processes.pop(other, None)
            if parent is not None and parent.helper is not None:
                parent.helper.disown()
        atexit.register(_end_helper, pid)
        return process
    return _processes[pid]


def _end_helper(pid: int) -> None:
    if os.getpid() == pid and pid in _processes:
        _processes[pid].end()


def safe_in_process() -> bool:
    """Whether Lance may run in this process: no process that this one was forked from can have run it."""
    if _used_by is not None:
        return _used_by == os.getpid()
    return os.getpid() == _IMPORTED_BY or "lance" not in sys.modules


def read_dataset(folder: Path, *, columns: Sequence[str] | None, max_rows: int | None, trusted: bool) -> Any:
    """Read a dataset that lies in a local folder.

    Args:
        folder: The dataset; its newest version is read.
        columns: Which columns to read, as far as they are there; None reads all.
        max_rows: One row more than these is read at most; None reads all.
        trusted: Whether its bytes were verified: then it may be read in this process.

    Returns:
        A `pyarrow.Table` with its schema's metadata.

    Raises:
        LanceError: if Lance cannot read it, a panic or an abort of its process included.
        LanceUnavailableError: if the helper process does not work.
        ImportError: if Lance is not installed.
    """
    wanted = None if columns is None else list(columns)
    if trusted and safe_in_process():
        _begin_use()
        try:
            return lance_helper.read_dataset(str(folder), wanted, max_rows)
        except Exception as error:
            _raise_what_is_not_about_data(error)
            raise LanceError(lance_helper.describe(error)) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise LanceError(lance_helper.describe(error)) from error
    request = {"op": "read", "folder": str(folder), "columns": wanted, "max_rows": max_rows}
    return lance_helper.from_ipc(_ask(request))


def write_dataset(table: Any, folder: Path) -> None:
    """Write a `pyarrow.Table` as a new dataset into a local folder.

    Raises:
        LanceError: if Lance cannot write it.
        LanceUnavailableError: if the helper process does not work.
        ImportError: if Lance is not installed.
    """
    if not safe_in_process():
        _ask({"op": "write", "folder": str(folder)}, lance_helper.to_ipc(table))
        return
    _begin_use()
    try:
        lance_helper.write_dataset(table, str(folder))
    except Exception as error:
        _raise_what_is_not_about_data(error)
        raise LanceError(lance_helper.describe(error)) from error


def _raise_what_is_not_about_data(error: Exception) -> None:
    if isinstance(error, (ImportError, MemoryError)):
        raise error


def _begin_use() -> None:
    """Remember that this process runs Lance, and quiet its warning at forks, which the helper has made safe."""
    global _used_by
    if _used_by == os.getpid():
        return
    # One who imported Lance himself may use it himself, and shall hear the warning.
    ours = "lance" not in sys.modules
    import lance  # noqa: F401

    _used_by = os.getpid()
    if ours:
        _quiet_forks()


def _quiet_forks() -> None:
    entered: list[warnings.catch_warnings[Any]] = []

    def before() -> None:
        scope = warnings.catch_warnings()
        scope.__enter__()
        warnings.filterwarnings("ignore", message="lance is not fork-safe", category=UserWarning)
        entered.append(scope)

    def after() -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    # The hooks registered last run first: this one stands before Lance's.
    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)


# -- the helper -------------------------------------------------------------------------------------------------------


def _ask(request: dict[str, Any], payload: bytes = b"") -> bytes:
    process = _this_process()
    with process.lock:
        for attempt in (1, 2):
            if process.helper is None:
                process.helper = _Helper()
            try:
                return process.helper.ask(request, payload)
            except _HelperGoneError as gone:
                process.helper.close()
                process.helper = None
                # A helper that had answered before may have been ended by others: one fresh one may try.
                if attempt == 2 or gone.first_request:
                    gone.classify()
    raise LanceUnavailableError("The Lance helper process ended twice.")


class _HelperGoneError(Exception):
    def __init__(self, return_code: int | None, *, first_request: bool) -> None:
        super().__init__(return_code)
        self.return_code = return_code
        self.first_request = first_request

    def classify(self) -> None:
        """Raise what the end of the helper means: its own crash condemns the data, a kill from outside does not."""
        crashes = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}
        if self.return_code in crashes:
            raise LanceError(f"Lance crashed over it ({signal.Signals(-self.return_code).name}).") from self
        raise LanceUnavailableError(
            f"The Lance helper process ended with code {self.return_code}; expected an answer. Is the package pylance "
            "installed for this Python, and is there memory left?"
        ) from self


class _Helper:
    """A running `lance_helper` and the pipes to it."""

    def __init__(self) -> None:
        self.answered = 0
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            # -P: beside the script lie modules whose names other packages use.
            self.process = subprocess.Popen(
                [sys.executable, "-P", lance_helper.__file__, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # panics print there; what they say comes as an answer too
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            raise LanceUnavailableError(f"Could not start a helper process for Lance: {error}") from error
        if self.process.stdin is None or self.process.stdout is None:
            raise LanceUnavailableError("Could not open the pipes to a helper process for Lance.")
        self._requests, self._answers = self.process.stdin.fileno(), self.process.stdout.fileno()

    def ask(self, request: dict[str, Any], payload: bytes) -> bytes:
        deadline = time.monotonic() + DEADLINE_S
        text = json.dumps(request).encode()
        try:
            self._write(lance_helper.HEADER.pack(len(text), len(payload)) + text + payload, deadline)
            text_bytes, payload_bytes = lance_helper.HEADER.unpack(self._read(lance_helper.HEADER.size, deadline))
            answer = json.loads(self._read(text_bytes, deadline))
            result = self._read(payload_bytes, deadline)
        except (BrokenPipeError, EOFError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
            raise _HelperGoneError(self.process.returncode, first_request=self.answered == 0) from None
        except BaseException:
            self.close()  # half an answer may still be in the pipe
            _this_process().helper = None
            raise
        self.answered += 1
        if answer["status"] == "unavailable":
            raise ImportError(answer["error"])
        if answer["status"] != "ok":
            raise LanceError(answer["error"])
        return result

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._requests, selectors.EVENT_WRITE, deadline)
            # A pipe that is ready takes this much without blocking.
            view = view[os.write(self._requests, view[: select.PIPE_BUF]) :]

    def _read(self, count: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while count:
            self._wait(self._answers, selectors.EVENT_READ, deadline)
            part = os.read(self._answers, min(count, _CHUNK))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise LanceUnavailableError(f"The Lance helper process gave no answer within {DEADLINE_S:g} s.")

    def close(self) -> None:
        """End the process, in whatever state it is."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        self._close_pipes()

    def disown(self) -> None:
        """Let go of a parent's helper in a forked child: the parent waits for it."""
        self.process.returncode = 0
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
