"""What is fed is in the file, under its own time, or was counted as dropped; what goes wrong has a name and a limit."""

from __future__ import annotations

import json
import logging
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from chances import need_namespaces

from lazyvid.errors import (
    CameraFormatChangedError,
    EncoderStalledError,
    QueueFullError,
    RecordingError,
)
from lazyvid.index.probe import build_index
from lazyvid.recording import camera as camera_module
from lazyvid.recording import lane as lane_module
from lazyvid.recording import origin as origin_module
from lazyvid.recording.camera import QueuedFrame
from lazyvid.recording.encoder import CameraEncoderThread, StreamingVideoEncoder
from lazyvid.recording.mp4 import Mp4File
from lazyvid.stats import read_stats
from lazyvid.testing import painted_frame, read_frame_number

WIDTH, HEIGHT = 96, 64
Make = Callable[..., StreamingVideoEncoder]


def paint(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return painted_frame(number, width=width, height=height)


@pytest.fixture
def make() -> Iterator[Make]:
    """Encoders that are closed at the end; h264 without delay unless told otherwise."""
    made: list[StreamingVideoEncoder] = []

    def build(fps: Any = 30, vcodec: str = "h264", **options: Any) -> StreamingVideoEncoder:
        if vcodec == "h264":
            options = {"preset": "ultrafast"} | options
        made.append(StreamingVideoEncoder(fps, vcodec, **options))
        return made[-1]

    yield build
    for encoder in made:
        encoder.close()


def contents(path: Path) -> tuple[list[int], list[Fraction]]:
    """Frame numbers and times as PyAV alone finds them; what of a cut file can be read."""
    numbers, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for picture in container.decode(stream):
            numbers.append(read_frame_number(picture.to_ndarray(format="rgb24")))
            times.append(picture.pts * stream.time_base)
    return numbers, times


def feed(encoder: StreamingVideoEncoder, count: int, *keys: str, start: int = 0) -> None:
    for k in range(start, start + count):
        for key in keys or ("cam",):
            encoder.feed_frame(key, paint(k))


def wait_until(condition: Callable[[], bool], *, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


class Gate:
    """Holds up the encoders of some files, so that their queues fill."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, camera: str) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        gate = self

        class SlowFile(Mp4File):
            def write(self, picture: Any, tick: int) -> None:
                if Path(self.path).stem == camera:
                    gate.reached.set()
                    gate.open.wait(240)
                super().write(picture, tick)

        monkeypatch.setattr(camera_module, "Mp4File", SlowFile)


# -- one camera's thread ----------------------------------------------------------------------------------------------


def start_thread(path: Path, **options: Any) -> CameraEncoderThread:
    settings: dict[str, Any] = {
        "fps": 30, "vcodec": "h264", "pix_fmt": "yuv420p", "g": 2, "crf": 20, "preset": "ultrafast",
        "frame_queue": queue.Queue(60), "result_queue": queue.Queue(1), "stop_event": threading.Event(),
    }  # fmt: skip
    thread = CameraEncoderThread(path, **settings | options)
    thread.start()
    return thread


def end_of(thread: CameraEncoderThread) -> tuple[str, Any]:
    thread.join(240)
    assert not thread.is_alive()
    return thread.result_queue.get_nowait()


FORMS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "HWC": lambda a: a,
    "CHW": lambda a: a.transpose(2, 0, 1),
    "float HWC": lambda a: a.astype(np.float32) / 255,
    "float CHW": lambda a: a.transpose(2, 0, 1) / 255.0,
    "torch CHW": lambda a: torch.from_numpy(a).permute(2, 0, 1),
}


@pytest.mark.parametrize(("vcodec", "preset"), [("h264", "ultrafast"), ("hevc", "ultrafast"), ("libsvtav1", 12)])
@pytest.mark.parametrize("form", FORMS)
def test_a_thread_encodes_until_none_and_says_the_statistics(
    tmp_path: Path, form: str, vcodec: str, preset: Any
) -> None:
    thread = start_thread(tmp_path / "new" / "a.mp4", vcodec=vcodec, preset=preset)
    frames = [paint(k) for k in range(10)]
    for frame in frames:
        thread.frame_queue.put(FORMS[form](frame))
    thread.frame_queue.put(None)
    status, stats = end_of(thread)
    assert status == "ok"
    assert contents(tmp_path / "new" / "a.mp4") == (list(range(10)), [Fraction(k, 30) for k in range(10)])
    everything = np.concatenate([frame.reshape(-1, 3) for frame in frames])
    np.testing.assert_allclose(stats["mean"], everything.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(stats["std"], everything.std(axis=0), atol=0.01)
    assert stats["min"].tolist() == everything.min(axis=0).tolist()
    assert stats["max"].tolist() == everything.max(axis=0).tolist()
    assert {"count", "q01", "q10", "q50", "q90", "q99"} <= stats.keys()


def test_items_may_have_times(tmp_path: Path) -> None:
    thread = start_thread(tmp_path / "a.mp4")
    given = [7.0, 7.013, 7.5, 7.500002]
    for k, seconds in enumerate(given):
        thread.frame_queue.put((paint(k), seconds))
    thread.frame_queue.put(None)
    assert end_of(thread)[0] == "ok"
    exact = [Fraction(round((t - 7.0) * 10**6), 10**6) for t in given]
    assert contents(tmp_path / "a.mp4") == ([0, 1, 2, 3], exact)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("end", ["none", "stop"])
def test_too_few_frames_have_no_statistics(tmp_path: Path, count: int, end: str) -> None:
    thread = start_thread(tmp_path / "a.mp4")
    for k in range(count):
        thread.frame_queue.put(paint(k))
    if end == "none":
        thread.frame_queue.put(None)
    else:
        thread.stop_event.set()
    assert end_of(thread) == ("ok", None)
    assert (tmp_path / "a.mp4").exists() == bool(count)


def test_a_stopped_thread_still_encodes_what_waits(tmp_path: Path) -> None:
    thread = start_thread(tmp_path / "a.mp4")
    for k in range(40):
        thread.frame_queue.put(paint(k))
    thread.stop_event.set()
    assert end_of(thread)[0] == "ok"
    assert contents(tmp_path / "a.mp4")[0] == list(range(40))


@pytest.mark.parametrize(
    ("items", "options", "said"),
    [
        ([paint(0), (paint(1), 0.5)], {}, "timestamp"),
        ([(paint(0), 1.0), (paint(1), 1.0)], {}, "increase"),
        ([paint(0), paint(1, 112)], {}, "96x64"),
        (["no picture"], {}, "str"),
        ([paint(0)], {"vcodec": "h265x"}, "Invalid vcodec"),
        ([paint(0)], {"preset": "warp"}, "warp"),
    ],
    ids=["some times", "same time", "size", "text", "codec", "preset"],
)
def test_what_a_thread_cannot_encode_is_its_result(
    tmp_path: Path, items: list[Any], options: dict[str, Any], said: str
) -> None:
    thread = start_thread(tmp_path / "a.mp4", **options)
    for item in (*items, None):
        thread.frame_queue.put(item)
    status, message = end_of(thread)
    assert status == "error"
    assert said in message


@pytest.mark.parametrize(
    ("vcodec", "given", "said"),
    [("libsvtav1", 1, "lp=1"), ("libsvtav1", None, ""), ("h264", 3, "threads"), ("h264", None, "threads")],
)
def test_encoder_threads_reach_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vcodec: str, given: int | None, said: str
) -> None:
    seen: list[dict[str, str]] = []

    class Seen(Mp4File):
        def __init__(self, path: str, spec: Any, **rest: Any) -> None:
            seen.append(dict(spec.options))
            super().__init__(path, spec, **rest)

    monkeypatch.setattr(camera_module, "Mp4File", Seen)
    thread = start_thread(tmp_path / "a.mp4", vcodec=vcodec, preset=None, encoder_threads=given)
    thread.frame_queue.put(paint(0))
    thread.frame_queue.put(None)
    assert end_of(thread) == ("ok", None)
    (options,) = seen
    if vcodec == "libsvtav1":
        assert options.get("svtav1-params", "") == said
    else:
        assert options.get(said) == (None if given is None else str(given))


# -- pictures that are not RGB ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1), (1, HEIGHT, WIDTH)], ids=str)
@pytest.mark.parametrize(("pix_fmt", "highest"), [("gray10le", 1023), ("gray12le", 4095)])
def test_deep_gray_comes_back_as_it_was(
    tmp_path: Path, make: Make, shape: tuple[int, ...], pix_fmt: str, highest: int
) -> None:
    depth = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 7 % (highest + 1)).reshape(shape)
    encoder = make(vcodec="hevc", pix_fmt=pix_fmt, crf=None, options={"x265-params": "lossless=1"})
    encoder.start_episode(["cam"], tmp_path)
    for k in range(4):
        encoder.feed_frame("cam", np.roll(depth, k))
    with pytest.raises(ValueError, match=f"0 to {highest} for {pix_fmt}"):
        encoder.feed_frame("cam", np.full(shape, highest + 1, np.uint16))
    path, stats = encoder.finish_episode()["cam"]
    with av.open(str(path)) as container:
        found = [picture.to_ndarray() for picture in container.decode(video=0)]
    assert [np.array_equal(f, np.roll(depth, k).reshape(HEIGHT, WIDTH)) for k, f in enumerate(found)] == [True] * 4
    assert stats is not None
    assert stats["max"].tolist() == [depth.max()]


REFUSED = {
    "uint16": np.zeros((64, 96), np.uint16),
    "RGBA": np.zeros((64, 96, 4), np.uint8),
    "int32": np.zeros((64, 96), np.int32),
    "odd": np.zeros((64, 97, 3), np.uint8),
    "NaN": np.full((64, 96, 3), np.nan),
}


@pytest.mark.parametrize("image", REFUSED.values(), ids=REFUSED)
def test_what_the_pixel_format_cannot_hold_is_refused_at_once(tmp_path: Path, make: Make, image: Any) -> None:
    encoder = make()
    encoder.start_episode(["cam"], tmp_path)
    with pytest.raises(ValueError, match="Invalid"):
        encoder.feed_frame("cam", image)
    feed(encoder, 3)
    assert contents(encoder.finish_episode()["cam"][0])[0] == [0, 1, 2]


@pytest.mark.parametrize(
    "other", [paint(9, 112, 64), paint(9)[..., 0], paint(9) / 255.0], ids=["size", "gray", "float"]
)
def test_a_camera_that_changes_is_named_when_it_is_fed(tmp_path: Path, make: Make, other: Any) -> None:
    encoder = make()
    encoder.start_episode(["cam", "other"], tmp_path)
    encoder.feed_frame("cam", paint(0))
    encoder.feed_frame("other", other)
    with pytest.raises(CameraFormatChangedError, match="96x64 RGB uint8"):
        encoder.feed_frame("cam", other)
    encoder.feed_frame("cam", paint(1))
    assert contents(encoder.finish_episode()["cam"][0])[0] == [0, 1]


def test_the_caller_may_reuse_its_memory(tmp_path: Path, make: Make) -> None:
    encoder = make(on_full="block")
    encoder.start_episode(["cam"], tmp_path)
    memory = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for k in range(40):
        memory[:] = paint(k)
        encoder.feed_frame("cam", memory)
        memory[:] = 0
    assert contents(encoder.finish_episode()["cam"][0])[0] == list(range(40))


# -- episodes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vcodec", ["h264", "libsvtav1"])
def test_episodes_of_several_cameras(tmp_path: Path, make: Make, vcodec: str) -> None:
    encoder = make(vcodec=vcodec, on_full="block")
    paths = set()
    for episode in range(3):
        encoder.start_episode(["cam/left", "cam_left", "right"], tmp_path / "deep" / "er")
        feed(encoder, 20 + episode, "cam/left", "cam_left", "right")
        for path, stats in encoder.finish_episode().values():
            assert contents(path) == (list(range(20 + episode)), [Fraction(k, 30) for k in range(20 + episode)])
            assert len(build_index(str(path), scan="full")) == 20 + episode
            assert stats is not None
            paths.add(path)
        assert encoder.durable_frames == dict.fromkeys(("cam/left", "cam_left", "right"), 20 + episode)
        assert encoder.dropped_frames == dict.fromkeys(("cam/left", "cam_left", "right"), 0)
    assert len(paths) == 9


def test_a_burst_is_not_dropped(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_BURST_S", 240.0)  # half a second does not suffice to every machine
    encoder = make(fps=0.1, vcodec="libsvtav1", queue_maxsize=1)  # frame k is due after 10 k seconds
    encoder.start_episode(["cam"], tmp_path)
    feed(encoder, 60)
    path, _ = encoder.finish_episode()["cam"]
    assert contents(path)[0] == list(range(60))
    assert encoder.dropped_frames["cam"] == 0


def test_a_burst_is_held_up_for_so_long_and_no_longer(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, camera="cam")
    encoder = make(fps=0.1, queue_maxsize=1)
    encoder.start_episode(["cam"], tmp_path)
    encoder.feed_frame("cam", paint(0))
    assert gate.reached.wait(240)
    started = time.monotonic()
    feed(encoder, 20, start=1)
    assert time.monotonic() - started >= 0.5
    gate.open.set()
    assert contents(encoder.finish_episode()["cam"][0])[0] == [0, 1]
    assert encoder.dropped_frames["cam"] == 19


def test_without_an_episode(tmp_path: Path, make: Make) -> None:
    encoder = make()
    with pytest.raises(RuntimeError, match="No active episode"):
        encoder.feed_frame("cam", paint(0))
    with pytest.raises(RuntimeError, match=r"No active episode to finish\."):
        encoder.finish_episode()
    encoder.cancel_episode()
    encoder.start_episode(["cam"], tmp_path)
    with pytest.raises(KeyError, match="other"):
        encoder.feed_frame("other", paint(0))
    encoder.feed_frame("cam", paint(0))
    encoder.finish_episode()
    with pytest.raises(RuntimeError, match="No active episode"):
        encoder.feed_frame("cam", paint(0))
    encoder.close()
    encoder.close()
    with pytest.raises(RecordingError, match="closed"):
        encoder.start_episode(["cam"], tmp_path)


def test_a_camera_without_frames_has_no_file_and_no_statistics(tmp_path: Path, make: Make) -> None:
    encoder = make()
    encoder.start_episode(["cam", "idle"], tmp_path)
    feed(encoder, 2)
    results = encoder.finish_episode()
    assert results["idle"][1] is None
    assert not results["idle"][0].exists()
    assert contents(results["cam"][0])[0] == [0, 1]


@pytest.mark.parametrize("how", ["cancel", "start", "close", "with"])
def test_a_cancelled_episode_leaves_nothing(tmp_path: Path, make: Make, how: str) -> None:
    encoder = make()
    encoder.start_episode(["a", "b"], tmp_path)
    feed(encoder, 20, "a", "b")
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("lazyvid-encoder")]
    assert len(threads) >= 2
    match how:
        case "cancel":
            encoder.cancel_episode()
        case "start":
            encoder.start_episode(["a"], tmp_path / "next")
        case "close":
            encoder.close()
        case _:
            with encoder:
                pass
    assert not list(tmp_path.glob("episode-*"))
    if how in ("cancel", "start"):
        if how == "cancel":
            encoder.start_episode(["a"], tmp_path)
        feed(encoder, 5, "a")
        assert contents(encoder.finish_episode()["a"][0])[0] == list(range(5))
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps": 0}, "fps"),
        ({"vcodec": "h265x"}, "Invalid vcodec"),
        ({"pix_fmt": "yuv999"}, "pix_fmt"),
        ({"pix_fmt": "gray12le"}, "pix_fmt"),
        ({"crf": -1}, "crf"),
        ({"encoder_threads": 0}, "encoder_threads"),
        ({"queue_maxsize": 0}, "queue_maxsize"),
        ({"on_full": "wait"}, "on_full"),
        ({"durable_s": 0}, "durable_s"),
    ],
    ids=str,
)
def test_wrong_arguments(make: Make, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**options)


@pytest.mark.parametrize("keys", [[], ["a", "a"], "cam"], ids=str)
def test_wrong_cameras(tmp_path: Path, make: Make, keys: Any) -> None:
    encoder = make()
    encoder.start_episode(["cam"], tmp_path)
    with pytest.raises(ValueError, match="video_keys"):
        encoder.start_episode(keys, tmp_path)
    encoder.feed_frame("cam", paint(0))  # the episode goes on


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vcodec", ["h264", "libsvtav1"])
def test_capture_times_share_an_origin(
    tmp_path: Path, make: Make, vcodec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin_module, "_PATIENCE_S", 240.0)  # the other camera is fed next, however slowly
    encoder = make(vcodec=vcodec, on_full="block")
    encoder.start_episode(["late", "early"], tmp_path, metadata={"clock": "monotonic"})
    steps = np.cumsum(np.random.default_rng(5).uniform(0.004, 0.2, 20))
    given = {
        "late": [1_700_000_000.123456 + float(t) for t in steps],
        "early": [1_700_000_000.1 + float(t) for t in steps],
    }
    for k in range(20):
        for key, times in given.items():
            encoder.feed_frame(key, paint(k), times[k])
    origin = Fraction(given["early"][0])
    for key, (path, _) in encoder.finish_episode().items():
        exact = [round((Fraction(t) - origin) * 10**6) * Fraction(1, 10**6) for t in given[key]]
        assert contents(path) == (list(range(20)), exact)
        assert build_index(str(path), scan="full").timestamp.tolist() == [float(t) for t in exact]
        with av.open(str(path)) as container:
            assert float(container.metadata["lazyvid_origin"]) == given["early"][0]
            assert container.metadata["clock"] == "monotonic"


def test_a_late_camera_waits_for_no_one_and_an_origin_may_be_given(tmp_path: Path, make: Make) -> None:
    encoder = make()
    encoder.start_episode(["a", "b"], tmp_path)
    encoder.feed_frame("a", paint(0), 10.0)
    encoder.feed_frame("a", paint(1), 10.1)
    encoder.feed_frame("a", paint(2), 10.2)
    wait_until(lambda: encoder._lanes["a"].thread.frame_count == 3)
    with pytest.raises(ValueError, match=r"origin, 10\.0 s"):
        encoder.feed_frame("b", paint(0), 9.9)
    encoder.feed_frame("b", paint(0), 10.05)
    assert contents(encoder.finish_episode()["b"][0]) == ([0], [Fraction(5, 100)])
    encoder.start_episode(["a"], tmp_path, origin=9.0)
    encoder.feed_frame("a", paint(0), 10.0)
    assert contents(encoder.finish_episode()["a"][0]) == ([0], [1])


@pytest.mark.parametrize("bad", [1.0, 0.5, 1.0000004, float("nan"), float("inf"), None])
def test_times_that_do_not_increase_are_refused_when_fed(tmp_path: Path, make: Make, bad: float | None) -> None:
    encoder = make()
    encoder.start_episode(["cam"], tmp_path)
    encoder.feed_frame("cam", paint(0), 0.0)
    encoder.feed_frame("cam", paint(1), 1.0)
    with pytest.raises(ValueError, match="frame 2 of 'cam'"):
        encoder.feed_frame("cam", paint(2), bad)
    encoder.feed_frame("cam", paint(2), 1.5)
    assert contents(encoder.finish_episode()["cam"][0]) == ([0, 1, 2], [0, 1, Fraction(3, 2)])


# -- full queues ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timed", [False, True])
def test_dropped_frames_are_counted_and_shift_nothing(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, timed: bool
) -> None:
    gate, before = Gate(monkeypatch, camera="slow"), read_stats()
    encoder = make(fps=10, queue_maxsize=3)
    encoder.start_episode(["slow", "fast"], tmp_path)
    with caplog.at_level(logging.WARNING, logger="lazyvid"):
        for k in range(60):
            if k == 40:
                gate.open.set()
                wait_until(lambda: encoder.queued_frames["slow"] == 0)
            wait_until(lambda: encoder.queued_frames["fast"] < 3)
            for key in ("slow", "fast"):
                encoder.feed_frame(key, paint(k), 5 + k / 10 if timed else None)
    results = encoder.finish_episode()
    numbers, times = contents(results["slow"][0])
    assert contents(results["fast"][0])[0] == list(range(60))
    missing = sorted(set(range(60)) - set(numbers))
    assert len(missing) >= 30
    assert encoder.dropped_frames == {"slow": len(missing), "fast": 0}
    assert (read_stats() - before).frames_dropped == len(missing)
    assert encoder.dropped_timestamps["slow"] == [5 + k / 10 if timed else k / 10 for k in missing]
    assert times == [Fraction(k, 10) for k in numbers]
    assert build_index(str(results["slow"][0]), scan="full").timestamp.tolist() == [k / 10 for k in numbers]
    warned = [record.args[1] for record in caplog.records if "dropped" in record.message]  # type: ignore[index]
    assert warned == [1, *range(10, len(missing) + 1, 10)]
    encoder.start_episode(["fast"], tmp_path)
    assert (encoder.dropped_frames, encoder.dropped_timestamps) == ({"fast": 0}, {"fast": []})


@pytest.mark.parametrize("open_at", [40, 60])
def test_dropped_frames_can_be_made_up_for_by_the_one_before(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, open_at: int
) -> None:
    gate = Gate(monkeypatch, camera="slow")
    encoder = make(fps=10, queue_maxsize=3, repeat_gaps=True)
    encoder.start_episode(["slow", "fast"], tmp_path)
    for k in range(60):
        if k == open_at:
            gate.open.set()
            wait_until(lambda: encoder.queued_frames["slow"] == 0)
        wait_until(lambda: encoder.queued_frames["fast"] < 3)
        for key in ("slow", "fast"):
            encoder.feed_frame(key, paint(k))
    gate.open.set()
    results = encoder.finish_episode()
    numbers, times = contents(results["slow"][0])
    assert times == [Fraction(k, 10) for k in range(60)]
    kept = [k for k in range(60) if numbers[k] == k]
    assert len(kept) == 60 - encoder.dropped_frames["slow"] <= 30
    assert numbers == [max(k for k in kept if k <= place) for place in range(60)]
    assert contents(results["fast"][0])[0] == list(range(60))


def test_a_frame_that_one_camera_would_drop_can_be_left_out_for_all(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, camera="slow")
    encoder = make(fps=10, queue_maxsize=3)
    with pytest.raises(RuntimeError, match="No active episode"):
        encoder.wait_for_room()
    encoder.start_episode(["slow", "fast"], tmp_path)
    taken = []
    for k in range(60):
        if k == 40:
            gate.open.set()
            wait_until(lambda: encoder.queued_frames["slow"] == 0)
        if encoder.wait_for_room():
            taken.append(k)
            for key in ("slow", "fast"):
                encoder.feed_frame(key, paint(k))
    results = encoder.finish_episode()
    assert encoder.dropped_frames == dict.fromkeys(("slow", "fast"), 60 - len(taken))
    assert 20 <= len(taken) <= 30
    for path, _ in results.values():
        assert contents(path) == (taken, [Fraction(k, 10) for k in range(len(taken))])


def test_a_full_queue_can_raise(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, camera="cam")
    encoder = make(queue_maxsize=2, on_full="raise")
    encoder.start_episode(["cam"], tmp_path)
    encoder.feed_frame("cam", paint(0))
    assert gate.reached.wait(240)
    feed(encoder, 2, start=1)
    with pytest.raises(QueueFullError, match="frame 3 of 'cam'"):
        encoder.feed_frame("cam", paint(99))
    gate.open.set()
    wait_until(lambda: encoder.queued_frames["cam"] == 0)
    encoder.feed_frame("cam", paint(3))  # the place on the grid is still free
    assert contents(encoder.finish_episode()["cam"][0]) == ([0, 1, 2, 3], [Fraction(k, 30) for k in range(4)])


def test_a_full_queue_can_be_waited_for(tmp_path: Path, make: Make) -> None:
    encoder = make(queue_maxsize=1, on_full="block")
    encoder.start_episode(["cam"], tmp_path)
    feed(encoder, 80)
    assert contents(encoder.finish_episode()["cam"][0])[0] == list(range(80))
    assert encoder.dropped_frames == {"cam": 0}


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_stalled_camera_is_named_in_time_and_the_others_are_finished(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, camera="slow")
    encoder = make(stall_timeout_s=0.5, queue_maxsize=30)
    encoder.start_episode(["slow", "fast"], tmp_path)
    feed(encoder, 8, "slow", "fast")
    wait_until(lambda: encoder._lanes["fast"].thread.frame_count == 8)  # only the slow one is at a frame
    with pytest.raises(EncoderStalledError, match="'slow'"):
        encoder.finish_episode()
    assert list(encoder.finished_videos) == ["fast"]
    assert contents(encoder.finished_videos["fast"][0])[0] == list(range(8))
    encoder.stall_timeout_s = 240.0
    encoder.start_episode(["fast"], tmp_path)
    feed(encoder, 3, "fast")
    assert contents(encoder.finish_episode()["fast"][0])[0] == [0, 1, 2]
    gate.open.set()


def test_the_limit_of_finishing_holds_for_an_encoder_that_goes_on(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowFile(Mp4File):
        def write(self, picture: Any, tick: int) -> None:
            time.sleep(0.2)
            super().write(picture, tick)

    monkeypatch.setattr(camera_module, "Mp4File", SlowFile)
    encoder = make(finish_timeout_s=0.5, queue_maxsize=60)
    encoder.start_episode(["cam"], tmp_path)
    feed(encoder, 50)
    with pytest.raises(EncoderStalledError, match=r"0\.5 s"):
        encoder.finish_episode()
    assert encoder.finished_videos == {}


def test_blocking_on_a_stalled_camera_ends(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, camera="cam")
    encoder = make(stall_timeout_s=0.3, queue_maxsize=1, on_full="block")
    encoder.start_episode(["cam"], tmp_path)
    with pytest.raises(EncoderStalledError, match="'cam'"):
        feed(encoder, 5)
    gate.open.set()
    encoder.cancel_episode()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_encoder_says_why_at_the_next_frame_and_at_the_end(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Mp4File):
        def write(self, picture: Any, tick: int) -> None:
            if Path(self.path).stem == "bad" and tick == 3:
                raise ArithmeticError("the encoder fell over")
            super().write(picture, tick)

    monkeypatch.setattr(camera_module, "Mp4File", Broken)
    encoder = make()
    encoder.start_episode(["bad", "good"], tmp_path)
    feed(encoder, 4, "bad", "good")
    wait_until(lambda: not encoder._lanes["bad"].thread.is_alive())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"'bad'.*fell over"):
            encoder.feed_frame("bad", paint(4))
    encoder.feed_frame("good", paint(4))
    with pytest.raises(RuntimeError, match=r"'bad'.*fell over"):
        encoder.finish_episode()
    assert contents(encoder.finished_videos["good"][0])[0] == list(range(5))


def test_an_encoder_that_cannot_write_says_so(tmp_path: Path, make: Make) -> None:
    encoder = make()
    encoder.start_episode(["cam"], tmp_path)
    (folder,) = tmp_path.iterdir()
    folder.rmdir()
    folder.write_text("in the way")
    feed(encoder, 1)
    wait_until(lambda: not encoder._lanes["cam"].thread.is_alive())
    with pytest.raises(RuntimeError, match="'cam'"):
        encoder.feed_frame("cam", paint(1))
    with pytest.raises(RuntimeError, match="'cam'"):
        encoder.finish_episode()
    with pytest.raises(RecordingError, match="folder"):
        encoder.start_episode(["cam"], folder)


DISK_FULL = """
import json, sys, time
from pathlib import Path
import numpy as np
from lazyvid.errors import RecordingDiskFullError
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.testing import painted_frame
full, roomy = Path(sys.argv[1]), Path(sys.argv[2])
encoder = StreamingVideoEncoder(30, "h264", preset="ultrafast", crf=10, on_full="block")
encoder.start_episode(["a", "b"], roomy)
# Camera a's file lies on the small disk.
(roomy / encoder._folder.name / "a.mp4").parent.mkdir(exist_ok=True)
encoder._lanes["a"].thread.video_path = full / "a.mp4"
encoder._lanes["a"].thread._growing._path = str(full / "a.mp4")
errors = 0
for k in range(300):
    for key in ("a", "b"):
        try:
            encoder.feed_frame(key, painted_frame(k, width=96, height=64))
        except RecordingDiskFullError as error:
            assert key == "a" and "disk is full" in str(error), error
            errors += 1
durable = encoder.durable_frames["a"]
try:
    encoder.finish_episode()
except RecordingDiskFullError as error:
    said = str(error)
Path(sys.argv[3]).write_bytes((full / "a.mp4").read_bytes())
print(json.dumps([errors, durable, said, str(encoder.finished_videos["b"][0])]))
"""


def test_a_full_disk_ends_one_camera_and_keeps_what_it_has(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    need_namespaces()
    script = 'mount -t tmpfs -o size=200k tmpfs "$1" && exec "$2" -c "$3" "$1" "$4" "$5"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, DISK_FULL, tmp_path, tmp_path / "kept.mp4"],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    errors, durable, said, other = json.loads(done.stdout)
    assert errors > 0
    assert "disk is full" in said
    assert contents(Path(other))[0] == list(range(300))
    numbers = contents(tmp_path / "kept.mp4")[0]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= durable > 20


# -- kills ------------------------------------------------------------------------------------------------------------

RECORDER = """
import json, sys, time
from lazyvid.recording.encoder import StreamingVideoEncoder
from lazyvid.testing import painted_frame
frames = [painted_frame(k, width=96, height=64) for k in range(90)]
encoder = StreamingVideoEncoder(30, sys.argv[2], g=int(sys.argv[3]), preset=sys.argv[4], on_full="block")
for episode in range(1000):
    encoder.start_episode(["a", "b"], f"{sys.argv[1]}/{episode}")
    for k, frame in enumerate(frames):
        for key in ("a", "b"):
            encoder.feed_frame(key, frame, 3 + k / 7)
        print(json.dumps([episode, encoder.durable_frames]), flush=True)
        time.sleep(0.002)
    encoder.finish_episode()
    print(json.dumps([episode, {"a": 90, "b": 90}]), flush=True)
"""


def kill_recorder(folder: Path, rng: random.Random, *settings: str) -> int:
    """Kill a recorder at a random moment; frames must be there as promised. The number of frames promised."""
    command = [sys.executable, "-c", RECORDER, str(folder), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        timer = threading.Timer(rng.uniform(0.0, 1.2), child.send_signal, [signal.SIGKILL])
        timer.start()
        lines = [first, *child.stdout]
        timer.join()
    episode, promised = json.loads(next(line for line in reversed(lines) if line.endswith("\n")))
    found = {}
    for key, count in promised.items():
        files = list((folder / str(episode)).rglob(f"{key}.mp4"))
        if count == 0 and not files:
            continue
        try:
            numbers, times = contents(files[0])
        except (av.FFmpegError, IndexError):
            numbers, times = [], []
        assert numbers == list(range(len(numbers)))
        assert times == [Fraction(round(Fraction(k, 7) * 10**6), 10**6) for k in numbers]
        assert len(numbers) >= count, f"camera {key}: {count} promised"
        found[key] = len(numbers)
    for earlier in range(episode):
        for path in (folder / str(earlier)).rglob("*.mp4"):
            assert contents(path)[0] == list(range(90))
    return sum(promised.values())


@pytest.mark.parametrize("turn", range(3))
def test_a_killed_recorder_leaves_what_it_promised(tmp_path: Path, turn: int, rng: random.Random) -> None:
    kill_recorder(tmp_path, rng, "h264", "4", "ultrafast")


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(
    "settings", [("h264", "2", "ultrafast"), ("h264", "30", "medium"), ("libsvtav1", "2", "12")], ids=str
)
def test_a_recorder_killed_at_twenty_moments_leaves_what_it_promised(
    tmp_path: Path, settings: tuple[str, str, str], rng: random.Random
) -> None:
    promised = [kill_recorder(tmp_path / str(turn), rng, *settings) for turn in range(20)]
    assert max(promised) > 0


def test_what_is_durable_is_what_a_copy_of_the_file_holds(tmp_path: Path, make: Make) -> None:
    encoder = make(g=5, on_full="block", durable_s=0.05)
    encoder.start_episode(["cam"], tmp_path)
    seen = []
    for k in range(60):
        encoder.feed_frame("cam", paint(k))
        if k % 10 == 9:
            thread = encoder._lanes["cam"].thread
            wait_until(lambda fed=k + 1, thread=thread: thread.frame_count == fed and thread.busy_since is None)
            durable = encoder.durable_frames["cam"]
            (path,) = tmp_path.rglob("cam.mp4")
            copy = shutil.copy(path, tmp_path / "copy")
            seen.append((durable, len(contents(Path(copy))[0]) if durable else 0))
    assert all(found >= durable for durable, found in seen)
    assert seen[-1][0] >= 60 - 2 * 5
    encoder.finish_episode()
    assert encoder.durable_frames == {"cam": 60}


# -- what begins or ends half-way --------------------------------------------------------------------------------------


def test_an_episode_whose_threads_cannot_all_be_started_leaves_nothing(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    encoder = make()
    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start"):
        encoder.start_episode(["a", "b", "c"], tmp_path)
    monkeypatch.undo()
    assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="No active episode"):
        encoder.feed_frame("a", paint(0))
    encoder.start_episode(["a"], tmp_path)
    feed(encoder, 3, "a")
    assert contents(encoder.finish_episode()["a"][0])[0] == [0, 1, 2]


class FilledAtTheLastMoment(queue.Queue[Any]):
    """A queue that another thread fills just before something is put there."""

    def put_nowait(self, item: Any) -> None:
        while not self.full():
            super().put_nowait(QueuedFrame(paint(self.qsize() + 1), self.qsize() + 1))
        super().put_nowait(item)


def test_an_episode_ends_while_its_feeder_fills_a_queue(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, camera="a")
    encoder = make(queue_maxsize=5)
    encoder.start_episode(["a"], tmp_path)
    feed(encoder, 1, "a")
    assert gate.reached.wait(240)
    lane = encoder._lanes["a"]
    lane._queue.__class__ = FilledAtTheLastMoment
    lane.end()
    gate.open.set()
    lane.thread.join(240)
    assert contents(encoder.finish_episode()["a"][0])[0] == list(range(6))


@pytest.mark.parametrize("on_full", ["drop", "block", "raise"])
def test_a_feeder_learns_that_its_episode_ended_before_there_was_room(tmp_path: Path, make: Make, on_full: str) -> None:
    encoder = make(queue_maxsize=1, on_full=on_full)
    encoder.start_episode(["a"], tmp_path)
    lane = encoder._lanes["a"]
    lane.thread.discard()
    lane.thread.join(240)
    if on_full == "block":
        lane.feed(paint(0), None)  # nobody takes it any more, so that the next one would wait for ever
    else:
        lane._queue.__class__ = FilledAtTheLastMoment
    with pytest.raises(RuntimeError, match="No active episode: it ended"):
        lane.feed(paint(1), None)
