"""How the command line speaks: where text goes, how errors look, and numbers as people read them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from lazyvid.errors import LazyVidError

DEBUG = "lazyvid.debug"
"""Key in a context's `meta`: show tracebacks."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
_WIDTH_WITHOUT_TERMINAL = 200


def stdout() -> Console:
    """Where results go; wide where no terminal sets a width, so that a line stays one line for `grep`."""
    return _wide(Console(highlight=False))


def stderr() -> Console:
    """Where errors and progress go."""
    return _wide(Console(stderr=True, highlight=False))


def _wide(console: Console) -> Console:
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    return console


def facts_table() -> Table:
    """A table of two columns without lines: a name and what is to be said about it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def progress_bar(*, unit: str) -> Progress:
    """A progress bar on stderr that leaves no trace; nothing where that is no terminal."""
    console = stderr()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def bytes_text(count: float) -> str:
    """A number of bytes with three digits or so: "512 bytes", "1.4 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds_text(seconds: float) -> str:
    """A time as "12.345 s", "3:07.5" or "2:00:00.0"."""
    if abs(seconds) < 60:
        return f"{seconds:.3f} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def count_text(count: int, noun: str) -> str:
    """A number with its noun: "1 frame", "12,000 frames"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class ReportingGroup(TyperGroup):
    """Commands whose errors are one line on stderr and exit code 1; `--debug` shows the traceback, too."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            with _shown_warnings():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of our output has gone, and the caller of this method knows what to do
        except (LazyVidError, OSError, ValueError) as error:
            console = stderr()
            if ctx.meta.get(DEBUG):
                console.print_exception(show_locals=False)
            console.print(f"[bold red]error:[/] {escape(one_line(error))}", soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            stderr().print("[yellow]interrupted[/]")
            raise typer.Exit(INTERRUPTED) from error


@contextlib.contextmanager
def _shown_warnings() -> Iterator[None]:
    """Show warnings as one line without the place in the code, which says nothing to whoever reads it here."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        stderr().print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield
