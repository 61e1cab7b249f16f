"""Which windows an epoch has, and in which order: pure functions of (seed, epoch, position) that resume anywhere."""

from __future__ import annotations

from lazyvid.training.samplers.base import ClipSampler
from lazyvid.training.samplers.blocks import BlockShuffleSampler
from lazyvid.training.samplers.distributed import DistributedClipSampler
from lazyvid.training.samplers.episodes import EpisodeSampler
from lazyvid.training.samplers.sequential import SequentialClipSampler
from lazyvid.training.samplers.shuffled import RandomClipSampler
from lazyvid.training.samplers.weighted import WeightedClipSampler

__all__ = [
    "BlockShuffleSampler",
    "ClipSampler",
    "DistributedClipSampler",
    "EpisodeSampler",
    "RandomClipSampler",
    "SequentialClipSampler",
    "WeightedClipSampler",
]
