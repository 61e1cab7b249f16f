"""Clips that cannot be read: which others take their places, how many may be skipped, and what is said of each.

The substitute of a clip depends on the clip alone, not on who reads it or when: batches keep their sizes and ranks stay
in step, and a run that is resumed skips as it did before.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lazyvid.errors import LazyVidError, StoreTimeoutError, StoreUnavailableError
from lazyvid.frames import Window
from lazyvid.process_lock import ProcessLock
from lazyvid.stats import count

OnError = Literal["raise", "skip"]

PROBATION = 100
"""Clips that must have been asked for before `max_error_rate` is held against what was skipped."""

_MOST_SUBSTITUTES = 16
_MOST_STORE_FAILURES = 3
"""A store that does not answer is waited for each time: it is not asked for 16 substitutes."""
_REASONS = 5
_log = logging.getLogger(__name__)


class ErrorBudget:
    """How many of the clips that this process asks for may be skipped.

    Args:
        max_error_rate: The share of the clips asked for, in [0, 1], once `PROBATION` of them were; None is no bound.

    Raises:
        ValueError: if the rate is not in [0, 1].
    """

    def __init__(self, max_error_rate: float | None) -> None:
        if max_error_rate is not None and not 0 <= max_error_rate <= 1:
            raise ValueError(f"Invalid max_error_rate={max_error_rate!r}: expected a share in [0, 1], or None.")
        self.max_error_rate = max_error_rate
        self._lock = ProcessLock()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._asked = self._skipped = 0
        self._reasons: deque[str] = deque(maxlen=_REASONS)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_error_rate,)  # who receives it counts for itself

    def spend(self, *, asked: int = 0, reason: str | None = None) -> None:
        """Count clips asked for, and one that is skipped where there is a reason.

        Raises:
            LazyVidError: if more were skipped than may be.
        """
        with self._lock.here():
            if self._pid != os.getpid():
                self._begin()
            self._asked += asked
            if reason is not None:
                self._skipped += 1
                self._reasons.append(reason)
            asked, skipped, reasons = self._asked, self._skipped, list(self._reasons)
        allowed = self.max_error_rate
        if reason is None or allowed is None or asked < PROBATION or skipped <= allowed * asked:
            return
        raise LazyVidError(
            f"Expected at most {allowed:.3g} of the clips to be skipped (max_error_rate), but {skipped} of {asked} "
            f"that this process asked for were ({skipped / asked:.3g}). The last reasons: {' | '.join(reasons)}. "
            "Mend or leave out these videos (lazyvid verify), or allow more."
        )


@dataclass(frozen=True, slots=True, eq=False)
class Skipping:
    """What is done about clips that cannot be read."""

    on_error: OnError
    budget: ErrorBudget
    substitutes: Callable[[Window], Iterable[Window]]
    """Others that may take a window's place, the best first; depends on nothing but the window."""
    named: Callable[[Window], str]
    """A window as messages name it."""

    def read(
        self,
        windows: Sequence[Window],
        together: Callable[[], list[Any]],
        read: Callable[[Sequence[Window]], list[Any]],
    ) -> list[Any]:
        """One sample for each window.

        Args:
            windows: What is asked for.
            together: Reads all of them at once; tried first.
            read: Reads some windows.

        Raises:
            LazyVidError: if a clip cannot be read and must not be skipped, nothing can be read in its place, or too
                many were skipped.
        """
        if self.on_error == "raise":
            return together()
        self.budget.spend(asked=len(windows))
        try:
            return together()
        except LazyVidError:
            return [self._read_one(window, read) for window in windows]

    def _read_one(self, window: Window, read: Callable[[Sequence[Window]], list[Any]]) -> Any:
        try:
            return read([window])[0]
        except LazyVidError as error:
            reason = f"{self.named(window)}: {type(error).__name__}: {error}"
            _log.warning("skipped %s", reason)
            count(samples_skipped=1)
            self.budget.spend(reason=reason)
            return self._read_substitute(window, read, error)

    def _read_substitute(
        self, window: Window, read: Callable[[Sequence[Window]], list[Any]], error: LazyVidError
    ) -> Any:
        tried, silent = 1, int(_is_silence(error))
        for candidate in self.substitutes(window):
            if tried > _MOST_SUBSTITUTES or silent >= _MOST_STORE_FAILURES:
                break
            try:
                (sample,) = read([candidate])
            except LazyVidError as also:
                _log.warning("nor can %s be read: %s: %s", self.named(candidate), type(also).__name__, also)
                error, tried, silent = also, tried + 1, silent + _is_silence(also)
            else:
                _log.warning("%s takes the place of %s", self.named(candidate), self.named(window))
                return sample
        raise LazyVidError(
            f"Expected {self.named(window)} or another clip in its place, found none that can be read among {tried}; "
            f"the last one failed with {type(error).__name__}: {error}"
        ) from error


def _is_silence(error: LazyVidError) -> bool:
    return isinstance(error, (StoreTimeoutError, StoreUnavailableError))
