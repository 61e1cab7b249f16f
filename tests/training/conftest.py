"""Recordings for the tests of training: the number that a frame shows says its video and its place there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_samples import COUNTS, PER_VIDEO, blank

from lazyvid.recording import VideoWriter
from lazyvid.testing import painted_frame


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos with their sidecars; frame k of video v shows v * 1000 + k."""
    root = tmp_path_factory.mktemp("training")
    for video, count in enumerate(COUNTS):
        with VideoWriter(root / f"{video}.mp4", 30, preset="veryfast", g=10) as writer:
            for k in range(count):
                writer.add_frame(painted_frame(video * PER_VIDEO + k, width=96, height=64))
    return root


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """The folder, with the payload of the first video overwritten after it was indexed."""
    root = tmp_path / "broken"
    shutil.copytree(folder, root, copy_function=shutil.copy2)
    blank(root / "0.mp4")
    return root
