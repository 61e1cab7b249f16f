"""`FrameView` against a model made of plain lists: windows of windows, empty ones, unsorted times, joined videos."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_samples import make_index

from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.view import FrameView

_LAST_DURATION = 512 / 15360


@dataclass
class Model:
    """What a view must show, by the definition: frames of each part sorted by time, then cut by window after window."""

    times: list[float]
    part_sizes: list[int]
    ranks: list[int]

    @property
    def order(self) -> list[int]:
        """Rows in time order, part by part."""
        rows: list[int] = []
        first = 0
        for size in self.part_sizes:
            rows += sorted(range(first, first + size), key=lambda row: (self.times[row], row))
            first += size
        return rows

    def rows(self) -> list[int]:
        return [self.order[rank] for rank in self.ranks]

    def end(self) -> float:
        """The frame after the last shown one ends it; after the video's last frame, its own duration does."""
        following = self.ranks[-1] + 1
        if following < len(self.times):
            return self.times[self.order[following]]
        return self.times[self.order[-1]] + _LAST_DURATION


@st.composite
def cases(draw: st.DrawFn) -> tuple[FrameIndex, tuple[int, ...], list[tuple[int, int]]]:
    """An index of one or more parts, some with times out of order, and the windows to take one inside the other."""
    part_sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
    times: list[float] = []
    for size in part_sizes:
        steps = draw(st.lists(st.integers(1, 50), min_size=size, max_size=size))
        begin = (times and max(times)) or 0.0
        part = (begin + np.cumsum(steps) / 8.0).tolist()
        times += draw(st.permutations(part)) if draw(st.booleans()) else part
    count = len(times)
    index = dataclasses.replace(make_index(count, hidden=0), timestamp=np.array(times))
    bound = st.integers(0, count + 2)
    return index, tuple(part_sizes), draw(st.lists(st.tuples(bound, bound), max_size=4))


def windowed(view: FrameView, first: int, stop: int) -> FrameView:
    return FrameView(view.index, view.window(first, stop), view.part_sizes)


@given(case=cases())
def test_windows_of_windows_show_what_the_definition_says(
    case: tuple[FrameIndex, tuple[int, ...], list[tuple[int, int]]],
) -> None:
    index, part_sizes, windows = case
    view = FrameView(index, None, part_sizes)
    model = Model(index.timestamp.tolist(), list(part_sizes), list(range(len(index))))
    for first, stop in [(0, len(index)), *windows]:
        view = windowed(view, first, stop)
        model.ranks = model.ranks[first : max(first, stop)]
        assert len(view) == len(model.ranks)
        assert view.rows.tolist() == model.rows()
        assert view.timestamps.tolist() == [model.times[row] for row in model.rows()]
        assert view.segment_frame_counts().tolist() == [len(model.ranks)]
        if model.ranks:
            assert view.begin_seconds == view.timestamps[0]
            assert view.end_seconds == pytest.approx(model.end(), abs=1e-12)
            ends = [*view.timestamps[1:].tolist(), model.end()]
            durations = view.durations(np.arange(len(view)))
            np.testing.assert_allclose(view.timestamps + durations, ends, atol=1e-12)
        else:
            assert view.end_seconds == view.begin_seconds
            assert view.durations(np.empty(0, np.int64)).tolist() == []


@given(case=cases())
def test_the_view_of_everything_is_sorted_in_each_part(
    case: tuple[FrameIndex, tuple[int, ...], list[tuple[int, int]]],
) -> None:
    index, part_sizes, _ = case
    view = FrameView(index, None, part_sizes)
    assert sorted(view.rows.tolist()) == list(range(len(index)))
    first = 0
    for size in part_sizes:
        assert np.all(np.diff(view.timestamps[first : first + size]) > 0)
        assert set(view.rows[first : first + size].tolist()) == set(range(first, first + size))
        first += size


@given(case=cases(), data=st.data())
def test_windows_of_several_joined_videos_follow_one_another(
    case: tuple[FrameIndex, tuple[int, ...], list[tuple[int, int]]], data: st.DataObject
) -> None:
    """As `LazyVideo.concat` of windows makes them: several ranges of ranks, with gaps, some empty."""
    index, part_sizes, _ = case
    model = Model(index.timestamp.tolist(), list(part_sizes), [])
    ranges, first = [], 0
    for size in part_sizes:
        a, b = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
        ranges.append((first + a, first + b))
        model.ranks += range(first + a, first + b)
        first += size
    view = FrameView(index, tuple(ranges), part_sizes)
    assert view.rows.tolist() == model.rows()
    lo, hi = sorted(data.draw(st.tuples(st.integers(0, len(view)), st.integers(0, len(view)))))
    inner = windowed(view, lo, hi)
    assert inner.rows.tolist() == model.rows()[lo:hi]


def test_an_empty_window_remembers_where_it_lies() -> None:
    index = dataclasses.replace(make_index(5, hidden=0), timestamp=np.arange(5) * 2.0)
    view = FrameView(index)
    for position in range(5):
        empty = windowed(view, position, position)
        assert empty.begin_seconds == empty.end_seconds == 2.0 * position
        assert windowed(empty, 0, 3).begin_seconds == 2.0 * position
    assert windowed(view, 5, 5).begin_seconds == view.end_seconds == pytest.approx(8.0 + _LAST_DURATION)


def test_sorted_times_are_not_copied_and_nothing_can_be_changed() -> None:
    index = make_index(50)
    view = FrameView(index)
    assert view.timestamps is index.timestamp
    for array in (view.rows, view.timestamps, windowed(view, 3, 9).rows, windowed(view, 3, 9).timestamps):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_frames_of_segments_are_counted_inside_the_window() -> None:
    view = FrameView(make_index(30, segments=3))
    assert view.segment_frame_counts().tolist() == [10, 10, 10]
    assert windowed(view, 8, 21).segment_frame_counts().tolist() == [2, 10, 1]
    assert windowed(view, 4, 4).segment_frame_counts().tolist() == [0, 0, 0]
