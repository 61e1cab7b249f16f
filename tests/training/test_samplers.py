"""Every sampler is held to the laws of samplers, and to what its own docstring says."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import sampler_laws as laws
from torch.utils.data import DataLoader, DistributedSampler

from lazyvid.frames import ClipSpec, Window
from lazyvid.training import ClipDataset
from lazyvid.training.extents import Extents
from lazyvid.training.samplers import ClipSampler, DistributedClipSampler, RandomClipSampler, SequentialClipSampler

COUNTS = (23, 3, 40, 8, 17)
LENGTH = 4
EXTENTS = Extents(np.array([2, 0, 5, 0, 0]), np.array([25, 3, 45, 8, 17]), np.array([230, 30, 400, 80, 170]))

SAMPLERS: dict[str, Callable[[int], ClipSampler]] = {
    "sequential": lambda seed: SequentialClipSampler(EXTENTS, LENGTH, seed=seed),
    "sequential-overlap": lambda seed: SequentialClipSampler(EXTENTS, LENGTH, 3, tail="overlap", seed=seed),
    "random": lambda seed: RandomClipSampler(EXTENTS, LENGTH, seed=seed),
    "random-fixed": lambda seed: RandomClipSampler(EXTENTS, LENGTH, draw="fixed", seed=seed),
    "random-independent": lambda seed: RandomClipSampler(EXTENTS, LENGTH, draw="independent", seed=seed),
    "random-more": lambda seed: RandomClipSampler(EXTENTS, LENGTH, num_samples=50, seed=seed),
    "random-fewer": lambda seed: RandomClipSampler(EXTENTS, LENGTH, num_samples=9, seed=seed),
}
SHUFFLED = {name: make for name, make in SAMPLERS.items() if not name.startswith("sequential")}
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
    @pytest.mark.parametrize("ranks", [1, 2, 3, 5])
    def test_ranks_share_the_plan(self, make: Make, ranks: int) -> None:
        laws.check_dealt(make, ranks)

    @pytest.mark.parametrize("name", ["sequential", "random", "random-more"])
    @pytest.mark.parametrize("ranks", [1, 2, 3])
    def test_a_state_is_the_same_on_every_rank(self, name: str, ranks: int) -> None:
        laws.check_rank_states(SAMPLERS[name], ranks)

    @every
    @pytest.mark.parametrize("uneven", ["drop", "keep"])
    @pytest.mark.parametrize("worlds", [(2, 3, 1), (3, 2), (1, 5)], ids=str)
    def test_the_rest_is_dealt_anew_to_another_number_of_ranks(
        self, make: Make, worlds: tuple[int, ...], uneven: str
    ) -> None:
        laws.check_elastic(make, worlds, uneven)


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

    def test_a_dataset_gives_its_own_enumeration(self, folder: object) -> None:
        for spec in (ClipSpec(4), ClipSpec(3, frame_stride=2, step=4)):
            dataset = ClipDataset(f"{folder}/*.mp4", spec)
            sampler = SequentialClipSampler(dataset.videos, clip=spec)
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
        for epoch in range(400):
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


class TestArguments:
    @pytest.mark.parametrize("kind", [SequentialClipSampler, RandomClipSampler])
    def test_the_length_comes_from_a_clip_or_a_dataset(self, kind: Callable[..., ClipSampler], folder: object) -> None:
        spec = ClipSpec(3, frame_stride=2)
        dataset = ClipDataset(f"{folder}/*.mp4", spec)
        expected = list(kind(dataset.videos, 5))
        assert {len(window) for window in expected} == {5}
        assert list(kind([23, 8, 40], clip=spec)) == expected

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


def test_a_data_loader_takes_windows_from_a_sampler(folder: object) -> None:
    dataset = ClipDataset(f"{folder}/*.mp4", ClipSpec(4))
    sampler = RandomClipSampler(dataset.videos, 4, seed=2)
    expected = list(sampler)
    loader: DataLoader[object] = DataLoader(dataset, batch_size=3, sampler=sampler)
    found = [
        Window(int(video), int(indices[0]), int(indices[-1]) + 1)
        for batch in loader
        for video, indices in zip(batch["video_id"], batch["frame_indices"], strict=True)
    ]
    assert found == expected
