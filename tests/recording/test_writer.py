"""Frame k that goes in comes out as frame k, at its time, wherever the video lies; what goes wrong has a name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from lazyvid.errors import (
    CameraFormatChangedError,
    EncoderUnavailableError,
    LazyVidError,
    RecordingDiskFullError,
    RecordingError,
    StoreError,
)
from lazyvid.index.frame_index import FrameIndex
from lazyvid.recording import VideoWriter
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, painted_frame, read_frame_number
from lazyvid.video import LazyVideo

WIDTH, HEIGHT = 96, 64
CODECS = ["h264", "hevc", "libsvtav1", "mpeg4"]


def paint(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return painted_frame(number, width=width, height=height)


def record(uri: str | Path, frames: int = 24, *, times: Sequence[float] | None = None, **options: Any) -> None:
    with VideoWriter(uri, options.pop("fps", 30), **{"preset": "ultrafast", "g": 8} | options) as writer:
        for k in range(frames):
            writer.add_frame(paint(k), timestamp=None if times is None else times[k])


def add_frames(writer: VideoWriter, count: int) -> None:
    for k in range(count):
        writer.add_frame(paint(k))


def sequential(path: str | Path) -> tuple[list[int], list[Fraction]]:
    """Frame numbers and times as PyAV alone finds them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        times = [picture.pts * stream.time_base for picture in pictures]
        return [read_frame_number(picture.to_ndarray(format="rgb24")) for picture in pictures], times


def irregular(count: int, *, start: float = 0.0) -> list[float]:
    steps = np.random.default_rng(7).uniform(0.004, 0.2, count)
    return [float(t) for t in start + np.cumsum(steps)]


def litter(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- frames and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vcodec", CODECS)
@pytest.mark.parametrize("fps", [30, Fraction(30000, 1001), 29.97, 12.5], ids=str)
def test_frame_k_is_frame_k_on_an_exact_grid(tmp_path: Path, vcodec: str, fps: Any) -> None:
    path = tmp_path / "grid.mp4"
    preset = {"libsvtav1": "12", "mpeg4": None}.get(vcodec, "veryfast")
    options = {"b": "2000000"} if vcodec == "mpeg4" else None
    record(path, fps=fps, vcodec=vcodec, preset=preset, options=options)
    numbers, times = sequential(path)
    rate = Fraction(fps).limit_denominator(1001)
    assert numbers == list(range(24))
    assert times == [k / rate for k in range(24)]
    index = FrameIndex.open(path)
    assert index.timestamps().tolist() == [float(k / rate) for k in range(24)]
    assert (index.packets.crc32 >= 0).all()
    assert set(index.packets.disposable.tolist()) <= {0, 1}


@pytest.mark.parametrize("vcodec", ["h264", "hevc", "libsvtav1"])
@pytest.mark.parametrize("origin", [None, 1_699_999_999.5, 1_699_996_000.000001], ids=str)
def test_capture_times_stay_what_they_were(tmp_path: Path, vcodec: str, origin: float | None) -> None:
    path = tmp_path / "times.mp4"
    given = irregular(24, start=1_700_000_000.123456789)
    preset = "12" if vcodec == "libsvtav1" else "medium"  # medium, so that there are B-frames
    record(path, times=given, vcodec=vcodec, preset=preset, origin=origin)
    numbers, times = sequential(path)
    assert numbers == list(range(24))
    zero = Fraction(given[0] if origin is None else origin)
    assert [abs(found - (Fraction(t) - zero)) <= Fraction(1, 2_000_000) for found, t in zip(times, given, strict=True)]
    assert times == [Fraction(round((Fraction(t) - zero) * 10**6), 10**6) for t in given]
    assert FrameIndex.open(path).timestamps().tolist() == given


def test_the_header_says_the_origin(tmp_path: Path) -> None:
    record(tmp_path / "a.mp4", 3, times=[100.25, 100.5, 100.75])
    record(tmp_path / "b.mp4", 3)
    with av.open(str(tmp_path / "a.mp4")) as a, av.open(str(tmp_path / "b.mp4")) as b:
        assert float(a.metadata["lazyvid_origin"]) == 100.25
        assert "lazyvid_origin" not in b.metadata


@pytest.mark.parametrize("where", ["local", "s3", "memory"])
def test_a_video_can_be_read_as_soon_as_it_is_written(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if where == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        store, prefix = ObjectStore(storage_options=server.storage_options), request.getfixturevalue("s3_prefix")
    else:
        store = ObjectStore()
        prefix = str(tmp_path) if where == "local" else f"memory://writer-{os.getpid()}"
    given = irregular(40, start=5.0)
    record(f"{prefix}/new/a.mp4", 40, times=given, store=store)
    video = LazyVideo(f"{prefix}/new/a.mp4", store=store, on_missing_index="raise")
    order = np.random.default_rng(3).permutation(40)
    clip = video.get_frames_at(order)
    assert [read_frame_number(frame) for frame in clip.frames] == order.tolist()
    assert clip.timestamps.tolist() == [given[k] for k in order]
    names = {meta.uri.rpartition("/")[2] for meta in store.list(f"{prefix}/new", glob="*")}
    assert names == {"a.mp4"}  # nothing temporary beside it; the sidecar is a folder
    assert FrameIndex.open(video.uri, store=store).sources[0].etag == store.head(video.uri).etag


def test_a_video_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    record(path, 5)
    record(path, 9, times=irregular(9))
    assert len(LazyVideo(path, on_missing_index="raise")) == 9
    assert litter(tmp_path) == ["a.mp4", "a.mp4.lance"]


def test_without_a_sidecar_the_mp4_is_alone(tmp_path: Path) -> None:
    record(tmp_path / "a.mp4", 5, write_sidecar=False)
    assert litter(tmp_path) == ["a.mp4"]


def test_the_spool_folder_is_used_and_left_empty(tmp_path: Path) -> None:
    spool, target = tmp_path / "spool", tmp_path / "target" / "a.mp4"
    with VideoWriter(target, 30, spool_dir=spool, preset="ultrafast") as writer:
        add_frames(writer, 60)
        (spooled,) = litter(spool)
        assert spooled.endswith("-a.mp4")
        assert not target.exists()
    assert litter(spool) == []
    assert sequential(target)[0] == list(range(60))


# -- pictures ---------------------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[np.ndarray[Any, np.dtype[np.uint8]]], Any]] = {
    "HWC": lambda a: a,
    "CHW": lambda a: a.transpose(2, 0, 1),
    "torch HWC": torch.from_numpy,
    "torch CHW": lambda a: torch.from_numpy(a).permute(2, 0, 1),
    "float32": lambda a: a.astype(np.float32) / 255,
    "float64 CHW": lambda a: a.transpose(2, 0, 1) / 255.0,
    "torch float16": lambda a: (torch.from_numpy(a) / 255).half(),
    "torch bfloat16": lambda a: (torch.from_numpy(a) / 255).bfloat16(),
    "reversed view": lambda a: np.ascontiguousarray(a[::-1])[::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_frame_is_the_same_picture(tmp_path: Path, form: str) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast", crf=1) as writer:
        for k in range(4):
            writer.add_frame(FORMS[form](paint(k)))
    record(tmp_path / "b.mp4", 4, crf=1, g=30)
    found, reference = (LazyVideo(tmp_path / name)[:].int() for name in ("a.mp4", "b.mp4"))
    assert (found - reference).abs().max() <= (4 if "16" in form else 0)
    assert [read_frame_number(frame) for frame in LazyVideo(tmp_path / "a.mp4")[:]] == [0, 1, 2, 3]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuvj420p", "yuv420p10le", "gray"])
@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1), (1, HEIGHT, WIDTH)], ids=str)
def test_gray_keeps_its_levels(tmp_path: Path, shape: tuple[int, ...], pix_fmt: str) -> None:
    levels = [0, 16, 100, 235, 255]
    with VideoWriter(tmp_path / "a.mp4", 30, pix_fmt=pix_fmt, preset="ultrafast", crf=1) as writer:
        for level in levels:
            writer.add_frame(np.full(shape, level, np.uint8))
    found = LazyVideo(tmp_path / "a.mp4", colorspace="G" if pix_fmt == "gray" else "RGB")[:].int()
    assert [int((frame - level).abs().max()) <= 3 for frame, level in zip(found, levels, strict=True)] == [True] * 5


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuvj420p", "yuv422p10le"])
def test_colours_come_back(tmp_path: Path, pix_fmt: str) -> None:
    colours = [(200, 40, 90), (10, 220, 30), (25, 60, 240), (255, 255, 255), (0, 0, 0)]
    with VideoWriter(tmp_path / "a.mp4", 30, pix_fmt=pix_fmt, preset="ultrafast", crf=1) as writer:
        for colour in colours:
            writer.add_frame(np.broadcast_to(np.uint8(colour), (HEIGHT, WIDTH, 3)))
    found = LazyVideo(tmp_path / "a.mp4")[:].int()
    for frame, colour in zip(found, colours, strict=True):
        assert (frame - torch.tensor(colour)[:, None, None]).abs().max() <= 5


@pytest.mark.parametrize(("vcodec", "pix_fmt"), [("png", "rgba"), ("ffv1", "yuva420p")])
def test_transparency_where_the_pixel_format_can_hold_it(tmp_path: Path, vcodec: str, pix_fmt: str) -> None:
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[..., 0], picture[..., 3] = 200, np.linspace(0, 255, WIDTH)
    with VideoWriter(tmp_path / "a.mp4", 30, vcodec=vcodec, pix_fmt=pix_fmt, g=None, write_sidecar=False) as writer:
        for _ in range(3):
            writer.add_frame(picture)
    with av.open(str(tmp_path / "a.mp4")) as container:
        found = [frame.to_ndarray(format="rgba").astype(int) for frame in container.decode(video=0)]
    assert len(found) == 3
    assert max(np.abs(frame - picture).max() for frame in found) <= 2


def test_odd_sizes_where_the_pixel_format_can_hold_them(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30, pix_fmt="yuv444p", preset="ultrafast") as writer:
        for k in range(3):
            writer.add_frame(paint(k, 97, 65))
    assert [read_frame_number(frame) for frame in LazyVideo(tmp_path / "a.mp4")[:]] == [0, 1, 2]


REFUSED: dict[str, tuple[Any, str]] = {
    "odd width": (np.zeros((64, 97, 3), np.uint8), "97x64"),
    "odd height": (np.zeros((65, 96, 3), np.uint8), "96x65"),
    "RGBA": (np.zeros((64, 96, 4), np.uint8), "alpha"),
    "uint16": (np.zeros((64, 96), np.uint16), "uint16"),
    "bool": (np.zeros((64, 96), bool), "bool"),
    "two channels": (np.zeros((64, 96, 2), np.uint8), r"\[64, 96, 2\]"),
    "a batch": (np.zeros((1, 64, 96, 3), np.uint8), r"\[1, 64, 96, 3\]"),
    "empty": (np.zeros((0, 96, 3), np.uint8), r"\[0, 96, 3\]"),
    "a list": ([[0]], "list"),
    "above one": (np.full((64, 96, 3), 1.5), "1.5"),
    "NaN": (np.full((64, 96, 3), np.nan), "nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_picture_is_refused_and_the_recording_goes_on(tmp_path: Path, case: str) -> None:
    frame, said = REFUSED[case]
    with VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast") as writer:
        with pytest.raises(ValueError, match=said):
            writer.add_frame(frame, timestamp=0.0)
        writer.add_frame(paint(0))  # neither its format nor its time was taken over
        with pytest.raises(ValueError, match=r"Invalid frame|Expected frames of 96x64"):
            writer.add_frame(frame)
        writer.add_frame(paint(1))
    assert sequential(tmp_path / "a.mp4") == ([0, 1], [0, Fraction(1, 30)])


@pytest.mark.parametrize(
    "other",
    [paint(9, 112, 64), paint(9, 64, 96), np.zeros((HEIGHT, WIDTH), np.uint8), paint(9) / 255.0],
    ids=["size", "turned", "gray", "float"],
)
def test_a_camera_that_changes_its_format_is_named_not_rescaled(tmp_path: Path, other: Any) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast") as writer:
        writer.add_frame(paint(0))
        with pytest.raises(CameraFormatChangedError, match="96x64 RGB uint8"):
            writer.add_frame(other)
        writer.add_frame(paint(1))
    assert sequential(tmp_path / "a.mp4")[0] == [0, 1]


# -- times that are refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [1.0, 0.5, 1.0000004, float("nan"), float("inf"), -5.0])
def test_times_that_do_not_increase_are_refused_and_both_are_named(tmp_path: Path, bad: float) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast") as writer:
        writer.add_frame(paint(0), timestamp=0.0)
        writer.add_frame(paint(1), timestamp=1.0)
        with pytest.raises(ValueError, match="frame 2") as caught:
            writer.add_frame(paint(2), timestamp=bad)
        assert str(bad) in str(caught.value)
        assert "1.0" in str(caught.value) or "0.0 s" in str(caught.value)
        writer.add_frame(paint(2), timestamp=1.5)
    assert FrameIndex.open(tmp_path / "a.mp4").timestamps().tolist() == [0.0, 1.0, 1.5]


@pytest.mark.parametrize(("first", "second"), [(None, 1.0), (0.0, None)])
def test_all_frames_have_a_time_or_none(tmp_path: Path, first: float | None, second: float | None) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast") as writer:
        writer.add_frame(paint(0), timestamp=first)
        with pytest.raises(ValueError, match="frame 1"):
            writer.add_frame(paint(1), timestamp=second)


def test_a_time_before_the_origin_is_refused(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 30, origin=10.0)
    with pytest.raises(ValueError, match=r"origin, 10\.0 s"):
        writer.add_frame(paint(0), timestamp=9.0)
    with pytest.raises(ValueError, match="frame 0"):
        writer.add_frame(paint(0))
    writer.abort()
    assert litter(tmp_path) == []


# -- arguments and ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps": 0}, "fps"),
        ({"fps": -1.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": "30"}, "fps"),
        ({"fps": True}, "fps"),
        ({"vcodec": "h265x"}, "Invalid vcodec"),
        ({"vcodec": "aac"}, "Invalid vcodec"),
        ({"pix_fmt": "yuv999"}, "pix_fmt"),
        ({"pix_fmt": "rgb565le"}, "pix_fmt"),
        ({"crf": -1}, "crf"),
        ({"crf": "high"}, "crf"),
        ({"g": -3}, "g "),
        ({"g": 2.5}, "g "),
        ({"origin": float("nan")}, "origin"),
        ({"store": ObjectStore(), "storage_options": {}}, "store"),
        ({"uri": "a.mkv"}, "mkv"),
    ],
    ids=str,
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VideoWriter(tmp_path / options.pop("uri", "a.mp4"), **{"fps": 30} | options)


@pytest.mark.parametrize("options", [{"options": {"no_such_option": 1}}, {"vcodec": "mpeg4", "crf": 20}], ids=str)
def test_options_that_the_encoder_does_not_know_are_named(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no_such_option|crf"):
        record(tmp_path / "a.mp4", 1, **{"preset": None} | options)
    assert litter(tmp_path) == []


def test_options_reach_the_encoder(tmp_path: Path) -> None:
    record(tmp_path / "a.mp4", 30, g=5, options={"bf": 0, "sc_threshold": 0})
    index = FrameIndex.open(tmp_path / "a.mp4")
    assert np.flatnonzero(index.packets.key).tolist() == [0, 5, 10, 15, 20, 25]
    assert (index.packets.pts == index.packets.dts).all()


@pytest.mark.parametrize("options", [{"vcodec": "h264_vaapi"}, {"vcodec": "h264_v4l2m2m"}, {"preset": "warp"}], ids=str)
def test_an_encoder_that_does_not_work_here_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(EncoderUnavailableError, match=r"vaapi|v4l2m2m|warp"):
        record(tmp_path / "a.mp4", 1, **{"preset": None} | options)
    assert litter(tmp_path) == []


def test_a_codec_that_mp4_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises((ValueError, LazyVidError), match="wmv2"):
        record(tmp_path / "a.mp4", 1, vcodec="wmv2", preset=None)
    assert litter(tmp_path) == []


def test_an_exception_in_the_block_publishes_nothing(tmp_path: Path) -> None:
    def block() -> None:
        with VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast") as writer:
            add_frames(writer, 40)
            raise KeyError("user")

    with pytest.raises(KeyError):
        block()
    assert litter(tmp_path) == []


def test_the_end_is_the_end(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast")
    writer.add_frame(paint(0))
    assert (writer.frame_count, writer.uri) == (1, str(tmp_path / "a.mp4"))
    writer.close()
    writer.close()
    writer.abort()
    assert sequential(tmp_path / "a.mp4")[0] == [0]
    with pytest.raises(RecordingError, match="closed"):
        writer.add_frame(paint(1))


def test_no_frame_is_no_video_and_says_so(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 30)
    with pytest.raises(RecordingError, match="got none"):
        writer.close()
    writer.close()
    assert litter(tmp_path) == []


def test_secrets_are_not_shown(s3_server: S3Server, s3_prefix: str) -> None:
    options = s3_server.wrong_options
    writer = VideoWriter(f"{s3_prefix}/a.mp4", 30, storage_options=options, preset="ultrafast")
    writer.add_frame(paint(0))
    with pytest.raises(StoreError) as caught:
        writer.close()
    (note,) = caught.value.__notes__
    kept = note.removeprefix("The finished video is kept in ").removesuffix(".")
    assert sequential(kept)[0] == [0]
    Path(kept).unlink()
    assert options["secret"] not in str(caught.value) + repr(writer) + note


# -- faults -----------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from lazyvid.recording import VideoWriter
from lazyvid.testing import painted_frame
writer = VideoWriter(sys.argv[1], 30, preset="medium", g=8)
for k in range(int(sys.argv[2])):
    writer.add_frame(painted_frame(k, width=96, height=64), timestamp=5.0 + k / 7)
os._exit(9)
"""


def test_a_killed_recording_can_be_played_up_to_its_last_group_of_pictures(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.mp4"), "120"], check=False, timeout=240)
    assert done.returncode == 9
    (left,) = litter(tmp_path)
    numbers, times = sequential(tmp_path / left)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 120 - 64  # what x264's look-ahead and one group of pictures can hold
    assert times == [Fraction(round(Fraction(k, 7) * 10**6), 10**6) for k in numbers]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The spool file is a link to a device that is always full.
    writer = VideoWriter(tmp_path / "a.mp4", 30, preset="ultrafast", g=2, options={"bf": 0})
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    monkeypatch.setattr(writer, "_spool_path", lambda: str(link))
    with pytest.raises(RecordingDiskFullError, match="disk is full"):
        add_frames(writer, 100)
    with pytest.raises(RecordingError, match="RecordingDiskFullError"):
        writer.add_frame(paint(0))
    with pytest.raises(RecordingError, match="RecordingDiskFullError"):
        writer.close()
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("vcodec", ["h264", "hevc"])
@pytest.mark.parametrize("frames", [1, 2, 3, 70])
def test_any_number_of_frames_is_written(tmp_path: Path, vcodec: str, frames: int) -> None:
    """libx265 gives random decoding times where it is flushed after one or two pictures."""
    path = tmp_path / "v.mp4"
    with VideoWriter(path, 30, vcodec=vcodec) as writer:
        for number in range(frames):
            writer.add_frame(painted_frame(number, width=160, height=120))
    video = LazyVideo(path, on_missing_index="raise")
    assert [read_frame_number(frame) for frame in video] == list(range(frames))
    assert video.timestamps == pytest.approx(np.arange(frames) / 30)
