"""Pixels written straight into memory by libswscale are PyAV's, byte for byte, and nothing beside them is touched."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from hypothesis import example, given
from hypothesis import strategies as st

from lazyvid.decoding import scaling, swscale
from lazyvid.decoding.scaling import Scaler, Scaling, scaler_for
from lazyvid.decoding.swscale import DirectConverter

GUARD = 512
CHANNELS = {"rgb24": 3, "gray": 1}
COLORSPACES = (1, 2, 5, 6, 9)
RANGES = (0, 1, 2)


def noise(width: int, height: int, *, pixel_format: str = "yuv420p", seed: int = 0) -> VideoFrame:
    """A picture of random bytes, which no code path can treat alike by chance."""
    picture = VideoFrame(width, height, pixel_format)
    rng = np.random.default_rng(seed)
    for plane in picture.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    return picture


def by_pyav(picture: VideoFrame, output: str) -> np.ndarray[Any, Any]:
    """uint8 [H, W, C]."""
    converted = VideoReformatter().reformat(
        picture, format=output, width=picture.width, height=picture.height, threads=1,
        interpolation=Interpolation.BILINEAR,
    )  # fmt: skip
    rows = np.frombuffer(memoryview(converted.planes[0]), np.uint8).reshape(picture.height, -1)
    channels = CHANNELS[output]
    return rows[:, : picture.width * channels].reshape(picture.height, picture.width, channels)


def plain(width: int, height: int, output: str) -> Scaling:
    return Scaling(width, height, width, height, output, CHANNELS[output], Interpolation.BILINEAR)


def is_direct(scaler: Scaler) -> bool:
    """Whether its last kind of picture goes the direct way."""
    return scaler._direct is not None and [*scaler._direct._contexts.values()][-1] is not None


def check(scaler: Scaler, picture: VideoFrame, output: str) -> None:
    shape = (picture.height, picture.width, CHANNELS[output])
    for fill in (0, 255):
        memory = np.full(np.prod(shape) + 2 * GUARD, fill, np.uint8)
        scaler.write(picture, memory[GUARD:-GUARD].reshape(shape))
        np.testing.assert_array_equal(memory[GUARD:-GUARD].reshape(shape), by_pyav(picture, output))
        assert np.all(memory[:GUARD] == fill)
        assert np.all(memory[-GUARD:] == fill)


@given(
    width=st.one_of(st.integers(2, 140), st.sampled_from([320, 426, 640, 854, 1280])),
    height=st.integers(1, 40),
    output=st.sampled_from(sorted(CHANNELS)),
    colorspace=st.sampled_from(COLORSPACES),
    color_range=st.sampled_from(RANGES),
    seed=st.integers(0, 2**32 - 1),
)
@example(width=96, height=32, output="rgb24", colorspace=2, color_range=0, seed=0)
@example(width=98, height=32, output="rgb24", colorspace=1, color_range=2, seed=0)
def test_any_size_and_any_colours(
    width: int, height: int, output: str, colorspace: int, color_range: int, seed: int
) -> None:
    picture = noise(width, height, seed=seed)
    picture.colorspace, picture.color_range = colorspace, color_range
    check(Scaler(plain(width, height, output)), picture, output)


@pytest.mark.parametrize("output", sorted(CHANNELS))
@pytest.mark.parametrize(("width", "height"), [(640, 360), (1280, 720), (96, 96), (160, 120), (426, 240), (322, 242)])
def test_usual_sizes_go_the_direct_way(width: int, height: int, output: str) -> None:
    scaler = Scaler(plain(width, height, output))
    for seed in range(3):
        check(scaler, noise(width, height, seed=seed), output)
        assert is_direct(scaler)


def test_kinds_may_follow_one_another() -> None:
    scaler = Scaler(plain(96, 32, "rgb24"))
    for seed, (colorspace, color_range) in enumerate([(1, 1), (5, 2), (1, 2), (9, 0), (1, 1), (2, 0), (5, 2)]):
        picture = noise(96, 32, seed=seed)
        picture.colorspace, picture.color_range = colorspace, color_range
        check(scaler, picture, "rgb24")
        assert is_direct(scaler)
    check(scaler, noise(96, 32, pixel_format="yuvj420p"), "rgb24")


@pytest.mark.parametrize(
    ("pixel_format", "width", "height"),
    [("yuv444p", 96, 32), ("yuv422p", 96, 32), ("nv12", 96, 32), ("rgb24", 96, 32), ("yuv420p", 96, 33)],
)
def test_others_go_by_pyav(pixel_format: str, width: int, height: int) -> None:
    scaler = Scaler(plain(width, height, "rgb24"))
    check(scaler, noise(width, height, pixel_format=pixel_format), "rgb24")
    assert not is_direct(scaler)


def test_unusual_colour_spaces_go_by_pyav() -> None:
    picture = noise(96, 32)
    picture.colorspace = 4  # FCC
    scaler = Scaler(plain(96, 32, "rgb24"))
    check(scaler, picture, "rgb24")
    assert not is_direct(scaler)


def test_a_picture_of_another_size_goes_by_pyav() -> None:
    scaler = Scaler(plain(96, 32, "rgb24"))
    check(scaler, noise(96, 32), "rgb24")
    out = np.zeros((32, 96, 3), np.uint8)
    scaler.write(noise(48, 16), out)
    assert out.any()


def test_without_the_library_it_is_pyav_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swscale, "_library", lambda: None)
    scaler = Scaler(plain(96, 32, "rgb24"))
    check(scaler, noise(96, 32), "rgb24")
    assert not is_direct(scaler)


def test_a_way_that_differs_in_one_byte_is_not_gone() -> None:
    picture = noise(96, 32)
    pixels = by_pyav(picture, "rgb24").reshape(32, 96 * 3)
    out = np.zeros(96 * 32 * 3, np.uint8)
    assert DirectConverter(96, 32, "rgb24", reference=lambda _: pixels).write(picture, out, 96 * 3)
    other = pixels.copy()
    other[-1, -1] ^= 1
    assert not DirectConverter(96, 32, "rgb24", reference=lambda _: other).write(picture, out, 96 * 3)


def test_a_width_that_would_be_written_past_its_end_is_not_trusted() -> None:
    """What the guards are for: with rows of 90 pixels, vector code writes over the end of the last one."""
    picture = noise(90, 32)
    direct = DirectConverter(90, 32, "rgb24", reference=lambda p: by_pyav(p, "rgb24").reshape(32, 270))
    out = np.zeros(90 * 32 * 3 + GUARD, np.uint8)
    before = out.copy()
    assert direct.write(picture, out, 270) or np.array_equal(out, before)
    out = np.zeros(32 * 384, np.uint8)
    assert direct.write(picture, out, 384)


def test_each_thread_has_scalers_of_its_own_and_few() -> None:
    one = scaler_for(plain(96, 32, "rgb24"))
    assert scaler_for(plain(96, 32, "rgb24")) is one
    other: list[Scaler] = []
    thread = threading.Thread(target=lambda: other.append(scaler_for(plain(96, 32, "rgb24"))))
    thread.start()
    thread.join()
    assert other[0] is not one
    for width in range(2, 40, 2):
        scaler_for(plain(width, 32, "rgb24"))
    assert len(scaling._kept.scalers) <= scaling._KEPT


def test_contexts_are_not_freed_at_exit_under_threads_that_still_scale() -> None:
    picture = noise(96, 32)
    direct = DirectConverter(96, 32, "rgb24", reference=lambda p: by_pyav(p, "rgb24").reshape(32, 288))
    assert direct.write(picture, np.zeros(32 * 288 + GUARD, np.uint8), 288)
    free = swscale._library().sws_freeContext
    finalizers = list(weakref.finalize._registry.copy().items())  # type: ignore[attr-defined]  # there is no public list
    kept = [finalizer for finalizer, info in finalizers if info.func is free]
    assert kept
    assert not [finalizer for finalizer in kept if finalizer.atexit]
