"""The commands that write videos: what they record is what is read, however they end."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import MagicMock

import av
import numpy as np
import pytest
from test_cli import DEADLINE_S, environment, lazyvid, row, wait_until

from lazyvid import FrameIndex, LazyVideo, build_index
from lazyvid.cli import record_sources
from lazyvid.cli.record import _stopped_by_signals
from lazyvid.cli.record_sources import painted
from lazyvid.errors import RecordingError
from lazyvid.recording import Recorder, encoder_report
from lazyvid.recording.devices import CameraDevice
from lazyvid.recording.images import ImageWriter, frame_path
from lazyvid.recording.layout import RecordingLayout
from lazyvid.testing import S3Server, VideoCorpus, painted_frame, read_frame_number, write_video

SMALL = ("--size", "96x64")


def video_of(root: Path, *, episode: int = 0, camera: str = "camera-0") -> LazyVideo:
    return LazyVideo(RecordingLayout().video_path(root, episode, camera), on_missing_index="raise")


def scanned(path: Path) -> LazyVideo:
    """A video without a sidecar, opened without the warning about it."""
    return LazyVideo(path, frame_index=build_index(path))


def numbers(video: LazyVideo) -> list[int]:
    return [read_frame_number(picture) for picture in video[:].numpy().transpose(0, 2, 3, 1)]


# -- record -----------------------------------------------------------------------------------------------------------


def test_painted_cameras_are_recorded_frame_by_frame(tmp_path: Path) -> None:
    root = tmp_path / "run"
    ended = lazyvid("record", root, "--cameras", 2, *SMALL, "--fps", 20, "--seconds", 1.5, "--on-full", "block")
    assert ended.code == 0, ended
    assert "30 rows in 1 episode; no frame dropped" in ended.out
    for camera in range(2):
        video = video_of(root, camera=f"camera-{camera}")
        assert numbers(video) == [k + 10_000 * camera for k in range(30)]
        np.testing.assert_allclose(np.diff(video.timestamps), 1 / 20, atol=2e-6)
        assert f"{root}/videos/camera-{camera}/episode-000000.mp4" in ended.out
    # A line each second, with what the live table shows.
    lines = [line for line in ended.out.splitlines() if " fps, queue " in line]
    assert lines
    for line in lines:
        assert len(re.findall(r"camera-\d \d+\.\d fps, queue \d+, dropped 0", line)) == 2


def test_a_second_episode_is_appended_and_never_by_mistake(tmp_path: Path) -> None:
    root = tmp_path / "run"
    options = (root, *SMALL, "--seconds", 0.2, "--on-full", "block", "--task", "stand still")
    assert lazyvid("record", *options).code == 0
    assert lazyvid("record", *options).code == 1
    ended = lazyvid("record", *options, "--append")
    assert (ended.code, "episode 1 of" in ended.out) == (0, True)
    assert [numbers(video_of(root, episode=episode)) for episode in range(2)] == [list(range(6))] * 2
    assert {line["task"] for line in RecordingLayout().frames(root).to_pylist()} == {"stand still"}


def test_a_video_is_played_at_its_own_times(tmp_path: Path) -> None:
    ticks = (np.cumsum([1, 3, 1, 2, 2, 1, 4, 1] * 2) - 1).tolist()
    path = write_video(tmp_path / "played.mp4", frames=16, fps=20, pts=ticks, width=96, height=64)
    started = time.monotonic()
    ended = lazyvid("record", tmp_path / "run", "--source", path, "--on-full", "block")
    assert ended.code == 0, ended
    assert time.monotonic() - started >= ticks[-1] / 20
    video = video_of(tmp_path / "run")
    assert numbers(video) == list(range(16))
    np.testing.assert_allclose(video.timestamps - video.timestamps[0], np.array(ticks) / 20, atol=2e-6)


def test_what_was_dropped_is_said_and_accounted_for(tmp_path: Path) -> None:
    slow = ("--size", "640x480", "--preset", "veryslow", "--threads", 1)
    ended = lazyvid("record", tmp_path / "run", *slow, "--fps", 250, "--seconds", 0.4)
    assert ended.code == 0, ended
    found = re.search(r"100 rows in 1 episode; dropped: camera-0 (\d+)", ended.out)
    assert found is not None, ended.out
    video = video_of(tmp_path / "run")
    assert len(video) + int(found[1]) == 100
    # Each frame that was kept lies under its own time.
    places = (video.timestamps - video.timestamps[0]) * 250
    assert numbers(video) == np.rint(places).astype(int).tolist()


@pytest.mark.s3
def test_a_recording_into_a_bucket(s3_server: S3Server, s3_prefix: str) -> None:
    options = s3_server.storage_options
    arguments = ["--endpoint-url", s3_server.endpoint_url, "--option", f"key={options['key']}"]
    arguments += ["--option", f"secret={options['secret']}", "--option", "client_kwargs.region_name=us-east-1"]
    ended = lazyvid("record", f"{s3_prefix}/run", *SMALL, "--seconds", 0.5, "--on-full", "block", *arguments)
    assert ended.code == 0, ended
    assert options["secret"] not in ended.out + ended.err
    uri = f"{s3_prefix}/run/videos/camera-0/episode-000000.mp4"
    assert uri in ended.out
    assert numbers(LazyVideo(uri, storage_options=options, on_missing_index="raise")) == list(range(15))


@pytest.mark.parametrize(
    "choice",
    [
        ("--source", "a.mp4", "--device", "/dev/video0"),
        ("--source", "a.mp4", "--cameras", 2),
        ("--source", "a.mp4", "--fps", 30),
        ("--size", "640"),
        ("--size", "8x8"),
    ],
    ids=str,
)
def test_wrong_choices_are_refused(tmp_path: Path, choice: tuple[object, ...]) -> None:
    assert lazyvid("record", tmp_path / "run", "--seconds", 0.1, *choice).code == 2
    assert not (tmp_path / "run").exists()


def test_no_frame_and_no_camera_are_errors(tmp_path: Path) -> None:
    ended = lazyvid("record", tmp_path / "run", *SMALL, "--seconds", 0)
    assert (ended.code, ended.err.startswith("error: Expected a frame or more")) == (1, True)
    ended = lazyvid("record", tmp_path / "none", "--device", tmp_path / "video0")
    assert ended.code == 1
    assert ended.err.startswith(f"error: Expected a camera (v4l2) at {tmp_path}/video0, cannot open it")
    assert not (tmp_path / "none").exists()


def command(root: Path, *arguments: object) -> list[str]:
    options = (*SMALL, "--cameras", 2, "--on-full", "block", *arguments)
    return [sys.executable, "-m", "lazyvid", "record", str(root), *map(str, options)]


def watched(process: subprocess.Popen[str]) -> None:
    """Have a process that hangs killed."""
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.daemon = True
    watchdog.start()


def begun(root: Path, *arguments: object, seconds: float = 0.0) -> subprocess.Popen[str]:
    """A recorder in a process of its own, once it has said that it has recorded for so long."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(root, *arguments), env=environment(), text=True, bufsize=1, **pipes)
    watched(process)
    assert process.stdout is not None
    for line in process.stdout:
        found = re.match(r"(\d+\.\d+) s: .* fps, queue ", line)
        if found is None:
            break
        if float(found[1]) >= seconds:
            return process
    process.kill()
    raise AssertionError(process.communicate())


def check_ended_properly(root: Path, out: str) -> None:
    """The episode is saved, with every frame, and there is nothing to recover."""
    assert "in 1 episode; no frame dropped" in out
    rows = RecordingLayout().frames(root).num_rows
    assert rows > 1
    for camera in range(2):
        assert numbers(video_of(root, camera=f"camera-{camera}")) == [k + 10_000 * camera for k in range(rows)]
    assert lazyvid("recover", root).out.count("whole") == 1


def test_sigterm_ends_the_episode_properly(tmp_path: Path) -> None:
    process = begun(tmp_path / "run")
    process.terminate()
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    check_ended_properly(tmp_path / "run", out)


def test_ctrl_c_on_a_terminal_ends_the_episode_properly(tmp_path: Path) -> None:
    """As a user sees it: a table that is kept up to date until Ctrl-C."""
    terminal, end = pty.openpty()
    streams = {"stdin": end, "stdout": end, "stderr": end}
    process = subprocess.Popen(command(tmp_path / "run"), env=environment() | {"TERM": "xterm"}, **streams)
    os.close(end)
    watched(process)
    out, interrupted = b"", False
    with contextlib.suppress(OSError):  # as a terminal ends when its last program has
        while chunk := os.read(terminal, 1 << 16):
            out += chunk
            if not interrupted and out.count(b"recording ") >= 3:
                interrupted = True
                process.send_signal(signal.SIGINT)
    os.close(terminal)
    text = out.decode()
    assert process.wait(DEADLINE_S) == 0, text
    assert re.search(r"camera-1 │ +\d+\.\d │ +\d+ │ +0 │", text), text
    check_ended_properly(tmp_path / "run", text)


def test_a_killed_recorder_is_recovered_with_a_report(tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = begun(root, "--gop", 5, seconds=1.5)  # more rows than wait for an encoder
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    ended = lazyvid("recover", root)
    assert ended.code == 0, ended
    _, verdict, detail = row(ended.out, f"{root}, episode 0")
    assert verdict == "mended", detail
    found = re.match(r"(\d+) rows kept, ", detail)
    assert found is not None, detail
    rows = int(found[1])
    assert rows >= 5
    # A camera's encoder may be behind the other's when the kill comes: what it lacks is said.
    for camera in ("camera-0", "camera-1"):
        kept = len(video_of(root, camera=camera))
        assert (f"{camera} {rows - kept}" in detail) == (kept < rows), detail
        start = 10_000 * (camera == "camera-1")
        assert numbers(video_of(root, camera=camera)) == list(range(start, start + kept))
    (tmp_path / "empty.mp4").touch()
    again = lazyvid("recover", root, tmp_path / "empty.mp4")
    assert (again.code, again.out.count("│ whole "), again.out.count("│ failed ")) == (1, 1, 1)


class _Clock:
    """Time that passes in sleep alone, so that the same lines run each time."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


def test_a_signal_may_come_at_any_line_of_the_wait_for_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the thread that it interrupts holds a lock of Python's own `threading`."""
    monkeypatch.setattr(record_sources, "time", _Clock())

    def rows_until_line(wanted: int) -> tuple[int, bool]:
        """How many of three rows came, and whether there were so many lines that the signal was sent."""
        lines = 0

        def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
            nonlocal lines
            if Path(frame.f_code.co_filename).name not in ("threading.py", "record_sources.py"):
                return None
            lines += 1
            if lines == wanted:
                signal.raise_signal(signal.SIGTERM)
            return trace

        with _stopped_by_signals() as stopped:
            rows = painted(1, (16, 16), 500.0, stopped).rows
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                count = len(list(itertools.islice(rows, 3)))
            finally:
                sys.settrace(before)
            return count, stopped.is_set()

    counts = []
    for line in itertools.count(1):
        count, sent = rows_until_line(line)
        if not sent:
            break
        counts.append(count)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 3)


# -- devices ----------------------------------------------------------------------------------------------------------

# FFmpeg's own test picture, opened as a camera is.
TEST_CAMERA = "testsrc=size=96x64:rate=30,realtime"


def test_a_device_is_recorded_as_its_pictures_come(tmp_path: Path) -> None:
    ended = lazyvid("record", tmp_path / "run", "--device", TEST_CAMERA, "--driver", "lavfi", "--seconds", 1)
    assert ended.code == 0, ended
    video = video_of(tmp_path / "run")
    assert (video.height, video.width) == (64, 96)
    assert len(video) >= 2
    assert video.timestamps[-1] - video.timestamps[0] < 1


def test_several_devices_are_cameras_whose_rows_the_slowest_paces(tmp_path: Path) -> None:
    sizes = {"camera-0": (64, 96), "camera-1": (48, 64)}
    devices = "testsrc=size=96x64:rate=100,realtime", "testsrc=size=64x48:rate=10,realtime"
    options = [option for device in devices for option in ("--device", device)]
    ended = lazyvid("record", tmp_path / "run", *options, "--driver", "lavfi", "--seconds", 1)
    assert ended.code == 0, ended
    rows = RecordingLayout().frames(tmp_path / "run")
    assert rows.num_rows >= 2
    for camera, size in sizes.items():
        video = video_of(tmp_path / "run", camera=camera)
        assert (video.height, video.width, len(video)) == (*size, rows.num_rows)
        # Each under its own camera's time.
        assert video.timestamps.tolist() == rows[f"{camera}_timestamp"].to_pylist()
        assert (np.diff(video.timestamps) > 0).all()
    assert rows["camera-0_timestamp"].to_pylist() != rows["camera-1_timestamp"].to_pylist()
    assert re.search(r"note: \d+ pictures of testsrc=size=96x64\S+ were left out", ended.err)
    missing = lazyvid("record", tmp_path / "none", "--device", devices[0], "--device", "none", "--driver", "lavfi")
    assert (missing.code, missing.err.startswith("error: Expected a camera (lavfi) at none, cannot open")) == (1, True)


def test_a_device_gives_the_newest_pictures_counts_the_others_and_stops_when_told_to() -> None:
    stopped = threading.Event()
    with CameraDevice("testsrc=size=96x64:rate=200,realtime", driver="lavfi") as camera:
        frames = camera.frames(stopped)
        picture, _ = next(frames)
        assert (picture.shape, picture.dtype, camera.skipped) == ((64, 96, 3), np.uint8, 0)
        wait_until(lambda: any(item[0] >= 100 for item in list(camera._pictures.queue)))
        next(frames)
        assert camera.skipped >= 90  # all but the newest few
        stopped.set()
        assert list(frames) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "lazyvid-device"]


def test_pictures_that_a_device_gave_in_vain_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_frame = Recorder.add_frame
    monkeypatch.setattr(Recorder, "add_frame", lambda *given: (add_frame(*given), time.sleep(0.1)))
    camera = ("--device", "testsrc=size=96x64:rate=100,realtime", "--driver", "lavfi")
    ended = lazyvid("record", tmp_path / "run", *camera, "--seconds", 0.5)
    assert ended.code == 0, ended
    assert re.search(r"note: \d+ pictures of testsrc\S+ were left out", ended.err)


def test_a_device_that_says_nothing_is_an_error() -> None:
    slow = "testsrc=size=96x64:rate=2,realtime"
    with CameraDevice(slow, driver="lavfi", silence_s=0.05) as camera, pytest.raises(RecordingError, match="got none"):
        list(camera.frames(threading.Event()))


# -- encode, concat, codecs -------------------------------------------------------------------------------------------


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    writer = ImageWriter()
    for number in range(count):
        writer.save_image(painted_frame(number, width=96, height=64), frame_path(folder, number))
    writer.wait_until_done()
    writer.stop()
    return folder


def test_a_folder_of_pictures_becomes_a_video_and_is_not_replaced_by_mistake(tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "pictures", 12), tmp_path / "made" / "video.mp4"
    arguments = ("encode", folder, out, "--vcodec", "h264", "--preset", "ultrafast", "--gop", 4)
    ended = lazyvid(*arguments, "--fps", 29.97)
    assert ended.code == 0, ended
    assert "12 frames, 0.400 s, in" in ended.out
    assert numbers(scanned(out)) == list(range(12))
    before = out.read_bytes()
    again = lazyvid(*arguments, "--fps", 10)
    assert (again.code, out.read_bytes() == before) == (1, True)
    assert "--overwrite" in again.err
    assert lazyvid(*arguments, "--fps", 10, "--overwrite").code == 0
    assert scanned(out).average_fps == pytest.approx(10)
    assert lazyvid("encode", tmp_path / "none", tmp_path / "none.mp4", "--fps", 10).code == 1


def test_videos_are_joined_in_the_order_given(tmp_path: Path, corpus: VideoCorpus) -> None:
    parts = [
        write_video(tmp_path / f"{first}.mp4", frames=10, width=96, height=64, first_number=first)
        for first in (300, 100, 200)
    ]
    out = tmp_path / "joined.mp4"
    assert lazyvid("index", *parts).code == 0
    ended = lazyvid("concat", *parts, out)
    assert ended.code == 0, ended
    assert "30 frames" in ended.out
    assert numbers(scanned(out)) == [first + k for first in (300, 100, 200) for k in range(10)]
    assert len(FrameIndex.open(out).segments) == 3
    assert lazyvid("concat", *parts, out).code == 1
    assert lazyvid("concat", *parts[:2], out, "--overwrite").code == 0
    assert len(scanned(out)) == 20
    unlike = lazyvid("concat", parts[0], corpus["vp9"], tmp_path / "unlike.mp4")
    assert (unlike.code, len(unlike.err.splitlines())) == (1, 1)
    assert not (tmp_path / "unlike.mp4").exists()


def test_codecs_says_what_works_and_why_the_rest_does_not() -> None:
    ended = lazyvid("codecs")
    assert ended.code == 0
    for status in encoder_report():
        cells = row(ended.out, f"{status.name} ")
        assert cells[2] == ("yes" if status.works else "no")
        assert bool(cells[3]) != status.works
    assert "auto is " in ended.out


# -- devices that fail ------------------------------------------------------------------------------------------------


def test_whatever_ends_the_thread_of_a_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    container = MagicMock()
    container.decode.side_effect = MemoryError("no room for a picture")
    monkeypatch.setattr(av, "open", MagicMock(return_value=container))
    with CameraDevice("camera") as camera, pytest.raises(RecordingError, match="camera failed: no room for a picture"):
        list(camera.frames(threading.Event()))
