"""The table of generated videos that tests work on: every codec, container, timing and trap that has broken a reader.

Written with `videos.py` and, where an encoder alone does not do it, `traps.py`. `VideoCorpus` keeps the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType

from lazyvid.testing.traps import (
    write_trimmed,
    write_vp8_hidden,
    write_vp9_hidden,
    write_with_inband_parameters,
    write_without_reorder_depth,
)
from lazyvid.testing.videos import VideoSpec, write_streams, write_video


@dataclass(frozen=True, slots=True)
class CorpusVideo:
    """One file of the corpus: how it is written and what it must show."""

    name: str
    """Its key in `CORPUS`."""
    suffix: str
    """With the dot, such as `.mp4`."""
    numbers: Sequence[int]
    """The number that each shown frame of the first video stream carries, in presentation order."""
    write: Callable[[Path], object]
    """Writes the file to a path."""
    rotation: int = 0
    """Degrees, clockwise, that a reader must turn the coded picture by."""


class VideoCorpus(Mapping[str, Path]):
    """The corpus's files in a folder, each written when first asked for; several processes may share the folder."""

    def __init__(self, folder: str | Path) -> None:
        """Uses a folder.

        Args:
            folder: made when missing; files in it from an earlier run of the same version are taken as they are.
        """
        self.folder = Path(folder)

    def __getitem__(self, name: str) -> Path:
        """The path of a file, written now if it is not there. Treat it as read-only and write nothing beside it."""
        video = CORPUS[name]
        path = self.folder / (name + video.suffix)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{os.getpid()}-{path.name}")
            try:
                video.write(unfinished)
                with contextlib.suppress(FileExistsError):  # another process's, which it may be reading: it stays
                    os.link(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(CORPUS)

    def __len__(self) -> int:
        return len(CORPUS)

    def copy(self, name: str, folder: str | Path) -> Path:
        """Copies a file to a folder of the caller's, where it may be changed and have files beside it.

        Args:
            name: its key in `CORPUS`.
            folder: made when missing.

        Returns:
            The copy's path.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self[name], folder))


def _plain(
    name: str, suffix: str, spec: VideoSpec, *, muxer: str | None = None, muxer_options: Mapping[str, str] | None = None
) -> CorpusVideo:
    """A file that one encoder and one muxer write by themselves."""

    def write(path: Path) -> None:
        write_video(path, spec, muxer=muxer, muxer_options=muxer_options)

    return CorpusVideo(name, suffix, spec.numbers, write, rotation=spec.rotation)


def _streams(name: str, suffix: str, specs: Sequence[VideoSpec], *, audio_seconds: float = 0.0) -> CorpusVideo:
    """A file of several streams."""

    def write(path: Path) -> None:
        write_streams(path, specs, audio_seconds=audio_seconds)

    return CorpusVideo(name, suffix, specs[0].numbers if specs else (), write)


_IRREGULAR_MS = tuple(sum((7, 33, 34, 90, 12, 51)[j % 6] for j in range(i)) for i in range(60))
_X264_OPEN = {"x264-params": "open-gop=1:b-adapt=0"}
_X265_OPEN = {"x265-params": "open-gop=1:b-adapt=0"}
_FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
_VP9_LAYERS = {
    "deadline": "realtime",
    "lag-in-frames": "0",
    "error-resilient": "0",
    "ts-parameters": "ts_number_layers=2:ts_target_bitrate=200,300:ts_rate_decimator=2,1:ts_layering_mode=2",
}


def _ordinary() -> Iterator[CorpusVideo]:
    """What cameras, encoders and tools with ordinary settings write."""
    yield _plain("h264_closed", ".mp4", VideoSpec(frames=90, b_frames=3))
    yield _plain("h264_gop2", ".mp4", VideoSpec(gop=2))
    yield _plain("h264_gop250", ".mp4", VideoSpec(frames=120, gop=250, b_frames=3))
    yield _plain("h264_intra", ".mp4", VideoSpec(frames=30, gop=1))
    yield _plain("h264_ultrafast", ".mp4", VideoSpec(options={"preset": "ultrafast"}))
    yield _plain("h264_ts", ".ts", VideoSpec(b_frames=2))
    yield _plain("h264_mkv", ".mkv", VideoSpec(b_frames=2))
    yield _plain("h264_faststart", ".mp4", VideoSpec(), muxer_options={"movflags": "faststart"})
    yield _plain(
        "h264_fragmented",
        ".mp4",
        VideoSpec(gop=12),
        muxer_options={"movflags": _FRAGMENTED},
    )
    yield _plain("h264_hybrid", ".mp4", VideoSpec(gop=12), muxer_options={"movflags": "hybrid_fragmented"})
    yield _plain("h264_start", ".mp4", VideoSpec(start=45, b_frames=2))
    yield _plain("h264_vfr", ".mp4", VideoSpec(pts=_IRREGULAR_MS, time_base=Fraction(1, 1000), b_frames=2))
    yield _plain("h264_10bit", ".mp4", VideoSpec(pix_fmt="yuv420p10le"))
    yield _plain("h264_444_odd", ".mp4", VideoSpec(pix_fmt="yuv444p", width=161, height=121))
    yield _plain("h264_full_range", ".mp4", VideoSpec(full_range=True))
    yield _plain("h264_mov", ".mov", VideoSpec())
    for degrees in (90, 180, 270):
        yield _plain(f"h264_rotated_{degrees}", ".mp4", VideoSpec(frames=30, rotation=degrees))
    yield _plain("hevc", ".mp4", VideoSpec(codec="libx265", b_frames=3))
    yield _plain("hevc_444", ".mp4", VideoSpec(codec="libx265", pix_fmt="yuv444p", frames=30))
    yield _plain("vp8", ".webm", VideoSpec(codec="libvpx"))
    yield _plain("vp9", ".webm", VideoSpec(codec="libvpx-vp9"))
    yield _plain("vp9_odd", ".mp4", VideoSpec(codec="libvpx-vp9", width=161, height=121, frames=30))
    yield _plain("av1", ".mp4", VideoSpec(codec="libsvtav1"))
    yield _plain("av1_mkv", ".mkv", VideoSpec(codec="libsvtav1"))
    yield _plain("mpeg4", ".mp4", VideoSpec(codec="mpeg4", b_frames=2))
    yield _plain("mpeg4_avi", ".avi", VideoSpec(codec="mpeg4", b_frames=2))
    yield _plain("mpeg2", ".mp4", VideoSpec(codec="mpeg2video", gop=12, b_frames=2))
    yield _plain("mpeg2_ts", ".ts", VideoSpec(codec="mpeg2video", gop=12, b_frames=2))
    yield _plain("mpeg2_ps", ".mpg", VideoSpec(codec="mpeg2video", gop=12, b_frames=2))
    second = VideoSpec(width=96, height=80, gop=15, first_number=1000)
    yield _streams("two_videos", ".mp4", [VideoSpec(), second])
    yield _streams("video_audio", ".mp4", [VideoSpec(b_frames=2)], audio_seconds=2.0)
    yield _streams("audio_only", ".mp4", [], audio_seconds=1.0)


def _traps() -> Iterator[CorpusVideo]:
    """Files that a reader gets wrong unless it knows about them; `tests/testing` proves that they still are such."""
    yield _plain("h264_open_gop", ".mp4", VideoSpec(frames=90, gop=15, b_frames=3, options=_X264_OPEN))
    yield _plain("hevc_open_gop", ".mp4", VideoSpec(codec="libx265", frames=90, gop=15, b_frames=3, options=_X265_OPEN))
    # A still picture ends in skipped macroblocks, and FFmpeg looks for more of them behind the packet's end.
    yield _plain("mpeg4_skipped", ".mp4", VideoSpec(codec="mpeg4", b_frames=2, motion=0))
    refresh = VideoSpec(frames=120, options={"x264-params": "intra-refresh=1"})
    yield _plain("h264_intra_refresh", ".mp4", refresh)
    yield _plain("vp9_layers", ".webm", VideoSpec(codec="libvpx-vp9", frames=90, bit_rate=300_000, options=_VP9_LAYERS))

    trimmed = VideoSpec(frames=90, b_frames=3)
    for name, suffix in (("h264_edit_list", ".mp4"), ("h264_edit_list_mov", ".mov")):
        yield CorpusVideo(name, suffix, trimmed.numbers[40:], partial(write_trimmed, spec=trimmed, first=40))
    hevc = replace(trimmed, codec="libx265")
    yield CorpusVideo("hevc_edit_list", ".mp4", hevc.numbers[40:], partial(write_trimmed, spec=hevc, first=40))

    head = VideoSpec(b_frames=2, gop=12)
    tail = VideoSpec(b_frames=0, gop=12, first_number=60, options={"x264-params": "cabac=0:ref=1:8x8dct=0:weightp=0"})
    joined = partial(write_with_inband_parameters, first=head, second=tail)
    yield CorpusVideo("h264_inband_parameters", ".mp4", (*head.numbers, *tail.numbers), joined)

    pyramid = VideoSpec(frames=90, gop=15, b_frames=3, options={"x264-params": "b-pyramid=normal:b-adapt=0"})
    silent = partial(write_without_reorder_depth, spec=pyramid)
    yield CorpusVideo("h264_no_reorder_depth", ".mp4", pyramid.numbers, silent)

    vp8 = VideoSpec(codec="libvpx")
    shown = [number for number in vp8.numbers if number % 10 != 9]
    yield CorpusVideo("vp8_hidden", ".webm", shown, partial(write_vp8_hidden, spec=vp8, every=10))
    vp9 = VideoSpec(codec="libvpx-vp9")
    shown = [number for number in vp9.numbers if number % vp9.gop]
    for name, suffix in (("vp9_hidden", ".mp4"), ("vp9_hidden_webm", ".webm")):
        yield CorpusVideo(name, suffix, shown, partial(write_vp9_hidden, spec=vp9))


CORPUS: Mapping[str, CorpusVideo] = MappingProxyType({v.name: v for v in (*_ordinary(), *_traps())})
"""Every generated video by name."""
