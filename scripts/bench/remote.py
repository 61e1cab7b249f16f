"""Clips from a bucket that is some milliseconds away: lazyvid against torchcodec, PyAV and downloads, over s3fs.

The S3 server is a real one on this machine; a proxy before it delays each request and counts requests and bytes. Every
contender runs in a process of its own, one after the other; clips are compared before anything is timed.

    python scripts/bench/remote.py --video a_real_video.mp4 --json bench-output/remote.json
"""

from __future__ import annotations

import itertools
import json as json_module
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import Spread, show_table, write_json
from content import Content
from remote_contenders import Task
from rich.console import Console
from rich.table import Table

from lazyvid import FrameIndex, ObjectStore, build_index
from lazyvid.decoding.plan import DecodeOrder, plan_runs
from lazyvid.testing import CountingProxy, S3Server

OURS, ALONE = "lazyvid", "lazyvid, clip by clip"
DEFAULT, BEST = "torchcodec over s3fs", "torchcodec over s3fs, best settings"
_CHECKED = 3
_BLOCKS = (1 << 16, 1 << 18, 1 << 20)
_CACHES = ("readahead", "bytes", "blockcache", "background")
_SEARCH_MS = 20.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender and how it is set."""

    name: str
    kind: str
    how: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pass:
    """All clips once."""

    seconds: float
    cpu: float
    clips: int
    requests: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a contender took in one setting."""

    encoding: str
    delay_ms: float
    name: str
    how: dict[str, Any]
    passes: list[Pass]

    def per_clip(self, name: str) -> Spread:
        """A figure of its passes, by the clip."""
        return Spread.of([getattr(one, name) / one.clips for one in self.passes])

    @property
    def clips_per_s(self) -> float:
        """The median of its passes."""
        return 1 / self.per_clip("seconds").median


class Worker:
    """A contender in a process of its own."""

    def __init__(self, entry: Entry, task: Task) -> None:
        self.entry = entry
        program = Path(__file__).with_name("remote_contenders.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), entry.kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send(asdict(replace(task, how=entry.how)))

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json_module.dumps(message) + "\n")
        self._process.stdin.flush()

    def ask(self, **order: Any) -> dict[str, Any]:
        """What it answers to an order."""
        assert self._process.stdout is not None
        self._send(order)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.entry.name} ended with {self._process.wait()}.")
        found: dict[str, Any] = json_module.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Bucket:
    """The videos of one encoding in a bucket, behind the proxy."""

    proxy: CountingProxy
    task: Task
    index: FrameIndex

    def needed_bytes(self) -> float:
        """Bytes of the packets that a clip must be fed, from the key packet to the last one, on average."""
        order = DecodeOrder.of(self.index, 0)
        total = 0
        for _, start in self.task.clips:
            positions = np.sort(self.index.packets.decode_position[start : start + self.task.length])
            total += sum(int(order.size[run.start : run.needed_stop].sum()) for run in plan_runs(order, positions))
        return total / len(self.task.clips)

    @contextmanager
    def workers(self, entries: Sequence[Entry]) -> Iterator[list[Worker]]:
        """A process for each contender."""
        with ExitStack() as stack:
            found = []
            for entry in entries:
                worker = Worker(entry, self.task)
                stack.callback(worker.close)
                found.append(worker)
            yield found

    def measured(self, worker: Worker) -> Pass:
        """One pass, and what the proxy saw of it."""
        self.proxy.reset()
        figures = worker.ask(do="pass")
        requests = self.proxy.requests
        return Pass(**figures, requests=len(requests), bytes=sum(request.bytes_down for request in requests))


@contextmanager
def bucket(content: Content, folder: Path, encoding: str, *, videos: int, clips: int, length: int) -> Iterator[Bucket]:
    """One video under several names, each with its sidecar."""
    path = content.write(folder, encoding)
    with ExitStack() as stack:
        server = stack.enter_context(S3Server())
        proxy = stack.enter_context(CountingProxy(server.endpoint_url))
        store = ObjectStore(storage_options=server.storage_options)
        uris = [server.url(f"remote/{number}.mp4") for number in range(videos)]
        for uri in uris:
            store.upload(path, uri)
            index = build_index(uri, store=store)
            index.save(uri, store=store)
        rng = np.random.default_rng(0)
        starts = rng.integers(content.frames - length, size=clips).tolist()
        chosen = list(zip(rng.integers(videos, size=clips).tolist(), starts, strict=True))
        yield Bucket(proxy, Task(uris, proxy.storage_options_for(server), chosen, length), index)


def check(workers: Sequence[Worker]) -> None:
    """Fail unless all contenders give the same frames.

    Raises:
        RuntimeError: if one differs.
    """
    found = {worker.entry.name: worker.ask(do="check", clips=_CHECKED)["digests"] for worker in workers}
    if len({tuple(digests) for digests in found.values()}) != 1:
        raise RuntimeError(f"The contenders do not give the same frames: {found}.")


def best_settings(place: Bucket) -> dict[str, Any]:
    """The block size, cache and mode with which torchcodec is fastest at 20 ms; s3fs's own are among those tried."""
    few = replace(place, task=replace(place.task, clips=place.task.clips[:8]))
    entries = [Entry(mode, "torchcodec", {"seek_mode": mode}) for mode in ("approximate", "exact")]
    entries += [
        Entry(f"{cache} {block}", "torchcodec", {"seek_mode": mode, "cache_type": cache, "block_size": block})
        for mode, cache, block in itertools.product(("approximate", "exact"), _CACHES, _BLOCKS)
    ]
    place.proxy.delay_s = _SEARCH_MS / 1000
    seconds: dict[int, float] = {}
    for number, entry in enumerate(entries):
        with few.workers([entry]) as (worker,):
            worker.ask(do="check", clips=1)
            seconds[number] = few.measured(worker).seconds
    return entries[min(seconds, key=lambda number: seconds[number])].how


def run(place: Bucket, encoding: str, delays: Sequence[float], repeats: int) -> list[Result]:
    """Measure all contenders in turns at each delay."""
    best = best_settings(place)
    entries = [
        Entry(OURS, "lazyvid", {}),
        Entry(ALONE, "lazyvid-alone", {}),
        Entry(DEFAULT, "torchcodec", {}),
        Entry(BEST, "torchcodec", best),
        Entry("download, torchcodec", "download", {}),
        Entry("PyAV over s3fs", "pyav", {}),
    ]
    results = []
    with place.workers(entries) as workers:
        place.proxy.delay_s = 0.0
        check(workers)
        for delay in delays:
            place.proxy.delay_s = delay / 1000
            passes: dict[str, list[Pass]] = {entry.name: [] for entry in entries}
            for number in range(repeats):
                turn = number % len(workers)
                for worker in [*workers[turn:], *workers[:turn]]:
                    passes[worker.entry.name].append(place.measured(worker))
            results += [Result(encoding, delay, entry.name, entry.how, passes[entry.name]) for entry in entries]
    return results


# -- what is shown ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What was to be reached, and what was."""

    what: str
    wanted: str
    found: float


def targets(results: Sequence[Result], needed: Mapping[str, float]) -> list[Target]:
    """The figures that are held against targets."""
    by = {(result.encoding, result.delay_ms, result.name): result for result in results}
    found = []
    for encoding in needed:
        delays = sorted({delay for name, delay, _ in by if name == encoding})
        near, far = by[encoding, delays[0], OURS], by[encoding, delays[-1], OURS]
        found.append(
            Target(
                f"{encoding}: bytes a clip / packets needed", "<= 1.1", near.per_clip("bytes").median / needed[encoding]
            )
        )
        if len(delays) > 1:
            alone = [by[encoding, delay, ALONE].per_clip("seconds").median for delay in (delays[0], delays[-1])]
            trips = 1000 * (alone[1] - alone[0]) / (delays[-1] - delays[0])
            found.append(Target(f"{encoding}: round trips a clip, one by one", "1", trips))
            slowdown = far.per_clip("seconds").median / near.per_clip("seconds").median
            found.append(Target(f"{encoding}: time at {delays[-1]:g} ms / at {delays[0]:g} ms", "<= 1.3", slowdown))
        if (encoding, _SEARCH_MS, OURS) in by:
            ours, best, default = (by[encoding, _SEARCH_MS, name] for name in (OURS, BEST, DEFAULT))
            found += [
                Target(f"{encoding}: clips/s / torchcodec's best, 20 ms", ">= 2", ours.clips_per_s / best.clips_per_s),
                Target(
                    f"{encoding}: clips/s / torchcodec's default, 20 ms", ">= 4", ours.clips_per_s / default.clips_per_s
                ),
                Target(
                    f"{encoding}: bytes / torchcodec's default",
                    "<= 0.2",
                    ours.per_clip("bytes").median / default.per_clip("bytes").median,
                ),
            ]
    return found


_COLUMNS = (
    ("ms a clip", "seconds", 1000.0, "{:.0f}"),
    ("CPU ms a clip", "cpu", 1000.0, "{:.0f}"),
    ("requests a clip", "requests", 1.0, "{:.1f}"),
    ("kB a clip", "bytes", 0.001, "{:.0f}"),
)


def cells(results: Sequence[Result]) -> Iterator[list[str]]:
    """A line for each result."""
    for result in results:
        yield [
            result.encoding,
            f"{result.delay_ms:g}",
            result.name,
            f"{result.clips_per_s:.1f}",
            *(form.format(result.per_clip(name).median * factor) for _, name, factor, form in _COLUMNS),
        ]


HEADS = ("video", "delay ms", "reader", "clips/s", *(head for head, *_ in _COLUMNS))


def show_targets(console: Console, reached: Sequence[Target]) -> None:
    """Show beside each target what was reached."""
    held = Table("figure", "target", "found")
    for target in reached:
        held.add_row(target.what, target.wanted, f"{target.found:.2f}")
    console.print(held)


def main(
    *,
    video: Annotated[Path | None, typer.Option(help="Real content; painted pictures without it.")] = None,
    encoding: Annotated[list[str] | None, typer.Option(help="Of content.py; may be repeated.")] = None,
    delay_ms: Annotated[list[float] | None, typer.Option(help="Added to each request; may be repeated.")] = None,
    videos: Annotated[int, typer.Option(help="Objects in the bucket.")] = 4,
    clips: Annotated[int, typer.Option(help="Clips of a pass.")] = 40,
    frames: Annotated[int, typer.Option(help="Frames of each video.")] = 1800,
    size: Annotated[tuple[int, int], typer.Option(help="Width and height of the videos.")] = (640, 360),
    repeats: Annotated[int, typer.Option(help="Passes that count.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where the encoded videos are kept.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table for the README.")] = False,
) -> None:
    """Measure reading clips of 16 frames from a bucket."""
    console = Console(stderr=markdown, width=160)
    results: list[Result] = []
    needed: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        content = Content(video, *size, frames)
        for name in encoding or ["h264-gop30", "h264-gop250"]:
            console.print(f"{name} ...")
            with bucket(content, folder or Path(temporary), name, videos=videos, clips=clips, length=16) as place:
                needed[name] = place.needed_bytes()
                results += run(place, name, delay_ms or [0.0, 20.0, 50.0], repeats)
    reached = targets(results, needed)
    show_table(
        console, HEADS, list(cells(results)), title="clips of 16 frames from a bucket, one reader", markdown=markdown
    )
    show_targets(console, reached)
    if json is not None:
        ratios = {
            f"{ours.encoding}, {ours.delay_ms:g} ms: clips/s, {ours.name} / {other.name}": ours.clips_per_s
            / other.clips_per_s
            for ours, other in itertools.product(results, results)
            if ours.name == OURS
            and other.name != OURS
            and (ours.encoding, ours.delay_ms) == (other.encoding, other.delay_ms)
        }
        write_json(
            json,
            {"frames": frames, "needed_bytes": needed, "targets": reached, "ratios": ratios, "results": results},
        )


if __name__ == "__main__":
    typer.run(main)
