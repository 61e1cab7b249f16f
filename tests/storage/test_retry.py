from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import pytest

from lazyvid.errors import ObjectNotFoundError, ShortReadError, StoreTimeoutError, StoreUnavailableError
from lazyvid.storage import retry
from lazyvid.storage.retry import CONNECT_TRIES, STALLS, Deadline, TransientFault, retry_after_s, retrying


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes to see that there is one."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.02)


def run(attempt: Callable[[], Awaitable[object]], deadline: Deadline, *, answered: bool = True) -> object:
    return asyncio.run(_run(attempt, deadline, answered))  # type: ignore[arg-type]


async def _run(attempt: Callable[[], Awaitable[object]], deadline: Deadline, answered: bool) -> object:
    return await retrying(attempt, what="Cannot x", deadline=deadline, answered=lambda: answered)


def failing(faults: list[Exception], calls: list[float]) -> Callable[[], Awaitable[object]]:
    async def attempt() -> object:
        calls.append(time.monotonic())
        if faults:
            raise faults.pop(0)
        return "done"

    return attempt


def test_it_is_repeated_with_growing_pauses() -> None:
    calls: list[float] = []
    assert run(failing([TransientFault("a")] * 4, calls), Deadline(60)) == "done"
    pauses = [after - before for before, after in itertools.pairwise(calls)]
    assert len(pauses) == 4
    for i, pause in enumerate(pauses):
        assert pause >= 0.5 * retry.FIRST_PAUSE_S * 2**i


def test_what_will_not_pass_is_raised_at_once() -> None:
    calls: list[float] = []
    with pytest.raises(ObjectNotFoundError):
        run(failing([ObjectNotFoundError("gone")], calls), Deadline(60))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [("timeout", StoreTimeoutError), ("short", ShortReadError), ("failure", StoreUnavailableError)],
)
def test_the_last_failure_names_the_error(kind: str, error: type[Exception]) -> None:
    async def attempt() -> object:
        raise TransientFault("the reason", kind=kind) from OSError("the cause")  # type: ignore[arg-type]

    with pytest.raises(
        error, match=r"Cannot x: gave up after \d+ (try|tries) in \d+\.\d s \(limit 0\.5 s\)\. Last: the reason"
    ) as e:
        run(attempt, Deadline(0.5))
    assert isinstance(e.value.__cause__, OSError)


def test_the_deadline_ends_a_try_that_hangs() -> None:
    async def attempt() -> object:
        await asyncio.sleep(3600)
        return None

    with pytest.raises(StoreTimeoutError, match="1 try"):
        run(attempt, Deadline(0.3))


def test_a_failure_before_the_time_was_up_says_more() -> None:
    faults = [TransientFault("busy")]

    async def attempt() -> object:
        if faults:
            raise faults.pop()
        await asyncio.sleep(3600)
        return None

    with pytest.raises(StoreUnavailableError, match="busy"):
        run(attempt, Deadline(0.5))


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("short", ShortReadError, r"Last: the reason, and no answer in time to \d+ (try|tries) after it\."),
        ("failure", StoreUnavailableError, r"Last: the reason, and no answer in time to \d+ (try|tries) after it\."),
        ("timeout", StoreTimeoutError, r"Last: the reason\. Check the network"),
    ],
)
def test_silence_says_less_than_what_was_heard_before_it(kind: str, error: type[Exception], said: str) -> None:
    calls: list[float] = []
    silence = [TransientFault("silence", kind="timeout") for _ in range(20)]
    with pytest.raises(error, match=said):
        run(failing([TransientFault("the reason", kind=kind), *silence], calls), Deadline(0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", ["done", ObjectNotFoundError("gone"), TransientFault("busy")], ids=str)
def test_an_answer_that_came_in_time_counts_however_late_it_is_read(outcome: object) -> None:
    async def late(*, turns: int) -> object:
        time.sleep(0.1)  # as a machine that does not come to it, though all has arrived
        for _ in range(turns):
            await asyncio.sleep(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    if outcome == "done":
        assert run(lambda: late(turns=10), Deadline(0.05)) == "done"
    else:
        with pytest.raises((ObjectNotFoundError, StoreUnavailableError), match=str(outcome)):
            run(lambda: late(turns=10), Deadline(0.05))
    with pytest.raises(StoreTimeoutError, match="no complete answer"):
        run(lambda: late(turns=10_000_000), Deadline(0.05))


def test_the_time_begins_with_the_first_request() -> None:
    deadline = Deadline(0.2)
    time.sleep(0.3)
    assert (deadline.remaining(), deadline.elapsed()) == (0.2, 0.0)
    calls: list[float] = []
    assert run(failing([], calls), deadline) == "done"
    time.sleep(0.3)
    assert deadline.remaining() == 0.0
    assert deadline.elapsed() >= 0.3


def test_progress_renews_a_copy() -> None:
    deadline = Deadline(1.5, renewed=True)

    async def attempt() -> object:
        for _ in range(9):
            await asyncio.sleep(0.2)
            deadline.progress()
        return "done"

    assert run(attempt, deadline) == "done"
    assert Deadline(0.1).renewed is False


def test_a_copy_that_stalls_again_and_again_ends() -> None:
    calls: list[float] = []
    with pytest.raises(StoreTimeoutError):
        run(failing([TransientFault("silence", kind="timeout")] * 20, calls), Deadline(600, renewed=True))
    assert len(calls) == STALLS


def test_a_server_that_never_answered_is_given_up_sooner() -> None:
    calls: list[float] = []
    with pytest.raises(StoreUnavailableError):
        run(failing([TransientFault("refused", kind="connect")] * 20, calls), Deadline(600), answered=False)
    assert len(calls) == CONNECT_TRIES


def test_retry_after() -> None:
    assert retry_after_s("3") == 3.0
    assert retry_after_s("-3") == 0.0
    assert retry_after_s(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=5)
    for nothing in (None, "", "soon"):
        assert retry_after_s(nothing) is None
