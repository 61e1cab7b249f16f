"""Writes the file table of lazyvid/README.md from the modules' own docstrings, so that each thing is said once.

python scripts/docs/file_table.py [--check]    (`make format` writes it, tests/test_architecture.py checks it)
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "lazyvid"
BEGIN, END = "<!-- files: written by `make format` from the docstrings -->\n", "<!-- end of files -->\n"
# In the order of the flows; what is not named here comes last.
ORDER = [
    *("errors", "arguments", "process_lock", "waiting", "lru", "memory", "out_of_memory", "timing", "stats", "frames"),
    *("storage", "index", "decoding", "clips", "video", "lookup", "training"),
    *("recording", "lerobot", "testing", "cli"),
]


def purpose(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def _place(path: Path) -> tuple[int, str, bool, str]:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    rank = -1 if room == "__init__" else ORDER.index(room) if room in ORDER else len(ORDER)
    return rank, room, path.name != "__init__.py", path.name


def table() -> str:
    """The table in Markdown: a bold row for each folder, a row for each file."""
    rows = ["| file | what it is for |", "|---|---|"]
    for path in sorted(PACKAGE.rglob("*.py"), key=_place):
        name = path.relative_to(PACKAGE).as_posix()
        if name != "__init__.py" and path.name == "__init__.py":
            rows.append(f"| **`{name.removesuffix('__init__.py')}`** | **{purpose(path)}** |")
        else:
            rows.append(f"| `{name}` | {purpose(path)} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Write the table, or with --check say whether it is as it should be."""
    readme = PACKAGE / "README.md"
    old = readme.read_text(encoding="utf-8")
    head, rest = old.split(BEGIN)
    new = head + BEGIN + table() + END + rest.split(END)[1]
    if "--check" in sys.argv[1:]:
        if new != old:
            print("The file table of lazyvid/README.md is not what the docstrings say: run `make format`.")
        return int(new != old)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
