"""`lazyvid verify`: whether sidecars tell the truth about their videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from lazyvid.cli.console import count_text, one_line, progress_bar, stdout
from lazyvid.cli.options import Debug, EndpointUrl, IndexRoot, Profile, StoreOption, Uris, find_all, make_store
from lazyvid.cli.state import sidecar_state
from lazyvid.decoding.verify import VerifyReport, verify_index
from lazyvid.errors import LazyVidError
from lazyvid.storage import ObjectStore, display_uri


@dataclass(frozen=True, slots=True)
class _Finding:
    """What was found of one video."""

    report: VerifyReport | None
    messages: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.messages


def verify_command(
    uris: Uris,
    *,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every frame, from the file's start and by the index, and compare.")
    ] = False,
    index_root: IndexRoot = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Compare the sidecars of videos with the videos' bytes.

    Every packet with a known checksum is read again, and the packet table is compared with a fresh scan. Ends with exit
    code 1 if anything differs.
    """
    store = make_store(option, endpoint_url, profile)
    findings: list[tuple[str, _Finding]] = []
    with progress_bar(unit="packets and frames") as progress:
        found = find_all(uris, store)
        for uri in found.videos:
            task = progress.add_task(escape(display_uri(uri)), total=None)

            def advance(done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            findings.append((display_uri(uri), _verified(uri, store, index_root, decode=decode, progress=advance)))
            progress.remove_task(task)
    findings += [(pattern, _Finding(None, (reason,))) for pattern, reason in found.missing.items()]
    _show(findings, decode=decode)
    if not all(finding.ok for _, finding in findings):
        raise typer.Exit(1)


def _verified(
    uri: str, store: ObjectStore, index_root: str | None, *, decode: bool, progress: Callable[[int, int], None]
) -> _Finding:
    try:
        state = sidecar_state(uri, store=store, index_root=index_root)
        if state.index is None or not state.usable:
            return _Finding(None, (f"{state.name}: {' '.join(state.reason.split())}",))
        # Other tools list fewer frames than a file has, where its end came later.
        partial = state.name == "foreign"
        report = verify_index(uri, state.index, store=store, decode=decode, partial=partial, progress=progress)
    except LazyVidError as error:
        return _Finding(None, (one_line(error),))
    return _Finding(report, report.messages)


def _show(findings: list[tuple[str, _Finding]], *, decode: bool) -> None:
    console = stdout()
    table = Table()
    for name in ("video", "frames", "packets read", "wrong frames", "missing frames", "result"):
        table.add_column(name, justify="left" if name in ("video", "result") else "right", overflow="fold")
    for uri, finding in findings:
        report = finding.report
        numbers = ["-"] * 4
        if report is not None:
            counts = (report.frames, report.packets_read, len(report.wrong_frames), len(report.missing_frames))
            numbers = [f"{count:,}" for count in counts]
        failed = "[bold red]failed[/]" if report is None else "[bold red]differs[/]"
        table.add_row(escape(uri), *numbers, "[green]ok[/]" if finding.ok else failed)
    console.print(table)
    for uri, finding in findings:
        for message in finding.messages:
            console.print(f"[red]{escape(uri)}[/]: {escape(' '.join(message.split()))}", soft_wrap=True)
    wrong = sum(not finding.ok for _, finding in findings)
    style, verdict = (
        ("bold red", f"{wrong} of {count_text(len(findings), 'sidecar')} wrong")
        if wrong
        else ("bold green", f"{count_text(len(findings), 'sidecar')} right")
    )
    how = "bytes and pixels" if decode else "bytes; --decode compares pixels, too"
    console.print(f"[{style}]{verdict}[/] [dim]({how})[/]")
