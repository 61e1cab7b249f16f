"""Every frame of every sample proves its own number: plain, in batches, in workers, from a folder and from S3."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from dataset_samples import COUNTS, PER_VIDEO, check, double_brightness, equal, numbers, upload
from torch.utils.data import DataLoader, Subset

from lazyvid.errors import ObjectNotFoundError, VideoError
from lazyvid.frames import ClipSpec, Window
from lazyvid.stats import read_stats
from lazyvid.testing import S3Server
from lazyvid.training import ClipDataset, collate_clips
from lazyvid.video import LazyVideo


def decoded_in_order(path: Path) -> Iterator[torch.Tensor]:
    """uint8 [3, H, W] of each frame, from the first to the last, as PyAV gives them."""
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            yield torch.from_numpy(picture.to_ndarray(format="rgb24")).permute(2, 0, 1)


# -- clips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["error", "repeat"])
@pytest.mark.parametrize("stride", [1, 3])
def test_the_plain_enumeration(folder: Path, pad: Any, stride: int) -> None:
    spec = ClipSpec(4, frame_stride=stride, step=5, pad=pad)
    dataset = ClipDataset([folder / f"{v}.mp4" for v in range(3)], spec)
    expected = [
        (video, list(range(start, start + spec.span, stride)))
        for video, count in enumerate(COUNTS)
        for start in range(0, count, 5)
        if pad == "repeat" or start + spec.span <= count
    ]
    assert len(dataset) == len(expected)
    for sample, (video, positions) in zip(dataset, expected, strict=True):
        check(sample, video, positions)
    check(dataset[-1], *expected[-1])
    check(dataset[np.int64(2)], *expected[2])


def test_any_window(folder: Path) -> None:
    dataset = ClipDataset(str(folder), ClipSpec(4))
    check(dataset[Window(2, 17, 21)], 2, [17, 18, 19, 20])
    check(dataset[Window(1, 0, 8)], 1, list(range(8)))
    assert dataset.window(0) == Window(0, 0, 4)
    for item in (len(dataset), -len(dataset) - 1, Window(3, 0, 4), Window(1, 8, 12)):
        with pytest.raises(IndexError, match="out of range"):
            dataset[item]
    with pytest.raises(ValueError, match="repeat"):
        dataset[Window(1, 6, 10)]
    with pytest.raises(TypeError):
        dataset["0"]  # type: ignore[index]


def test_a_batch_is_one_tensor_in_the_order_asked(folder: Path) -> None:
    dataset = ClipDataset(str(folder), ClipSpec(4))
    items = [Window(2, 30, 34), 0, Window(1, 2, 6), Window(2, 30, 34), -1]
    samples = dataset.__getitems__(items)
    for sample, item in zip(samples, items, strict=True):
        window = item if isinstance(item, Window) else dataset.window(item)
        check(sample, window.video, list(range(window.start, window.stop)))
    batch = collate_clips(samples)
    assert batch["frames"].data_ptr() == samples[0]["frames"].data_ptr()
    assert batch["frames"].shape == (5, 4, 3, 64, 96)
    assert numbers(batch["frames"]) == [n for sample in samples for n in numbers(sample["frames"])]
    assert batch["video_id"].tolist() == [2, 0, 1, 2, 2]


def test_clips_are_what_a_sequential_decode_gives(folder: Path) -> None:
    videos = [LazyVideo(folder / f"{v}.mp4") for v in range(3)]
    whole = [torch.stack(list(decoded_in_order(folder / f"{v}.mp4"))) for v in range(3)]
    dataset = ClipDataset(videos, ClipSpec(4, frame_stride=3, step=2, pad="repeat"))
    items = list(range(len(dataset) - 1, -1, -1))
    samples = dataset.__getitems__(items)
    for sample, item in zip(samples, items, strict=True):
        assert torch.equal(sample["frames"], whole[sample["video_id"]][sample["frame_indices"]])
        assert equal(dataset[item], sample)


def test_by_time(folder: Path) -> None:
    dataset = ClipDataset(str(folder), ClipSpec(5, fps=10, pad="repeat"))
    check(dataset[0], 0, [0, 3, 6, 9, 12])
    sample = dataset[Window(1, 2, 8)]
    assert numbers(sample["frames"]) == [1002, 1005, 1007, 1007, 1007]
    assert sample["is_pad"].tolist() == [False, False, True, True, True]
    assert len(ClipDataset(str(folder), ClipSpec(5, fps=10))) == 1 + 0 + 2


def test_what_the_videos_can_do_goes_through(folder: Path) -> None:
    videos = [LazyVideo(folder / f"{v}.mp4", resize=(32, 48), colorspace="G", channel_format="NHWC") for v in range(3)]
    sample = ClipDataset([*videos[:2], videos[2].lazy_slice(0.5, 1.0)], ClipSpec(3))[Window(2, 1, 4)]
    assert sample["frames"].shape == (3, 32, 48, 1)
    assert sample["frame_indices"].tolist() == [16, 17, 18]
    opened = ClipDataset(folder, ClipSpec(3), resize=(32, 48))
    assert opened[0]["frames"].shape == (3, 3, 32, 48)


def test_a_batch_is_fetched_at_once(s3_server: S3Server, s3_prefix: str, folder: Path) -> None:
    store = upload(folder, s3_server, s3_prefix)
    dataset = ClipDataset(s3_prefix, ClipSpec(4), store=store)
    before = read_stats()
    dataset.__getitems__([Window(2, 12, 16), Window(0, 11, 15), Window(1, 0, 4)])
    assert (read_stats() - before).requests == 3  # one range a clip


def test_what_clips_of_a_batch_share_is_decoded_once(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4))
    # Groups of pictures are 10 frames long. Of video 2, frames 10 to 13, 10 to 15 and 20 to 23 are needed, once.
    items = [Window(2, 20, 24), Window(2, 10, 14), Window(1, 0, 4), Window(2, 20, 24), Window(2, 12, 16)]
    before = read_stats()
    samples = dataset.__getitems__(items)
    read = read_stats() - before
    assert 14 <= read.packets_fed <= 16  # frames that refer to later ones need these, too
    assert read.frames_returned == 5 * 4
    for sample, window in zip(samples, items, strict=True):
        check(sample, window.video, list(range(window.start, window.stop)))
    samples[0]["frames"].zero_()
    check(samples[3], 2, [20, 21, 22, 23])


def test_transform(folder: Path) -> None:
    plain, changed = (ClipDataset(folder, ClipSpec(4), transform=t) for t in (None, double_brightness))
    for one, other in zip(plain.__getitems__([3, 1]), changed.__getitems__([3, 1]), strict=True):
        assert torch.equal(other["frames"], one["frames"].float() / 255)
        assert other["seen"] == int(one["frame_indices"][0])
    assert collate_clips(changed.__getitems__([0, 1]))["frames"].shape == (2, 4, 3, 64, 96)


# -- where videos are -------------------------------------------------------------------------------------------------


def test_folders_globs_and_single_videos(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b" / "c")
    (tmp_path / "notes.txt").write_text("no video")
    spec = ClipSpec(4)
    assert len(ClipDataset(tmp_path, spec).videos) == 6
    assert len(ClipDataset(f"{tmp_path}/", spec).videos) == 6
    assert [v.uri for v in ClipDataset(f"{tmp_path}/*/[12].mp4", spec).videos] == [
        f"{tmp_path}/a/1.mp4",
        f"{tmp_path}/a/2.mp4",
    ]
    assert len(ClipDataset(f"{tmp_path}/**/2.mp4", spec).videos) == 2
    assert len(ClipDataset(tmp_path / "a" / "0.mp4", spec).videos) == 1
    mixed = ClipDataset([LazyVideo(tmp_path / "a" / "1.mp4"), str(tmp_path / "a" / "0.mp4")], spec)
    assert [len(v) for v in mixed.videos] == [8, 23]
    for nothing in (f"{tmp_path}/*.mp4", tmp_path / "nowhere"):
        with pytest.raises(ObjectNotFoundError):
            ClipDataset(nothing, spec)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"clip": 4}, TypeError),
        ({"on_error": "ignore"}, ValueError),
        ({"tolerance_s": -1.0}, ValueError),
        ({"videos": {}}, ValueError),
        ({"videos": 7}, TypeError),
        ({"videos": [3]}, TypeError),
        ({"no_such_option": 1}, TypeError),
    ],
    ids=str,
)
def test_wrong_arguments(folder: Path, arguments: dict[str, Any], error: type[Exception]) -> None:
    given = {"videos": folder, "clip": ClipSpec(4)} | arguments
    with pytest.raises(error):
        ClipDataset(given.pop("videos"), given.pop("clip"), **given)


def test_no_video_is_an_empty_dataset() -> None:
    assert len(ClipDataset([], ClipSpec(4))) == 0
    assert len(ClipDataset([], ClipSpec(4, fps=3))) == 0


# -- workers ----------------------------------------------------------------------------------------------------------


def batches(dataset: ClipDataset, **options: Any) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    yield from DataLoader(
        dataset, batch_size=4, shuffle=True, generator=generator, timeout=options.pop("t", 0), **options
    )


@pytest.mark.parametrize(
    ("where", "context", "collate_fn"),
    [
        ("folder", "fork", None),
        ("folder", "fork", collate_clips),
        ("folder", "forkserver", collate_clips),
        pytest.param("folder", "spawn", None, marks=pytest.mark.slow),
        ("s3", "fork", collate_clips),
        ("s3", "forkserver", None),
        ("s3", "spawn", collate_clips),
    ],
)
def test_workers_give_the_same_batches(
    where: str, context: str, collate_fn: Any, folder: Path, request: pytest.FixtureRequest
) -> None:
    spec = ClipSpec(4, frame_stride=2, step=3, pad="repeat")
    if where == "s3":
        prefix = request.getfixturevalue("s3_prefix")
        dataset = ClipDataset(prefix, spec, store=upload(folder, request.getfixturevalue("s3_server"), prefix))
    else:
        dataset = ClipDataset(folder, spec)
    dataset[0]  # the parent has read before it forks
    expected = list(batches(dataset, num_workers=0, collate_fn=collate_fn))
    found = list(batches(dataset, num_workers=2, collate_fn=collate_fn, multiprocessing_context=context, t=120))
    assert len(found) == len(expected) == -(-len(dataset) // 4)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
        shown = one["video_id"][:, None] * PER_VIDEO + one["frame_indices"]
        assert numbers(one["frames"]) == shown.flatten().tolist()


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_errors_of_workers_keep_their_class(broken: Path, context: str) -> None:
    dataset = ClipDataset(broken, ClipSpec(4))
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=context, timeout=240)
    with pytest.raises(VideoError, match=r"0\.mp4") as caught:
        next(iter(loader))
    assert type(caught.value).__name__ == "CorruptVideoError"


def test_the_dataset_is_small_to_send(folder: Path) -> None:
    dataset = ClipDataset([LazyVideo(folder / "2.mp4") for _ in range(30)], ClipSpec(4))
    assert len(pickle.dumps(dataset)) < 30 * 1000
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == len(dataset)
    check(copy[Window(20, 1, 5)] | {"video_id": 2}, 2, [1, 2, 3, 4])


def test_a_subset_reads_batches_too(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4))
    samples = Subset(dataset, [5, 2, 9]).__getitems__([2, 0])
    assert [s["video_id"] for s in samples] == [dataset.window(i).video for i in (9, 5)]
    assert collate_clips(samples)["frames"].data_ptr() == samples[0]["frames"].data_ptr()
