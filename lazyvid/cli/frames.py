"""`lazyvid frames`: a contact sheet of a video's frames, to see what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.markup import escape

from lazyvid.cli.console import bytes_text, count_text, seconds_text, stderr, stdout
from lazyvid.cli.options import Debug, EndpointUrl, IndexRoot, Profile, StoreOption, Uri, make_store
from lazyvid.cli.sheet import save_sheet, thumbnail_size
from lazyvid.frames import Clip
from lazyvid.index.opening import open_index
from lazyvid.storage import ObjectStore, basename, display_uri
from lazyvid.video import LazyVideo

_DEFAULT_COUNT = 16
_MOST_FRAMES = 400
"""More do not fit a picture that anybody looks at."""


def frames_command(
    uri: Uri,
    *,
    at: Annotated[
        list[float] | None, typer.Option(help="The frame shown at this time, in seconds; may be repeated.", metavar="S")
    ] = None,
    every: Annotated[float | None, typer.Option(help="A frame each so many seconds.", metavar="S")] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=_MOST_FRAMES, help=f"So many frames, evenly spread [{_DEFAULT_COUNT}].")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("sheet.png"),
    width: Annotated[int, typer.Option(min=16, max=4096, help="Pixels of a frame's longer side.")] = 320,
    columns: Annotated[int | None, typer.Option(min=1, help="Frames in a row.")] = None,
    index_root: IndexRoot = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Write a contact sheet: frames of a video with their numbers and times."""
    if sum(choice is not None for choice in (at or None, every, count)) > 1:
        raise typer.BadParameter("give one of --at, --every and --count.")
    if every is not None and not every > 0:
        raise typer.BadParameter(f"expected a positive number of seconds, got {every}.", param_hint="--every")
    store = make_store(option, endpoint_url, profile)
    video = _open(uri, store, index_root, longest=width)
    if every is not None:
        clip = _each(video, every)
    elif at:
        clip = video.get_frames_played_at(at)
    else:
        wanted = min(count or _DEFAULT_COUNT, len(video))
        clip = video.get_frames_at(np.linspace(0, len(video) - 1, wanted).round().astype(np.int64))
    labels = [f"#{frame.frame_index}   {seconds_text(frame.timestamp)}" for frame in clip]
    save_sheet(out, list(clip.frames.numpy()), labels, title=_title(video), columns=columns)
    stdout().print(
        f"{count_text(len(clip), 'frame')} in [bold]{escape(str(out))}[/] ({bytes_text(out.stat().st_size)})"
    )


def _open(uri: str, store: ObjectStore, index_root: str | None, *, longest: int) -> LazyVideo:
    """The video, its frames as small as they are wanted."""
    opened = open_index(uri, store=store, index_root=index_root, warn=False)
    if opened.origin == "built":
        stderr().print("[dim]no sidecar: the file's headers were scanned (lazyvid index writes it)[/]", soft_wrap=True)
    resize = thumbnail_size(*opened.index.sources[0].display_size, longest=longest)
    return LazyVideo(
        uri,
        store=store,
        frame_index=opened.index,
        resize=resize,
        channel_format="NHWC",
        interpolation="area",
    )


def _each(video: LazyVideo, seconds: float) -> Clip:
    asked = np.arange(video.begin_seconds, video.end_seconds, seconds)
    if len(asked) > _MOST_FRAMES:
        least = (video.end_seconds - video.begin_seconds) / _MOST_FRAMES
        raise typer.BadParameter(
            f"{len(asked):,} frames are too many for one picture; {least:.3g} seconds give {_MOST_FRAMES}.",
            param_hint="--every",
        )
    return video.get_frames_played_at(asked[asked < video.end_seconds])


def _title(video: LazyVideo) -> str:
    name = display_uri(basename(video.uri))
    return (
        f"{name}   {video.width}x{video.height}   {count_text(len(video), 'frame')} at {video.average_fps:.5g} per "
        f"second   {seconds_text(video.end_seconds - video.begin_seconds)}"
    )
