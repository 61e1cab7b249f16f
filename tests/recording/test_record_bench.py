"""The benchmark of recording runs, finds every frame, and writes its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_records_and_compares(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    lengths = ["--seconds", "1", "--saved-seconds", "0.5", "--svt-seconds", "0.5", "--slow-seconds", "0"]
    lengths += ["--cost-frames", "5", "--repeats", "1"]
    script = str(_ROOT / "scripts" / "bench" / "record.py")
    subprocess.run(
        [sys.executable, script, *lengths, "--json", str(tmp_path / "figures.json")],
        check=True,
        capture_output=True,
        timeout=280,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    h264, svt = figures["recorded"]
    assert (h264["fed"], svt["fed"]) == (120, 60)
    for recorded in (h264, svt):
        assert recorded["adds_up"]
        assert recorded["fed"] == recorded["in_files"] + recorded["dropped"]
    assert (figures["saved"]["rows"], figures["saved"]["adds_up"]) == (15, True)
    assert figures["cost"]["ratio"]["median"] > 0
