"""What files say of themselves, under LeRobot's names: against PyAV, the index, and a data set that LeRobot wrote."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lazyvid.errors import NotAVideoError, NoVideoStreamError, ObjectNotFoundError, VideoError
from lazyvid.index.probe import (
    build_index,
    get_audio_info,
    get_video_duration_in_s,
    get_video_info,
    get_video_pixel_channels,
)
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, VideoCorpus, write_video

LEROBOT = Path(__file__).resolve().parents[3] / "shared" / "data" / "lerobot"
VIDEO_KEYS = {
    "video.height", "video.width", "video.codec", "video.pix_fmt", "video.fps", "video.channels", "video.is_depth_map",
    "has_audio",
}  # fmt: skip
AUDIO_KEYS = {
    "audio.channels", "audio.codec", "audio.bit_rate", "audio.sample_rate", "audio.bit_depth", "audio.channel_layout",
}  # fmt: skip


def write_sound(path: Path, codec: str, *, layout: str = "stereo") -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=44_100, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2 * 44_100 if layout == "stereo" else 44_100), np.int16), format="s16", layout=layout
        )
        frame.sample_rate = 44_100
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=44_100)
        frame_size = stream.codec_context.frame_size
        fifo = av.AudioFifo()
        for part in resampler.resample(frame):
            fifo.write(part)
        while (chunk := fifo.read(frame_size, partial=True)) is not None:
            container.mux(stream.encode(chunk))
        container.mux(stream.encode(None))
    return path


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_it_agrees_with_the_index_in_every_container(corpus: VideoCorpus, corpus_name: str) -> None:
    path = corpus[corpus_name]
    try:
        source = build_index(path).sources[0]
    except VideoError:
        pytest.skip(f"{corpus_name} has no video")
    info = get_video_info(path)
    assert set(info) == VIDEO_KEYS | (AUDIO_KEYS if info["has_audio"] else set())
    assert (info["video.height"], info["video.width"]) == source.display_size
    assert (info["video.codec"], info["video.pix_fmt"]) == (source.codec, source.pix_fmt)
    assert (info["video.channels"], info["video.is_depth_map"]) == (3, False)
    assert get_video_duration_in_s(path) > 0.9


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30_000, 1001), Fraction(25, 2)], ids=str)
def test_the_rate_is_exact_and_an_int_when_whole(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    fps = get_video_info(write_video(tmp_path / f"a.{suffix}", frames=12, fps=rate))["video.fps"]
    assert fps == rate
    assert isinstance(fps, int) == (rate.denominator == 1)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "ts"])
def test_the_duration_is_the_streams_or_else_the_containers(tmp_path: Path, suffix: str) -> None:
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"a.{suffix}", frames=45, codec=codec)
    with av.open(str(path)) as container:  # Matroska's streams are silent
        assert (container.streams.video[0].duration is None) == (suffix in ("mkv", "webm"))
    assert get_video_duration_in_s(path) == pytest.approx(1.5, abs=1e-6)


def test_a_turned_video_has_the_size_that_is_shown(corpus: VideoCorpus) -> None:
    info = get_video_info(corpus["h264_rotated_90"])
    assert (info["video.height"], info["video.width"]) == (160, 120)


def test_depth_is_what_the_caller_says_it_is(corpus: VideoCorpus) -> None:
    assert get_video_info(corpus["h264_gop2"], is_depth_map=True)["video.is_depth_map"] is True


def test_it_says_what_lerobot_wrote_of_its_own_files() -> None:
    roots = sorted(LEROBOT.glob("v3*")) if LEROBOT.is_dir() else []
    if not roots:
        pytest.skip("no folder ../shared/data/lerobot beside the repository")
    checked = 0
    for root in roots:
        features = json.loads((root / "meta/info.json").read_text())["features"]
        for name, feature in features.items():
            if feature["dtype"] != "video":
                continue
            for path in root.glob(f"videos/{name}/*/*.mp4"):
                mine = get_video_info(path)
                theirs = {key: value for key, value in feature["info"].items() if key in mine}
                assert {key: mine[key] for key in theirs} == theirs
                assert set(theirs) >= VIDEO_KEYS - {"video.is_depth_map"}
                checked += 1
    assert checked


# -- sound ------------------------------------------------------------------------------------------------------------


def test_video_info_holds_the_audio_info(corpus: VideoCorpus) -> None:
    path = corpus["video_audio"]
    info, audio = get_video_info(path), get_audio_info(path)
    assert audio.items() <= info.items()
    assert set(audio) == AUDIO_KEYS | {"has_audio"}
    assert (audio["has_audio"], audio["audio.channels"], audio["audio.codec"]) == (True, 1, "aac")
    assert (audio["audio.sample_rate"], audio["audio.channel_layout"]) == (16_000, "mono")
    assert audio["audio.bit_rate"] > 1000


def test_without_sound_only_that_is_said(corpus: VideoCorpus) -> None:
    assert get_audio_info(corpus["h264_gop2"]) == {"has_audio": False}


@pytest.mark.parametrize(
    ("name", "codec", "depth"), [("a.m4a", "aac", 32), ("a.wav", "pcm_s16le", 16), ("a.flac", "flac", 16)]
)
def test_a_file_without_video(tmp_path: Path, name: str, codec: str, depth: int) -> None:
    path = write_sound(tmp_path / name, codec)
    assert get_video_info(path) == {}
    audio = get_audio_info(path)
    assert (audio["audio.codec"], audio["audio.channels"], audio["audio.bit_depth"]) == (codec, 2, depth)
    assert audio["audio.sample_rate"] == 44_100
    assert audio["audio.channel_layout"] in ("stereo", "2 channels")  # WAV names no layout
    with pytest.raises(NoVideoStreamError):
        get_video_duration_in_s(path)


def test_mpeg_audio_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mp3", "libmp3lame")
    assert get_audio_info(path)["audio.codec"] in ("mp3", "mp3float")
    assert get_video_info(path) == {}


# -- what is wrong, and where it lies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [get_video_info, get_audio_info, get_video_duration_in_s])
def test_what_is_no_video_has_a_name(tmp_path: Path, corpus: VideoCorpus, ask: Any) -> None:
    with pytest.raises(ObjectNotFoundError):
        ask(tmp_path / "missing.mp4")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {corpus['h264_gop2']}\n")
    with pytest.raises(NotAVideoError, match="ffconcat"):  # FFmpeg, left to guess, opens the file it names
        ask(tmp_path / "list.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(NotAVideoError, match="no bytes"):
        ask(tmp_path / "empty.mp4")
    (tmp_path / "cut.mp4").write_bytes(corpus["h264_gop2"].read_bytes()[:5000])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        ask(tmp_path / "cut.mp4")


@pytest.mark.s3
def test_a_video_in_a_bucket(corpus: VideoCorpus, s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    store.upload(corpus["video_audio"], f"{s3_prefix}/a.mp4")
    local = get_video_info(corpus["video_audio"])
    assert get_video_info(f"{s3_prefix}/a.mp4", store=store) == local
    assert get_video_info(f"{s3_prefix}/a.mp4", storage_options=s3_server.storage_options) == local


# -- pixel formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formats", "channels"),
    [
        ("gray gray8 gray10le gray12le gray16be grayf32le monow monob monochrome depth depth16", 1),
        ("yuv420p yuvj422p yuv444p10le nv12 nv21 p010le rgb24 bgr24 gbrp gbrp10le rgb48le yuyv422 bgr0", 3),
        ("rgba bgra argb yuva420p yuva444p10le gbrap rgba64le pal8", 4),
        ("ya8 ya16le", 2),
    ],
)
def test_channels_of_pixel_formats(formats: str, channels: int) -> None:
    assert {name: get_video_pixel_channels(name) for name in formats.split()} == dict.fromkeys(
        formats.split(), channels
    )


@pytest.mark.parametrize("name", ["", "unknown", "RGB", "rgb25", "vaapi", None, 3])
def test_an_unknown_pixel_format_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="Unknown format"):
        get_video_pixel_channels(name)
