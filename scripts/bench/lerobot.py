"""A LeRobot dataset read in random order by worker processes: lazyvid against torchcodec, used as LeRobot uses it.

Both read the same items in the same order: the rows, and of each camera two frames by `delta_timestamps`. torchcodec's
decoders seek approximately, are asked for `round(t * average rate)`, once a camera and item, each camera in a thread of
its own, and the last 100 of them are kept, as LeRobot 0.6 does; it is given the rows for nothing. In turns, in one run.

    python scripts/bench/lerobot.py --files 2 --files 200 --json bench-output/lerobot.json
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from common import Spread, write_json
from content import FPS, Content
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lazyvid.index.probe import build_index
from lazyvid.lerobot import LeRobotDataset
from lazyvid.storage import ObjectStore
from lazyvid.testing import CountingProxy, S3Server
from lazyvid.training.collate import collate_clips

CAMERAS = ("observation.images.front", "observation.images.wrist")
DELTAS = (-1, 0)
CACHE_SIZE = 100
"""LeRobot's own default."""
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_ROW_KEYS = ("frame_index", "episode_index", "index", "task_index")


# -- the dataset ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """A dataset: episodes of one length, one a video file."""

    files: int
    """Of each camera."""
    frames: int
    """Of each file."""


def write_dataset(root: Path, shape: Shape, videos: Sequence[Path]) -> None:
    """A dataset whose files are copies of a few videos, each with its sidecar."""
    total = shape.files * shape.frames
    episodes = np.repeat(np.arange(shape.files), shape.frames)
    frames = np.tile(np.arange(shape.frames), shape.files)
    vectors = np.random.default_rng(0).normal(size=(2, total * 6)).astype(np.float32)
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(vectors[0]), 6),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(vectors[1]), 6),
        "timestamp": pa.array((frames / FPS).astype(np.float32)),
        "frame_index": pa.array(frames),
        "episode_index": pa.array(episodes),
        "index": pa.array(np.arange(total)),
        "task_index": pa.array(np.zeros(total, np.int64)),
    }
    rows: list[dict[str, Any]] = []
    for number in range(shape.files):
        row: dict[str, Any] = {"episode_index": number, "tasks": ["pick"], "length": shape.frames}
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        row |= {"dataset_from_index": number * shape.frames, "dataset_to_index": (number + 1) * shape.frames}
        for camera in CAMERAS:
            row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": number}
            row |= {f"videos/{camera}/from_timestamp": 0.0, f"videos/{camera}/to_timestamp": shape.frames / FPS}
        rows.append(row)
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    pq.write_table(pa.table(columns), root / _DATA.format(chunk_index=0, file_index=0))
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["pick"]}), root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(_info(shape)))
    for number in range(shape.files):
        for camera in CAMERAS:
            path = root / _VIDEO.format(video_key=camera, chunk_index=0, file_index=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(videos[number % len(videos)], path)
            build_index(path).save(path)


def _info(shape: Shape) -> dict[str, Any]:
    features: dict[str, Any] = {key: {"dtype": "video", "shape": [480, 640, 3], "names": None} for key in CAMERAS}
    features |= {key: {"dtype": "float32", "shape": [6], "names": None} for key in ("observation.state", "action")}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    features |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in _ROW_KEYS}
    return {
        "codebase_version": "v3.0", "fps": FPS, "features": features, "total_episodes": shape.files,
        "total_frames": shape.files * shape.frames, "total_tasks": 1, "chunks_size": 1000, "data_path": _DATA,
        "video_path": _VIDEO, "robot_type": None, "splits": {},
    }  # fmt: skip


# -- torchcodec, as LeRobot uses it -----------------------------------------------------------------------------------


class DecoderCache:
    """The decoders used last, with the files that they read."""

    def __init__(self, capacity: int, storage_options: Mapping[str, Any]) -> None:
        self._capacity, self._options = capacity, storage_options
        self._kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()

    def get(self, uri: str) -> Any:
        """A file's decoder."""
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
        total = shape.files * shape.frames
        self._rows = {key: torch.zeros(total, 6) for key in ("observation.state", "action")}

    def __len__(self) -> int:
        return self._shape.files * self._shape.frames

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._cache is None:
            self._cache = DecoderCache(CACHE_SIZE, self._options)
        episode, frame = divmod(index, self._shape.frames)
        times = [max(frame + delta, 0) / FPS for delta in DELTAS]
        item: dict[str, Any] = {key: values[index] for key, values in self._rows.items()}
        item |= {"index": torch.tensor(index), "episode_index": torch.tensor(episode), "task": "pick"}
        item |= {"frame_index": torch.tensor(frame), "timestamp": torch.tensor(frame / FPS)}
        with ThreadPoolExecutor(max_workers=len(CAMERAS)) as pool:
            decode = partial(self._decode, episode=episode, times=times, cache=self._cache)
            item |= dict(zip(CAMERAS, pool.map(decode, CAMERAS), strict=True))
        return item

    def _decode(self, camera: str, *, episode: int, times: Sequence[float], cache: DecoderCache) -> Tensor:
        decoder = cache.get(f"{self._root}/{_VIDEO.format(video_key=camera, chunk_index=0, file_index=episode)}")
        rate = decoder.metadata.average_fps
        found = decoder.get_frames_at(indices=[round(seconds * rate) for seconds in times])
        asked, got = torch.tensor(times, dtype=torch.float64), found.pts_seconds
        distances, nearest = torch.cdist(asked[:, None], got[:, None], p=1).min(1)
        if not (distances <= 1e-4).all():
            raise ValueError(f"No frames near {times} in {camera} of episode {episode}: found {got.tolist()}.")
        frames = torch.stack([found.data[place] for place in nearest.tolist()])
        return frames if self._return_uint8 else (frames / 255.0).to(torch.float32)


# -- measuring --------------------------------------------------------------------------------------------------------


class Order(Sampler[int]):
    """The same items for all, in one random order after the other."""

    def __init__(self, total: int, count: int) -> None:
        self._total, self._count = total, count
        self.epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng(self.epoch)
        return iter(generator.integers(0, self._total, self._count).tolist())


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


def contender(
    dataset: Dataset[Any], collate: Callable[[list[Any]], Any], *, total: int, count: int, workers: int, batch: int
) -> Contender:
    """Workers that stay, so that starting them is no part of a pass."""
    order = Order(total, count)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch,
        sampler=order,
        num_workers=workers,
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
class Result:
    """One setting."""

    place: Literal["local", "s3"]
    files: int
    lazyvid: Spread
    """Items a second."""
    torchcodec: Spread
    """Items a second."""
    ratio: Spread
    """Pass by pass."""
    difference: float
    """The largest mean difference of a picture, in levels."""


def run(
    place: Literal["local", "s3"],
    root: str,
    shape: Shape,
    options: Mapping[str, Any],
    *,
    passes: int,
    items: int,
    workers: int,
    batch: int,
    return_uint8: bool,
) -> Result:
    """Measure both on one dataset, in turns."""
    total = shape.files * shape.frames
    ours: Dataset[Any] = LeRobotDataset(
        root,
        delta_timestamps={key: [delta / FPS for delta in DELTAS] for key in CAMERAS},
        storage_options=options or None,
        return_uint8=return_uint8,
    )
    theirs = TorchCodecDataset(root, shape, return_uint8=return_uint8, storage_options=options)
    difference = check_same(ours, theirs, total)
    settings = {"total": total, "count": items, "workers": workers, "batch": batch}
    contenders = {
        "lazyvid": contender(ours, collate_clips, **settings),
        "torchcodec": contender(TorchCodecDataset(root, shape, return_uint8=return_uint8, storage_options=options),
                                default_collate, **settings),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, passes):
        names = list(contenders) if number % 2 else list(contenders)[::-1]
        for name in names:
            rate = contenders[name].items_per_second(number + 1)
            if number >= 0:
                rates[name].append(rate)
    pairs = zip(rates["lazyvid"], rates["torchcodec"], strict=True)
    return Result(
        place,
        shape.files,
        Spread.of(rates["lazyvid"]),
        Spread.of(rates["torchcodec"]),
        Spread.of([a / b for a, b in pairs]),
        difference,
    )


def main(
    *,
    files: Annotated[list[int], typer.Option(help="Video files a camera; may be repeated.")] = [2, 200],  # noqa: B006
    frames: Annotated[int, typer.Option(help="Frames of all files of a camera together, at least.")] = 1200,
    s3: Annotated[bool, typer.Option(help="Measure from a local S3 server, too.")] = False,
    delay_ms: Annotated[float, typer.Option(help="Added to each answer of the S3 server.")] = 20.0,
    passes: Annotated[int, typer.Option(help="Passes that count.")] = 5,
    items: Annotated[int, typer.Option(help="Items of a pass.")] = 256,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    batch: Annotated[int, typer.Option(help="Items of a batch.")] = 8,
    uint8: Annotated[bool, typer.Option(help="Give pictures as bytes, as LeRobot's training does.")] = True,
    video: Annotated[Path | None, typer.Option(help="A real video to encode; else a texture is painted.")] = None,
    folder: Annotated[Path, typer.Option(help="Where encoded videos are kept.")] = Path("bench-output/content"),
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all figures.")] = None,
) -> None:
    """Measure, print a table, and write the figures."""
    results = []
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazyvid-bench-")))
        measure = partial(run, passes=passes, items=items, workers=workers, batch=batch, return_uint8=uint8)
        shapes = [Shape(count, max(frames // count, 60)) for count in files]
        for shape in shapes:
            clip = Content(video, 640, 480, shape.frames).write(folder, "av1-gop2")
            root = temporary / str(shape.files)
            write_dataset(root, shape, [clip])
            results.append(measure("local", str(root), shape, {}))
        if s3:
            server = stack.enter_context(S3Server())
            store = ObjectStore(storage_options=server.storage_options)
            proxy = stack.enter_context(CountingProxy(server.endpoint_url, delay_s=delay_ms / 1000))
            for shape in shapes:
                root = temporary / str(shape.files)
                for path in (path for path in root.rglob("*") if path.is_file()):
                    store.upload(path, server.url(f"{shape.files}/{path.relative_to(root).as_posix()}"))
                options = proxy.storage_options_for(server)
                results.append(measure("s3", server.url(str(shape.files)), shape, options))
    table = Table("place", "files a camera", "lazyvid items/s", "torchcodec items/s", "ratio (lowest - highest)")
    for result in results:
        ratio = f"{result.ratio.median:.2f} ({result.ratio.low:.2f} - {result.ratio.high:.2f})"
        rates = f"{result.lazyvid.median:.1f}", f"{result.torchcodec.median:.1f}"
        table.add_row(result.place, str(result.files), *rates, ratio)
    Console().print(table)
    if json_path is not None:
        faster = {f"{one.place}, {one.files} files: items/s / torchcodec": one.ratio.median for one in results}
        write_json(
            json_path, {"workers": workers, "batch": batch, "uint8": uint8, "ratios": faster, "results": results}
        )


if __name__ == "__main__":
    typer.run(main)
