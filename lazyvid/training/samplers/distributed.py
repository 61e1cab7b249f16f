"""`DistributedClipSampler`: any clip sampler's plan dealt out to ranks, dealt anew when their number changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch.distributed
from torch.utils.data import DistributedSampler

from lazyvid.arguments import check_word
from lazyvid.frames import Window
from lazyvid.training.extents import IntArray
from lazyvid.training.samplers.base import ClipSampler, Share

Uneven = Literal["drop", "pad", "keep"]


class DistributedClipSampler(ClipSampler, DistributedSampler[Window]):
    """The part of a sampler's plan that one rank of W has: positions r, r + W, r + 2 W, ...

    A state is the same on each rank and may be loaded with another number of ranks: what is left of the epoch is then
    dealt to the new ones, each window once. It is the state of the inner sampler, too. Being a
    `torch.utils.data.DistributedSampler`, it is left alone by Lightning.

    Args:
        sampler: The plan: any other sampler of this package. Only its order counts; epoch and position are kept here.
        num_replicas: Ranks; None asks `torch.distributed` whenever it matters, and is 1 where no group is initialised.
        rank: This one; None likewise, and is 0 where no group is initialised.
        uneven: What happens when the windows do not go round evenly. "drop": fewer than W windows at the plan's end are
            left out. "pad": the plan's first windows are given out again to fill up. "keep": no window is left out or
            repeated, and some ranks have one more than others; for evaluation, as training in step would wait for ever.

    Raises:
        TypeError: if `sampler` is no `ClipSampler`, or is distributed already.
        ValueError: if an argument has a wrong value.
    """

    def __init__(
        self,
        sampler: ClipSampler,
        *,
        num_replicas: int | None = None,
        rank: int | None = None,
        uneven: Uneven = "drop",
    ) -> None:
        if not isinstance(sampler, ClipSampler) or isinstance(sampler, DistributedClipSampler):
            raise TypeError(
                f"Expected a sampler of lazyvid.training that is not distributed yet, got {type(sampler).__name__}: "
                "DistributedClipSampler(RandomClipSampler(dataset)), for example."
            )
        check_word("uneven", uneven, get_args(Uneven))
        super().__init__(sampler._total, sampler._plan, seed=sampler.seed)
        self._go(sampler.epoch, sampler._next)
        self.sampler = sampler
        self.uneven = uneven
        self._num_replicas = num_replicas
        self._rank = rank
        _ = self.rank  # raises where it is wrong already

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Ranks."""
        replicas = self._num_replicas
        if replicas is None:
            replicas = torch.distributed.get_world_size() if _has_group() else 1
        if replicas < 1:
            raise ValueError(f"Invalid num_replicas {replicas}: expected 1 or more.")
        return replicas

    @property
    def rank(self) -> int:  # type: ignore[override]
        """This rank."""
        rank = self._rank
        if rank is None:
            rank = torch.distributed.get_rank() if _has_group() else 0
        if not 0 <= rank < self.num_replicas:
            raise ValueError(f"Invalid rank {rank}: expected 0 to {self.num_replicas - 1}.")
        return rank

    @property
    def drop_last(self) -> bool:  # type: ignore[override]
        """Whether windows at the plan's end are left out; as torch calls it."""
        return self.uneven == "drop"

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Windows of an epoch on this rank; as torch calls it."""
        return len(self)

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Windows of an epoch on all ranks together, as they are dealt; as torch calls it."""
        if self.uneven == "keep":
            return self._total
        return self.num_samples * self.num_replicas

    def _windows(self, positions: IntArray, epoch: int) -> IntArray:
        return self.sampler._windows(positions, epoch)

    def _share(self, begin: int) -> Share:
        ranks, rank, rest = self.num_replicas, self.rank, self._total - begin
        if self.uneven == "drop":
            count = rest // ranks
        elif self.uneven == "pad":
            count = -(-rest // ranks)
        else:
            count = max(-(-(rest - rank) // ranks), 0)
        return Share(begin + rank, ranks, count)

    def _is_over(self, position: int) -> bool:
        left = self._total - position
        return left < self.num_replicas if self.uneven == "drop" else left <= 0

    def __iter__(self) -> Iterator[Window]:
        """This rank's windows of the epoch, from the loaded position where there is one.

        Raises:
            ValueError: if there are fewer windows than ranks, and none may be repeated.
        """
        if self.uneven == "drop" and self._total < self.num_replicas:
            raise ValueError(
                f"Expected a window or more for each of {self.num_replicas} ranks, got {self._total} in all: use "
                "uneven='pad', or shorter windows."
            )
        return super().__iter__()

    def __repr__(self) -> str:
        return f"<DistributedClipSampler of {self.sampler!r}, uneven={self.uneven!r}>"


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
