"""The laws of clip samplers, as functions that hold any sampler to them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import pytest

from lazyvid.frames import Window
from lazyvid.training.extents import Extents
from lazyvid.training.samplers import ClipSampler, DistributedClipSampler

Make = Callable[[int], ClipSampler]
"""Makes the sampler under test with a seed."""
Draws = list[tuple[int, int, int, int | None]]


def draws(windows: Sequence[Window]) -> Draws:
    """Windows with the seeds that their equality leaves out."""
    return [(w.video, w.start, w.stop, w.seed) for w in windows]


def epoch_of(sampler: ClipSampler, epoch: int) -> Draws:
    """What an epoch gives out on this rank."""
    sampler.set_epoch(epoch)
    return draws(list(sampler))


def check_pure(make: Make) -> None:
    """The order is a pure function of (seed, epoch), and a window and its seed of (seed, epoch, position)."""
    sampler = make(3)
    for epoch in (0, 7):
        plan = epoch_of(sampler, epoch)
        assert len(plan) == len(sampler) > 1
        assert epoch_of(make(3), epoch) == plan
        positions = np.arange(len(plan))
        windows, seeds = sampler.windows(positions), sampler.seeds(positions)
        assert windows.dtype == np.int64
        assert seeds.dtype == np.uint64
        assert [(*row, seed) for row, seed in zip(windows.tolist(), seeds.tolist(), strict=True)] == plan
        assert draws([sampler.window_at(p) for p in range(len(plan))]) == plan
        backward = positions[::-1]
        assert np.array_equal(sampler.windows(backward), windows[::-1])
        assert np.array_equal(sampler.seeds(backward), seeds[::-1])
        assert len(set(seeds.tolist())) == len(plan), "each draw has a seed of its own"
    assert not set(sampler.seeds(positions).tolist()) & set(make(4).seeds(positions).tolist())
    for outside in (-1, len(plan)):
        with pytest.raises(IndexError, match="positions from 0"):
            sampler.window_at(outside)


def check_epochs_differ(make: Make) -> None:
    """Another epoch has another order, and another seed too; the length stays."""
    sampler = make(0)
    plans = [[draw[:3] for draw in epoch_of(sampler, epoch)] for epoch in range(4)]
    plans.append([draw[:3] for draw in epoch_of(make(1), 0)])
    assert len({tuple(plan) for plan in plans}) == 5
    assert len({len(plan) for plan in plans}) == 1


def check_inside(make: Make, extents: Extents, length: int) -> None:
    """Every window has its length and lies in a recording."""
    first = dict(zip(extents.videos.tolist(), extents.first.tolist(), strict=True))
    stop = dict(zip(extents.videos.tolist(), extents.stop.tolist(), strict=True))
    for seed in range(5):
        for video, start, end, _ in epoch_of(make(seed), seed):
            assert end - start == length
            assert first[video] <= start < end <= stop[video]


def check_pickle(make: Make) -> None:
    """A copy goes on where the original stands."""
    sampler = make(5)
    sampler.set_epoch(2)
    sampler.load_state_dict(through_json(sampler.state_at(1)))
    copy = pickle.loads(pickle.dumps(sampler))
    assert (copy.epoch, copy.start, copy.state_dict()) == (2, 1, sampler.state_dict())
    assert draws(list(copy)) == draws(list(sampler))


def through_json(state: dict[str, object]) -> dict[str, object]:
    """The state as a checkpoint in text would keep it."""
    return json.loads(json.dumps(state))  # type: ignore[no-any-return]


def check_resume(make: Make) -> None:
    """A state taken anywhere gives the rest of its epoch, then whole ones; one from an epoch's end the next epoch."""
    sampler = make(6)
    plans = [epoch_of(sampler, epoch) for epoch in range(4)]
    count = len(sampler)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        running = iter(sampler)
        for consumed in range(count + 1):
            state = through_json(sampler.state_dict())
            assert state == sampler.state_at(consumed), "yielded is what state_dict counts"
            _check_goes_on(make(6), state, plans, epoch, consumed)
            next(running, None)


def _check_goes_on(fresh: ClipSampler, state: dict[str, object], plans: list[Draws], epoch: int, consumed: int) -> None:
    count = len(plans[0])
    fresh.set_epoch(9)
    fresh.load_state_dict(state)
    if consumed == count:
        epoch, consumed = epoch + 1, 0
    assert (fresh.epoch, fresh.start, len(fresh)) == (epoch, consumed, count)
    fresh.set_epoch(epoch)  # what a trainer does before each epoch: nothing, in this one
    assert fresh.state_at(0) == through_json(fresh.state_dict())
    assert draws(list(fresh)) == plans[epoch][consumed:]
    if consumed < 2:
        assert draws(list(fresh)) == plans[epoch], "the position is used once"
        assert epoch_of(fresh, epoch + 1) == plans[epoch + 1]


def check_foreign_states(make: Make, others: Sequence[ClipSampler]) -> None:
    """A state of another plan or seed is refused, with what differs."""
    sampler = make(0)
    for other in others:
        with pytest.raises(ValueError, match=r"Expected a state with plan .*, found .*: it was taken"):
            sampler.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="Expected a state with seed 0, found 1"):
        sampler.load_state_dict(make(1).state_dict())
    for broken, message in (({"version": 2}, "version"), ({"position": -1}, "position"), ({"position": 10**9}, "pos")):
        with pytest.raises(ValueError, match=message):
            sampler.load_state_dict(sampler.state_dict() | broken)
    with pytest.raises(ValueError, match="none of position"):
        sampler.load_state_dict({key: value for key, value in sampler.state_dict().items() if key != "position"})
    assert sampler.start == 0


# -- ranks ------------------------------------------------------------------------------------------------------------


def ranks_of(make: Make, ranks: int, uneven: str) -> list[DistributedClipSampler]:
    """One sampler a rank."""
    return [
        DistributedClipSampler(make(8), num_replicas=ranks, rank=rank, uneven=uneven)  # type: ignore[arg-type]
        for rank in range(ranks)
    ]


def check_dealt(make: Make, ranks: int) -> None:
    """Together the ranks have the plan: without its last few, with its first few again, or just once."""
    plan = epoch_of(make(8), 1)
    for uneven in ("drop", "pad", "keep"):
        samplers = ranks_of(make, ranks, uneven)
        parts = [epoch_of(sampler, 1) for sampler in samplers]
        assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
        dealt = [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]
        if uneven == "keep":
            assert dealt == plan
            continue
        assert len({len(part) for part in parts}) == 1
        assert abs(len(dealt) - len(plan)) < ranks
        assert dealt == (plan + plan)[: len(dealt)]


def check_rank_states(make: Make, ranks: int) -> None:
    """Each rank's state after as many windows is the same, at the end too, and is the inner sampler's, too."""
    for uneven in ("drop", "pad"):
        samplers = ranks_of(make, ranks, uneven)
        for consumed in range(len(samplers[0]) + 1):
            states = [sampler.state_at(consumed) for sampler in samplers]
            assert all(state == states[0] for state in states)
            inner = make(8)
            inner.load_state_dict(states[0])
        for sampler in samplers:
            check_resume(
                lambda seed, s=sampler: DistributedClipSampler(  # type: ignore[misc]
                    make(seed), num_replicas=ranks, rank=s.rank, uneven=s.uneven
                )
            )


def check_elastic(make: Make, worlds: Sequence[int], uneven: str) -> None:
    """An epoch that is taken up by one number of ranks after another gives every window once."""
    plan = epoch_of(make(8), 0)
    for step in range(1, len(plan) // sum(worlds) + 1):
        seen: Draws = []
        state = make(8).state_dict()
        for number, world in enumerate(worlds):
            samplers = ranks_of(make, world, uneven)
            for sampler in samplers:
                sampler.load_state_dict(through_json(state))
                rest = len(sampler) - sampler.start
                last = number == len(worlds) - 1
                assert rest >= step
                running = iter(sampler)
                seen += draws(list(running) if last else list(islice(running, step)))
            state = samplers[0].state_dict()
        dropped = len(plan) - len(seen)
        assert 0 <= dropped < (worlds[-1] if uneven == "drop" else 1)
        assert sorted(seen) == sorted(plan[: len(seen)])
