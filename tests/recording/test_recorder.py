"""What is recorded is what is read: rows, frames and times, wherever it goes and whatever happens on the way."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from episode_samples import (
    CAMERAS,
    FAST,
    FEATURES,
    HEIGHT,
    TOP,
    WIDTH,
    WRIST,
    add,
    check,
    check_video,
    frame,
    make,
    number,
    record,
    state,
)  # fmt: skip

from lazyvid.errors import CameraFormatChangedError, EncoderFailedError, RecordingError, StoreError
from lazyvid.recording.layout import RecordingLayout, UploadPlan
from lazyvid.recording.manifest import MANIFEST, read_manifest
from lazyvid.recording.recorder import Recorder, VideoEncodingManager
from lazyvid.recording.recover import recover
from lazyvid.recording.spool import RootLock
from lazyvid.recording.upload import Uploader
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, read_frame_number
from lazyvid.video import LazyVideo


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


# -- what goes in comes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [True, False], ids=["capture times", "grid"])
def test_every_frame_lies_under_its_own_time(tmp_path: Path, times: bool) -> None:
    root = tmp_path / "run"
    recorder = record(root, [20, 1, 13], times=times)
    check(root, [20, 1, 13], times=times)
    assert names(root) == {"videos", "frames.lance", "episodes.lance", MANIFEST}
    assert (recorder.meta.total_episodes, recorder.meta.total_frames) == (3, 34)
    assert recorder.meta.missing_frames == dict.fromkeys(CAMERAS, 0)
    state = read_manifest(root)
    assert (state.total_episodes, state.total_frames, state.spec.rate) == (3, 34, Fraction(30))


def test_what_is_recorded_comes_to_the_disk_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", noted)
    with make(tmp_path, durable_s=0.05) as recorder:
        add(recorder, 30)
        end = time.monotonic() + 240
        while not {"journal", *(f"{camera}.mp4" for camera in CAMERAS)} <= synced:
            assert time.monotonic() < end, synced
            time.sleep(0.01)
        recorder.clear_episode_buffer()


def test_an_episode_can_be_read_as_soon_as_it_is_saved(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        for episode in range(2):
            add(recorder, 12)
            recorder.save_episode()
            for camera in CAMERAS:
                rows = [
                    row for row in RecordingLayout().frames(tmp_path).to_pylist() if row["episode_index"] == episode
                ]
                check_video(LazyVideo(recorder.video_uri(episode, camera), on_missing_index="raise"), rows, camera)


def test_a_bucket_is_reached_behind_the_recorder(s3_server: S3Server, s3_prefix: str, tmp_path: Path) -> None:
    options = {"storage_options": s3_server.storage_options, "spool_dir": tmp_path / "spool"}
    store = ObjectStore(storage_options=s3_server.storage_options)
    root = f"{s3_prefix}/run"

    def video(uri: str) -> LazyVideo:
        return LazyVideo(uri, store=store, on_missing_index="raise")

    with make(root, **options) as recorder:
        for episode in range(3):
            add(recorder, 10)
            recorder.save_episode()
            found = video(recorder.video_uri(episode, WRIST))
            assert [read_frame_number(f) for f in found[:]] == [number(episode, k, WRIST) for k in range(10)]
    assert list((tmp_path / "spool").iterdir()) == []
    for meta in store.list(root):
        if ".mp4.lance/" not in meta.uri:
            store.download(meta.uri, tmp_path / "copy" / meta.uri.removeprefix(root + "/"))
    check(tmp_path / "copy", [10, 10, 10], video=lambda path: video(f"{root}/{path}"))
    with pytest.raises(RecordingError, match="found objects there"):
        make(root, **options)
    # And on: resumed from the bucket, with nothing left on this machine.
    resumed = {"storage_options": s3_server.storage_options, "spool_dir": tmp_path / "elsewhere"}
    with Recorder.resume(root, on_full="block", **resumed) as recorder:
        assert (recorder.meta.total_episodes, recorder.meta.total_frames) == (3, 30)
        add(recorder, 5)
        recorder.save_episode()
    assert [read_frame_number(f) for f in video(f"{root}/videos/{TOP}/episode-000003.mp4")[:]] == [
        number(3, k, TOP) for k in range(5)
    ]


def test_a_recording_goes_on_where_it_ended(tmp_path: Path) -> None:
    record(tmp_path, [6])
    with Recorder.resume(tmp_path, on_full="block") as recorder:
        add(recorder, 7)
        recorder.save_episode()
        assert recorder.meta.total_frames == 13
    check(tmp_path, [6, 7])
    with pytest.raises(RecordingError, match="found one"):
        make(tmp_path)


def test_rows_without_cameras(tmp_path: Path) -> None:
    features = {"state": {"dtype": "int16", "shape": [2, 3]}, "done": {"dtype": "bool", "shape": [2]}}
    with Recorder.create(tmp_path, 10, features, **FAST) as recorder:
        for k in range(4):
            recorder.add_frame(
                {"state": np.full((2, 3), k, np.int16), "done": [k > 1, False], "task": "t", "timestamp": 5.0 + k}
            )
        recorder.save_episode()
    rows = RecordingLayout().frames(tmp_path).to_pylist()
    assert [row["state"] for row in rows] == [[k] * 6 for k in range(4)]
    assert [row["timestamp"] for row in rows] == [5.0, 6.0, 7.0, 8.0]
    assert [row["done"] for row in rows] == [[False, False], [False, False], [True, False], [True, False]]


def test_what_the_caller_does_to_his_arrays_afterwards_changes_nothing(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        shared = frame(0, 0)
        for k in range(8):
            for key, value in frame(0, k).items():
                if isinstance(value, np.ndarray):
                    shared[key][...] = value
                else:
                    shared[key] = value
            recorder.add_frame(shared)
        recorder.save_episode()
    check(tmp_path, [8])


def test_statistics_are_those_of_all_frames(tmp_path: Path) -> None:
    recorder = record(tmp_path, [9, 14], times=False)
    states = np.concatenate([[state(e, k) for k in range(n)] for e, n in enumerate((9, 14))])
    found = recorder.meta.stats["observation.state"]
    assert found["count"].tolist() == [23]
    np.testing.assert_allclose(found["mean"], states.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["std"], states.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["min"], states.min(axis=0))
    np.testing.assert_allclose(found["max"], states.max(axis=0))
    picture = recorder.meta.stats[TOP]
    assert picture["mean"].shape == (3, 1, 1)
    assert 0.0 < float(picture["mean"].min()) <= float(picture["mean"].max()) < 1.0
    again = Recorder.resume(tmp_path)
    assert {k: v.tolist() for k, v in again.meta.stats[TOP].items()} == {k: v.tolist() for k, v in picture.items()}
    again.finalize()


def test_values_that_are_not_finite_are_rows_but_no_statistics(tmp_path: Path) -> None:
    features = {"state": {"dtype": "float32", "shape": [1]}}
    with Recorder.create(tmp_path, 10, features, **FAST) as recorder:
        for value in (1.0, float("nan"), 3.0):
            recorder.add_frame({"state": value, "task": "t"})
        recorder.save_episode()
        assert recorder.meta.stats["state"]["mean"].tolist() == [2.0]
    assert np.isnan(RecordingLayout().frames(tmp_path)["state"].to_pylist()[1])


def test_dropped_frames_leave_gaps_and_shift_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(tmp_path, on_full="drop", queue_maxsize=1) as recorder:
        feed = recorder._cameras.feed
        monkeypatch.setattr("lazyvid.recording.lane.Lane._put", _dropping(recorder, every=3))
        assert feed
        add(recorder, 24)
        recorder.save_episode()
        assert recorder.dropped_frames == {TOP: 8, WRIST: 8}
        assert recorder.meta.missing_frames == {TOP: 8, WRIST: 8}
    check(tmp_path, [24])
    rows = RecordingLayout().frames(tmp_path).to_pylist()
    assert [row["frame_index"] for row in rows if row["wrist_frame"] is None] == list(range(0, 24, 3))


def _dropping(recorder: Recorder, *, every: int) -> Callable[..., bool]:
    from lazyvid.recording import lane

    put = lane.Lane._put

    def dropping(self: Any, pixels: Any, given: Any) -> bool:
        return False if self._fed % every == 0 else _until_taken(put, self, pixels, given)

    return dropping


def _until_taken(put: Callable[..., bool], lane: Any, pixels: Any, given: Any) -> bool:
    while not put(lane, pixels, given):
        pass
    return True


# -- images first -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [True, False], ids=["capture times", "grid"])
def test_images_first_give_the_same_recording(tmp_path: Path, times: bool) -> None:
    with make(tmp_path, streaming_encoding=False) as recorder:
        add(recorder, 7, times=times)
        assert len(list((tmp_path / "images" / TOP / "episode-000000").iterdir())) <= 7
        recorder.save_episode()
        assert not (tmp_path / "images").exists()
    check(tmp_path, [7], times=times)
    assert recorder.meta.stats[WRIST]["count"][0] > 0


def test_episodes_are_encoded_in_batches(tmp_path: Path) -> None:
    with make(tmp_path, streaming_encoding=False, batch_encoding_size=2) as recorder:
        for episode, length in enumerate([5, 6, 4]):
            add(recorder, length)
            recorder.save_episode()
            assert recorder.meta.total_episodes == episode + 1
            encoded = len(list((tmp_path / "videos").rglob("*.mp4"))) if (tmp_path / "videos").exists() else 0
            assert encoded == [0, 4, 4][episode]
        with pytest.raises(ValueError, match="encoded"):
            recorder.video_uri(2, TOP)
    check(tmp_path, [5, 6, 4])
    assert not (tmp_path / "images").exists()


def test_an_exception_encodes_the_batch_that_waits(tmp_path: Path) -> None:
    def block() -> None:
        with VideoEncodingManager(make(tmp_path, streaming_encoding=False, batch_encoding_size=5)) as manager:
            for _ in range(2):
                add(manager.recorder, 5)
                manager.recorder.save_episode()
            add(manager.recorder, 3)
            raise KeyError("user")

    with pytest.raises(KeyError):
        block()
    check(tmp_path, [5, 5])
    assert names(tmp_path) == {"videos", "frames.lance", "episodes.lance", MANIFEST}


# -- errors -----------------------------------------------------------------------------------------------------------

PICTURE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
WRONG: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a key is missing": (lambda f: {k: v for k, v in f.items() if k != "reward"}, "missing 'reward'"),
    "no task": (lambda f: {k: v for k, v in f.items() if k != "task"}, "missing 'task'"),
    "an unknown key": (lambda f: f | {"speed": 1.0}, "unknown 'speed'"),
    "a picture of another size": (lambda f: f | {TOP: np.zeros((HEIGHT, 80, 3), np.uint8)}, "top"),
    "a picture of another type": (lambda f: f | {TOP: PICTURE.astype(np.int32)}, "int32.*top"),
    "a float picture above one": (lambda f: f | {WRIST: np.full((3, HEIGHT, WIDTH), 7.0)}, "float"),
    "no picture": (lambda f: f | {WRIST: [[0]]}, "wrist.*list"),
    "another shape": (lambda f: f | {"observation.state": np.zeros(4, np.float32)}, r"\[4\].*observation\.state"),
    "another dtype": (lambda f: f | {"observation.state": np.zeros(3)}, r"float64.*observation\.state"),
    "a text for a number": (lambda f: f | {"reward": "high"}, "reward"),
    "a number for a text": (lambda f: f | {"note": 3}, "note"),
    "a task that is no text": (lambda f: f | {"task": 3}, "task"),
    "no time": (lambda f: {k: v for k, v in f.items() if k != "timestamp"}, "timestamp"),
    "a time that falls": (lambda f: f | {"timestamp": 5.0}, "timestamp 5.0"),
    "a time of one camera only": (lambda f: f | {"timestamp": {TOP: 2e9}}, "wrist"),
    "a time that is no number": (lambda f: f | {"timestamp": "now"}, "now"),
    "a time that is not finite": (lambda f: f | {"timestamp": float("nan")}, "nan"),
    "no mapping": (lambda f: [f], "mapping"),  # type: ignore[arg-type, return-value]
}


def test_a_wrong_frame_is_named_and_changes_nothing(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        for k in range(2 * len(WRONG)):
            wrong, said = list(WRONG.values())[k // 2]
            if k:
                with pytest.raises(ValueError, match=said):
                    recorder.add_frame(wrong(frame(0, k)))
            assert recorder.episode_frames == k
            recorder.add_frame(frame(0, k))
        recorder.save_episode()
    check(tmp_path, [2 * len(WRONG)])


def test_a_camera_that_changes_its_format_is_named_and_changes_nothing(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        add(recorder, 3)
        with pytest.raises(CameraFormatChangedError, match="float"):
            recorder.add_frame(frame(0, 3) | {WRIST: np.zeros((3, HEIGHT, WIDTH), np.float32)})
        recorder.add_frame(frame(0, 3))
        recorder.save_episode()
    check(tmp_path, [4])


def test_an_empty_episode_is_an_error(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        with pytest.raises(ValueError, match="found none"):
            recorder.save_episode()
        add(recorder, 2)
        recorder.save_episode()
        with pytest.raises(ValueError, match="found none"):
            recorder.save_episode()
    check(tmp_path, [2])


BAD_FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "features"),
    "no shape": ({"a": {"dtype": "float32"}}, "'a'"),
    "another dtype": ({"a": {"dtype": "complex64", "shape": [1]}}, "complex64"),
    "a slash": ({"a/b": {"dtype": "float32", "shape": [1]}}, "a/b"),
    "a reserved name": ({"task": {"dtype": "string", "shape": [1]}}, "'task'"),
    "no size": ({"a": {"dtype": "float32", "shape": []}}, "shape"),
    "five channels": ({"a": {"dtype": "video", "shape": [64, 96, 5]}}, "channels"),
    "one axis": ({"a": {"dtype": "video", "shape": [64]}}, "height"),
    "two in one column": (
        {"a.b": {"dtype": "float32", "shape": [1]}, "a_b": {"dtype": "float32", "shape": [1]}}, "a_b",
    ),
    "a camera's column": (
        {"a": {"dtype": "video", "shape": [64, 96]}, "a_frame": {"dtype": "float32", "shape": [1]}}, "a_frame",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_features_are_checked_when_a_recording_begins(tmp_path: Path, case: str) -> None:
    features, said = BAD_FEATURES[case]
    with pytest.raises(ValueError, match=said):
        Recorder.create(tmp_path / "run", 30, features, **FAST)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vcodec": "h265x"}, "Invalid vcodec"),
        ({"pix_fmt": "yuv999"}, "pix_fmt"),
        ({"crf": -1}, "crf"),
        ({"batch_encoding_size": 0}, "batch_encoding_size"),
        ({"durable_s": 0}, "durable_s"),
        ({"on_full": "wait"}, "on_full"),
        ({"fps": 0}, "fps"),
        ({"store": ObjectStore(), "storage_options": {}}, "store"),
    ],
    ids=str,
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recorder.create(tmp_path / "run", options.pop("fps", 30), FEATURES, **FAST | options)
    assert not (tmp_path / "run").exists()


def test_numbers_may_be_arrays_tensors_or_pythons_own(tmp_path: Path) -> None:
    features = {"a": {"dtype": "float32", "shape": [2]}, "b": {"dtype": "uint8", "shape": [1]}}
    with Recorder.create(tmp_path, 10, features, **FAST) as recorder:
        for a, b in (([1, 2.5], 255), (torch.tensor([1, 2.5]), np.uint8(255)), (np.float32([1, 2.5]), [255])):
            recorder.add_frame({"a": a, "b": b, "task": "t"})
        for b in (256, -1, 1.5, True, None):
            with pytest.raises(ValueError, match="'b'"):
                recorder.add_frame({"a": [1.0, 2.0], "b": b, "task": "t"})
        recorder.save_episode()
    rows = RecordingLayout().frames(tmp_path).to_pylist()
    assert [(row["a"], row["b"]) for row in rows] == [([1.0, 2.5], 255)] * 3


# -- ends -------------------------------------------------------------------------------------------------------------


def test_an_exception_gives_the_running_episode_up(tmp_path: Path) -> None:
    def block() -> None:
        with make(tmp_path) as recorder:
            add(recorder, 5)
            recorder.save_episode()
            add(recorder, 9)
            raise KeyError("user")

    with pytest.raises(KeyError):
        block()
    check(tmp_path, [5])
    assert names(tmp_path) == {"videos", "frames.lance", "episodes.lance", MANIFEST}


def test_an_episode_can_be_given_up_and_recorded_anew(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        recorder.clear_episode_buffer()
        add(recorder, 9)
        recorder.clear_episode_buffer()
        assert recorder.episode_frames == 0
        assert not list((tmp_path / ".unfinished").iterdir())
        add(recorder, 4)
        recorder.save_episode()
    check(tmp_path, [4])


def test_the_end_is_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = record(tmp_path, [3])
    recorder.finalize()
    for call in (lambda: recorder.add_frame(frame(1, 0)), recorder.save_episode):
        with pytest.raises(RecordingError, match="finalized"):
            call()
    assert "finalized" in repr(recorder)
    another = Recorder.resume(tmp_path)
    another.add_frame(frame(1, 0))
    another.finalize()
    assert "1 frames of episode 1" in caplog.text
    check(tmp_path, [3])


def test_two_recorders_do_not_meet(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        for call in (Recorder.resume, recover):
            with pytest.raises(RecordingError, match="another recorder"):
                call(tmp_path)
        add(recorder, 2)
        recorder.save_episode()
    check(tmp_path, [2])


def test_a_failed_encoder_costs_its_camera_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lazyvid.recording.mp4 import Mp4File

    write = Mp4File.write

    def failing(self: Any, picture: Any, tick: int) -> None:
        if "wrist" in self.path and tick > 500_000:
            raise EncoderFailedError("it broke")
        write(self, picture, tick)

    monkeypatch.setattr(Mp4File, "write", failing)

    def block() -> None:
        with make(tmp_path) as recorder:
            add(recorder, 4)
            recorder.save_episode()
            add(recorder, 30)
            recorder.save_episode()

    with pytest.raises(EncoderFailedError, match="it broke") as caught:
        block()
    assert any("recover" in note for note in caught.value.__notes__)
    monkeypatch.undo()
    (episode,) = recover(tmp_path).episodes
    assert (episode.number, episode.missing_frames[TOP]) == (1, 0) or not episode.saved
    table = RecordingLayout().frames(tmp_path).to_pylist()
    for camera in CAMERAS:
        rows = [row for row in table if row["episode_index"] == 1]
        check_video(LazyVideo(tmp_path / f"videos/{camera}/episode-000001.mp4"), rows, camera)


def test_what_cannot_be_uploaded_is_kept_and_sent_later(tmp_path: Path, s3_server: S3Server, s3_prefix: str) -> None:
    root, spool = f"{s3_prefix}/run", tmp_path / "spool"
    recorder = make(root, storage_options=s3_server.storage_options, spool_dir=spool)
    add(recorder, 6)
    recorder.save_episode()
    recorder.video_uri(0, TOP)
    right = recorder._saved._uploader._store  # type: ignore[union-attr]
    recorder._saved._uploader._store = ObjectStore(storage_options=s3_server.wrong_options)  # type: ignore[union-attr]
    add(recorder, 7)
    recorder.save_episode()  # acknowledged: it is on this machine's disk
    with pytest.raises(StoreError) as caught:
        recorder.finalize()
    note = " ".join(caught.value.__notes__)
    assert str(spool) in note
    assert s3_server.wrong_options["secret"] not in str(caught.value) + note
    recorder._lock.release()
    report = recover(root, storage_options=s3_server.storage_options, spool_dir=spool)
    assert report.uploaded >= 1
    assert not recover(root, storage_options=s3_server.storage_options, spool_dir=spool).changed
    assert list(spool.iterdir()) == []
    for episode, length in ((0, 6), (1, 7)):
        video = LazyVideo(f"{root}/videos/{WRIST}/episode-{episode:06d}.mp4", store=right, on_missing_index="raise")
        assert [read_frame_number(f) for f in video[:]] == [number(episode, k, WRIST) for k in range(length)]


def test_a_forked_child_records_where_the_parent_ran_lance(tmp_path: Path) -> None:
    record(tmp_path / "parent", [2])
    pid = os.fork()
    if not pid:
        code = 1
        try:
            record(tmp_path / "child", [3, 2])
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    check(tmp_path / "child", [3, 2])


def test_a_hundred_episodes_leave_tidy_tables(tmp_path: Path) -> None:
    features = {"a": {"dtype": "float32", "shape": [1]}}
    recorder = Recorder.create(tmp_path, 10, features, **FAST)
    for episode in range(101):
        recorder.add_frame({"a": float(episode), "task": "t"})
        recorder.save_episode()
        fragments = len(list((tmp_path / "frames.lance" / "data").iterdir()))
        assert fragments == (1 if episode == 99 else episode + 1 if episode < 99 else 2)
    recorder.finalize()
    assert len(list((tmp_path / "frames.lance" / "data").iterdir())) == 1
    assert RecordingLayout().frames(tmp_path)["a"].to_pylist() == [float(k) for k in range(101)]


# -- what is given up or fails half-way -------------------------------------------------------------------------------


def test_an_episode_given_up_leaves_no_images_even_where_one_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> int:
        raise PermissionError(path)

    with make(tmp_path, streaming_encoding=False) as recorder:
        monkeypatch.setattr(Path, "write_bytes", refuse)
        add(recorder, 2)
        recorder.clear_episode_buffer()
        monkeypatch.undo()
    assert "images" not in names(tmp_path)


@pytest.mark.parametrize("recording", ["there already", "that cannot be sent"])
def test_a_recorder_that_cannot_be_made_leaves_no_thread_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recording: str
) -> None:
    options = {"streaming_encoding": False, "spool_dir": tmp_path / "spool"}
    target = tmp_path / "run" if recording == "there already" else "memory://run"
    if recording == "there already":
        record(target, [1])
        with pytest.raises(RecordingError):
            make(target, **options)
    else:
        start = threading.Thread.start

        def start_writers(thread: threading.Thread) -> None:
            if thread.name == "lazyvid-upload":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_writers)
        with pytest.raises(RuntimeError, match="can't start"):
            make(target, **options)
        RootLock(next((tmp_path / "spool").iterdir())).release()
    end = time.monotonic() + 60
    while [thread for thread in threading.enumerate() if thread.name.startswith("lazyvid-images")]:
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.01)


def test_a_ctrl_c_at_any_call_of_submitting_leaves_nothing_to_wait_for(tmp_path: Path) -> None:
    """Python looks for signals where a function written in it begins."""

    def interrupted_at(wanted: int) -> bool:
        calls = 0

        def trace(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += 1
            if calls == wanted:
                raise KeyboardInterrupt

        uploader = Uploader(tmp_path, "memory://run", store=ObjectStore())
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            uploader.submit(UploadPlan((), (), (), ()))
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
            uploader.wait()
            uploader.close()
        return False

    assert next(call for call in itertools.count(1) if not interrupted_at(call)) > 2
