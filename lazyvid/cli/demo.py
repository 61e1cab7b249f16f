"""`lazyvid demo`: the whole way from video files to training batches, every frame of it checked."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from lazyvid.cli.console import bytes_text, count_text, facts_table, seconds_text, stdout
from lazyvid.cli.demo_check import CLIP_FRAMES, CheckedPass, Reference, load_and_check
from lazyvid.cli.demo_video import FPS, GOP, HEIGHT, WIDTH, write_demo_videos
from lazyvid.cli.options import Debug
from lazyvid.cli.sheet import save_sheet, thumbnail_size
from lazyvid.index.probe import build_index
from lazyvid.index.sidecar import write_sidecar
from lazyvid.storage import ObjectStore, join_uri
from lazyvid.video import LazyVideo

_SECONDS = (14, 12, 10, 12)
"""Lengths of the generated videos."""
_MOST_SECONDS = 20.0
"""So much of each given video is loaded."""
_TRAINING_SIZE = (224, 224)
_SHEET_FRAMES = 16


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the demo puts its videos."""

    store: ObjectStore
    url: str
    what: str
    """For people."""
    is_server: bool


def demo_command(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what the demo leaves.")] = Path("demo-output"),
    video: Annotated[
        list[Path] | None,
        typer.Option(help="A video to use, may be repeated; without any, four are made.", metavar="PATH"),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the videos, and the folder that stood for a bucket.")
    ] = False,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """See it work: videos in a bucket, indexed, loaded as shuffled clips, every frame checked.

    Ends with exit code 1 if a single frame is not the one that a sequential decode gives.
    """
    console = stdout()
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = out if keep else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazyvid-demo-")))
        files = _files(video, work, console)
        bucket = stack.enter_context(_bucket(work))
        _say(console, 2, "bucket", escape(bucket.what))
        uris = _upload(files, bucket, console)
        _index(uris, bucket, console)
        passes = _load(uris, bucket, console)
        sheet = _sheet(uris, bucket, out / "contact-sheet.png")
    _say(console, 6, "picture", f"[bold]{escape(str(sheet))}[/]")
    _verdict(passes, console, seconds=time.monotonic() - started)


def _say(console: Console, number: int, name: str, text: str, *, since: float | None = None) -> None:
    """One line about a step that is done."""
    took = "" if since is None else f" [dim]({seconds_text(time.monotonic() - since)})[/]"
    console.print(f"[bold cyan]{number}[/] {name:<8}  {text}{took}", soft_wrap=True)


# -- the steps --------------------------------------------------------------------------------------------------------


def _files(given: list[Path] | None, work: Path, console: Console) -> list[Path]:
    if given:
        _say(console, 1, "videos", f"{count_text(len(given), 'file')} of yours, {_sizes(given)}")
        return given
    folder = work / "videos"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with console.status("making videos"):
        files = list(write_demo_videos(folder, seconds=_SECONDS))
    made = f"{count_text(len(files), 'file')} made, H.264 {WIDTH}x{HEIGHT} at {FPS} per second, a key frame in {GOP}"
    _say(console, 1, "videos", f"{made}, {_sizes(files)}", since=started)
    return files


def _sizes(files: list[Path]) -> str:
    return f"{bytes_text(sum(path.stat().st_size for path in files))} together"


@contextlib.contextmanager
def _bucket(work: Path) -> Iterator[Bucket]:
    """A real S3 server on this machine where one is installed, else a folder."""
    from lazyvid.testing import S3Server  # the test servers are loaded where one is started, not before

    if S3Server.available() and importlib.util.find_spec("s3fs") is not None:
        with S3Server() as server:
            store = ObjectStore(storage_options=server.storage_options)
            yield Bucket(store, server.url("demo"), f"{server.url('demo')} on an S3 server of its own", is_server=True)
        return
    folder = work / "bucket"
    what = f"{folder}, a folder: no S3 server is installed (pip install 'lazyvid[testing]')"
    yield Bucket(ObjectStore(), str(folder), what, is_server=False)


def _upload(files: list[Path], bucket: Bucket, console: Console) -> list[str]:
    started = time.monotonic()
    # A number, since two files may have one name.
    uris = [join_uri(bucket.url, f"{number:02d}-{path.name}") for number, path in enumerate(files)]
    with console.status("uploading"):
        for path, uri in zip(files, uris, strict=True):
            bucket.store.upload(path, uri)
    _say(console, 3, "upload", count_text(len(uris), "object"), since=started)
    return uris


def _index(uris: list[str], bucket: Bucket, console: Console) -> None:
    started = time.monotonic()
    frames = 0
    with console.status("indexing"):
        for uri in uris:
            index = build_index(uri, store=bucket.store)
            write_sidecar(index, uri, store=bucket.store)
            frames += len(index)
    _say(console, 4, "index", f"{count_text(frames, 'frame')}, a sidecar beside each video", since=started)


def _load(uris: list[str], bucket: Bucket, console: Console) -> list[CheckedPass]:
    videos = LazyVideo.open_many(uris, store=bucket.store)
    small = LazyVideo.open_many(uris, store=bucket.store, resize=_TRAINING_SIZE)
    lengths = [int((v.timestamps < v.begin_seconds + _MOST_SECONDS).sum()) for v in videos]
    with console.status("decoding each file from its start, to compare with"):
        reference = Reference.of(videos, lengths, bucket.store, resize=_TRAINING_SIZE)
    passes = []
    for what, chosen, digests in (
        (f"{_TRAINING_SIZE[0]}x{_TRAINING_SIZE[1]}", small, reference.resized),
        ("full size", videos, reference.whole),
    ):
        windows = [v.lazy_slice(v.begin_seconds, v.begin_seconds + _MOST_SECONDS) for v in chosen]
        with console.status(f"loading shuffled clips, {what}"):
            passes.append(load_and_check(what, windows, digests))
    size = sum(bucket.store.head(uri).size for uri in uris) / len(uris)
    _say(console, 5, "load", f"shuffled clips of {CLIP_FRAMES} frames through a ClipLoader")
    for done in passes:
        console.print(_pass_panel(done, size, is_server=bucket.is_server))
    return passes


def _pass_panel(done: CheckedPass, file_size: float, *, is_server: bool) -> Panel:
    table = facts_table()
    table.add_row(
        "clips",
        f"[bold]{done.clips}[/] in {seconds_text(done.seconds)}: [bold]{done.clips / done.seconds:.1f} clips/s[/]",
    )
    per_clip = done.bytes_fetched / done.clips
    table.add_row(
        "read a clip",
        f"[bold]{bytes_text(per_clip)}[/] of a file of {bytes_text(file_size)} ({per_clip / file_size:.1%})",
    )
    if is_server:
        table.add_row("requests", f"{done.requests / done.clips:.2f} a clip")
    colour = "green" if not done.wrong else "bold red"
    table.add_row("checked", f"[{colour}]{done.wrong} wrong of {done.frames:,} frames[/]")
    workers = count_text(done.workers, "worker") if done.workers else "no worker: /dev/shm is too small for whole clips"
    return Panel(table, title=f"{done.what}, {workers}", title_align="left", expand=False)


def _sheet(uris: list[str], bucket: Bucket, path: Path) -> Path:
    """A few frames of each video, with their numbers and times."""
    pictures, labels = [], []
    each = max(1, _SHEET_FRAMES // len(uris))
    for number, uri in enumerate(uris[:_SHEET_FRAMES]):
        video = LazyVideo(uri, store=bucket.store)
        height, width = thumbnail_size(video.height, video.width, longest=320)
        video = LazyVideo(uri, store=bucket.store, resize=(height, width), channel_format="NHWC", interpolation="area")
        count = min(each, len(video))
        for frame in video.get_frames_at([(2 * k + 1) * len(video) // (2 * count) for k in range(count)]):
            pictures.append(frame.data.numpy())
            labels.append(f"video {number}   #{frame.frame_index}   {seconds_text(frame.timestamp)}")
    save_sheet(path, pictures, labels, title="lazyvid demo", columns=4 if len(pictures) > 6 else None)
    return path


def _verdict(passes: list[CheckedPass], console: Console, *, seconds: float) -> None:
    wrong, frames = sum(done.wrong for done in passes), sum(done.frames for done in passes)
    unseen = sum(done.unseen for done in passes)
    if unseen:
        console.print(f"[bold red]{unseen:,} frames were never delivered[/]")
    style = "bold red" if wrong or unseen else "bold green"
    console.print(f"[{style}]{wrong} wrong frames of {frames:,}[/] [dim](in {seconds_text(seconds)})[/]")
    if wrong or unseen:
        raise typer.Exit(1)
