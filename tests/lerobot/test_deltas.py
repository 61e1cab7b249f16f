"""Windows of frames around the current one: the same integers and pads as by counting one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.lerobot.deltas import DeltaWindows


@given(
    fps=st.sampled_from([10, 15, 24, 25, 30, 50, 60]),
    offsets=st.lists(st.integers(-200, 200), min_size=1, max_size=8),
    length=st.integers(1, 100),
    data=st.data(),
)
def test_frames_are_the_clamped_neighbours(fps: int, offsets: list[int], length: int, data: st.DataObject) -> None:
    current = data.draw(st.integers(0, length - 1))
    windows = DeltaWindows.of({"a": [k / fps for k in offsets]}, fps=fps, tolerance_s=1e-4, features=["a", "b"])
    frames, is_pad = windows.frames("a", np.array([current]), np.array([length]))
    assert frames.tolist() == [[min(max(current + k, 0), length - 1) for k in offsets]]
    assert is_pad.tolist() == [[not 0 <= current + k < length for k in offsets]]
    alone, pad = windows.frames("b", np.array([current]), np.array([length]))
    assert alone.tolist() == [[current]]
    assert not pad.any()


def test_times_off_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 1/30 s .* got 0\.05"):
        DeltaWindows.of({"a": [0.0, 0.05]}, fps=30, tolerance_s=1e-4, features=["a"])
    assert DeltaWindows.of({"a": [0.05]}, fps=30, tolerance_s=0.02, features=["a"]).offsets == {"a": (2,)}
    with pytest.raises(ValueError, match="multiples"):
        DeltaWindows.of({"a": [float("nan")]}, fps=30, tolerance_s=1e-4, features=["a"])


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no feature 'c'"):
        DeltaWindows.of({"c": [0.0]}, fps=30, tolerance_s=1e-4, features=["a", "b"])
    with pytest.raises(ValueError, match="a time or more for 'a'"):
        DeltaWindows.of({"a": []}, fps=30, tolerance_s=1e-4, features=["a"])
