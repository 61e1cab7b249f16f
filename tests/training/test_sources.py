"""What a source says of all its videos at once is what each video says of itself."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lazyvid import timing
from lazyvid.errors import LimitExceededError, ObjectChangedError, ObjectNotFoundError
from lazyvid.frames import ClipSpec, Limits, Window
from lazyvid.index import Catalog, node_files
from lazyvid.index.finding import find_videos
from lazyvid.recording import VideoWriter
from lazyvid.storage import ObjectStore
from lazyvid.testing import CountingProxy, S3Server, painted_frame
from lazyvid.training import ClipDataset
from lazyvid.training.sources import VideoSource, open_cameras, open_videos
from lazyvid.video import LazyVideo


def check_source(source: VideoSource, videos: list[LazyVideo]) -> None:
    """The law of every `VideoSource`."""
    assert len(source) == len(videos)
    assert [video.uri for video in source] == [source.uri(i) for i in range(len(source))] == [v.uri for v in videos]
    assert source.frame_counts.tolist() == [len(video) for video in videos]
    assert source.nbytes.tolist() == [v.frame_index.packets.size[v.frame_indices].sum() for v in videos]
    assert source.median_steps.tolist() == [timing.median_step(video.timestamps) for video in videos]
    for i, video in enumerate(videos):
        assert np.array_equal(source[i].timestamps, video.timestamps)
        assert np.array_equal(source.timestamps(i), video.timestamps)
        assert np.array_equal(source[i - len(videos)].timestamps, video.timestamps)
    for position in (-1, 0, 3, 30, 10**6):
        found = source.times_at(np.full(len(videos), position))
        expected = [v.timestamps[position] if 0 <= position < len(v) else np.nan for v in videos]
        assert np.array_equal(found, expected, equal_nan=True)
    moments = [-1.0, 0.0, 1e9, np.nan, *(t + e for v in videos for t in v.timestamps[::7] for e in (-1e-9, 0, 1e-9))]
    for moment in moments:
        seconds = np.full(len(videos), moment)
        for side in ("left", "right"):
            expected = [np.searchsorted(video.timestamps, moment, side=side) for video in videos]
            assert source.search(seconds, side=side).tolist() == expected  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        source[len(videos)]


def test_a_list_of_videos(folder: Path) -> None:
    videos = LazyVideo.open_many([folder / f"{v}.mp4" for v in range(3)])
    videos += [videos[2].lazy_slice(0.3, 0.9), videos[0].lazy_slice(5, 5), LazyVideo.concat([videos[1]])]
    source = open_videos(videos, {})
    check_source(source, videos)
    check_source(pickle.loads(pickle.dumps(source)), videos)


@pytest.fixture(scope="module")
def catalog(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.build(
        folder, tmp_path_factory.mktemp("catalog") / "c.lance", columns={"split": ["train", "val", "train"]}
    )


def test_a_catalog(catalog: Catalog, folder: Path) -> None:
    videos = LazyVideo.open_many([folder / f"{v}.mp4" for v in range(3)])
    source = open_videos(catalog, {})
    check_source(source, videos)
    check_source(pickle.loads(pickle.dumps(source)), videos)
    view = open_videos(catalog.filter(pc.field("split") == "train"), {"resize": (32, 48)})
    check_source(view, [videos[0], videos[2]])
    check_source(pickle.loads(pickle.dumps(view)), [videos[0], videos[2]])
    assert [video.metadata for video in view] == [{"split": "train"}] * 2
    assert view[1].resize == (32, 48)
    assert view[1] is view[-1]
    assert torch.equal(source[1][3], videos[1][3])
    assert len(pickle.dumps(source)) < 1024


def test_a_catalog_of_uneven_times(tmp_path: Path) -> None:
    """Where the grid of a video's first and last time leaves it open, its own times decide."""
    rng = np.random.default_rng(0)
    for number in range(4):
        with VideoWriter(tmp_path / f"{number}.mp4", 30, preset="ultrafast") as writer:
            for seconds in 1_700_000_000 + np.cumsum(0.01 + rng.random(12)) if number else np.arange(9) / 30:
                writer.add_frame(painted_frame(0, width=64, height=48), timestamp=float(seconds))
    source = open_videos(Catalog.build(tmp_path, tmp_path / "c.lance"), {})
    check_source(source, LazyVideo.open_many([tmp_path / f"{v}.mp4" for v in range(4)]))


@given(
    seed=st.integers(0, 2**32 - 1),
    first=st.sampled_from([0.0, -5.0, 1.7e9]),
    jitter=st.sampled_from([0.0, 1e-9, 1e-3, 1.0]),
)
def test_what_the_grid_decides_is_right(seed: int, first: float, jitter: float) -> None:
    rng = np.random.default_rng(seed)
    videos = [np.sort(first + (np.arange(n) + jitter * rng.random(n)) / 30) for n in (0, 1, 2, 7, 90)]
    counts = np.array([len(times) for times in videos])
    ends = [(times[0], times[-1]) if len(times) else (np.nan, np.nan) for times in videos]
    errors = np.array([timing.grid_error(times) for times in videos])
    for seconds in (*videos[-1][::9], *(first + 4 * rng.random(20) - 0.5), np.inf, -np.inf, np.nan):
        asked = np.full(5, seconds)
        least, most = timing.frames_before(
            asked, first=np.array(ends)[:, 0], last=np.array(ends)[:, 1], counts=counts, errors=errors
        )
        for k, times in enumerate(videos):
            for side in ("left", "right"):
                exact = np.searchsorted(times, seconds, side=side)  # type: ignore[call-overload]
                assert least[k] <= exact <= most[k]
    if jitter == 0:
        between = (videos[-1][10] + videos[-1][11]) / 2
        least, most = timing.frames_before(
            np.full(5, between), first=np.array(ends)[:, 0], last=np.array(ends)[:, 1], counts=counts, errors=errors
        )
        assert least[-1] == most[-1] == 11


@pytest.mark.parametrize(
    "spec",
    [ClipSpec(4, step=3), ClipSpec(3, fps=10), ClipSpec(3, fps=7, pad="repeat"), ClipSpec(2, frame_stride=5)],
    ids=str,
)
@pytest.mark.parametrize("cameras", [False, True])
def test_a_dataset_is_the_same_by_catalog(catalog: Catalog, folder: Path, spec: ClipSpec, cameras: bool) -> None:
    of_catalog = ClipDataset({"a": catalog, "b": catalog} if cameras else catalog, spec)
    of_videos = ClipDataset({"a": folder, "b": folder} if cameras else folder, spec)
    assert len(of_catalog) == len(of_videos) > 0
    for dataset in (of_catalog, pickle.loads(pickle.dumps(of_catalog))):
        batches = dataset.__getitems__(range(len(dataset))), of_videos.__getitems__(range(len(of_videos)))
        for one, other in zip(*batches, strict=True):
            for name in ("a", "b") if cameras else ("",):
                check_same(one[name] if cameras else one, other[name] if cameras else other)


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


def test_options_of_a_catalog(catalog: Catalog, folder: Path) -> None:
    spec = ClipSpec(4)
    gray = ClipDataset(catalog, spec, resize=(20, 30), colorspace="GRAY", channel_format="NHWC")[0]["frames"]
    assert gray.shape == (4, 20, 30, 1)
    for wrong, error in (
        ({"index_root": "/x"}, ValueError),
        ({"stream": 0}, ValueError),
        ({"no_such_option": 1}, TypeError),
        ({"resize": 3}, ValueError),
        ({"limits": 3}, TypeError),
        ({"store": ObjectStore(), "storage_options": {}}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(wrong))):
            ClipDataset(catalog, spec, **wrong)
    with pytest.raises(LimitExceededError, match=r"0\.mp4"):
        ClipDataset(catalog, spec, limits=Limits(pixels=100))[0]
    with pytest.raises(ValueError, match="as many videos"):
        ClipDataset({"a": catalog, "b": catalog.filter(pc.field("split") == "val")}, spec)


def test_a_video_of_a_catalog_goes_its_own_way(catalog: Catalog, folder: Path) -> None:
    """It is pickled, sliced and joined as any other; elsewhere its index comes from the catalog."""
    source = open_videos(catalog, {})
    whole = LazyVideo.from_uri(folder / "2.mp4")
    pickled = pickle.dumps(source[2])
    assert len(pickled) < 2048
    node_files.clear()
    again = pickle.loads(pickled)
    assert torch.equal(again[5], whole[5])
    assert again.metadata == {"split": "train"}
    assert torch.equal(pickle.loads(pickle.dumps(source[2].lazy_slice(0.5, 0.9)))[:], whole.lazy_slice(0.5, 0.9)[:])
    joined = LazyVideo.concat([source[0], source[2]], timestamps="append")
    assert len(pickle.loads(pickle.dumps(joined))) == 23 + 40


def test_a_video_that_was_replaced(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    shutil.copytree(folder, root)
    catalog = Catalog.build(root, tmp_path / "c.lance")
    dataset = ClipDataset(catalog, ClipSpec(4))
    shutil.copy(root / "2.mp4", root / "0.mp4")
    with pytest.raises(ObjectChangedError, match=r"0\.mp4.*lazyvid catalog refresh .*c\.lance"):
        dataset[0]
    assert dataset[Window(1, 0, 4)]["video_id"] == 1
    assert catalog.refresh().changes.changed == (str(root / "0.mp4"),)
    with pytest.raises(ObjectChangedError):  # the dataset stays with the version that it was made of
        pickle.loads(pickle.dumps(dataset))[0]
    fresh, expected = ClipDataset(catalog, ClipSpec(4))[0], ClipDataset([folder / "2.mp4"], ClipSpec(4))[0]
    check_same(fresh, expected)


SLOW_SPAWN = pytest.param("spawn", marks=pytest.mark.slow)


@pytest.mark.parametrize("method", ["fork", "forkserver", SLOW_SPAWN])
def test_workers_read_by_a_catalog(catalog: Catalog, folder: Path, method: str) -> None:
    spec = ClipSpec(4, step=7)
    dataset = ClipDataset(catalog.filter(pc.field("split") == "train"), spec)
    expected = ClipDataset([folder / "0.mp4", folder / "2.mp4"], spec)
    workers = 2 if method == "fork" else 1  # the others import torch anew in each
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, multiprocessing_context=method)
    for _ in range(workers):
        frames = torch.cat([batch["frames"] for batch in loader])
        assert torch.equal(frames, torch.stack([expected[i]["frames"] for i in range(len(expected))]))


@pytest.mark.s3
@pytest.mark.parametrize("method", ["fork", SLOW_SPAWN])
def test_workers_on_s3(
    method: str, folder: Path, s3_server: S3Server, s3_prefix: str, counting_proxy: CountingProxy
) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for number in range(3):
        store.upload(folder / f"{number}.mp4", f"{s3_prefix}/{number}.mp4")
    options = counting_proxy.storage_options_for(s3_server)
    catalog = Catalog.build(s3_prefix, f"{s3_prefix}/catalog.lance", storage_options=options)
    dataset = ClipDataset(Catalog.open(f"{s3_prefix}/catalog.lance", storage_options=options), ClipSpec(4, step=7))
    counting_proxy.reset()
    loader = DataLoader(dataset, batch_size=3, num_workers=2, multiprocessing_context=method)
    frames = torch.cat([batch["frames"] for batch in loader])
    expected = ClipDataset(folder, ClipSpec(4, step=7))
    assert torch.equal(frames, torch.stack([expected[i]["frames"] for i in range(len(expected))]))
    assert {request.path.rpartition("/")[2] for request in counting_proxy.requests} == {"0.mp4", "1.mp4", "2.mp4"}
    store.upload(folder / "1.mp4", f"{s3_prefix}/0.mp4")
    with pytest.raises(ObjectChangedError, match="catalog refresh"):
        dataset[0]
    assert len(catalog.refresh().changes.changed) == 1


def test_sources_by_name(folder: Path) -> None:
    cameras = open_cameras({"top": folder, "wrist": f"{folder}/*.mp4"}, {})
    assert [source.uri(2) for source in cameras.values()] == [str(folder / "2.mp4")] * 2
    with pytest.raises(TypeError, match="LazyVideo"):
        open_videos(cameras["top"][0], {})  # type: ignore[arg-type]


def test_a_glob_finds_no_files_of_sidecars(folder: Path, tmp_path: Path) -> None:
    assert find_videos(f"{folder}/**", ObjectStore()) == [str(folder / f"{v}.mp4") for v in range(3)]
    with pytest.raises(ObjectNotFoundError, match="found none"):
        find_videos(f"{folder}/*.lance/**", ObjectStore())
    # A folder may be called what it likes.
    shutil.copytree(folder, tmp_path / "my.lance" / "videos")
    assert len(find_videos(str(tmp_path / "my.lance" / "videos"), ObjectStore())) == 3
