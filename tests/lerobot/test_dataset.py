"""Every item is what LeRobot gives: golden values come from pyarrow and a sequential decode, never from lazyvid."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_independent import CAMERAS, TASKS, V3_VIDEO, Golden, Plan, assert_same_item, write_mp4, write_v3
from PIL import Image
from torch.utils.data import DataLoader

from lazyvid.errors import (
    DatasetError,
    EpisodeMismatchError,
    FrameTimestampError,
    LazyVidError,
    MissingIndexError,
    ObjectNotFoundError,
)
from lazyvid.frames import Window
from lazyvid.index.probe import build_index
from lazyvid.lerobot import LeRobotDataset
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore, SegmentCache
from lazyvid.testing import S3Server, painted_frame, read_frame_number
from lazyvid.training.collate import collate_clips
from lazyvid.training.samplers import RandomClipSampler, SequentialClipSampler

FRONT, WRIST = CAMERAS
DELTAS = {FRONT: (-1, 0), WRIST: (0, 3, -50), "action": (0, 1, 2), "timestamp": (-2, 0)}


def seconds(deltas: dict[str, tuple[int, ...]], fps: int = 30) -> dict[str, list[float]]:
    return {key: [k / fps for k in offsets] for key, offsets in deltas.items()}


@pytest.fixture(scope="module")
def shared_golden(shared_dataset: Path) -> Golden:
    return Golden(shared_dataset)


@pytest.fixture(scope="module")
def golden(v3: Path) -> Golden:
    return Golden(v3)


# -- items ------------------------------------------------------------------------------------------------------------


def test_every_item_of_a_dataset_by_lerobot(shared_dataset: Path, shared_golden: Golden) -> None:
    dataset = LeRobotDataset(shared_dataset)
    assert len(dataset) == dataset.num_frames == len(shared_golden.rows) == 128
    assert dataset.num_episodes == 3
    for index, item in enumerate(dataset.__getitems__(range(len(dataset)))):
        assert_same_item(item, shared_golden.item(index))


def test_windows_of_both_cameras_at_every_item(shared_dataset: Path, shared_golden: Golden) -> None:
    dataset = LeRobotDataset(shared_dataset, delta_timestamps=seconds(DELTAS))
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    for start in range(0, len(order), 32):
        part = order[start : start + 32]
        for index, item in zip(part, dataset.__getitems__(part), strict=True):
            assert_same_item(item, shared_golden.item(index, DELTAS))


@pytest.mark.parametrize("episodes", [[2], [0, 2], [1], [2, 0]])
def test_chosen_episodes(shared_dataset: Path, shared_golden: Golden, episodes: list[int]) -> None:
    dataset = LeRobotDataset(shared_dataset, episodes=episodes, delta_timestamps=seconds(DELTAS))
    rows = [row["index"] for row in shared_golden.rows if row["episode_index"] in episodes]
    assert len(dataset) == len(rows)
    assert dataset.num_episodes == len(episodes)
    edges = [0, 1, len(rows) // 2, len(rows) - 1, -1]
    for place in edges:
        assert_same_item(dataset[place], shared_golden.item(rows[place], DELTAS))


def test_episodes_over_several_files(v3: Path, golden: Golden, plan: Plan) -> None:
    dataset = LeRobotDataset(v3, delta_timestamps=seconds(DELTAS))
    for index, item in enumerate(dataset.__getitems__(range(plan.total))):
        assert_same_item(item, golden.item(index, DELTAS))
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        shown = [read_frame_number(picture) for picture in (item[FRONT] * 255).to(torch.uint8)]
        assert shown == [plan.number(FRONT, episode, max(frame - 1, 0)), plan.number(FRONT, episode, frame)]


def test_the_older_format_gives_the_same(v21: Path, v3: Path, plan: Plan) -> None:
    old, new = (LeRobotDataset(root, delta_timestamps=seconds(DELTAS)) for root in (v21, v3))
    for index in (0, 5, 11, 12, plan.total - 1):
        found, expected = old[index], new[index]
        assert found.keys() == expected.keys()
        for key in expected.keys() - set(CAMERAS):  # each file was encoded by itself
            assert torch.equal(found[key], expected[key]) if key != "task" else found[key] == expected[key]
        for camera in CAMERAS:
            episode, frame = int(found["episode_index"]), int(found["frame_index"])
            places = [min(max(frame + k, 0), plan.lengths[episode] - 1) for k in DELTAS[camera]]
            shown = [read_frame_number((picture * 255).to(torch.uint8)) for picture in found[camera]]
            assert shown == [plan.number(camera, episode, place) for place in places]
    assert old.meta.episodes["dataset_from_index"].tolist() == new.meta.episodes["dataset_from_index"].tolist()
    assert old.meta.stats["action"]["count"].tolist() == [plan.total]
    actions = np.array([row["action"] for row in pq.read_table(v3 / "data/chunk-000/file-000.parquet").to_pylist()])
    np.testing.assert_allclose(old.meta.stats["action"]["mean"], actions.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(old.meta.stats["action"]["std"], actions.std(axis=0), rtol=1e-6)


def test_pictures_of_one_byte(v3: Path) -> None:
    bytes_, floats = LeRobotDataset(v3, return_uint8=True)[3][FRONT], LeRobotDataset(v3)[3][FRONT]
    assert bytes_.dtype == torch.uint8
    assert torch.equal(bytes_.to(torch.float32) / 255, floats)


def test_a_frame_of_an_episode_by_its_window(v3: Path, golden: Golden) -> None:
    dataset = LeRobotDataset(v3, episodes=[1, 2])
    assert_same_item(dataset[Window(1, 4, 5)], golden.item(12 + 17 + 4))
    assert dataset.window(17) == Window(1, 0, 1)
    assert dataset.window(-1) == Window(1, 8, 9)
    with pytest.raises(ValueError, match="one frame"):
        dataset[Window(0, 4, 6)]
    for wrong in (Window(2, 0, 1), Window(0, 17, 18), 26, -27):
        with pytest.raises(IndexError):
            dataset[wrong]


def test_transforms_get_the_pictures_alone(v3: Path) -> None:
    dataset = LeRobotDataset(v3, delta_timestamps={FRONT: [-1 / 30, 0]}, image_transforms=lambda x: x.mean((-2, -1)))
    item = dataset[5]
    assert item[FRONT].shape == (2, 3)
    assert item[WRIST].shape == (3,)
    assert item["action"].shape == (6,)


def test_stored_dtypes(tmp_path: Path) -> None:
    plan = Plan(lengths=(3, 2), file_of=(0, 0), cameras=())
    wide = np.arange(30, dtype=np.float64).reshape(5, 2, 3) + 1e-12
    plan = replace(
        plan,
        features={
            "wide": {"dtype": "float64", "shape": [2, 3], "names": None},
            "flag": {"dtype": "bool", "shape": [1], "names": None},
            "small": {"dtype": "int16", "shape": [2], "names": None},
            "note": {"dtype": "string", "shape": [1], "names": None},
        },
        columns={
            "wide": pa.array(wide.tolist()),
            "flag": pa.array([True, False, True, True, False]),
            "small": pa.array([[k, -k] for k in range(5)], pa.list_(pa.int16())),
            "note": pa.array(["a", "b", "c", "d", "e"]),
        },
    )
    root = write_v3(tmp_path / "d", plan)
    as_lerobot, as_stored = LeRobotDataset(root)[3], LeRobotDataset(root, dtypes="stored")[3]
    assert as_lerobot["wide"].dtype == torch.float32
    assert as_lerobot["small"].dtype == torch.int64
    assert as_stored["small"].dtype == torch.int16
    assert torch.equal(as_stored["wide"], torch.from_numpy(wide[3]))
    for item in (as_lerobot, as_stored):
        assert item["flag"].dtype == torch.bool
        assert bool(item["flag"])
        assert item["small"].tolist() == [3, -3]
        assert item["note"] == "d"
    window = LeRobotDataset(root, delta_timestamps={"note": [-1 / 30, 0], "flag": [0, 1 / 30]})[0]
    assert window["note"] == ["a", "a"]
    assert window["flag"].tolist() == [True, False]


# -- facts ------------------------------------------------------------------------------------------------------------


def test_what_a_dataset_says_of_itself(shared_dataset: Path) -> None:
    meta = LeRobotDataset(shared_dataset).meta
    info = json.loads((shared_dataset / "meta/info.json").read_text())
    assert (meta.fps, meta.features, meta.robot_type) == (30, info["features"], "toy")
    assert (meta.total_episodes, meta.total_frames, meta.total_tasks) == (3, 128, 2)
    assert meta.tasks == ("task 0", "task 1")
    assert meta.get_task_index("task 1") == 1
    assert meta.get_task_index("another") is None
    assert meta.video_keys == meta.camera_keys == list(CAMERAS)
    assert meta.image_keys == meta.depth_keys == []
    assert meta.shapes["action"] == (6,)
    stats = json.loads((shared_dataset / "meta/stats.json").read_text())
    assert {key: set(each) for key, each in meta.stats.items()} == {key: set(each) for key, each in stats.items()}
    assert meta.stats[FRONT]["mean"].shape == (3, 1, 1)
    rows = pq.read_table(shared_dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for number, row in enumerate(rows):
        assert meta.episodes[number] == {key: value for key, value in row.items() if not key.startswith("stats/")}
    assert meta.episodes["length"].tolist() == [40, 55, 33]
    assert meta.get_video_file_path(2, WRIST) == f"videos/{WRIST}/chunk-000/file-000.mp4"
    assert meta.get_data_file_path(0) == "data/chunk-000/file-000.parquet"


def test_a_pickle_is_small_and_gives_the_same(v3: Path, golden: Golden) -> None:
    dataset = LeRobotDataset(v3, episodes=[0, 2], delta_timestamps=seconds(DELTAS))
    dataset[0]
    data = pickle.dumps(dataset)
    assert len(data) < 4096
    again = pickle.loads(data)
    assert len(again) == len(dataset)
    assert_same_item(again[12], golden.item(29, DELTAS))
    assert repr(again) == repr(dataset)


def test_a_pickle_is_read_where_the_cache_is_another(
    v3: Path, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickle.dumps(LeRobotDataset(v3))
    monkeypatch.setenv("LAZYVID_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert_same_item(pickle.loads(data)[30], golden.item(30))


@pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_what_one_process_gives(v3: Path, method: str) -> None:
    dataset = LeRobotDataset(v3, delta_timestamps={FRONT: [-1 / 30, 0]}, return_uint8=True)
    expected = list(DataLoader(dataset, batch_size=8))
    found = list(DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context=method))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert torch.equal(one[key], value) if isinstance(value, torch.Tensor) else one[key] == value


def test_samplers_draw_each_frame_of_each_episode_once(v3: Path, plan: Plan) -> None:
    dataset = LeRobotDataset(v3, episodes=[0, 2], return_uint8=True)
    for sampler in (SequentialClipSampler(dataset), RandomClipSampler(dataset, seed=3)):
        assert len(sampler) == len(dataset)
        found: list[tuple[int, int]] = []
        for batch in DataLoader(dataset, batch_size=8, sampler=sampler, collate_fn=collate_clips):
            places = list(zip(batch["episode_index"].tolist(), batch["frame_index"].tolist(), strict=True))
            shown = [read_frame_number(frame) for frame in batch[FRONT]]
            assert shown == [plan.number(FRONT, *place) for place in places]
            found += places
        every = [(episode, frame) for episode in (0, 2) for frame in range(plan.lengths[episode])]
        assert sorted(found) == every
        assert (found == every) == isinstance(sampler, SequentialClipSampler)


def test_what_is_announced_is_what_is_read(v3: Path, golden: Golden) -> None:
    dataset = LeRobotDataset(v3, delta_timestamps=seconds(DELTAS))
    dataset.__getitems__(range(len(dataset)))  # opens all files
    batches = [[3, 30, 3], [12, 11], [37]]
    before = read_stats()
    for batch in batches:
        dataset.__getitems__(batch)
    plain = read_stats() - before
    before = read_stats()
    for batch in (*batches, [99]):  # what cannot be read is said when it is asked for
        dataset.prefetch(batch)
    for batch in batches:
        for index, item in zip(batch, dataset.__getitems__(batch), strict=True):
            assert_same_item(item, golden.item(index, DELTAS))
    announced = read_stats() - before
    assert (announced.bytes_fetched, announced.frames_returned) == (plain.bytes_fetched, plain.frames_returned)
    with pytest.raises(IndexError):
        dataset.__getitems__([99])
    pending = dataset.begin([5])
    pending.cancel()
    with pytest.raises(CancelledError):
        pending.result()


def test_a_windows_seed_makes_a_random_transform_the_same(v3: Path) -> None:
    dataset = LeRobotDataset(v3, image_transforms=lambda picture: picture + torch.rand(1))
    one, same, other = (dataset[Window(1, 2, 3, seed=seed)][FRONT] for seed in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def streamed(loader: Any) -> list[int]:
    return [index for batch in loader for index in batch["index"].tolist()]


def test_a_stream_gives_every_frame_once_in_one_order(v3: Path, plan: Plan) -> None:
    dataset = LeRobotDataset(v3, delta_timestamps={FRONT: [-1 / 30, 0]}, return_uint8=True)
    stream = dataset.stream(batch_size=8, seed=5)
    order = streamed(stream)
    assert sorted(order) == list(range(plan.total))
    assert order != sorted(order)
    again = dataset.stream(batch_size=8, seed=5)
    assert streamed(DataLoader(again, batch_size=None, num_workers=2, multiprocessing_context="fork")) == order
    assert streamed(dataset.stream(batch_size=8, shuffle=False)) == list(range(plan.total))
    for batch in dataset.stream(batch_size=8, seed=5):
        for place in range(len(batch["index"])):
            episode, frame = int(batch["episode_index"][place]), int(batch["frame_index"][place])
            shown = [read_frame_number(picture) for picture in batch[FRONT][place]]
            assert shown == [plan.number(FRONT, episode, max(frame - 1, 0)), plan.number(FRONT, episode, frame)]
    halfway = iter(again)
    next(halfway)
    other = dataset.stream(batch_size=8, seed=5)
    other.load_state_dict(again.state_dict())
    assert streamed(other) == order[8:]


def test_a_stream_is_dealt_to_ranks_and_their_workers(v3: Path, plan: Plan) -> None:
    dealt: list[int] = []
    for rank in range(2):
        stream = LeRobotDataset(v3).stream(batch_size=4, seed=1, num_replicas=2, rank=rank, uneven="pad")
        alone = streamed(stream)
        loader = DataLoader(pickle.loads(pickle.dumps(stream)), batch_size=None, num_workers=2, timeout=300)
        assert streamed(loader) == alone
        dealt += alone
    assert set(dealt) == set(range(plan.total))
    assert len(dealt) == plan.total + plan.total % 2


def test_a_streams_items_are_those_of_the_map_style(v3: Path) -> None:
    dataset = LeRobotDataset(v3, delta_timestamps=seconds(DELTAS))
    for item in itertools.islice(dataset.stream(seed=2), 16):
        assert_same_item(item, dataset[int(item["index"])])


# -- places -----------------------------------------------------------------------------------------------------------


def test_a_checkout_of_links(v3: Path, golden: Golden, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in v3.rglob("*") if path.is_file())):
        blob, link = blobs / f"{number:040x}", snapshot / path.relative_to(v3)
        shutil.copyfile(path, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    for index, item in enumerate(LeRobotDataset(snapshot)):
        assert_same_item(item, golden.item(index))


@pytest.mark.s3
@pytest.mark.parametrize("version", ["v3", "v21"])
def test_a_bucket_gives_the_same_in_the_same_order(
    version: str, s3_server: S3Server, s3_prefix: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(version)
    store = ObjectStore(storage_options=s3_server.storage_options)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        store.upload(path, f"{s3_prefix}/{path.relative_to(root).as_posix()}")
    options: dict[str, Any] = {"delta_timestamps": seconds(DELTAS), "episodes": [0, 2]}
    local = LeRobotDataset(root, **options)
    remote = LeRobotDataset(s3_prefix, storage_options=s3_server.storage_options, **options)
    assert len(remote) == len(local)
    order = np.random.default_rng(1).permutation(len(local)).tolist()
    for one, other in zip(remote.__getitems__(order), local.__getitems__(order), strict=True):
        assert_same_item(one, other)
    one, other = (dataset.stream(batch_size=8, seed=3) for dataset in (remote, local))
    for found, expected in zip(one, other, strict=True):
        assert_same_item(found, expected)
    assert s3_server.storage_options["secret"] not in repr(remote) + repr(remote.meta)
    assert remote.meta.stats.keys() == local.meta.stats.keys()


def test_few_videos_kept_open_are_enough(tmp_path: Path) -> None:
    plan = Plan(lengths=(3,) * 8, file_of=tuple(range(8)), cameras=(FRONT,))
    dataset = LeRobotDataset(write_v3(tmp_path / "d", plan), max_open_videos=2, return_uint8=True)
    order = np.random.default_rng(2).permutation(plan.total).tolist()
    for start in range(0, len(order), 6):
        part = order[start : start + 6]
        shown = [read_frame_number(item[FRONT]) for item in dataset.__getitems__(part)]
        assert shown == [plan.number(FRONT, *divmod(index, 3)) for index in part]


def test_long_videos_are_fewer_that_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lazyvid.lerobot.videos._MOST_BYTES", 2 * 3 * 16)  # those of two files
    plan = Plan(lengths=(3,) * 4, file_of=tuple(range(4)), cameras=(FRONT,))
    dataset = LeRobotDataset(write_v3(tmp_path / "d", plan), return_uint8=True)
    for index in np.random.default_rng(2).permutation(plan.total).tolist():
        assert read_frame_number(dataset[index][FRONT]) == plan.number(FRONT, *divmod(index, 3))
    assert len(dataset._reader._videos._open) == 2


def test_without_a_place_to_keep_rows(
    v3: Path, golden: Golden, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    dataset = LeRobotDataset(v3, cache=SegmentCache(file / "no-folder"))
    assert_same_item(dataset[20], golden.item(20))
    assert "stay in the memory" in caplog.text


def test_kept_rows_that_were_cut_are_made_anew(v3: Path, golden: Golden, tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path / "cache")
    LeRobotDataset(v3, cache=cache)[0]
    kept = list((tmp_path / "cache").glob("*.copy"))
    assert len(kept) > 1
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_same_item(LeRobotDataset(v3, cache=cache)[20], golden.item(20))


# -- pictures in the rows, and depth ----------------------------------------------------------------------------------


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def _with_images(root: Path) -> Path:
    """A dataset with a camera and a depth camera in the rows; frame k of all rows shows k."""
    colours = [painted_frame(k, width=96, height=64) for k in range(5)]
    depths = [np.full((4, 6), 1000 + k, np.uint16) for k in range(5)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (root / "kept").mkdir(parents=True)
    Image.fromarray(colours[4]).save(root / "kept/4.png")
    cells = [{"bytes": _png(pixels), "path": f"frame-{k:06d}.png"} for k, pixels in enumerate(colours[:4])]
    plan = Plan(
        lengths=(3, 2),
        file_of=(0, 0),
        cameras=(),
        features={
            "image": {"dtype": "image", "shape": [64, 96, 3], "names": ["height", "width", "channels"]},
            "depth": {
                "dtype": "image",
                "shape": [4, 6, 1],
                "names": None,
                "info": {"is_depth_map": True, "depth_unit": "mm"},
            },
        },
        columns={
            "image": pa.array([*cells, {"bytes": None, "path": "kept/4.png"}], kind),
            "depth": pa.array([{"bytes": _png(pixels), "path": None} for pixels in depths], kind),
        },
    )
    return write_v3(root, plan)


def test_images_in_the_rows(tmp_path: Path) -> None:
    root = _with_images(tmp_path / "d")
    dataset = LeRobotDataset(root, delta_timestamps={"image": [-1 / 30, 0]})
    for index in range(5):
        item = dataset[index]
        assert item["image"].dtype == torch.float32
        assert item["image"].shape == (2, 3, 64, 96)
        before = index if index in (0, 3) else index - 1
        shown = [read_frame_number((picture * 255).round().to(torch.uint8)) for picture in item["image"]]
        assert shown == [before, index]
        assert item["image_is_pad"].tolist() == [before == index, False]
        assert item["depth"].dtype == torch.float32
        assert torch.equal(item["depth"], torch.full((1, 4, 6), 1000.0 + index))
    assert float(LeRobotDataset(root, depth_output_unit="m")[2]["depth"][0, 0, 0]) == pytest.approx(1.002)
    alone = LeRobotDataset(root)[1]["image"]
    pixels = torch.from_numpy(painted_frame(1, width=96, height=64)).permute(2, 0, 1)
    assert torch.equal(alone, pixels.to(torch.float32) / 255)


def _write_depth(path: Path, codes: np.ndarray[Any, Any], fps: int) -> None:
    """Codes of 12 bits, [N, H, W], as a lossless HEVC video, as LeRobot's depth encoder writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        options = {"x265-params": "lossless=1:log-level=error", "g": "2"}
        stream = output.add_stream("libx265", fps, options=options)
        stream.width, stream.height, stream.pix_fmt = codes.shape[2], codes.shape[1], "gray12le"
        for number, plane in enumerate(codes):
            picture = av.VideoFrame.from_ndarray(plane, format="gray12le")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())


@pytest.mark.parametrize("use_log", [True, False])
def test_depth_videos(tmp_path: Path, use_log: bool) -> None:
    plan = Plan(lengths=(4, 3), file_of=(0, 0), cameras=(FRONT,))
    root = write_v3(tmp_path / "d", plan)
    codes = np.random.default_rng(0).integers(0, 4096, (7, plan.height, plan.width)).astype(np.uint16)
    _write_depth(root / V3_VIDEO.format(video_key=FRONT, chunk_index=0, file_index=0), codes, plan.fps)
    info = plan.info("v3.0")
    parameters = {"depth_min": 0.1, "depth_max": 6.0, "shift": 2.5, "use_log": use_log}
    info["features"][FRONT]["info"] = {"is_depth_map": True} | {f"video.{k}": v for k, v in parameters.items()}
    (root / "meta/info.json").write_text(json.dumps(info))
    if use_log:
        low, high = np.log(0.1 + 2.5), np.log(6.0 + 2.5)
        metres = np.exp(codes / 4095 * (high - low) + low) - 2.5
    else:
        metres = codes / 4095 * (6.0 - 0.1) + 0.1
    in_metres = LeRobotDataset(root, depth_output_unit="m", delta_timestamps={FRONT: [0, 1 / 30]})
    in_mm = LeRobotDataset(root)
    for index in range(7):
        following = index if index in (3, 6) else index + 1
        found = in_metres[index][FRONT]
        assert found.shape == (2, 1, plan.height, plan.width)
        np.testing.assert_allclose(found[:, 0].numpy(), metres[[index, following]], atol=2e-6)
        millimetres = in_mm[index][FRONT]
        assert millimetres.shape == (1, plan.height, plan.width)
        assert np.abs(millimetres[0].numpy() - metres[index] * 1000).max() <= 0.51
        assert torch.equal(millimetres, millimetres.round())


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(v3: Path, tmp_path: Path) -> Path:
    """A copy of the dataset, to be damaged."""
    return Path(shutil.copytree(v3, tmp_path / "copy"))


def _rewrite_episodes(root: Path, **changes: Any) -> None:
    """Change values of one episode: `column=(episode, value)`."""
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    for column, (episode, value) in changes.items():
        rows[episode][column] = value
    pq.write_table(pa.Table.from_pylist(rows), path)


def _fewer_frames(root: Path, plan: Plan, frames: int) -> None:
    """Write the first file of the front camera with so many frames."""
    numbers = [plan.number(FRONT, e, k) for e in (0, 1) for k in range(plan.lengths[e])][:frames]
    pictures = [painted_frame(number, width=plan.width, height=plan.height) for number in numbers]
    write_mp4(root / V3_VIDEO.format(video_key=FRONT, chunk_index=0, file_index=0), pictures, plan)


def test_a_video_that_lacks_frames(copy: Path, plan: Plan, golden: Golden) -> None:
    _fewer_frames(copy, plan, 27)
    dataset = LeRobotDataset(copy)
    assert_same_item_but_pictures(dataset[3], golden.item(3))
    with pytest.raises(EpisodeMismatchError, match=r"17 frames of episode 1, .*file-000\.mp4 .* found 15 \(27 in"):
        dataset[12]
    nearest = LeRobotDataset(copy, on_mismatch="nearest", return_uint8=True)
    assert read_frame_number(nearest[12 + 14][FRONT]) == plan.number(FRONT, 1, 14)
    with pytest.raises(FrameTimestampError, match="episode 1"):
        nearest[12 + 15]


def assert_same_item_but_pictures(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """For videos that were encoded anew."""
    assert found.keys() == expected.keys()
    rest = expected.keys() - set(CAMERAS)
    assert_same_item({key: found[key] for key in rest}, {key: expected[key] for key in rest})


def test_rows_that_are_missing(copy: Path) -> None:
    path = copy / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 28), path)
    dataset = LeRobotDataset(copy)
    dataset[11]
    with pytest.raises(EpisodeMismatchError, match=r"17 rows of episode 1 in .*file-000\.parquet, .* found 16"):
        dataset[12]
    with pytest.raises(EpisodeMismatchError, match=r"9 rows of episode 2 .* found 0"):
        dataset[30]


def test_rows_out_of_order(copy: Path) -> None:
    path = copy / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([*range(5), 6, 5, *range(7, table.num_rows)]), path)
    with pytest.raises(EpisodeMismatchError, match="frame_index 6 in row 5, where 5"):
        LeRobotDataset(copy)[0]


def test_fewer_episodes_than_counted(copy: Path, golden: Golden) -> None:
    path = copy / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 2), path)
    with pytest.raises(EpisodeMismatchError, match=r"the 3 episodes .* found 2.*range\(2\)"):
        LeRobotDataset(copy)
    dataset = LeRobotDataset(copy, episodes=range(2))
    assert_same_item(dataset[28], golden.item(28))


def test_more_episodes_than_counted_are_not_there_yet(copy: Path, golden: Golden) -> None:
    info = json.loads((copy / "meta/info.json").read_text())
    (copy / "meta/info.json").write_text(json.dumps(info | {"total_episodes": 2, "total_frames": 29}))
    dataset = LeRobotDataset(copy)
    assert (dataset.num_episodes, len(dataset)) == (2, 29)
    assert_same_item(dataset[28], golden.item(28))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


_ROWS, _EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
_WRIST = f"videos/{WRIST}/chunk-000/file-000.mp4"
DAMAGES: dict[str, tuple[Any, type[Exception], str]] = {
    "no meta": (lambda root: shutil.rmtree(root / "meta"), ObjectNotFoundError, "no meta/info.json"),
    "half an info": (lambda root: (root / "meta/info.json").write_text("{"), DatasetError, r"info\.json"),
    "a later version": (lambda root: _info(root, codebase_version="v4.0"), DatasetError, r"v4\.0"),
    "other storage": (lambda root: _info(root, storage_format="lance"), DatasetError, "lance"),
    "no rate": (lambda root: _info(root, fps=0), DatasetError, "fps"),
    "code in a path": (lambda root: _info(root, video_path="{video_key.__class__}"), DatasetError, "template"),
    "a path out": (lambda root: _info(root, data_path="../{file_index}.parquet"), LazyVidError, "below"),
    "cut rows": (lambda root: _cut(root / _ROWS), DatasetError, "whole parquet file"),
    "cut episodes": (lambda root: _cut(root / _EPISODES), DatasetError, "whole parquet file"),
    "no rows": (lambda root: (root / _ROWS).unlink(), ObjectNotFoundError, r"file-000\.parquet"),
    "no video": (lambda root: (root / _WRIST).unlink(), ObjectNotFoundError, r"file-000\.mp4"),
    "a cut video": (lambda root: _cut(root / _WRIST), LazyVidError, r"file-000\.mp4"),
    "a gap": (lambda root: _rewrite_episodes(root, episode_index=(1, 5)), DatasetError, "found 2 in the place of 1"),
    "no tasks": (lambda root: (root / "meta/tasks.parquet").unlink(), DatasetError, "task 0"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(copy: Path, name: str) -> None:
    damage, error, message = DAMAGES[name]
    damage(copy)
    with pytest.raises(error, match=message):
        LeRobotDataset(copy)[0]


def _info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_column_of_another_shape(copy: Path) -> None:
    info = json.loads((copy / "meta/info.json").read_text())
    info["features"]["action"]["shape"] = [7]
    (copy / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"38 values of shape \[7\] in the column action .* found 228"):
        LeRobotDataset(copy)[0]


def test_sidecars_are_used_and_capture_times_in_them_let_be(copy: Path, golden: Golden) -> None:
    for path in copy.rglob("*.mp4"):
        index = build_index(path)
        shifted = index.timestamp + np.linspace(0, 0.4, len(index))
        replace(index, timestamp=shifted).save(path)
    dataset = LeRobotDataset(copy, on_missing_index="raise")
    for index in (0, 11, 12, 28, 29, 37):
        assert_same_item(dataset[index], golden.item(index))


def test_without_sidecars_there_is_an_error_when_asked_for(v3: Path) -> None:
    with pytest.raises(MissingIndexError):
        LeRobotDataset(v3, on_missing_index="raise")[0]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"episodes": [3]}, ValueError),
        ({"episodes": [-1]}, ValueError),
        ({"episodes": [1, 1]}, ValueError),
        ({"tolerance_s": -1.0}, ValueError),
        ({"on_mismatch": "guess"}, ValueError),
        ({"dtypes": "numpy"}, ValueError),
        ({"depth_output_unit": "km"}, ValueError),
        ({"max_open_videos": 0}, ValueError),
        ({"delta_timestamps": {"nothing": [0.0]}}, ValueError),
        ({"colorspace": "G"}, TypeError),
        ({"store": ObjectStore(), "storage_options": {}}, ValueError),
    ],
)
def test_wrong_arguments(v3: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        LeRobotDataset(v3, **options)


def test_no_items_are_no_items(v3: Path) -> None:
    assert LeRobotDataset(v3).__getitems__([]) == []
    assert len(LeRobotDataset(v3, episodes=[])) == 0


def _tasks(items: Sequence[dict[str, Any]]) -> Iterator[str]:
    return (item["task"] for item in items)


def test_tasks_are_texts(v3: Path) -> None:
    assert list(_tasks(LeRobotDataset(v3).__getitems__([0, 12, 37]))) == [TASKS[0], TASKS[1], TASKS[0]]
