"""Cameras that misbehave, disks that fail and power that goes: what a recorder acknowledged is there, and right."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chances import need_namespaces, need_strace
from episode_samples import CAMERAS
from moments import Tree
from power import Lateness, PowerLosses
from promises import check_left
from sizes import counts

from lazyvid import LazyVideo
from lazyvid.errors import CameraFormatChangedError, TruncatedVideoError
from lazyvid.index import build_index
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.recording.layout import RecordingLayout
from lazyvid.recording.recover import recover
from lazyvid.testing import painted_frame, read_frame_number

WIDTH, HEIGHT = 96, 64


def picture(number: int) -> np.ndarray[Any, Any]:
    return painted_frame(number, width=WIDTH, height=HEIGHT)


def encoder_of(**options: Any) -> StreamingVideoEncoder:
    return StreamingVideoEncoder(30, "h264", preset="ultrafast", **{"g": 4, "on_full": "block", **options})


def contents(path: Path) -> tuple[list[int], list[float]]:
    """The numbers and times of a file that may have lost its end."""
    index = build_index(path, scan="full")
    frames = LazyVideo(path, frame_index=index)[:]
    return [read_frame_number(frame) for frame in frames], index.timestamp.tolist()


# -- cameras ----------------------------------------------------------------------------------------------------------


@counts(1, 40)
def test_cameras_that_misbehave(count: int, tmp_path: Path, rng: random.Random) -> None:
    """Frozen, late, turned back in time, of another size, gone: each file holds what was taken, under its time."""
    for episode in range(count):
        encoder = encoder_of()
        encoder.start_episode(["a", "b"], tmp_path / str(episode), origin=0.0)
        taken: dict[str, list[tuple[int, float]]] = {"a": [], "b": []}
        clock = {"a": 0.5, "b": 0.5}
        gone_at = rng.randrange(5, 60)
        for k in range(60):
            for key in ("a", "b"):
                if key == "b" and k >= gone_at:
                    continue  # disconnected
                event = rng.random()
                number = taken[key][-1][0] if event < 0.1 and taken[key] else k  # frozen: the same picture again
                clock[key] += rng.choice([1 / 30, 1 / 30, 0.031, 0.4 if event > 0.9 else 0.035])
                if taken[key] and 0.1 < event < 0.2:
                    with pytest.raises(ValueError, match=key):
                        encoder.feed_frame(key, picture(k), taken[key][-1][1] - rng.uniform(0, 0.4))
                if taken[key] and 0.2 < event < 0.3:
                    wrong = painted_frame(k, width=WIDTH * 2, height=HEIGHT * 2)
                    with pytest.raises(CameraFormatChangedError, match=key):
                        encoder.feed_frame(key, wrong, clock[key])
                encoder.feed_frame(key, picture(number), clock[key])
                taken[key].append((number, clock[key]))
        results = encoder.finish_episode()
        encoder.close()
        for key, expected in taken.items():
            numbers, times = contents(Path(results[key][0]))
            assert numbers == [number for number, _ in expected]
            assert times == pytest.approx([seconds for _, seconds in expected], abs=1e-6)


# -- power ------------------------------------------------------------------------------------------------------------

DURABLE_S = 0.15


@counts(1, 3)
def test_a_loss_of_power_leaves_what_was_durable_at_the_last_sync(
    count: int, tmp_path: Path, rng: random.Random
) -> None:
    """What was not synced is dropped: what a kill would have left `durable_s` earlier is there all the same."""
    for episode in range(count):
        folder = tmp_path / str(episode)
        folder.mkdir()
        encoder = encoder_of(g=rng.choice([1, 2, 5]), durable_s=DURABLE_S)
        losses = PowerLosses(folder, lambda encoder=encoder: (time.monotonic(), encoder.durable_frames.get("cam", 0)))
        lateness, history = Lateness(DURABLE_S / 10), []
        with lateness.watched(), losses.watched():
            encoder.start_episode(["cam"], folder / "new")
            for k in range(80):
                encoder.feed_frame("cam", picture(k), k / 30)
                history.append(losses.promise())
                time.sleep(rng.uniform(0.01, 0.03))
            encoder.finish_episode()
        encoder.close()
        most_s = DURABLE_S + lateness.slack_s + 2 * losses.slowest_s
        moments = losses.moments("dropped")
        found = [_recovered(moment.tree, tmp_path / "left.mp4") for moment in moments]
        assert len(set(found)) > 3, "it is synced again and again"
        for moment, frames in zip(moments, found, strict=True):
            at, _ = moment.promise
            durable = max((frames for when, frames in history if when <= at - most_s), default=0)
            assert frames >= durable, f"{moment.step}, {most_s:.2f} s after {durable} frames were durable"
        # A sync keeps at least what was durable when it was called, once the file has its name.
        for before, after, frames in zip(moments[4:], moments[5:], found[5:], strict=False):
            assert not after.step.endswith(".mp4") or frames >= before.promise[1], after.step


def _recovered(tree: Tree, path: Path) -> int:
    """Frames of the one MP4 in it, all of them exact, once it is made whole; 0 without any."""
    data = next((data for name, data in tree.items() if name.endswith(".mp4") and data), None)
    if data is None:
        return 0
    shutil.rmtree(f"{path}.lance", ignore_errors=True)
    path.write_bytes(data)
    try:
        recover(path)
    except TruncatedVideoError:
        return 0
    numbers, times = contents(path)
    assert numbers == list(range(len(numbers)))
    assert times == pytest.approx([k / 30 for k in numbers], abs=1e-6)
    return len(numbers)


# -- disks ------------------------------------------------------------------------------------------------------------

RECORDER = """
import json, sys, tempfile
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[2])
from episode_samples import frame, make
from lazyvid.errors import LazyVidError
real = tempfile.mkdtemp

def mkdtemp(suffix=None, prefix=None, dir=None):
    # strace has to know the names of folders that are not there yet.
    if prefix != "episode-":
        return real(suffix, prefix, dir)
    (folder := Path(dir) / "episode").mkdir()
    return str(folder)

tempfile.mkdtemp = mkdtemp
for root, rows in json.loads(sys.argv[1]):
    recorder = make(root, g=2, durable_s=0.2)
    said, added = [], 0
    for row in range(4):
        recorder.add_frame(frame(0, row))
    recorder.save_episode()
    try:
        for row in range(rows):
            recorder.add_frame(frame(1, row))
            added += 1
        recorder.save_episode()
    except LazyVidError as error:
        said.append(type(error).__name__)
    durable = recorder.durable_frames
    try:
        recorder.save_episode()
    except LazyVidError as error:
        said.append(type(error).__name__)
    recorder.finalize()
    print(json.dumps([said, added, durable]), flush=True)
"""
PATHS = [str(Path(__file__).parents[1]), *sys.path]


@pytest.mark.chaos
@counts(1, 2)
@pytest.mark.parametrize(("error", "name"), [("EIO", "EncoderFailedError"), ("ENOSPC", "RecordingDiskFullError")])
def test_a_disk_that_fails_in_mid_episode(
    error: str, name: str, count: int, tmp_path: Path, rng: random.Random
) -> None:
    """From some write on, each to one camera's file fails: that is named, and all else of the episode is whole."""
    need_strace()
    for turn in range(count):
        when = rng.randrange(1, 25)  # of the 30 writes or more that the file takes
        roots = [(str(tmp_path / f"{turn}-{k}"), rng.randrange(60, 100)) for k in range(3)]
        failing, whole = rng.sample(CAMERAS, 2)
        paths = [f"{root}/.unfinished/episode-000001/episode/{failing}.mp4" for root, _ in roots]
        inject = f"inject=write,pwrite64:error={error}:when={when}+"  # counted for each thread, and so for each file
        done = subprocess.run(
            ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", *(f"-P{path}" for path in paths),
             "-e", "trace=write,pwrite64", "-e", inject, sys.executable, "-c", RECORDER, json.dumps(roots),
             json.dumps(PATHS)],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        for (root, _), line in zip(roots, done.stdout.splitlines(), strict=True):
            said, added, durable = json.loads(line)
            assert said == [name, "RecordingError"], f"write {when} of {failing}"
            check_left(Path(root), (1, max(durable.values())), lengths=(4,))
            rows = [row for row in RecordingLayout().frames(Path(root)).to_pylist() if row["episode_index"] == 1]
            shown = {camera: [row[f"{camera.replace('.', '_')}_frame"] for row in rows] for camera in CAMERAS}
            # It may have got its picture of the row that the failing one refused, too.
            assert shown[whole] == list(range(len(rows))), "the other camera has every frame"
            assert len(rows) in (added, added + 1)
            assert sum(number is not None for number in shown[failing]) >= durable[failing]


FILLING = """
import contextlib, json, subprocess, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[2])
from episode_samples import add, make
from promises import check_left
from lazyvid.errors import LazyVidError
disk = Path(sys.argv[1])
for size in json.loads(sys.argv[3]):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
    said, saved = "", 0
    recorder = make(disk / "run", g=2)
    try:
        while True:
            add(recorder, 8)
            recorder.save_episode()
            saved += 1
    except LazyVidError as error:
        said = type(error).__name__
    with contextlib.suppress(LazyVidError):
        recorder.finalize()
    recorder._lock.release()
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    print(json.dumps([size, saved, said]), flush=True)
    check_left(disk / "run", (saved, 0), lengths=[8] * (saved + 1))
    subprocess.run(["umount", disk], check=True)
"""


@pytest.mark.chaos
@counts(1, 8)
def test_a_disk_that_fills_up(count: int, tmp_path: Path, rng: random.Random) -> None:
    """Wherever a recorder is when the disk is full: it is named, and `recover` finishes what was acknowledged."""
    need_namespaces()
    sizes = [4 * rng.randrange(25, 150) for _ in range(count)]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FILLING, tmp_path, json.dumps(PATHS), json.dumps(sizes)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [size for size, _, _ in found] == sizes
    assert {said for _, _, said in found} == {"RecordingDiskFullError"}, found
    assert sum(saved for _, saved, _ in found) > 0
