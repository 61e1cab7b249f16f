"""The command `lazyvid`: what the package does, without writing a program. On top of everything else.

One file a command; `console` says how results and errors look, `options` what all commands that read a store share.
"""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from lazyvid.cli.catalog import catalog_app
from lazyvid.cli.codecs import codecs_command
from lazyvid.cli.concat import concat_command
from lazyvid.cli.console import ReportingGroup, stdout
from lazyvid.cli.convert import convert_command
from lazyvid.cli.demo import demo_command
from lazyvid.cli.doctor import doctor_command
from lazyvid.cli.encode import encode_command
from lazyvid.cli.fit import LIGHTNING_ARGUMENTS, fit_command
from lazyvid.cli.frames import frames_command
from lazyvid.cli.index import index_command
from lazyvid.cli.info import info_command
from lazyvid.cli.lerobot import lerobot_app
from lazyvid.cli.options import Debug
from lazyvid.cli.record import record_command
from lazyvid.cli.recover import recover_command
from lazyvid.cli.verify import verify_command

__all__ = ["app", "main"]

app = typer.Typer(
    name="lazyvid",
    cls=ReportingGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    # A traceback must never show a local variable: some hold credentials.
    pretty_exceptions_show_locals=False,
)
app.command("index")(index_command)
app.command("info")(info_command)
app.add_typer(catalog_app, name="catalog")
app.command("frames")(frames_command)
app.command("verify")(verify_command)
app.command("doctor")(doctor_command)
app.command("record")(record_command)
app.command("recover")(recover_command)
app.command("encode")(encode_command)
app.command("concat")(concat_command)
app.command("codecs")(codecs_command)
app.command("convert")(convert_command)
app.add_typer(lerobot_app, name="lerobot")
app.command("fit", context_settings=LIGHTNING_ARGUMENTS)(fit_command)
app.command("demo")(demo_command)


def _show_version(value: bool) -> None:  # noqa: FBT001 - the signature that typer calls
    if value:
        stdout().print(f"lazyvid {metadata.version('lazyvid')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Exact frames of videos in folders and buckets, reading just the bytes that they need."""


def main() -> None:
    """Run the command line."""
    app()
