"""How large batches are, and how they are brought into page-locked memory; for any structure that collate gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def batch_nbytes(batch: Any) -> int:
    """Bytes of all tensors in a batch."""
    if isinstance(batch, Tensor):
        return batch.numel() * batch.element_size()
    if isinstance(batch, Mapping):
        return sum(batch_nbytes(value) for value in batch.values())
    if isinstance(batch, (list, tuple)):
        return sum(batch_nbytes(value) for value in batch)
    return 0


def pinned(batch: Any) -> Any:
    """The batch with its tensors in page-locked memory, from where they can be copied to a GPU in the background."""
    if isinstance(batch, Mapping):
        return {key: pinned(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return type(batch)(pinned(value) for value in batch)
    return batch.pin_memory() if hasattr(batch, "pin_memory") else batch
