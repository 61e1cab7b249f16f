"""What is recorded as a LeRobot dataset is one by the format's description, frame for frame, whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lerobot_checker import problems
from lerobot_independent import CAMERAS, Golden, Plan, assert_same_item, write_v3, write_v21
from lerobot_recordings import FAST, FEATURES, FRONT, LENGTHS, WRIST, add, check, create, frame_of, number

from lazyvid.errors import DatasetError, RecordingError
from lazyvid.lerobot import LeRobotDataset, LeRobotLayout
from lazyvid.recording import Recorder, recover
from lazyvid.recording import camera as camera_module
from lazyvid.recording.mp4 import Mp4File
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, painted_frame, read_frame_number


def files(root: Path, camera: str) -> list[str]:
    return [path.name for path in sorted((root / "videos" / camera).glob("*/*.mp4"))]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 cameras, 5 episodes, 2 video files a camera; do not write into it."""
    root = tmp_path_factory.mktemp("recorded") / "dataset"
    # What an episode takes depends on the encoder: the limit lies between three episodes and five.
    probe = tmp_path_factory.mktemp("recorded") / "probe"
    with create(probe, LeRobotLayout(rewrite_in_mb=0)) as recorder:
        for episode in range(5):
            add(recorder, episode)
            recorder.save_episode()
    sizes = [sum(p.stat().st_size for p in sorted((probe / "videos" / c).glob("*/*.mp4"))[:3]) * 1.05 for c in CAMERAS]
    with create(root, LeRobotLayout(robot_type="toy", video_files_size_in_mb=max(sizes) / (1 << 20))) as recorder:
        for episode in range(5):
            add(recorder, episode)
            recorder.save_episode()
            assert problems(root) == [], "after every saved episode the dataset is whole"
    return root


# -- what is written --------------------------------------------------------------------------------------------------


def test_a_recorded_dataset_is_one(recorded: Path) -> None:
    assert {len(files(recorded, camera)) for camera in CAMERAS} == {2}
    dataset = check(recorded, LENGTHS, on_missing_index="raise")
    assert dataset.meta.robot_type == "toy"
    assert dataset.meta.tasks == ("stack", "open", "pour")
    assert dataset.meta.stats["action"]["max"].tolist() == pytest.approx([4.06] * 6)
    assert dataset.meta.features[FRONT]["info"]["video.codec"] == "h264"


def test_golden_values_of_a_recorded_dataset(recorded: Path) -> None:
    golden = Golden(recorded)
    deltas = {FRONT: (-1, 0), "action": (0, 1)}
    dataset = LeRobotDataset(recorded, delta_timestamps={k: [d / 30 for d in v] for k, v in deltas.items()})
    for index, item in enumerate(dataset.__getitems__(range(len(dataset)))):
        expected = golden.item(index, deltas)
        assert_same_item(item, expected | {"grid": expected["grid"].to(torch.float32)})


def test_files_of_their_own_are_never_written_again(tmp_path: Path) -> None:
    with create(tmp_path / "d", LeRobotLayout(rewrite_in_mb=0)) as recorder:
        seen: dict[str, int] = {}
        for episode in range(3):
            add(recorder, episode)
            recorder.save_episode()
            now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "d/videos" / FRONT).glob("*/*.mp4")}
            assert {name: now[name] for name in seen} == seen
            seen = now
    assert files(tmp_path / "d", FRONT) == ["file-000.mp4", "file-001.mp4", "file-002.mp4"]
    check(tmp_path / "d", LENGTHS[:3])


def test_chunks(tmp_path: Path) -> None:
    with create(tmp_path / "d", LeRobotLayout(rewrite_in_mb=0, chunks_size=2)) as recorder:
        for episode in range(3):
            add(recorder, episode)
            recorder.save_episode()
    found = sorted(p.relative_to(tmp_path / "d/videos" / FRONT).as_posix() for p in tmp_path.rglob("*front/*/*.mp4"))
    assert found == ["chunk-000/file-000.mp4", "chunk-000/file-001.mp4", "chunk-001/file-000.mp4"]
    check(tmp_path / "d", LENGTHS[:3])


def test_images_first(tmp_path: Path) -> None:
    with create(tmp_path / "d", streaming_encoding=False, batch_encoding_size=2) as recorder:
        for episode in range(3):
            add(recorder, episode)
            recorder.save_episode()
    check(tmp_path / "d", LENGTHS[:3])


@pytest.mark.slow
@pytest.mark.parametrize(("vcodec", "preset"), [("libsvtav1", 12), ("h264", "medium"), ("hevc", "ultrafast")])
def test_other_encoders(tmp_path: Path, vcodec: str, preset: Any) -> None:
    with create(tmp_path / "d", vcodec=vcodec, preset=preset, g=30) as recorder:
        for episode in range(3):
            add(recorder, episode)
            recorder.save_episode()
    check(tmp_path / "d", LENGTHS[:3])
    assert len(files(tmp_path / "d", FRONT)) == 1


def test_capture_times_become_columns(tmp_path: Path) -> None:
    times = {episode: 1e9 + 100 * episode + np.cumsum(np.full(LENGTHS[episode], 0.0371)) for episode in range(2)}
    with create(tmp_path / "d") as recorder:
        for episode in range(3):
            for frame in range(LENGTHS[episode]):
                seconds = float(times[episode][frame]) if episode < 2 else None
                recorder.add_frame(frame_of(episode, frame, seconds=seconds))
            recorder.save_episode()
    found = problems(tmp_path / "d")  # an episode without them has no statistics of them
    assert [p for p in found if not p.startswith("stats of capture_timestamp")] == []
    assert len(found) == 2
    dataset = LeRobotDataset(tmp_path / "d", dtypes="stored")
    for index, item in enumerate(dataset):
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        assert float(item["timestamp"]) == np.float32(frame / 30)
        for camera in CAMERAS:
            column = item[f"capture_timestamp.{camera}"]
            assert column.dtype == torch.float64
            assert float(column) == times[episode][frame] if episode < 2 else torch.isnan(column), index


def test_capture_times_that_come_too_late_are_said_not_to_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with create(tmp_path / "d") as recorder:
        add(recorder, 0)
        recorder.save_episode()
        for frame in range(LENGTHS[1]):
            recorder.add_frame(frame_of(1, frame, seconds=5.0 + frame))
        recorder.save_episode()
    assert "capture times of episode 1 are not kept" in caplog.text
    check(tmp_path / "d", LENGTHS[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_gap": "leave"}, "on_gap"),
        ({"chunks_size": 0}, "chunks_size"),
        ({"video_files_size_in_mb": 0}, "video_files_size_in_mb"),
        ({"rewrite_in_mb": -1}, "rewrite_in_mb"),
    ],
)
def test_wrong_layouts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeRobotLayout(**options)


def test_what_lerobot_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whole number"):
        Recorder.create(tmp_path / "a", 29.97, FEATURES, layout=LeRobotLayout(), **FAST)
    features = {"capture_timestamp": {"dtype": "float32", "shape": [1]}}
    with pytest.raises(ValueError, match="capture_timestamp"):
        Recorder.create(tmp_path / "b", 30, features, layout=LeRobotLayout(), **FAST)


# -- gaps -------------------------------------------------------------------------------------------------------------


class Gate:
    """Holds up the encoder of the wrist camera, so that its queue fills."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        gate = self

        class SlowFile(Mp4File):
            def write(self, picture: Any, tick: int) -> None:
                if Path(self.path).stem == WRIST:
                    gate.open.wait(240)
                super().write(picture, tick)

        monkeypatch.setattr(camera_module, "Mp4File", SlowFile)


def test_a_dropped_frame_is_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    monkeypatch.setattr("lazyvid.recording.lane._BURST_S", 0.0)
    with create(tmp_path / "d", on_full="drop", queue_maxsize=3) as recorder:
        add(recorder, 0)
        gate.open.set()
        recorder.save_episode()
        dropped = recorder.dropped_frames[WRIST]
        add(recorder, 1, seconds=None)
        recorder.save_episode()
    assert dropped >= 8
    assert problems(tmp_path / "d") == []
    shown = [read_frame_number(item[WRIST]) for item in LeRobotDataset(tmp_path / "d", return_uint8=True, episodes=[0])]
    kept = sorted(set(shown))
    assert len(kept) == LENGTHS[0] - dropped
    assert shown == [max(k for k in kept if k <= number(0, WRIST, frame)) for frame in range(LENGTHS[0])]


def test_a_dropped_row_is_left_out_for_all_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    monkeypatch.setattr("lazyvid.recording.lane._BURST_S", 0.0)
    layout = LeRobotLayout(on_gap="drop_row")
    with create(tmp_path / "d", layout, on_full="drop", queue_maxsize=3) as recorder:
        add(recorder, 0)
        assert recorder.dropped_frames[FRONT] == recorder.dropped_frames[WRIST] >= 8
        kept = recorder.episode_frames
        assert kept + recorder.dropped_frames[FRONT] == LENGTHS[0]
        gate.open.set()
        recorder.save_episode()
    assert problems(tmp_path / "d") == []
    dataset = LeRobotDataset(tmp_path / "d", return_uint8=True)
    assert len(dataset) == kept
    for item in dataset:
        row = int(item["note"].partition(":")[2])
        assert [read_frame_number(item[camera]) for camera in CAMERAS] == [number(0, c, row) for c in CAMERAS]


# -- going on ---------------------------------------------------------------------------------------------------------


def test_a_recording_goes_on(tmp_path: Path) -> None:
    layout = LeRobotLayout(robot_type="toy")
    with create(tmp_path / "d", layout) as recorder:
        add(recorder, 0)
        recorder.save_episode()
    for episode in (1, 2):
        with Recorder.resume(tmp_path / "d", layout=layout, on_full="block") as recorder:
            assert recorder.meta.total_episodes == episode
            add(recorder, episode)
            recorder.save_episode()
    check(tmp_path / "d", LENGTHS[:3])
    assert len(files(tmp_path / "d", FRONT)) == 1
    with pytest.raises(RecordingError, match="found one"):
        create(tmp_path / "d")


def test_a_dataset_of_lerobot_goes_on(shared_dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shared_dataset, tmp_path / "d"))
    before = LeRobotDataset(shared_dataset)
    with Recorder.resume(root, layout=LeRobotLayout(), on_full="block") as recorder:
        assert set(recorder.meta.features) == {*CAMERAS, "observation.state", "action"}
        for _ in range(2):
            for k in range(5):
                pictures = {camera: painted_frame(500 + k, width=128, height=96) for camera in CAMERAS}
                vectors = {key: np.full(6, k, np.float32) for key in ("observation.state", "action")}
                recorder.add_frame({**pictures, **vectors, "task": "task 1" if k < 3 else "another"})
            recorder.save_episode()
    assert [p for p in problems(root) if "stats" not in p] == []
    dataset = LeRobotDataset(root)
    assert dataset.frame_counts.tolist() == [40, 55, 33, 5, 5]
    assert dataset.meta.tasks == ("task 0", "task 1", "another")
    for index in (0, 60, 127):
        assert_same_item(dataset[index], before[index])
    shown = [read_frame_number((dataset[128 + k][FRONT] * 255).to(torch.uint8)) for k in range(10)]
    assert shown == [500 + k % 5 for k in range(10)]
    schemas = {tuple(pq.read_schema(path).names) for path in (root / "meta/episodes").glob("*/*.parquet")}
    assert len(schemas) == 1
    assert (dataset.meta.stats["index"]["count"].tolist(), dataset.meta.stats["index"]["max"].tolist()) == (
        [138],
        [137],
    )


def test_an_older_dataset_is_not_recorded_into(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "d", Plan(lengths=(3,), file_of=(0,), cameras=(FRONT,)))
    with pytest.raises(RecordingError, match=r"v2\.1"):
        Recorder.resume(root, layout=LeRobotLayout())


def test_a_dataset_with_images_is_not_recorded_into(tmp_path: Path) -> None:
    plan = Plan(lengths=(3,), file_of=(0,), cameras=())
    root = write_v3(tmp_path / "d", plan)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["photo"] = {"dtype": "image", "shape": [4, 4, 3], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(RecordingError, match="'photo' is of image"):
        Recorder.resume(root, layout=LeRobotLayout())


def test_a_dataset_that_lacks_episodes_is_not_recorded_into(recorded: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(recorded, tmp_path / "d"))
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    with pytest.raises(DatasetError, match="5 episodes and 47 frames"):
        Recorder.resume(root, layout=LeRobotLayout())


# -- kills ------------------------------------------------------------------------------------------------------------


def test_what_a_killed_recorder_left_is_cut_to_what_all_cameras_have(tmp_path: Path) -> None:
    layout = LeRobotLayout(robot_type="toy")
    recorder = create(tmp_path / "d", layout)
    add(recorder, 0)
    recorder.save_episode()
    add(recorder, 1)
    for camera in CAMERAS:
        while recorder.durable_frames[camera] < 5:
            pass
    pid = os.fork()
    if not pid:  # the child holds no lock and runs no thread: it is what a kill leaves
        os._exit(0)
    os.waitpid(pid, 0)
    copy = Path(shutil.copytree(tmp_path / "d", tmp_path / "killed"))
    recorder.clear_episode_buffer()
    recorder.finalize()
    report = recover(copy, layout=layout)
    (entry,) = report.episodes
    assert (entry.saved, entry.rows + entry.lost_rows) == (False, LENGTHS[1])
    assert entry.rows >= 5
    check(copy, [LENGTHS[0], entry.rows])


# -- buckets ----------------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_a_recording_goes_into_a_bucket(s3_server: S3Server, s3_prefix: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"storage_options": s3_server.storage_options, "spool_dir": tmp_path / "spool"}
    layout = LeRobotLayout(robot_type="toy")
    with create(s3_prefix, layout, **options) as recorder:
        for episode in range(2):
            add(recorder, episode)
            recorder.save_episode()
            assert recorder.video_uri(episode, FRONT).startswith(s3_prefix)
            assert ObjectStore(storage_options=s3_server.storage_options).exists(recorder.video_uri(episode, FRONT))
    with Recorder.resume(s3_prefix, layout=layout, on_full="block", **options) as recorder:
        add(recorder, 2)
        recorder.save_episode()
    check(s3_prefix, LENGTHS[:3], storage_options=s3_server.storage_options, on_missing_index="raise")
    local = tmp_path / "copy"
    store = ObjectStore(storage_options=s3_server.storage_options)
    for meta in store.list(s3_prefix):
        store.download(meta.uri, local / meta.uri.removeprefix(f"{s3_prefix}/"))
    check(local, LENGTHS[:3])
