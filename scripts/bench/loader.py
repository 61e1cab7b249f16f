#!/usr/bin/env python
"""Batches a second from loaders with workers, ours beside a torchcodec dataset written as its documentation says.

Both replay one recorded list of clips in the same batches; a share of the frames is compared before anything is timed.

    python scripts/bench/loader.py                        # 2 workers, 8 clips of 16 frames at 224x224 a batch
    python scripts/bench/loader.py --workers 1 --workers 2 --context fork --store s3 --delay-ms 20
    python scripts/bench/loader.py --json bench-output/loader.json
"""

from __future__ import annotations

import itertools
import json as json_module
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import Spread, show_table, write_json
from content import Content
from loader_contenders import CONTENDERS, Clips, Contender, Pass, Place
from rich.console import Console

from lazyvid import ObjectStore, build_index
from lazyvid.testing import CountingProxy, S3Server

OURS = "lazyvid"
THEIRS = "torchcodec"
_MOST_DIFFERENT = 2.0
"""Levels by which resized pixels may differ in the mean: torchcodec resizes RGB in a second pass."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to load."""

    workers: int
    context: str
    batch_size: int
    store: str
    cache: str

    @property
    def name(self) -> str:
        """For tables and plots."""
        return f"{self.store}, {self.workers} {self.context}, batch {self.batch_size}, {self.cache}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a contender reached in a setting."""

    setting: Setting
    contender: str
    passes: list[Pass]

    def of(self, name: str) -> Spread:
        """The spread of one figure of its passes."""
        return Spread.of([getattr(one, name) for one in self.passes])


def recorded_clips(videos: int, frames: int, *, length: int, count: int, seed: int) -> list[tuple[int, int]]:
    """(video, first frame) of each clip, in the order in which all contenders load them."""
    rng = np.random.default_rng(seed)
    starts = np.column_stack([rng.integers(videos, size=count), rng.integers(frames - length, size=count)])
    return [(int(video), int(start)) for video, start in starts]


@contextmanager
def places(paths: Sequence[Path], *, store: str, delay_ms: float) -> Iterator[Place]:
    """The videos with their sidecars in a folder, or in a bucket behind a proxy that adds a delay to each request."""
    if store == "folder":
        for path in paths:
            build_index(path).save(str(path))
        yield Place([str(path) for path in paths], None)
        return
    with ExitStack() as stack:
        server = stack.enter_context(S3Server())
        proxy = stack.enter_context(CountingProxy(server.endpoint_url, delay_s=delay_ms / 1000))
        direct = ObjectStore(storage_options=server.storage_options)
        uris = [server.url(f"bench/{path.name}") for path in paths]
        for path, uri in zip(paths, uris, strict=True):
            direct.upload(path, uri)
            build_index(uri, store=direct).save(uri, store=direct)
        yield Place(uris, proxy.storage_options_for(server))


def compare(clips: Clips, setting: Setting) -> float:
    """The mean difference in levels between the contenders' first batches.

    Raises:
        RuntimeError: if times differ, or pixels by more than a second pass of resizing explains.
    """
    first = Clips(clips.place, clips.starts[: 2 * setting.batch_size], clips.length, clips.resize)
    how = (setting.batch_size, 0, setting.context, setting.cache)
    ours, theirs = (list(CONTENDERS[name](first, *how).batches()) for name in (OURS, THEIRS))
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if not np.allclose(one["timestamps"], other["timestamps"], atol=1e-6):
            raise RuntimeError("The contenders do not load the same frames.")
        worst = max(worst, float((one["frames"].float() - other["frames"].float()).abs().mean()))
    if worst > (_MOST_DIFFERENT if clips.resize else 0.0):
        raise RuntimeError(f"The contenders' pixels differ by {worst:.2f} levels in the mean.")
    return worst


def run(clips: Clips, setting: Setting, contenders: Sequence[str], repeats: int) -> list[Result]:
    """Measure all contenders in turns, each pass in a fresh process so that memory is its own."""
    passes: dict[str, list[Pass]] = {name: [] for name in contenders}
    for number in range(repeats):
        turn = number % len(contenders)
        for name in [*contenders[turn:], *contenders[:turn]]:
            passes[name].append(_in_process(clips, setting, name))
    return [Result(setting, name, found) for name, found in passes.items()]


def _in_process(clips: Clips, setting: Setting, name: str) -> Pass:
    order = json_module.dumps({"clips": asdict(clips), "setting": asdict(setting), "contender": name})
    done = subprocess.run([sys.executable, __file__, "--one"], input=order, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed in {setting.name}:\n{done.stderr}")
    return Pass(**json_module.loads(done.stdout.splitlines()[-1]))


def one_pass(order: dict[str, Any]) -> Pass:
    """What a fresh process does: load all clips twice, the first pass to warm up, and measure the second."""
    setting = Setting(**order["setting"])
    clips = Clips(**{**order["clips"], "place": Place(**order["clips"]["place"])})
    make = CONTENDERS[order["contender"]]
    contender: Contender = make(clips, setting.batch_size, setting.workers, setting.context, setting.cache)
    return contender.measured()


# -- what is shown ----------------------------------------------------------------------------------------------------

_COLUMNS = (
    ("clips/s", "clips_per_s", "{:.1f}"),
    ("frames/s", "frames_per_s", "{:.0f}"),
    ("CPU ms a clip", "cpu_ms_per_clip", "{:.1f}"),
    ("first batch s", "first_batch_s", "{:.2f}"),
    ("RSS MB a worker", "rss_mb_per_worker", "{:.0f}"),
    ("bytes a frame", "bytes_per_frame", "{:.0f}"),
)


def table_rows(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells; the last column compares with the other contender of the same setting."""
    heads = ["setting", "loader", *(head for head, _, _ in _COLUMNS), "times theirs"]
    cells = []
    for result in results:
        line = [result.setting.name, result.contender]
        line += [text.format(result.of(name).median) for _, name, text in _COLUMNS]
        spread = times_theirs(results).get(result.setting.name) if result.contender == OURS else None
        cells.append([*line, "" if spread is None else f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"])
    return heads, cells


def times_theirs(results: Sequence[Result]) -> dict[str, Spread]:
    """How many times the clips a second of theirs ours gives, by the name of the setting, pass by pass."""
    passes = {(result.setting.name, result.contender): result.passes for result in results}
    return {
        name: Spread.of([one.clips_per_s / other.clips_per_s for one, other in zip(ours, theirs, strict=True)])
        for (name, contender), ours in passes.items()
        if contender == OURS and (theirs := passes.get((name, THEIRS)))
    }


def main(
    *,
    workers: Annotated[list[int] | None, typer.Option(help="Worker processes; may be repeated. Default 2.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="Start methods. Default forkserver.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Clips a batch. Default 8.")] = None,
    store: Annotated[list[str] | None, typer.Option(help="folder, s3. Default folder.")] = None,
    cache: Annotated[list[str] | None, typer.Option(help="ranges, file. Default ranges.")] = None,
    delay_ms: Annotated[float, typer.Option(help="Added to each request to the bucket.")] = 0.0,
    video: Annotated[Path | None, typer.Option(help="Real content; painted pictures without it.")] = None,
    videos: Annotated[int, typer.Option(help="Files.")] = 8,
    frames: Annotated[int, typer.Option(help="Frames of each file.")] = 300,
    clips: Annotated[int, typer.Option(help="Clips of a pass.")] = 128,
    length: Annotated[int, typer.Option(help="Frames of a clip.")] = 16,
    resize: Annotated[tuple[int, int], typer.Option(help="Height and width; 0 0 keeps the size.")] = (224, 224),
    encoding: Annotated[str, typer.Option(help="As scripts/bench/content.py names them.")] = "h264-gop30",
    repeats: Annotated[int, typer.Option(help="Passes that count, of each contender.")] = 5,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table for the README.")] = False,
    one: Annotated[bool, typer.Option("--one", hidden=True)] = False,
) -> None:
    """Measure loaders with worker processes."""
    if one:
        print(json_module.dumps(asdict(one_pass(json_module.load(sys.stdin)))))
        return
    console = Console(stderr=markdown)
    console.width = console.width if console.is_terminal else 170
    size = None if resize == (0, 0) else resize
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Content(video, frames=frames).write(Path(folder) / "source", encoding)
        paths = [Path(folder) / f"{number:02d}.mp4" for number in range(videos)]
        for path in paths:
            path.write_bytes(source.read_bytes())
        starts = recorded_clips(videos, frames, length=length, count=clips, seed=0)
        for where in store or ["folder"]:
            with places(paths, store=where, delay_ms=delay_ms) as place:
                ways = itertools.product(
                    workers or [2], context or ["forkserver"], batch or [8], [where], cache or ["ranges"]
                )
                for setting in itertools.starmap(Setting, ways):
                    console.print(f"{setting.name} ...")
                    order = Clips(place, starts, length, size)
                    compare(order, setting)
                    results += run(order, setting, list(CONTENDERS), repeats)
    title = f"{length} frames a clip, median of {repeats} passes of {clips} clips"
    show_table(console, *table_rows(results), title=title, markdown=markdown)
    if json is not None:
        faster = {f"{name}: clips/s / {THEIRS}": spread.median for name, spread in times_theirs(results).items()}
        write_json(json, {"delay_ms": delay_ms, "clips": clips, "length": length, "ratios": faster, "results": results})


if __name__ == "__main__":
    typer.run(main)
