"""`lazyvid convert`: recordings, and plain folders of videos and tables, made into LeRobot datasets."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from lazyvid.cli.console import count_text, stdout
from lazyvid.cli.lerobot import DryRun, Target, shown_progress
from lazyvid.cli.options import Debug, EndpointUrl, Profile, StoreOption, make_store
from lazyvid.lerobot.converting import convert
from lazyvid.lerobot.layout import LeRobotLayout
from lazyvid.lerobot.sending import local_copy, local_folder
from lazyvid.storage import display_uri

_MOST_EPISODES = 20


def convert_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A recording; or a folder of MP4s, a folder a camera, with a table (.parquet, .csv) of the same name "
            "for each episode.",
            show_default=False,
        ),
    ],
    target: Target,
    *,
    fps: Annotated[int | None, typer.Option(help="Frames per second, where the source has another rate.")] = None,
    task: Annotated[str | None, typer.Option(help="What is done in episodes that do not say it themselves.")] = None,
    robot_type: Annotated[str | None, typer.Option(help="What was recorded.")] = None,
    on_gap: Annotated[
        Literal["repeat", "drop_row"],
        typer.Option(help="Rows without a frame: repeat the one before, or leave them out."),
    ] = "repeat",
    dry_run: DryRun = False,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Make a LeRobot dataset of format v3.0.

    Packets are copied onto the grid of the rate; an episode that lacks frames is encoded anew.
    """
    store = make_store(option, endpoint_url, profile)
    layout = LeRobotLayout(robot_type=robot_type, on_gap=on_gap)
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(shown_progress(""))
        folder = stack.enter_context(local_copy(source, store, advance))
        if dry_run:
            goal = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            goal = stack.enter_context(local_folder(target, store, advance))
        report = convert(folder, goal, layout=layout, fps=fps, task=task, dry_run=dry_run, advance=advance)
    table = Table("episode", "rows", "left out", "repeated frames", "encoded anew")
    changed = [each for each in report if each.left_out or each.repeated or each.encoded]
    for each in changed[:_MOST_EPISODES]:
        table.add_row(
            escape(each.name), str(each.rows), str(each.left_out), str(each.repeated), escape(", ".join(each.encoded))
        )
    console = stdout()
    if changed:
        console.print(table)
    kept = [each for each in report if each.rows]
    what = f"{count_text(len(kept), 'episode')}, {count_text(sum(each.rows for each in kept), 'frame')}"
    did = "would make" if dry_run else "made"
    console.print(f"{did} {escape(display_uri(target))}: {what}", soft_wrap=True)
