"""`write_video` writes what its spec says and refuses what contradicts itself."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

from lazyvid.testing import VideoSpec, read_frame_number, write_streams, write_video


def test_fields_can_be_given_directly(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", VideoSpec(frames=5, width=96), height=64, first_number=700)
    with av.open(str(path)) as container:
        assert container.format.name.startswith("matroska")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [read_frame_number(frame) for frame in frames] == [700, 701, 702, 703, 704]
    assert frames[0].shape == (64, 96, 3)


def test_the_same_spec_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = VideoSpec(frames=20)
    one, two = (write_video(tmp_path / name, spec).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert one == two


def test_times_are_those_of_the_spec(tmp_path: Path) -> None:
    spec = VideoSpec(frames=4, pts=(0, 5, 100, 101), time_base=Fraction(1, 1000), start=250, b_frames=0)
    with av.open(str(write_video(tmp_path / "v.mp4", spec))) as container:
        times = [Fraction(frame.pts) * frame.time_base for frame in container.decode(video=0)]
    assert times == [Fraction(ms, 1000) for ms in (250, 255, 350, 351)]


def test_the_muxer_can_be_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.bin", frames=3, muxer="mp4", muxer_options={"movflags": "faststart"})
    assert path.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (VideoSpec(rotation=45), "got 45"),
        (VideoSpec(frames=3, pts=(0, 1)), "expected 3, got 2"),
        (VideoSpec(frames=3, pts=(0, 2, 2)), "must increase"),
        (VideoSpec(first_number=0xFFFF, frames=2), "65536"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, spec: VideoSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_streams(tmp_path / "v.mp4", [spec])


def test_importing_the_room_starts_nothing() -> None:
    code = (
        "import sys, threading, lazyvid.testing;"
        "assert threading.active_count() == 1;"
        "assert not {'lance', 'lightning', 'torchcodec', 's3fs', 'botocore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
