"""Every frame of every sample proves its own number: plain, in batches, in workers, from a folder and from S3."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from lazyvid.errors import FrameTimestampError, LazyVidError, ObjectNotFoundError, VideoError
from lazyvid.frames import ClipSpec, Window
from lazyvid.recording import VideoWriter
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, painted_frame, read_frame_number
from lazyvid.training import ClipDataset, collate_clips
from lazyvid.video import LazyVideo

COUNTS = (23, 8, 40)
PER_VIDEO = 1000


def numbers(frames: torch.Tensor) -> list[int]:
    """What the frames show; [T, ...] or [B, T, ...]."""
    return [read_frame_number(frame) for frame in frames.flatten(0, -4)]


def check(sample: dict[str, Any], video: int, positions: list[int]) -> None:
    count = COUNTS[video]
    shown = [min(p, count - 1) for p in positions]
    assert numbers(sample["frames"]) == [video * PER_VIDEO + p for p in shown]
    assert sample["frames"].dtype == torch.uint8
    assert sample["frame_indices"].tolist() == shown
    assert sample["timestamps"].dtype == torch.float64
    assert sample["timestamps"].tolist() == [p / 30 for p in shown]
    assert sample["is_pad"].tolist() == [p >= count for p in positions]
    assert sample["video_id"] == video


def double_brightness(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "frames": sample["frames"].float() / 255, "seen": int(sample["frame_indices"][0])}


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


def test_transform(folder: Path) -> None:
    plain, changed = (ClipDataset(folder, ClipSpec(4), transform=t) for t in (None, double_brightness))
    for one, other in zip(plain.__getitems__([3, 1]), changed.__getitems__([3, 1]), strict=True):
        assert torch.equal(other["frames"], one["frames"].float() / 255)
        assert other["seen"] == int(one["frame_indices"][0])
    assert collate_clips(changed.__getitems__([0, 1]))["frames"].shape == (2, 4, 3, 64, 96)


# -- where videos are -------------------------------------------------------------------------------------------------


def upload(folder: Path, server: S3Server, prefix: str) -> ObjectStore:
    store = ObjectStore(storage_options=server.storage_options)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.upload(file, f"{prefix}/{file.relative_to(folder).as_posix()}")
    return store


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


# -- several cameras --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings by two cameras on one clock: `side` is larger, faster, and begins and ends later."""
    root = tmp_path_factory.mktemp("stage")
    for take in range(2):
        for name, count, rate, begin, size in (("top", 30, 10, 50.0, (96, 64)), ("side", 75, 30, 50.51, (128, 96))):
            with VideoWriter(root / name / f"{take}.mp4", rate, preset="veryfast", g=10) as writer:
                for k in range(count):
                    number = take * PER_VIDEO + (500 if name == "side" else 0) + k
                    frame = painted_frame(number, width=size[0], height=size[1])
                    writer.add_frame(frame, timestamp=begin + k / rate)
    return root


def test_cameras_are_aligned_by_time(stage: Path) -> None:
    dataset = ClipDataset({"top": stage / "top", "side": stage / "side"}, ClipSpec(4))
    assert dataset.cameras == ("top", "side")
    # top's frames 5 (50.5 s) to 29 (52.9 s) lie where side, 50.51 s to 52.9767 s, has frames.
    assert dataset.window(0) == Window(0, 5, 9)
    assert len(dataset) == 2 * ((30 - 5) // 4)
    samples = dataset.__getitems__([0, len(dataset) - 1, 1])
    for sample, window in zip(samples, map(dataset.window, (0, len(dataset) - 1, 1)), strict=True):
        top, side = sample["top"], sample["side"]
        take = window.video * PER_VIDEO
        assert numbers(top["frames"]) == [take + k for k in range(window.start, window.stop)]
        nearest = [max(0, round((50 + k / 10 - 50.51) * 30)) for k in range(window.start, window.stop)]
        assert numbers(side["frames"]) == [take + 500 + k for k in nearest]
        assert (top["timestamps"] - side["timestamps"]).abs().max() <= 1 / 30
        assert top["frames"].shape == (4, 3, 64, 96)
        assert side["frames"].shape == (4, 3, 96, 128)
        assert top["video_id"] == side["video_id"] == window.video
    batch = collate_clips(samples)
    assert batch["side"]["frames"].shape == (3, 4, 3, 96, 128)
    assert numbers(batch["side"]["frames"]) == [n for sample in samples for n in numbers(sample["side"]["frames"])]


def test_cameras_of_one_size_share_a_tensor(stage: Path) -> None:
    cameras = {"a": stage / "top", "b": stage / "top"}
    samples = ClipDataset(cameras, ClipSpec(4)).__getitems__([3, 0, 1])
    batch = collate_clips(samples)
    for name in cameras:
        assert batch[name]["frames"].data_ptr() == samples[0][name]["frames"].data_ptr()
        assert numbers(batch[name]["frames"]) == [n for s in samples for n in numbers(s[name]["frames"])]


def test_frames_that_are_too_far_apart_are_an_error(stage: Path) -> None:
    cameras = {"top": stage / "top", "side": stage / "side"}
    with pytest.raises(FrameTimestampError, match="'side'"):
        ClipDataset(cameras, ClipSpec(4))[Window(0, 0, 4)]
    assert ClipDataset(cameras, ClipSpec(4), tolerance_s=1.0).window(0) == Window(0, 0, 4)
    with pytest.raises(FrameTimestampError, match="tolerance_s"):
        ClipDataset(cameras, ClipSpec(4), tolerance_s=0.001)[0]


def test_cameras_have_as_many_videos(stage: Path) -> None:
    with pytest.raises(ValueError, match="'side': 1"):
        ClipDataset({"top": stage / "top", "side": [stage / "side" / "0.mp4"]}, ClipSpec(4))


# -- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """The folder, with the payload of the first video overwritten after it was indexed."""
    root = tmp_path / "broken"
    shutil.copytree(folder, root, copy_function=shutil.copy2)
    index = LazyVideo(root / "0.mp4").frame_index
    with (root / "0.mp4").open("r+b") as file:
        for offset, size in zip(index.packets.offset.tolist(), index.packets.size.tolist(), strict=True):
            file.seek(offset)
            file.write(bytes(size))
    return root


def test_a_damaged_video_raises_by_default(broken: Path) -> None:
    dataset = ClipDataset(broken, ClipSpec(4))
    with pytest.raises(VideoError, match=r"0\.mp4"):
        dataset[0]
    check(dataset[Window(2, 0, 4)], 2, [0, 1, 2, 3])


def test_skipped_clips_are_replaced_the_same_way_each_time(broken: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = ClipDataset(broken, ClipSpec(4), on_error="skip")
    with caplog.at_level(logging.WARNING, logger="lazyvid.training"):
        samples = dataset.__getitems__([0, 6, 1, Window(0, 3, 7)])
    assert len(samples) == 4
    check(samples[1], 1, [4, 5, 6, 7])
    for sample in samples:
        assert sample["video_id"] > 0
        start = int(sample["frame_indices"][0])
        check(sample, sample["video_id"], list(range(start, start + 4)))
    again = ClipDataset(broken, ClipSpec(4), on_error="skip").__getitems__([0, 6, 1, Window(0, 3, 7)])
    assert [numbers(s["frames"]) for s in again] == [numbers(s["frames"]) for s in samples]
    assert len(collate_clips(samples)["frames"]) == 4
    assert "CorruptVideoError" in caplog.text
    assert "takes the place of" in caplog.text


def test_when_nothing_can_be_read_that_is_an_error(broken: Path) -> None:
    dataset = ClipDataset([broken / "0.mp4"], ClipSpec(4), on_error="skip")
    with pytest.raises(LazyVidError, match=r"none that can be read among 5.*CorruptVideoError"):
        dataset[1]


def test_an_error_of_the_transform_is_not_skipped(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4), transform=lambda sample: sample["no such key"], on_error="skip")
    with pytest.raises(KeyError):
        dataset[0]


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
        ("folder", "spawn", None),
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


@pytest.mark.parametrize("context", ["fork", "spawn"])
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
