"""torchcodec's own benchmarks, with torchcodec's own rule that opening the file is a part of every timing.

W1 10 frames evenly over the file, W2 10 random ones, W3 the first 1, 10 and 100, W4 20 videos by 10 threads as a loader
would (10 frames each, to 256x256), W5 the first frame, W6 torchcodec's clip samplers (over a decoder that is kept), W7
frames resized to a half, a quarter and an eighth. Described in torchcodec's folder `benchmarks/`.

    python scripts/bench/workloads.py --video a_real_video.mp4 --json bench-output/workloads.json
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import Spread, Timing, measure, ratios, show_table, write_json
from content import Content
from peers import PEERS, Peer, Size, installed
from rich.console import Console

from lazyvid import LazyVideo, build_index

OURS = "lazyvid"
RIVALS = ["torchcodec", "torchcodec-approximate", "decord2", "pyav"]
_THREADS, _VIDEOS = 10, 20
"""Of W4. torchcodec has 50 videos: of groups of 250 pictures, each contender decodes nearly every picture of each."""
Run = Callable[[str], object]
"""Does the work once with the contender of this name."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table."""

    name: str
    run: Run
    contenders: Sequence[str]


def _read(path: Path, numbers: Sequence[int], resize: Size | None, name: str) -> object:
    peer: type[Peer] = PEERS[name]
    return peer(path, resize).clip(numbers)


def _in_threads(path: Path, numbers: Sequence[int], name: str) -> object:
    with ThreadPoolExecutor(_THREADS) as executor:
        return list(executor.map(lambda _: _read(path, numbers, (256, 256), name), range(_VIDEOS)))


def _samplers(decoders: Mapping[str, Any], clips: int, name: str) -> object:
    samplers: Any = import_module("torchcodec.samplers")
    torch.manual_seed(0)
    decoder, span = decoders[name], {"num_frames_per_clip": 10}
    return [
        samplers.clips_at_random_indices(decoder, num_clips=clips, **span),
        samplers.clips_at_regular_indices(decoder, num_clips=clips, **span),
        samplers.clips_at_random_timestamps(decoder, num_clips=clips, **span),
    ]


def workloads(path: Path, frames: int, size: tuple[int, int], names: Sequence[str]) -> list[Workload]:
    """All of them, for one file."""
    uniform = [frames * k // 10 for k in range(10)]
    drawn = sorted(random.Random(0).sample(range(frames), 10))
    width, height = size
    reads: dict[str, tuple[Sequence[int], Size | None]] = {
        "W1 10 frames evenly": (uniform, None),
        "W2 10 random frames": (drawn, None),
        **{f"W3 first {count}": (range(count), None) for count in (1, 10, 100)},
        "W5 open, first frame": ([0], None),
        **{
            f"W7 5 % of the frames to 1/{part}": (range(0, frames, 20), (height // part, width // part))
            for part in (2, 4, 8)
        },
    }
    found = [Workload(name, partial(_read, path, numbers, to), names) for name, (numbers, to) in reads.items()]
    found.append(Workload(f"W4 {_VIDEOS} videos, {_THREADS} threads", partial(_in_threads, path, uniform), names))
    if "torchcodec" in names:
        open_torchcodec: Any = import_module("torchcodec.decoders").VideoDecoder
        decoders = {
            OURS: LazyVideo(path).as_torchcodec(),
            "torchcodec": open_torchcodec(str(path)),
            "torchcodec-approximate": open_torchcodec(str(path), seek_mode="approximate"),
        }
        both = [name for name in decoders if name in names]
        found += [Workload(f"W6 samplers, {n} clips", partial(_samplers, decoders, n), both) for n in (1, 50)]
    return sorted(found, key=lambda workload: workload.name)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one workload in one file."""

    encoding: str
    workload: str
    timings: dict[str, list[Timing]]

    def ms(self, name: str) -> Spread:
        """Milliseconds of processor time."""
        return Spread.of([1000 * timing.cpu for timing in self.timings[name]])

    def wall_ms(self, name: str) -> Spread:
        """Milliseconds of the clock."""
        return Spread.of([1000 * timing.wall for timing in self.timings[name]])


def table_cells(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells."""
    rivals = [name for name in names if name != OURS]
    heads = ["video", "workload", *(f"{name} ms (wall)" for name in names), *(f"{name} / {OURS}" for name in rivals)]
    cells = []
    for row in rows:
        line = [row.encoding, row.workload]
        for name in names:
            known = name in row.timings
            line.append(f"{row.ms(name).median:.1f} ({row.wall_ms(name).median:.1f})" if known else "")
        for name in rivals:
            known = name in row.timings
            line.append(f"{ratios(row.timings[name], row.timings[OURS]).median:.2f}" if known else "")
        cells.append(line)
    return heads, cells


def main(
    *,
    video: Annotated[Path | None, typer.Option(help="Real content; painted pictures without it.")] = None,
    encoding: Annotated[list[str] | None, typer.Option(help="Of content.py; may be repeated.")] = None,
    size: Annotated[tuple[int, int], typer.Option(help="Width and height of the videos.")] = (640, 360),
    frames: Annotated[int, typer.Option(help="Frames of each video.")] = 600,
    repeats: Annotated[int, typer.Option(help="Passes that count.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where the encoded videos are kept.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table for the README.")] = False,
) -> None:
    """Measure torchcodec's workloads."""
    console = Console(stderr=markdown, width=200)
    torch.set_num_threads(1)
    names = [OURS, *installed(RIVALS)]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in encoding or ["h264-gop30", "h264-gop250"]:
            path = Content(video, *size, frames).write(folder or Path(temporary), name)
            build_index(path).save(path)
            for workload in workloads(path, frames, size, names):
                console.print(f"{name}: {workload.name} ...")
                runs = {contender: partial(workload.run, contender) for contender in workload.contenders}
                rows.append(Row(name, workload.name, measure(runs, repeats=repeats)))
    show_table(console, *table_cells(rows, names), title="processor time, opening included", markdown=markdown)
    if json is not None:
        rivals = [name for name in names if name != OURS]
        write_json(
            json,
            {
                "ratios": {
                    f"{row.encoding}: {row.workload}: {name} / {OURS}": ratios(
                        row.timings[name], row.timings[OURS]
                    ).median
                    for row in rows
                    for name in rivals
                    if name in row.timings
                },
                "rows": rows,
            },
        )


if __name__ == "__main__":
    typer.run(main)
