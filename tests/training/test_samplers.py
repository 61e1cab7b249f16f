"""Every sampler is held to the laws of samplers, and to what its own docstring says."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sampler_laws as laws
import torch.distributed
from torch.utils.data import DataLoader, DistributedSampler

from lazyvid.frames import ClipSpec, Window
from lazyvid.training import ClipDataset
from lazyvid.training.extents import Extents
from lazyvid.training.samplers import (
    BlockShuffleSampler,
    ClipSampler,
    DistributedClipSampler,
    EpisodeSampler,
    RandomClipSampler,
    SequentialClipSampler,
    WeightedClipSampler,
)

COUNTS = (23, 3, 40, 8, 17)
LENGTH = 4
EXTENTS = Extents(np.array([2, 0, 5, 0, 0]), np.array([25, 3, 45, 8, 17]), np.array([230, 30, 400, 80, 170]))

SAMPLERS: dict[str, Callable[[int], ClipSampler]] = {
    "sequential": lambda seed: SequentialClipSampler(EXTENTS, LENGTH, seed=seed),
    "sequential-overlap": lambda seed: SequentialClipSampler(EXTENTS, LENGTH, 3, tail="overlap", seed=seed),
    "random": lambda seed: RandomClipSampler(EXTENTS, LENGTH, seed=seed),
    "random-fixed": lambda seed: RandomClipSampler(EXTENTS, LENGTH, draw="fixed", seed=seed),
    "random-independent": lambda seed: RandomClipSampler(EXTENTS, LENGTH, draw="independent", seed=seed),
    "random-more": lambda seed: RandomClipSampler(EXTENTS, LENGTH, num_samples=29, seed=seed),
    "random-fewer": lambda seed: RandomClipSampler(EXTENTS, LENGTH, num_samples=9, seed=seed),
    "blocks": lambda seed: BlockShuffleSampler(EXTENTS, LENGTH, blocks_mixed=2, seed=seed),
    "blocks-bytes": lambda seed: BlockShuffleSampler(EXTENTS, LENGTH, block_bytes=90, blocks_mixed=3, seed=seed),
    "weighted": lambda seed: WeightedClipSampler(EXTENTS, LENGTH, weights=[1, 2, 0, 4, 5], seed=seed),
    "weighted-classes": lambda seed: WeightedClipSampler(EXTENTS, LENGTH, classes="abbca", seed=seed),
    "episodes": lambda seed: EpisodeSampler(EXTENTS, LENGTH, episodes=[0, 2, 4], drop_first=1, seed=seed),
    "episodes-shuffled": lambda seed: EpisodeSampler(EXTENTS, LENGTH, step=3, drop_last=2, shuffle=True, seed=seed),
}
ORDERED = ("sequential", "sequential-overlap", "episodes")
SHUFFLED = {name: make for name, make in SAMPLERS.items() if name not in ORDERED}
every = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
shuffled = pytest.mark.parametrize("make", SHUFFLED.values(), ids=SHUFFLED)
Make = Callable[[int], ClipSampler]


class TestLaws:
    @every
    def test_the_order_is_a_pure_function(self, make: Make) -> None:
        laws.check_pure(make)

    @shuffled
    def test_epochs_differ(self, make: Make) -> None:
        laws.check_epochs_differ(make)

    @every
    def test_windows_lie_inside_their_recordings(self, make: Make) -> None:
        laws.check_inside(make, EXTENTS, LENGTH)

    @every
    def test_it_resumes_at_every_position(self, make: Make) -> None:
        laws.check_resume(make)

    @every
    def test_it_survives_a_pickle(self, make: Make) -> None:
        laws.check_pickle(make)

    @every
    def test_states_of_other_samplers_are_refused(self, make: Make) -> None:
        own = make(0)._plan
        laws.check_foreign_states(make, [other for each in SAMPLERS.values() if (other := each(0))._plan != own])

    @every
    @pytest.mark.parametrize("ranks", [2, 5])
    def test_ranks_share_the_plan(self, make: Make, ranks: int) -> None:
        laws.check_dealt(make, ranks)

    @pytest.mark.parametrize("name", ["sequential", "random-fewer", "blocks"])
    @pytest.mark.parametrize("ranks", [2, 3])
    def test_a_state_is_the_same_on_every_rank(self, name: str, ranks: int) -> None:
        laws.check_rank_states(SAMPLERS[name], ranks)

    @every
    def test_the_rest_is_dealt_anew_to_another_number_of_ranks(self, make: Make) -> None:
        laws.check_elastic(make, (2, 3, 1), "keep")

    @pytest.mark.parametrize("uneven", ["drop", "keep"])
    @pytest.mark.parametrize("worlds", [(1, 5), (2, 1, 2), (3, 2)], ids=str)
    def test_the_rest_is_dealt_anew_as_it_is_at_first(self, worlds: tuple[int, ...], uneven: str) -> None:
        laws.check_elastic(SAMPLERS["random"], worlds, uneven)


def rows(sampler: ClipSampler) -> list[tuple[int, int, int]]:
    return [(w.video, w.start, w.stop) for w in sampler]


class TestSequential:
    @pytest.mark.parametrize("step", [1, 3, 4, 6])
    def test_whole_windows_in_order(self, step: int) -> None:
        expected = [
            (v, s, s + 4)
            for v, (first, stop) in enumerate(zip(EXTENTS.first.tolist(), EXTENTS.stop.tolist(), strict=True))
            for s in range(first, stop - 3, step)
        ]
        assert rows(SequentialClipSampler(EXTENTS, 4, step)) == expected

    @pytest.mark.parametrize("step", [1, 3, 4])
    @pytest.mark.parametrize("tail", ["overlap", "pad"])
    def test_a_tail_covers_every_frame_with_at_most_one_window_more(self, tail: str, step: int) -> None:
        for count in range(1, 30):
            windows = rows(SequentialClipSampler([count, 50], 4, step, tail=tail))  # type: ignore[arg-type]
            dropped = rows(SequentialClipSampler([count, 50], 4, step))
            own, whole = ([(a, b) for v, a, b in found if v == 0] for found in (windows, dropped))
            seen = {frame for a, b in own for frame in range(a, b)}
            if count < 4 and tail == "overlap":
                assert own == []
                continue
            assert own[: len(whole)] == whole
            assert len(own) - len(whole) == (not whole or whole[-1][1] < count)
            assert set(range(count)) <= seen
            assert max(seen) == count - 1 if tail == "overlap" else max(seen) < count + 3
            assert all(a % step == 0 for a, _ in own[: len(own) if tail == "pad" else -1])

    def test_gaps_between_windows_are_no_tail(self) -> None:
        for tail in ("overlap", "pad"):
            assert rows(SequentialClipSampler([10], 2, 5, tail=tail)) == [(0, 0, 2), (0, 5, 7)]

    def test_a_dataset_gives_its_own_enumeration(self, folder: Path) -> None:
        for spec in (ClipSpec(4), ClipSpec(3, frame_stride=2, step=4)):
            dataset = ClipDataset(f"{folder}/*.mp4", spec)
            sampler = SequentialClipSampler(dataset)
            assert list(sampler) == [dataset.window(i) for i in range(len(dataset))]


class TestRandom:
    def test_the_length_of_an_epoch_is_what_the_docstring_says(self) -> None:
        assert len(RandomClipSampler(EXTENTS, 4)) == sum(n // 4 for n in COUNTS)

    @pytest.mark.parametrize("frames", [4, 5, 7, 8, 9, 11, 15, 16, 40, 43])
    def test_an_epoch_covers_a_recording_as_the_docstring_says(self, frames: int) -> None:
        for seed in range(40):
            windows = sorted(w[1:] for w in rows(RandomClipSampler([frames, 9], 4, seed=seed)) if w[0] == 0)
            assert len(windows) == frames // 4
            times_seen = np.zeros(frames, int)
            for start, stop in windows:
                times_seen[start:stop] += 1
            assert times_seen.max() <= 2
            assert (times_seen == 0).sum() < 4
            gaps = {b[0] - a[0] for a, b in itertools.pairwise(windows[1:-1])}
            assert gaps <= {4}

    def test_every_start_is_drawn(self) -> None:
        sampler = RandomClipSampler([22], 4)
        seen = set()
        for epoch in range(250):
            sampler.set_epoch(epoch)
            seen |= {window.start for window in sampler}
        assert seen == set(range(22 - 4 + 1))

    def test_a_recording_of_whole_windows_is_drawn_anew_all_the_same(self) -> None:
        sampler = RandomClipSampler([40], 4)
        starts = []
        for epoch in range(30):
            sampler.set_epoch(epoch)
            starts.append(tuple(sorted(window.start for window in sampler)))
        assert len(set(starts)) > 3

    def test_recordings_have_offsets_of_their_own(self) -> None:
        first = {w.video: w.start % 4 for w in sorted(RandomClipSampler([43] * 200, 4), key=lambda w: -w.start)}
        assert set(first.values()) == {0, 1, 2, 3}

    def test_a_fixed_draw_has_the_windows_of_a_sequence(self) -> None:
        sampler = RandomClipSampler(EXTENTS, 4, draw="fixed")
        for epoch in range(3):
            sampler.set_epoch(epoch)
            assert sorted(rows(sampler)) == rows(SequentialClipSampler(EXTENTS, 4))

    def test_more_samples_than_windows_go_round_again_with_others(self) -> None:
        once = len(RandomClipSampler([400], 4))
        twice = rows(RandomClipSampler([400], 4, num_samples=2 * once))
        assert twice[:once] == rows(RandomClipSampler([400], 4))
        assert sorted(twice[:once]) != sorted(twice[once:])

    def test_independent_draws_are_uniform_over_all_windows(self) -> None:
        drawn = rows(RandomClipSampler([9, 3, 5], 4, draw="independent", num_samples=8000))
        found, counts = np.unique(drawn, axis=0, return_counts=True)
        assert found.tolist() == [[0, s, s + 4] for s in range(6)] + [[2, 0, 4], [2, 1, 5]]
        assert counts.min() > 800
        assert counts.max() < 1200


class TestBlocks:
    @pytest.mark.parametrize("options", [{}, {"block_bytes": 90}, {"draw": "fixed"}], ids=str)
    def test_its_windows_are_those_of_the_random_sampler(self, options: dict[str, Any]) -> None:
        for epoch in range(3):
            blocks = BlockShuffleSampler(EXTENTS, 4, blocks_mixed=2, seed=1, **options)
            full = RandomClipSampler(EXTENTS, 4, seed=1, draw=options.get("draw", "tiled"))
            blocks.set_epoch(epoch)
            full.set_epoch(epoch)
            assert sorted(rows(blocks)) == sorted(rows(full))

    def test_a_group_has_the_windows_of_its_blocks_in_mixed_order(self) -> None:
        sampler = BlockShuffleSampler([40] * 9, 4, blocks_mixed=2)  # 9 blocks of 10 windows
        groups_seen = set()
        for epoch in range(5):
            sampler.set_epoch(epoch)
            videos = [window.video for window in sampler]
            groups = [videos[at : at + 20] for at in range(0, 90, 20)]
            assert [len(set(group)) for group in groups] == [2, 2, 2, 2, 1]
            assert all(group != sorted(group) and group != sorted(group, reverse=True) for group in groups[:4])
            groups_seen |= {frozenset(group) for group in groups}
        assert len(groups_seen) > 10

    def test_blocks_by_bytes_are_neighbours_and_no_larger_than_asked(self) -> None:
        extents = Extents(np.array([0, 0, 0]), np.array([100, 7, 60]), np.array([1000, 70, 600]))
        sampler = BlockShuffleSampler(extents, 4, block_bytes=260, blocks_mixed=1, draw="fixed")
        # 40 bytes a window: 6 at most in a block, so that 25 make 5 blocks and 15 make 3.
        blocks = [[(0, 4 * k) for k in range(at, at + 5)] for at in range(0, 25, 5)]
        blocks += [[(1, 0)], *([(2, 4 * k) for k in range(at, at + 5)] for at in range(0, 15, 5))]
        of_window = {window: block for block in blocks for window in block}
        left = [row[:2] for row in rows(sampler)]
        found = []
        while left:
            block = of_window[left[0]]
            assert sorted(left[: len(block)]) == block
            found.append(block)
            left = left[len(block) :]
        assert sorted(found) == blocks
        assert found != blocks

    def test_mixing_is_what_the_order_shows(self) -> None:
        counts = np.array([40, 400, 80, 80, 120, 8, 4, 200, 160, 300])
        extents = Extents(np.zeros_like(counts), counts, counts * 10)
        for block_bytes in (None, 350):
            found = []
            for mixed in (1, 3, 5):
                sampler = BlockShuffleSampler(extents, 4, block_bytes=block_bytes, blocks_mixed=mixed, draw="fixed")
                measured = np.mean([_mixing(sampler, epoch) for epoch in range(30)])
                assert abs(measured / sampler.mixing - 1) < 0.08
                found.append(sampler.mixing)
            assert found == sorted(found)
            assert found[-1] < 0.95
            every = BlockShuffleSampler(extents, 4, block_bytes=block_bytes, blocks_mixed=10**6)
            assert every.mixing == pytest.approx(1.0)

    def test_mixing_of_single_windows_is_full(self) -> None:
        assert BlockShuffleSampler([4] * 20, 4, blocks_mixed=1).mixing == 1.0

    def test_wrong_arguments_are_named(self) -> None:
        with pytest.raises(ValueError, match="encoded bytes are known for block_bytes=100"):
            BlockShuffleSampler([40], 4, block_bytes=100)
        with pytest.raises(ValueError, match="Invalid block_bytes 0"):
            BlockShuffleSampler(EXTENTS, 4, block_bytes=0)
        with pytest.raises(ValueError, match="Invalid blocks_mixed 0"):
            BlockShuffleSampler(EXTENTS, 4, blocks_mixed=0)
        with pytest.raises(ValueError, match="draw 'independent'"):
            BlockShuffleSampler(EXTENTS, 4, draw="independent")  # type: ignore[arg-type]


def _mixing(sampler: ClipSampler, epoch: int) -> float:
    sampler.set_epoch(epoch)
    windows = sampler.windows(np.arange(len(sampler)))
    places = np.lexsort((windows[:, 1], windows[:, 0]))  # of the windows, neighbours side by side
    same = np.diff(windows[places, 0]) == 0
    return float(np.abs(np.diff(places))[same].mean()) * 3 / (len(sampler) + 1)


class TestWeighted:
    def test_recordings_are_drawn_by_weight_and_their_windows_alike(self) -> None:
        sampler = WeightedClipSampler([9, 3, 5, 50], 4, weights=[3, 100, 1, 0], num_samples=8000)
        drawn = rows(sampler)
        found, counts = np.unique(drawn, axis=0, return_counts=True)
        assert found.tolist() == [[0, s, s + 4] for s in range(6)] + [[2, 0, 4], [2, 1, 5]]
        assert np.allclose(counts, 1000, atol=150)

    def test_classes_are_drawn_by_weight_and_their_windows_alike(self) -> None:
        counts, classes = [13, 5, 4, 3, 7], ["up", "down", "up", "down", "rest"]
        for weights, shares in ((None, (1, 1, 1)), ({"up": 2, "down": 1, "rest": 0, "more": 9}, (2, 1, 0))):
            sampler = WeightedClipSampler(counts, 4, weights=weights, classes=classes, num_samples=6000)
            found, times = np.unique(rows(sampler), axis=0, return_counts=True)
            drawn = {tuple(row[:2]): n for row, n in zip(found.tolist(), times.tolist(), strict=True)}
            expected: dict[tuple[int, int], float] = {}
            for share, starts in zip(
                shares,
                ([(0, s) for s in range(10)] + [(2, 0)], [(1, 0), (1, 1)], [(4, s) for s in range(4)]),
                strict=True,
            ):
                expected |= {start: 6000 * share / sum(shares) / len(starts) for start in starts if share}
            assert drawn.keys() == expected.keys()
            assert all(abs(drawn[key] / expected[key] - 1) < 0.3 for key in expected)

    def test_an_epoch_is_as_long_as_that_of_the_random_sampler(self) -> None:
        assert len(WeightedClipSampler(EXTENTS, 4, classes="aabbb")) == len(RandomClipSampler(EXTENTS, 4))

    def test_wrong_arguments_are_named(self) -> None:
        for weights, message in (
            ([1.0], "Expected 2 weights"),
            ([1.0, -1.0], r"got \[-1.0\]"),
            ([1.0, float("nan")], r"got \[nan\]"),
            ([1.0, float("inf")], "finite weights"),
            ([0.0, 1.0], "positive weight for a recording of 4 frames"),
        ):
            with pytest.raises(ValueError, match=message):
                WeightedClipSampler([8, 3], 4, weights=weights)
        with pytest.raises(ValueError, match="class for each of 2 recordings, got 1"):
            WeightedClipSampler([8, 8], 4, classes=["a"])
        with pytest.raises(ValueError, match=r"found none for \['b'\]"):
            WeightedClipSampler([8, 8], 4, classes=["a", "b"], weights={"a": 1})
        with pytest.raises(ValueError, match=r"each class of positive weight, found none in \['b'\]"):
            WeightedClipSampler([8, 3], 4, classes=["a", "b"])
        with pytest.raises(TypeError, match="weights by class, a mapping"):
            WeightedClipSampler([8, 8], 4, classes=["a", "b"], weights=[1, 2])
        for wrong in (None, {"a": 1}):
            with pytest.raises(TypeError, match="Expected weights, one a recording, or classes"):
                WeightedClipSampler([8, 8], 4, weights=wrong)


class TestEpisodes:
    @pytest.mark.parametrize(
        "chosen", [[4, 0], np.array([0, 4]), [True, False, False, False, True], lambda n: n in (0, 4)]
    )
    def test_frames_of_chosen_episodes_without_their_ends(self, chosen: Any) -> None:
        expected = [(0, k, k + 1) for k in range(2 + 3, 25 - 2)] + [(4, k, k + 1) for k in range(3, 17 - 2)]
        sampler = EpisodeSampler(EXTENTS, 1, episodes=chosen, drop_first=3, drop_last=2)
        assert rows(sampler) == expected
        shuffled = EpisodeSampler(EXTENTS, 1, episodes=chosen, drop_first=3, drop_last=2, shuffle=True)
        assert rows(shuffled) != expected
        assert sorted(rows(shuffled)) == expected

    def test_an_episode_that_is_used_up_has_no_window(self) -> None:
        assert {w.video for w in EpisodeSampler([5, 9, 3], 2, drop_first=2, drop_last=2)} == {1}

    def test_episodes_are_parts_of_recordings_where_they_are_given_as_such(self) -> None:
        trials = Extents.intervals([50, 30], [(1, 3, 9), (0, 10, 14), (1, 20, 26)])
        assert rows(EpisodeSampler(trials, 3)) == [(1, 3, 6), (1, 6, 9), (0, 10, 13), (1, 20, 23), (1, 23, 26)]
        assert rows(EpisodeSampler(trials, 3, episodes=[2])) == [(1, 20, 23), (1, 23, 26)]

    def test_wrong_arguments_are_named(self) -> None:
        with pytest.raises(IndexError, match=r"from 0 to 4, got \[5, -1\]"):
            EpisodeSampler(EXTENTS, 1, episodes=[5, 0, -1])
        with pytest.raises(ValueError, match="a bool for each of 5 episodes, got 2"):
            EpisodeSampler(EXTENTS, 1, episodes=[True, False])
        with pytest.raises(TypeError, match="numbers of episodes"):
            EpisodeSampler(EXTENTS, 1, episodes=["a"])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="Invalid drop_first -1"):
            EpisodeSampler(EXTENTS, 1, drop_first=-1)
        nothing: Any
        for nothing in ([], lambda _: False):
            with pytest.raises(ValueError, match="the longest of 0 has 0"):
                EpisodeSampler(EXTENTS, 1, episodes=nothing)


@pytest.mark.parametrize("kind", [RandomClipSampler, BlockShuffleSampler, SequentialClipSampler])
def test_a_hundred_million_windows_take_memory_for_their_recordings_alone(kind: Callable[..., ClipSampler]) -> None:
    recordings = 10**6
    extents = Extents.of(np.full(recordings, 1600))
    tracemalloc.start()
    try:
        sampler = kind(extents, 16)
        windows = sampler.windows(np.random.default_rng(0).integers(0, 10**8, 4096))
        first = list(itertools.islice(sampler, 5))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sampler) == 10**8
    assert held < 100 * recordings
    assert peak < 400 * recordings
    assert len(np.unique(windows, axis=0)) == 4096
    assert len(set(first)) == 5


class TestDistributed:
    def test_torch_and_lightning_see_a_distributed_sampler(self) -> None:
        sampler = DistributedClipSampler(SAMPLERS["random"](0), num_replicas=2, rank=1)
        assert isinstance(sampler, DistributedSampler)
        assert (sampler.num_replicas, sampler.rank, sampler.drop_last) == (2, 1, True)
        assert (sampler.num_samples, sampler.total_size) == (len(sampler), 2 * len(sampler))

    def test_without_a_group_there_is_one_rank(self) -> None:
        sampler = DistributedClipSampler(SAMPLERS["random"](0))
        assert (sampler.num_replicas, sampler.rank) == (1, 0)
        assert rows(sampler) == rows(SAMPLERS["random"](0))

    def test_a_group_that_is_initialised_later_tells_the_ranks(self, tmp_path: Path) -> None:
        sampler = DistributedClipSampler(SAMPLERS["random"](0))
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            work = [(pickle.dumps(sampler), f"file://{tmp_path}/group", rank) for rank in range(2)]
            parts = pool.starmap_async(_rank, work, chunksize=1).get(timeout=240)
        plan = rows(SAMPLERS["random"](0))
        assert parts == [plan[0 : len(plan) // 2 * 2 : 2], plan[1 : len(plan) // 2 * 2 : 2]]

    def test_it_takes_up_where_the_inner_sampler_stands(self) -> None:
        inner = SAMPLERS["random"](0)
        inner.set_epoch(3)
        inner.load_state_dict(inner.state_at(6))
        sampler = DistributedClipSampler(inner, num_replicas=2, rank=0)
        assert (sampler.epoch, sampler.start) == (3, 3)

    def test_what_is_left_for_no_rank_is_not_an_epoch(self) -> None:
        inner = SequentialClipSampler([40], 4)  # 10 windows
        sampler = DistributedClipSampler(inner, num_replicas=3, rank=2)
        sampler.load_state_dict(inner.state_at(8))
        assert (sampler.epoch, sampler.start, len(list(sampler))) == (1, 0, 3)

    def test_wrong_arguments_are_named(self) -> None:
        inner = SequentialClipSampler([8], 4)
        with pytest.raises(ValueError, match="rank 2"):
            DistributedClipSampler(inner, num_replicas=2, rank=2)
        with pytest.raises(ValueError, match="uneven 'repeat'"):
            DistributedClipSampler(inner, uneven="repeat")  # type: ignore[arg-type]
        for wrong in (DistributedSampler(range(4), 1, 0), DistributedClipSampler(inner)):  # type: ignore[arg-type, var-annotated]
            with pytest.raises(TypeError, match="not distributed yet"):
                DistributedClipSampler(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="for each of 3 ranks, got 2 in all"):
            iter(DistributedClipSampler(inner, num_replicas=3, rank=0))


def _rank(pickled: bytes, group: str, rank: int) -> list[tuple[int, int, int]]:
    """One rank of two: the sampler is there before the process group is."""
    sampler = pickle.loads(pickled)
    assert (sampler.num_replicas, sampler.rank) == (1, 0)
    torch.distributed.init_process_group("gloo", init_method=group, rank=rank, world_size=2)
    try:
        assert (sampler.num_replicas, sampler.rank) == (2, rank)
        return rows(sampler)
    finally:
        torch.distributed.destroy_process_group()


class TestArguments:
    @pytest.mark.parametrize("kind", [SequentialClipSampler, RandomClipSampler])
    def test_the_length_comes_from_a_clip_or_a_dataset(self, kind: Callable[..., ClipSampler], folder: Path) -> None:
        spec = ClipSpec(3, frame_stride=2)
        dataset = ClipDataset(f"{folder}/*.mp4", spec)
        expected = list(kind(dataset))
        assert {len(window) for window in expected} == {5}
        for same in (kind(dataset.videos, 5), kind([23, 8, 40], clip=spec), kind(dataset, clip=spec)):
            assert list(same) == expected

    def test_clips_by_time_get_windows_that_hold_them(self, folder: Path) -> None:
        dataset = ClipDataset(f"{folder}/*.mp4", ClipSpec(4, fps=12.5))
        for sampler in (RandomClipSampler(dataset), SequentialClipSampler(dataset, clip=dataset.clip, tail="overlap")):
            for window in sampler:
                sample = dataset[window]
                assert sample["frames"].shape[0] == 4
                assert not sample["is_pad"].any()

    def test_wrong_arguments_are_named(self) -> None:
        for kind in (SequentialClipSampler, RandomClipSampler):
            with pytest.raises(ValueError, match="window_length 0"):
                kind([8], 0)
            with pytest.raises(TypeError, match="got both"):
                kind([8], 4, clip=ClipSpec(4))
            with pytest.raises(TypeError, match="Expected window_length in frames"):
                kind([8])
            with pytest.raises(ValueError, match="cut by time"):
                kind([8], clip=ClipSpec(4, fps=10))
            with pytest.raises(ValueError, match="recording of 9 usable frames or more, the longest of 2 has 8"):
                kind([8, 3], 9)
            with pytest.raises(ValueError, match="the longest of 0 has 0"):
                kind([], 9)
            for seed in (-1, 2**64, 1.5, True):
                with pytest.raises(ValueError, match="Invalid seed"):
                    kind([8], 4, seed=seed)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="Invalid epoch -1"):
                kind([8], 4).set_epoch(-1)
        with pytest.raises(ValueError, match="Invalid step 0"):
            SequentialClipSampler([8], 4, 0)
        with pytest.raises(ValueError, match="Invalid num_samples 0"):
            RandomClipSampler([8], 4, num_samples=0)


def test_a_state_cannot_lie_beyond_what_the_iteration_gives() -> None:
    sampler = SequentialClipSampler([40], 4)
    for consumed in (-1, 11):
        with pytest.raises(ValueError, match="Expected 0 to 10 windows"):
            sampler.state_at(consumed)


def test_a_data_loader_takes_windows_from_a_sampler(folder: Path) -> None:
    dataset = ClipDataset(f"{folder}/*.mp4", ClipSpec(4))
    sampler = RandomClipSampler(dataset, seed=2)
    expected = list(sampler)
    loader: DataLoader[object] = DataLoader(dataset, batch_size=3, sampler=sampler)
    found = [
        Window(int(video), int(indices[0]), int(indices[-1]) + 1)
        for batch in loader
        for video, indices in zip(batch["video_id"], batch["frame_indices"], strict=True)
    ]
    assert found == expected
