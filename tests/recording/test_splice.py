"""Pieces of videos, spliced: each frame is the one that it was, at its place on the grid, for any order of frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lazyvid import LazyVideo
from lazyvid.errors import UncuttableVideoError, VideoError
from lazyvid.recording.splice import Piece, splice
from lazyvid.testing import read_frame_number, write_video

SIZE = {"width": 96, "height": 64}
KINDS: dict[str, dict[str, Any]] = {
    "h264, no B-frames": {"codec": "libx264", "gop": 5, "b_frames": 0},
    "h264, B-frames": {"codec": "libx264", "gop": 5, "b_frames": 2},
    "hevc, closed GOPs": {"codec": "libx265", "gop": 5, "options": {"x265-params": "open-gop=0"}},
    "av1": {"codec": "libsvtav1", "gop": 5},
}


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    """The pictures of a sequential decode."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times(path: Path) -> list[Fraction]:
    """When FFmpeg says that the frames are shown."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted(packet.pts * stream.time_base for packet in container.demux(stream) if packet.size)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_keep_their_pictures(tmp_path: Path, kind: str) -> None:
    a = write_video(tmp_path / "a.mp4", frames=17, **SIZE, **KINDS[kind])
    # A late start, and another rate below: frames lie on the grid of the outcome all the same.
    b = write_video(tmp_path / "b.mp4", frames=13, start=7, first_number=100, **SIZE, **KINDS[kind])
    target = tmp_path / "out" / "c.mp4"
    index = splice([Piece(a, 5, 15), Piece(b), Piece(a, 0, 5)], target, Fraction(25))
    expected = decoded(a)[5:15] + decoded(b) + decoded(a)[0:5]
    found = decoded(target)
    assert len(found) == len(expected) == len(index) == 28
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert times(target) == [Fraction(k, 25) for k in range(28)]
    assert index.timestamp.tolist() == [k / 25 for k in range(28)]
    random = LazyVideo(target, frame_index=index)
    order = np.random.default_rng(0).permutation(28).tolist()
    shown = [read_frame_number(frame) for frame in random.get_frames_at(order).frames]
    numbers = [*range(5, 15), *range(100, 113), *range(5)]
    assert shown == [numbers[k] for k in order]


def test_in_place(tmp_path: Path) -> None:
    a = write_video(tmp_path / "a.mp4", frames=8, gop=2, b_frames=0, **SIZE)
    b = write_video(tmp_path / "b.mp4", frames=6, gop=2, b_frames=0, first_number=50, **SIZE)
    expected = decoded(a)[:6] + decoded(b)
    splice([Piece(a, 0, 6), Piece(b)], a, Fraction(30))
    assert all(np.array_equal(one, other) for one, other in zip(decoded(a), expected, strict=True))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(("first", "stop"), [(3, 10), (0, 3), (5, 8)])
def test_frames_that_refer_to_others_are_not_cut_out(tmp_path: Path, first: int, stop: int) -> None:
    # Decoded as I P B B ...: frame 3 comes before 1 and 2.
    a = write_video(tmp_path / "a.mp4", frames=15, gop=5, options={"x264-params": "b-adapt=0:bframes=2"}, **SIZE)
    with pytest.raises(UncuttableVideoError, match=f"frames {first} to {stop - 1} of .*a.mp4"):
        splice([Piece(a, first, stop)], tmp_path / "c.mp4", Fraction(30))
    assert not (tmp_path / "c.mp4").exists()


def test_videos_that_do_not_fit_together(tmp_path: Path) -> None:
    a = write_video(tmp_path / "a.mp4", frames=4, **SIZE)
    b = write_video(tmp_path / "b.mp4", frames=4, width=64, height=64)
    with pytest.raises(VideoError, match="size"):
        splice([Piece(a), Piece(b)], tmp_path / "c.mp4", Fraction(30))
    with pytest.raises(ValueError, match=r"inside \[0, 4\)"):
        splice([Piece(a, 2, 5)], tmp_path / "c.mp4", Fraction(30))
    with pytest.raises(ValueError, match="piece or more"):
        splice([], tmp_path / "c.mp4", Fraction(30))
