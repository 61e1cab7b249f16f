"""Did something get slower? A new result of a benchmark against an older one, by ratios: they travel, times do not.

    python scripts/bench/decode.py --json bench-output/decode.json
    python scripts/bench/compare.py bench-output/decode.json before/decode.json

Ends with 1 when a ratio is worse than before by more than the tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio then and now; higher is better."""

    name: str
    then: float
    now: float

    def is_worse(self, tolerance: float) -> bool:
        """Whether it fell by more than this share."""
        return self.now < self.then * (1 - tolerance)


def changes(then: Mapping[str, float], now: Mapping[str, float]) -> list[Change]:
    """The ratios that both have, the most fallen first."""
    found = [Change(name, then[name], now[name]) for name in then if name in now]
    return sorted(found, key=lambda change: change.now / change.then)


def ratios_of(path: Path) -> dict[str, float]:
    """The ratios in a benchmark's file.

    Raises:
        typer.BadParameter: if there are none.
    """
    found = json.loads(path.read_text()).get("ratios")
    if not isinstance(found, dict) or not found:
        raise typer.BadParameter(f"{path} has no ratios: expected a file that a benchmark wrote with --json.")
    return {str(name): float(value) for name, value in found.items()}


def main(
    new: Annotated[Path, typer.Argument(help="What was just measured.")],
    old: Annotated[Path, typer.Argument(help="What it is held against.")],
    *,
    tolerance: Annotated[float, typer.Option(help="The share by which a ratio may fall.")] = 0.08,
) -> None:
    """Say what got slower."""
    console = Console(width=140)
    then, now = ratios_of(old), ratios_of(new)
    found = changes(then, now)
    if not found:
        raise typer.BadParameter(f"{new} and {old} have no ratio in common.")
    table = Table("ratio (higher is better)", "then", "now", "")
    for change in found:
        mark = "worse" if change.is_worse(tolerance) else ""
        table.add_row(change.name, f"{change.then:.2f}", f"{change.now:.2f}", mark)
    console.print(table)
    gone = sorted(then.keys() - now.keys())
    if gone:
        console.print(f"Not measured now: {', '.join(gone)}")
    worse = [change for change in found if change.is_worse(tolerance)]
    console.print(f"{len(worse)} of {len(found)} ratios fell by more than {tolerance:.0%}.")
    raise typer.Exit(1 if worse else 0)


if __name__ == "__main__":
    typer.run(main)
