"""Workers of every start method, Lance used or not in the parent, a folder and S3: no hang, nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server

PROGRAM = """
import gc, json, multiprocessing, os, sys, time
from pathlib import Path

from lazyvid import ClipSpec
from lazyvid.testing import read_frame_number
from lazyvid.training import ClipDataset, ClipLoader, RandomClipSampler


def main(order):
    pids = {os.getpid()}
    options = order["options"]
    dataset = ClipDataset(order["videos"], ClipSpec(4), storage_options=options)
    assert order["lance"] == ("lance" in sys.modules), "sidecars are read with Lance, headers are not"
    for run in range(order["runs"]):
        sampler = RandomClipSampler(dataset, seed=run)
        loader = ClipLoader(
            dataset,
            sampler=sampler,
            batch_size=3,
            num_workers=2,
            multiprocessing_context=order["context"],
            persistent_workers=order["persistent"],
            timeout_s=120.0,
        )
        for epoch in range(2):
            for batch in loader:
                pids |= {child.pid for child in multiprocessing.active_children()}
                for video, frames, rows in zip(batch["video_id"], batch["frames"], batch["frame_indices"], strict=True):
                    shown = [read_frame_number(frame) for frame in frames]
                    assert shown == [int(video) * 1000 + int(row) for row in rows]
        loader.close()
    del loader
    gc.collect()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
    # torch names its segments after the process that made them.
    assert not [name for name in os.listdir("/dev/shm") for pid in pids if name.startswith(f"torch_{pid}_")]
    print("done")


if __name__ == "__main__":
    order = json.loads(Path(sys.argv[1]).read_text())
    main(order)
"""

MATRIX = [
    (context, persistent, place)
    for context in ("fork", "forkserver", "spawn")
    for persistent in (True, False)
    for place in ("folder", "s3")
]


@pytest.mark.slow
@pytest.mark.parametrize(("context", "persistent", "place"), MATRIX)
@pytest.mark.parametrize("lance", [True, False], ids=["lance", "no-lance"])
def test_workers_of_every_kind(
    folder: Path,
    s3_server: S3Server,
    s3_prefix: str,
    tmp_path: Path,
    context: str,
    persistent: bool,
    place: str,
    lance: bool,
) -> None:
    # Without sidecars indexes are built from the files' headers.
    files = [path for path in folder.rglob("*") if path.is_file() and (lance or path.suffix == ".mp4")]
    videos, options = (str(tmp_path), None) if place == "folder" else (s3_prefix, s3_server.storage_options)
    store = ObjectStore(storage_options=options)
    for path in files:
        store.upload(path, f"{videos}/{path.relative_to(folder)}")
    order = {
        "videos": videos,
        "options": options,
        "context": context,
        "persistent": persistent,
        "lance": lance,
        "runs": 20 if lance and context == "fork" else 5,
    }
    (tmp_path / "order.json").write_text(json.dumps(order))
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "order.json")],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
