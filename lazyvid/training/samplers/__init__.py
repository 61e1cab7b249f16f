"""Which windows an epoch has, and in which order: pure functions of (seed, epoch, position) that resume anywhere."""

from __future__ import annotations

from lazyvid.training.samplers.base import ClipSampler
from lazyvid.training.samplers.distributed import DistributedClipSampler
from lazyvid.training.samplers.sequential import SequentialClipSampler
from lazyvid.training.samplers.shuffled import RandomClipSampler

__all__ = ["ClipSampler", "DistributedClipSampler", "RandomClipSampler", "SequentialClipSampler"]
