"""A Ctrl-C is never lost: Python drops one that it happens to raise within a finalizer."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class HeedingInterrupts:
    """A block in which a Ctrl-C always raises `KeyboardInterrupt`: within it, or else at its end.

    To take over a batch from a worker runs finalizers written in Python, of connections and of storages. An exception
    there is printed and dropped ("Exception ignored in ..."), and the trainer would train on.

    Does nothing in other threads than the main one, nor where the program handles SIGINT in its own way.
    """

    def __init__(self) -> None:
        self._heard = False
        self._watches = False

    def __enter__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._watches = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._watches:
            signal.signal(signal.SIGINT, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watches:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._heard and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        signal.default_int_handler(number, frame)
