"""What the commands that encode share: the options of an encoder, and what they mean where they are not given."""

from __future__ import annotations

from typing import Annotated

import typer

_PANEL = "Encoder"

Vcodec = Annotated[
    str,
    typer.Option(
        help="h264, hevc, libsvtav1, a hardware encoder, or auto; see lazyvid codecs.",
        metavar="NAME",
        rich_help_panel=_PANEL,
    ),
]
PixFmt = Annotated[
    str, typer.Option(help="Pixel format in the file, by FFmpeg's name.", metavar="NAME", rich_help_panel=_PANEL)
]
Gop = Annotated[
    int,
    typer.Option(
        "--gop",
        "-g",
        min=1,
        help="Frames from one key frame to the next: fewer are cheaper to jump to, more make smaller files.",
        rich_help_panel=_PANEL,
    ),
]
Crf = Annotated[float, typer.Option(min=0, max=63, help="Quality, the smaller the better.", rich_help_panel=_PANEL)]
Preset = Annotated[str | None, typer.Option(help="Speed, by the encoder's own name or number.", rich_help_panel=_PANEL)]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of an encoder; by default its own choice.", rich_help_panel=_PANEL),
]
