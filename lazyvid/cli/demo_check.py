"""What the demo proves: each frame of each shuffled clip is, bit for bit, the one that a sequential decode gives."""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from lazyvid.decoding.convert import PictureConverter, PictureFormat
from lazyvid.decoding.sequential import Picture, decode_file, rgb_pixels
from lazyvid.frames import ClipSpec, Limits
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore
from lazyvid.training import ClipDataset, ClipLoader
from lazyvid.video import LazyVideo

CLIP_FRAMES = 16
_WORKERS = 2
_BATCH = 4

Digests = list[list[int]]
"""For each video, the crc32 of each frame's pixels: whole frames would not fit into memory."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a sequential decode of each file gives."""

    whole: Digests
    """At the video's own size."""
    resized: Digests
    """At the size for training."""

    @classmethod
    def of(
        cls, videos: Sequence[LazyVideo], lengths: Sequence[int], store: ObjectStore, *, resize: tuple[int, int]
    ) -> Reference:
        """Decode the first `lengths[i]` frames of each video, from the start of its file."""
        pairs = [_digests(v, length, store, resize=resize) for v, length in zip(videos, lengths, strict=True)]
        return cls([whole for whole, _ in pairs], [resized for _, resized in pairs])


def _digests(
    video: LazyVideo, length: int, store: ObjectStore, *, resize: tuple[int, int]
) -> tuple[list[int], list[int]]:
    source = video.frame_index.sources[0]
    converter = PictureConverter(source, PictureFormat(resize=resize))
    row = np.empty((*resize, 3), np.uint8)
    whole: list[int] = []
    resized: list[int] = []

    def look(_: int, picture: Picture) -> None:
        whole.append(zlib.crc32(rgb_pixels(picture, source).data))
        converter.write(picture, row)
        resized.append(zlib.crc32(row.data))

    decode_file(store, store.head(video.uri), source, limits=Limits(), look=look, stop=length)
    return whole, resized


@dataclass(frozen=True, slots=True)
class CheckedPass:
    """One pass over all clips."""

    what: str
    """The size of the frames."""
    clips: int
    """Clips loaded."""
    frames: int
    """Frames delivered, all of them checked."""
    wrong: int
    """Frames that are not those of the sequential decode."""
    unseen: int
    """Frames of the videos that no clip delivered."""
    seconds: float
    """For loading and checking, the workers' start included."""
    bytes_fetched: int
    """Bytes received from the store by all workers."""
    requests: int
    """Requests that they sent."""
    workers: int
    """Processes that loaded."""


def load_and_check(what: str, videos: Sequence[LazyVideo], digests: Digests) -> CheckedPass:
    """Load every clip once, in random order, and compare each frame's pixels."""
    dataset = ClipDataset(videos, ClipSpec(CLIP_FRAMES, pad="repeat"))
    alike = len({_frame_shape(video) for video in videos}) == 1
    clip_bytes = max(CLIP_FRAMES * int(np.prod(_frame_shape(video))) * 3 for video in videos)
    batch = _BATCH if alike and clip_bytes < 8 << 20 else 1
    workers = _WORKERS if 4 * batch * clip_bytes < shutil.disk_usage("/dev/shm").free else 0
    shuffled = RandomSampler(dataset, generator=torch.Generator().manual_seed(0))
    loader = ClipLoader(dataset, sampler=shuffled, batch_size=batch, num_workers=workers, prefetch_factor=1)
    before, started = read_stats(scope="all"), time.monotonic()
    clips = frames = wrong = 0
    seen: list[set[int]] = [set() for _ in videos]
    for samples in loader:
        for number in range(len(samples["video_id"])):
            video = int(samples["video_id"][number])
            rows = samples["frame_indices"][number].tolist()
            found = [_digest(frame) for frame in samples["frames"][number]]
            wrong += sum(digests[video][row : row + 1] != [crc] for row, crc in zip(rows, found, strict=True))
            seen[video].update(rows)
            clips += 1
            frames += len(rows)
    read = read_stats(scope="all") - before
    loader.close()
    return CheckedPass(
        what=what,
        clips=clips,
        frames=frames,
        wrong=wrong,
        unseen=sum(len(set(range(len(expected))) - rows) for expected, rows in zip(digests, seen, strict=True)),
        seconds=time.monotonic() - started,
        bytes_fetched=read.bytes_fetched,
        requests=read.requests,
        workers=workers,
    )


def _frame_shape(video: LazyVideo) -> tuple[int, int]:
    return video.resize or (video.height, video.width)


def _digest(frame: Tensor) -> int:
    """crc32 of a frame [C, H, W] in the order of its memory, channels last."""
    pixels: npt.NDArray[np.uint8] = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
    return zlib.crc32(pixels.data)
