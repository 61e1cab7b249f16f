"""A Ctrl-C within the block or at its end, whatever became of the exception meanwhile."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from lazyvid.training.interrupts import HeedingInterrupts


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """Python's own, before and after."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def _raised_within(steps: list[str]) -> None:
    with HeedingInterrupts():
        signal.raise_signal(signal.SIGINT)
        steps.append("went on")


def test_an_interrupt_within_the_block_is_raised_there() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _raised_within(steps)
    assert not steps


def _dropped(instead: type[Exception] | None) -> None:
    with HeedingInterrupts():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if instead is not None:
            raise instead


@pytest.mark.parametrize("instead", [None, StopIteration, RuntimeError])
def test_an_interrupt_that_was_dropped_is_raised_at_the_end(instead: type[Exception] | None) -> None:
    with pytest.raises(KeyboardInterrupt):
        _dropped(instead)


def test_without_an_interrupt_nothing_changes() -> None:
    with HeedingInterrupts():
        pass
    with pytest.raises(StopIteration), HeedingInterrupts():
        raise StopIteration


def test_a_programs_own_handler_is_left_alone() -> None:
    heard = []
    own = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with HeedingInterrupts():
        signal.raise_signal(signal.SIGINT)
    assert heard == [1]
    signal.signal(signal.SIGINT, own)
