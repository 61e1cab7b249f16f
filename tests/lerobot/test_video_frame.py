"""A column of `VideoFrame` goes through Hugging Face `datasets` unharmed, also in a process that lacks that package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = [{"path": "videos/front/file-000.mp4", "timestamp": k / 32} for k in range(4)]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "experimental" not in done.stderr
    return done.stdout.strip()


def test_a_table_with_such_a_column_keeps_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `datasets`")
    from lazyvid.lerobot import VideoFrame

    features = datasets.Features({"front": VideoFrame()})
    table = datasets.Dataset.from_dict({"front": ROWS}, features=features)
    table.to_parquet(str(tmp_path / "t.parquet"))
    stored = pq.read_table(tmp_path / "t.parquet")
    assert stored.schema.field("front").type == pa.struct({"path": pa.string(), "timestamp": pa.float32()})
    again = datasets.Dataset.from_parquet(str(tmp_path / "t.parquet"), cache_dir=str(tmp_path / "cache"))
    assert again.features == features
    assert again[:]["front"] == ROWS
    assert datasets.Features.from_dict(features.to_dict()) == features


@pytest.mark.parametrize("order", ["import datasets; ", ""])
def test_the_name_is_known_once_it_is_imported(order: str) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    names = "from datasets.features.features import _FEATURE_TYPES as types; print(types['VideoFrame'].__module__)"
    assert run(f"{order}from lazyvid.lerobot import VideoFrame; {names}") == "lazyvid.lerobot.video_frame"


def test_without_that_package_nothing_is_missed() -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'datasets' else find(name, *a)\n"
        "import lazyvid.lerobot; first = 'lazyvid.lerobot.video_frame' in sys.modules\n"
        "from lazyvid.lerobot import VideoFrame; print(first, VideoFrame()(), 'datasets' in sys.modules)"
    )
    assert run(code) == "False struct<path: string, timestamp: float> False"
