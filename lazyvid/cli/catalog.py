"""`lazyvid catalog`: one table for many videos, built, extended, brought up to date and looked at."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from typer.core import TyperGroup

from lazyvid.cli.console import bytes_text, count_text, facts_table, progress_bar, seconds_text, stdout
from lazyvid.cli.options import Debug, EndpointUrl, IndexRoot, Profile, StoreOption, Uris, find_all, make_store
from lazyvid.errors import ObjectNotFoundError
from lazyvid.index.catalog import JOBS, Catalog, WhenGone
from lazyvid.index.catalog_build import CatalogChanges, OnError, Progress
from lazyvid.index.catalog_table import FACTS
from lazyvid.index.finding import FoundVideo
from lazyvid.index.indexing import Scan
from lazyvid.storage import ObjectStore, display_uri

catalog_app = typer.Typer(
    cls=TyperGroup, no_args_is_help=True, help="One table for many videos: with their indexes, and columns of yours."
)

_MOST_VALUES = 8

Place = Annotated[
    str,
    typer.Argument(metavar="CATALOG", help="Where the catalog lies: s3://bucket/catalog.lance.", show_default=False),
]
ColumnsFile = Annotated[
    Path | None,
    typer.Option(
        "--columns",
        help="Your own columns (labels, splits, ...): a CSV, Parquet or Feather file with a column `uri`.",
        metavar="FILE",
        exists=True,
        dir_okay=False,
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Videos at a time.")]
ScanOption = Annotated[
    Scan, typer.Option(help="header: read a few bytes of each MP4 without a sidecar. full: read all, keep checksums.")
]
ErrorOption = Annotated[
    OnError, typer.Option(help="raise: end at the first video that cannot be indexed. skip: leave such videos out.")
]


@catalog_app.command("build")
def build_command(
    catalog: Place,
    uris: Uris,
    *,
    columns: ColumnsFile = None,
    jobs: Jobs = JOBS,
    scan: ScanOption = "header",
    on_error: ErrorOption = "raise",
    index_root: IndexRoot = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Make a catalog of videos, in place of the one that may lie there.

    Sidecars are used where they fit, other videos are scanned; no sidecar is written.
    """
    store = make_store(option, endpoint_url, profile)
    with _progress() as on_progress:
        built = Catalog.build(
            _videos(uris, store),
            catalog,
            store=store,
            columns=_read_columns(columns),
            index_root=index_root,
            jobs=jobs,
            scan=scan,
            on_error=on_error,
            on_progress=on_progress,
        )
    _show_changes(built)


@catalog_app.command("append")
def append_command(
    catalog: Place,
    uris: Uris,
    *,
    columns: ColumnsFile = None,
    jobs: Jobs = JOBS,
    scan: ScanOption = "header",
    on_error: ErrorOption = "raise",
    index_root: IndexRoot = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Add videos to a catalog; those that are in it already stay as they are."""
    store = make_store(option, endpoint_url, profile)
    opened = Catalog.open(catalog, store=store)
    with _progress() as on_progress:
        opened.append(
            _videos(uris, store),
            columns=_read_columns(columns),
            index_root=index_root,
            jobs=jobs,
            scan=scan,
            on_error=on_error,
            on_progress=on_progress,
        )
    _show_changes(opened)


@catalog_app.command("refresh")
def refresh_command(
    catalog: Place,
    *,
    when_gone: Annotated[
        WhenGone, typer.Option(help="What becomes of the rows of videos that are no longer there.")
    ] = "drop",
    jobs: Jobs = JOBS,
    scan: ScanOption = "header",
    on_error: Annotated[
        OnError, typer.Option(help="raise: end at the first video that cannot be indexed. skip: keep its old row.")
    ] = "raise",
    index_root: IndexRoot = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Index the videos of a catalog anew that have changed."""
    opened = Catalog.open(catalog, store=make_store(option, endpoint_url, profile))
    with _progress() as on_progress:
        opened.refresh(
            when_gone=when_gone,
            index_root=index_root,
            jobs=jobs,
            scan=scan,
            on_error=on_error,
            on_progress=on_progress,
        )
    _show_changes(opened)


@catalog_app.command("info")
def info_command(
    catalog: Place,
    *,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Show what a catalog holds: videos, frames, sizes, and your own columns."""
    opened = Catalog.open(catalog, store=make_store(option, endpoint_url, profile))
    title = f"[bold]{escape(display_uri(opened.uri))}[/]"
    stdout().print(Panel(_facts(opened), title=title, title_align="left", expand=False, padding=(1, 2)))


def _videos(uris: Sequence[str], store: ObjectStore) -> list[FoundVideo]:
    found = find_all(uris, store)
    if found.missing:
        raise ObjectNotFoundError(" ".join(found.missing.values()))
    return list(found.listed)


def _read_columns(path: Path | None) -> Any:
    """The table in a file.

    Raises:
        typer.BadParameter: if it is of another kind, or damaged.
    """
    if path is None:
        return None
    try:
        return _reader(path.suffix.lower())(str(path))
    except (pa.ArrowException, OSError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="--columns") from error


def _reader(suffix: str) -> Callable[[str], Any]:
    if suffix == ".csv":
        from pyarrow.csv import read_csv

        return read_csv  # type: ignore[no-any-return]
    if suffix == ".parquet":
        from pyarrow.parquet import read_table

        return read_table  # type: ignore[no-any-return]
    if suffix in (".feather", ".arrow"):
        from pyarrow.feather import read_table as read_feather

        return read_feather  # type: ignore[no-any-return]
    raise typer.BadParameter(f"expected a .csv, .parquet or .feather file, got {suffix!r}.", param_hint="--columns")


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    with progress_bar(unit="videos") as progress:
        task = progress.add_task("indexing", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _show_changes(catalog: Catalog) -> None:
    """What was done; ends with exit code 1 if a video could not be indexed."""
    changes: CatalogChanges = catalog.changes
    console = stdout()
    for uri, reason in changes.failed.items():
        console.print(f"[red]failed[/] {escape(display_uri(uri))}: {escape(reason)}", soft_wrap=True)
    for uri in changes.gone:
        console.print(f"[yellow]gone[/] {escape(display_uri(uri))}", soft_wrap=True)
    table = Table(
        title=f"{count_text(len(catalog), 'video')} in {escape(display_uri(catalog.uri))}", title_justify="left"
    )
    table.add_column("")
    table.add_column("videos", justify="right")
    for name, style in (("added", "green"), ("changed", "cyan"), ("gone", "yellow"), ("failed", "red")):
        count = len(getattr(changes, name))
        table.add_row(name, f"{count:,}", style=style if count else "dim")
    console.print(table)
    if changes.failed:
        raise typer.Exit(1)


def _facts(catalog: Catalog) -> Table:
    facts = catalog.to_table(FACTS)
    table = facts_table()
    seconds = pc.sum(facts.column("duration")).as_py()
    table.add_row("videos", f"[bold]{len(catalog):,}[/], {bytes_text(pc.sum(facts.column('size')).as_py())}")
    table.add_row("frames", f"[bold]{int(catalog.frame_counts.sum()):,}[/], {seconds_text(seconds)}")
    table.add_row("codecs", _counted(facts.column("codec").to_pylist()))
    sizes = zip(facts.column("width").to_pylist(), facts.column("height").to_pylist(), strict=True)
    table.add_row("sizes", _counted([f"{width}x{height}" for width, height in sizes]))
    for name in catalog.columns[len(FACTS) :]:
        column = catalog.to_table([name]).column(name)
        table.add_row(escape(name), f"[dim]{escape(str(column.type))}[/] {_counted(map(str, column.to_pylist()))}")
    table.add_row("version", f"[dim]{catalog.content_hash}[/]")
    return table


def _counted(values: Any) -> str:
    """The values and how often each is there, if they are few; how many they are, if they are many."""
    counts = Counter(values)
    if len(counts) > _MOST_VALUES:
        return f"{len(counts):,} values"
    return ", ".join(f"{escape(value)}: {count:,}" for value, count in counts.most_common())
