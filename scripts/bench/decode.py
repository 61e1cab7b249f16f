"""Processor time to decode shuffled clips: lazyvid against torchcodec and decord2, and against the limit of libavcodec.

One thread everywhere. Every frame is compared before anything is timed; the contenders take turns in one process.

    python scripts/bench/decode.py --video a_real_video.mp4 --json bench-output/decode.json --markdown
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import av
import numpy as np
import typer
from common import Spread, Timing, geometric_mean, measure, one_thread, ratios, show_table, write_json
from content import Content
from peers import PEERS, Peer, Size, installed
from rich.console import Console

from lazyvid import build_index

OURS = "lazyvid"
THEIRS = "torchcodec"
"""Of its modes, the one that is best for a shape."""
MODES = ("torchcodec", "torchcodec-approximate", "torchcodec-mappings")
DEFAULT_PEERS = ["lazyvid", *MODES, "decord2", "spdl", "pyav", "limit", "limit-converted"]

# Levels of 255 by which the mean of a frame may differ from ours; full size, then resized.
ALLOWED: Mapping[str, tuple[float, float]] = {
    "torchcodec": (0.0, 2.0),  # it resizes RGB in a second pass
    "torchcodec-approximate": (0.0, 2.0),
    "torchcodec-mappings": (0.0, 2.0),
    "pyav": (0.0, 0.0),
    "spdl": (0.0, 2.0),  # through a filter graph, which may resize with other flags
    "decord2": (2.0, 4.0),  # it converts through a filter graph of its own, and resizes with another filter
    "limit-converted": (0.0, 0.0),
}


Order = Literal["shuffled", "uniform", "in turn"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What one row of the table decodes: `clips` clips of `frames` frames `stride` apart."""

    name: str
    encoding: str
    frames: int
    stride: int
    resize: Size | None
    clips: int
    order: Order = "shuffled"
    """"shuffled": anywhere; "uniform": each clip over the whole file; "in turn": each behind the one before."""

    def numbers(self, frame_count: int, *, share: float) -> list[list[int]]:
        """The frame numbers of each clip; the same in every run."""
        clips = max(1, round(self.clips * share))
        stride = (frame_count - clips) // (self.frames - 1) if self.order == "uniform" else self.stride
        span = (self.frames - 1) * stride + 1
        rng = random.Random(0)
        starts = {
            "shuffled": [rng.randrange(frame_count - span + 1) for _ in range(clips)],
            "uniform": list(range(clips)),
            "in turn": [number * span for number in range(min(clips, frame_count // span))],
        }
        return [list(range(start, start + span, stride)) for start in starts[self.order]]


_SMALL = (224, 224)
SHAPES = (
    Shape("H.264 GOP 250, 16 dense, full size", "h264-gop250", 16, 1, None, 10),
    Shape("H.264 GOP 30, 16 dense, full size", "h264-gop30", 16, 1, None, 24),
    Shape("H.264 GOP 30, 16 dense, to 224x224", "h264-gop30", 16, 1, _SMALL, 24),
    Shape("H.264 GOP 30, 8 at stride 8, to 224x224", "h264-gop30", 8, 8, _SMALL, 24),
    Shape("H.264 GOP 30, single frames, to 224x224", "h264-gop30", 1, 1, _SMALL, 60),
    Shape("H.264 GOP 2, 16 dense, to 224x224", "h264-gop2", 16, 1, _SMALL, 32),
    Shape("AV1 GOP 2, 16 dense, full size", "av1-gop2", 16, 1, None, 24),
    Shape("AV1 GOP 2, 2 frames 0.5 s apart, to 224x224", "av1-gop2", 2, 15, _SMALL, 80),
)
MORE_SHAPES = (
    Shape("H.264 GOP 30, 64 dense, to 224x224", "h264-gop30", 64, 1, _SMALL, 8),
    Shape("H.264 GOP 30, 10 over the file, to 224x224", "h264-gop30", 10, 0, _SMALL, 8, "uniform"),
    Shape("H.264 GOP 30, 16 dense, clip behind clip", "h264-gop30", 16, 1, None, 37, "in turn"),
    Shape("H.264 GOP 250, 16 dense, clip behind clip", "h264-gop250", 16, 1, None, 37, "in turn"),
    Shape("AV1 GOP 2, 16 dense, clip behind clip", "av1-gop2", 16, 1, None, 37, "in turn"),
)
"""Beside the eight of the targets."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a contender's frames are from ours."""

    worst_mean: float
    """Largest mean difference of a frame, in levels of 255."""
    largest: int
    """Largest difference of a value."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured for one shape."""

    shape: Shape
    clips: int
    differences: dict[str, Difference]
    timings: dict[str, list[Timing]]

    def cpu_ms(self, name: str) -> Spread:
        """Milliseconds of processor time a clip."""
        return Spread.of([1000 * timing.cpu for timing in self.timings[name]]) / self.clips

    def wall_ms(self, name: str) -> Spread:
        """Milliseconds of the clock a clip."""
        return Spread.of([1000 * timing.wall for timing in self.timings[name]]) / self.clips

    def mode(self, name: str) -> str:
        """For torchcodec, its best mode here; else the name itself."""
        ran = [mode for mode in MODES if mode in self.timings]
        return min(ran, key=lambda mode: self.cpu_ms(mode).median) if name == THEIRS and ran else name

    def ratio(self, slower: str, faster: str) -> Spread | None:
        """How many times the processor time of `faster` the other takes; None where one did not run."""
        slower = self.mode(slower)
        if slower not in self.timings or faster not in self.timings:
            return None
        return ratios(self.timings[slower], self.timings[faster])


# -- frames are compared first ----------------------------------------------------------------------------------------


class WrongFrames(Exception):
    """A contender gives other frames than a sequential decode."""


def digests(path: Path) -> list[bytes]:
    """A digest of each frame's RGB pixels in a sequential decode of the whole file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [_digest(picture.to_ndarray(format="rgb24")) for picture in container.decode(stream)]


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()


def compare(
    path: Path, shape: Shape, clips: Sequence[Sequence[int]], peers: Mapping[str, Peer], truth: Sequence[bytes]
) -> dict[str, Difference]:
    """Compare every frame of every clip: ours with a sequential decode at full size, the others with ours.

    Raises:
        WrongFrames: if ours is not equal at full size, or another's mean differs by more than `ALLOWED`.
    """
    full_size = PEERS[OURS](path, None)
    worst = {name: Difference(0.0, 0) for name in peers}
    for numbers in clips:
        if [_digest(frame) for frame in _pixels(full_size, numbers)] != [truth[number] for number in numbers]:
            raise WrongFrames(f"{OURS} and a sequential decode differ in frames {numbers} of {path.name}.")
        ours = _pixels(peers[OURS], numbers)
        for name, peer in peers.items():
            theirs = peer.clip(numbers)
            if theirs is not None:
                worst[name] = _worse(worst[name], ours, theirs.numpy())
    for name, difference in worst.items():
        allowed = ALLOWED.get(name, (0.0, 0.0))[shape.resize is not None]
        if difference.worst_mean > allowed:
            raise WrongFrames(f"{name} differs from {OURS} by {difference} (allowed mean {allowed}) in {shape.name}.")
    return worst


def _pixels(peer: Peer, numbers: Sequence[int]) -> np.ndarray:
    frames = peer.clip(numbers)
    if frames is None:
        raise TypeError(f"Expected frames of {peer}.")
    return frames.numpy()


def _worse(known: Difference, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    if ours.shape != theirs.shape:
        raise WrongFrames(f"Expected frames of shape {ours.shape}, found {theirs.shape}.")
    difference = np.abs(ours.astype(np.int16) - theirs)
    means = difference.reshape(len(difference), -1).mean(axis=1)
    return Difference(max(known.worst_mean, float(means.max())), max(known.largest, int(difference.max())))


# -- one run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that a run is asked for."""

    content: Content
    folder: Path
    peers: Sequence[str]
    repeats: int
    share: float
    scan: Literal["header", "full"]

    def videos(self, shapes: Sequence[Shape]) -> dict[str, Path]:
        """The files of these shapes by encoding, written and indexed."""
        paths = {name: self.content.write(self.folder, name) for name in {shape.encoding for shape in shapes}}
        for path in paths.values():
            build_index(path, scan=self.scan).save(path)
        return paths

    def run(self, shape: Shape, path: Path, truth: Sequence[bytes]) -> Row:
        """Compare, then measure one shape."""
        clips = shape.numbers(len(truth), share=self.share)
        peers = {name: PEERS[name](path, shape.resize) for name in self.peers}
        differences = compare(path, shape, clips, peers, truth)
        passes = {name: _Pass(peer, clips) for name, peer in peers.items()}
        return Row(shape, len(clips), differences, measure(passes, repeats=self.repeats))


@dataclass(frozen=True, slots=True)
class _Pass:
    """All clips of a shape through one contender."""

    peer: Peer
    clips: Sequence[Sequence[int]]

    def __call__(self) -> None:
        for numbers in self.clips:
            self.peer.clip(numbers)


# -- what is shown ----------------------------------------------------------------------------------------------------


def table_cells(rows: Sequence[Row], peers: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: processor milliseconds a clip, ratios to ours, and the share of the limit that we reach."""
    rivals = [name for name in peers if name not in (OURS, "limit", "limit-converted", *MODES[1:])]
    heads = ["clips", *(f"{name} ms (wall)" for name in (OURS, *rivals)), *(f"{name} / {OURS}" for name in rivals)]
    heads += [f"{THEIRS} / limit", "share of limit"]
    cells = []
    for row in rows:
        line = [row.shape.name, *(_milliseconds(row, name) for name in (OURS, *rivals))]
        line += [_range(row.ratio(name, OURS)) for name in rivals]
        line += [_median(row.ratio(THEIRS, "limit")), _median(_of_the_limit(row))]
        cells.append(line)
    mean = ["geometric mean", *[""] * (1 + len(rivals))]
    mean += [_mean([row.ratio(name, OURS) for row in rows]) for name in rivals]
    mean += [
        _mean([row.ratio(THEIRS, "limit") for row in rows]),
        _mean([_of_the_limit(row) for row in rows]),
    ]
    return heads, [*cells, mean]


def _of_the_limit(row: Row) -> Spread | None:
    """Clips in turn have no limit here: it starts each one anew."""
    return None if row.shape.order == "in turn" else row.ratio("limit-converted", OURS)


def _milliseconds(row: Row, name: str) -> str:
    name = row.mode(name)
    return f"{row.cpu_ms(name).median:.1f} ({row.wall_ms(name).median:.1f})"


def _range(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _median(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f}"


def _mean(spreads: Sequence[Spread | None]) -> str:
    known = [spread.median for spread in spreads if spread is not None]
    return f"{geometric_mean(known):.2f}" if known else ""


def _ratios(rows: Sequence[Row], peers: Sequence[str]) -> Iterator[tuple[str, float]]:
    """What `compare.py` looks at: higher is better."""
    for row in rows:
        for name in (THEIRS, "decord2", "spdl", "pyav", "limit-converted"):
            ratio = row.ratio(name, OURS) if name in peers else None
            if ratio is not None:
                yield f"{row.shape.name}: {name} / {OURS}", ratio.median


def as_json(bench: Bench, rows: Sequence[Row]) -> dict[str, object]:
    """The run and its figures, every pass included."""
    content = bench.content
    return {
        "content": {
            "video": content.video.name if content.video else "painted",
            "size": [content.width, content.height],
            "frames": content.frames,
        },
        "scan": bench.scan,
        "repeats": bench.repeats,
        "ratios": dict(_ratios(rows, bench.peers)),
        "shapes": [
            {
                "shape": row.shape,
                "clips": row.clips,
                "differences": row.differences,
                "cpu_ms_per_clip": {name: row.cpu_ms(name) for name in bench.peers},
                "wall_ms_per_clip": {name: row.wall_ms(name) for name in bench.peers},
                "best_torchcodec": row.mode(THEIRS),
                "cpu_times_ours": {name: row.ratio(name, OURS) for name in bench.peers if name != OURS},
                "passes": row.timings,
            }
            for row in rows
        ],
    }


def main(
    *,
    video: Annotated[Path | None, typer.Option(help="Real content; painted pictures without it.")] = None,
    repeats: Annotated[int, typer.Option(help="Passes that count.")] = 5,
    share: Annotated[float, typer.Option(help="Share of the clips, for a quick look.")] = 1.0,
    shape: Annotated[list[str] | None, typer.Option(help="Only shapes whose name holds this; may be repeated.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="Contenders; may be repeated.")] = None,
    more: Annotated[bool, typer.Option("--more", help="Further shapes, too.")] = False,
    size: Annotated[tuple[int, int], typer.Option(help="Width and height of the videos.")] = (640, 360),
    frames: Annotated[int, typer.Option(help="Frames of each video.")] = 600,
    scan: Annotated[Literal["header", "full"], typer.Option(help="How the sidecar is made.")] = "header",
    folder: Annotated[Path | None, typer.Option(help="Where the encoded videos are kept.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table for the README.")] = False,
) -> None:
    """Measure the processor time of decoding shuffled clips."""
    console = Console(stderr=markdown)
    console.width = console.width if console.is_terminal else 160
    shapes = [
        one
        for one in (SHAPES + MORE_SHAPES if more else SHAPES)
        if not shape or any(part in one.name for part in shape)
    ]
    names = installed(peer or DEFAULT_PEERS)
    for missing in set(peer or DEFAULT_PEERS) - set(names):
        console.print(f"{missing} is not installed (pip install lazyvid[bench]): left out")
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Content(video, *size, frames), folder or Path(temporary), names, repeats, share, scan)
        videos = bench.videos(shapes)
        one_thread()
        truth = {name: digests(path) for name, path in videos.items()}
        rows = []
        for one in shapes:
            console.print(f"{one.name} ...")
            rows.append(bench.run(one, videos[one.encoding], truth[one.encoding]))
            if json is not None:  # after each shape: a run that is ended early leaves what it has measured
                write_json(json, as_json(bench, rows))
    show_table(console, *table_cells(rows, names), title="processor time a clip, one thread", markdown=markdown)


if __name__ == "__main__":
    typer.run(main)
