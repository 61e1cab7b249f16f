"""What a decoder and a player must know of a video stream, taken from a container that FFmpeg has opened.

`probe` asks for it once a file, and once more for every further set of codec parameters that begins inside the file.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from lazyvid.errors import LimitExceededError, UnsupportedCodecError
from lazyvid.index.mp4_checks import IDENTITY_MATRIX
from lazyvid.out_of_memory import check_left

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from lazyvid.frames import Limits

_DECODERS = {"av1": "libdav1d"}
"""Where the decoder that FFmpeg finds by the codec's name is not the one to take."""


@dataclass(frozen=True, slots=True)
class CodecParameters:
    """The fields of `Source` that describe pictures and their coding."""

    codec: str
    extradata: bytes
    width: int
    height: int
    pix_fmt: str
    codec_tag: str
    color_range: int
    color_primaries: int
    color_trc: int
    colorspace: int
    sample_aspect_ratio: Fraction
    stream_index: int


def codec_parameters(stream: VideoStream, *, uri: str, limits: Limits) -> CodecParameters:
    """The parameters of a stream as the container, and the parsers that FFmpeg ran on it, state them.

    Raises:
        UnsupportedCodecError: if FFmpeg has no decoder for it here.
        LimitExceededError: if its pictures are larger than the limits allow.
    """
    context = stream.codec_context
    if context is None:
        raise UnsupportedCodecError(
            f"Expected a codec that FFmpeg decodes here, found an unknown one in {uri}. Encode it with another one."
        )
    check_pixels(context.width, context.height, uri=uri, limits=limits)
    return CodecParameters(
        codec=context.codec.canonical_name,
        extradata=context.extradata or b"",
        width=context.width,
        height=context.height,
        pix_fmt=context.pix_fmt or "",
        codec_tag=context.codec_tag.strip("\0"),
        color_range=int(context.color_range),
        color_primaries=int(context.color_primaries),
        color_trc=int(context.color_trc),
        colorspace=int(context.colorspace),
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        stream_index=stream.index,
    )


def check_pixels(width: int, height: int, *, uri: str, limits: Limits) -> None:
    """Raise LimitExceededError when a picture is larger than the limits allow."""
    if width * height > limits.pixels:
        raise LimitExceededError(
            f"Expected pictures of at most Limits.pixels = {limits.pixels} pixels, found {width}x{height} in {uri}. "
            "Raise the limit if the file is to be trusted."
        )


def bare_decoder(codec: str, extradata: bytes, *, limits: Limits) -> Any:
    """A decoder without a container, single-threaded, that refuses larger pictures than the limits allow."""
    context: Any = av.CodecContext.create(_DECODERS.get(codec, codec), "r")
    if extradata:
        context.extradata = extradata
    context.thread_count, context.thread_type = 1, "NONE"
    # strict: else H.264 frames are lost where the parameter sets do not state their reorder depth.
    context.options = {"max_pixels": str(limits.pixels), **({"strict": "1"} if codec == "h264" else {})}
    return context


def padded_packet(payload: bytes, pts: int) -> av.Packet[Any]:
    """A packet with the padding that decoders read into; `av.Packet(bytes)` has none."""
    packet: av.Packet[Any] = av.Packet(len(payload))
    packet.update(payload)
    packet.pts = pts
    return packet


def first_picture(codec: str, extradata: bytes, payload: bytes, *, limits: Limits) -> VideoFrame | None:
    """Decode one packet by itself; None when no picture comes out of it."""
    return _only_picture(bare_decoder(codec, extradata, limits=limits), padded_packet(payload, 0))


def first_frame(stream: VideoStream, packet: av.Packet[Any]) -> VideoFrame | None:
    """Decode a key packet of an open container by itself: its picture carries what the container says of the stream."""
    context: Any = stream.codec_context
    context.thread_count, context.thread_type = 1, "NONE"
    return _only_picture(context, packet)


def _only_picture(context: Any, packet: av.Packet[Any]) -> VideoFrame | None:
    frames: list[VideoFrame] = []
    with contextlib.suppress(av.error.FFmpegError):
        frames = [*context.decode(packet), *context.decode(None)]
    if not frames:  # then the picture's rotation, say, would be left out of the index
        check_left("the first picture of a stream did not come out.")
    return frames[0] if frames else None


def display_matrix(frame: VideoFrame | None) -> tuple[int, ...]:
    """The nine numbers of the display matrix that FFmpeg attached to a frame; the identity where it attached none."""
    side_data: Any = frame.side_data.get("DISPLAYMATRIX") if frame is not None else None
    return struct.unpack("=9i", bytes(side_data)) if side_data is not None else IDENTITY_MATRIX


def orientation(matrix: Sequence[int]) -> tuple[int, bool]:
    """How to show a decoded picture.

    Args:
        matrix: Nine fixed-point numbers, row by row, as in a track header and as FFmpeg gives them.

    Returns:
        Degrees counter-clockwise (0, 90, 180, 270; others are rounded) by which to turn the picture, and whether to
        mirror it left to right before that.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    hflip = a * d - b * c < 0
    if hflip:
        a, b = -a, -b
    if not (a or b):
        return 0, False
    degrees = -math.degrees(math.atan2(b, a))
    return round(degrees / 90) * 90 % 360, hflip


def product(track: Sequence[int], movie: Sequence[int]) -> tuple[int, ...]:
    """The track's transformation followed by the movie's, fixed point: columns have 16, 16 and 30 fractional bits."""
    shift = (16, 16, 30)
    return tuple(
        sum((track[3 * row + k] * movie[3 * k + column]) >> shift[k] for k in range(3))
        for row in range(3)
        for column in range(3)
    )
