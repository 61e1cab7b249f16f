"""The contenders of the loader benchmark: `ClipLoader`, and a torchcodec dataset in a plain DataLoader."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from lazyvid import ClipDataset, ClipSpec, Window, read_stats
from lazyvid.training import ClipLoader

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the videos lie."""

    uris: list[str]
    storage_options: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Clips:
    """What is loaded, in this order."""

    place: Place
    starts: Sequence[tuple[int, int]]
    """(video, first frame) of each."""
    length: int
    resize: Size | None


@dataclass(frozen=True, slots=True)
class Pass:
    """The figures of one pass."""

    clips_per_s: float
    frames_per_s: float
    cpu_ms_per_clip: float
    """Processor time of trainer and workers together."""
    first_batch_s: float
    """From the first `next`, workers' start included."""
    rss_mb_per_worker: float
    """Largest resident memory of a worker, or of this process where there is none."""
    bytes_per_frame: float
    """Bytes from the store for each frame used, where they are counted."""


class Contender(Protocol):
    """A loader of recorded clips."""

    def __init__(self, clips: Clips, batch_size: int, workers: int, context: str, cache: str) -> None:
        """Make it; nothing is read."""

    def batches(self) -> Iterator[dict[str, Any]]:
        """All batches, in order: `frames` uint8 [N, T, 3, H, W] and `timestamps` [N, T]."""

    def measured(self) -> Pass:
        """A pass to warm up, and one that is measured."""


class _Measured:
    """Measures what `batches` gives."""

    clips: Clips

    def batches(self) -> Iterator[dict[str, Any]]:
        """All batches."""
        raise NotImplementedError

    def measured(self) -> Pass:
        """A pass to warm up, and one that is measured."""
        started = time.perf_counter()
        batches = self.batches()
        next(batches)
        first = time.perf_counter() - started
        for _ in batches:
            pass
        before, cpu, wall = read_stats(scope="all"), _cpu_s(), time.perf_counter()
        for _ in self.batches():
            pass
        wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
        read = read_stats(scope="all") - before
        count, frames = len(self.clips.starts), len(self.clips.starts) * self.clips.length
        return Pass(
            clips_per_s=count / wall,
            frames_per_s=frames / wall,
            cpu_ms_per_clip=1000 * cpu / count,
            first_batch_s=first,
            rss_mb_per_worker=max(map(_peak_rss_mb, _workers())),
            bytes_per_frame=read.bytes_fetched / frames,
        )


def _workers() -> list[int]:
    return [p.pid for p in multiprocessing.active_children() if p.pid is not None] or [os.getpid()]


def _cpu_s() -> float:
    """Processor seconds of this process and its live workers."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for pid in set(_workers()) - {os.getpid()}:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _peak_rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return float("nan")


class LazyVidLoader(_Measured):
    """`ClipLoader`, default options."""

    def __init__(self, clips: Clips, batch_size: int, workers: int, context: str, cache: str) -> None:
        self.clips = clips
        place = clips.place
        dataset = ClipDataset(
            place.uris,
            ClipSpec(clips.length),
            resize=clips.resize,
            storage_options=place.storage_options,
            fetch=cache,
            on_missing_index="raise",
        )
        windows = [Window(video, start, start + clips.length) for video, start in clips.starts]
        self._loader = ClipLoader(
            dataset, sampler=windows, batch_size=batch_size, num_workers=workers, multiprocessing_context=context
        )

    def batches(self) -> Iterator[dict[str, Any]]:
        """All batches."""
        return iter(self._loader)


class TorchCodecClips(Dataset[dict[str, Any]]):
    """A decoder for each file, kept open by the worker that opened it."""

    def __init__(self, clips: Clips) -> None:
        self._clips = clips
        self._decoders: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._clips.starts)

    def __getitem__(self, item: int) -> dict[str, Any]:
        video, start = self._clips.starts[item]
        if video not in self._decoders:
            self._decoders[video] = self._opened(self._clips.place.uris[video])
        found = self._decoders[video].get_frames_at(list(range(start, start + self._clips.length)))
        return {"frames": found.data, "timestamps": found.pts_seconds}

    def _opened(self, uri: str) -> Any:
        decoders: Any = import_module("torchcodec.decoders")
        transforms: Any = import_module("torchcodec.transforms")
        resize = self._clips.resize
        source: Any = uri
        if self._clips.place.storage_options is not None:
            fsspec: Any = import_module("fsspec")
            source = fsspec.open(uri, **self._clips.place.storage_options).open()
        return decoders.VideoDecoder(
            source, num_ffmpeg_threads=1, transforms=[transforms.Resize(resize)] if resize else None
        )


class TorchCodecLoader(_Measured):
    """torchcodec in a plain DataLoader, exact seeking, one thread."""

    def __init__(self, clips: Clips, batch_size: int, workers: int, context: str, cache: str) -> None:  # noqa: ARG002 - it has no cache
        self.clips = clips
        self._loader = DataLoader(
            TorchCodecClips(clips),
            batch_size=batch_size,
            num_workers=workers,
            multiprocessing_context=context if workers else None,
            persistent_workers=workers > 0,
        )

    def batches(self) -> Iterator[dict[str, Any]]:
        """All batches."""
        return iter(self._loader)


CONTENDERS: dict[str, type[LazyVidLoader] | type[TorchCodecLoader]] = {
    "lazyvid": LazyVidLoader,
    "torchcodec": TorchCodecLoader,
}

# A worker of the peer must not start threads of its own either.
torch.set_num_threads(1)
