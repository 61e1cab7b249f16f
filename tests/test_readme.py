"""What README.md promises: its Python runs in the order shown, its commands exist, its links lead somewhere.

All ```python blocks together are one program, run as a script in an empty folder that holds `video.mp4` and
`videos/*.mp4`. A block that cannot run here (it names someone's bucket, say) has `<!-- not run: the reason -->` on the
line above it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lazyvid.cli import app
from lazyvid.testing import VideoSpec, write_video

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
_NOT_RUN = re.compile(r"<!-- not run: .+ -->")


def code_blocks(text: str, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of one language as (line of the first code line, code), without those marked as not run."""
    blocks = []
    lines = text.splitlines()
    start = None
    for number, line in enumerate(lines, start=1):
        if start is None and line.strip() == f"```{language}":
            start = number + 1
        elif start is not None and line.strip() == "```":
            above = lines[start - 3] if start >= 3 else ""
            if not _NOT_RUN.fullmatch(above.strip()):
                blocks.append((start, "\n".join(lines[start - 1 : number - 1])))
            start = None
    return blocks


def as_script(blocks: list[tuple[int, str]]) -> str:
    """One program in which each line keeps its line number, so that a traceback points into README.md."""
    lines: list[str] = []
    for start, code in blocks:
        lines += [""] * (start - 1 - len(lines))
        lines += code.splitlines()
    return "\n".join(lines) + "\n"


def _run(arguments: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder as a user would, with this checkout's lazyvid."""
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL
    )


def _shell_lines() -> list[str]:
    code = "\n".join(block for _, block in code_blocks(README.read_text(encoding="utf-8"), "sh"))
    return [line.split("#")[0].strip() for line in code.splitlines() if line.split("#")[0].strip()]


def test_blocks_keep_their_line_numbers_and_their_marks() -> None:
    text = (
        "a\n\n```python\nx = 1\n```\n\n<!-- not run: no such bucket -->\n```python\nx = 2\n```\n```python\ny = x\n```\n"
    )
    blocks = code_blocks(text, "python")
    assert blocks == [(4, "x = 1"), (12, "y = x")]
    assert as_script(blocks).splitlines()[11] == "y = x"


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    blocks = code_blocks(README.read_text(encoding="utf-8"), "python")
    assert blocks, "README.md shows no Python that can be run"
    write_video(tmp_path / "video.mp4", VideoSpec(frames=90))
    (tmp_path / "videos").mkdir()
    for number in range(4):
        write_video(tmp_path / "videos" / f"{number}.mp4", VideoSpec(frames=60, first_number=100 * number))
    script = tmp_path / "README.md.py"
    script.write_text(as_script(blocks), encoding="utf-8")
    done = _run([script.name], cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {line.split()[1] for line in _shell_lines() if line.startswith("make ")}
    assert {"demo", "test"} <= used <= targets


def test_the_commands_of_the_readme_exist() -> None:
    used = {line.split()[1] for line in _shell_lines() if line.startswith("lazyvid ")}
    assert used
    for command in sorted(used):
        ended = CliRunner().invoke(app, [command, "--help"])
        assert ended.exit_code == 0, f"lazyvid {command}: {ended.output}"


def test_the_options_of_the_readme_exist() -> None:
    for line in _shell_lines():
        program, *words = shlex.split(line)
        options = {word for word in words if word.startswith("--")}
        if program == "lazyvid" and options:
            helped = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"}).output
            assert [option for option in sorted(options) if option not in helped] == [], line


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "lazyvid/README.md"])
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (ROOT / document).parent.joinpath(link).exists()] == []


def test_each_promise_names_tests_that_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    promises = re.split(
        r"^\d\. \*\*", text.partition("## What it promises")[2].partition("\n## ")[0], flags=re.MULTILINE
    )[1:]
    assert len(promises) == 8
    for promise in promises:
        named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", promise)
        assert named, promise
        for path, test in named:
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), (path, test)
