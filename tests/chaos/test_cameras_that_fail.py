"""Cameras that misbehave, disks that fail and power that goes: what a recorder acknowledged is there, and right."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sizes import counts

from lazyvid import LazyVideo
from lazyvid.errors import CameraFormatChangedError
from lazyvid.index import build_index
from lazyvid.recording.encoder import StreamingVideoEncoder
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


@counts(1, 6)
def test_a_loss_of_power_leaves_what_was_durable_at_the_last_sync(
    count: int, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not synced is dropped: each synced state holds at least the frames that were durable before the sync."""
    for episode in range(count):
        synced: list[tuple[int, Path]] = []
        encoder = encoder_of(g=rng.choice([1, 2, 5, 12]), durable_s=0.02)
        real = os.fsync

        def noting(
            descriptor: int, real: Any = real, encoder: Any = encoder, synced: Any = synced, episode: int = episode
        ) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            durable = encoder.durable_frames.get("cam", 0) if path.suffix == ".mp4" else -1
            real(descriptor)
            if durable >= 0:
                # Copied after the sync: bytes may have come since, but none that the sync did not have may be needed.
                state = tmp_path / f"state-{episode}-{len(synced)}.mp4"
                shutil.copyfile(path, state)
                synced.append((durable, state))

        monkeypatch.setattr(os, "fsync", noting)
        encoder.start_episode(["cam"], tmp_path / str(episode))
        for k in range(80):
            encoder.feed_frame("cam", picture(k), k / 30)
        encoder.finish_episode()
        encoder.close()
        monkeypatch.setattr(os, "fsync", real)
        assert synced
        for durable, state in synced:
            if durable:
                numbers, _ = contents(state)
                assert numbers == list(range(len(numbers)))
                assert len(numbers) >= durable


# -- disks ------------------------------------------------------------------------------------------------------------

WRITER = """
import json, sys
from pathlib import Path
from lazyvid.errors import LazyVidError
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.testing import painted_frame
encoder = StreamingVideoEncoder(30, "h264", preset="ultrafast", crf=5, g=4, on_full="block")
encoder.start_episode(["cam"], sys.argv[1])
camera = encoder._lanes["cam"].thread  # its file goes where strace looks
camera.video_path = Path(sys.argv[2])
camera._growing._path = sys.argv[2]
said = []
for k in range(200):
    try:
        encoder.feed_frame("cam", painted_frame(k, width=96, height=64))
    except LazyVidError as error:
        said.append(type(error).__name__)
        break
durable = encoder.durable_frames["cam"]
try:
    encoder.finish_episode()
except LazyVidError as error:
    said.append(type(error).__name__)
print(json.dumps([said, durable]))
"""


def _can_inject() -> bool:
    tracing = ["strace", "-qq", "-e", "trace=none", "-e", "inject=getpriority:error=EIO", "true"]
    return (
        shutil.which("strace") is not None and not subprocess.run(tracing, check=False, capture_output=True).returncode
    )


@pytest.mark.chaos
@counts(1, 8)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_disk_that_fails_in_mid_episode(error: str, count: int, tmp_path: Path, rng: random.Random) -> None:
    """From some write on, each fails: it is said by name, and what was durable is there."""
    if not _can_inject():
        pytest.skip("needs strace, and the right to trace")
    for turn in range(count):
        folder = tmp_path / f"{error}{turn}"
        folder.mkdir()
        when = rng.randrange(8, 50)  # of the 52 writes that the file takes
        inject = f"inject=write,pwrite64:error={error}:when={when}+"
        # Only what goes to the file: strace follows its path, which is known before it is there.
        (folder / "episode").mkdir()
        target = folder / "cam.mp4"
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(target), "-e", inject, sys.executable, "-c", WRITER,
             str(folder / "episode"), str(target)],
            capture_output=True, text=True, timeout=240, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        said, durable = json.loads(done.stdout)
        if error == "ENOSPC":
            assert set(said) <= {"RecordingDiskFullError"}
        assert said, "the failure was noticed"
        if durable:
            numbers, _ = contents(target)
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= durable
