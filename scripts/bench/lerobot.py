"""A LeRobot dataset read in random order by worker processes: lazyvid against torchcodec, used as LeRobot uses it.

Both read the same items in the same order: the rows, and of each camera two frames by `delta_timestamps`. torchcodec's
decoders seek approximately, are asked for `round(t * average rate)`, once a camera and item, each camera in a thread of
its own, and the last 100 of them are kept, as LeRobot 0.6 does; it is given the rows for nothing. In turns, in one run.

What counts are passes in the middle of a training: each worker has met each file before (that first pass is timed, too,
and written to the JSON file as `first`). Files have as many frames as LeRobot puts into one of 200 MB; where there are
more of them than fit a disk, their frames lie in the same bytes (`repeated.py`), which are in memory for both.

    python scripts/bench/lerobot.py --json bench-output/lerobot.json
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from common import Spread, write_json
from content import FPS, Content
from lerobot_content import CAMERAS, Shape, video_path, write_dataset
from repeated import repeated
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lazyvid.lerobot import LeRobotDataset
from lazyvid.storage import ObjectStore
from lazyvid.testing import CountingProxy, S3Server
from lazyvid.training.collate import collate_clips

DELTAS = (-1, 0)
CACHE_SIZE = 100
"""LeRobot's own default."""
CLIP_FRAMES = 60
"""Frames that are encoded."""
EPISODE_CLIPS = 5
"""Repetitions of them that make an episode."""
FEW = 10
"""Files of each camera that may be as large as they look."""


# -- torchcodec, as LeRobot uses it -----------------------------------------------------------------------------------


class DecoderCache:
    """The decoders used last, with the files that they read."""

    def __init__(self, capacity: int, storage_options: Mapping[str, Any]) -> None:
        self._capacity, self._options = capacity, storage_options
        self._kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, uri: str) -> Any:
        """A file's decoder."""
        with self._lock:
            if uri in self._kept:
                self._kept.move_to_end(uri)
                return self._kept[uri][0]
            file = import_module("fsspec").open(uri, **self._options).__enter__()
            decoder = import_module("torchcodec.decoders").VideoDecoder(file, seek_mode="approximate")
            self._kept[uri] = decoder, file
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)[1][1].close()
            return decoder


class TorchCodecDataset(Dataset[dict[str, Any]]):
    """Items by torchcodec, one after the other."""

    def __init__(self, root: str, shape: Shape, *, return_uint8: bool, storage_options: Mapping[str, Any]) -> None:
        self._root, self._shape, self._return_uint8 = root, shape, return_uint8
        self._options = dict(storage_options)
        self._cache: DecoderCache | None = None
        self._rows = {key: torch.zeros(shape.episode_frames, 6) for key in ("observation.state", "action")}

    def __len__(self) -> int:
        return self._shape.total

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._cache is None:
            self._cache = DecoderCache(CACHE_SIZE, self._options)
        file, place = divmod(index, self._shape.frames)
        frame = index % self._shape.episode_frames
        begin = place - frame
        times = [(begin + max(frame + delta, 0)) / FPS for delta in DELTAS]
        item: dict[str, Any] = {key: values[frame] for key, values in self._rows.items()}
        item |= {"index": torch.tensor(index), "episode_index": torch.tensor(index // self._shape.episode_frames)}
        item |= {"frame_index": torch.tensor(frame), "timestamp": torch.tensor(frame / FPS), "task": "pick"}
        with ThreadPoolExecutor(max_workers=len(CAMERAS)) as pool:
            decode = partial(self._decode, file=file, times=times, cache=self._cache)
            item |= dict(zip(CAMERAS, pool.map(decode, CAMERAS), strict=True))
        return item

    def _decode(self, camera: str, *, file: int, times: Sequence[float], cache: DecoderCache) -> Tensor:
        decoder = cache.get(f"{self._root}/{video_path(camera, file)}")
        rate = decoder.metadata.average_fps
        found = decoder.get_frames_at(indices=[round(seconds * rate) for seconds in times])
        asked, got = torch.tensor(times, dtype=torch.float64), found.pts_seconds
        distances, nearest = torch.cdist(asked[:, None], got[:, None], p=1).min(1)
        if not (distances <= 1e-4).all():
            raise ValueError(f"No frames near {times} in {camera} of file {file}: found {got.tolist()}.")
        frames = torch.stack([found.data[place] for place in nearest.tolist()])
        return frames if self._return_uint8 else (frames / 255.0).to(torch.float32)


# -- speed ------------------------------------------------------------------------------------------------------------


class Order(Sampler[int]):
    """The same items for all: first one of each file for each worker, then random ones, anew in each epoch."""

    def __init__(self, shape: Shape, *, count: int, workers: int, batch: int) -> None:
        self._shape, self._count, self._workers, self._batch = shape, count, workers, batch
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[int]:
        return iter(self._items())

    def _items(self) -> list[int]:
        generator = np.random.default_rng(self.epoch)
        if self.epoch:
            return [int(item) for item in generator.integers(0, self._shape.total, self._count)]
        # Batches go to the workers in turn: each one is there once for each of them.
        files = np.array_split(generator.permutation(self._shape.files), -(-self._shape.files // self._batch))
        return [file * self._shape.frames for some in files for _ in range(self._workers) for file in some.tolist()]


@dataclass(slots=True)
class Contender:
    """A loader with its workers running."""

    loader: DataLoader[Any]
    order: Order

    def items_per_second(self, epoch: int) -> float:
        """Of one pass over an epoch's items."""
        self.order.epoch = epoch
        began, count = time.perf_counter(), 0
        for batch in self.loader:
            count += len(batch["index"])
        return count / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of all loaders."""

    workers: int
    batch: int
    return_uint8: bool


def contender(
    dataset: Dataset[Any], collate: Callable[[list[Any]], Any], shape: Shape, settings: Settings, items: int
) -> Contender:
    """Workers that stay, so that starting them is no part of a pass."""
    order = Order(shape, count=items, workers=settings.workers, batch=settings.batch)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=settings.batch,
        sampler=order,
        num_workers=settings.workers,
        persistent_workers=True,
        multiprocessing_context="forkserver",
        collate_fn=collate,
    )
    return Contender(loader, order)


def check_same(one: Dataset[Any], other: Dataset[Any], total: int) -> float:
    """The largest mean difference of a picture, in levels; raises where they show other frames."""
    worst = 0.0
    for index in (0, 1, total // 2, total - 1):
        a, b = one[index], other[index]
        for camera in CAMERAS:
            levels = [x[camera].to(torch.float32) * (1 if x[camera].dtype == torch.uint8 else 255) for x in (a, b)]
            worst = max(worst, float((levels[0] - levels[1]).abs().mean()))
    if worst > 3:
        raise RuntimeError(f"The contenders give other frames: they differ by {worst} levels.")
    return worst


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset lies."""

    name: Literal["local", "s3"]
    root: str
    options: Mapping[str, Any]

    def datasets(self, shape: Shape, *, return_uint8: bool) -> dict[str, Dataset[Any]]:
        """By contender."""
        ours = LeRobotDataset(
            self.root,
            delta_timestamps={key: [delta / FPS for delta in DELTAS] for key in CAMERAS},
            storage_options=self.options or None,
            return_uint8=return_uint8,
        )
        theirs = TorchCodecDataset(self.root, shape, return_uint8=return_uint8, storage_options=self.options)
        return {"lazyvid": ours, "torchcodec": theirs}


@dataclass(frozen=True, slots=True)
class Result:
    """One setting."""

    place: Literal["local", "s3"]
    shape: Shape
    items: int
    """Of a pass."""
    first: Mapping[str, float]
    """Items a second of the pass in which each worker opens each file, which does not count."""
    lazyvid: Spread
    """Items a second."""
    torchcodec: Spread
    """Items a second."""
    ratio: Spread
    """Pass by pass."""
    difference: float
    """The largest mean difference of a picture, in levels."""


def run(place: Place, shape: Shape, settings: Settings, *, passes: int, items: int) -> Result:
    """Measure both on one dataset, in turns."""
    checked = place.datasets(shape, return_uint8=settings.return_uint8)
    difference = check_same(checked["lazyvid"], checked["torchcodec"], shape.total)
    collates = {"lazyvid": collate_clips, "torchcodec": default_collate}
    contenders = {
        name: contender(dataset, collates[name], shape, settings, items)
        for name, dataset in place.datasets(shape, return_uint8=settings.return_uint8).items()
    }
    first = {name: each.items_per_second(0) for name, each in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(passes):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            rates[name].append(contenders[name].items_per_second(number + 1))
    ratios = [a / b for a, b in zip(rates["lazyvid"], rates["torchcodec"], strict=True)]
    ours, theirs = Spread.of(rates["lazyvid"]), Spread.of(rates["torchcodec"])
    return Result(place.name, shape, items, first, ours, theirs, Spread.of(ratios), difference)


# -- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds that has read from many files."""

    files: int
    """Of each camera."""
    mib: Mapping[int, float]
    """By files that it has read from, both cameras' together: resident MiB more than before the first item."""


def grown_memory(dataset: Dataset[Any], shape: Shape) -> Memory:
    """Read an item of each file, one after the other; to be run in a process of its own."""
    before, mib = _resident(), {}
    for file in range(shape.files):
        dataset[file * shape.frames]
        if file + 1 in (shape.files // 20, shape.files // 2, shape.files):
            mib[(file + 1) * len(CAMERAS)] = _resident() - before
    return Memory(shape.files, mib)


def _resident() -> float:
    """MiB that this process has in memory, pages that it shares with others among them."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def memory(place: Place, shape: Shape) -> dict[str, Memory]:
    """Of both, each in a new process."""
    grown = {}
    for name, dataset in place.datasets(shape, return_uint8=True).items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            grown[name] = pool.submit(grown_memory, dataset, shape).result()
    return grown


# -- all --------------------------------------------------------------------------------------------------------------


def upload(root: Path, server: S3Server, name: str) -> str:
    """A dataset's URL in the server, once it is there."""
    store = ObjectStore(storage_options=server.storage_options)
    for path in (path for path in root.rglob("*") if path.is_file()):
        store.upload(path, server.url(f"{name}/{path.relative_to(root).as_posix()}"))
    return server.url(name)


def show(console: Console, results: Sequence[Result], grown: Mapping[str, Memory]) -> None:
    """Tables of all figures."""
    table = Table("place", "files a camera", "frames a file", "lazyvid items/s", "torchcodec items/s", "ratio")
    for one in results:
        ratio = f"{one.ratio.median:.2f} ({one.ratio.low:.2f} - {one.ratio.high:.2f})"
        rates = f"{one.lazyvid.median:.1f}", f"{one.torchcodec.median:.1f}"
        table.add_row(one.place, str(one.shape.files), f"{one.shape.frames:,}", *rates, ratio)
    console.print(table)
    for name, each in grown.items():
        steps = ", ".join(f"{mib:,.0f} MiB after {files:,} files" for files, mib in each.mib.items())
        console.print(f"{name}: a process has grown by {steps}")


def main(
    *,
    files: Annotated[list[int], typer.Option(help="Video files a camera; may be repeated.")] = [2, 200],  # noqa: B006
    frames: Annotated[int, typer.Option(help="Frames of a file; at 8 KB each LeRobot fills 200 MB.")] = 25_200,
    s3: Annotated[bool, typer.Option(help="Measure from a local S3 server, too.")] = True,
    delay_ms: Annotated[float, typer.Option(help="Added to each answer of the S3 server.")] = 20.0,
    many: Annotated[int, typer.Option(help="Video files a camera when memory is measured; 0 leaves it out.")] = 1000,
    passes: Annotated[int, typer.Option(help="Passes that count.")] = 5,
    items: Annotated[int, typer.Option(help="Items of a pass; of one from S3 an eighth.")] = 512,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    batch: Annotated[int, typer.Option(help="Items of a batch.")] = 8,
    uint8: Annotated[bool, typer.Option(help="Give pictures as bytes, as LeRobot's training does.")] = True,
    video: Annotated[Path | None, typer.Option(help="A real video to encode; else a texture is painted.")] = None,
    folder: Annotated[Path, typer.Option(help="Where encoded videos are kept.")] = Path("bench-output/content"),
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
) -> None:
    """Measure, print tables, and write the figures."""
    settings, results, grown = Settings(workers, batch, uint8), [], {}
    clip = Content(video, 640, 480, CLIP_FRAMES).write(folder, "av1-gop2").read_bytes()
    times = -(-frames // (EPISODE_CLIPS * CLIP_FRAMES)) * EPISODE_CLIPS
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazyvid-bench-")))

        def written(count: int, times: int, *, share_bytes: bool) -> tuple[Path, Shape]:
            root, shape = (
                temporary / f"{count}-{times}-{share_bytes}",
                Shape(count, times * CLIP_FRAMES, 5 * CLIP_FRAMES),
            )
            write_dataset(root, shape, repeated(clip, times, share_bytes=share_bytes))
            return root, shape

        for count in files:
            root, shape = written(count, times, share_bytes=count > FEW)
            results.append(run(Place("local", str(root), {}), shape, settings, passes=passes, items=items))
        if s3:
            root, shape = written(1, times, share_bytes=False)
            server = stack.enter_context(S3Server())
            proxy = stack.enter_context(CountingProxy(server.endpoint_url, delay_s=delay_ms / 1000))
            place = Place("s3", upload(root, server, "robot"), proxy.storage_options_for(server))
            results.append(run(place, shape, settings, passes=passes, items=items // 8))
        if many:
            root, shape = written(many, 8 * EPISODE_CLIPS, share_bytes=True)
            grown = memory(Place("local", str(root), {}), shape)
    show(Console(), results, grown)
    if json_path is not None:
        faster = {f"{one.place}, {one.shape.files} files: items/s / torchcodec": one.ratio.median for one in results}
        write_json(json_path, {"settings": settings, "ratios": faster, "results": results, "memory": grown})


if __name__ == "__main__":
    typer.run(main)
