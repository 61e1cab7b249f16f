"""A kill between any two writes, of a file and of a whole recording: what was promised is there, and all is exact."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from episode_samples import add, frame, make
from moments import KeptFile, Moment, Moments, contents_after, kept_mp4
from promises import Promise, check_moment, sample

from lazyvid.errors import RecordingError, TruncatedVideoError
from lazyvid.recording import VideoWriter
from lazyvid.recording.fragments import GrowingMp4
from lazyvid.recording.recorder import Recorder
from lazyvid.recording.recover import recover
from lazyvid.testing import painted_frame, read_frame_number
from lazyvid.video import LazyVideo

FRAMES = 40
CHAOS = [pytest.mark.slow, pytest.mark.chaos]


# -- a file -----------------------------------------------------------------------------------------------------------

CODECS: dict[str, dict[str, Any]] = {
    "h264 with B-frames": {"vcodec": "h264", "preset": "medium", "g": 8},
    "h264 without delay": {"vcodec": "h264", "preset": "ultrafast", "g": 2},
    "hevc": {"vcodec": "hevc", "preset": "ultrafast", "g": 8},
    "libsvtav1": {"vcodec": "libsvtav1", "preset": 10, "g": 8, "crf": 20},
}


def written(path: Path, **options: Any) -> tuple[KeptFile, list[tuple[int, int]]]:
    """A video as it was written, and how many frames were promised after so many writes."""
    promised = []
    with kept_mp4() as kept:
        writer = VideoWriter(path, 30, write_sidecar=False, **options)
        growing = None
        for k in range(FRAMES):
            writer.add_frame(painted_frame(k, width=96, height=64), timestamp=5.125 + k / 7)
            growing = growing or GrowingMp4(next(str(file) for file in path.parent.iterdir()))
            promised.append((len(kept[0].writes), growing.count()))
        writer.close()
    assert growing is not None
    growing.close()
    return kept[0], promised


@pytest.mark.parametrize(
    ("codec", "most"),
    [("h264 with B-frames", 8), *(pytest.param(name, None, marks=CHAOS) for name in CODECS)],
)
def test_a_kill_at_every_write_of_a_file(tmp_path: Path, codec: str, most: int | None) -> None:
    (tmp_path / "whole").mkdir()
    kept, promised = written(tmp_path / "whole" / "a.mp4", **CODECS[codec])
    assert contents_after(kept.writes, len(kept.writes)) == (tmp_path / "whole" / "a.mp4").read_bytes()
    kills = [(count, torn) for count in range(len(kept.writes) + 1) for torn in (False, True)]
    found = []
    for count, torn in sample(kills, most):
        path = tmp_path / f"{count}-{torn}.mp4"
        path.write_bytes(contents_after(kept.writes, count, torn=torn))
        promise = max((frames for writes, frames in promised if writes <= count), default=0)
        found.append(check_recovered_file(path, promise if count < len(kept.writes) else FRAMES))
    assert found == sorted(found), "a later kill leaves less"
    assert found[-1] == FRAMES
    assert len(set(found)) > min(3, len(found) - 1)


def check_recovered_file(path: Path, promise: int) -> int:
    """Nothing promised is lost, and what there is is exact; the number of frames."""
    before = path.read_bytes()
    try:
        recover(path)
    except (TruncatedVideoError, RecordingError):
        assert promise == 0
        assert path.read_bytes() == before, "it is left as it was"
        return 0
    video = LazyVideo(path, on_missing_index="raise")
    count = len(video)
    assert count >= promise
    assert [read_frame_number(picture) for picture in video[:]] == list(range(count))
    exact = [5.125 + float(Fraction(round(Fraction(k, 7) * 10**6), 10**6)) for k in range(count)]
    assert video.timestamps.tolist() == pytest.approx(exact, abs=1e-9)
    assert not recover(path).changed
    return count


# -- a recording ------------------------------------------------------------------------------------------------------

LENGTHS = (7, 5)


def recorded(root: Path, **options: Any) -> list[Moment[Promise]]:
    """Every state that a recording of a few episodes goes through, its end and a beginning anew among them."""
    promise: Promise = (0, 0)
    moments = Moments(root, lambda: promise)
    with moments.watched():
        recorder = make(root, **{"g": 4} | options)
        for episode, length in enumerate(LENGTHS):
            for row in range(length):
                recorder.add_frame(frame(episode, row))
                promise = (episode, min(recorder.durable_frames.values(), default=0))
            recorder.save_episode()
            promise = (len(LENGTHS[: episode + 1]), 0)
        recorder.finalize()
        with Recorder.resume(root, on_full="block") as recorder:
            add(recorder, 2)
            promise = (len(LENGTHS), min(recorder.durable_frames.values(), default=0))
            recorder.save_episode()
            promise = (len(LENGTHS) + 1, 0)
    return list(moments)


def left_over(root: Path, **options: Any) -> list[Moment[Promise]]:
    """Every state that a recovery goes through."""
    recorder = make(root, **{"g": 4} | options)
    add(recorder, LENGTHS[0])
    recorder.save_episode()
    add(recorder, 24)  # more than an encoder keeps to itself
    end = time.monotonic() + 60
    # The encoders work behind the loop: before their first group of pictures there is nothing to recover.
    while (durable := min(recorder.durable_frames.values())) < 4:
        assert time.monotonic() < end, recorder.durable_frames
        time.sleep(0.02)
    recorder._episode._journal.close()  # type: ignore[union-attr]
    recorder._lock.release()  # as the end of the process does
    moments = Moments(root, lambda: (1, durable))
    with moments.watched():
        recover(root)
    recorder._cameras.close()
    return list(moments)


WAYS: dict[str, tuple[Callable[..., list[Moment[Promise]]], dict[str, Any]]] = {
    "while encoding": (recorded, {}),
    "with B-frames": (recorded, {"preset": "medium"}),
    "libsvtav1": (recorded, {"vcodec": "libsvtav1", "preset": 10, "crf": 10}),
    "images first": (recorded, {"streaming_encoding": False}),
    "images of two episodes": (recorded, {"streaming_encoding": False, "batch_encoding_size": 2}),
    "recovery": (left_over, {}),
}


@pytest.mark.parametrize(
    ("way", "most"),
    [("while encoding", 8), *(pytest.param(name, None, marks=CHAOS) for name in WAYS)],
)
def test_a_kill_at_every_write_of_a_recording(tmp_path: Path, way: str, most: int | None) -> None:
    record, options = WAYS[way]
    moments = record(tmp_path / "run", **options)
    assert len(moments) > 40
    unreadable = 0.1 if options.get("vcodec") == "libsvtav1" else 0.0  # at this size it paints a cell over now and then
    for moment in sample(moments, most):
        check_moment(moment, tmp_path / "killed", lengths=(*LENGTHS, 2), unreadable=unreadable)
