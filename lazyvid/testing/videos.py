"""Writes small videos whose every frame proves its own number, with any codec, container and timing that tests ask for.

`pattern.py` paints the frames, this module encodes and muxes them, `corpus.py` names the files that tests work on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from heapq import merge
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from lazyvid.recording.scheduling import kept_scheduling
from lazyvid.testing.pattern import painted_frame

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_AUDIO_RATE = 16_000
_AUDIO_STEP = 1024
_Feed = Iterator[tuple[Fraction, Any, Any]]  # (time in seconds, stream, frame)
_BIT_RATES = {"mpeg4": 2_000_000, "mpeg2video": 2_000_000, "libvpx": 1_000_000, "libvpx-vp9": 500_000}
_QUIET_OPTIONS: dict[str, dict[str, str]] = {
    # With AVX-512, x264's mbtree reads memory that it did not write: without it a spec gives the same bytes each time.
    "libx264": {"preset": "veryfast", "sc_threshold": "0", "mbtree": "0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=error:pools=none:frame-threads=1:scenecut=0"},
    "libsvtav1": {"preset": "9", "crf": "25", "svtav1-params": "lp=1"},
    "libvpx": {"deadline": "good", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "8"},
}
_JOINED_OPTIONS = ("x264-params", "x265-params", "svtav1-params")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """One video stream to be written; the defaults are an ordinary H.264 stream with B-frames."""

    frames: int = 60
    """Number of frames."""
    width: int = 160
    """Coded width in pixels, that is, before any rotation."""
    height: int = 120
    """Coded height in pixels, that is, before any rotation."""
    fps: Fraction | int = 30
    """Nominal frame rate; frame i lies at i / fps unless `pts` says otherwise."""
    codec: str = "libx264"
    """FFmpeg's name of the encoder."""
    pix_fmt: str = "yuv420p"
    """FFmpeg's name of the pixel format."""
    gop: int = 30
    """Largest distance between key frames, in frames."""
    b_frames: int | None = None
    """Most B-frames in a row; None leaves it to the encoder."""
    bit_rate: int | None = None
    """Bits per second; None takes one that keeps frame numbers readable."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Private options of the encoder, added to the ones that keep it quiet and single-threaded."""
    time_base: Fraction | None = None
    """Seconds per tick of `pts` and `start`; None is 1 / fps."""
    pts: Sequence[int] | None = None
    """Each frame's time in ticks (variable frame rate); None is 0, 1, 2, ... frames."""
    start: int = 0
    """Ticks added to every time."""
    rotation: int = 0
    """Degrees, clockwise, by which players turn the coded picture: 0, 90, 180 or 270 (MP4 and MOV only)."""
    full_range: bool = False
    """Full-range BT.709 instead of the default limited-range BT.601."""
    first_number: int = 0
    """The number that frame 0 shows; tells streams and files apart."""
    motion: int = 3
    """Pixels that the texture moves per frame."""

    @property
    def numbers(self) -> range:
        """The number that each frame shows, in presentation order."""
        return range(self.first_number, self.first_number + self.frames)

    @property
    def ticks(self) -> list[int]:
        """Each frame's time, in units of `tick`."""
        return [self.start + t for t in (self.pts if self.pts is not None else range(self.frames))]

    @property
    def tick(self) -> Fraction:
        """Seconds per tick."""
        return self.time_base or 1 / Fraction(self.fps)

    def paint(self, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The coded picture of a number: upright once a player has turned it by `rotation`."""
        turned = self.rotation % 180 == 90
        upright = painted_frame(
            number,
            width=self.height if turned else self.width,
            height=self.width if turned else self.height,
            motion=self.motion,
        )
        return np.ascontiguousarray(np.rot90(upright, k=self.rotation // 90))


def write_video(
    path: str | Path,
    spec: VideoSpec | None = None,
    *,
    muxer: str | None = None,
    muxer_options: Mapping[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Writes a file with one video stream.

    Args:
        path: the file; its suffix chooses the container.
        spec: what to write; None is `VideoSpec()`.
        muxer: FFmpeg's name of the container, where the suffix does not tell.
        muxer_options: the muxer's options, such as `{"movflags": "faststart"}`.
        **changes: fields of `VideoSpec` to be replaced, for short calls: `write_video(path, frames=10, gop=2)`.

    Returns:
        The path.

    Raises:
        ValueError: if the spec contradicts itself.
    """
    return write_streams(path, [replace(spec or VideoSpec(), **changes)], muxer=muxer, muxer_options=muxer_options)


def write_streams(
    path: str | Path,
    specs: Sequence[VideoSpec],
    *,
    audio_seconds: float = 0.0,
    muxer: str | None = None,
    muxer_options: Mapping[str, str] | None = None,
) -> Path:
    """Writes a file with any number of video streams, interleaved by time, and optionally a tone.

    Args:
        path: the file; its suffix chooses the container.
        specs: the video streams in their order in the file; none gives a file with audio only.
        audio_seconds: length of an AAC tone that becomes the last stream; 0 for none.
        muxer: FFmpeg's name of the container, where the suffix does not tell.
        muxer_options: the muxer's options.

    Returns:
        The path.

    Raises:
        ValueError: if a spec contradicts itself.
    """
    for spec in specs:
        _check(spec)
    path = Path(path)
    with av.open(str(path), "w", format=muxer, options=dict(muxer_options or {})) as container:
        streams = [add_video_stream(container, spec) for spec in specs]
        feeds = [_video_feed(stream, spec) for stream, spec in zip(streams, specs, strict=True)]
        if audio_seconds:
            feeds.append(_audio_feed(container.add_stream("aac", rate=_AUDIO_RATE, layout="mono"), audio_seconds))
        for _, stream, frame in merge(*feeds, key=lambda item: item[0]):
            container.mux(stream.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode(None))  # type: ignore[attr-defined]
    return path


def add_video_stream(container: OutputContainer, spec: VideoSpec) -> VideoStream:
    """Adds an encoder for a spec to an open container.

    Args:
        container: a container opened for writing.
        spec: the stream.

    Returns:
        The stream, ready to encode frames of `video_frame`.
    """
    options = _encoder_options(spec)
    stream = cast("VideoStream", container.add_stream(spec.codec, rate=Fraction(spec.fps), options=options))
    stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, spec.pix_fmt
    stream.time_base = spec.tick
    context = stream.codec_context
    context.time_base = spec.tick
    context.gop_size = spec.gop
    context.thread_count = 1  # the same bytes on every machine
    context.bit_rate = spec.bit_rate if spec.bit_rate is not None else _BIT_RATES.get(spec.codec, 0)
    if spec.b_frames is not None:
        context.max_b_frames = spec.b_frames
    if spec.full_range:
        context.color_range, context.colorspace = ColorRange.JPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    if spec.rotation:
        stream.set_display_rotation(-spec.rotation)  # FFmpeg counts counter-clockwise
    with kept_scheduling():
        context.open(strict=False)
    return stream


def video_frame(spec: VideoSpec, position: int) -> av.VideoFrame:
    """The frame at a position of a spec's stream, converted and timed, ready for its encoder.

    Args:
        spec: the stream.
        position: 0 to `spec.frames` - 1.

    Returns:
        The frame in the spec's pixel format.
    """
    rgb = av.VideoFrame.from_ndarray(spec.paint(spec.numbers[position]), format="rgb24")
    frame = rgb.reformat(
        format=spec.pix_fmt,
        dst_colorspace=Colorspace.ITU709 if spec.full_range else None,
        dst_color_range=ColorRange.JPEG if spec.full_range else None,
        threads=1,
    )
    frame.pts, frame.time_base = spec.ticks[position], spec.tick
    return frame


def _encoder_options(spec: VideoSpec) -> dict[str, str]:
    """The quiet defaults with the spec's own options over them; lists of parameters are joined, not replaced."""
    options = dict(_QUIET_OPTIONS.get(spec.codec, {}))
    for name, value in spec.options.items():
        options[name] = f"{options[name]}:{value}" if name in _JOINED_OPTIONS and name in options else value
    return options


def _check(spec: VideoSpec) -> None:
    if spec.rotation not in (0, 90, 180, 270):
        raise ValueError(f"rotation is 0, 90, 180 or 270 degrees, got {spec.rotation}")
    ticks = spec.ticks
    if len(ticks) != spec.frames:
        raise ValueError(f"pts has one time per frame: expected {spec.frames}, got {len(ticks)}")
    if any(b <= a for a, b in pairwise(ticks)):
        raise ValueError("pts must increase from frame to frame; sort them and leave out repeats")


def _video_feed(stream: VideoStream, spec: VideoSpec) -> _Feed:
    ticks, tick = spec.ticks, spec.tick
    for position in range(spec.frames):
        yield ticks[position] * tick, stream, video_frame(spec, position)


def _audio_feed(stream: AudioStream, seconds: float) -> _Feed:
    for first in range(0, round(seconds * _AUDIO_RATE), _AUDIO_STEP):
        times = np.arange(first, first + _AUDIO_STEP) / _AUDIO_RATE
        tone = (0.2 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _AUDIO_RATE, first, Fraction(1, _AUDIO_RATE)
        yield Fraction(first, _AUDIO_RATE), stream, frame
