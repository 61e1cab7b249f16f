"""Cameras of one recording: aligned by time at any rates and offsets, each at its own rate where it is to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from dataset_samples import PER_VIDEO, numbers
from hypothesis import given
from hypothesis import strategies as st

from lazyvid import timing
from lazyvid.errors import FrameTimestampError
from lazyvid.frames import ClipSpec, Window
from lazyvid.recording import VideoWriter
from lazyvid.testing import painted_frame
from lazyvid.training import ClipDataset, collate_clips
from lazyvid.training.clips import BoolArray, FloatArray, IntArray
from lazyvid.training.reading import ClipReader
from lazyvid.training.sources import VideoList

# -- which frames: pure -----------------------------------------------------------------------------------------------


@dataclass
class Timed:
    """As much of a video as alignment looks at."""

    timestamps: FloatArray
    uri: str = "memory://timed.mp4"

    def __len__(self) -> int:
        return len(self.timestamps)


def aligned(
    lead: Sequence[FloatArray], follow: Sequence[FloatArray], clip: Any, tolerance_s: float | None = None
) -> ClipReader:
    cameras = {name: VideoList(cast(Any, [Timed(t) for t in times])) for name, times in (("a", lead), ("b", follow))}
    return ClipReader.of(cameras, clip, tolerance_s=tolerance_s, has_names=True)


def frames_of(reader: ClipReader, window: Window) -> tuple[IntArray, IntArray, BoolArray]:
    """The leader's frames, the follower's, and which of these are repeated."""
    (lead,), (follow,) = reader.parts([window])
    return lead.positions, follow.positions, follow.is_pad


def grid(rate: float, begin: float, seconds: float) -> FloatArray:
    return begin + np.arange(int(seconds * rate)) / rate


RATES = st.sampled_from([5.0, 10.0, 24.0, 29.97, 30.0, 60.0])
# At which no frame of one camera lies half-way between two of the other, where rounding decides.
ODD_OFFSETS = [-1.3123, -0.0171, 0.0031, 0.7177]
OFFSETS = st.sampled_from([0.0, *ODD_OFFSETS])
BEGINS = st.sampled_from([0.0, 100.25, 1_700_000_000.5])


@given(RATES, RATES, OFFSETS, BEGINS, st.integers(1, 6), st.sampled_from(["error", "repeat"]))
def test_without_a_spec_of_its_own_a_camera_gives_its_nearest_frames(
    rate: float, other: float, offset: float, begin: float, num_frames: int, pad: Any
) -> None:
    lead, follow = grid(rate, begin, 3.0), grid(other, begin + offset, 2.5)
    reader = aligned([lead], [follow], ClipSpec(num_frames, step=1, pad=pad))
    for number in range(len(reader.plan)):
        window = reader.plan.window(number)
        own, positions, is_pad = frames_of(reader, window)
        distances = np.abs(follow[None] - lead[own][:, None])
        chosen = distances[np.arange(len(own)), positions]
        assert (chosen == distances.min(axis=1)).all()
        assert (chosen <= 1 / other + 2e-6).all()
        assert is_pad.tolist() == [window.start + k >= reader.plan.stop[0] for k in range(num_frames)]
    usable = [t for t in lead if np.abs(follow - t).min() <= 1 / other - 1e-5]
    assert len(usable) <= int(reader.plan.stop[0] - reader.plan.first[0]) <= len(usable) + 2


SPECS = st.one_of(
    st.builds(
        ClipSpec, num_frames=st.integers(1, 9), frame_stride=st.integers(1, 3), pad=st.sampled_from(["error", "repeat"])
    ),
    st.builds(
        ClipSpec,
        num_frames=st.integers(1, 9),
        fps=st.sampled_from([4.0, 10.0, 30.0]),
        pad=st.sampled_from(["error", "repeat"]),
    ),
)


@given(RATES, RATES, OFFSETS, BEGINS, SPECS, SPECS)
def test_with_a_spec_of_its_own_a_camera_goes_on_at_its_own_rate(
    rate: float, other: float, offset: float, begin: float, leading: ClipSpec, following: ClipSpec
) -> None:
    lead, follow = grid(rate, begin, 3.0), grid(other, begin + offset, 2.5)
    leading = ClipSpec(leading.num_frames, leading.frame_stride, leading.fps, step=1, pad=leading.pad)
    reader = aligned([lead], [follow], {"a": leading, "b": following})
    for number in range(len(reader.plan)):
        window = reader.plan.window(number)
        own, positions, is_pad = frames_of(reader, window)
        assert len(positions) == len(is_pad) == following.num_frames
        start = lead[own[0]]
        if following.fps is None:
            wanted = timing.nearest(follow, [start])[0] + np.arange(following.num_frames) * following.frame_stride
            assert positions.tolist() == np.minimum(wanted, len(follow) - 1).tolist()
            assert is_pad.tolist() == (wanted >= len(follow)).tolist()
        else:
            asked = start + np.arange(following.num_frames) / following.fps
            assert positions[~is_pad].tolist() == timing.nearest(follow, asked[~is_pad]).tolist()
            assert (positions[is_pad] == len(follow) - 1).all()
            assert (asked[is_pad] > follow[-1]).all()
        assert not is_pad[0]
        assert following.pad == "repeat" or not is_pad.any()


@given(RATES, RATES, st.sampled_from(ODD_OFFSETS), st.integers(1, 9), st.integers(1, 3))
def test_clips_start_wherever_all_cameras_have_their_frames(
    rate: float, other: float, offset: float, num_frames: int, stride: int
) -> None:
    lead, follow = grid(rate, 0.0, 3.0), grid(other, offset, 2.5)
    spec = ClipSpec(num_frames, frame_stride=stride)
    reader = aligned([lead], [follow], {"a": ClipSpec(2, step=1), "b": spec}, tolerance_s=0.5 / other + 1e-3)
    starts = {reader.plan.window(i).start for i in range(len(reader.plan))}
    for start in range(len(lead) - 1):
        nearest = int(timing.nearest(follow, [lead[start]])[0])
        fits = abs(follow[nearest] - lead[start]) <= 0.5 / other + 1e-3 and nearest + spec.span <= len(follow)
        assert (start in starts) == fits
    # The windows that samplers draw lie between these.
    extents = reader.plan.first[0], reader.plan.window_stop[0]
    assert {start for start in range(len(lead)) if extents[0] <= start <= extents[1] - 2} == starts


def test_irregular_times_are_near_or_an_error() -> None:
    lead = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    follow = np.array([0.01, 0.12, 0.19, 0.48, 0.52])
    reader = aligned([lead], [follow], ClipSpec(2), tolerance_s=0.03)
    assert frames_of(reader, Window(0, 0, 3))[1].tolist() == [0, 1, 2]
    with pytest.raises(FrameTimestampError, match=r"'b'.*within 0.03 s of 0.3 s.*0.19 s"):
        frames_of(reader, Window(0, 2, 4))


def test_a_camera_without_frames_has_no_clips() -> None:
    nothing = np.empty(0)
    for clip in (ClipSpec(2), {"a": ClipSpec(2), "b": ClipSpec(3)}, {"a": ClipSpec(2), "b": ClipSpec(3, fps=5)}):
        reader = aligned([grid(10, 0, 1), grid(10, 0, 1)], [nothing, grid(10, 0, 1)], clip)
        assert {reader.plan.window(i).video for i in range(len(reader.plan))} == {1}
        with pytest.raises(FrameTimestampError, match="is empty"):
            frames_of(reader, Window(0, 0, 2))


@pytest.mark.parametrize(
    ("clip", "error", "said"),
    [
        ({"b": ClipSpec(3)}, ValueError, "first camera, 'a'"),
        ({"a": ClipSpec(3), "c": ClipSpec(3)}, ValueError, "'c'"),
        ({"a": ClipSpec(3), "b": ClipSpec(3, step=2)}, ValueError, "'b'"),
        ({"a": 3}, TypeError, "ClipSpec"),
    ],
)
def test_wrong_clips(clip: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        aligned([grid(10, 0, 1)], [grid(10, 0, 1)], clip)


# -- frames, decoded --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings by two cameras on one clock: `side` is larger, faster, and begins and ends later."""
    root = tmp_path_factory.mktemp("stage")
    for take in range(2):
        for name, count, rate, begin, size in (("top", 30, 10, 50.0, (96, 64)), ("side", 75, 30, 50.51, (128, 96))):
            with VideoWriter(root / name / f"{take}.mp4", rate, preset="veryfast", g=10) as writer:
                for k in range(count):
                    number = take * PER_VIDEO + (500 if name == "side" else 0) + k
                    frame = painted_frame(number, width=size[0], height=size[1])
                    writer.add_frame(frame, timestamp=begin + k / rate)
    return root


def test_cameras_are_aligned_by_time(stage: Path) -> None:
    dataset = ClipDataset({"top": stage / "top", "side": stage / "side"}, ClipSpec(4))
    assert dataset.cameras == ("top", "side")
    # top's frames 5 (50.5 s) to 29 (52.9 s) lie where side, 50.51 s to 52.9767 s, has frames.
    assert dataset.window(0) == Window(0, 5, 9)
    assert len(dataset) == 2 * ((30 - 5) // 4)
    samples = dataset.__getitems__([0, len(dataset) - 1, 1])
    for sample, window in zip(samples, map(dataset.window, (0, len(dataset) - 1, 1)), strict=True):
        top, side = sample["top"], sample["side"]
        take = window.video * PER_VIDEO
        assert numbers(top["frames"]) == [take + k for k in range(window.start, window.stop)]
        nearest = [max(0, round((50 + k / 10 - 50.51) * 30)) for k in range(window.start, window.stop)]
        assert numbers(side["frames"]) == [take + 500 + k for k in nearest]
        assert (top["timestamps"] - side["timestamps"]).abs().max() <= 1 / 30
        assert top["frames"].shape == (4, 3, 64, 96)
        assert side["frames"].shape == (4, 3, 96, 128)
        assert top["video_id"] == side["video_id"] == window.video
    batch = collate_clips(samples)
    assert batch["side"]["frames"].shape == (3, 4, 3, 96, 128)
    assert numbers(batch["side"]["frames"]) == [n for sample in samples for n in numbers(sample["side"]["frames"])]


def test_cameras_of_one_size_share_a_tensor(stage: Path) -> None:
    cameras = {"a": stage / "top", "b": stage / "top"}
    samples = ClipDataset(cameras, ClipSpec(4)).__getitems__([3, 0, 1])
    batch = collate_clips(samples)
    for name in cameras:
        assert batch[name]["frames"].data_ptr() == samples[0][name]["frames"].data_ptr()
        assert numbers(batch[name]["frames"]) == [n for s in samples for n in numbers(s[name]["frames"])]


def test_frames_that_are_too_far_apart_are_an_error(stage: Path) -> None:
    cameras = {"top": stage / "top", "side": stage / "side"}
    with pytest.raises(FrameTimestampError, match="'side'"):
        ClipDataset(cameras, ClipSpec(4))[Window(0, 0, 4)]
    assert ClipDataset(cameras, ClipSpec(4), tolerance_s=1.0).window(0) == Window(0, 0, 4)
    with pytest.raises(FrameTimestampError, match="tolerance_s"):
        ClipDataset(cameras, ClipSpec(4), tolerance_s=0.001)[0]


def test_cameras_have_as_many_videos(stage: Path) -> None:
    with pytest.raises(ValueError, match="'side': 1"):
        ClipDataset({"top": stage / "top", "side": [stage / "side" / "0.mp4"]}, ClipSpec(4))


def test_each_camera_at_its_own_rate(stage: Path) -> None:
    clip = {"top": ClipSpec(3), "side": ClipSpec(9)}
    dataset = ClipDataset({"top": stage / "top", "side": stage / "side"}, clip)
    assert dataset.clip == clip["top"]
    items = [len(dataset) - 1, Window(0, 7, 10), 0]
    samples = dataset.__getitems__(items)
    for sample, item in zip(samples, items, strict=True):
        window = item if isinstance(item, Window) else dataset.window(item)
        take = window.video * PER_VIDEO
        assert numbers(sample["top"]["frames"]) == [take + k for k in range(window.start, window.stop)]
        first = max(0, round((50 + window.start / 10 - 50.51) * 30))
        assert numbers(sample["side"]["frames"]) == [take + 500 + first + k for k in range(9)]
        assert sample["side"]["is_pad"].tolist() == [False] * 9
    batch = collate_clips(samples)
    assert batch["top"]["frames"].shape == (3, 3, 3, 64, 96)
    assert batch["side"]["frames"].shape == (3, 9, 3, 96, 128)
    for name in clip:
        assert batch[name]["frames"].data_ptr() == samples[0][name]["frames"].data_ptr()


def test_a_camera_may_be_named_alone_or_follow_the_others(stage: Path) -> None:
    sample = ClipDataset({"top": stage / "top"}, ClipSpec(2))[0]
    assert list(sample) == ["top"]
    dataset = ClipDataset({name: stage / name for name in ("top", "side")}, {"top": ClipSpec(2)})
    assert dataset[0]["side"]["frames"].shape[0] == 2
