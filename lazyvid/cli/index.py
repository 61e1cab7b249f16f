"""`lazyvid index`: writes the sidecars that are missing, stale or damaged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from lazyvid.cli.console import count_text, one_line, progress_bar, seconds_text, stdout
from lazyvid.cli.options import Debug, EndpointUrl, IndexRoot, Profile, StoreOption, Uris, find_all, make_store
from lazyvid.cli.state import SidecarState, sidecar_state
from lazyvid.errors import LazyVidError, ObjectChangedError, ObjectNotFoundError
from lazyvid.index.finding import FoundVideo
from lazyvid.index.indexing import Scan, is_full, scan_again, with_known_times
from lazyvid.index.jobs import each_as_done
from lazyvid.index.sidecar import write_sidecar
from lazyvid.storage import ObjectStore, display_uri

Status = Literal["indexed", "fresh", "failed", "to index"]

_STYLES: dict[Status, str] = {"indexed": "green", "to index": "cyan", "fresh": "dim", "failed": "red"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one video."""

    status: Status
    reason: str = ""
    """Why it was indexed, is to be, or could not be."""
    frames: int = 0
    """Frames of an index that was written."""


@dataclass(frozen=True, slots=True)
class Indexer:
    """How sidecars are to be written."""

    store: ObjectStore
    index_root: str | None
    scan: Scan
    force: bool
    dry_run: bool

    def __call__(self, video: FoundVideo) -> Outcome:
        """Write a video's sidecar where it is needed."""
        try:
            try:
                return self._indexed(video)
            except (ObjectChangedError, ObjectNotFoundError):
                if video.head is None:
                    raise
                return self._indexed(FoundVideo(video.uri))  # it was replaced since it was listed
        except (LazyVidError, ValueError) as error:
            return Outcome("failed", one_line(error))

    def _indexed(self, video: FoundVideo) -> Outcome:
        state = sidecar_state(video.uri, store=self.store, index_root=self.index_root, listed=video)
        reason = self._reason(state)
        if reason is None:
            return Outcome("fresh")
        if self.dry_run:
            return Outcome("to index", reason)
        heads = {} if video.head is None else {video.uri: video.head}
        index = scan_again(video.uri, state.index, store=self.store, scan=self.scan, heads=heads)
        if state.usable and state.index is not None:
            index = with_known_times(index, state.index)
        bare = video.bare and self.index_root is None
        write_sidecar(index, video.uri, store=self.store, index_root=self.index_root, replacing=not bare)
        return Outcome("indexed", reason, len(index))

    def _reason(self, state: SidecarState) -> str | None:
        """Why a sidecar must be written; None where it need not be."""
        if not state.usable:
            return state.name
        if self.force:
            return "forced"
        # Another tool's sidecar is that tool's to write.
        if self.scan == "full" and state.name == "fresh" and state.index is not None and not is_full(state.index):
            return "not scanned in full"
        return None


def index_command(
    uris: Uris,
    *,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Videos at a time.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Write sidecars that are fresh, too.")] = False,
    scan: Annotated[
        Scan, typer.Option(help="header: read a few bytes of each MP4. full: read all, and keep checksums.")
    ] = "header",
    index_root: IndexRoot = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")] = False,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Write the sidecars of videos: where every frame is.

    Those that are fresh are skipped. Ends with exit code 1 if a video could not be indexed.
    """
    store = make_store(option, endpoint_url, profile)
    indexer = Indexer(store, index_root, scan, force, dry_run)
    started = time.monotonic()
    outcomes: dict[str, Outcome] = {}
    with progress_bar(unit="videos") as progress:
        task = progress.add_task("looking for videos", total=None)
        found = find_all(uris, store)
        progress.update(task, description="indexing", total=len(found.videos))
        for video, outcome in each_as_done(indexer, found.listed, jobs=jobs):
            outcomes[video.uri] = outcome
            progress.advance(task)
    shown = [(display_uri(uri), outcomes[uri]) for uri in found.videos]
    shown += [(pattern, Outcome("failed", reason)) for pattern, reason in found.missing.items()]
    _show(shown, seconds=time.monotonic() - started)
    if any(outcome.status == "failed" for _, outcome in shown):
        raise typer.Exit(1)


def _show(outcomes: Sequence[tuple[str, Outcome]], *, seconds: float) -> None:
    console = stdout()
    for uri, outcome in outcomes:
        if outcome.status in ("failed", "to index"):
            style = _STYLES[outcome.status]
            line = f"[{style}]{outcome.status}[/] {escape(uri)}: {escape(outcome.reason)}"
            console.print(line, soft_wrap=True)
    table = Table(title=f"{count_text(len(outcomes), 'video')} in {seconds_text(seconds)}", title_justify="left")
    table.add_column("")
    table.add_column("videos", justify="right")
    table.add_column("why", overflow="fold")
    counts = Counter(outcome.status for _, outcome in outcomes)
    for status, style in _STYLES.items():
        if counts[status] or status in ("indexed", "fresh", "failed"):
            table.add_row(
                status, f"{counts[status]:,}", _why(status, outcomes), style=style if counts[status] else "dim"
            )
    console.print(table)


def _why(status: Status, outcomes: Sequence[tuple[str, Outcome]]) -> str:
    """The reasons of all videos with this status, as far as they fit a table."""
    chosen = [outcome for _, outcome in outcomes if outcome.status == status]
    if status == "failed":
        return "see above" if chosen else ""
    reasons = Counter(outcome.reason for outcome in chosen if outcome.reason)
    frames = sum(outcome.frames for outcome in chosen)
    parts = [f"{reason}: {count:,}" for reason, count in reasons.most_common()]
    return ", ".join([*parts, *([f"{frames:,} frames"] if frames else [])])
