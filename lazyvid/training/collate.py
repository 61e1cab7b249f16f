"""Samples to batches; what was decoded into one tensor goes on as that tensor, without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


def collate_clips(samples: Sequence[Any]) -> Any:
    """Put samples together as `torch.utils.data.default_collate` does, but without a copy where none is needed.

    `ClipDataset` decodes a batch into one tensor, of which each sample's frames are a row. Rows that follow each other
    are given back as that tensor.

    Args:
        samples: What the dataset gave, of equal shapes.

    Returns:
        The same structure with a leading batch dimension.

    Raises:
        ValueError: if tensors have different shapes.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: collate_clips([sample[key] for sample in samples]) for key in first}
    if not isinstance(first, Tensor):
        return default_collate(list(samples))
    shapes = {tuple(sample.shape) for sample in samples}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected samples of one shape in a batch, got {sorted(shapes)}: open the videos with "
            "resize=(height, width) and use windows of one length."
        )
    joined = consecutive_rows(samples)
    return default_collate(list(samples)) if joined is None else joined


def consecutive_rows(tensors: Sequence[Tensor]) -> Tensor | None:
    """The tensor of which these are the rows, one after the other; None where they are not.

    Args:
        tensors: Of equal shape.
    """
    first = tensors[0]
    storage, step = first.untyped_storage().data_ptr(), first.numel()
    # A row fills its memory without holes when its strides, sorted, are those of a contiguous tensor.
    dense = sorted(first.stride()) == sorted(torch.empty(_by_stride(first), device="meta").stride())
    if not step or not dense or first.requires_grad:
        return None
    for number, tensor in enumerate(tensors):
        if (
            tensor.dtype != first.dtype
            or tensor.stride() != first.stride()
            or tensor.untyped_storage().data_ptr() != storage
            or tensor.storage_offset() != first.storage_offset() + number * step
        ):
            return None
    return first.as_strided((len(tensors), *first.shape), (step, *first.stride()), first.storage_offset())


def _by_stride(tensor: Tensor) -> list[int]:
    """The sizes, from the dimension that lies furthest apart in memory to the closest."""
    order = sorted(range(tensor.ndim), key=lambda dim: (tensor.stride(dim), tensor.shape[dim]), reverse=True)
    return [tensor.shape[dim] for dim in order]
