"""Which clips may take the place of one that cannot be read: pure functions of that clip and of what is sampled."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lazyvid.frames import Window
from lazyvid.training.clips import ClipPlan
from lazyvid.training.samplers import ClipSampler, DistributedClipSampler
from lazyvid.training.samplers.hashing import below, hashed

_MOST = 64
"""Candidates looked at; those that do not fit among them are passed over."""


@dataclass(frozen=True, slots=True, eq=False)
class FromPlan:
    """Clips of the plain enumeration: the next one, then ever further ones."""

    plan: ClipPlan

    def __call__(self, window: Window) -> Iterator[Window]:
        """Clips of the same number of frames as `window`, the best first."""
        count = len(self.plan)
        origin = self.plan.index_near(window) if count else 0
        leaps = [1 << exponent for exponent in range(count.bit_length())]
        offsets = dict.fromkeys(itertools.chain(leaps, range(1, min(count + 1, _MOST))))
        for number in dict.fromkeys((origin + offset) % count for offset in offsets):
            plain = self.plan.window(number)
            stop = plain.stop if self.plan.spec.fps is not None else plain.start + len(window)
            candidate = Window(plain.video, plain.start, stop)
            if (candidate.video, candidate.start) != (window.video, window.start) and self._has(candidate):
                yield candidate

    def _has(self, candidate: Window) -> bool:
        try:
            self.plan.check(candidate)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class FromSampler:
    """Windows that a sampler draws in its first epoch, at places that the clip's own numbers choose."""

    sampler: ClipSampler

    @classmethod
    def of(cls, sampler: ClipSampler) -> FromSampler:
        """The substitutes of a sampler, or of the one that is dealt out: ranks have the same ones."""
        whole = sampler.sampler if isinstance(sampler, DistributedClipSampler) else sampler
        first = copy.copy(whole)
        first.set_epoch(0)
        return cls(first)

    def __call__(self, window: Window) -> Iterator[Window]:
        """Windows of the same number of frames as `window`."""
        tries = np.arange(_MOST)
        places = below(hashed(window.video, window.start, window.stop, tries), len(self.sampler))
        rows = self.sampler.windows(places).tolist()
        for video, start, stop in dict.fromkeys(map(tuple, rows)):
            if stop - start == len(window) and (video, start) != (window.video, window.start):
                yield Window(video, start, stop)
