"""Threads that nobody has to wait for: results, errors, and an end whatever they do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from lazyvid.training.daemons import DaemonPool


@pytest.fixture
def pool() -> Iterator[DaemonPool]:
    made = DaemonPool(2, name="lazyvid-test")
    yield made
    made.close()


def named() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lazyvid-test")]


def gone(*, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while named() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not named()


def test_results_and_errors_come_from_the_calls(pool: DaemonPool) -> None:
    futures = [pool.submit(lambda x: 12 // x, x) for x in (3, 0, 4)]
    assert futures[0].result(30) == 4
    with pytest.raises(ZeroDivisionError):
        futures[1].result(30)
    assert futures[2].result(30) == 3


def test_calls_run_side_by_side(pool: DaemonPool) -> None:
    meeting = threading.Barrier(2)
    futures = [pool.submit(meeting.wait, 30) for _ in range(2)]
    assert sorted(future.result(30) for future in futures) == [0, 1]


def test_closed_it_cancels_what_was_not_begun_and_ends(pool: DaemonPool) -> None:
    go = threading.Event()
    running = [pool.submit(go.wait, 30) for _ in range(2)]
    while not all(future.running() for future in running):
        time.sleep(0.01)
    waiting = pool.submit(abs, -1)
    pool.close()
    assert waiting.cancelled()
    assert len(named()) == 2, "nobody waits"
    go.set()
    assert [future.result(30) for future in running] == [True, True]
    assert gone()


def test_a_pool_that_is_dropped_ends() -> None:
    pool = DaemonPool(2, name="lazyvid-test")
    pool.submit(abs, -1).result(30)
    del pool
    assert gone()


_PROGRAM = """
import sys, time
from lazyvid.training import daemons
daemons._AT_EXIT_S = float(sys.argv[1])
def work(seconds):
    time.sleep(seconds)
    print("done", flush=True)
pool = daemons.DaemonPool(1, name="lazyvid-test")
future = pool.submit(work, float(sys.argv[2]))
while not future.running():
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("patience", "seconds", "said"), [(30, 0.3, "done\n"), (0.3, 3600, "")])
def test_the_interpreter_waits_for_what_is_under_way_but_not_for_ever(
    patience: float, seconds: float, said: str
) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(patience), str(seconds)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == said
