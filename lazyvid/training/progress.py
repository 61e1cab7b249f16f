"""How far a loader is in its sampler's plan: what to draw next, and the state from which another loader can go on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch.utils.data import DistributedSampler, RandomSampler, Sampler

from lazyvid.training.samplers import ClipSampler, DistributedClipSampler

State = dict[str, Any]


class Progress(Protocol):
    """A sampler, and a place in the epoch that it plans."""

    sampler: Any
    """What the user, or Lightning, calls `set_epoch` on."""

    def __len__(self) -> int:
        """Items of a whole epoch."""

    @property
    def epoch(self) -> int:
        """The epoch that is read, or comes next."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that begins next; another one forgets the loaded place."""

    def begin(self) -> Iterator[Any]:
        """The items of the epoch, from the loaded place on; that place is used once."""

    @property
    def remaining(self) -> int:
        """Items that the next pass gives."""

    def state(self, consumed: int) -> State:
        """The state when so many items have been consumed since `begin`."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state."""

    def end_epoch(self) -> None:
        """Go to the next epoch."""


def progress_of(sampler: Any) -> Progress:
    """The progress of a sampler of any kind.

    Raises:
        TypeError: if it is no sampler.
    """
    if isinstance(sampler, DistributedClipSampler):
        return PlannedProgress(sampler)
    if isinstance(sampler, ClipSampler):
        return PlannedProgress(DistributedClipSampler(sampler))
    if isinstance(sampler, Sampler) or (hasattr(sampler, "__iter__") and hasattr(sampler, "__len__")):
        return CountedProgress(sampler)
    raise TypeError(f"Expected a sampler, got {type(sampler).__name__}: RandomClipSampler(dataset, ...), for example.")


class PlannedProgress:
    """Of a sampler whose order is a function of seed and epoch; its state counts in the plan of all ranks together."""

    def __init__(self, sampler: DistributedClipSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def epoch(self) -> int:
        """The sampler's."""
        return int(self.sampler.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that begins next."""
        self.sampler.set_epoch(epoch)

    def begin(self) -> Iterator[Any]:
        """The windows of this rank."""
        return iter(self.sampler)

    @property
    def remaining(self) -> int:
        """Windows of this rank from the loaded place on."""
        return len(self.sampler) - self.sampler.start

    def state(self, consumed: int) -> State:
        """The sampler's state; the same on every rank."""
        return dict(self.sampler.state_at(consumed))

    def load(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state.

        Raises:
            ValueError: if it belongs to another plan.
        """
        self.sampler.load_state_dict(dict(state))

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self.sampler.set_epoch(self.sampler.epoch + 1)


class CountedProgress:
    """Of any other sampler: a place is found again by drawing the items before it, without reading them."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self._own_epoch = 0
        self._loaded_epoch = 0
        self._start = 0  # where the next pass begins
        self._began = 0  # where this one began

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def epoch(self) -> int:
        """The sampler's own, where it has one."""
        return int(getattr(self.sampler, "epoch", self._own_epoch))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that begins next."""
        self._own_epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def begin(self) -> Iterator[Any]:
        """The sampler's items, from the loaded place on.

        Raises:
            ValueError: if several ranks would all read the same items.
        """
        self._refuse_ranks()
        self._began, self._start = len(self) - self.remaining, 0
        return itertools.islice(iter(self.sampler), self._began, None)

    @property
    def remaining(self) -> int:
        """Items from the loaded place on, where that lies in this epoch."""
        return len(self) - (self._start if self._loaded_epoch == self.epoch else 0)

    def state(self, consumed: int) -> State:
        """The epoch, and how many of its items are done.

        Raises:
            ValueError: if the sampler's order cannot be drawn again.
        """
        if isinstance(self.sampler, RandomSampler):
            raise ValueError(
                "Expected a sampler whose order is a function of seed and epoch, got torch's RandomSampler, which "
                "draws anew each time: use RandomClipSampler or BlockShuffleSampler."
            )
        return {"version": 1, "epoch": self.epoch, "position": self._began + consumed}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state; one at an epoch's end is the next one's begin."""
        over = int(state["position"]) >= len(self)
        self._loaded_epoch = int(state["epoch"]) + over
        self._start = self._began = 0 if over else int(state["position"])
        self.set_epoch(self._loaded_epoch)

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self._began = 0
        self.set_epoch(self.epoch + 1)

    def _refuse_ranks(self) -> None:
        import torch.distributed as dist

        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if ranks > 1 and not isinstance(self.sampler, DistributedSampler):
            raise ValueError(
                f"Expected a sampler that deals items out to {ranks} ranks, got {type(self.sampler).__name__}, which "
                "gives all of them to each: use a ClipSampler, or a DistributedSampler."
            )
