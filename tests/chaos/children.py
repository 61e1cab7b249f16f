"""Cases of the chaos tests, run in a child process with little memory and little time; what came of each has a name.

A case ends in one of three ways: it is *right* (what it gave equals the reference), it is *refused* (by a
`LazyVidError`), or it is *wrong*: a frame that differs, a foreign exception, a crash, a hang, memory without bound.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal, Self
from unittest.mock import patch

from lazyvid.errors import LazyVidError

Kind = Literal["right", "refused", "wrong"]
_START_S = 240.0
NAME = "chaos-child"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case."""

    kind: Kind
    what: str
    """The error's class, or what is wrong."""


class WrongError(AssertionError):
    """Raised by a case that finds what must never be: a wrong frame, say."""


@dataclass
class Tally:
    """Outcomes of many cases, and those that fail the test."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, outcome: Outcome) -> None:
        """Count one."""
        self.counts[outcome.kind if outcome.kind == "right" else f"{outcome.kind}: {outcome.what[:60]}"] += 1
        if outcome.kind == "wrong":
            self.wrong.append(f"{name}: {outcome.what}")

    def __str__(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self.counts.most_common())


class Child:
    """A process that runs cases one after the other; started anew when a case ends it.

    Args:
        memory_mb: Address space that a case may take on top of what the process had when it started.
        seconds: Time that a case may take, far above what it needs.
        warm: Called first, with the limits not yet set: imports what cases need.
    """

    def __init__(self, *, memory_mb: int = 900, seconds: float = 120.0, warm: Callable[[], None] | None = None) -> None:
        self._memory_mb, self._seconds, self._warm = memory_mb, seconds, warm
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the process, if it does not run; else the first case does."""
        self._started()

    def ask(self, work: Callable[..., str | None], **arguments: Any) -> Outcome:
        """Run a case: a function at the top of a module, which returns what it has to say of what is right."""
        connection = self._started()
        connection.send((work, arguments))
        if not connection.poll(self._seconds):
            self.close()
            return Outcome("wrong", f"hangs: no end within {self._seconds:.0f} s")
        try:
            outcome: Outcome = connection.recv()
        except (EOFError, OSError):
            self._process.join(_START_S)
            code = self._process.exitcode
            self.close()
            name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            return Outcome("wrong", f"the process died: {name}")
        return outcome

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _started(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(theirs, self._memory_mb, self._warm), name=NAME, daemon=True
            )
            # Each thread may take 64 MB of address space for its allocations alone, used or not.
            with patch.dict(os.environ, MALLOC_ARENA_MAX="2"):
                self._process.start()
            theirs.close()
            assert self._connection.poll(_START_S), "the child does not start"
            self._connection.recv()
        return self._connection


def run_all(child: Child, cases: Iterable[tuple[str, Callable[..., str | None], dict[str, Any]]]) -> Tally:
    """Run (name, function, arguments) one after the other and count what comes of them."""
    tally = Tally()
    for name, work, arguments in cases:
        tally.add(name, child.ask(work, **arguments))
    return tally


def _serve(connection: Connection, memory_mb: int, warm: Callable[[], None] | None) -> None:
    warnings.simplefilter("ignore")
    if warm is not None:
        warm()
    limit = _address_space() + (memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(None)
    while True:
        try:
            work, arguments = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(work, arguments))


def _outcome(work: Callable[..., str | None], arguments: dict[str, Any]) -> Outcome:
    try:
        return Outcome("right", work(**arguments) or "")
    except WrongError as error:
        return Outcome("wrong", str(error))
    except LazyVidError as error:
        text = str(error)
        if len(error.args) != 1 or len(text.split()) < 4:
            return Outcome("wrong", f"an error that says too little: {error!r}")
        return Outcome("refused", type(error).__name__)
    except BaseException as error:
        return Outcome("wrong", f"{type(error).__name__} is no LazyVidError: {traceback.format_exc()[-1500:]}")


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


# -- processes that a test starts and kills ----------------------------------------------------------------------------


def wait_until(what: Callable[[], bool], *, seconds: float = 120.0) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
