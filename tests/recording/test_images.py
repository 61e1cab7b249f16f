"""Pictures survive PNG to the bit, and picture k of a folder is frame k of its video, at k / fps."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyvid.errors import (
    CameraFormatChangedError,
    CorruptVideoError,
    EncoderUnavailableError,
    RecordingDiskFullError,
    RecordingError,
)
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.recording import VideoWriter
from lazyvid.recording import images as images_module
from lazyvid.recording.codecs import encoder_status
from lazyvid.recording.images import ImageWriter, encode_video_frames, frame_path
from lazyvid.recording.png import as_png_pixels, decode_png, encode_png
from lazyvid.testing import painted_frame, read_frame_number

WIDTH, HEIGHT = 96, 64


def paint(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return painted_frame(number, width=width, height=height)


def paint_folder(folder: Path, count: int = 12, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        frame_path(folder, number).write_bytes(encode_png(paint(number % 10_000)))
    return folder


def sequential(path: Path) -> tuple[list[int], list[Fraction], str]:
    """Frame numbers, times and pixel format as PyAV alone finds them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        times = [picture.pts * stream.time_base for picture in pictures]
        numbers = [read_frame_number(picture.to_ndarray(format="rgb24")) for picture in pictures]
        return numbers, times, stream.codec_context.pix_fmt


def litter(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- PNG --------------------------------------------------------------------------------------------------------------


def pictures() -> st.SearchStrategy[Any]:
    sides = st.integers(1, 20)
    shapes = st.one_of(
        st.tuples(sides, sides), st.tuples(sides, sides, st.just(3)), st.tuples(sides, sides, st.just(4))
    )
    small = shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape))
    deep = st.tuples(sides, sides).flatmap(lambda shape: hnp.arrays(np.uint16, shape))
    return st.one_of(small, deep)


@settings(max_examples=60)
@given(picture=pictures())
def test_a_picture_survives_to_the_bit(picture: Any) -> None:
    if picture.ndim == 3 and picture.shape[0] in (1, 3, 4) and picture.shape[-1] not in (1, 3, 4):
        return
    found = decode_png(encode_png(as_png_pixels(picture)), name="it")
    assert found.dtype == picture.dtype
    np.testing.assert_array_equal(found, picture)


def test_every_layout_and_type_is_one_picture() -> None:
    picture = paint(7)
    forms: list[Any] = [picture.transpose(2, 0, 1), picture.astype(np.float64) / 255, torch.from_numpy(picture)]
    for form in forms:
        np.testing.assert_array_equal(as_png_pixels(form), picture)
    np.testing.assert_array_equal(as_png_pixels(picture[..., :1]), picture[..., 0])
    np.testing.assert_array_equal(as_png_pixels(picture[::-1]), picture[::-1])


def test_pillow_agrees(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="only a second opinion")
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(paint(3)))
    np.testing.assert_array_equal(np.asarray(image.open(path)), paint(3))
    for mode in ("RGB", "RGBA", "L", "P", "1", "LA", "I;16"):
        source = image.fromarray(paint(3)).convert(mode if mode != "I;16" else "I").convert(mode)
        source.save(path)
        found = decode_png(path.read_bytes(), name="it")
        if mode == "I;16":
            np.testing.assert_array_equal(found, np.asarray(source).astype(np.uint16))
        else:
            wanted = source.convert("RGBA" if found.shape[-1] == 4 else "RGB" if found.ndim == 3 else "L")
            np.testing.assert_array_equal(found, np.asarray(wanted))


@pytest.mark.parametrize("kept", [0, 1, 8, 30, 60, 500, -40, -13, -1])
def test_a_cut_picture_is_an_error(kept: int) -> None:
    data = encode_png(paint(5))[:kept]
    with pytest.raises(CorruptVideoError, match=r"a\.png"):
        decode_png(data, name="a.png")


def test_a_flipped_bit_is_an_error() -> None:
    data = bytearray(encode_png(paint(5)))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(CorruptVideoError):
        decode_png(bytes(data), name="a.png")


@pytest.mark.parametrize(
    "picture", [np.zeros((5, 4, 5)), np.zeros(3), np.zeros((4, 0, 3)), np.full((4, 4), 2.0), np.zeros((4, 4), np.int64)]
)
def test_what_png_cannot_hold_is_refused(picture: Any) -> None:
    with pytest.raises(ValueError, match="Invalid picture"):
        as_png_pixels(picture)


# -- the writer -------------------------------------------------------------------------------------------------------


def test_all_pictures_are_on_disk_after_waiting(tmp_path: Path) -> None:
    with ImageWriter(num_threads=3, queue_maxsize=2) as writer:
        buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        for number in range(30):
            buffer[:] = paint(number)  # a camera's buffer is used again at once
            writer.save_image(buffer, frame_path(tmp_path / "new" / "folder", number))
        writer.wait_until_done()
        assert writer.pending == 0
        for number in range(30):
            data = frame_path(tmp_path / "new" / "folder", number).read_bytes()
            np.testing.assert_array_equal(decode_png(data, name="it"), paint(number))
    assert len(litter(tmp_path / "new" / "folder")) == 30


def test_an_error_is_raised_once_by_the_wait_and_the_others_are_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way of a folder")
    with ImageWriter() as writer:
        writer.save_image(paint(0), tmp_path / "0.png")
        writer.save_image(paint(1), tmp_path / "file" / "1.png")
        writer.save_image(paint(2), tmp_path / "file" / "2.png")
        writer.save_image(paint(3), tmp_path / "3.png")
        with pytest.raises(RecordingError, match=r"[12]\.png, and 1 more"):
            writer.wait_until_done()
        writer.wait_until_done()
    assert litter(tmp_path) == ["0.png", "3.png", "file"]


def test_the_end_of_the_block_raises_what_nobody_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way of a folder")
    writer = ImageWriter()
    with pytest.raises(RecordingError, match=r"1\.png"), writer:
        writer.save_image(paint(1), tmp_path / "file" / "1.png")
    with pytest.raises(RecordingError, match="stopped"):
        writer.save_image(paint(1), tmp_path / "1.png")
    with pytest.raises(ValueError, match="Invalid picture"), ImageWriter() as other:  # the block's own comes through
        other.save_image(np.zeros(3), tmp_path / "file" / "1.png")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_to_full_disk(path: Path, data: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as file:
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    writer = ImageWriter(num_threads=1)
    writer.save_image(paint(1), tmp_path / "1.png")
    with pytest.raises(RecordingDiskFullError, match=r"1\.png"):
        writer.wait_until_done()
    writer.stop()
    assert litter(tmp_path) == []


def test_waiting_has_an_end_and_threads_end(tmp_path: Path) -> None:
    before = threading.active_count()
    writer = ImageWriter(num_threads=1)
    blocked = threading.Event()

    class Slow(type(tmp_path)):  # type: ignore[misc]
        def mkdir(self, *args: Any, **options: Any) -> None:
            blocked.wait(240)

    writer.save_image(paint(1), tmp_path / "1.png")
    writer.wait_until_done(timeout=240)
    with writer._lock:
        writer._waiting.append((paint(2), Slow(tmp_path / "2.png")))
    with pytest.raises(RecordingError, match=r"within 0\.05 s, 1 are still"):
        writer.wait_until_done(timeout=0.05)
    blocked.set()
    writer.wait_until_done(timeout=240)
    writer.stop()
    writer.stop()
    for thread in writer._threads:
        thread.join(240)
    assert threading.active_count() <= before


def test_a_ctrl_c_on_a_slow_disk_leaves_no_picture_to_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = threading.Event()
    write_bytes = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: (fast.wait(240), write_bytes(path, data)))
    writer = ImageWriter(num_threads=1, queue_maxsize=1)
    ctrl_c = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    ctrl_c.start()
    with pytest.raises(KeyboardInterrupt):  # one picture is at work, one waits, and there is no room for the third
        all(writer.save_image(paint(number), frame_path(tmp_path, number)) is None for number in range(3))
    fast.set()
    writer.wait_until_done(timeout=10)
    assert litter(tmp_path) == ["frame-000000.png", "frame-000001.png"]
    writer.stop()


def test_threads_that_cannot_be_started_leave_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, started = threading.active_count(), threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start"):
        ImageWriter(num_threads=3)
    for thread in started:
        thread.join(10)
    assert threading.active_count() <= before


@pytest.mark.parametrize("arguments", [{"num_threads": 0}, {"queue_maxsize": 0}])
def test_a_writer_needs_a_thread_and_a_place(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        ImageWriter(**arguments)


# -- the encoder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vcodec", "preset"), [("h264", "ultrafast"), ("hevc", "ultrafast"), ("libsvtav1", None)])
@pytest.mark.parametrize("fps", [30, Fraction(30_000, 1001)], ids=str)
def test_picture_k_is_frame_k(tmp_path: Path, vcodec: str, preset: str | None, fps: Any) -> None:
    images = paint_folder(tmp_path / "images")
    video = tmp_path / "videos" / "deep" / "a.mp4"
    encode_video_frames(images, video, fps, vcodec=vcodec, preset=preset)
    numbers, times, pix_fmt = sequential(video)
    assert numbers == list(range(12))
    assert times == [k / Fraction(fps) for k in range(12)]
    assert pix_fmt == "yuv420p"
    assert build_index(video).packets.key.tolist() == [k % 2 == 0 for k in range(12)]  # g=2
    assert litter(video.parent) == ["a.mp4"]


def test_it_is_the_video_that_streaming_gives(tmp_path: Path) -> None:
    images = paint_folder(tmp_path / "images")
    encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec="h264", g=4, crf=23, encoder_threads=1)
    with VideoWriter(tmp_path / "b.mp4", 30, g=4, crf=23, options={"threads": "1"}, write_sidecar=False) as writer:
        for number in range(12):
            writer.add_frame(paint(number))
    one, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    # Not to the byte: where it has a choice, x264's depends on what lay in its memory before.
    assert _settings(one) == _settings(other)
    assert sequential(one) == sequential(other)
    assert [build_index(path).packets.key.tolist() for path in (one, other)] == [[k % 4 == 0 for k in range(12)]] * 2


def _settings(path: Path) -> bytes:
    """What x264 says in its streams of how it was set."""
    found = re.search(rb"x264 - core[^\0]* options: [^\0]*", path.read_bytes())
    assert found is not None
    return found[0]


def test_pictures_are_taken_by_number_and_other_files_let_be(tmp_path: Path) -> None:
    images = paint_folder(tmp_path / "images", 4, first=999_998)
    for name in ("frame-000001.png.part", "frame-12.png", "notes.txt", ".lazyvid-tmp-frame-000000.png"):
        (images / name).write_bytes(b"no picture")
    encode_video_frames(str(images), str(tmp_path / "a.mp4"), 30, vcodec="h264")
    assert sequential(tmp_path / "a.mp4")[0] == [9998, 9999, 0, 1]  # not in the order of their names


def test_a_number_that_is_missing_is_named(tmp_path: Path) -> None:
    images = paint_folder(tmp_path / "images")
    frame_path(images, 5).unlink()
    with pytest.raises(FileNotFoundError, match=r"frame-000005\.png between frame-000000\.png and frame-000011\.png"):
        encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec="h264")
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_no_pictures_is_file_not_found(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No images"):
        encode_video_frames(tmp_path / folder, tmp_path / "a.mp4", 30, vcodec="h264")


def test_a_video_that_is_there_is_left_unless_told_otherwise(tmp_path: Path) -> None:
    images, video = paint_folder(tmp_path / "images"), tmp_path / "a.mp4"
    encode_video_frames(paint_folder(tmp_path / "others", 3), video, 30, vcodec="h264")
    build_index(video).save(video)
    before = video.read_bytes()
    with pytest.warns(UserWarning, match="there already"):
        encode_video_frames(images, video, 30, vcodec="h264")
    assert video.read_bytes() == before
    assert len(FrameIndex.open(video)) == 3
    encode_video_frames(images, video, 30, vcodec="h264", overwrite=True)
    assert sequential(video)[0] == list(range(12))
    assert litter(tmp_path) == ["a.mp4", "images", "others"]  # the old sidecar described another file


def test_folders_are_made_and_a_video_that_vanishes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, video = paint_folder(tmp_path / "images", 3), tmp_path / "deep" / "er" / "a.mp4"
    encode_video_frames(images, video, 30, vcodec="h264")
    assert sequential(video)[0] == [0, 1, 2]
    monkeypatch.setattr(images_module, "publish_file", lambda *_given: None)
    with pytest.raises(OSError, match=r"expected the video .*b\.mp4, found none"):
        encode_video_frames(images, tmp_path / "b.mp4", 30, vcodec="h264")


@pytest.mark.parametrize("vcodec", ["libsvtav1", "hevc"])
def test_full_chroma_becomes_half_where_nobody_decodes_it(tmp_path: Path, vcodec: str) -> None:
    images = paint_folder(tmp_path / "images", 4)
    with pytest.warns(UserWarning, match="becomes 'yuv420p'"):
        encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec=vcodec, pix_fmt="yuv444p")
    assert sequential(tmp_path / "a.mp4")[2] == "yuv420p"


def test_full_chroma_is_kept_where_it_can_be(tmp_path: Path) -> None:
    encode_video_frames(paint_folder(tmp_path / "images", 2), tmp_path / "a.mp4", 30, vcodec="h264", pix_fmt="yuv444p")
    assert sequential(tmp_path / "a.mp4")[2] == "yuv444p"


@pytest.mark.parametrize("vcodec", ["h264", "hevc"])
def test_effort_reaches_the_encoder(tmp_path: Path, vcodec: str) -> None:
    images = paint_folder(tmp_path / "images", 8)
    encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec=vcodec, g=8, fast_decode=1, encoder_threads=1)
    encode_video_frames(images, tmp_path / "b.mp4", 30, vcodec=vcodec, g=8, encoder_threads=1)
    assert sequential(tmp_path / "a.mp4")[0] == list(range(8))
    assert (tmp_path / "a.mp4").read_bytes() != (tmp_path / "b.mp4").read_bytes()


def test_effort_reaches_svtav1(tmp_path: Path) -> None:
    images = paint_folder(tmp_path / "images", 8)
    encode_video_frames(images, tmp_path / "a.mp4", 30, fast_decode=2, encoder_threads=1)
    assert sequential(tmp_path / "a.mp4")[0] == list(range(8))
    # Of small pictures it makes the same stream at every level; that it reads the level is seen by its refusing one.
    with pytest.raises(EncoderUnavailableError, match="fast-decode=9:lp=1"):
        encode_video_frames(images, tmp_path / "b.mp4", 30, fast_decode=9, encoder_threads=1)


def test_gray_and_transparent_pictures_are_encoded(tmp_path: Path) -> None:
    gray, alpha = tmp_path / "gray", tmp_path / "alpha"
    for number in range(3):
        for folder, picture in (
            (gray, paint(number).mean(axis=2).astype(np.uint8)),
            (alpha, np.dstack([paint(number), np.full((HEIGHT, WIDTH), 9, np.uint8)])),
        ):
            folder.mkdir(exist_ok=True)
            frame_path(folder, number).write_bytes(encode_png(picture))
    for folder in (gray, alpha):
        encode_video_frames(folder, tmp_path / "a.mp4", 30, vcodec="h264", overwrite=True)
        assert sequential(tmp_path / "a.mp4")[0] == [0, 1, 2]


def test_pictures_of_two_sizes_are_refused_by_name(tmp_path: Path) -> None:
    images = paint_folder(tmp_path / "images", 4)
    frame_path(images, 4).write_bytes(encode_png(paint(4, width=128)))
    with pytest.raises(CameraFormatChangedError) as caught:
        encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec="h264")
    assert "frame-000004.png" in "".join(caught.value.__notes__)
    assert litter(tmp_path) == ["images"]


def test_a_damaged_picture_leaves_no_video(tmp_path: Path) -> None:
    images = paint_folder(tmp_path / "images", 4)
    frame_path(images, 2).write_bytes(frame_path(images, 2).read_bytes()[:900])
    with pytest.raises(CorruptVideoError, match=r"frame-000002\.png"):
        encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec="h264")
    assert litter(tmp_path) == ["images"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vcodec": "h265"}, "Invalid vcodec"),
        ({"pix_fmt": "nonsense"}, "Invalid pix_fmt"),
        ({"fps": 0}, "Invalid fps"),
        ({"crf": 99}, "Invalid crf"),
        ({"g": -1}, "Invalid g"),
        ({"encoder_threads": 0}, "encoder_threads"),
        ({"preset": "warp"}, "warp"),
    ],
)
def test_invalid_arguments_are_named_and_leave_nothing(tmp_path: Path, arguments: Any, message: str) -> None:
    images = paint_folder(tmp_path / "images", 2)
    options: dict[str, Any] = {"fps": 30, "vcodec": "h264"} | arguments
    with pytest.raises((ValueError, EncoderUnavailableError), match=message):
        encode_video_frames(images, tmp_path / "a.mp4", **options)
    assert litter(tmp_path) == ["images"]


def test_only_mp4_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.mp4"):
        encode_video_frames(paint_folder(tmp_path / "images", 2), tmp_path / "a.mkv", 30, vcodec="h264")


def test_an_encoder_that_does_not_work_is_named(tmp_path: Path) -> None:
    if encoder_status("h264_nvenc").works:
        pytest.skip("NVENC works here")
    with pytest.raises(EncoderUnavailableError, match="h264_nvenc"):
        encode_video_frames(paint_folder(tmp_path / "images", 2), tmp_path / "a.mp4", 30, vcodec="h264_nvenc")


def test_the_log_level_holds_for_the_call_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = av.logging.get_level()
    images = paint_folder(tmp_path / "images", 2)
    with caplog.at_level(logging.DEBUG, logger="libav"):
        encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec="h264")
        assert caplog.records == []
        encode_video_frames(images, tmp_path / "a.mp4", 30, vcodec="h264", log_level=av.logging.INFO, overwrite=True)
    assert any("x264" in record.name or "x264" in record.message for record in caplog.records)
    assert av.logging.get_level() == before
