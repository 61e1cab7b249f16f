"""The notebooks run from top to bottom, and were committed as they run: with outputs, and none from somebody's disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
_CELL_DEADLINE_S = 290
_ABSOLUTE_PATH = re.compile(r"(?<![\w/:.<])/(?:[\w.@-]+/)+[\w.@-]+")


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebooks`")
    return nbformat.read(path, as_version=4)


def texts(notebook: Any) -> list[str]:
    """All that the cells of a notebook wrote, pictures apart."""
    found = []
    for output in (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        found.append(output.get("text", ""))
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
        found += output.get("traceback", [])
    return found


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


# The first one by default, to see that notebooks run at all; each of the others costs ten seconds.
RUN = [NOTEBOOKS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in NOTEBOOKS[1:])]


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebooks`")
    pytest.importorskip("ipykernel", reason="needs the extra `notebooks`")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=_CELL_DEADLINE_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises what a cell raises


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_committed_with_outputs_and_without_paths(path: Path) -> None:
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert [found for text in texts(notebook) for found in _ABSOLUTE_PATH.findall(text)] == []


def test_a_path_in_an_output_is_seen() -> None:
    assert _ABSOLUTE_PATH.findall("saved in /home/me/run.mp4, s3://bucket/a/b, 640/480") == ["/home/me/run.mp4"]
