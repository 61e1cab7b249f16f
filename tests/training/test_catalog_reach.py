"""Ten thousand videos in a catalog: what opening them, sending them and going through them may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "catalog.py"
DEADLINE_S = 1800.0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_ten_thousand_videos(tmp_path: Path, method: str) -> None:
    out = tmp_path / "catalog.json"
    subprocess.run(
        [sys.executable, str(SCRIPT), "--videos", "10000", "--method", method, "--json", str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    results = json.loads(out.read_text())
    small, *_, large = results["catalogs"]
    assert (small["videos"], large["videos"]) == (100, 10_000)
    # A thousandfold slower machine would still open it in a second.
    assert large["ms_to_make_a_dataset"]["low"] < 1000
    assert large["pickled_catalog_bytes"] < 1024
    assert large["pickled_dataset_bytes"] < 1_000_000
    assert large["us_to_look_a_video_up"]["low"] < 5 * small["us_to_look_a_video_up"]["high"]
    assert len(results["memory"]["grown"]) == 3
    assert all(epoch["resident_mb"] < 50 for epoch in results["memory"]["grown"])
