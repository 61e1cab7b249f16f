"""`lazyvid info`: what a video is, how it is built, and how its sidecar stands to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from lazyvid import timing
from lazyvid.cli.console import bytes_text, count_text, facts_table, one_line, seconds_text, stdout
from lazyvid.cli.options import Debug, EndpointUrl, IndexRoot, Profile, StoreOption, Uri, make_store
from lazyvid.cli.state import SidecarState, State, sidecar_state
from lazyvid.decoding.plan import DecodeOrder
from lazyvid.index.frame_index import NO_PTS, UNKNOWN, FrameIndex
from lazyvid.index.placing import located
from lazyvid.index.probe import build_index
from lazyvid.storage import display_uri, sidecar_uri

_STATE_STYLES: dict[State, str] = {
    "fresh": "bold green",
    "foreign": "bold cyan",
    "stale": "bold red",
    "corrupt": "bold red",
    "missing": "bold yellow",
}
_STATE_MEANINGS: dict[State, str] = {
    "fresh": "describes the video",
    "foreign": "written by another tool; describes the video",
    "stale": "describes another file",
    "corrupt": "damaged",
    "missing": "none; the facts above were scanned",
}


def info_command(
    uri: Uri,
    *,
    index_root: IndexRoot = None,
    option: StoreOption = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    debug: Debug = False,  # noqa: ARG001 - its callback has done the work
) -> None:
    """Show a video's stream, groups of pictures, sizes and the state of its sidecar."""
    store = make_store(option, endpoint_url, profile)
    video = store.resolve(uri)
    state = sidecar_state(video, store=store, index_root=index_root)
    index = state.index if state.usable and state.index is not None else build_index(video, store=store)
    sidecar = sidecar_uri(video, index_root=None if index_root is None else store.resolve(index_root))
    parts = [_stream(index), _structure(index), _files(index, video)]
    if len(index.segments) > 1:
        parts.append(_segments(index))
    parts.append(_sidecar(state, display_uri(sidecar)))
    title = f"[bold]{escape(display_uri(video))}[/]"
    stdout().print(Panel(Group(*_spaced(parts)), title=title, title_align="left", expand=False, padding=(1, 2)))


def _spaced(tables: list[Table]) -> list[Table | str]:
    spaced: list[Table | str] = []
    for table in tables:
        spaced += [table, ""]
    return spaced[:-1]


def _stream(index: FrameIndex) -> Table:
    source = index.sources[0]
    height, width = source.display_size
    begin, end = (float(index.timestamp.min()), index.end_seconds) if len(index) else (0.0, 0.0)
    table = facts_table()
    table.add_row("codec", f"[bold]{source.codec}[/] {source.pix_fmt}, in {source.container}")
    table.add_row("size", f"[bold]{width}x{height}[/]{_turned(index)}")
    fps = len(index) / (end - begin) if end > begin else 0.0
    table.add_row("frames", f"[bold]{len(index):,}[/] at {fps:.6g} per second{_regularity(index)}")
    table.add_row("duration", f"[bold]{seconds_text(end - begin)}[/] ({begin:.6g} s to {end:.6g} s)")
    table.add_row("time base", f"{source.time_base} s")
    return table


def _turned(index: FrameIndex) -> str:
    source = index.sources[0]
    notes = [f"turned by {source.rotation} degrees"] if source.rotation else []
    notes += ["mirrored"] if source.hflip else []
    notes += [f"pixels of {source.sample_aspect_ratio}"] if source.sample_aspect_ratio != 1 else []
    return f" ({', '.join(notes)})" if notes else ""


def _regularity(index: FrameIndex) -> str:
    steps = np.diff(np.sort(index.timestamp))
    if not len(steps) or steps.max() - steps.min() <= 0.01 * timing.median_step(index.timestamp):
        return ""
    return f" on average, {steps.min():.4g} to {steps.max():.4g} s apart"


@dataclass(frozen=True, slots=True)
class Structure:
    """How a video's packets depend on one another."""

    gop_lengths: tuple[int, ...]
    """Packets from each key packet to the next one, over all sources."""
    reordered: int
    """Frames that are shown before a packet that precedes them in the file (B-frames)."""
    disposable: int
    """Packets that no other one refers to."""
    unjudged: int
    """Packets of which that is not known, because their payload was not read."""

    @classmethod
    def of(cls, index: FrameIndex) -> Structure:
        """The structure of all sources of an index."""
        lengths: list[int] = []
        reordered = disposable = unjudged = 0
        for source_idx in range(len(index.sources)):
            order = DecodeOrder.of(index, source_idx)
            lengths += np.diff([*order.keys.tolist(), len(order)]).tolist()
            times = order.pts[order.pts != NO_PTS]
            reordered += int(np.sum(times < np.maximum.accumulate(times))) if len(times) else 0
            disposable += int(np.sum(order.disposable == 1))
            unjudged += int(np.sum(order.disposable == UNKNOWN))
        return cls(tuple(lengths), reordered, disposable, unjudged)


def _structure(index: FrameIndex) -> Table:
    found = Structure.of(index)
    packets = len(index.packets) + len(index.hidden)
    lengths = np.array(found.gop_lengths)
    table = facts_table()
    table.add_row(
        "groups of pictures",
        f"[bold]{len(lengths):,}[/], of {lengths.min()} / {np.median(lengths):g} / {lengths.max()} packets "
        "(shortest / median / longest)",
    )
    table.add_row("B-frames", f"{_share(found.reordered, packets)} shown before a packet that precedes them")
    if found.unjudged == packets:
        judged = "not known: a header scan does not look into packets (lazyvid index --scan full)"
    else:
        judged = f"{_share(found.disposable, packets)}, left out where nobody asks for them"
        judged += f"; {found.unjudged:,} not known" if found.unjudged else ""
    table.add_row("disposable", judged)
    if len(index.hidden):
        table.add_row("hidden", f"{count_text(len(index.hidden), 'packet')} that are decoded and never shown")
    payload = int(index.packets.size.sum() + index.hidden.size.sum())
    if payload > 0:
        seconds = index.end_seconds - float(index.timestamp.min())
        rate = f", {bytes_text(payload / seconds)}/s" if seconds > 0 else ""
        table.add_row("video bytes", f"{bytes_text(payload)}{rate}, {bytes_text(payload / packets)} a packet")
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.0%}"


def _files(index: FrameIndex, video: str) -> Table:
    table = facts_table()
    reached = {"packets": "byte ranges", "container": "demuxing the file", "sequential": "decoding from the start"}
    for number, (source, uri) in enumerate(zip(index.sources, located(index, video), strict=True)):
        name = "file" if len(index.sources) == 1 else f"source {number}"
        where = "" if uri == video else f"{escape(display_uri(uri))}: "
        stream = f", video stream {source.stream}" if source.stream else ""
        table.add_row(name, f"{where}{bytes_text(source.size)}, read by {reached[source.addressing]}{stream}")
    return table


def _segments(index: FrameIndex) -> Table:
    table = facts_table()
    counts = index.segment_frame_counts()
    shown = ", ".join(f"{count:,}" for count in counts[:12])
    table.add_row("segments", f"[bold]{len(counts)}[/], of {shown}{', ...' if len(counts) > 12 else ''} frames")
    return table


def _sidecar(state: SidecarState, sidecar: str) -> Table:
    table = facts_table()
    table.add_row("sidecar", f"[{_STATE_STYLES[state.name]}]{state.name}[/]: {_STATE_MEANINGS[state.name]}")
    table.add_row("", f"[dim]{escape(sidecar)}[/]")
    if state.name in ("stale", "corrupt"):
        table.add_row("", escape(one_line(ValueError(state.reason))))
    elif state.name == "missing":
        table.add_row("", "to write it: lazyvid index")
    return table
