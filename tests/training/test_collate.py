"""Batches equal default_collate's, and are the very memory that was decoded into where they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_samples import equal
from torch.utils.data import default_collate

from lazyvid.clips import _allocate
from lazyvid.frames import ClipSpec
from lazyvid.training import ClipDataset, FrameDataset, collate_clips
from lazyvid.training.collate import consecutive_rows


def add_text(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "text": "a clip"}


def rows(batch: int = 4) -> torch.Tensor:
    """As a batch is decoded: channels last."""
    return torch.arange(batch * 2 * 6 * 5 * 3).to(torch.uint8).reshape(batch, 2, 6, 5, 3)


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_consecutive_rows_are_passed_on(channels_first: bool, first: int) -> None:
    base = rows()
    samples = list((base.permute(0, 1, 4, 2, 3) if channels_first else base)[first:])
    joined = collate_clips(samples)
    assert torch.equal(joined, default_collate(samples))
    assert joined.data_ptr() == samples[0].data_ptr()
    joined[1, 0] = 7
    assert (base[first + 1, 0] == 7).all()


def test_what_is_not_consecutive_is_copied_and_right() -> None:
    base = rows().permute(0, 1, 4, 2, 3)
    for samples in (
        [base[1], base[0]],
        [base[0], base[2]],
        [base[0], base[0]],
        [base[0], base[1].clone()],
        [base[0], base[1].contiguous()],
        [row[:, :, ::2] for row in base],
        [row[:, :, :3] for row in base],
        [torch.zeros(3, 0), torch.zeros(3, 0)],
        [torch.zeros(2, 3), torch.zeros(2, 3)],
        [torch.zeros(1).expand(4)] * 3,
    ):
        joined = collate_clips(samples)
        assert torch.equal(joined, default_collate(samples))
        assert not joined.numel() or joined.data_ptr() != samples[0].data_ptr()


def test_frames_of_one_row_and_sizes_of_one() -> None:
    base = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 1, 4, 1)
    samples = list(base.permute(0, 1, 4, 2, 3))
    assert torch.equal(collate_clips(samples), default_collate(samples))
    assert torch.equal(collate_clips(samples[:1]), default_collate(samples[:1]))


def test_samples_are_dicts_of_dicts() -> None:
    base = rows()
    samples = [{"top": {"frames": row, "video_id": k}, "name": f"n{k}"} for k, row in enumerate(base)]
    joined = collate_clips(samples)
    assert joined["top"]["frames"].data_ptr() == base.data_ptr()
    assert joined["top"]["video_id"].tolist() == [0, 1, 2, 3]
    assert joined["name"] == ["n0", "n1", "n2", "n3"]


def test_different_shapes_have_a_name() -> None:
    with pytest.raises(ValueError, match="resize="):
        collate_clips([{"frames": torch.zeros(2, 3)}, {"frames": torch.zeros(2, 4)}])


@pytest.mark.parametrize("channel_format", ["NCHW", "NHWC"])
def test_what_datasets_give(folder: Path, channel_format: Any) -> None:
    options: dict[str, Any] = {"channel_format": channel_format, "transform": add_text}
    spec = ClipSpec(4, pad="repeat")
    cameras = {"left": folder, "right": folder}
    for dataset, paths in (
        (ClipDataset(folder, spec, **options), [()]),
        (ClipDataset(cameras, spec, **options), [("left",), ("right",)]),
        (FrameDataset(cameras, **options), [("left",), ("right",)]),
    ):
        samples = dataset.__getitems__([2, 7, 5, 17])
        batch = collate_clips(samples)
        assert equal(batch, default_collate(samples))
        assert batch["text"] == ["a clip"] * 4
        for path in paths:
            part, first = batch, samples[0]
            for name in path:
                part, first = part[name], first[name]
            assert part["frames"].data_ptr() == first["frames"].data_ptr()
            order = (0, 1, 3, 4, 2) if part["frames"].ndim == 5 else (0, 2, 3, 1)
            stored = part["frames"].permute(order) if channel_format == "NCHW" else part["frames"]
            assert stored.is_contiguous()
            if "is_pad" in part:
                assert part["is_pad"].dtype == torch.bool
                assert part["is_pad"].shape == (4, 4)
                assert part["is_pad"].any()


@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (3, 640, 1000, 3)], ids=["small", "large"])
def test_clips_of_one_shape_are_rows_of_one_aligned_tensor(shape: tuple[int, ...]) -> None:
    clips = _allocate([shape, (1, 2, 2, 1), shape, shape])
    rows = [clips[0], *clips[2:]]
    joined = consecutive_rows(rows)
    assert joined is not None
    assert joined.shape == (3, *shape)
    assert joined.dtype == torch.uint8
    assert joined.data_ptr() % 64 == 0
    for number, row in enumerate(rows):
        row.fill_(number + 1)
    assert torch.equal(joined[:, 0, 0, 0, 0], torch.tensor([1, 2, 3], dtype=torch.uint8))
    (alone,) = _allocate([shape])
    assert alone.shape == shape
    assert alone.data_ptr() % 64 == 0
