"""When a trainer hears of a dead worker: as it asks for the next batch, not in the middle of its own step.

torch's handler of SIGCHLD raises a plain RuntimeError wherever the main thread stands. `hold_news` puts another one
around it, which keeps such news back while nobody waits for the worker that died; `processes.py` looks before each
batch.
"""

from __future__ import annotations

import re
import signal
import threading
import weakref
from types import FrameType
from typing import Any, Protocol

from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler


class Employer(Protocol):
    """Has worker processes, and waits for them or not."""

    waits: bool
    """Whether the main thread is waiting for a batch."""

    def employs(self, pid: int) -> bool:
        """Whether a process is one of the workers."""


class _HeldNews:
    """A handler of SIGCHLD around torch's."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self.employers: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handler(number, frame)
        except RuntimeError as error:
            found = re.search(r"pid (\d+)", str(error))
            pid = int(found[1]) if found else 0
            if not any(employer.employs(pid) and not employer.waits for employer in self.employers):
                raise


def hold_news(employer: Employer) -> None:
    """Keep back the news of this employer's dead workers while it does not wait; to be called before it starts them."""
    if threading.current_thread() is not threading.main_thread():
        return
    _set_SIGCHLD_handler()  # torch would set its own as the first workers run, and hear of their deaths at once
    handler = signal.getsignal(signal.SIGCHLD)
    if not isinstance(handler, _HeldNews):
        if not callable(handler):
            return
        handler = _HeldNews(handler)
        signal.signal(signal.SIGCHLD, handler)
    handler.employers.add(employer)
