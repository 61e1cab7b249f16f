"""What tests of datasets ask of samples: that each frame proves its number; transforms for every start method."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, read_frame_number
from lazyvid.video import LazyVideo

COUNTS = (23, 8, 40)
"""Frames of the three videos of the fixture `folder`."""
PER_VIDEO = 1000
"""Frame k of video v shows v * PER_VIDEO + k."""


def numbers(frames: torch.Tensor) -> list[int]:
    """What frames show; [T, ...] or [B, T, ...]."""
    return [read_frame_number(frame) for frame in frames.flatten(0, -4)]


def check(sample: dict[str, Any], video: int, positions: list[int]) -> None:
    """A clip of the fixture's videos has these frames; those after its video's last one repeat it."""
    count = COUNTS[video]
    shown = [min(p, count - 1) for p in positions]
    assert numbers(sample["frames"]) == [video * PER_VIDEO + p for p in shown]
    assert sample["frames"].dtype == torch.uint8
    assert sample["frame_indices"].tolist() == shown
    assert sample["timestamps"].dtype == torch.float64
    assert sample["timestamps"].tolist() == [p / 30 for p in shown]
    assert sample["is_pad"].tolist() == [p >= count for p in positions]
    assert sample["video_id"] == video


def equal(one: Any, other: Any) -> bool:
    """Whether samples or batches are the same, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def upload(folder: Path, server: S3Server, prefix: str) -> ObjectStore:
    """Put a folder into the server; gives a store that reads it."""
    store = ObjectStore(storage_options=server.storage_options)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.upload(file, f"{prefix}/{file.relative_to(folder).as_posix()}")
    return store


def blank(path: Path, *, first: int = 0) -> None:
    """Overwrite the packets of an indexed video with zeros, from the `first` one in the file on."""
    packets = LazyVideo(path).frame_index.packets
    places = sorted(zip(packets.offset.tolist(), packets.size.tolist(), strict=True))
    with path.open("r+b") as file:
        for offset, size in places[first:]:
            file.seek(offset)
            file.write(bytes(size))


# -- transforms -------------------------------------------------------------------------------------------------------


def double_brightness(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "frames": sample["frames"].float() / 255, "seen": int(sample["frame_indices"][0])}


def jitter(sample: dict[str, Any]) -> dict[str, Any]:
    """Draws from the three global generators."""
    drawn = [int(torch.randint(0, 1 << 30, ())), int(np.random.randint(0, 1 << 30)), random.randrange(1 << 30)]
    return {**sample, "drawn": torch.tensor(drawn)}


@dataclass
class Compose:
    """Transforms one after the other, as many libraries have it."""

    transforms: list[Callable[[Any], Any]]

    def __call__(self, sample: Any) -> Any:
        for transform in self.transforms:
            sample = transform(sample)
        return sample
