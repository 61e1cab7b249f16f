"""`lazyvid encode`: a folder of numbered pictures to an MP4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lazyvid.cli.console import bytes_text, count_text, seconds_text, stderr, stdout
from lazyvid.cli.encoders import Crf, Gop, PixFmt, Preset, Threads, Vcodec
from lazyvid.cli.options import Debug
from lazyvid.index.probe import build_index
from lazyvid.recording import encode_video_frames

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a video that is there.")]


def encode_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The pictures: frame-000000.png, ...", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The MP4 to write.", show_default=False)],
    *,
    fps: Annotated[float, typer.Option(help="Frames per second, exact for rates such as 29.97.", show_default=False)],
    overwrite: Overwrite = False,
    vcodec: Vcodec = "libsvtav1",
    pix_fmt: PixFmt = "yuv420p",
    gop: Gop = 2,
    crf: Crf = 30,
    preset: Preset = None,
    fast_decode: Annotated[
        int, typer.Option(min=0, help="More than 0 for a video that is cheaper to decode.", rich_help_panel="Encoder")
    ] = 0,
    threads: Threads = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Make an MP4 of the pictures in a folder."""
    refuse_existing(out, overwrite=overwrite)
    with stderr().status("encoding"):
        encode_video_frames(
            folder,
            out,
            fps,
            vcodec=vcodec,
            pix_fmt=pix_fmt,
            g=gop,
            crf=crf,
            fast_decode=fast_decode,
            overwrite=overwrite,
            preset=preset,
            encoder_threads=threads,
        )
    show_written(out)


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError where something would be replaced that may not be."""
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already: choose another name, or replace it with --overwrite.")


def show_written(out: Path) -> None:
    """Say what is in a video that was written."""
    index = build_index(out)
    length = seconds_text(index.end_seconds - float(index.timestamp[0]))
    size = bytes_text(out.stat().st_size)
    stdout().print(f"{count_text(len(index), 'frame')}, {length}, in [bold]{escape(str(out))}[/] ({size})")
