"""`lazyvid doctor`: in one screen, what is wrong with a video, its sidecar, its store's answers and this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.markup import escape

from lazyvid.cli.checkup import Finding, Level, look_at_machine, look_at_video
from lazyvid.cli.console import facts_table, stdout
from lazyvid.cli.options import Debug, EndpointUrl, IndexRoot, Profile, StoreOption, make_store
from lazyvid.storage import display_uri

_MARKS: dict[Level, str] = {"good": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[bold red]bad[/]"}


def doctor_command(
    uri: Annotated[
        str | None, typer.Argument(help="A video; without one, this machine alone is looked at.", show_default=False)
    ] = None,
    *,
    index_root: IndexRoot = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    deadline: Annotated[
        float,
        typer.Option(
            min=0.1, help="Seconds that the store may take for an answer.", metavar="S", rich_help_panel="Store"
        ),
    ] = 15.0,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Say what is wrong with a video, its sidecar, its store and this machine.

    Ends with exit code 1 if something does not work.
    """
    bad = 0
    if uri is not None:
        store = make_store(option, endpoint_url, profile, deadline_s=deadline)
        video = store.resolve(uri)
        bad += _show(display_uri(video), look_at_video(video, store=store, index_root=index_root))
    bad += _show("this machine", look_at_machine())
    if bad:
        raise typer.Exit(1)


def _show(title: str, findings: Iterable[Finding]) -> int:
    """Print the lines; gives how many are bad."""
    table = facts_table()
    table.add_column(overflow="fold")
    bad = 0
    for finding in findings:
        bad += finding.level == "bad"
        table.add_row(finding.name, _MARKS[finding.level], escape(finding.text))
    console = stdout()
    console.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    console.print(table)
    return bad
