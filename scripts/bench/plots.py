"""Draws the figures in the benchmarks' JSON files: decoding, a bucket far away, loaders, LeRobot datasets.

python scripts/bench/plots.py bench-output bench-output
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

Results = Mapping[str, Any]
OURS = "lazyvid"


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars: a group for each label, in it one for each name; None where a name has no figure."""

    title: str
    unit: str
    labels: Sequence[str]
    heights: Mapping[str, Sequence[float | None]]

    def draw(self, axes: Axes) -> None:
        """Onto axes that are empty."""
        thickness = 0.8 / len(self.heights)
        for place, (name, values) in enumerate(self.heights.items()):
            known = [(i + place * thickness, value) for i, value in enumerate(values) if value is not None]
            bars = axes.barh([where for where, _ in known], [value for _, value in known], thickness, label=name)
            axes.bar_label(bars, fmt="{:.3g}", fontsize=7, padding=2)
        middle = thickness * (len(self.heights) - 1) / 2
        axes.set_yticks([i + middle for i in range(len(self.labels))], self.labels)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_title(self.title)
        axes.set_xlabel(self.unit)


def decode_bars(results: Results) -> list[Bars]:
    """Processor time of the others by ours, shape by shape."""
    names = ("torchcodec", "decord2", "spdl", "pyav")
    by_name = results["ratios"]
    shapes = [shape["shape"]["name"] for shape in results["shapes"]]
    heights = {name: [by_name.get(f"{shape}: {name} / {OURS}") for shape in shapes] for name in names}
    measured = {name: values for name, values in heights.items() if any(values)}
    return [Bars("decoding, one thread", "processor time / lazyvid's; above 1 lazyvid is faster", shapes, measured)]


def remote_bars(results: Results) -> list[Bars]:
    """Clips a second by the delay of each request, a panel for each encoding."""
    found: dict[str, dict[tuple[str, float], float]] = {}
    for one in results["results"]:
        seconds = median(each["seconds"] / each["clips"] for each in one["passes"])
        found.setdefault(one["encoding"], {})[one["name"], one["delay_ms"]] = 1 / seconds
    panels = []
    for encoding, speeds in found.items():
        delays = sorted({delay for _, delay in speeds})
        heights = {name: [speeds.get((name, delay)) for delay in delays] for name, _ in speeds}
        panels.append(Bars(f"from S3, {encoding}", "clips/s", [f"{delay:g} ms" for delay in delays], heights))
    return panels


def loader_bars(results: Results) -> list[Bars]:
    """Frames a second of loaders, setting by setting."""
    speeds: dict[tuple[str, str], float] = {}
    for one in results["results"]:
        label = ", ".join(f"{key} {value}" for key, value in one["setting"].items())
        speeds[one["contender"], label] = median(each["frames_per_s"] for each in one["passes"])
    names, labels = (list(dict.fromkeys(key[i] for key in speeds)) for i in (0, 1))
    heights = {name: [speeds.get((name, label)) for label in labels] for name in names}
    return [Bars("loaders with worker processes", "frames/s", labels, heights)]


def lerobot_bars(results: Results) -> list[Bars]:
    """Items a second of LeRobot datasets, and how processes grow with the files that they read from."""
    labels = [f"{one['place']}, {one['shape']['files']} files a camera" for one in results["results"]]
    heights = {name: [one[name]["median"] for one in results["results"]] for name in (OURS, "torchcodec")}
    panels = [Bars("LeRobot datasets", "items/s", labels, heights)]
    if results["memory"]:
        counts = list(results["memory"][OURS]["mib"])
        grown = {name: list(one["mib"].values()) for name, one in results["memory"].items()}
        panels.append(Bars("memory of a process", "MiB more", [f"{count} video files" for count in counts], grown))
    return panels


PLOTS: Mapping[str, Callable[[Results], list[Bars]]] = MappingProxyType(
    {"decode": decode_bars, "remote": remote_bars, "loader": loader_bars, "lerobot": lerobot_bars}
)


def plot(panels: Sequence[Bars], path: Path) -> None:
    """Draw panels side by side into a PNG."""
    mpl.use("Agg")
    rows = max(len(panel.labels) * len(panel.heights) for panel in panels)
    figure = Figure(figsize=(8 * len(panels), 0.2 * rows + 1.5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel.draw(axes)
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(
    figures: Annotated[Path, typer.Argument(help="The folder of the JSON files.")],
    out: Annotated[Path, typer.Argument(help="The folder of the PNGs.")],
) -> None:
    """Draw what has been measured."""
    console = Console()
    for name, panels in PLOTS.items():
        path = figures / f"{name}.json"
        if path.exists():
            plot(panels(json.loads(path.read_text())), out / f"{name}.png")
            console.print(out / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
