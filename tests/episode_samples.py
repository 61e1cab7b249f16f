"""A small robot: two cameras whose frames prove their number, a few numbers, and a recorder of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lazyvid.recording.layout import RecordingLayout
from lazyvid.recording.recorder import Recorder
from lazyvid.testing import painted_frame, read_frame_number
from lazyvid.video import LazyVideo

WIDTH, HEIGHT = 96, 64
TOP, WRIST = "observation.images.top", "wrist"
CAMERAS = (TOP, WRIST)
FEATURES: dict[str, dict[str, Any]] = {
    TOP: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
    WRIST: {"dtype": "video", "shape": [3, HEIGHT, WIDTH], "names": ["channels", "height", "width"]},
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "grip"]},
    "reward": {"dtype": "float64", "shape": [1], "names": None},
    "note": {"dtype": "string", "shape": [1], "names": None},
}
FAST: dict[str, Any] = {"vcodec": "h264", "preset": "ultrafast", "g": 8, "on_full": "block"}


def number(episode: int, row: int, camera: str) -> int:
    """The number painted on a picture: no other picture of a test has it."""
    return episode * 1000 + row * 2 + CAMERAS.index(camera)


def seconds(episode: int, row: int, camera: str) -> float:
    """Irregular capture times on a wall clock; the second camera is a little earlier."""
    jitter = ((row * 7919) % 13) / 1000
    return 1_700_000_000.25 + 60 * episode + row / 30 + jitter - 0.0031 * CAMERAS.index(camera)


def state(episode: int, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([row, episode, row / 7], np.float32)


def frame(episode: int, row: int, *, times: bool = True) -> dict[str, Any]:
    made: dict[str, Any] = {
        TOP: painted_frame(number(episode, row, TOP), width=WIDTH, height=HEIGHT),
        WRIST: painted_frame(number(episode, row, WRIST), width=WIDTH, height=HEIGHT).transpose(2, 0, 1),
        "observation.state": state(episode, row),
        "reward": row / 3,
        "note": f"row {row}",
        "task": "pick" if row % 2 else "place",
    }
    return made | ({"timestamp": {camera: seconds(episode, row, camera) for camera in CAMERAS}} if times else {})


def make(root: str | Path, **options: Any) -> Recorder:
    return Recorder.create(root, 30, FEATURES, **FAST | options)


def add(recorder: Recorder, rows: int, *, times: bool = True) -> None:
    """A whole episode's frames; its number is the recorder's next."""
    episode = recorder.meta.total_episodes
    for row in range(rows):
        recorder.add_frame(frame(episode, row, times=times))


def record(root: str | Path, lengths: list[int], *, times: bool = True, **options: Any) -> Recorder:
    with make(root, **options) as recorder:
        for length in lengths:
            add(recorder, length, times=times)
            recorder.save_episode()
    return recorder


def check(
    root: Path, lengths: list[int], *, times: bool = True, video: Callable[[str], LazyVideo] | None = None
) -> None:
    """Every row and every frame of a recording is what was recorded, under its own time."""
    table = RecordingLayout().frames(root).to_pylist()
    episodes = RecordingLayout().episodes(root).to_pylist()
    assert [(row["episode_index"], row["frame_index"]) for row in table] == [
        (episode, row) for episode, length in enumerate(lengths) for row in range(length)
    ]
    assert [episode["length"] for episode in episodes] == lengths
    for row in table:
        check_row(row, times=times)
    for episode in range(len(lengths)):
        for camera in CAMERAS:
            path = f"videos/{camera}/episode-{episode:06d}.mp4"
            rows = [row for row in table if row["episode_index"] == episode]
            check_video(
                LazyVideo(root / path, on_missing_index="raise") if video is None else video(path), rows, camera
            )


def check_row(row: dict[str, Any], *, times: bool = True) -> None:
    """The numbers of a row are those that were recorded."""
    episode, k = row["episode_index"], row["frame_index"]
    assert row["observation_state"] == state(episode, k).tolist()
    assert (row["reward"], row["note"], row["task"]) == (k / 3, f"row {k}", "pick" if k % 2 else "place")
    assert row["timestamp"] == (seconds(episode, k, WRIST) if times else k / 30)
    for camera in CAMERAS:
        name = camera.replace(".", "_")
        if row[f"{name}_frame"] is not None:
            assert row[f"{name}_timestamp"] == (seconds(episode, k, camera) if times else k / 30)


def check_video(
    video: LazyVideo, rows: list[dict[str, Any]], camera: str, *, unreadable: float = 0.0, rows_lost: bool = False
) -> None:
    """Every row that says it has a frame has its own one, at its time; a share of them may be too coarse to read.

    Where rows may be lost, frames without one may follow.
    """
    name = camera.replace(".", "_")
    shown = [row for row in rows if row[f"{name}_frame"] is not None]
    count = len(shown) if rows_lost else len(video)
    assert len(video) >= count
    assert [row[f"{name}_frame"] for row in shown] == list(range(count))
    if not shown:
        return
    clip = video.get_frames_at(list(range(count)))
    expected = [number(row["episode_index"], row["frame_index"], camera) for row in shown]
    found = [_read(picture) for picture in clip.frames] if unreadable else list(map(read_frame_number, clip.frames))
    assert [one for one, wanted in zip(found, expected, strict=True) if one not in (wanted, None)] == []
    assert found.count(None) <= unreadable * len(found)
    assert clip.timestamps.tolist() == [row[f"{name}_timestamp"] for row in shown]


def _read(picture: Any) -> int | None:
    try:
        return read_frame_number(picture)
    except ValueError:
        return None
