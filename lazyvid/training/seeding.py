"""Random transforms that give the same sample wherever and whenever it is read: run under the seed of its window."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from lazyvid.process_lock import ProcessLock

T = TypeVar("T")
R = TypeVar("R")

_lock = ProcessLock()  # the generators that are seeded are this process's own, and its threads share them


def transformed(transform: Callable[[T], R], sample: T, seed: int | None) -> R:
    """What a transform makes of a sample; with a seed, under the generators that it gives."""
    if seed is None:
        return transform(sample)
    with seeded(seed):
        return transform(sample)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), numpy and `random` for a while, then set them back.

    One thread of a process at a time: others that want it wait.

    Args:
        seed: In [0, 2**64).
    """
    with _lock.here():
        kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
        # Not torch.manual_seed: it seeds the GPUs too, and may not be called where CUDA was used before a fork.
        torch.default_generator.manual_seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        random.seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(kept[0])
            np.random.set_state(kept[1])
            random.setstate(kept[2])
