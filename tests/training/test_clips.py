"""The plain enumeration against a list of all its clips, which the plan itself never makes."""

from __future__ import annotations

import pickle
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid import timing
from lazyvid.frames import ClipSpec, Window
from lazyvid.training.clips import ClipPlan, FloatArray, IntArray

SPECS = st.builds(
    ClipSpec,
    num_frames=st.integers(1, 8),
    frame_stride=st.integers(1, 4),
    step=st.none() | st.integers(1, 9),
    pad=st.sampled_from(["error", "repeat"]),
)
RANGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=6)


class TimesOf:
    """`FrameTimes` of arrays, in plain words."""

    def __init__(self, times: list[FloatArray]) -> None:
        self.times = times
        self.median_steps = np.array([timing.median_step(t) for t in times])

    def times_at(self, positions: IntArray) -> FloatArray:
        return np.array([t[p] if 0 <= p < len(t) else np.nan for t, p in zip(self.times, positions, strict=True)])

    def search(self, seconds: FloatArray, *, side: Literal["left", "right"]) -> IntArray:
        before = {"left": np.less, "right": np.less_equal}[side]
        return np.array([before(t, s).sum() for t, s in zip(self.times, seconds, strict=True)])


def all_clips(spec: ClipSpec, ranges: list[tuple[int, int]]) -> list[Window]:
    """What the docstrings say, spelled out."""
    step = spec.step or spec.span
    return [
        Window(video, start, start + spec.span)
        for video, (first, stop) in enumerate(ranges)
        for start in range(first, stop, step)
        if spec.pad == "repeat" or start + spec.span <= stop
    ]


@given(SPECS, RANGES)
def test_the_plan_is_the_list(spec: ClipSpec, ranges: list[tuple[int, int]]) -> None:
    plan = ClipPlan.of(spec, ranges)
    expected = all_clips(spec, ranges)
    assert len(plan) == len(expected)
    assert [plan.window(i) for i in range(len(plan))] == expected
    assert [plan.window(i - len(plan)) for i in range(len(plan))] == expected
    assert [plan.index_near(window) for window in expected] == list(range(len(expected)))
    sent = pickle.loads(pickle.dumps(plan))
    assert [sent.window(i) for i in range(len(sent))] == expected
    for outside in (len(plan), -len(plan) - 1):
        with pytest.raises(IndexError, match=f"{len(plan)} clips"):
            plan.window(outside)


@given(SPECS, RANGES)
def test_the_frames_of_every_clip(spec: ClipSpec, ranges: list[tuple[int, int]]) -> None:
    plan = ClipPlan.of(spec, ranges)
    for number in range(len(plan)):
        window = plan.window(number)
        plan.check(window)
        last = ranges[window.video][1] - 1
        wanted = [window.start + k * spec.frame_stride for k in range(spec.num_frames)]
        positions, is_pad = plan.positions(window, np.empty(0))
        assert positions.tolist() == [min(frame, last) for frame in wanted]
        assert is_pad.tolist() == [frame > last for frame in wanted]
        assert spec.pad == "repeat" or not is_pad.any()


@given(
    rate=st.sampled_from([24.0, 25.0, 29.97, 30.0, 60.0]),
    fps=st.sampled_from([1.0, 5.0, 10.0, 12.0, 24.0, 30.0, 50.0]),
    count=st.integers(1, 90),
    num_frames=st.integers(1, 8),
    pad=st.sampled_from(["error", "repeat"]),
    start=st.sampled_from([0.0, -3.25, 1_700_000_000.125]),
)
def test_clips_by_time_take_the_nearest_frames(
    rate: float, fps: float, count: int, num_frames: int, pad: str, start: float
) -> None:
    times = start + np.arange(count) / rate
    spec = ClipSpec(num_frames, fps=fps, pad=pad)  # type: ignore[arg-type]
    plan = ClipPlan.of(spec, [(0, count)], TimesOf([times]))
    if pad == "repeat" or num_frames == 1:
        assert len(plan) >= 1
    for number in range(len(plan)):
        positions, is_pad = plan.positions(plan.window(number), times)
        asked = times[positions[0]] + np.arange(num_frames) / fps
        inside = ~is_pad
        distances = np.abs(times[None] - asked[:, None])
        chosen = distances[np.arange(num_frames), positions]
        assert (chosen[inside] <= distances.min(axis=1)[inside]).all()
        assert (positions[is_pad] == count - 1).all()
        assert not is_pad[0]
        assert pad == "repeat" or inside.all()
        assert (chosen[inside] <= 0.5 / rate + 2e-6).all() or count == 1


def test_a_third_of_the_rate_is_every_third_frame() -> None:
    times = np.arange(91) / 30
    plan = ClipPlan.of(ClipSpec(10, fps=10), [(0, 91)], TimesOf([times]))
    assert len(plan) == 3
    assert [plan.positions(plan.window(i), times)[0].tolist() for i in range(3)] == [
        list(range(start, start + 30, 3)) for start in (0, 30, 60)
    ]


def test_irregular_times_are_resampled_by_time() -> None:
    times = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.9, 2.0, 3.0])
    plan = ClipPlan.of(ClipSpec(3, fps=1, step=1), [(0, 8)], TimesOf([times]))
    assert [plan.positions(plan.window(i), times)[0].tolist() for i in range(len(plan))] == [
        [0, 3, 6],
        [1, 4, 6],
        [2, 4, 6],
        [3, 6, 7],
    ]


def test_windows_of_any_length() -> None:
    plan = ClipPlan.of(ClipSpec(4, frame_stride=2), [(0, 20)])
    assert plan.positions(Window(0, 3, 4), np.empty(0))[0].tolist() == [3]
    assert plan.positions(Window(0, 3, 12), np.empty(0))[0].tolist() == [3, 5, 7, 9, 11]
    plan.check(Window(0, 13, 21))  # its last frame is 19


@pytest.mark.parametrize(
    ("window", "error", "said"),
    [
        (Window(1, 0, 4), IndexError, "1 videos"),
        (Window(-1, 0, 4), IndexError, "1 videos"),
        (Window(0, 20, 24), IndexError, "0 to 19"),
        (Window(0, -1, 3), IndexError, "0 to 19"),
        (Window(0, 5, 5), ValueError, "empty"),
        (Window(0, 17, 21), ValueError, "repeat"),
    ],
)
def test_windows_that_cannot_be_taken(window: Window, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        ClipPlan.of(ClipSpec(4), [(0, 20)]).check(window)


def test_a_hundred_million_clips_are_a_few_numbers() -> None:
    plan = ClipPlan.of(ClipSpec(4, step=1), [(0, 100_003)] * 1000)
    assert len(plan) == 100_000_000
    assert plan.window(99_999_999) == Window(999, 99_999, 100_003)
    assert plan.window(50_000_000) == Window(500, 0, 4)
