"""The law that lazyvid stands on: every frame, however it is asked for, equals that of a sequential decode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from lazyvid import LazyVideo
from lazyvid.testing import CORPUS, VideoCorpus, read_frame_number

# The files lie in read-only folders, without sidecars.
pytestmark = pytest.mark.filterwarnings("ignore:No frame index")

_FORMATS = {"RGB": "rgb24", "G": "gray"}
# A sequential decode fails on these too: see test_video_errors.py.
_UNREADABLE = {"corrupted.mp4"}
SHARED = [
    "av1_video.mkv",
    "bigbuckbunny.mp4",
    "bikes.mp4",
    "bt709_full_range.mp4",
    "carphone_pristine.mp4",
    "h264_10bits.mp4",
    "h265_video.mp4",
    "nasa_13013.mp4",
    "nasa_13013_rotated.mp4",
    "rotated_90.mov",
    "test_non_zero_start.mp4",
    "testsrc2_444_8bit_hevc.mp4",
    "testsrc2_odd_height_vp9.mp4",
    "testsrc2_vp8.webm",
]
VIDEOS = sorted(name for name, video in CORPUS.items() if video.numbers)


def sequential_decode(path: Path, colorspace: str, *, stream: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W, C], every frame as PyAV gives it, turned as the file says."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=stream):
            pixels = frame.to_ndarray(format=_FORMATS[colorspace])
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            frames.append(np.rot90(pixels, frame.rotation // 90 % 4))
    return np.stack(frames)


def orders(frames: int, *, alone: int | None) -> Iterator[Sequence[int] | npt.NDArray[Any]]:
    """Ways of asking: each frame alone (or a sample), backward, strided, shuffled, repeated, and all at once."""
    rng = np.random.default_rng(frames)
    for number in rng.permutation(frames)[:alone]:
        yield [int(number)]
    yield np.arange(frames)[::-1]
    yield np.arange(0, frames, 7)
    yield rng.permutation(frames)[: max(1, frames // 2)]
    yield rng.integers(0, frames, 12).repeat(2)
    yield np.arange(frames)


def assert_same_frames(path: Path, colorspace: str, *, alone: int | None, **options: Any) -> None:
    """Fail unless every order of asking gives the frames of a sequential decode, with their numbers."""
    expected = sequential_decode(path, colorspace, stream=options.get("stream") or 0)
    video = LazyVideo(path, colorspace=colorspace, channel_format="NHWC", **options)
    assert len(video) == len(expected)
    assert (video.height, video.width) == expected.shape[1:3]
    for numbers in orders(len(video), alone=alone):
        clip = video.get_frames_at(numbers)
        wrong = np.flatnonzero((clip.frames.numpy() != expected[np.asarray(numbers)]).any(axis=(1, 2, 3)))
        assert not len(wrong), f"{path.name}: wrong frames {np.asarray(numbers)[wrong]} when asked for {numbers}"
        assert clip.frame_indices.tolist() == list(numbers)
        assert clip.timestamps.tolist() == video.timestamps[np.asarray(numbers)].tolist()


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("colorspace", ["RGB", "G"])
def test_generated_videos_equal_a_sequential_decode(corpus: VideoCorpus, name: str, colorspace: str) -> None:
    assert_same_frames(corpus[name], colorspace, alone=12)


@pytest.mark.parametrize("name", VIDEOS)
def test_generated_frames_carry_their_numbers(corpus: VideoCorpus, name: str) -> None:
    video = LazyVideo(corpus[name])
    numbers = [read_frame_number(frame) for frame in video]
    assert numbers == list(CORPUS[name].numbers)


@pytest.mark.parametrize("name", ["h264_closed", "hevc", "vp9", "av1", "h264_rotated_90", "h264_10bit"])
def test_frame_numbers_survive_a_resize_to_gray(corpus: VideoCorpus, name: str) -> None:
    video = LazyVideo(corpus[name], resize=(96, 96), colorspace="GRAY", interpolation="area")
    assert video[0].shape == (1, 96, 96)
    assert [read_frame_number(frame) for frame in video[::9]] == list(CORPUS[name].numbers)[::9]


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("colorspace", ["RGB", "G"])
def test_real_videos_equal_a_sequential_decode(shared_videos: Path, name: str, colorspace: str) -> None:
    assert_same_frames(shared_videos / name, colorspace, alone=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("colorspace", ["RGB", "G"])
def test_every_frame_of_real_videos_alone(shared_videos: Path, name: str, colorspace: str) -> None:
    assert_same_frames(shared_videos / name, colorspace, alone=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("colorspace", ["RGB", "G"])
def test_every_frame_of_generated_videos_alone(corpus: VideoCorpus, name: str, colorspace: str) -> None:
    assert_same_frames(corpus[name], colorspace, alone=None)


def test_no_shared_video_is_forgotten(shared_videos: Path) -> None:
    assert {path.name for path in shared_videos.iterdir()} == {*SHARED, *_UNREADABLE}


@pytest.mark.parametrize("stream", [0, 1])
def test_each_video_stream_can_be_asked_for(corpus: VideoCorpus, stream: int) -> None:
    assert_same_frames(corpus["two_videos"], "RGB", alone=6, stream=stream)


@pytest.mark.parametrize("name", ["h264_closed", "h264_open_gop", "h264_edit_list", "hevc_open_gop", "av1", "vp9"])
def test_a_full_scan_gives_the_same_frames(corpus: VideoCorpus, name: str) -> None:
    """With the payload read, disposable packets are planned away instead of skipped on the fly."""
    from lazyvid import build_index

    index = build_index(corpus[name], scan="full")
    assert_same_frames(corpus[name], "RGB", alone=12, frame_index=index)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "area", "lanczos"])
@pytest.mark.parametrize("name", ["h264_closed", "h264_rotated_90", "h264_444_odd"])
def test_resized_pixels_equal_pyavs(corpus: VideoCorpus, name: str, interpolation: Any) -> None:
    video = LazyVideo(corpus[name], resize=(50, 70), channel_format="NHWC", interpolation=interpolation)
    how = {"nearest": "POINT"}.get(interpolation, interpolation.upper())
    with av.open(str(corpus[name])) as container:
        for number, frame in enumerate(container.decode(video=0)):
            turns = frame.rotation // 90 % 4
            width, height = (50, 70) if turns % 2 else (70, 50)
            resized = frame.reformat(width=width, height=height, format="rgb24", interpolation=how, threads=1)
            if number % 11 == 0:
                assert np.array_equal(video[number].numpy(), np.rot90(resized.to_ndarray(), turns))
