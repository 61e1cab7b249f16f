"""torchcodec's clip samplers over `as_torchcodec()`: the clips that they cut from torchcodec's own decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import numbers_of

from lazyvid import LazyVideo, ObjectStore, build_index
from lazyvid.errors import NotAVideoError
from lazyvid.index.fingerprint import fingerprint
from lazyvid.testing import VideoCorpus, write_video

_ABSENT: Any = (ImportError, RuntimeError)
decoders = pytest.importorskip("torchcodec.decoders", exc_type=_ABSENT)
samplers = pytest.importorskip("torchcodec.samplers")

pytestmark = pytest.mark.filterwarnings("ignore:No frame index beside")

Sample = Callable[[Any], Any]


def test_these_are_all_samplers_that_torchcodec_has() -> None:
    found = {name for name in dir(samplers) if name.startswith("clips_")}
    kinds, at = ("random", "regular"), ("indices", "timestamps")
    assert found == {f"clips_at_{kind}_{place}" for kind in kinds for place in at}


def by_number(policy: str, frames: int) -> list[Sample]:
    """Calls that ask for frames by number, also beyond the end."""
    return [
        lambda d: samplers.clips_at_random_indices(d, num_clips=5, num_frames_per_clip=3, policy=policy),
        lambda d: samplers.clips_at_random_indices(
            d, num_clips=6, num_frames_per_clip=4, num_indices_between_frames=2, sampling_range_start=-9,
            sampling_range_end=-1, policy=policy,
        ),
        lambda d: samplers.clips_at_regular_indices(d, num_clips=7, num_frames_per_clip=2, policy=policy),
        lambda d: samplers.clips_at_regular_indices(
            d, num_clips=5, num_frames_per_clip=4, num_indices_between_frames=3, sampling_range_end=frames,
            policy=policy,
        ),
    ]  # fmt: skip


def by_time(policy: str, begin: float, end: float) -> list[Sample]:
    """Calls that ask for the frames played at times, on the edges between frames and beyond the end."""
    middle = begin + (end - begin) / 2
    return [
        lambda d: samplers.clips_at_random_timestamps(d, num_clips=5, num_frames_per_clip=3, policy=policy),
        lambda d: samplers.clips_at_random_timestamps(
            d, num_clips=6, num_frames_per_clip=5, seconds_between_frames=0.07,
            sampling_range_start=middle, sampling_range_end=end, policy=policy,
        ),
        lambda d: samplers.clips_at_regular_timestamps(d, seconds_between_clip_starts=0.4, policy=policy),
        lambda d: samplers.clips_at_regular_timestamps(
            d, seconds_between_clip_starts=1 / 30, num_frames_per_clip=3, seconds_between_frames=1 / 30,
            sampling_range_start=middle, sampling_range_end=middle + 0.2, policy=policy,
        ),
        lambda d: samplers.clips_at_regular_timestamps(
            d, seconds_between_clip_starts=0.3, num_frames_per_clip=3, sampling_range_start=begin + 0.1,
            sampling_range_end=end, policy=policy,
        ),
    ]  # fmt: skip


def check_equal(ours: Any, theirs: Any, samples: list[Sample]) -> None:
    for number, sample in enumerate(samples):
        torch.manual_seed(number)
        expected = sample(theirs)
        torch.manual_seed(number)
        got = sample(ours)
        assert type(got) is type(expected)
        assert got.data.shape == expected.data.shape
        assert torch.equal(got.data, expected.data)
        assert torch.equal(got.pts_seconds, expected.pts_seconds)
        assert got.duration_seconds.shape == expected.duration_seconds.shape


@pytest.mark.parametrize(
    ("name", "policy"), [("h264_start", "repeat_last"), ("h264_open_gop", "wrap"), ("h264_mkv", "repeat_last")]
)
def test_clips_are_those_of_torchcodecs_decoder(corpus: VideoCorpus, name: str, policy: str) -> None:
    video, theirs = LazyVideo(corpus[name]), decoders.VideoDecoder(corpus[name])
    samples = by_number(policy, len(video)) + by_time(policy, video.begin_seconds, video.end_seconds)
    check_equal(video.as_torchcodec(), theirs, samples)


def test_frames_of_irregular_videos_are_found_by_number_and_time(corpus: VideoCorpus) -> None:
    # Times that follow from the mean rate or the end are left out: torchcodec takes the last frame's length for 0 here.
    video, theirs = LazyVideo(corpus["h264_vfr"]), decoders.VideoDecoder(corpus["h264_vfr"])
    explicit: Sample = lambda d: samplers.clips_at_regular_timestamps(  # noqa: E731
        d, seconds_between_clip_starts=0.11, num_frames_per_clip=4, seconds_between_frames=0.021,
        sampling_range_start=0.05, sampling_range_end=1.0,
    )  # fmt: skip
    check_equal(video.as_torchcodec(), theirs, [*by_number("wrap", len(video)), explicit])


def test_options_of_the_video_stay(corpus: VideoCorpus) -> None:
    video = LazyVideo(corpus["h264_closed"], resize=(48, 64), channel_format="NHWC")
    for sample in by_number("wrap", len(video)) + by_time("wrap", video.begin_seconds, video.end_seconds):
        clips = sample(video.as_torchcodec())
        assert clips.data.shape[2:] == (48, 64, 3)
        shown = numbers_of(clips.data.flatten(0, 1))
        assert shown == (clips.pts_seconds.flatten() * 30).round().int().tolist()


def test_windows_and_joined_videos_give_clips_of_their_own_frames(corpus: VideoCorpus) -> None:
    video = LazyVideo(corpus["h264_closed"])
    window = video.lazy_slice(1.0, 1.5)
    joined = LazyVideo.concat([window, video.lazy_slice(2.0, 2.5)], timestamps="keep")
    for part, own in ((window, set(range(30, 45))), (joined, {*range(30, 45), *range(60, 75)})):
        for sample in by_number("repeat_last", len(part)) + by_time("wrap", part.begin_seconds, part.end_seconds):
            shown = numbers_of(sample(part.as_torchcodec()).data.flatten(0, 1))
            assert set(shown) <= own
        regular = samplers.clips_at_regular_indices(part.as_torchcodec(), num_clips=len(part))
        assert numbers_of(regular.data.flatten(0, 1)) == sorted(own)


def test_an_error_of_the_sampler_is_the_samplers(corpus: VideoCorpus) -> None:
    adapter = LazyVideo(corpus["h264_closed"]).as_torchcodec()
    with pytest.raises(ValueError, match="'error' policy"):
        samplers.clips_at_regular_indices(
            adapter, num_frames_per_clip=5, sampling_range_end=-1, num_clips=4, policy="error"
        )
    with pytest.raises(ValueError, match="at least one frame"):
        samplers.clips_at_random_timestamps(LazyVideo(corpus["h264_closed"]).lazy_slice(1.0, 1.0).as_torchcodec())


PLAYLISTS = {
    "plain": b"ffconcat version 1.0\nfile clip.mp4\nduration 0.4\n" + b"#" * 2000 + b"\n",
    "like a transport stream": b"ffconcat version 1.0\nfile clip.mp4\nduration 0.4\n#"
    + b"G".rjust(188, b"#") * 20
    + b"\n",
}


@pytest.mark.parametrize("fetch", ["ranges", "file"])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_with_a_sidecar_opens_no_other_file(name: str, fetch: Any, tmp_path: Path) -> None:
    """torchcodec lets FFmpeg guess: a list whose sidecar calls it a video gave the frames of the file beside it."""
    clip = write_video(tmp_path / "clip.mp4", frames=12, gop=4, width=64, height=48)
    index, store = build_index(clip), ObjectStore()
    (tmp_path / "list.mp4").write_bytes(PLAYLISTS[name])
    meta = store.head(tmp_path / "list.mp4")
    for container in ("mp4", "mpegts"):
        source = dataclasses.replace(
            index.sources[0],
            container=container,
            addressing="container",
            size=meta.size,
            etag=None,
            fingerprint=fingerprint(store, meta),
        )
        dataclasses.replace(index, sources=(source,)).save(tmp_path / "list.mp4")
        video = LazyVideo(tmp_path / "list.mp4", on_missing_index="raise", backend="torchcodec", fetch=fetch)
        with pytest.raises(NotAVideoError, match=r"list\.mp4"):
            video[:]
