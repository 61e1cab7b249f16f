"""Clips that cannot be read: replaced always the same way, counted, logged, and too many of them an error."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import check, equal
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lazyvid.errors import LazyVidError, StoreTimeoutError, VideoError
from lazyvid.frames import ClipSpec, Window
from lazyvid.stats import read_stats
from lazyvid.training import ClipDataset, ClipLoader, FrameDataset, RandomClipSampler, collate_clips
from lazyvid.training.clips import ClipPlan
from lazyvid.training.extents import Extents
from lazyvid.training.skipping import PROBATION, ErrorBudget, Skipping
from lazyvid.training.substitutes import FromPlan, FromSampler

SKIP: dict[str, Any] = {"on_error": "skip"}


def test_a_damaged_video_raises_by_default(broken: Path) -> None:
    dataset = ClipDataset(broken, ClipSpec(4))
    with pytest.raises(VideoError, match=r"0\.mp4"):
        dataset[0]
    check(dataset[Window(2, 0, 4)], 2, [0, 1, 2, 3])


def test_skipped_clips_are_replaced_the_same_way_each_time(broken: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = ClipDataset(broken, ClipSpec(4), on_error="skip")
    with caplog.at_level(logging.WARNING, logger="lazyvid.training"):
        samples = dataset.__getitems__([0, 6, 1, Window(0, 3, 7)])
    assert len(samples) == 4
    check(samples[1], 1, [4, 5, 6, 7])
    for sample in samples:
        assert sample["video_id"] > 0
        start = int(sample["frame_indices"][0])
        check(sample, sample["video_id"], list(range(start, start + 4)))
    skipped = [record.message for record in caplog.records if record.message.startswith("skipped")]
    assert len(skipped) == 3
    assert all("0.mp4" in line and "CorruptVideoError" in line for line in skipped)
    assert caplog.text.count("takes the place of") == 3
    again = ClipDataset(broken, ClipSpec(4), on_error="skip").__getitems__([0, 6, 1, Window(0, 3, 7)])
    assert equal(again, samples)
    assert len(collate_clips(samples)["frames"]) == 4


def test_when_nothing_can_be_read_that_is_an_error(broken: Path) -> None:
    dataset = ClipDataset([broken / "0.mp4"], ClipSpec(4), on_error="skip")
    with pytest.raises(LazyVidError, match=r"none that can be read among 5.*CorruptVideoError"):
        dataset[1]


def test_an_error_of_the_transform_is_not_skipped(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4), transform=lambda sample: sample["no such key"], on_error="skip")
    with pytest.raises(KeyError):
        dataset[0]


# -- counting ---------------------------------------------------------------------------------------------------------


def test_skips_are_counted_where_they_happen_and_over_workers(broken: Path) -> None:
    dataset = ClipDataset(broken, ClipSpec(4), **SKIP)
    before = read_stats(), read_stats(scope="all")
    dataset.__getitems__([0, 6, 1])
    assert (read_stats() - before[0]).samples_skipped == 2
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=120)
    assert sum(len(batch["video_id"]) for batch in loader) == len(dataset)
    of_video_0 = sum(dataset.window(i).video == 0 for i in range(len(dataset)))
    assert (read_stats(scope="all") - before[1]).samples_skipped == 2 + of_video_0
    assert (read_stats() - before[0]).samples_skipped == 2


def failure(number: int) -> str:
    return f"clip {number} is broken"


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_the_budget_is_a_share_once_enough_was_asked_for(rate: float, broken: list[bool]) -> None:
    budget, skipped = ErrorBudget(rate), 0
    for asked, bad in enumerate(broken, start=1):
        budget.spend(asked=1)
        skipped += bad
        if not bad:
            continue
        if asked >= PROBATION and skipped > rate * asked:
            with pytest.raises(LazyVidError, match=rf"{skipped} of {asked} .*clip {asked} is broken"):
                budget.spend(reason=failure(asked))
            return
        budget.spend(reason=failure(asked))


def test_a_budget_counts_in_its_own_process() -> None:
    budget = ErrorBudget(0.0)
    budget.spend(asked=PROBATION)
    with pytest.raises(LazyVidError, match="max_error_rate"):
        budget.spend(reason="x")
    received = pickle.loads(pickle.dumps(budget))
    assert received.max_error_rate == 0.0
    received.spend(asked=1, reason="x")
    ErrorBudget(None).spend(asked=10**6, reason="x")


def test_too_many_skips_are_an_error_that_says_why(broken: Path) -> None:
    dataset = ClipDataset(broken, ClipSpec(4), max_error_rate=0.2, **SKIP)
    good, bad = Window(2, 0, 4), Window(0, 0, 4)
    dataset.__getitems__([good] * PROBATION)
    for _ in range(25):
        dataset.__getitems__([bad])
    with pytest.raises(LazyVidError, match=r"26 of 126 .*Window\(video=0.*CorruptVideoError.*lazyvid verify"):
        dataset.__getitems__([bad])


@pytest.mark.parametrize("arguments", [{"max_error_rate": 1.5, **SKIP}, {"max_error_rate": 0.1}, {"on_error": "drop"}])
def test_wrong_arguments(folder: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_error_rate|on_error"):
        ClipDataset(folder, ClipSpec(4), **arguments)


# -- substitutes ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(0, 10**6), st.integers(1, 6))
def test_substitutes_are_other_clips_of_the_same_length(counts: list[int], number: int, length: int) -> None:
    plan = ClipPlan.of(ClipSpec(4), [(0, count) for count in counts])
    if not len(plan):
        return
    start = plan.window(number % len(plan))
    window = Window(start.video, start.start, min(start.start + length, counts[start.video]))
    found = list(FromPlan(plan)(window))
    assert found == list(FromPlan(pickle.loads(pickle.dumps(plan)))(window))
    assert window not in found
    assert len({(w.video, w.start) for w in found}) == len(found)
    for other in found:
        plan.check(other)
        assert len(other) == len(window)


def test_substitutes_of_a_sampler_are_its_windows() -> None:
    extents = Extents.of([40, 40, 40, 40]).select(np.array([1, 3]))
    sampler = RandomClipSampler(extents, 4)
    window = Window(1, 0, 4)
    found = list(FromSampler.of(sampler)(window))
    assert {w.video for w in found} == {1, 3}
    assert all(len(w) == 4 and w != window for w in found)
    sampler.set_epoch(5)
    assert list(FromSampler.of(sampler)(window)) == found


def test_clips_that_a_sampler_leaves_out_take_no_places(broken: Path) -> None:
    whole = ClipDataset(broken, ClipSpec(4), **SKIP)
    sampler = RandomClipSampler(Extents.intervals(whole, [(0, 0, 23), (2, 8, 40)]), 4)
    samples = whole.replacing_from(sampler).__getitems__([Window(0, k, k + 4) for k in range(8)])
    assert {sample["video_id"] for sample in samples} == {2}
    assert all(int(sample["frame_indices"][0]) >= 8 for sample in samples)
    assert 1 in {sample["video_id"] for sample in whole.__getitems__([Window(0, k, k + 4) for k in range(0, 20, 4)])}


def test_loaders_replace_from_what_they_draw(broken: Path) -> None:
    whole = ClipDataset(broken, ClipSpec(4), **SKIP)
    sampler = RandomClipSampler(Extents.intervals(whole, [(0, 0, 23), (2, 8, 40)]), 4)
    batches = list(ClipLoader(whole, sampler=sampler, batch_size=4))
    assert {int(video) for batch in batches for video in batch["video_id"]} == {2}
    assert sum(len(batch["video_id"]) for batch in batches) == len(sampler)
    strict = ClipDataset(broken, ClipSpec(4))
    assert strict.replacing_from(sampler) is strict
    frames = FrameDataset(broken, **SKIP).replacing_from(RandomClipSampler(Extents.intervals(whole, [(2, 0, 5)]), 1))
    assert {sample["video_id"] for sample in frames.__getitems__(range(5))} == {2}


def test_a_store_that_does_not_answer_is_not_asked_for_ever() -> None:
    asked: list[Window] = []

    def read(windows: Any) -> list[Any]:
        asked.extend(windows)
        raise StoreTimeoutError("no answer")

    plan = ClipPlan.of(ClipSpec(4), [(0, 400)])
    skipping = Skipping("skip", ErrorBudget(None), FromPlan(plan), str)
    with pytest.raises(LazyVidError, match=r"among 3.*StoreTimeoutError"):
        skipping.read([Window(0, 0, 4)], lambda: read([Window(0, 0, 4)]), read)
    assert len(asked) == 4  # together, alone, and two substitutes
