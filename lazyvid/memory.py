"""`BatchMemory`: tensors for batch after batch, in memory that stays warm; below every room.

A batch's pixels are written once and dropped soon after. To write them to fresh memory costs up to a fifth of decoding
them (640x360, 8 clips): the system hands it out page by page, each cleared first. What was dropped is therefore kept
for the next batch, as torch keeps the memory of a GPU.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ALIGNMENT = 64
"""As torch aligns."""

_STEP = 2 << 20
"""Sizes are rounded up to a multiple, so that batches of nearly one size can lie in the same memory."""

_MOST_TOO_LARGE = 1.25
"""How many times what is asked for a piece of memory may be."""

_Block = npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Idle:
    """Blocks waiting for use; belongs to the process that made it."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: list[_Block] = field(default_factory=list)
    """The one used last is the last; under the lock."""
    returned: deque[_Block] = field(default_factory=deque)
    """Not yet among the blocks: blocks may come back in the middle of anything, also of a thread that has the lock."""

    @property
    def nbytes(self) -> int:
        """What is kept; nearly, while other threads take and give back."""
        # A tuple of them is made in one step.
        return sum(block.nbytes for block in (*tuple(self.blocks), *tuple(self.returned)))


class BatchMemory:
    """Uninitialised uint8 tensors whose memory is kept when nothing refers to it any more. Thread-safe.

    A forked child starts with nothing: to write to its parent's pages would copy them first.

    Args:
        least: Bytes of the smallest tensor that is served; what is smaller, the C library keeps warm by itself.
        max_idle: Bytes to keep; what has waited longest goes first.
    """

    def __init__(self, *, least: int = 4 << 20, max_idle: int = 256 << 20) -> None:
        if least < 1 or max_idle < 0:
            raise ValueError(f"Expected least >= 1 and max_idle >= 0, got {least=} and {max_idle=}.")
        self._least, self._max_idle = least, max_idle
        self._idle = _Idle()

    @property
    def idle_bytes(self) -> int:
        """What this process keeps, in bytes."""
        idle = self._own()
        with idle.lock:
            self._absorb(idle)
            return sum(block.nbytes for block in idle.blocks)

    def empty(self, shape: Sequence[int]) -> Tensor:
        """An uninitialised uint8 tensor of this shape."""
        shape = tuple(shape)
        nbytes = math.prod(shape)
        if nbytes < self._least:
            return torch.empty(shape, dtype=torch.uint8)
        idle = self._own()
        block = self._take(idle, math.ceil((nbytes + _ALIGNMENT) / _STEP) * _STEP)
        first = -block.ctypes.data % _ALIGNMENT
        # The storage of the tensor, and of all views of it, holds this very array, and nothing else does: when it goes,
        # nobody can reach the memory any more. (An array made from it would hold the block in its place.)
        lent = block[first : first + nbytes].reshape(shape)
        weakref.finalize(lent, self._give_back, idle, block).atexit = False
        return torch.from_numpy(lent)

    def _own(self) -> _Idle:
        if self._idle.pid != os.getpid():
            self._idle = _Idle()
        return self._idle

    def _take(self, idle: _Idle, nbytes: int) -> _Block:
        with idle.lock:
            self._absorb(idle)
            sizes = [block.nbytes for block in idle.blocks]
            fitting = [i for i, size in enumerate(sizes) if nbytes <= size <= nbytes * _MOST_TOO_LARGE]
            if fitting:  # of the smallest, the one used last
                return idle.blocks.pop(min(reversed(fitting), key=sizes.__getitem__))
            if nbytes <= self._max_idle:  # it will come back: in the place of what has waited longest
                self._shrink(idle, self._max_idle - nbytes)
        # Not numpy's own: it asks for huge pages, for which the system may have to move others first. That cost up to
        # three times as much as all small ones, and memory that is used again needs neither.
        return torch.empty(nbytes, dtype=torch.uint8).numpy()

    def _give_back(self, idle: _Idle, block: _Block) -> None:
        # Called wherever the last reference goes, by the garbage collector too: it must not wait for a lock, nor take
        # one, since a Ctrl-C that comes in here is dropped with whatever it kept from being done.
        if idle.pid != os.getpid():
            return
        idle.returned.append(block)
        while idle.returned and idle.nbytes > self._max_idle:
            with contextlib.suppress(IndexError):  # another thread took it
                idle.returned.popleft()

    def _absorb(self, idle: _Idle) -> None:
        """Keep what came back, as far as it may be kept; to be called with the lock."""
        while idle.returned:
            with contextlib.suppress(IndexError):  # dropped meanwhile
                idle.blocks.append(idle.returned.popleft())
        self._shrink(idle, self._max_idle)

    def _shrink(self, idle: _Idle, most: int) -> None:
        held = sum(block.nbytes for block in idle.blocks)
        while idle.blocks and held > most:
            held -= idle.blocks.pop(0).nbytes


class _Default:
    """The memory that clips of this process lie in."""

    memory = BatchMemory()


def default_memory() -> BatchMemory:
    """The process's own."""
    return _Default.memory
