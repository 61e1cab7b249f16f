"""The permutation is one, for every size and key; its orders are as good as drawn ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyvid.training.samplers.hashing import below, hashed, unit
from lazyvid.training.samplers.permutation import permuted

words = st.integers(0, 2**64 - 1)


@given(size=st.integers(1, 700), key=words)
def test_it_gives_each_number_once(size: int, key: int) -> None:
    found = permuted(np.arange(size), size, hashed(key))
    assert np.array_equal(np.sort(found), np.arange(size))


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), key=words)
def test_permutations_of_many_sizes_are_asked_together(sizes: list[int], key: int) -> None:
    places = np.concatenate([np.arange(size) for size in sizes])
    group = np.repeat(np.arange(len(sizes)), sizes)
    keys = hashed(key, group)
    together = permuted(places, np.array(sizes)[group], keys)
    for number, size in enumerate(sizes):
        alone = permuted(np.arange(size), size, hashed(key, number))
        assert np.array_equal(together[group == number], alone)


@given(size=st.integers(1, 2**40), key=words, seed=st.integers(0, 2**32 - 1))
def test_places_far_apart_stay_apart_and_inside(size: int, key: int, seed: int) -> None:
    places = np.unique(np.random.default_rng(seed).integers(0, size, 50))
    found = permuted(places, size, hashed(key))
    assert len(np.unique(found)) == len(places)
    assert found.min() >= 0
    assert found.max() < size


@pytest.mark.parametrize(("size", "keys"), [(2, 20_000), (3, 20_000), (4, 20_000), (5, 40_000), (6, 40_000)])
def test_small_orders_are_equally_likely(size: int, keys: int) -> None:
    each = hashed(2024, np.repeat(np.arange(keys), size))
    orders = permuted(np.tile(np.arange(size), keys), size, each).reshape(keys, size)
    counts = np.zeros(size**size, int)
    np.add.at(counts, (orders * size ** np.arange(size)).sum(1), 1)
    seen = counts[counts > 0]
    assert len(seen) == math.factorial(size)
    # Pearson's chi-squared statistic, in standard deviations from what a uniform draw gives.
    expected, freedom = keys / len(seen), len(seen) - 1
    assert abs(((seen - expected) ** 2 / expected).sum() - freedom) < 5 * math.sqrt(2 * freedom)


def test_large_orders_show_no_trend() -> None:
    size = 100_003
    found = permuted(np.arange(size), size, hashed(5)).astype(float)
    # Of a uniform permutation: neighbours lie (size + 1) / 3 apart, and place says nothing of number.
    assert abs(np.abs(np.diff(found)).mean() / ((size + 1) / 3) - 1) < 0.02
    for lag in (1, 2, 3, 316, 317, 318):
        assert abs(np.corrcoef(found[:-lag], found[lag:])[0, 1]) < 0.02
    assert abs(np.corrcoef(found, np.arange(size))[0, 1]) < 0.02


def test_hashes_are_the_same_everywhere() -> None:
    # A state saved on one machine and version is loaded on another: these values may never change.
    assert hashed(0).tolist() == 16294208416658607535
    assert hashed(1, 2, np.array([3, 2**62])).tolist() == [15020427595393229491, 14117364948646398015]
    assert permuted(np.arange(10), 10, hashed(1)).tolist() == [7, 5, 4, 1, 9, 8, 3, 0, 2, 6]


def test_words_of_any_sign_and_shape() -> None:
    assert hashed(-1) == hashed(2**64 - 1)
    assert hashed(1, np.array([[1], [2]]), np.array([3, 4, 5])).shape == (2, 3)
    assert len({int(hashed(*each)) for each in [(0,), (0, 0), (1,), (0, 1), (1, 0)]}) == 5


def test_bits_as_numbers() -> None:
    bits = hashed(3, np.arange(10_000))
    for bound in (1, 7, 2**40):
        found = below(bits, bound)
        assert found.min() >= 0
        assert found.max() < bound
        assert abs(found.mean() - (bound - 1) / 2) <= bound * 0.02
    assert 0 <= unit(bits).min() < unit(bits).max() < 1
    assert abs(unit(bits).mean() - 0.5) < 0.02
    assert unit(np.array([2**64 - 1], np.uint64))[0] < 1
