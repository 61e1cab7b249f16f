"""Running statistics against numpy on all values at once, however the values came: in batches, merged, reordered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyvid.recording.statistics import (
    QUANTILES,
    ImageStatistics,
    RunningQuantileStats,
    downsampled,
    image_feature,
)

BINS = 50
MOMENTS = ("min", "max", "mean", "std", "count")


def finite(limit: float) -> st.SearchStrategy[float]:
    return st.floats(-limit, limit, allow_nan=False, allow_infinity=False)


def vectors(limit: float = 1e6) -> st.SearchStrategy[Any]:
    shapes = st.tuples(st.integers(2, 40), st.integers(1, 3))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=finite(limit)))


def statistics_of(batches: list[Any], bins: int = BINS) -> dict[str, Any]:
    running = RunningQuantileStats(num_quantile_bins=bins)
    for batch in batches:
        running.update(batch)
    return running.get_statistics()


def split_at(values: Any, cuts: list[int]) -> list[Any]:
    return np.split(values, sorted(cut % (len(values) + 1) for cut in cuts))


def assert_like_numpy(found: dict[str, Any], values: Any, bins: int = BINS) -> None:
    exact = np.asarray(values, np.float64)
    scale = np.abs(exact).max(axis=0) + 1e-300
    assert found["count"].tolist() == [len(values)]
    np.testing.assert_array_equal(found["min"], values.min(axis=0))
    np.testing.assert_array_equal(found["max"], values.max(axis=0))
    assert (np.abs(found["mean"] - exact.mean(axis=0)) <= 1e-12 * scale).all()
    # A deviation is known to the square root of what a double resolves of the values.
    assert (np.abs(found["std"] - exact.std(axis=0)) <= 1e-7 * scale).all()
    width = np.ptp(exact, axis=0) / bins
    for name, q in zip(("q01", "q10", "q50", "q90", "q99"), QUANTILES, strict=True):
        off = np.abs(found[name] - np.quantile(exact, q, axis=0))
        assert (off <= width * (1 + 1e-9) + 1e-15 * scale).all(), (name, off, width)


# -- laws -------------------------------------------------------------------------------------------------------------


@given(values=vectors(), cuts=st.lists(st.integers(0, 100), max_size=5))
def test_batches_say_what_numpy_says_of_all_values(values: Any, cuts: list[int]) -> None:
    assert_like_numpy(statistics_of(split_at(values, cuts)), values)


@given(values=vectors(limit=1e300), cuts=st.lists(st.integers(0, 100), max_size=3))
def test_values_of_any_size_are_binned(values: Any, cuts: list[int]) -> None:
    with np.errstate(over="ignore"):  # squares of the largest doubles
        found = statistics_of(split_at(values, cuts))
    width = (values.max(axis=0) / 2 - values.min(axis=0) / 2) / BINS * 2
    for name, q in zip(("q01", "q50", "q99"), (0.01, 0.5, 0.99), strict=True):
        off = np.abs(found[name] - np.quantile(values, q, axis=0))
        assert (off <= width * (1 + 1e-9) + 1e-15 * np.abs(values).max(axis=0)).all()


@given(values=vectors(), cut=st.integers(0, 100), seed=st.integers(0, 9))
@example(values=np.array([[-5e-324], [100.0]]), cut=0, seed=0)
def test_quantiles_depend_on_the_values_alone(values: Any, cut: int, seed: int) -> None:
    at_once = statistics_of([values])
    shuffled = np.random.default_rng(seed).permutation(values)
    one_by_one = statistics_of(list(shuffled))
    for name in ("min", "max", "count", "q01", "q10", "q50", "q90", "q99"):
        np.testing.assert_array_equal(one_by_one[name], at_once[name])


@given(values=vectors(), cut=st.integers(0, 100))
def test_merging_is_as_if_all_had_come_to_one(values: Any, cut: int) -> None:
    first, second = split_at(values, [cut])
    merged, other = RunningQuantileStats(num_quantile_bins=BINS), RunningQuantileStats(num_quantile_bins=BINS)
    merged.update(first)
    other.update(second)
    before = repr(other)
    merged.merge(other)
    found, expected = merged.get_statistics(), statistics_of([values])
    for name in ("min", "max", "count", "q01", "q10", "q50", "q90", "q99"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert_like_numpy(found, values)
    assert repr(other) == before


@settings(max_examples=30)
@given(values=hnp.arrays(np.int64, st.tuples(st.integers(2, 50), st.integers(1, 3)), elements=st.integers(-9, 10**15)))
def test_whole_numbers_keep_their_type(values: Any) -> None:
    found = statistics_of([values])
    assert found["min"].dtype == found["max"].dtype == np.int64
    assert_like_numpy(found, values)


# -- what floating point and histograms like to get wrong -------------------------------------------------------------


def test_a_small_spread_on_a_large_offset_is_not_lost() -> None:
    noise = np.random.default_rng(0).normal(size=(5000, 2))
    found = statistics_of(list((1e9 + noise).reshape(50, 100, 2)), bins=5000)
    np.testing.assert_allclose(found["std"], (1e9 + noise).std(axis=0), rtol=1e-7)
    np.testing.assert_allclose(found["mean"], (1e9 + noise).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found["q50"] - 1e9, np.median(noise, axis=0), atol=np.ptp(noise) / 5000)


def test_a_range_that_grows_step_by_step_costs_no_precision() -> None:
    ramp = np.arange(3000.0)[:, None] * [1.0, -7.0]
    assert_like_numpy(statistics_of(list(ramp.reshape(300, 10, 2)), bins=5000), ramp, bins=5000)
    growing = np.cumprod(np.full((300, 1), 1.1), axis=0)
    assert_like_numpy(statistics_of(list(growing), bins=5000), growing, bins=5000)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-310, 12345678.9])
def test_a_constant_has_itself_for_every_quantile(value: float) -> None:
    found = statistics_of([np.full((7, 1), value)] * 3)
    assert found["std"].tolist() == [0.0]
    assert {found[name].item() for name in ("min", "max", "mean", "q01", "q50", "q99")} == {value}


def test_zeros_before_tiny_and_before_large_values() -> None:
    for size in (1e-300, 1e-20, 1.0, 1e20):
        values = np.concatenate([np.zeros((10, 1)), np.linspace(0, size, 90)[:, None]])
        assert_like_numpy(statistics_of([values[:10], values[10:]]), values)


def test_leading_dimensions_tensors_flags_and_single_vectors_are_taken() -> None:
    values = np.random.default_rng(1).normal(size=(4, 5, 6, 3)).astype(np.float32)
    expected = statistics_of([values.reshape(-1, 3)])
    for batches in ([values], [torch.from_numpy(values)], list(values.reshape(-1, 3)), [values[:0], values]):
        np.testing.assert_array_equal(statistics_of(batches)["q50"], expected["q50"])
    assert statistics_of([np.array([[True], [False], [True], [True]])])["mean"].tolist() == [0.75]


def test_names_follow_the_quantiles() -> None:
    running = RunningQuantileStats(quantile_list=(0.0, 0.05, 0.29, 0.995, 1.0))
    running.update(np.arange(10.0)[:, None])
    assert set(running.get_statistics()) == {*MOMENTS, "q00", "q05", "q29", "q99.5", "q100"}
    assert set(statistics_of([np.eye(3)])) == {*MOMENTS, "q01", "q10", "q50", "q90", "q99"}


@pytest.mark.parametrize(
    "batch", [np.float64(1.0), np.ones((3, 0)), [[1.0, np.nan]], [[np.inf, 1.0]], [["a", "b"]], np.ones((2, 3))]
)
def test_a_refused_batch_leaves_all_as_it_was(batch: Any) -> None:
    values = np.random.default_rng(2).normal(size=(20, 2))
    running = RunningQuantileStats(num_quantile_bins=BINS)
    running.update(values)
    with pytest.raises(ValueError, match="Expected"):
        running.update(batch)
    np.testing.assert_array_equal(running.get_statistics()["q90"], statistics_of([values])["q90"])
    assert running.get_statistics()["count"] == [20]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="quantile_list"):
        RunningQuantileStats(quantile_list=(0.5, 1.5))
    with pytest.raises(ValueError, match="num_quantile_bins"):
        RunningQuantileStats(num_quantile_bins=0)
    running, other = RunningQuantileStats(), RunningQuantileStats(num_quantile_bins=10)
    with pytest.raises(ValueError, match="less than 2"):
        running.get_statistics()
    running.update([1.0])
    with pytest.raises(ValueError, match="less than 2"):
        running.get_statistics()
    other.update([[1.0, 2.0]])
    with pytest.raises(ValueError, match="bins"):
        running.merge(other)
    longer = RunningQuantileStats()
    longer.update([[1.0, 2.0]])
    with pytest.raises(ValueError, match="length 1"):
        running.merge(longer)


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kept"),
    [((480, 640), (120, 160)), ((64, 96), (64, 96)), ((299, 200), (299, 200)), ((1080, 1920), (90, 160))],
)
def test_pictures_are_counted_at_about_150_pixels_a_side(size: tuple[int, int], kept: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert downsampled(picture).shape[:2] == kept
    statistics = ImageStatistics()
    statistics.update(picture)
    statistics.update(picture)
    assert statistics.get_statistics()["count"].tolist() == [2 * kept[0] * kept[1]]


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint8, 4), (np.uint16, 1)])
def test_pictures_say_what_numpy_says_of_their_pixels(dtype: Any, channels: int) -> None:
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, np.iinfo(dtype).max // (k + 1), (40, 60, channels), dtype) for k in range(6)]
    statistics = ImageStatistics()
    for picture in pictures:
        statistics.update(picture)
    pixels = np.concatenate([picture.reshape(-1, channels) for picture in pictures]).astype(np.float64)
    found = statistics.get_statistics()
    np.testing.assert_array_equal(found["min"], pixels.min(axis=0))
    np.testing.assert_array_equal(found["max"], pixels.max(axis=0))
    np.testing.assert_allclose(found["mean"], pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], pixels.std(axis=0), rtol=1e-12)
    for name, q in zip(("q01", "q10", "q50", "q90", "q99"), QUANTILES, strict=True):
        np.testing.assert_allclose(found[name], np.quantile(pixels, q, axis=0), rtol=1e-12)
    running = statistics_of([pixels], bins=5000)
    np.testing.assert_allclose(running["q50"], found["q50"], atol=np.ptp(pixels) / 5000)


def test_every_layout_and_type_of_one_picture_counts_alike() -> None:
    picture = np.random.default_rng(4).integers(0, 256, (48, 64, 3), np.uint8)
    forms = [
        picture,
        picture.transpose(2, 0, 1),
        picture.astype(np.float32) / 255,
        torch.from_numpy(picture).permute(2, 0, 1),
    ]
    found = []
    for form in forms:
        statistics = ImageStatistics()
        statistics.update(form)
        statistics.update(form)
        found.append(statistics.get_statistics())
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_array_equal(other[name], values)


def test_an_image_feature_lies_in_zero_to_one_and_broadcasts_over_channels_first() -> None:
    statistics = ImageStatistics()
    for k in range(3):
        statistics.update(np.full((10, 10, 3), [0, 51 * k, 255], np.uint8))
    feature = image_feature(statistics.get_statistics())
    assert feature["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(feature["mean"].ravel(), [0, 0.2, 1])
    assert feature["max"].ravel().tolist() == [0, 0.4, 1]
    assert feature["count"].tolist() == [300]


@pytest.mark.parametrize(
    "picture",
    [np.zeros((5, 4, 5)), np.zeros(4), np.zeros((4, 4), np.int32), np.full((4, 4), 1.5), np.full((4, 4), np.nan)],
)
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    with pytest.raises(ValueError, match="Invalid picture"):
        ImageStatistics().update(picture)


def test_pictures_of_another_kind_are_refused() -> None:
    statistics = ImageStatistics()
    with pytest.raises(ValueError, match="less than 2"):
        statistics.get_statistics()
    statistics.update(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="3 channels"):
        statistics.update(np.zeros((4, 4), np.uint8))
