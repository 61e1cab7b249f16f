"""What is promised of a recording at a moment, and whether what was left of it then keeps that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from episode_samples import CAMERAS, check_row, check_video
from moments import Moment

from lazyvid.recording.layout import RecordingLayout
from lazyvid.recording.manifest import MANIFEST, read_manifest
from lazyvid.recording.recover import recover
from lazyvid.video import LazyVideo

T = TypeVar("T")
Promise = tuple[int, int]
"""Episodes that were acknowledged, and frames of each camera of the one behind them that are durable."""


def sample(moments: Sequence[T], most: int | None) -> list[T]:
    """So many of them, evenly spread, the last one among them; None takes all."""
    if most is None or most >= len(moments):
        return list(moments)
    return [moments[(k + 1) * len(moments) // most - 1] for k in range(most)]


def check_moment(
    moment: Moment[Promise], root: Path, *, lengths: Sequence[int], unreadable: float = 0.0, rows_lost: bool = False
) -> None:
    """What was promised is there, what is there is exact, and it can be recorded on.

    Args:
        moment: What lies in the recording's folder.
        root: Where to lay it down.
        lengths: Rows of each episode.
        unreadable: The share of frames that may be too coarse to be read.
        rows_lost: Whether rows of what was not acknowledged may be lost and their frames not: a loss of power may come
            between the fsyncs of their files.
    """
    moment.lay_down(root)
    try:
        check_left(root, moment.promise, lengths=lengths, unreadable=unreadable, rows_lost=rows_lost)
    except BaseException as error:
        error.add_note(f"left after: {moment.step}; promised: {moment.promise}")
        raise


def check_left(
    root: Path, promise: Promise, *, lengths: Sequence[int], unreadable: float = 0.0, rows_lost: bool = False
) -> None:
    """The same of what lies in a folder."""
    acknowledged, durable = promise
    if not (root / MANIFEST).exists():  # before the recording was there at all
        assert promise == (0, 0)
        return
    whole = read_manifest(root).total_episodes
    assert whole >= acknowledged - _waiting(root)
    for episode in range(whole):
        for camera in CAMERAS:
            LazyVideo(RecordingLayout().video_path(root, episode, camera), on_missing_index="raise")
    recover(root)
    total = read_manifest(root).total_episodes
    assert total >= acknowledged
    table = RecordingLayout().frames(root).to_pylist() if total else []
    assert {row["episode_index"] for row in table} == set(range(total))
    for episode in range(total):
        rows = [row for row in table if row["episode_index"] == episode]
        assert [row["frame_index"] for row in rows] == list(range(len(rows)))
        assert len(rows) >= (lengths[episode] if episode < acknowledged else durable)
        for row in rows:
            check_row(row)
        for camera in CAMERAS:
            path = RecordingLayout().video_path(root, episode, camera)
            if path.exists() or episode < acknowledged:
                video = LazyVideo(path, on_missing_index="raise")
                lost = rows_lost and episode >= acknowledged
                check_video(video, rows, camera, unreadable=unreadable, rows_lost=lost)
    assert total > acknowledged or durable == 0
    assert not (root / ".unfinished").exists()
    assert not recover(root).changed


def _waiting(root: Path) -> int:
    """Episodes that were saved and wait to be encoded."""
    return len(list((root / ".unfinished").glob("*"))) if (root / "images").exists() else 0
