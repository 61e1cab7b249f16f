"""`ClipSampler`: an epoch's windows as a pure function of (seed, epoch, position), with a position that can be saved.

What the samplers share: iteration, state and arguments. Which window stands at a position is each one's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from lazyvid.frames import Window
from lazyvid.training.extents import IntArray
from lazyvid.training.samplers.hashing import UintArray, hashed

_VERSION = 1
_CHUNK = 4096
"""Windows that are worked out together."""

# What a random number is for: the second word of its name.
ORDER, OFFSETS, DRAWS, GROUPS, TRANSFORMS = range(5)


@dataclass(frozen=True, slots=True)
class Share:
    """Which positions of the rest of a plan are this sampler's: `first`, `first + stride`, ..., `count` of them."""

    first: int
    stride: int
    count: int


@dataclass(slots=True)
class _Run:
    """One iteration: where it began, and how far it is."""

    epoch: int
    origin: int
    yielded: int = 0


class ClipSampler(Sampler[Window], ABC):
    """Windows in an order that is a pure function of `(seed, epoch)`; never a list of them.

    Give it to a `DataLoader` over a `ClipDataset`. Call `set_epoch` before each epoch (Lightning and `ClipLoader` do):
    without it every epoch is the same, as it is with torch's `DistributedSampler`. A position counts in the plan of the
    whole epoch, which all ranks share; `DistributedClipSampler` deals it out.
    """

    def __init__(self, total: int, plan: str, *, seed: int) -> None:
        """Keep what all samplers have.

        Args:
            total: Windows of an epoch, of all ranks together.
            plan: Names what determines the order besides seed and epoch.
            seed: In [0, 2**64).
        """
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
            raise ValueError(f"Invalid seed {seed!r}: expected an int from 0 to 2**64 - 1.")
        self.seed = seed
        self.epoch = 0
        self._total = total
        self._plan = plan
        self._next = 0  # position in the plan where the next iteration begins
        self._run: _Run | None = None

    # -- the plan -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _windows(self, positions: IntArray, epoch: int) -> IntArray:
        """int64 [K, 3]: video, start, stop of the windows at these positions of an epoch's plan."""

    def windows(self, positions: IntArray) -> IntArray:
        """The windows at these positions of the epoch's plan.

        Args:
            positions: int64 [K], each in [0, windows of an epoch over all ranks).

        Returns:
            int64 [K, 3]: video, start, stop.

        Raises:
            IndexError: if there is no such position.
        """
        return self._windows(self._checked(positions), self.epoch)

    def seeds(self, positions: IntArray) -> UintArray:
        """uint64 [K], what the windows at these positions get as `Window.seed`, on whichever rank.

        Raises:
            IndexError: if there is no such position.
        """
        return self._seeds(self._checked(positions), self.epoch)

    def window_at(self, position: int) -> Window:
        """The window at this position of the epoch's plan, with its seed.

        Raises:
            IndexError: if there is no such position.
        """
        return next(self._at(self._checked(np.array([position], np.int64)), self.epoch))

    def _seeds(self, positions: IntArray, epoch: int) -> UintArray:
        return hashed(self.seed, TRANSFORMS, epoch, positions)

    def _at(self, positions: IntArray, epoch: int) -> Iterator[Window]:
        rows = self._windows(positions, epoch).tolist()
        for (video, start, stop), seed in zip(rows, self._seeds(positions, epoch).tolist(), strict=True):
            yield Window(video, start, stop, seed)

    def _checked(self, positions: IntArray) -> IntArray:
        asked = np.asarray(positions, np.int64)
        wrong = (asked < 0) | (asked >= self._total)
        if wrong.any():
            raise IndexError(f"Expected positions from 0 to {self._total - 1}, got {int(asked[wrong][0])}.")
        return asked

    # -- one epoch ----------------------------------------------------------------------------------------------------

    def _share(self, begin: int) -> Share:
        """Which of the positions from `begin` on are given out here."""
        return Share(begin, 1, self._total - begin)

    def __len__(self) -> int:
        """Windows of a whole epoch, also where the next iteration begins in the middle of one."""
        return self._share(0).count

    @property
    def start(self) -> int:
        """Where the next iteration begins: how many of the `len(self)` windows it leaves out."""
        return len(self) - self._share(self._begin()[1]).count

    def set_epoch(self, epoch: int) -> None:
        """Go to this epoch: to its begin, unless it is the epoch where this sampler is already.

        Raises:
            ValueError: if it is negative.
        """
        if epoch < 0:
            raise ValueError(f"Invalid epoch {epoch}: expected 0 or more.")
        if epoch != self.epoch:
            self._go(int(epoch), 0)

    def __iter__(self) -> Iterator[Window]:
        """The epoch's windows, from the loaded position where there is one; the iteration after it begins at 0."""
        self.epoch, origin = self._begin()
        self._run, self._next = _Run(self.epoch, origin), 0
        return self._iterate(self._run, self._share(origin))

    def _iterate(self, run: _Run, share: Share) -> Iterator[Window]:
        for begin in range(0, share.count, _CHUNK):
            chunk = np.arange(begin, min(begin + _CHUNK, share.count))
            positions = (share.first + share.stride * chunk) % self._total
            for window in self._at(positions, run.epoch):
                run.yielded += 1
                yield window

    def _is_over(self, position: int) -> bool:
        """Whether nothing of the plan from this position on is given out, to whichever rank."""
        return position >= self._total

    def _begin(self) -> tuple[int, int]:
        """Epoch and position of the next iteration; how many ranks there are may have changed since it was loaded."""
        return (self.epoch + 1, 0) if self._next and self._is_over(self._next) else (self.epoch, self._next)

    def _go(self, epoch: int, position: int) -> None:
        self.epoch, self._next, self._run = epoch, position, None

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state after what the running iteration has given out, as `state_at` gives it.

        A `DataLoader` with workers takes windows long before their batches are delivered: then `state_at` is right.
        """
        return self.state_at(self._run.yielded if self._run else 0)

    def state_at(self, consumed: int) -> dict[str, Any]:
        """The state when `consumed` windows of this sampler have been delivered since its iteration began.

        Args:
            consumed: From 0 to what the iteration gives out on this rank; then the state says that the epoch is over.

        Returns:
            A dict of ints and strings, the same on each rank: version, seed, epoch, position, plan.

        Raises:
            ValueError: if the iteration does not give out as many.
        """
        epoch, origin = (self._run.epoch, self._run.origin) if self._run else self._begin()
        share = self._share(origin)
        if not 0 <= consumed <= share.count:
            raise ValueError(f"Expected 0 to {share.count} windows since position {origin}, got {consumed}.")
        position = self._total if consumed == share.count else origin + consumed * share.stride
        return {"version": _VERSION, "seed": self.seed, "epoch": epoch, "position": position, "plan": self._plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration where `state` was taken; where that epoch was over, at the begin of the next one.

        Raises:
            ValueError: if it is the state of another plan or seed, or none at all.
        """
        ours = self.state_at(0)
        if missing := ours.keys() - state.keys():
            raise ValueError(f"Expected the state of a sampler, found none of {', '.join(sorted(missing))} in it.")
        for name in ("version", "plan", "seed"):
            if state[name] != ours[name]:
                raise ValueError(
                    f"Expected a state with {name} {ours[name]}, found {state[name]}: it was taken from another "
                    "sampler, or over other videos. Make the sampler as it was made then, or begin without the state."
                )
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= self._total:
            raise ValueError(f"Expected a position from 0 to {self._total}, found {position} of epoch {epoch}.")
        self._go(epoch, position)
        self._go(*self._begin())

    def __repr__(self) -> str:
        return f"<{self._plan}, seed={self.seed}, epoch={self.epoch}>"
