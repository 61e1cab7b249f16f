"""The shared memory through which torch's workers hand over batches: whether it is enough, and what dead ones left.

torch makes a segment under a name that has its maker's pid, and takes the name away at once, so that the segment goes
with its last user (`at::NewProcessWideShmHandle`, `ALLOCATOR_MAPPED_UNLINK`). A process killed between the two leaves a
segment that nobody will ever remove.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch.multiprocessing

_log = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
"""Where Linux has it."""


def warn_if_too_small(batch_nbytes: int, *, in_flight: int) -> None:
    """Warn where the batches that workers read ahead do not fit; a worker that finds no room dies of a bus error."""
    if not FOLDER.is_dir():
        return
    needed, size = in_flight * batch_nbytes, shutil.disk_usage(FOLDER).total
    if needed > size:
        _log.warning(
            "%d batches of %.0f MB in flight need %.0f MB of shared memory, %s has %.0f MB: workers may die of a bus "
            "error. Use fewer num_workers, a smaller prefetch_factor or batch_size, num_threads=..., or more of it "
            "(docker run --shm-size).",
            *(in_flight, batch_nbytes / 1e6, needed / 1e6, FOLDER, size / 1e6),
        )


def remove_left_by(pids: Iterable[int]) -> None:
    """Remove what these processes, which have ended or are about to, made and had not yet taken the name of.

    Where torch shares memory by names ("file_system"), the names are in use and its own manager removes them.
    """
    strategy = torch.multiprocessing.get_sharing_strategy()  # type: ignore[no-untyped-call]
    if strategy != "file_descriptor" or not FOLDER.is_dir():
        return
    makers = {f"torch_{pid}" for pid in pids}
    for name in os.listdir(FOLDER):
        if name.rsplit("_", 2)[0] in makers:
            (FOLDER / name).unlink(missing_ok=True)
