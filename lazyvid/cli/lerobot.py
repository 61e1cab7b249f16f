"""`lazyvid lerobot`: a doctor for LeRobot datasets, their sidecars, and new datasets of episodes of others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table
from typer.core import TyperGroup

from lazyvid.cli.console import count_text, progress_bar, stdout
from lazyvid.cli.index import index_command
from lazyvid.cli.options import Debug, EndpointUrl, Profile, StoreOption, make_store
from lazyvid.lerobot.assembling import AssemblyPlan, SourceEpisode, assemble, episodes_of
from lazyvid.lerobot.check import check_dataset
from lazyvid.lerobot.metadata import DatasetPlace, LeRobotMetadata
from lazyvid.lerobot.report import CheckReport
from lazyvid.lerobot.sending import local_folder
from lazyvid.storage import ObjectStore, display_uri, join_uri

lerobot_app = typer.Typer(
    cls=TyperGroup, no_args_is_help=True, help="LeRobot datasets: checked, indexed, split, merged, episodes left out."
)

_MOST_EPISODES = 20

DatasetUri = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="A dataset's folder: a path, or s3://bucket/dataset.", show_default=False),
]
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="Where the new dataset goes; nothing may lie there.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]


@contextlib.contextmanager
def shown_progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for work that says how far it is."""
    with progress_bar(unit=unit) as progress:
        tasks: dict[str, TaskID] = {}
        yield lambda what, done, total: _advance(progress, tasks, what, done, total)


def _advance(progress: Progress, tasks: dict[str, TaskID], what: str, done: int, total: int) -> None:
    if what not in tasks:
        tasks[what] = progress.add_task(what, total=total)
    progress.update(tasks[what], completed=done, total=total)


# -- check ------------------------------------------------------------------------------------------------------------


@lerobot_app.command("check")
def check_command(
    dataset: DatasetUri,
    *,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every frame, too.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show every episode, not only those with errors.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 1 for warnings, too.")] = False,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Hold tables, rows, videos and statistics against one another and name what is wrong.

    Ends with exit code 1 if there is an error: items are wrong or cannot be read.
    """
    store = make_store(option, endpoint_url, profile)
    with shown_progress("files") as advance:
        report = check_dataset(dataset, store=store, decode=decode, advance=advance)
    _show_report(report, everything=everything)
    if not report.ok or (strict and report.findings):
        raise typer.Exit(1)


def _show_report(report: CheckReport, *, everything: bool) -> None:
    console = stdout()
    for finding in report.findings:
        style = "red" if finding.level == "error" else "yellow"
        console.print(f"[{style}]{finding.level}[/] {escape(str(finding))}", soft_wrap=True)
    wrong = set(report.wrong_episodes())
    lines = [line for line in report.episodes if everything or line.number in wrong]
    cameras = list(dict.fromkeys(key for line in report.episodes for key in line.frames))
    if lines:
        table = Table("episode", "length", "rows", *map(escape, cameras))
        for line in lines if everything else lines[:_MOST_EPISODES]:
            counts = [line.rows, *(line.frames.get(camera) for camera in cameras)]
            cells = [_cell(count, line.length) for count in counts]
            table.add_row(str(line.number), str(line.length), *cells)
        console.print(table)
        if not everything and len(lines) > _MOST_EPISODES:
            console.print(f"... and {len(lines) - _MOST_EPISODES} more: --all shows them")
    errors = sum(finding.level == "error" for finding in report.findings)
    frames = sum(line.length for line in report.episodes)
    what = f"{count_text(len(report.episodes), 'episode')}, {count_text(frames, 'frame')}"
    found = f"{count_text(errors, 'error')}, {count_text(len(report.findings) - errors, 'warning')}"
    style = "red" if errors else "yellow" if report.findings else "green"
    console.print(f"[{style}]{found}[/] in {escape(report.uri)} ({what})", soft_wrap=True)


def _cell(count: int | None, expected: int) -> str:
    if count is None:
        return "[red]unreadable[/]"
    return str(count) if count == expected else f"[red]{count}[/]"


# -- index ------------------------------------------------------------------------------------------------------------


@lerobot_app.command("index")
def index_videos_command(
    dataset: DatasetUri,
    *,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Videos at a time.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Write sidecars that are fresh, too.")] = False,
    dry_run: DryRun = False,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,
) -> None:
    """Write the sidecars of all videos of a dataset, so that opening one needs no look into it."""
    store = make_store(option, endpoint_url, profile)
    meta = LeRobotMetadata.open(DatasetPlace.of(dataset, store=store))
    folder = meta.info.video_path.partition("{")[0].rstrip("/")
    index_command(
        [join_uri(meta.root, folder)],
        jobs=jobs,
        force=force,
        dry_run=dry_run,
        option=option,
        endpoint_url=endpoint_url,
        profile=profile,
        debug=debug,
    )


# -- new datasets -----------------------------------------------------------------------------------------------------


@lerobot_app.command("split")
def split_command(
    dataset: DatasetUri,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The folder of the new datasets, one a part.", show_default=False)
    ],
    *,
    part: Annotated[
        list[str],
        typer.Option(
            "--part",
            help="A part and its episodes, may be repeated: train=0-79 val=80-89,95.",
            metavar="NAME=EPISODES",
            show_default=False,
        ),
    ],
    dry_run: DryRun = False,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Make a dataset of each part of a dataset's episodes; the dataset itself stays as it is.

    Packets are copied where episodes begin at key frames, as LeRobot writes them.
    """
    store = make_store(option, endpoint_url, profile)
    meta = LeRobotMetadata.open(DatasetPlace.of(dataset, store=store))
    parts = [_parsed_part(text, len(meta.episodes)) for text in part]
    for name, numbers in parts:
        episodes = [SourceEpisode(meta, number) for number in numbers]
        _assemble(episodes, join_uri(store.resolve(target), name), store, dry_run=dry_run)


def _parsed_part(text: str, count: int) -> tuple[str, list[int]]:
    name, equals, numbers = text.partition("=")
    if not equals or not name or "/" in name or name.startswith("."):
        raise typer.BadParameter("expected NAME=EPISODES, such as train=0-79.", param_hint="--part")
    return name, parse_episodes(numbers, count, hint="--part")


def parse_episodes(text: str, count: int, *, hint: str) -> list[int]:
    """Numbers of "0-9,12": single ones, and ranges with both ends.

    Raises:
        typer.BadParameter: if it is something else, or there is no such episode.
    """
    numbers: list[int] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        first, _, last = piece.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise typer.BadParameter(f"expected episodes such as 0-9,12, got {piece!r}.", param_hint=hint)
        numbers += range(int(first), int(last or first) + 1)
    outside = [number for number in numbers if number >= count]
    if outside or not numbers or len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"expected episodes from 0 to {count - 1}, each once, got {text!r}.", param_hint=hint)
    return numbers


@lerobot_app.command("merge")
def merge_command(
    datasets: Annotated[
        list[str], typer.Argument(metavar="DATASET...", help="Datasets, in their order.", show_default=False)
    ],
    *,
    into: Annotated[str, typer.Option(help="Where the new dataset goes.", metavar="TARGET", show_default=False)],
    dry_run: DryRun = False,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Make one dataset of several with the same features and rate; one of format v2.1 becomes one of v3.0."""
    store = make_store(option, endpoint_url, profile)
    metas = [LeRobotMetadata.open(DatasetPlace.of(dataset, store=store)) for dataset in datasets]
    _assemble(episodes_of(metas), into, store, dry_run=dry_run)


@lerobot_app.command("delete-episodes")
def delete_command(
    dataset: DatasetUri,
    target: Target,
    *,
    episodes: Annotated[str, typer.Option(help="Those to leave out: 3,7-9.", metavar="EPISODES", show_default=False)],
    dry_run: DryRun = False,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Make a dataset without some episodes of another one, which stays as it is."""
    store = make_store(option, endpoint_url, profile)
    meta = LeRobotMetadata.open(DatasetPlace.of(dataset, store=store))
    gone = parse_episodes(episodes, len(meta.episodes), hint="--episodes")
    _assemble(episodes_of([meta], without=gone), target, store, dry_run=dry_run)


def _assemble(episodes: Sequence[SourceEpisode], target: str, store: ObjectStore, *, dry_run: bool) -> None:
    with shown_progress("") as advance, local_folder(target, store, advance) as folder:
        plan = assemble(episodes, folder, dry_run=dry_run, advance=advance)
    _show_plan(plan, target, dry_run=dry_run)


def _show_plan(plan: AssemblyPlan, target: str, *, dry_run: bool) -> None:
    table = Table("camera", "videos", "packets copied", "encoded anew")
    for camera, (copied, encoded) in plan.videos.items():
        table.add_row(escape(camera), str(copied + encoded), str(copied), f"[yellow]{encoded}[/]" if encoded else "0")
    console = stdout()
    if plan.videos:
        console.print(table)
    did: Any = "would make" if dry_run else "made"
    what = f"{count_text(len(plan.episodes), 'episode')}, {count_text(plan.frames, 'frame')}"
    console.print(f"{did} {escape(display_uri(target))}: {what}", soft_wrap=True)
