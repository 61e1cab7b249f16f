"""Datasets and scripts for the tests of loaders; at the top of a module, so that every start method can send them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lazyvid.errors import CorruptVideoError


@dataclass
class Numbers(Dataset[dict[str, Any]]):
    """Item i is i, with the process that read it; at one item it may do something bad."""

    count: int = 24
    at: int = -1
    bad: str = ""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> dict[str, Any]:
        if item == self.at:
            misbehave(self.bad)
        return {"number": torch.tensor(item), "pid": os.getpid()}


def misbehave(how: str) -> None:
    """Do what a worker should not."""
    if how == "raise":
        raise CorruptVideoError("a damaged video")
    if how == "hang":
        time.sleep(600)
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(600)
    if how == "exit":
        os._exit(3)


@dataclass
class Announced(Numbers):
    """Reads batches together and notes what was announced before."""

    def __post_init__(self) -> None:
        self.coming: list[list[int]] = []

    def prefetch(self, items: Sequence[int]) -> None:
        self.coming.append(list(items))

    def __getitems__(self, items: Sequence[int]) -> list[dict[str, Any]]:
        seen, self.coming = [list(c) for c in self.coming], []
        return [{"number": item, "announced": str(seen)} for item in items]


def jitter(sample: dict[str, Any]) -> dict[str, Any]:
    """A random transform that uses all three generators."""
    noise = torch.randint(0, 1 << 30, (2,)), np.random.randint(0, 1 << 30), random.randrange(1 << 30)
    return {**sample, "noise": torch.tensor([*noise[0].tolist(), *noise[1:]])}


def note_worker(worker_id: int) -> None:
    """A worker_init_fn."""
    os.environ["LAZYVID_TEST_WORKER"] = str(worker_id)
