"""A recorder that is killed loses what its encoders held and nothing else; what is recovered is exact."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from episode_samples import CAMERAS, HEIGHT, TOP, WIDTH, WRIST, add, check, check_row, check_video, make, record

from lazyvid.errors import RecordingError, TruncatedVideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.recording import VideoWriter
from lazyvid.recording.layout import RecordingLayout
from lazyvid.recording.manifest import MANIFEST, read_manifest
from lazyvid.recording.recorder import Recorder
from lazyvid.recording.recover import RecoverReport, recover
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, painted_frame, read_frame_number
from lazyvid.video import LazyVideo

# Writes a line for what is acknowledged, then goes on until it is killed.
CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
from episode_samples import frame, make
rows, options = int(sys.argv[3]), eval(sys.argv[4])
recorder = make(sys.argv[2], **options)
out = os.fdopen(1, "w", buffering=1)
out.write("ready\\n")
while True:
    episode = recorder.meta.total_episodes
    for row in range(rows):
        recorder.add_frame(frame(episode, row))
        durable = recorder.durable_frames
        out.write(f"durable {episode} {min(durable.values(), default=0)}\\n")
    out.write(f"saving {episode}\\n")
    recorder.save_episode()
    out.write(f"saved {episode}\\n")
"""


def killed(root: str | Path, *, rows: int, after_s: float = 0.0, at: str = "", **options: Any) -> list[str]:
    """What a recorder said until it was killed: some time after it began, or after a line that matches `at`."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), str(root), str(rows), repr(options)]
    package = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, sys.path)])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        lines: list[str] = []
        # All the while, so that the child never waits for a reader.
        reader = threading.Thread(target=lambda: lines.extend(line.strip() for line in child.stdout or ()))
        reader.start()
        _wait_for(lines, at or "ready", child)
        time.sleep(after_s)
        child.send_signal(signal.SIGKILL)
        reader.join()
    return lines


def _wait_for(lines: list[str], pattern: str, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    seen = 0
    while not any(re.fullmatch(pattern, line) for line in lines[seen:]):
        seen = max(0, len(lines) - 1000)  # what came while the lines were looked at is looked at again
        assert child.poll() is None, "the recorder ended by itself"
        assert time.monotonic() < deadline, f"no {pattern!r} after minutes"
        time.sleep(0.001)


def check_recovered(
    root: Path, said: list[str], report: RecoverReport, before: int, rows: int, *, unreadable: float
) -> None:
    """Nothing that was acknowledged is missing, and everything that is there is exact."""
    saved = sum(line.startswith("saved") for line in said)
    saving = sum(line.startswith("saving") for line in said)
    state = read_manifest(root)
    assert saved <= state.total_episodes <= saving + 1
    table = RecordingLayout().frames(root).to_pylist() if state.total_episodes else []
    for row in table:
        check_row(row)
    for episode in range(state.total_episodes):
        mine = [row for row in table if row["episode_index"] == episode]
        assert [row["frame_index"] for row in mine] == list(range(len(mine)))
        # An encoder may still hold frames when a save begins: then the rows that have none are lost, and counted.
        lost = sum(found.lost_rows for found in report.episodes if found.number == episode)
        assert lost == 0 or episode >= saved
        if episode < saving:
            assert len(mine) + lost == rows
        durable = [int(line.split()[2]) for line in said if line.startswith(f"durable {episode} ")]
        for camera in CAMERAS:
            path = root / f"videos/{camera}/episode-{episode:06d}.mp4"
            if not path.exists():
                assert max(durable, default=0) == 0
                assert not any(row[f"{camera.replace('.', '_')}_frame"] is not None for row in mine)
                continue
            video = LazyVideo(path, on_missing_index="raise")
            assert len(video) >= (rows if episode < saved else max(durable, default=0))
            check_video(video, mine, camera, unreadable=unreadable)
    assert not (root / ".unfinished").exists()
    assert [episode.number for episode in report.episodes] == list(range(before, before + len(report.episodes)))
    again = recover(root)
    assert not again.changed, str(again)


def kill_and_check(root: Path, *, rows: int, **how: Any) -> list[str]:
    said = killed(root, rows=rows, **how)
    before = read_manifest(root).total_episodes
    for episode in range(before):  # what was saved opens as it lies there
        for camera in CAMERAS:
            assert len(LazyVideo(root / f"videos/{camera}/episode-{episode:06d}.mp4", on_missing_index="raise")) == rows
    # At this size, libsvtav1 paints a cell over now and then, kills or not.
    unreadable = 0.1 if how.get("vcodec") == "libsvtav1" else 0.0
    check_recovered(root, said, recover(root), before, rows, unreadable=unreadable)
    return said


@pytest.mark.parametrize(
    "how",
    [{"after_s": 0.9}, {"at": "saving 1"}, {"at": r"durable \d+ (2[4-9]|3\d)"}],
    ids=["at some moment", "while it saves", "inside an episode"],
)
def test_a_killed_recording_is_made_whole(tmp_path: Path, how: dict[str, Any]) -> None:
    said = kill_and_check(tmp_path / "run", rows=40, **how)
    record_on(tmp_path / "run", said)


def record_on(root: Path, said: list[str]) -> None:
    """A recovered recording can be recorded on."""
    with Recorder.resume(root, on_full="block") as recorder:
        episode = recorder.meta.total_episodes
        add(recorder, 5)
        recorder.save_episode()
    rows = [row for row in RecordingLayout().frames(root).to_pylist() if row["episode_index"] == episode]
    check_video(LazyVideo(root / f"videos/{WRIST}/episode-{episode:06d}.mp4"), rows, WRIST)
    assert said


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("turn", range(20))
def test_killed_at_random_moments(tmp_path: Path, turn: int, rng: random.Random) -> None:
    options = [{}, {"vcodec": "libsvtav1", "preset": 12, "crf": 10}, {"preset": "medium", "g": 30}][turn % 3]
    how: dict[str, Any] = {"after_s": rng.uniform(0.0, 4.0)}
    if turn % 2 == 0:
        how = {"at": f"saving {turn % 3}", "after_s": rng.uniform(0.0, 0.2)}
    kill_and_check(tmp_path / f"run{turn}", rows=rng.choice([10, 40, 90]), **how, **options)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("turn", range(4))
def test_images_first_killed_at_random_moments(tmp_path: Path, turn: int, rng: random.Random) -> None:
    options = {"streaming_encoding": False, "batch_encoding_size": 1 + turn % 3}
    kill_and_check(tmp_path / f"run{turn}", rows=15, after_s=rng.uniform(0.5, 3.0), **options)


# -- a kill between any two steps -------------------------------------------------------------------------------------

STEPS = [
    "lazyvid.recording.saving.SavedEpisodes.lay_down",
    "lazyvid.recording.layout._place",
    "lazyvid.index.frame_index.FrameIndex.save",
    "lazyvid.recording.layout._append",
    "lazyvid.recording.layout.write_manifest",
]


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_between_two_steps_of_saving(
    tmp_path: Path, step: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make(tmp_path)
    add(recorder, 6)
    recorder.save_episode()
    add(recorder, 9)
    _stop_at(monkeypatch, step, place)
    with pytest.raises(KilledError):
        recorder.save_episode()
    monkeypatch.undo()
    recorder._lock.release()  # as the end of the process does
    recorder._cameras.close()
    recover(tmp_path)
    check(tmp_path, [6, 9])
    assert not recover(tmp_path).changed
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "frames.lance", "episodes.lance", MANIFEST}


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: str, place: str) -> None:
    real = resolve_name(step)

    def stopping(*args: Any, **kwargs: Any) -> Any:
        if place == "after":
            real(*args, **kwargs)
        raise KilledError

    monkeypatch.setattr(step, stopping)


def test_a_kill_while_the_uploads_wait(tmp_path: Path, s3_server: S3Server, s3_prefix: str) -> None:
    root, spool = f"{s3_prefix}/run", tmp_path / "spool"
    options = {"storage_options": s3_server.storage_options, "spool_dir": str(spool)}
    said = killed(root, rows=12, at="saving 2", **options)
    saved = sum(line.startswith("saved") for line in said)
    with pytest.raises(RecordingError, match="Finish it first"):
        make(root, **options)
    recover(root, **options)  # type: ignore[arg-type]
    assert not recover(root, **options).changed  # type: ignore[arg-type]
    assert not list(spool.iterdir())
    store = ObjectStore(storage_options=s3_server.storage_options)
    for meta in store.list(root):
        if ".mp4.lance/" not in meta.uri:
            store.download(meta.uri, tmp_path / "copy" / meta.uri.removeprefix(root + "/"))
    table = RecordingLayout().frames(tmp_path / "copy").to_pylist()
    assert max(row["episode_index"] for row in table) >= saved - 1
    for episode in range(saved):
        rows = [row for row in table if row["episode_index"] == episode]
        for camera in CAMERAS:
            video = LazyVideo(
                f"{root}/videos/{camera}/episode-{episode:06d}.mp4", store=store, on_missing_index="raise"
            )
            check_video(video, rows, camera)


# -- single files -----------------------------------------------------------------------------------------------------

KILLED_WRITER = """
import os, sys
from lazyvid.recording import VideoWriter
from lazyvid.testing import painted_frame
preset = "8" if "svt" in sys.argv[2] else "medium"
writer = VideoWriter(sys.argv[1], 30, preset=preset, g=8, crf=20, vcodec=sys.argv[2])
for k in range(int(sys.argv[3])):
    writer.add_frame(painted_frame(k, width=96, height=64), timestamp=5.125 + k / 7 if sys.argv[4] == "times" else None)
os._exit(9)
"""


@pytest.mark.parametrize("times", ["times", "grid"])
@pytest.mark.parametrize("vcodec", ["h264", "hevc", "libsvtav1"])
def test_an_unfinished_mp4_becomes_an_ordinary_one(tmp_path: Path, vcodec: str, times: str) -> None:
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "a.mp4"), vcodec, "150", times]
    assert subprocess.run(command, check=False, timeout=240, stderr=subprocess.DEVNULL).returncode == 9
    (left,) = tmp_path.iterdir()
    path = tmp_path / "found.mp4"
    left.rename(path)
    ((name, frames),) = recover(path).videos.items()
    assert name == str(path)
    assert frames >= 150 - 110  # what libsvtav1 holds; the others hold half of that
    video = LazyVideo(path, on_missing_index="raise")
    assert [read_frame_number(frame) for frame in video[:]] == list(range(frames))
    expected = [5.125 + float(Fraction(round(Fraction(k, 7) * 10**6), 10**6)) if times == "times" else k / 30
                for k in range(frames)]  # fmt: skip
    assert video.timestamps.tolist() == pytest.approx(expected, abs=1e-9)
    assert not recover(path).changed
    assert FrameIndex.open(path).sources[0].size == path.stat().st_size


def test_a_whole_mp4_gets_its_sidecar_and_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 30, preset="ultrafast") as writer:
        for k in range(10):
            writer.add_frame(painted_frame(k, width=WIDTH, height=HEIGHT), timestamp=50.0 + k)
    before = path.read_bytes()
    assert not recover(path).changed
    shutil.rmtree(f"{path}.lance")
    assert recover(path).videos == {str(path): 10}
    assert path.read_bytes() == before
    assert FrameIndex.open(path).timestamps().tolist() == [50.0 + k for k in range(10)]


def test_a_cut_at_every_box_and_inside_them(tmp_path: Path) -> None:
    record(tmp_path / "run", [1])  # the module's Lance is warm
    whole = tmp_path / "whole.mp4"
    command = [sys.executable, "-c", KILLED_WRITER, str(whole), "h264", "120", "times"]
    subprocess.run(command, check=False, timeout=240)
    (left,) = tmp_path.glob(".*mp4")
    data = left.read_bytes()
    counts = []
    for cut in sorted({len(data) * k // 12 for k in range(13)} | {0, 7, 24, len(data) - 1}):
        path = tmp_path / f"cut{cut}.mp4"
        path.write_bytes(data[:cut])
        try:
            recover(path)
        except (TruncatedVideoError, RecordingError):
            assert path.read_bytes() == data[:cut]  # left as it was
            counts.append(0)
            continue
        video = LazyVideo(path, on_missing_index="raise")
        assert [read_frame_number(frame) for frame in video[:]] == list(range(len(video)))
        counts.append(len(video))
    assert counts == sorted(counts)
    assert counts[-1] > 40


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="found none"):
        recover(tmp_path / "nothing")
    with pytest.raises(RecordingError, match=MANIFEST):
        recover(tmp_path)
    assert TOP
