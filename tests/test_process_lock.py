"""Locks that outlive forks: one holder at a time in each process, whatever the parent's threads were doing."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from lazyvid.process_lock import ProcessLock

_THREADS = 8


def test_a_lock_is_open_where_it_arrives() -> None:
    lock = ProcessLock()
    with lock.here():
        received = pickle.loads(pickle.dumps(lock))
        with received.here():
            pass
    with lock.here():
        pass


class _InterruptError(Exception):
    pass


def test_an_interrupt_never_leaves_a_lock_taken() -> None:
    """Wherever it comes: taken by a `with` written in Python, the lock was left so within a second."""
    lock = ProcessLock()
    armed = False

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise _InterruptError

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    end = time.monotonic() + 1.0
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        while time.monotonic() < end:
            try:
                armed = True
                with lock.here():
                    pass
                armed = False
            except _InterruptError:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    taken: list[bool] = []
    other = threading.Thread(target=lambda: taken.append(lock.here().acquire(timeout=10)))
    other.start()
    other.join()
    assert interrupted
    assert taken == [True]


def most_at_once(lock: ProcessLock, answer: Connection) -> None:
    """Send how many of several threads that come at once were inside together, or what they raised."""
    inside, most, failures = 0, 0, []
    start = threading.Barrier(_THREADS)

    def enter() -> None:
        nonlocal inside, most
        try:
            start.wait(timeout=60)
            with lock.here():
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1
        except Exception as error:
            failures.append(repr(error))

    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=enter, daemon=True) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    answer.send((most, failures))


def test_threads_of_a_forked_child_agree_on_one_lock() -> None:
    lock = ProcessLock()
    with lock.here():  # held at the moment of the fork, by a thread that the children do not have
        for _ in range(10):
            here, there = multiprocessing.Pipe(duplex=False)
            child = multiprocessing.get_context("fork").Process(target=most_at_once, args=(lock, there), daemon=True)
            child.start()
            assert here.poll(60)
            assert here.recv() == (1, [])
            child.join(timeout=60)
