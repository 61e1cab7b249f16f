"""A painted frame proves its number, and nothing else passes for one."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyvid.testing import MAX_FRAME_NUMBER, painted_frame, read_frame_number

NUMBERS = st.integers(0, MAX_FRAME_NUMBER)


@given(number=NUMBERS, width=st.integers(32, 200), height=st.integers(32, 200))
@settings(max_examples=100)
def test_every_number_is_read_back_at_every_size(number: int, width: int, height: int) -> None:
    frame = painted_frame(number, width=width, height=height)
    assert frame.shape == (height, width, 3)
    assert read_frame_number(frame) == number


@given(number=NUMBERS)
@settings(max_examples=20)
def test_every_layout_is_read(number: int) -> None:
    rgb = painted_frame(number, width=96, height=80)
    gray = rgb.mean(axis=-1).astype(np.uint8)
    layouts = [rgb, gray, gray[None], gray[..., None], np.moveaxis(rgb, -1, 0)]
    layouts += [torch.from_numpy(np.ascontiguousarray(layout)) for layout in layouts]
    layouts.append(torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)
    assert [read_frame_number(layout) for layout in layouts] == [number] * len(layouts)


@pytest.mark.parametrize("size", [(64, 64), (64, 36), (48, 64), (85, 64)])
def test_it_survives_resizing(size: tuple[int, int]) -> None:
    for number in range(0, MAX_FRAME_NUMBER, 4001):
        frame = av.VideoFrame.from_ndarray(painted_frame(number, width=640, height=480), format="rgb24")
        small = frame.reformat(*size, format="rgb24", interpolation="BILINEAR").to_ndarray()
        assert read_frame_number(small) == number


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_frame_is_not_read(turns: int) -> None:
    for number in (0, 1, 2, 1000, 54321):
        with pytest.raises(ValueError, match="unreadable"):
            read_frame_number(np.rot90(painted_frame(number, width=160, height=120), k=turns))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_is_not_a_frame(level: int) -> None:
    with pytest.raises(ValueError, match="unreadable"):
        read_frame_number(np.full((120, 160, 3), level, np.uint8))


def test_two_frames_blended_are_not_one() -> None:
    blend = (painted_frame(5, width=160, height=120) // 2) + (painted_frame(6, width=160, height=120) // 2)
    with pytest.raises(ValueError, match="unreadable"):
        read_frame_number(blend)


def test_the_texture_moves_only_if_asked_to() -> None:
    def texture(number: int, motion: int) -> np.ndarray:
        return painted_frame(number, width=160, height=120, motion=motion)[80:]

    assert not np.array_equal(texture(1, 3), texture(2, 3))
    assert np.array_equal(texture(1, 0), texture(2, 0))


@pytest.mark.parametrize("number", [-1, MAX_FRAME_NUMBER + 1])
def test_a_number_that_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        painted_frame(number, width=160, height=120)


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 120, 160\)"):
        read_frame_number(np.zeros((2, 3, 120, 160), np.uint8))
