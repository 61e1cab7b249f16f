"""What `LazyVideo` promises beyond pixels: numbers, times, windows, joining, and torchcodec's methods."""

from __future__ import annotations

import copy
import math
import pickle
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from lazyvid import Clip, Frame, FrameIndex, LazyVideo, build_index, decode_video_frames
from lazyvid.errors import (
    FrameIndexError,
    FrameTimestampError,
    LazyVidError,
    LimitExceededError,
    MissingIndexError,
    TimeOutOfRangeError,
)
from lazyvid.index.frame_index import Segment
from lazyvid.testing import VideoCorpus, VideoSpec, read_frame_number, write_video

# Most videos here are opened without a sidecar; that this is said is tested in tests/index/test_opening.py.
pytestmark = pytest.mark.filterwarnings("ignore:No frame index")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames at 30 fps with a sidecar; the frame shown at t is number t * 30."""
    folder = tmp_path_factory.mktemp("video")
    video = write_video(folder / "v.mp4", VideoSpec(frames=60, gop=12, b_frames=2))
    build_index(video).save(video)
    return video


@pytest.fixture
def video(path: Path) -> LazyVideo:
    return LazyVideo(path)


def numbers(frames: torch.Tensor) -> list[int]:
    return [read_frame_number(frame) for frame in frames]


# -- facts ------------------------------------------------------------------------------------------------------------


def test_facts(video: LazyVideo, path: Path) -> None:
    assert len(video) == video.frame_count == 60
    assert (video.height, video.width) == (120, 160)
    assert video.begin_seconds == 0.0
    assert video.end_seconds == pytest.approx(2.0)
    assert video.average_fps == pytest.approx(30.0)
    assert video.timestamps.dtype == np.float64
    assert video.timestamps == pytest.approx(np.arange(60) / 30)
    assert video.frame_indices.tolist() == list(range(60))
    assert video.segment_frame_counts.tolist() == [60]
    assert video.segment_frame_offsets.tolist() == [0, 60]
    assert (video.uri, video.resize, video.colorspace, video.channel_format) == (str(path), None, "RGB", "NCHW")
    assert repr(video) == f"LazyVideo(uri='{path}', frames=60, segments=1)"
    assert video.metadata is None


def test_timestamps_cannot_be_changed(video: LazyVideo) -> None:
    with pytest.raises(ValueError, match="read-only"):
        video.timestamps[0] = 5.0


def test_from_uri_is_the_constructor(path: Path) -> None:
    video = LazyVideo.from_uri(path, colorspace="G", channel_format="NHWC", resize=(60, 80))
    assert video[3].shape == (60, 80, 1)


def test_open_many_keeps_the_order(path: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", VideoSpec(frames=5))
    videos = LazyVideo.open_many([path, other, path], max_workers=2, colorspace="G")
    assert [len(video) for video in videos] == [60, 5, 60]
    with pytest.raises(LazyVidError, match=r"missing\.mp4"):
        LazyVideo.open_many([path, tmp_path / "missing.mp4"])


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 7, 59, -1, -60, np.int64(4), torch.tensor(9)])
def test_one_frame_by_number(video: LazyVideo, number: Any) -> None:
    frame = video[number]
    assert (frame.dtype, tuple(frame.shape)) == (torch.uint8, (3, 120, 160))
    assert read_frame_number(frame) == int(number) % 60


@pytest.mark.parametrize(
    "key", [slice(None), slice(5, 9), slice(-3, None), slice(None, None, -7), slice(9, 5), slice(50, 500, 4)]
)
def test_a_slice_means_what_it_means_for_a_list(video: LazyVideo, key: slice) -> None:
    frames = video[key]
    assert frames.shape[1:] == (3, 120, 160)
    assert numbers(frames) == list(range(60))[key]


@pytest.mark.parametrize("number", [60, -61, 10**9])
def test_a_number_out_of_range_is_an_index_error(video: LazyVideo, number: int) -> None:
    with pytest.raises(FrameIndexError, match=rf"-60 to 59 .*{number}") as caught:
        video[number]
    assert isinstance(caught.value, IndexError)
    with pytest.raises(IndexError):
        video.get_frames_at([0, number])


@pytest.mark.parametrize("key", [1.0, "1", None, True, [True, False]])
def test_a_key_of_another_type_is_a_type_error(video: LazyVideo, key: Any) -> None:
    with pytest.raises(TypeError):
        video[key] if not isinstance(key, list) else video.get_frames_at(key)


def test_iteration_gives_every_frame_once(video: LazyVideo) -> None:
    assert [read_frame_number(frame) for frame in video] == list(range(60))


def test_frames_at_numbers_come_in_the_order_asked(video: LazyVideo) -> None:
    asked = [40, 3, 3, -1, 12]
    for given in (asked, np.array(asked), torch.tensor(asked), tuple(asked)):
        clip = video.get_frames_at(given)
        assert numbers(clip.frames) == clip.frame_indices.tolist() == [40, 3, 3, 59, 12]
        assert clip.timestamps.tolist() == video.timestamps[[40, 3, 3, 59, 12]].tolist()


def test_a_frame_carries_its_time_and_number(video: LazyVideo) -> None:
    frame = video.get_frame_at(-1)
    assert isinstance(frame, Frame)
    assert (frame.timestamp, frame.frame_index) == (video.timestamps[59], 59)
    assert frame.duration == pytest.approx(1 / 30)


def test_range_of_numbers(video: LazyVideo) -> None:
    assert numbers(video.get_frames_in_range(10, 20, 3).frames) == [10, 13, 16, 19]
    assert numbers(video.get_frames_in_range(-2, 99).frames) == [58, 59]
    assert len(video.get_frames_in_range(20, 10)) == 0
    with pytest.raises(ValueError, match="step"):
        video.get_frames_in_range(0, 10, 0)


# -- times ------------------------------------------------------------------------------------------------------------


def test_a_frame_is_played_until_the_next_begins(video: LazyVideo) -> None:
    step = 1 / 30
    asked = [0.0, step * 0.99, float(video.timestamps[1]), 1.01, math.nextafter(video.end_seconds, 0)]
    assert numbers(video.get_frames_played_at(asked).frames) == [0, 0, 1, 30, 59]
    assert video.get_frame_played_at(1.01).frame_index == 30


@pytest.mark.parametrize("seconds", [-0.001, 2.0, 1e9])
def test_a_time_outside_the_video_is_an_error(video: LazyVideo, seconds: float) -> None:
    for call in (video.get_frame_played_at, lambda t: video.get_frames_played_at([0.5, t])):
        with pytest.raises(TimeOutOfRangeError, match=r"\[0\.0, 2\.0\)") as caught:
            call(seconds)
        assert isinstance(caught.value, IndexError)
        assert isinstance(caught.value, FrameTimestampError)
    with pytest.raises(TimeOutOfRangeError):
        video.get_frames_played_in_range(*sorted([1.0, seconds + 0.0001 * np.sign(seconds)]))


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_time_is_an_error(video: LazyVideo, seconds: float) -> None:
    for call in (
        video.get_frame_played_at,
        lambda t: video.get_nearest_frames([t], tolerance_s=1.0),
        lambda t: video.get_frames_played_in_range(t, 1.0),
    ):
        with pytest.raises(ValueError, match=str(seconds)):
            call(seconds)
    if math.isnan(seconds):
        for slicing in (video.slice, video.lazy_slice):
            with pytest.raises(ValueError, match="nan"):
                slicing(0.0, seconds)


def test_range_of_times_includes_the_frame_still_shown(video: LazyVideo) -> None:
    assert numbers(video.get_frames_played_in_range(0.99, 1.05).frames) == [29, 30, 31]
    assert len(video.get_frames_played_in_range(1.0, 1.0)) == 0
    with pytest.raises(ValueError, match="start_seconds <= stop_seconds"):
        video.get_frames_played_in_range(1.0, 0.5)


def test_resampling_takes_the_frame_played_at_each_grid_time(video: LazyVideo) -> None:
    clip = video.get_frames_played_in_range(0.5, 1.5, fps=7)
    asked = 0.5 + np.arange(7) / 7
    assert clip.timestamps.numpy() == pytest.approx(asked)
    assert clip.frame_indices.tolist() == np.floor(asked * 30 + 1e-6).astype(int).tolist()
    with pytest.raises(ValueError, match="fps"):
        video.get_frames_played_in_range(0.5, 1.5, fps=0)


def test_nearest_frames_within_the_tolerance(video: LazyVideo) -> None:
    clip = video.get_nearest_frames([1.01, 0.0, -0.002, 2.1], tolerance_s=0.2)
    assert clip.frame_indices.tolist() == [30, 0, 0, 59]
    with pytest.raises(FrameTimestampError, match=r"within 0\.005 s of 1\.01 s .*nearest at 1\.0 s .*pyav"):
        video.get_nearest_frames([0.0, 1.01], tolerance_s=0.005)
    with pytest.raises(ValueError, match="tolerance_s"):
        video.get_nearest_frames([0.0], tolerance_s=-1)
    assert len(video.get_nearest_frames([], tolerance_s=0.0)) == 0


# -- slices and windows -----------------------------------------------------------------------------------------------


def test_slice_takes_the_half_open_range_and_counts_from_its_start(video: LazyVideo) -> None:
    clip = video.slice(0.5, 0.7)
    assert isinstance(clip, Clip)
    assert numbers(clip.frames) == clip.frame_indices.tolist() == [15, 16, 17, 18, 19, 20]
    assert clip.timestamps.numpy() == pytest.approx(np.arange(15, 21) / 30 - 0.5)
    assert (clip.start, clip.end) == pytest.approx((0.0, 0.2))


def test_slice_can_keep_the_origin(video: LazyVideo) -> None:
    clip = video.slice(0.5, 0.7, reset_origin=False)
    assert clip.timestamps.tolist() == video.timestamps[15:21].tolist()
    assert (clip.start, clip.end) == (0.5, 0.7)


def test_slice_clamps_to_the_video(video: LazyVideo) -> None:
    clip = video.slice(1.9, 100.0, reset_origin=False)
    assert clip.frame_indices.tolist() == [57, 58, 59]
    assert (clip.start, clip.end) == (1.9, video.end_seconds)
    assert len(video.slice(-math.inf, math.inf)) == 60
    # Times count from the start asked for, so that series of a recording that are cut together stay aligned.
    assert video.slice(-1.0, 0.05).timestamps.numpy() == pytest.approx([1.0, 1.0 + 1 / 30])


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (1.5, 0.5), (5.0, 9.0), (-3.0, -2.0)])
def test_an_empty_slice_has_the_right_shape(path: Path, start: float, end: float) -> None:
    for options, shape in (
        ({}, (0, 3, 120, 160)),
        ({"resize": (30, 40), "colorspace": "G", "channel_format": "NHWC"}, (0, 30, 40, 1)),
    ):
        video = LazyVideo(path, **options)
        clip = video.slice(start, end)
        assert tuple(clip.frames.shape) == shape
        assert clip.timestamps.dtype == torch.float64
        assert clip.frame_indices.dtype == torch.int64
        window = video.lazy_slice(start, end)
        assert len(window) == 0
        assert tuple(window[:].shape) == shape
        assert window.average_fps == 0.0
        assert window.begin_seconds == window.end_seconds


def test_a_window_counts_from_its_own_first_frame(video: LazyVideo) -> None:
    window = video.lazy_slice(0.5, 1.0)
    assert len(window) == 15
    assert window.frame_indices.tolist() == list(range(15, 30))
    assert window.timestamps.tolist() == video.timestamps[15:30].tolist()
    assert read_frame_number(window[0]) == 15
    assert read_frame_number(window[-1]) == 29
    assert (window.begin_seconds, window.end_seconds) == (video.timestamps[15], video.timestamps[30])
    assert window.segment_frame_counts.tolist() == [15]
    with pytest.raises(IndexError):
        window[15]
    with pytest.raises(TimeOutOfRangeError):
        window.get_frame_played_at(1.0)


def test_a_window_of_a_window(video: LazyVideo) -> None:
    window = video.lazy_slice(0.5, 1.5).lazy_slice(0.0, 0.6)
    assert window.frame_indices.tolist() == [15, 16, 17]
    assert numbers(window.slice(0.52, 0.6).frames) == [16, 17]


def test_metadata_is_handed_through_by_identity(path: Path) -> None:
    metadata = {"subject": object()}
    video = LazyVideo(path, metadata=metadata)
    assert video.metadata is metadata
    assert video.slice(0, 1).metadata is metadata
    assert video.lazy_slice(0, 1).metadata is metadata
    assert LazyVideo.concat([video], timestamps="append").metadata is metadata


# -- clips ------------------------------------------------------------------------------------------------------------


def test_nchw_frames_are_a_view_of_channels_last_memory(video: LazyVideo, path: Path) -> None:
    clip = video[2:5]
    assert clip.shape == (3, 3, 120, 160)
    assert clip.permute(0, 2, 3, 1).is_contiguous()
    assert torch.equal(clip.permute(0, 2, 3, 1), LazyVideo(path, channel_format="NHWC")[2:5])


def test_clips_collate(video: LazyVideo) -> None:
    batch = default_collate([video.slice(0.0, 0.1), video.slice(1.0, 1.1)])
    assert isinstance(batch, Clip)
    assert batch.frames.shape == (2, 3, 3, 120, 160)
    assert batch.frame_indices.tolist() == [[0, 1, 2], [30, 31, 32]]


# -- joining ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> list[LazyVideo]:
    """Three videos of 10, 20 and 5 frames, numbered on from one to the next, each beginning at 0 s."""
    videos, first = [], 0
    for i, frames in enumerate([10, 20, 5]):
        spec = VideoSpec(frames=frames, gop=6, b_frames=2, first_number=first)
        videos.append(LazyVideo(write_video(tmp_path / f"part{i}.mp4", spec)))
        first += frames
    return videos


def test_append_shifts_each_video_to_where_the_last_one_ends(parts: list[LazyVideo]) -> None:
    joined = LazyVideo.concat(parts, timestamps="append")
    assert len(joined) == 35
    assert [read_frame_number(frame) for frame in joined] == list(range(35))
    assert joined.timestamps == pytest.approx(np.arange(35) / 30)
    assert joined.frame_indices.tolist() == list(range(35))
    assert joined.segment_frame_counts.tolist() == [10, 20, 5]
    assert joined.segment_frame_offsets.tolist() == [0, 10, 30, 35]
    assert joined.uri == parts[0].uri
    assert numbers(joined.slice(0.295, 0.395).frames) == [9, 10, 11]
    assert numbers(joined.get_frames_at([34, 0, 10, 29, 30]).frames) == [34, 0, 10, 29, 30]


def test_a_joined_video_can_be_saved_and_moved(parts: list[LazyVideo], tmp_path: Path) -> None:
    joined = LazyVideo.concat(parts, timestamps="append")
    joined.frame_index.save(joined.uri)
    shutil.copytree(tmp_path, moved := tmp_path / "moved", ignore=shutil.ignore_patterns("moved"))
    for part in parts:
        Path(part.uri).unlink()
    again = LazyVideo(moved / "part0.mp4", on_missing_index="raise")
    assert [read_frame_number(frame) for frame in again] == list(range(35))
    assert again.timestamps.tolist() == joined.timestamps.tolist()


def test_keep_wants_increasing_times(parts: list[LazyVideo]) -> None:
    with pytest.raises(ValueError, match="increasing times, found 0\\.0 s"):
        LazyVideo.concat(parts)


def test_keep_joins_what_follows_in_time(tmp_path: Path) -> None:
    first = LazyVideo(write_video(tmp_path / "a.mp4", VideoSpec(frames=10)))
    later = LazyVideo(write_video(tmp_path / "b.mp4", VideoSpec(frames=10, start=300, first_number=10)))
    joined = LazyVideo.concat([first, later])
    assert joined.timestamps.tolist() == [*first.timestamps.tolist(), *later.timestamps.tolist()]
    assert [read_frame_number(frame) for frame in joined] == list(range(20))


def test_windows_keep_to_their_windows(parts: list[LazyVideo]) -> None:
    windows = [parts[0].lazy_slice(0.2, 9), parts[1].lazy_slice(0.1, 0.3), parts[2].lazy_slice(0.0, 0.1)]
    joined = LazyVideo.concat(windows, timestamps="append")
    assert [read_frame_number(frame) for frame in joined] == [6, 7, 8, 9, *range(13, 19), 30, 31, 32]
    assert joined.frame_indices.tolist() == [6, 7, 8, 9, *range(13, 19), 30, 31, 32]
    assert np.diff(joined.timestamps) == pytest.approx(1 / 30)
    assert joined.segment_frame_counts.tolist() == [4, 6, 3]
    again = joined.lazy_slice(float(joined.timestamps[3]), float(joined.timestamps[6]))
    assert again.frame_indices.tolist() == [9, 13, 14]
    assert [read_frame_number(frame) for frame in pickle.loads(pickle.dumps(again))] == [9, 13, 14]


def test_joining_one_video_changes_nothing(parts: list[LazyVideo]) -> None:
    joined = LazyVideo.concat(parts[:1])
    assert joined.timestamps.tolist() == parts[0].timestamps.tolist()
    assert torch.equal(joined[:], parts[0][:])


def test_joining_videos_that_do_not_match_is_an_error(path: Path, tmp_path: Path) -> None:
    video = LazyVideo(path)
    small = LazyVideo(write_video(tmp_path / "small.mp4", VideoSpec(frames=5, width=80, height=64)))
    with pytest.raises(ValueError, match="got none"):
        LazyVideo.concat([])
    with pytest.raises(TypeError, match="str"):
        LazyVideo.concat([video, "v.mp4"])  # type: ignore[list-item]
    for other in (
        small,
        LazyVideo(path, resize=(60, 80)),
        LazyVideo(path, colorspace="G"),
        LazyVideo(path, channel_format="NHWC"),
        LazyVideo(path, metadata={"other": 1}),
        LazyVideo(path, metadata={"array": np.zeros(3)}),
    ):
        with pytest.raises(ValueError, match="concat expects"):
            LazyVideo.concat([video, other], timestamps="append")
    with pytest.raises(ValueError, match="timestamps"):
        LazyVideo.concat([video], timestamps="guess")  # type: ignore[arg-type]


def test_equal_metadata_may_be_joined(path: Path) -> None:
    videos = [LazyVideo(path, metadata={"subject": 3}), LazyVideo(path, metadata={"subject": 3})]
    assert len(LazyVideo.concat(videos, timestamps="append")) == 120


# -- segments ---------------------------------------------------------------------------------------------------------


def test_a_video_of_several_files(tmp_path: Path, parts: list[LazyVideo]) -> None:
    uris = [part.uri for part in parts]
    video = LazyVideo(uris[0], segment_uris=uris[1:])
    assert video.segment_frame_counts.tolist() == [10, 20, 5]
    assert [read_frame_number(frame) for frame in video] == list(range(35))
    video.frame_index.save(uris[0])
    again = LazyVideo(uris[0], on_missing_index="raise")
    assert [read_frame_number(frame) for frame in again] == list(range(35))
    with_files = LazyVideo(uris[0], segment_uris=uris[1:], on_missing_index="raise")
    assert torch.equal(with_files[:], again[:])
    with pytest.raises(ValueError, match="segment"):
        LazyVideo(uris[0], segment_uris=uris[1:2])


def test_several_segments_in_one_file(path: Path, tmp_path: Path) -> None:
    """As a recorder that pauses: one file, times with a gap."""
    target = tmp_path / "v.mp4"
    target.write_bytes(path.read_bytes())
    index = build_index(target)
    times = index.timestamp + np.repeat([0.0, 10.0], [25, 35])
    segmented = replace(
        index,
        segment_idx=np.repeat([0, 1], [25, 35]),
        local_frame_idx=np.concatenate([np.arange(25), np.arange(35)]),
        timestamp=times,
        segments=(Segment(0, 25), Segment(0, 35)),
    )
    segmented.save(target)
    video = LazyVideo(target, on_missing_index="raise")
    assert video.segment_frame_counts.tolist() == [25, 35]
    assert video.timestamps.tolist() == times.tolist()
    assert video.frame_index.pts_table(1).tolist() == index.packets.pts[25:].tolist()
    assert numbers(video.get_frames_at([24, 25, 59]).frames) == [24, 25, 59]
    assert numbers(video.slice(10.0, 11.0).frames) == list(range(25, 30))
    assert len(LazyVideo(target, segment_uris=[target], on_missing_index="raise")) == 60


def test_times_out_of_order_are_sorted_with_their_numbers(path: Path) -> None:
    index = build_index(path)
    times = index.timestamp.copy()
    times[[10, 40]] = times[[40, 10]]
    video = LazyVideo(path, frame_index=replace(index, timestamp=times))
    assert np.all(np.diff(video.timestamps) > 0)
    assert video.frame_indices[[10, 40]].tolist() == [40, 10]
    assert [read_frame_number(frame) for frame in video[9:12]] == [9, 40, 11]
    window = video.lazy_slice(float(video.timestamps[10]), float(video.timestamps[12]))
    assert window.frame_indices.tolist() == [40, 11]


# -- an index at hand -------------------------------------------------------------------------------------------------


def test_an_index_that_is_given_is_used(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "v.mp4"
    target.write_bytes(path.read_bytes())
    video = LazyVideo(target, frame_index=build_index(path), on_missing_index="raise")
    assert numbers(video[3:6]) == [3, 4, 5]
    assert numbers(pickle.loads(pickle.dumps(video))[3:6]) == [3, 4, 5]


def test_without_a_sidecar_it_is_built_once_warned_or_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "bare.mp4"
    target.write_bytes(path.read_bytes())
    with pytest.raises(MissingIndexError, match=r"bare\.mp4") as caught:
        LazyVideo(target, on_missing_index="raise")
    assert isinstance(caught.value, FileNotFoundError)
    assert len(LazyVideo(target)) == 60
    assert not list(tmp_path.glob("*.lance"))


# -- other views ------------------------------------------------------------------------------------------------------


def test_copies_read_the_same(video: LazyVideo) -> None:
    for again in (copy.copy(video), copy.deepcopy(video), pickle.loads(pickle.dumps(video))):
        assert torch.equal(again[5:8], video[5:8])


def test_pickles_of_windows_and_joined_videos(parts: list[LazyVideo]) -> None:
    joined = LazyVideo.concat(parts, timestamps="append")
    for video in (parts[1].lazy_slice(0.1, 0.2), joined, joined.lazy_slice(0.3, 0.5)):
        again = pickle.loads(pickle.dumps(video))
        assert again.timestamps.tolist() == video.timestamps.tolist()
        assert torch.equal(again[:], video[:])


@pytest.fixture
def torchcodec_video(path: Path, video: LazyVideo) -> tuple[Any, Any]:
    decoders = pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    return decoders.VideoDecoder(path), video.as_torchcodec()


def test_the_adapter_answers_as_torchcodec_does(torchcodec_video: tuple[Any, Any]) -> None:
    theirs, ours = torchcodec_video
    assert len(theirs) == len(ours)
    for name in ("num_frames", "average_fps", "begin_stream_seconds", "end_stream_seconds", "height", "width"):
        assert getattr(ours.metadata, name) == pytest.approx(getattr(theirs.metadata, name)), name
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("get_frame_at", (7,)),
        ("get_frame_at", (-1,)),
        ("get_frames_at", ([9, 2, 2],)),
        ("get_frames_in_range", (5, 40, 9)),
        ("get_frames_in_range", (50, 1000)),
        ("get_frame_played_at", (1.01,)),
        ("get_frames_played_at", ([0.0, 1.99, 0.5],)),
        ("get_frames_played_in_range", (0.99, 1.1)),
        ("get_frames_played_in_range", (0.5, 1.5, 7.0)),
        ("get_all_frames", ()),
        ("get_all_frames", (12.5,)),
    ]
    for name, arguments in calls:
        expected, got = getattr(theirs, name)(*arguments), getattr(ours, name)(*arguments)
        assert type(got) is type(expected), name
        assert torch.equal(got.data, expected.data), name
        assert np.allclose(got.pts_seconds, expected.pts_seconds), name
    assert torch.equal(ours[3], theirs[3])
    assert torch.equal(ours[3:9:2], theirs[3:9:2])


@pytest.mark.parametrize("name", ["h264_closed", "hevc", "av1", "vp9", "h264_start", "h264_vfr"])
def test_the_torchcodec_backend_gives_the_same_frames(corpus: VideoCorpus, name: str) -> None:
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    video, second = LazyVideo(corpus[name]), LazyVideo(corpus[name], backend="torchcodec")
    asked = [0, len(video) - 1, 5, 5, 17]
    assert torch.equal(second.get_frames_at(asked).frames, video.get_frames_at(asked).frames)
    assert second.slice(0.1, 0.3).frames.shape == video.slice(0.1, 0.3).frames.shape
    with pytest.raises(ValueError, match="RGB only"):
        LazyVideo(corpus[name], backend="torchcodec", colorspace="G")


@pytest.mark.parametrize("stream", [0, 1])
def test_the_torchcodec_backend_reads_the_stream_asked_for(corpus: VideoCorpus, stream: int) -> None:
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    video = LazyVideo(corpus["two_videos"], stream=stream)
    second = LazyVideo(corpus["two_videos"], stream=stream, backend="torchcodec")
    assert torch.equal(second.get_frames_at([0, 9]).frames, video.get_frames_at([0, 9]).frames)


# -- the call that users of LeRobot know ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [None, "pyav", "torchcodec"])
def test_decode_video_frames(path: Path, video: LazyVideo, backend: Any) -> None:
    if backend == "torchcodec":
        pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    frames = decode_video_frames(path, [1.0, 0.0, 0.501], 0.01, backend)
    assert (frames.dtype, tuple(frames.shape)) == (torch.float32, (3, 3, 120, 160))
    assert torch.equal(frames, video.get_frames_at([30, 0, 15]).frames / 255)
    with pytest.raises(FrameTimestampError, match=r"0\.515 s in .*v\.mp4.* at 0\.5 s"):
        decode_video_frames(path, [0.0, 0.515], 0.001, backend)


def test_decode_video_frames_sees_that_a_file_was_replaced(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "v.mp4"
    target.write_bytes(path.read_bytes())
    assert read_frame_number(decode_video_frames(target, [0.5], 0.01)[0].mul(255).byte()) == 15
    write_video(target, VideoSpec(frames=60, first_number=500))
    assert read_frame_number(decode_video_frames(target, [0.5], 0.01)[0].mul(255).byte()) == 515


def test_an_unknown_backend_is_an_error(path: Path) -> None:
    with pytest.raises(ValueError, match="Unsupported video backend: opencv"):
        decode_video_frames(path, [0.0], 0.01, "opencv")  # type: ignore[arg-type]


def test_concat_of_frame_indexes_reads_like_concat_of_videos(parts: list[LazyVideo]) -> None:
    index = FrameIndex.concat([part.frame_index for part in parts], timestamps="append")
    assert index.timestamps() == pytest.approx(np.arange(35) / 30)
    assert index.sources[0].time_base == Fraction(parts[0].frame_index.sources[0].time_base)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"store": "/tmp"}, TypeError),
        ({"cache": "/tmp"}, TypeError),
        ({"limits": 5}, TypeError),
        ({"frame_index": "v.mp4"}, TypeError),
        ({"resize": (10**6, 10**6)}, LimitExceededError),
    ],
)
def test_an_argument_of_another_kind_is_named(path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        LazyVideo(path, **options)


def test_a_resampling_to_more_frames_than_allowed_is_refused(video: LazyVideo) -> None:
    with pytest.raises(LimitExceededError, match="fps"):
        video.get_frames_played_in_range(0.0, 1.0, fps=1e9)


def test_open_many_does_not_take_a_single_uri_apart(path: Path) -> None:
    with pytest.raises(TypeError, match=r"v\.mp4"):
        LazyVideo.open_many(str(path))
