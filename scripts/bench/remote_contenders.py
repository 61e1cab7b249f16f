"""The contenders of the remote benchmark, and the process that runs one of them: orders in, figures out, line by line.

Each reads the same clips of videos in a bucket, one after the other, in one process. Videos are opened as their users
open them: ours once for all, since that touches no video byte; the others for each clip, since a data set has more
files than can be kept open.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from lazyvid import LazyVideo
from lazyvid.video import begin_clips, read_clips

FPS = 30


@dataclass(frozen=True, slots=True)
class Task:
    """What all contenders read."""

    uris: list[str]
    options: dict[str, Any]
    """For fsspec's S3."""
    clips: list[tuple[int, int]]
    """(number of the video, first frame)."""
    length: int
    """Frames of a clip."""
    how: dict[str, Any] = field(default_factory=dict)
    """The contender's own settings."""

    def spans(self) -> Iterator[tuple[str, int, int]]:
        """(URI, first frame, last frame + 1) of each clip."""
        return ((self.uris[video], start, start + self.length) for video, start in self.clips)


class Contender(Protocol):
    """A way of reading clips from a bucket."""

    def __init__(self, task: Task) -> None:
        """Open what is opened once."""

    def clips(self) -> Iterator[Tensor]:
        """The clips, each uint8 [T, H, W, 3]."""


class LazyVid:
    """This package: batches of clips, the next one on its way while one decodes."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._batch = int(task.how.get("batch", 8))
        self._videos = [LazyVideo(uri, storage_options=task.options, channel_format="NHWC") for uri in task.uris]

    def clips(self) -> Iterator[Tensor]:
        """The clips."""
        requests = [
            (self._videos[video], np.arange(start, start + self._task.length)) for video, start in self._task.clips
        ]
        batches = [requests[at : at + self._batch] for at in range(0, len(requests), self._batch)]
        pending = begin_clips(batches[0])
        for _, following in pairwise([*batches, []]):
            ahead = begin_clips(following)
            yield from (clip.frames for clip in pending.result())
            pending = ahead


class LazyVidAlone(LazyVid):
    """This package: one clip, then the next, nothing ahead."""

    def clips(self) -> Iterator[Tensor]:
        """The clips."""
        for video, start in self._task.clips:
            yield read_clips([(self._videos[video], np.arange(start, start + self._task.length))])[0].frames


class TorchCodec:
    """torchcodec over a file of s3fs; `how` has the arguments of `open`, and `seek_mode`."""

    def __init__(self, task: Task) -> None:
        how = dict(task.how)
        self._decoders: Any = import_module("torchcodec.decoders")
        self._seek_mode = how.pop("seek_mode", "exact")
        self._task, self._open = task, how
        fsspec: Any = import_module("fsspec")
        self._files = fsspec.filesystem("s3", **task.options)

    def clips(self) -> Iterator[Tensor]:
        """The clips."""
        for uri, first, stop in self._task.spans():
            with self._files.open(uri, "rb", **self._open) as file:
                yield self._frames(file, first, stop)

    def _frames(self, file: Any, first: int, stop: int) -> Tensor:
        decoder = self._decoders.VideoDecoder(
            file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=self._seek_mode
        )
        frames: Tensor = decoder.get_frames_in_range(first, stop).data
        return frames


class Download(TorchCodec):
    """The file copied to this machine's disk, then torchcodec."""

    def clips(self) -> Iterator[Tensor]:
        """The clips."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "copy.mp4"
            for uri, first, stop in self._task.spans():
                self._files.get(uri, str(path))
                yield self._frames(str(path), first, stop)


class PyAv(TorchCodec):
    """PyAV over a file of s3fs, as people write it: seek, decode until the last frame."""

    def _frames(self, file: Any, first: int, stop: int) -> Tensor:
        with av.open(file) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
            time_base = stream.time_base
            assert time_base is not None
            container.seek(int(first / FPS / time_base), stream=stream)
            frames: list[Any] = []
            for frame in container.decode(stream):
                number = round(float((frame.pts or 0) * time_base) * FPS)
                if number >= first:
                    frames.append(frame.to_ndarray(format="rgb24"))
                if number >= stop - 1:
                    break
        return torch.from_numpy(np.stack(frames))


CONTENDERS: Mapping[str, type[Contender]] = MappingProxyType(
    {"lazyvid": LazyVid, "lazyvid-alone": LazyVidAlone, "torchcodec": TorchCodec, "download": Download, "pyav": PyAv}
)


def digests(contender: Contender, *, most: int) -> list[str]:
    """Of the first clips."""
    found = []
    for clip, _ in zip(contender.clips(), range(most), strict=False):
        found.append(hashlib.blake2b(np.ascontiguousarray(clip.numpy()).tobytes(), digest_size=16).hexdigest())
    return found


@contextmanager
def _timed(into: dict[str, Any]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into["seconds"], into["cpu"] = time.perf_counter() - wall, time.process_time() - cpu


def answer(contender: Contender, order: Mapping[str, Any]) -> dict[str, Any]:
    """Do what the parent asks for."""
    if order["do"] == "check":
        return {"digests": digests(contender, most=int(order["clips"]))}
    figures: dict[str, Any] = {}
    with _timed(figures):
        figures["clips"] = sum(1 for _ in contender.clips())
    return figures


def serve(lines: Iterator[str], name: str, task: Mapping[str, Any]) -> None:
    """Answer orders until there are no more."""
    torch.set_num_threads(1)
    contender = CONTENDERS[name](Task(**task))
    for line in lines:
        sys.stdout.write(json.dumps(answer(contender, json.loads(line))) + "\n")
        sys.stdout.flush()


def main(arguments: Sequence[str]) -> None:
    """`remote_contenders.py NAME`, the task on the first line of the input, an order on each further one."""
    lines = iter(sys.stdin)
    serve(lines, arguments[0], json.loads(next(lines)))


if __name__ == "__main__":
    main(sys.argv[1:])
