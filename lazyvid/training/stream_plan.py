"""Which batches a stream gives, from which place on, and what its state is after some of them; reads nothing.

A place is an epoch and a position in its plan, which all ranks and workers share.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lazyvid.frames import Window
from lazyvid.training.samplers import DistributedClipSampler


@dataclass(frozen=True, slots=True, eq=False)
class StreamPlan:
    """A sampler's windows in groups: batches, or single clips."""

    sampler: DistributedClipSampler
    """Never iterated, so that it stands where it was made."""
    size: int
    """Windows of a group."""
    drop_last: bool
    endless: bool

    def __len__(self) -> int:
        """Groups of a whole epoch on this rank."""
        return self.count(len(self.sampler))

    def count(self, windows: int) -> int:
        """Groups that so many windows make."""
        return windows // self.size if self.drop_last else -(-windows // self.size)

    def at(self, epoch: int, position: int) -> StreamRun:
        """The stream from a place on; where nothing is left of an epoch, from the next one's begin on."""
        sampler = copy.copy(self.sampler)
        sampler.load_state_dict({**sampler.state_at(0), "epoch": epoch, "position": position})
        if not self.count(len(sampler) - sampler.start):
            sampler.set_epoch(sampler.epoch + 1)
        return StreamRun(self, sampler)

    def place_of(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Epoch and position that a state names.

        Raises:
            ValueError: if it is the state of another plan or seed, or none at all.
        """
        copy.copy(self.sampler).load_state_dict(dict(state))
        return int(state["epoch"]), int(state["position"])

    def settled(self) -> StreamPlan:
        """The same for this rank wherever it is asked for, also where no process group knows of it."""
        own = self.sampler
        fixed = DistributedClipSampler(own.sampler, num_replicas=own.num_replicas, rank=own.rank, uneven=own.uneven)
        return replace(self, sampler=fixed)


class StreamRun:
    """One iteration of a stream on one rank, for all its workers together."""

    def __init__(self, plan: StreamPlan, sampler: DistributedClipSampler) -> None:
        """Begin where a sampler stands."""
        self._plan = plan
        self._sampler = sampler
        self.given = 0
        """Groups that all workers together have given out; counted by who gives them."""

    @property
    def epoch(self) -> int:
        """The epoch that it begins in."""
        return self._sampler.epoch

    def groups(self) -> Iterator[list[Window]]:
        """The windows of each batch, in order; without end if the stream is."""
        sampler = copy.copy(self._sampler)
        while True:
            windows = iter(sampler)
            while group := list(itertools.islice(windows, self._plan.size)):
                if len(group) == self._plan.size or not self._plan.drop_last:
                    yield group
            if not self._plan.endless:
                return
            sampler.set_epoch(sampler.epoch + 1)

    def state_at(self, consumed: int) -> dict[str, Any]:
        """The state when so many groups of this rank were delivered since the run began.

        Raises:
            ValueError: if the run does not give out as many.
        """
        sampler = copy.copy(self._sampler)
        rest = len(sampler) - sampler.start
        groups = self._plan.count(rest)
        if consumed > groups and self._plan.endless:
            later, consumed = divmod(consumed - groups - 1, len(self._plan))
            consumed += 1
            sampler.set_epoch(sampler.epoch + 1 + later)
            rest, groups = len(sampler), len(self._plan)
        if not 0 <= consumed <= groups:
            raise ValueError(f"Expected 0 to {groups} since the iteration began, got {consumed}.")
        return sampler.state_at(rest if consumed == groups else consumed * self._plan.size)


class SharedPlace:
    """Where the next iteration begins: seen by all worker processes of a stream, also by those that run already."""

    def __init__(self, values: torch.Tensor) -> None:
        """Share the values with the processes that get this object from now on.

        Args:
            values: int64 [3]: epoch, position, and how often they were set.
        """
        # Where there is no shared memory there are no worker processes either.
        with contextlib.suppress(RuntimeError, OSError):
            values.share_memory_()  # type: ignore[no-untyped-call]
        self._values = values

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._values,)

    @classmethod
    def at(cls, epoch: int, position: int) -> SharedPlace:
        """A place of its own."""
        return cls(torch.tensor([epoch, position, 0]))

    def get(self) -> tuple[int, int, int]:
        """Epoch, position, and how often they were set."""
        epoch, position, times = self._values.tolist()
        return epoch, position, times

    def set(self, epoch: int, position: int) -> None:
        """Begin there, in all processes."""
        self._values.copy_(torch.tensor([epoch, position, int(self._values[2]) + 1]))
