"""`lazyvid codecs`: which encoders work on this machine, found out by encoding a frame with each."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from lazyvid.cli.console import stdout
from lazyvid.cli.options import Debug
from lazyvid.errors import EncoderUnavailableError
from lazyvid.recording.codecs import HW_ENCODERS, EncoderStatus, encoder_report, resolve_vcodec


def codecs_command(
    *,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Show which encoders work here, and why others do not."""
    table = Table()
    table.add_column("encoder", no_wrap=True)
    table.add_column("kind")
    table.add_column("works here")
    table.add_column("why not", overflow="fold")
    for status in encoder_report():
        table.add_row(*_row(status), style=None if status.works else "dim")
    console = stdout()
    console.print(table)
    try:
        console.print(f"auto is [bold]{resolve_vcodec('auto')}[/] here")
    except EncoderUnavailableError:
        console.print("[red]auto is nothing here: no encoder that it would take works[/]")


def _row(status: EncoderStatus) -> tuple[str, ...]:
    kind = "hardware" if status.name in HW_ENCODERS else "software"
    works = "[green]yes[/]" if status.works else "no"
    return status.name, kind, works, escape(status.reason or "")
