"""What a source says of all its videos at once is what each video says of itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from lazyvid import timing
from lazyvid.errors import ObjectNotFoundError
from lazyvid.index.finding import find_videos
from lazyvid.storage import ObjectStore
from lazyvid.training.sources import VideoSource, open_cameras, open_videos
from lazyvid.video import LazyVideo


def check_source(source: VideoSource, videos: list[LazyVideo]) -> None:
    """The law of every `VideoSource`."""
    assert len(source) == len(videos)
    assert [video.uri for video in source] == [source.uri(i) for i in range(len(source))] == [v.uri for v in videos]
    assert source.frame_counts.tolist() == [len(video) for video in videos]
    assert source.nbytes.tolist() == [v.frame_index.packets.size[v.frame_indices].sum() for v in videos]
    assert source.median_steps.tolist() == [timing.median_step(video.timestamps) for video in videos]
    for i, video in enumerate(videos):
        assert np.array_equal(source[i].timestamps, video.timestamps)
        assert np.array_equal(source.timestamps(i), video.timestamps)
        assert np.array_equal(source[i - len(videos)].timestamps, video.timestamps)
    for position in (-1, 0, 3, 30, 10**6):
        found = source.times_at(np.full(len(videos), position))
        expected = [v.timestamps[position] if 0 <= position < len(v) else np.nan for v in videos]
        assert np.array_equal(found, expected, equal_nan=True)
    moments = [-1.0, 0.0, 1e9, np.nan, *(t + e for v in videos for t in v.timestamps[::7] for e in (-1e-9, 0, 1e-9))]
    for moment in moments:
        seconds = np.full(len(videos), moment)
        for side in ("left", "right"):
            expected = [np.searchsorted(video.timestamps, moment, side=side) for video in videos]
            assert source.search(seconds, side=side).tolist() == expected  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        source[len(videos)]


def test_a_list_of_videos(folder: Path) -> None:
    videos = LazyVideo.open_many([folder / f"{v}.mp4" for v in range(3)])
    videos += [videos[2].lazy_slice(0.3, 0.9), videos[0].lazy_slice(5, 5), LazyVideo.concat([videos[1]])]
    source = open_videos(videos, {})
    check_source(source, videos)
    check_source(pickle.loads(pickle.dumps(source)), videos)


def test_sources_by_name(folder: Path) -> None:
    cameras = open_cameras({"top": folder, "wrist": f"{folder}/*.mp4"}, {})
    assert [source.uri(2) for source in cameras.values()] == [str(folder / "2.mp4")] * 2
    with pytest.raises(TypeError, match="LazyVideo"):
        open_videos(cameras["top"][0], {})  # type: ignore[arg-type]


def test_a_glob_finds_no_files_of_sidecars(folder: Path, tmp_path: Path) -> None:
    assert find_videos(f"{folder}/**", ObjectStore()) == [str(folder / f"{v}.mp4") for v in range(3)]
    with pytest.raises(ObjectNotFoundError, match="found none"):
        find_videos(f"{folder}/0.mp4.lance/**", ObjectStore())
