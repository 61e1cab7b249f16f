"""Random transforms give the same sample wherever it is read, and leave the generators as they were."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_samples import equal, jitter

from lazyvid.frames import ClipSpec, Window
from lazyvid.training import ClipDataset
from lazyvid.training.seeding import seeded, transformed


def draw() -> list[Any]:
    return jitter({})["drawn"].tolist()


def state() -> list[Any]:
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_a_seed_decides_what_is_drawn_and_changes_nothing_after(seed: int) -> None:
    before = state()
    with seeded(seed):
        first = draw()
        second = draw()
    assert state() == before
    assert first != second
    with seeded(seed):
        assert [draw(), draw()] == [first, second]
    with seeded((seed + 1) % 2**64):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_generators_are_set_back_after_an_error() -> None:
    before = state()
    with pytest.raises(KeyError):
        transformed(lambda sample: sample[draw()[0]], {}, 7)
    assert state() == before


def test_without_a_seed_nothing_is_seeded() -> None:
    torch.manual_seed(0)
    expected = torch.randint(0, 1 << 30, ())
    torch.manual_seed(0)
    assert int(transformed(jitter, {}, None)["drawn"][0]) == int(expected)


def test_threads_take_turns() -> None:
    found: dict[int, list[Any]] = {}

    def work(seed: int) -> None:
        for _ in range(20):
            with seeded(seed):
                found.setdefault(seed, []).append([draw(), draw()])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for seed, draws in found.items():
        with seeded(seed):
            assert draws == [[draw(), draw()]] * 20


def test_a_transform_may_read_other_samples(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4), transform=jitter)

    def mix(sample: dict[str, Any]) -> dict[str, Any]:
        before = draw()
        other = dataset[Window(2, 0, 4, seed=9)]
        return {"drawn": torch.tensor([*before, *draw()]), "other": other["drawn"]}

    mixed = ClipDataset(folder, ClipSpec(4), transform=mix)[Window(0, 0, 4, seed=5)]
    with seeded(5):
        assert mixed["drawn"].tolist() == [*draw(), *draw()]
    with seeded(9):
        assert mixed["other"].tolist() == draw()


def test_a_window_brings_its_seed(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4), transform=jitter)
    items = [Window(0, 0, 4, seed=5), Window(0, 0, 4, seed=6), Window(2, 8, 12, seed=5)]
    samples = dataset.__getitems__(items)
    assert samples[0]["drawn"].tolist() == samples[2]["drawn"].tolist() != samples[1]["drawn"].tolist()
    assert equal([dataset[item] for item in items], samples)
    # What was announced with another seed is the same clip, but not the same sample.
    dataset.prefetch([Window(0, 0, 4, seed=1)])
    assert equal(dataset.__getitems__(items[:1]), samples[:1])
    assert dataset[Window(0, 0, 4)]["drawn"].tolist() != dataset[Window(0, 0, 4)]["drawn"].tolist()
