"""Ticks, seconds and which frame is shown when, against exact fractions and plain loops."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid import timing

time_bases = st.builds(Fraction, st.integers(1, 1001), st.integers(1, 1_000_000))
seconds = st.integers(-(2**30), 2**30).map(lambda n: n / 1024)
"""Times whose differences are exact in float64, so that "equally near" means the same to the test and to the code."""


@st.composite
def increasing(draw: st.DrawFn, *, min_size: int = 1) -> np.ndarray:
    """Strictly increasing times."""
    return np.array(sorted(draw(st.lists(seconds, min_size=min_size, max_size=12, unique=True))), np.float64)


@given(time_base=time_bases, data=st.data())
def test_ticks_to_seconds_gives_the_double_nearest_to_the_true_time(time_base: Fraction, data: st.DataObject) -> None:
    limit = 2**53 // time_base.numerator
    ticks = data.draw(st.lists(st.integers(-limit, limit), max_size=8))
    # A Fraction converts to float by one correctly rounded division of whole numbers.
    expected = [float(tick * time_base) for tick in ticks]
    assert timing.ticks_to_seconds(ticks, time_base).tolist() == expected
    assert timing.ticks_to_seconds(ticks, time_base).dtype == np.float64


@given(time_base=time_bases, tick=st.integers(-(2**32), 2**32))
def test_a_tick_survives_the_way_to_seconds_and_back(time_base: Fraction, tick: int) -> None:
    (time,) = timing.ticks_to_seconds([tick], time_base).tolist()
    assert timing.seconds_to_ticks(time, time_base) == tick


def test_half_a_tick_goes_to_the_even_one() -> None:
    assert [timing.seconds_to_ticks(t, Fraction(1, 4)) for t in (0.125, 0.375, -0.125)] == [0, 2, 0]


@given(times=increasing(), asked=st.lists(seconds, max_size=8))
def test_played_at_is_the_last_frame_that_began(times: np.ndarray, asked: list[float]) -> None:
    asked += times.tolist()
    expected = [sum(1 for time in times.tolist() if time <= t) - 1 for t in asked]
    assert timing.played_at(times, asked).tolist() == expected


def test_played_at_tells_neighbouring_doubles_apart() -> None:
    begin = 0.1
    times = np.array([0.0, begin, 0.2])
    asked = [math.nextafter(begin, 0.0), begin, math.nextafter(begin, 1.0)]
    assert timing.played_at(times, asked).tolist() == [0, 1, 1]


@given(times=increasing(), asked=st.lists(seconds, max_size=8))
def test_nearest_is_the_earlier_of_those_at_the_least_distance(times: np.ndarray, asked: list[float]) -> None:
    asked += times.tolist()
    expected = [min(range(len(times)), key=lambda i: (abs(times[i] - t), i)) for t in asked]
    assert timing.nearest(times, asked).tolist() == expected


@given(times=increasing(min_size=0), start=seconds, end=seconds)
def test_between_holds_the_times_of_a_half_open_range(times: np.ndarray, start: float, end: float) -> None:
    first, stop = timing.between(times, start, end)
    assert times[first:stop].tolist() == [t for t in times.tolist() if start <= t < end]
    assert first <= stop


@given(
    start=st.floats(0, 1000), frames=st.integers(0, 500), fps=st.sampled_from([1, 10, 24, 25, 30, 59.94, 30000 / 1001])
)
def test_a_grid_over_n_steps_has_n_times(start: float, frames: int, fps: float) -> None:
    # The stop is rounded in float: neither one more nor one less may come of it.
    times = timing.grid(start, start + frames / fps, fps)
    assert len(times) == frames
    np.testing.assert_allclose(times, start + np.arange(frames) / fps, rtol=0, atol=1e-9)


def test_a_grid_ends_before_its_stop() -> None:
    assert timing.grid(0.0, 1.05, 10).tolist() == pytest.approx([k / 10 for k in range(11)])
    assert timing.grid(2.0, 1.0, 10).tolist() == []


def test_median_step_of_fewer_than_two_frames_is_zero() -> None:
    assert timing.median_step(np.array([])) == 0.0
    assert timing.median_step(np.array([3.0])) == 0.0
    assert timing.median_step(np.array([0.0, 1.0, 1.5, 9.5])) == 1.0


def test_the_last_frame_ends_after_its_own_duration_or_the_median_step() -> None:
    times = np.array([0.0, 1.0, 3.0, 4.0])
    assert timing.last_frame_end(times, 0.25) == 4.25
    assert timing.last_frame_end(times, 0.0) == 5.0
