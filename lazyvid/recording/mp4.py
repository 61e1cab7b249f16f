"""One MP4 file that is being written: an encoder and a muxer whose file can be played up to the last whole fragment.

Third step of the write flow: `pictures.py` makes the pictures, `writer.py` says when each was taken and where it goes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

import av
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from lazyvid.errors import (
    EncoderFailedError,
    EncoderUnavailableError,
    RecordingDiskFullError,
    RecordingError,
)
from lazyvid.recording.codecs import hush, native_options, suited_pix_fmt
from lazyvid.recording.disk import is_full
from lazyvid.recording.scheduling import kept_scheduling

ORIGIN_TAG = "lazyvid_origin"
"""Metadata of the file: the capture time, in seconds, that lies at 0 in it."""

_MUXER_OPTIONS = {
    # Fragments while recording, an ordinary MP4 once closed. Without delay_moov the header is written before the
    # encoder has told its delay, and all times of a stream with B-frames come out late by that delay.
    "movflags": "hybrid_fragmented+delay_moov+use_metadata_tags",
    "flush_packets": "1",
    # The edit list that holds a late first frame counts in these; the default of 1/1000 s would round its time.
    "movie_timescale": "1000000",
}
# Libraries that write to stderr unless told otherwise: (option that holds their parameters, the parameter).
_QUIET = {"libx265": ("x265-params", "log-level=error")}
# libx265 gives random decoding times where it is flushed before it has seen more pictures than it reorders.
_LIBX265_GARBAGE = 2


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """The one stream of a file."""

    encoder: str
    """FFmpeg's name of the encoder."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    pix_fmt: str
    """FFmpeg's name of the pixel format."""
    rate: Fraction
    """Nominal frames per second."""
    time_base: Fraction
    """Seconds per tick."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The encoder's options."""
    is_yuv: bool = True
    """Whether a colour matrix belongs to the pictures."""
    is_full_range: bool = False
    """Whether the pictures use all values of a byte."""

    def __str__(self) -> str:
        options = f" with {dict(self.options)}" if self.options else ""
        return f"{self.encoder} at {self.width}x{self.height} {self.pix_fmt}{options}"


class Mp4File:
    """Encodes pictures into a local MP4 file. Belongs to one thread.

    Args:
        path: The file; replaced if it is there.
        spec: Its stream.
        metadata: Tags for the file's header.

    Raises:
        ValueError: if the encoder has no such option, or MP4 cannot hold what it makes.
        EncoderUnavailableError: if the encoder does not open here.
        RecordingError: if the file cannot be made.
    """

    def __init__(self, path: str, spec: StreamSpec, *, metadata: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._spec = spec
        self._has_packets = False
        with self._translated("open"):
            self._container = av.open(path, "w", format="mp4", options=dict(_MUXER_OPTIONS))
        try:
            self._container.metadata.update(metadata or {})
            self._stream = _add_stream(self._container, spec)
        except BaseException:
            self.abandon()
            raise

    def write(self, picture: VideoFrame, tick: int) -> None:
        """Encode a picture that is shown at `tick`.

        Raises:
            EncoderFailedError: if FFmpeg reports an error.
            RecordingDiskFullError: if the disk is full.
        """
        picture.pts, picture.time_base = tick, self._spec.time_base
        with self._translated("write"):
            self._mux(self._stream.encode(picture))

    def _mux(self, packets: Sequence[av.Packet[VideoStream]]) -> None:
        self._has_packets = self._has_packets or bool(packets)
        self._container.mux(packets)

    def finish(self) -> None:
        """Encode what the encoder still holds, make the file an ordinary MP4 and bring it to the disk.

        Raises:
            EncoderFailedError: if FFmpeg reports an error.
            RecordingDiskFullError: if the disk is full.
        """
        with self._translated("finish"):
            packets = self._stream.encode(None)
            if not self._has_packets and len(packets) <= _LIBX265_GARBAGE:
                for packet in packets:
                    packet.dts = packet.pts
            self._mux(packets)
            self._container.close()
            sync(self.path)

    def abandon(self) -> None:
        """Close the file as it is; what went wrong was reported already."""
        with contextlib.suppress(av.FFmpegError, OSError):
            self._container.close()

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        """FFmpeg's and the system's errors as lazyvid's."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, OSError) and is_full(error):
                raise disk_error(action, self.path, error) from error
            if action == "open" or isinstance(error, PermissionError | FileNotFoundError):
                raise RecordingError(
                    f"Cannot {action} {self.path}: {error}. Check the folder, or set spool_dir."
                ) from error
            raise EncoderFailedError(f"Cannot {action} {self.path}: {self._spec} failed: {error}.") from error


def disk_error(action: str, path: str, error: OSError) -> RecordingError:
    """What a file that is being written is raised with when the disk does not take it."""
    if is_full(error):
        return RecordingDiskFullError(
            f"Cannot {action} {path}: the disk is full. What was recorded so far is kept there and can be played. Free "
            "some space, or set spool_dir to a folder on another disk."
        )
    return EncoderFailedError(f"Cannot {action} {path}: {error}. What was recorded may not be on the disk: check it.")


def _add_stream(container: OutputContainer, spec: StreamSpec) -> VideoStream:
    """An opened encoder in the container."""
    try:
        stream = cast(VideoStream, container.add_stream(spec.encoder, rate=spec.rate, options=_options(spec)))
    except ValueError as error:  # from PyAV, not FFmpeg: the container's table of codecs
        raise ValueError(f"Invalid vcodec: MP4 cannot hold what {spec.encoder!r} makes ({error}).") from error
    context = stream.codec_context
    stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, suited_pix_fmt(spec.encoder, spec.pix_fmt)
    stream.time_base = context.time_base = spec.time_base
    if spec.is_yuv:
        context.color_range = ColorRange.JPEG if spec.is_full_range else ColorRange.MPEG
        context.colorspace = Colorspace.ITU601
    if spec.encoder.startswith(("libx265", "hevc_")):
        context.codec_tag = "hvc1"  # the only name of HEVC that Apple's players know
    _open(stream, spec)
    return stream


def _open(stream: VideoStream, spec: StreamSpec) -> None:
    context = stream.codec_context
    hush(spec.encoder)
    try:
        with kept_scheduling():
            context.open(strict=False)
    except (av.FFmpegError, ValueError) as error:
        raise EncoderUnavailableError(
            f"The encoder does not open here: {spec}: {error}. Check that its hardware or library is there and that it "
            "takes this size and these options, or choose another vcodec."
        ) from error
    unknown = sorted(set(context.options) & set(spec.options))  # PyAV leaves here what the encoder did not take
    if unknown:
        raise ValueError(f"Invalid options for {spec.encoder}: it knows no {', '.join(map(repr, unknown))}.")


def _options(spec: StreamSpec) -> dict[str, str]:
    """The options, with what keeps the encoder's library from writing to stderr."""
    options = native_options(spec.options)
    if spec.encoder in _QUIET:
        name, parameter = _QUIET[spec.encoder]
        key = parameter.partition("=")[0]
        if key not in options.get(name, ""):
            options[name] = ":".join(filter(None, (parameter, options.get(name))))
    return options


def sync(path: str) -> None:
    """Bring a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
