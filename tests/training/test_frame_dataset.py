"""Single frames: all of them, each proving its number, as whole batches and through loaders."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_samples import COUNTS, PER_VIDEO, equal, jitter
from torch.utils.data import DataLoader, Subset

from lazyvid.errors import VideoError
from lazyvid.frames import ClipSpec, Window
from lazyvid.stats import read_stats
from lazyvid.testing import read_frame_number
from lazyvid.training import ClipDataset, FrameDataset, RandomClipSampler, collate_clips


def check(sample: dict[str, Any], video: int, number: int) -> None:
    assert sample.keys() == {"frames", "timestamp", "frame_index", "video_id"}
    assert sample["frames"].shape == (3, 64, 96)
    assert read_frame_number(sample["frames"]) == video * PER_VIDEO + number
    assert sample["timestamp"] == number / 30
    assert type(sample["timestamp"]) is float
    assert (sample["frame_index"], sample["video_id"]) == (number, video)


def test_all_frames_of_all_videos(folder: Path) -> None:
    dataset = FrameDataset(folder)
    everything = [(video, k) for video, count in enumerate(COUNTS) for k in range(count)]
    assert len(dataset) == len(everything) == 71
    for sample, (video, k) in zip(dataset.__getitems__(range(71)), everything, strict=True):
        check(sample, video, k)
    check(dataset[-1], *everything[-1])
    assert dataset.window(30) == Window(1, 7, 8)
    check(dataset[Window(2, 5, 6)], 2, 5)
    assert dataset.clip == ClipSpec(1, step=1)
    assert dataset.extents.counts.tolist() == list(COUNTS)
    for outside in (71, -72):
        with pytest.raises(IndexError, match="71 frames"):
            dataset[outside]
    for items in ([Window(0, 0, 2)], [0, Window(0, 3, 3)]):
        with pytest.raises(ValueError, match="one frame"):
            dataset.__getitems__(items)


def test_a_batch_is_one_tensor_without_time(folder: Path) -> None:
    dataset = FrameDataset(folder)
    samples = dataset.__getitems__([40, 3, 3, 25])
    batch = collate_clips(samples)
    assert batch["frames"].shape == (4, 3, 64, 96)
    assert batch["frames"].data_ptr() == samples[0]["frames"].data_ptr()
    assert [read_frame_number(frame) for frame in batch["frames"]] == [2009, 3, 3, 1002]
    assert batch["timestamp"].dtype == torch.float64
    assert batch["frame_index"].tolist() == [9, 3, 3, 2]
    assert equal([dataset[i] for i in (40, 3, 3, 25)], samples)


def test_options_are_those_of_clips(folder: Path, broken: Path) -> None:
    changed = FrameDataset(folder, transform=jitter, resize=(32, 48), colorspace="G", channel_format="NHWC")
    sample = changed[Window(0, 4, 5, seed=3)]
    assert sample["frames"].shape == (32, 48, 1)
    assert equal(changed[Window(0, 4, 5, seed=3)], sample)
    assert changed.transform is jitter
    with pytest.raises(VideoError):
        FrameDataset(broken)[0]
    before = read_stats()
    assert FrameDataset(broken, on_error="skip")[22]["video_id"] == 1
    assert (read_stats() - before).samples_skipped == 1


def test_cameras(folder: Path) -> None:
    dataset = FrameDataset({"left": folder, "right": folder / "*.mp4"})
    assert dataset.cameras == ("left", "right")
    sample = dataset[24]
    check(sample["left"], 1, 1)
    check(sample["right"], 1, 1)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loaders_and_samplers(folder: Path, context: str) -> None:
    dataset = FrameDataset(folder, transform=jitter)
    options: dict[str, Any] = {"batch_size": 8, "sampler": RandomClipSampler(dataset), "collate_fn": collate_clips}
    expected = list(DataLoader(dataset, **options))
    assert sorted((batch["video_id"] * PER_VIDEO + batch["frame_index"]).tolist() for batch in expected)
    found = list(DataLoader(dataset, num_workers=2, multiprocessing_context=context, timeout=240, **options))
    assert equal(found, expected)
    assert sum(len(batch["frame_index"]) for batch in found) == 71


def test_small_to_send_and_part_of_others(folder: Path) -> None:
    dataset = FrameDataset(folder)
    assert len(pickle.dumps(dataset)) < 6000
    check(Subset(dataset, [5, 30])[1], 1, 7)
    assert repr(dataset) == "FrameDataset(videos=3, frames=71)"
    clips = ClipDataset(folder, ClipSpec(4))
    assert repr(clips).startswith("ClipDataset(videos=3, clips=17")
