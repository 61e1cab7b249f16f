"""How fast `lazyvid index` and `lazyvid catalog build` go through many small files, in a folder and on S3 far away.

The S3 server is a real one on this machine; a proxy before it delays every request and counts. Server, proxy and
command share the cores, so the processor time of the command is what compares between machines.

    python scripts/bench/index.py --files 1000 --json bench-output/index.json
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import av
import typer
from common import write_json
from rich.console import Console

from lazyvid import ObjectStore
from lazyvid.index import node_files
from lazyvid.testing import CountingProxy, S3Server, write_video

_KINDS = 4
_UPLOADS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Run:
    """One command over all files, by the file."""

    command: str
    where: str
    files_per_s: float
    cpu_ms: float
    """Processor time of the command in milliseconds."""
    requests: dict[str, float] = field(default_factory=dict)
    """By method, where they are counted."""
    bytes_down: float = 0.0
    bytes_up: float = 0.0


def make_files(folder: Path, *, files: int, frames: int) -> float:
    """Write small MP4s, a few kinds under many names.

    Returns:
        Bytes of a file, on average.
    """
    folder.mkdir()
    kinds = []
    for number in range(_KINDS):
        path = folder.parent / f"kind-{number}.mp4"
        options = {"movflags": "faststart"} if number % 2 else {}
        kinds.append(write_video(path, frames=frames, first_number=number, muxer_options=options))
    for number in range(files):
        shutil.copy(kinds[number % _KINDS], folder / f"{number:05d}.mp4")
    return sum(path.stat().st_size for path in kinds) / len(kinds)


def run(
    arguments: Sequence[str], *, files: int, where: str, environment: dict[str, str], proxy: CountingProxy | None = None
) -> Run:
    """Run a command of `lazyvid` and see what it took."""
    if proxy is not None:
        proxy.reset()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "lazyvid", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seen = [] if proxy is None else proxy.requests
    return Run(
        command=" ".join(word for word in arguments if word.isalpha()),
        where=where,
        files_per_s=files / wall,
        cpu_ms=cpu * 1e3 / files,
        requests={method: count / files for method, count in Counter(request.method for request in seen).items()},
        bytes_down=sum(request.bytes_down for request in seen) / files,
        bytes_up=sum(request.bytes_up for request in seen) / files,
    )


def upload(folder: Path, server: S3Server, prefix: str) -> None:
    """Put the files into the bucket, past the proxy."""
    store = ObjectStore(storage_options=server.storage_options)
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        list(pool.map(lambda path: store.upload(path, f"{prefix}/{path.name}"), sorted(folder.glob("*.mp4"))))


def demuxed_ms(folder: Path) -> float:
    """Processor milliseconds a file for what anyone needs at least: PyAV opens it and goes through its packets."""
    paths = sorted(folder.glob("*.mp4"))
    start = time.process_time()
    for path in paths:
        with av.open(str(path)) as container:
            deque(container.demux(video=0), maxlen=0)
    return 1e3 * (time.process_time() - start) / len(paths)


def commands(videos: str, catalog: str, jobs: int) -> list[list[str]]:
    """What is measured: sidecars written; found fresh; a catalog made by them; looked at for changes."""
    options = ["--jobs", str(jobs)]
    return [
        ["index", videos, *options],
        ["index", videos, *options],
        ["catalog", "build", catalog, videos, *options],
        ["catalog", "refresh", catalog, *options],
    ]


def main(
    files: Annotated[int, typer.Option(help="Files.")] = 1000,
    frames: Annotated[int, typer.Option(help="Frames of each.")] = 300,
    jobs: Annotated[int, typer.Option(help="Videos at a time.")] = 16,
    delay_ms: Annotated[float, typer.Option(help="Added to each request.")] = 20.0,
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
) -> None:
    """Index the files in a folder and on S3, and print files a second, processor time, requests and bytes."""
    console = Console()
    results: dict[str, Any] = {"files": files, "frames": frames, "jobs": jobs, "delay_ms": delay_ms, "runs": []}

    def show(found: Run) -> None:
        results["runs"].append(found)
        console.print(found)

    with tempfile.TemporaryDirectory() as temporary, S3Server() as server:
        root = Path(temporary)
        environment = {node_files.DIRECTORY_VARIABLE: str(root / "node")}
        results["bytes_per_file"] = make_files(root / "videos", files=files, frames=frames)
        results["demuxed_ms"] = demuxed_ms(root / "videos")
        prefix = server.url("videos")
        upload(root / "videos", server, prefix)
        for arguments in commands(str(root / "videos"), str(root / "c.lance"), jobs):
            show(run(arguments, files=files, where="folder", environment=environment))
        with CountingProxy(server.endpoint_url, delay_s=delay_ms / 1e3) as proxy:
            options = proxy.storage_options_for(server)
            environment |= {"AWS_ACCESS_KEY_ID": options["key"], "AWS_SECRET_ACCESS_KEY": options["secret"]}
            endpoint = ["--endpoint-url", options["client_kwargs"]["endpoint_url"]]
            for arguments in commands(prefix, server.url("c.lance"), jobs):
                show(run([*arguments, *endpoint], files=files, where="s3", environment=environment, proxy=proxy))
    results["ratios"] = {
        f"{one.command}, {one.where}, run {number}: PyAV's demuxing / processor time": results["demuxed_ms"]
        / one.cpu_ms
        for number, one in enumerate(results["runs"])
    }
    if json is not None:
        write_json(json, results)


if __name__ == "__main__":
    typer.run(main)
