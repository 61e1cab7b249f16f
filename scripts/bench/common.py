"""What every benchmark shares: the machine, alternating measurements, medians with their spread, and the JSON file.

A benchmark names its contenders, hands `measure` a function for each, and writes what comes back with `write_json`.
"""

from __future__ import annotations

import gc
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("lazyvid", "torch", "torchcodec", "av", "decord2", "spdl_io", "s3fs", "numpy")


@dataclass(frozen=True, slots=True)
class Timing:
    """One pass of one contender."""

    cpu: float
    """Seconds of processor time, of all threads of this process."""
    wall: float
    """Seconds of the clock."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of a list of figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one figure or more."""
        return cls(statistics.median(values), min(values), max(values))

    def __truediv__(self, amount: float) -> Spread:
        """The same in another unit."""
        return Spread(self.median / amount, self.low / amount, self.high / amount)


def show_table(
    console: Console, heads: Sequence[str], lines: Sequence[Sequence[str]], *, title: str, markdown: bool
) -> None:
    """Show figures on a terminal; with `markdown` print them as the README shows them, too."""
    table = Table(*heads, title=title)
    table.columns[0].no_wrap = True
    for line in lines:
        table.add_row(*line)
    console.print(table)
    if markdown:
        for line in (heads, ["---"] * len(heads), *lines):
            print("| " + " | ".join(line) + " |")


def one_thread(*, core: int | None = None) -> None:
    """Keep this process to one core and torch to one thread; where the system has no affinity, to one thread only."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})


def measure(
    contenders: Mapping[str, Callable[[], object]], *, repeats: int, warmups: int = 1
) -> dict[str, list[Timing]]:
    """Run all contenders in turns, so that a slow minute of the machine strikes all of them.

    Args:
        contenders: A function each; its result is dropped.
        repeats: Passes of each that count. Their order turns by one from pass to pass.
        warmups: Passes of each before, that do not count.

    Returns:
        The timings of each, in the order of the passes.
    """
    names = list(contenders)
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    for number in range(-warmups, repeats):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            timing = _timed(contenders[name])
            if number >= 0:
                timings[name].append(timing)
    return timings


def _timed(run: Callable[[], object]) -> Timing:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall = time.perf_counter() - wall
    _settle()
    return Timing(time.process_time() - cpu, wall)


def _settle(*, timeout: float = 30.0) -> None:
    """Wait until this process does nothing, so that a contender's threads do not work into the next one's time.

    decord decodes ahead after it has answered; that work counts as its own.
    """
    deadline = time.perf_counter() + timeout
    quiet = 0
    while quiet < 2 and time.perf_counter() < deadline:  # twice: on a loaded machine, what works may have to wait
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(0.03)
        quiet = quiet + 1 if time.process_time() - cpu < 0.05 * (time.perf_counter() - wall) else 0


def ratios(slower: Sequence[Timing], faster: Sequence[Timing]) -> Spread:
    """How many times the processor time of `faster` the other takes, pass by pass."""
    return Spread.of([one.cpu / other.cpu for one, other in zip(slower, faster, strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    """The mean for ratios."""
    return math.exp(statistics.fmean(map(math.log, values)))


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, Any]:
    """Versions of Python, of the packages measured, and of the FFmpeg inside PyAV."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "libavcodec": ".".join(map(str, av.library_versions["libavcodec"]))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write results with the machine and the versions that they came from; dataclasses become objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "versions": versions(), **results}
    path.write_text(json.dumps(document, indent=2, default=asdict) + "\n")
