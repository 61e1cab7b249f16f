"""The one owner of retries: repeats a request with growing pauses until it works or its time is over."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar

from lazyvid.errors import ShortReadError, StoreError, StoreTimeoutError, StoreUnavailableError
from lazyvid.stats import count

T = TypeVar("T")
_log = logging.getLogger(__name__)
FaultKind = Literal["timeout", "short", "connect", "failure"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
CONNECT_TRIES = 5
"""Tries to reach a server that has not answered this process once: more likely a wrong address than an outage."""
STALLS = 3
"""How often in a row a whole-object copy may stall without a byte."""
_LAST_TURNS = 50
"""Turns of the event loop in which what has arrived in time is still read; a busy machine has not come to it before."""


class TransientFault(Exception):
    """A request failed in a way that may pass; raised by backends, never seen by callers."""

    def __init__(self, reason: str, *, kind: FaultKind = "failure", retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.retry_after_s = retry_after_s


class TimeIsUp(TransientFault):
    """The deadline was reached while a request was under way."""

    def __init__(self) -> None:
        super().__init__("no complete answer when the time was over", kind="timeout")


class Deadline:
    """The time by which a call must end, counted from its first request.

    Args:
        seconds: how long the call may take.
        renewed: a whole-object copy has no total: each byte that arrives starts the time anew.
    """

    def __init__(self, seconds: float, *, renewed: bool = False) -> None:
        self.seconds = seconds
        self.renewed = renewed
        self.stalls = 0
        self._started: float | None = None
        self._end = 0.0

    def begin(self) -> None:
        """Note that the first request goes out; later ones change nothing."""
        if self._started is None:
            self._started = time.monotonic()
            self._end = self._started + self.seconds

    def remaining(self) -> float:
        """Seconds left, not below zero."""
        return self.seconds if self._started is None else max(0.0, self._end - time.monotonic())

    def elapsed(self) -> float:
        """Seconds since the first request."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def progress(self) -> None:
        """Note that bytes arrived."""
        if self.renewed:
            self.stalls = 0
            self._end = time.monotonic() + self.seconds


async def retrying(
    attempt: Callable[[], Awaitable[T]], *, what: str, deadline: Deadline, answered: Callable[[], bool] = lambda: True
) -> T:
    """Repeat `attempt` until it returns, raises something that will not pass, or the deadline is over.

    Args:
        attempt: one request; raises `TransientFault` when it is worth repeating.
        what: what is being done, and to which object; begins the error's message.
        deadline: of the whole call, shared by its requests.
        answered: whether the server has ever answered this process.

    Returns:
        What `attempt` returns.

    Raises:
        StoreTimeoutError: if every try ran into a time limit.
        ShortReadError: if the last try that failed otherwise got too few bytes.
        StoreUnavailableError: if it failed in another way.
    """
    deadline.begin()
    tries = silent = 0
    last: TransientFault | None = None
    while True:
        tries += 1
        try:
            return await _within(deadline, attempt)
        except TransientFault as fault:
            if fault.kind == "timeout" and last is not None:
                silent += 1  # silence says less than what was heard before it
            else:
                last, silent = fault, 0
            pause = _pause_s(tries, fault)
            if _is_over(fault, tries, pause, deadline, answered()):
                raise _gave_up(what, tries, deadline, last, silent) from last.__cause__
            # `what` names the object masked, and the backends have scrubbed what the fault says.
            _log.debug("%s for now, try %d failed: %s. The next one in %.2f s.", what, tries, fault, pause)
        count(retries=1)
        await asyncio.sleep(pause)


async def _within(deadline: Deadline, attempt: Callable[[], Awaitable[T]]) -> T:
    """Run one try, ended by the deadline; a renewed one is looked at again whenever it seems to be over."""
    task = asyncio.ensure_future(attempt())
    try:
        while True:
            done, _ = await asyncio.wait([task], timeout=deadline.remaining())
            if done:
                return task.result()
            if deadline.remaining() <= 0:
                return await _at_last(task)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
        if task.done() and not task.cancelled():
            task.exception()  # seen, also where this wait was itself cancelled: asyncio need not report it at its end


async def _at_last(task: asyncio.Future[T]) -> T:
    """What a try has come to whose time is over, if it needs nothing any more that is still on its way."""
    for _ in range(_LAST_TURNS):
        if task.done():
            return task.result()
        await asyncio.sleep(0)
    raise TimeIsUp


def _pause_s(tries: int, fault: TransientFault) -> float:
    """Doubling pauses with jitter, so that many workers do not come back at the same moment."""
    pause: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(tries - 1, 10)) * random.uniform(0.5, 1.0)
    return max(pause, fault.retry_after_s or 0.0)


def _is_over(fault: TransientFault, tries: int, pause: float, deadline: Deadline, answered: bool) -> bool:  # noqa: FBT001
    if deadline.renewed and fault.kind == "timeout":
        deadline.stalls += 1
        if deadline.stalls >= STALLS:
            return True
    if fault.kind == "connect" and not answered and tries >= CONNECT_TRIES:
        return True
    return pause >= deadline.remaining()


def _gave_up(what: str, tries: int, deadline: Deadline, fault: TransientFault, silent: int) -> StoreError:
    limit = f"{deadline.seconds:g} s without a byte" if deadline.renewed else f"{deadline.seconds:g} s"
    message = f"{what}: gave up after {_tries(tries)} in {deadline.elapsed():.1f} s (limit {limit}). Last: {fault}"
    message += f", and no answer in time to {_tries(silent)} after it." if silent and fault.kind != "timeout" else "."
    if fault.kind == "timeout":
        return StoreTimeoutError(message + " Check the network, or raise deadline_s or stall_s of the ObjectStore.")
    if fault.kind == "short":
        return ShortReadError(message + " The server, or a proxy before it, keeps cutting its answers short.")
    return StoreUnavailableError(message + " Check the address and the store's state, then try again.")


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, given as seconds or as a date; None without a valid one."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
