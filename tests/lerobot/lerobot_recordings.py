"""What the tests record as LeRobot datasets: every frame shows its camera, episode and row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot_checker import problems
from lerobot_independent import CAMERAS

from lazyvid.lerobot import LeRobotDataset, LeRobotLayout
from lazyvid.recording import Recorder
from lazyvid.testing import painted_frame, read_frame_number

FRONT, WRIST = CAMERAS
WIDTH, HEIGHT = 96, 64
FEATURES: dict[str, dict[str, Any]] = {
    FRONT: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
    WRIST: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [6], "names": [f"j{k}" for k in range(6)]},
    "action": {"dtype": "float32", "shape": [6], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "grid": {"dtype": "float64", "shape": [2, 3], "names": None},
    "note": {"dtype": "string", "shape": [1], "names": None},
}
LENGTHS = (12, 9, 15, 4, 7)
TASKS = ("stack", "open", "stack", "pour", "open")
FAST: dict[str, Any] = {"vcodec": "h264", "preset": "ultrafast", "crf": 20, "on_full": "block"}


def number(episode: int, camera: str, frame: int) -> int:
    return 1000 * CAMERAS.index(camera) + 100 * episode + frame


def frame_of(episode: int, frame: int, *, seconds: float | None = None, task: str | None = None) -> dict[str, Any]:
    pictures = {camera: painted_frame(number(episode, camera, frame), width=WIDTH, height=HEIGHT) for camera in CAMERAS}
    return {
        **pictures,
        "observation.state": np.arange(6, dtype=np.float32) + frame,
        "action": np.full(6, episode + frame / 100, np.float32),
        "next.done": frame == LENGTHS[episode % 5] - 1,
        "grid": np.arange(6, dtype=np.float64).reshape(2, 3) * frame,
        "note": f"{episode}:{frame}",
        "task": task or TASKS[episode % 5],
        **({} if seconds is None else {"timestamp": seconds}),
    }


def add(recorder: Recorder, episode: int, count: int | None = None, **options: Any) -> None:
    for frame in range(LENGTHS[episode % 5] if count is None else count):
        recorder.add_frame(frame_of(episode, frame, **options))


def create(root: Path | str, layout: LeRobotLayout | None = None, **options: Any) -> Recorder:
    return Recorder.create(root, 30, FEATURES, layout=layout or LeRobotLayout(robot_type="toy"), **FAST | options)


def check(root: Path | str, lengths: Sequence[int], **options: Any) -> LeRobotDataset:
    """The dataset passes the independent check, and every frame shows its own number, in random order."""
    if isinstance(root, Path):
        assert problems(root) == []
    dataset = LeRobotDataset(root, return_uint8=True, **options)
    assert dataset.frame_counts.tolist() == list(lengths)
    for item in dataset.__getitems__(np.random.default_rng(0).permutation(len(dataset)).tolist()):
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        for camera in CAMERAS:
            assert read_frame_number(item[camera]) == number(episode, camera, frame)
        expected = frame_of(episode, frame)
        assert torch.equal(item["observation.state"], torch.from_numpy(expected["observation.state"]))
        assert torch.equal(item["grid"], torch.from_numpy(expected["grid"]).to(torch.float32))
        assert (bool(item["next.done"]), item["note"], item["task"]) == (
            expected["next.done"], expected["note"], expected["task"],
        )  # fmt: skip
    return dataset
