"""`lazyvid recover`: finishes what killed recorders left, and says what was whole, what was mended and what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from lazyvid.cli.console import count_text, one_line, stdout
from lazyvid.cli.options import Debug, EndpointUrl, Profile, StoreOption, make_store
from lazyvid.errors import LazyVidError
from lazyvid.lerobot.layout import LeRobotLayout
from lazyvid.lerobot.schema import INFO_PATH
from lazyvid.recording.layout import Layout, RecordingLayout
from lazyvid.recording.recover import RecoveredEpisode, RecoverReport, recover
from lazyvid.recording.spool import place_of
from lazyvid.storage import ObjectStore, display_uri

Verdict = Literal["whole", "mended", "lost", "failed"]

_STYLES: dict[Verdict, str] = {"whole": "dim", "mended": "green", "lost": "yellow", "failed": "red"}


@dataclass(frozen=True, slots=True)
class _Line:
    """What is said about one thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str


def recover_command(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Recordings, or single MP4s.", show_default=False)
    ],
    *,
    spool_dir: Annotated[
        str | None, typer.Option(help="For a recording in a bucket: the spool folder it was made with.", metavar="DIR")
    ] = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Finish what a killed recorder left: videos, sidecars, rows and uploads.

    Doing it again changes nothing. Ends with exit code 1 if something could not be recovered.
    """
    store = make_store(option, endpoint_url, profile)
    table = Table()
    table.add_column("", overflow="fold")
    table.add_column("is")
    table.add_column("what there is of it", overflow="fold")
    lines = [line for path in paths for line in _recovered(path, store, spool_dir)]
    for line in lines:
        table.add_row(escape(line.name), line.verdict, escape(line.detail), style=_STYLES[line.verdict])
    stdout().print(table)
    if any(line.verdict == "failed" for line in lines):
        raise typer.Exit(1)


def _recovered(path: str, store: ObjectStore, spool_dir: str | None) -> list[_Line]:
    """Recover one path; an error is a line, so that the others have their turn."""
    name = display_uri(path)
    try:
        report = recover(path, layout=_layout_of(path, store, spool_dir), store=store, spool_dir=spool_dir)
    except (LazyVidError, OSError, ValueError) as error:
        return [_Line(name, "failed", one_line(error))]
    return list(_lines(name, report)) if report.changed else [_Line(name, "whole", "nothing to recover")]


def _layout_of(path: str, store: ObjectStore, spool_dir: str | None) -> Layout:
    """What lies there, or in the spool folder of what lies there."""
    root = place_of(path, store=store, storage_options=None, spool_dir=spool_dir).root
    return LeRobotLayout() if (root / INFO_PATH).is_file() else RecordingLayout()


def _lines(name: str, report: RecoverReport) -> Iterator[_Line]:
    for frames in report.videos.values():
        yield _Line(name, "mended", f"{count_text(frames, 'frame')}, and a sidecar")
    for episode in report.episodes:
        verdict: Verdict = "mended" if episode.rows else "lost"
        yield _Line(f"{name}, episode {episode.number}", verdict, _what_is_left(episode))
    if report.uploaded:
        yield _Line(name, "mended", f"{count_text(report.uploaded, 'video')} uploaded")


def _what_is_left(episode: RecoveredEpisode) -> str:
    missing = [f"{camera} {count}" for camera, count in episode.missing_frames.items() if count]
    parts = [
        f"{count_text(episode.rows, 'row')} kept, {episode.lost_rows:,} lost",
        f"rows without a frame: {', '.join(missing)}" if missing and episode.rows else "",
        "" if episode.saved else "never saved: as far as it was recorded",
    ]
    return "; ".join(filter(None, parts))
