"""What a catalog of many videos costs: to open, to send to a worker, to look a video up, and in each worker's memory.

The videos are a few real files under many names, so that a table of any length takes seconds to make.

    python scripts/bench/catalog.py --videos 10000 --json bench-output/catalog.json
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from common import Spread, write_json
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from lazyvid import Catalog, ClipDataset, ClipSpec, FrameIndex, ObjectStore, Window, build_index
from lazyvid.index import catalog_files, node_files
from lazyvid.index.catalog_table import Row, make_table, video_row
from lazyvid.testing import write_video

FRAMES = 300
"""Frames of each video."""
_FILES = 8
_ONE_REAL_IN = 20


def make_catalog(folder: Path, *, videos: int, frames: int = FRAMES) -> Path:
    """A catalog of hard links to a few files; every second video is of the split "train".

    Of the videos whose number `is_real` lets pass the index is the file's; those of the others are made up, so that no
    two rows are alike.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = ObjectStore()
    files = [folder / f"file-{number}.mp4" for number in range(_FILES)]
    for number, path in enumerate(files):
        write_video(path, frames=frames, width=64, height=48, first_number=number)
    indexes = [build_index(path) for path in files]
    pins = [store.head(path) for path in files]
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for number in range(videos):
        name, which = folder / f"{number:06d}.mp4", number % _FILES
        os.link(files[which], name)
        index = indexes[which] if is_real(number) else _made_up(indexes[which], rng)
        rows.append(video_row(str(name), index, [dataclasses.replace(pins[which], uri=str(name))]))
    split = ["train" if number % 2 else "val" for number in range(videos)]
    place = folder.parent / f"{folder.name}.lance"
    catalog_files.write_catalog(make_table(rows, pa.table({"split": split})), str(place), store, replacing=None)
    return place


def is_real(number: int) -> bool:
    """Whether a video can be decoded."""
    return number % _ONE_REAL_IN == 0


def _made_up(index: FrameIndex, rng: np.random.Generator) -> FrameIndex:
    sizes = rng.integers(200, 20_000, len(index))
    offsets = 48 + np.cumsum(sizes) - sizes
    return dataclasses.replace(index, packets=dataclasses.replace(index.packets, size=sizes, offset=offsets))


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds, in megabytes."""

    resident: float
    """All of it, the pages of mapped files too."""
    private: float
    """What it shares with no other process."""

    @classmethod
    def now(cls) -> Memory:
        """Of this process."""
        fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
        kilobytes = {name: int(value.split()[0]) for name, value in fields.items()}
        private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        return cls(kilobytes["Rss"] / 1e3, private / 1e3)


class Touched(Dataset[tuple[int, float, float]]):
    """Looks every video up, decodes a clip of those that are real, and says what its process holds then."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.videos)

    def __getitem__(self, number: int) -> tuple[int, float, float]:
        video = self.dataset.videos[number]
        assert len(video.timestamps) == FRAMES
        if is_real(number):
            video.get_frames_in_range(0, 4)
        memory = Memory.now() if number % 50 == 0 else Memory(0.0, 0.0)
        return os.getpid(), memory.resident, memory.private


def memory_of_workers(dataset: ClipDataset, *, workers: int, epochs: int, method: str) -> dict[str, Any]:
    """How much the workers' memory has grown since the first batch, at the end of each epoch; the worst of them."""
    loader = DataLoader(
        Touched(dataset),
        batch_size=100,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context=method,
        collate_fn=list,
    )
    first: dict[int, Memory] = {}
    grown: list[dict[str, float]] = []
    for _ in range(epochs):
        last: dict[int, Memory] = {}
        for pid, resident, private in (sample for batch in loader for sample in batch):
            if resident:
                last[pid] = Memory(resident, private)
                first.setdefault(pid, last[pid])
        grown.append(
            {
                "resident_mb": max(last[pid].resident - first[pid].resident for pid in last),
                "private_mb": max(last[pid].private - first[pid].private for pid in last),
            }
        )
    return {"method": method, "workers": workers, "grown": grown}


def timed(work: Callable[[], object], *, repeats: int = 5) -> Spread:
    """Milliseconds of the clock, of a few passes."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) * 1e3)
    return Spread.of(found)


def opened_anew(place: Path) -> Catalog:
    """The catalog as a new process would open it on a node that has it."""
    node_files.clear()
    return Catalog.open(place)


def brought_here(place: Path) -> Catalog:
    """The catalog as a node opens it that has it not."""
    node_files.discard(f"catalog-{Catalog.open(place).content_hash}")
    return Catalog.open(place)


def figures(place: Path, *, lookups: int) -> dict[str, Any]:
    """Times in milliseconds and sizes in bytes, for one catalog."""
    catalog = Catalog.open(place)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    clip, by_time = ClipSpec(16), ClipSpec(16, fps=10)
    dataset = ClipDataset(catalog, clip)
    filtered = catalog.filter(pc.field("split") == "train")
    numbers = np.random.default_rng(0).permutation(len(catalog)).tolist()
    windows = [Window(number, 40, 44) for number in numbers if is_real(number)][:lookups]
    return {
        "videos": len(catalog),
        "table_bytes_per_video": size / len(catalog),
        "ms_to_bring_here": timed(lambda: brought_here(place), repeats=3),
        "ms_to_open": timed(lambda: opened_anew(place)),
        "ms_to_make_a_dataset": timed(lambda: ClipDataset(opened_anew(place), clip)),
        "ms_to_make_one_by_time": timed(lambda: ClipDataset(opened_anew(place), by_time)),
        "ms_to_make_one_of_two_cameras": timed(lambda: ClipDataset({"a": catalog, "b": catalog}, clip)),
        "ms_to_filter": timed(lambda: len(catalog.filter(pc.field("split") == "train"))),
        "us_to_look_a_video_up": timed(lambda: _look_up(_fresh(catalog), numbers[:lookups])) / (lookups / 1e3),
        "ms_per_sample": timed(lambda: list(map(_fresh(catalog).__getitem__, windows))) / len(windows),
        "pickled_catalog_bytes": len(pickle.dumps(catalog)),
        "pickled_view_bytes": len(pickle.dumps(filtered)),
        "pickled_dataset_bytes": len(pickle.dumps(dataset)),
    }


def _fresh(catalog: Catalog) -> ClipDataset:
    """A dataset that has looked no video up yet."""
    return ClipDataset(catalog, ClipSpec(4))


def _look_up(dataset: ClipDataset, numbers: Sequence[int]) -> None:
    for number in numbers:
        _ = dataset.videos[number].timestamps


def counts_up_to(videos: int) -> Iterator[int]:
    """100, 1,000, ... and the number itself."""
    count = 100
    while count < videos:
        yield count
        count *= 10
    yield videos


_FLAT = ("ms_to_open", "ms_to_make_a_dataset", "us_to_look_a_video_up", "ms_per_sample")
"""What should cost the same however many videos there are."""


def flatness(catalogs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What each of `_FLAT` costs in the smallest catalog by what it costs in the largest."""
    few, many = catalogs[0], catalogs[-1]
    return {
        f"{name}, {few['videos']} videos / {many['videos']}": few[name].median / many[name].median for name in _FLAT
    }


def main(
    videos: Annotated[int, typer.Option(help="Videos of the largest catalog.")] = 10_000,
    workers: Annotated[int, typer.Option(help="Workers whose memory is looked at.")] = 4,
    epochs: Annotated[int, typer.Option(help="How often the workers go through all videos.")] = 3,
    method: Annotated[str, typer.Option(help="Their start method.")] = "fork",
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
) -> None:
    """Measure catalogs of 100 videos, ten times as many, and so on, and the memory of workers over the largest."""
    console = Console()
    results: dict[str, Any] = {"catalogs": []}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ[node_files.DIRECTORY_VARIABLE] = f"{temporary}/node"
        for count in counts_up_to(videos):
            place = make_catalog(Path(temporary) / f"videos-{count}", videos=count)
            results["catalogs"].append(figures(place, lookups=100))
            console.print(results["catalogs"][-1])
        dataset = ClipDataset(opened_anew(place), ClipSpec(16))
        results["memory"] = memory_of_workers(dataset, workers=workers, epochs=epochs, method=method)
        console.print(results["memory"])
    results["ratios"] = flatness(results["catalogs"])
    if json is not None:
        write_json(json, results)


if __name__ == "__main__":
    typer.run(main)
