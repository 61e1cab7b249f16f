"""`lazyvid concat`: videos one after the other into one, without encoding anything anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lazyvid.cli.console import stderr
from lazyvid.cli.encode import Overwrite, refuse_existing, show_written
from lazyvid.cli.options import Debug
from lazyvid.recording import concatenate_video_files


def concat_command(
    videos: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="The videos, in order, all alike.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The video to write.", show_default=False)],
    *,
    overwrite: Overwrite = False,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Join videos of one kind by copying their packets.

    When all of them have sidecars, so has the joined one.
    """
    refuse_existing(out, overwrite=overwrite)
    with stderr().status("copying"):
        concatenate_video_files(videos, out, overwrite=overwrite)
    show_written(out)
