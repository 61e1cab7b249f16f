"""A kill between any two writes of a LeRobot recording: what was saved opens at once; recovered, all is whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lerobot_checker import problems
from lerobot_independent import CAMERAS
from lerobot_recordings import FAST, add, check, create, number
from moments import Moment, Moments

from lazyvid.lerobot import LeRobotDataset, LeRobotLayout
from lazyvid.recording import Recorder, recover
from lazyvid.testing import read_frame_number

LENGTHS = (7, 5, 6)
CHAOS = [pytest.mark.slow, pytest.mark.chaos]
LAYOUT = LeRobotLayout(robot_type="toy")
Promise = tuple[int, int]
"""Episodes that were acknowledged, and frames of each camera of the one behind them that are durable."""


def recorded(root: Path, layout: LeRobotLayout, **options: Any) -> list[Moment[Promise]]:
    """Every state that a recording goes through, one that goes on with it included."""
    promise: Promise = (0, 0)
    moments = Moments(root, lambda: promise)
    with moments.watched():
        recorder = create(root, layout, g=4, **options)
        for episode, length in enumerate(LENGTHS[:2]):
            add(recorder, episode, length)
            promise = (episode, min(recorder.durable_frames.values(), default=0))
            recorder.save_episode()
            promise = (episode + 1, 0)
        recorder.finalize()
        with Recorder.resume(root, layout=layout, on_full="block") as recorder:
            add(recorder, 2, LENGTHS[2])
            promise = (2, min(recorder.durable_frames.values(), default=0))
            recorder.save_episode()
            promise = (3, 0)
    return list(moments)


WAYS: dict[str, tuple[LeRobotLayout, dict[str, Any]]] = {
    "appended": (LAYOUT, {}),
    "files of their own": (LeRobotLayout(rewrite_in_mb=0), {}),
    "with B-frames": (LAYOUT, {"preset": "medium"}),
    "images first": (LAYOUT, {"streaming_encoding": False}),
}


def sample(moments: Sequence[Moment[Promise]], most: int) -> list[Moment[Promise]]:
    """So many of them, evenly spread, the last one among them."""
    return [moments[(k + 1) * len(moments) // most - 1] for k in range(most)]


@pytest.mark.parametrize(("way", "most"), [("appended", 10), *(pytest.param(name, 60, marks=CHAOS) for name in WAYS)])
def test_a_kill_at_every_write(tmp_path: Path, way: str, most: int) -> None:
    layout, options = WAYS[way]
    moments = recorded(tmp_path / "run", layout, **FAST | options)
    assert len(moments) > 60
    for moment in sample(moments, most):
        try:
            check_moment(moment, tmp_path / "killed", layout)
        except BaseException as error:
            error.add_note(f"killed after: {moment.step}; promised: {moment.promise}")
            raise


def check_moment(moment: Moment[Promise], root: Path, layout: LeRobotLayout) -> None:
    """All saved episodes open as they lie there; recovered, the dataset is whole and can be recorded on."""
    acknowledged, durable = moment.promise
    moment.lay_down(root)
    if not (root / "meta/info.json").exists():  # before the dataset was there at all
        assert moment.promise == (0, 0)
        return
    before = check_frames(root)
    assert len(before) >= acknowledged
    recover(root, layout=layout)
    after = check_frames(root)
    assert after[: len(before)] == before
    assert before[:acknowledged] == list(LENGTHS[:acknowledged])
    assert len(after) > acknowledged or durable == 0
    assert all(length >= durable for length in after[acknowledged:])
    if after:
        assert problems(root) == []
    assert not recover(root, layout=layout).changed
    if len(after) == 2 and acknowledged == 2:
        with Recorder.resume(root, layout=layout, on_full="block") as recorder:
            add(recorder, 2, LENGTHS[2])
            recorder.save_episode()
        check(root, LENGTHS)


# -- a process that is killed ----------------------------------------------------------------------------------------

ROBOT = """
import sys
sys.path[:0] = [{here!r}]
from pathlib import Path
from lerobot_recordings import add, create
from lazyvid.lerobot import LeRobotLayout
from lazyvid.recording import Recorder
root, layout = Path({root!r}), LeRobotLayout(robot_type="toy")
is_new = not (root / "meta/info.json").exists()
recorder = create(root, layout, g=4) if is_new else Recorder.resume(root, layout=layout, on_full="block")
for episode in range({first}, 1000):
    add(recorder, episode, {length})
    recorder.save_episode()
    print(episode, flush=True)
"""


@pytest.mark.slow
@pytest.mark.chaos
def test_a_robot_that_is_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, again and again, of a process that records on: all that it said to be saved opens, frame for frame."""
    seed = int(os.environ.get("LAZYVID_CHAOS_SEED", "0"))
    times = max(3, round(12 * float(os.environ.get("LAZYVID_CHAOS_SCALE", "1"))))
    rng, root, length = random.Random(seed), tmp_path / "robot", 6
    first, saved = 0, 0
    for _ in range(times):
        acknowledged = _recorded_until_killed(root, first, length, rng, tmp_path / "said")
        saved += len(acknowledged)
        lengths = check_frames(root) if (root / "meta/info.json").exists() else []
        note = f"LAZYVID_CHAOS_SEED={seed}: began at {first}, said {acknowledged}, found {lengths}"
        assert len(lengths) >= first + len(acknowledged), note
        recover(root, layout=LAYOUT)
        recovered = check_frames(root)
        assert recovered[: len(lengths)] == lengths, note
        # What was being recorded may have lost its end, and keeps its number.
        assert all(found == length for found in recovered[first : first + len(acknowledged)]), note
        assert problems(root) == [], note
        assert not recover(root, layout=LAYOUT).changed, note
        first = len(recovered)
    assert saved > 0


def _recorded_until_killed(root: Path, first: int, length: int, rng: random.Random, said: Path) -> list[int]:
    """Record episodes from `first` on in a process of its own, and kill it; the episodes that it said to be saved."""
    here = str(Path(__file__).parent)
    script = ROBOT.format(here=here, root=str(root), first=first, length=length)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with said.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=out, env=environment)
    try:
        deadline = time.monotonic() + 240
        while not (root / "meta/info.json").exists() or (first and not said.read_text()):
            assert process.poll() is None, "the robot does not start"
            assert time.monotonic() < deadline, "the robot does not start"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return [int(line) for line in said.read_text().split()]


# -- what is there ----------------------------------------------------------------------------------------------------


def check_frames(root: Path) -> list[int]:
    """Every frame of every episode shows its own number; the episodes' lengths."""
    dataset = LeRobotDataset(root, return_uint8=True)
    for item in dataset.__getitems__(range(len(dataset))):
        place = int(item["episode_index"]), int(item["frame_index"])
        assert [read_frame_number(item[camera]) for camera in CAMERAS] == [
            number(place[0], c, place[1]) for c in CAMERAS
        ]
    return dataset.frame_counts.tolist()  # type: ignore[no-any-return]
