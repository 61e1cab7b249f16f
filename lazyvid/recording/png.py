"""Pictures to PNG files and back through FFmpeg's own codecs, so that no imaging library is needed.

Used by `images.py`, where a recorder keeps pictures on disk until the end of an episode.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from lazyvid.errors import CorruptVideoError

_FORMATS = {("uint8", 1): "gray", ("uint8", 3): "rgb24", ("uint8", 4): "rgba", ("uint16", 1): "gray16be"}
# Pictures in memory: what PNG keeps of each, and what an array holds of each picture that PNG may hold.
_ARRAYS = {"gray16be": "gray16le", "gray": "gray", "monob": "gray", "rgba": "rgba", "pal8": "rgba", "ya8": "rgba"}


def as_png_pixels(image: npt.NDArray[Any] | torch.Tensor) -> npt.NDArray[Any]:
    """A copy of a picture as PNG can hold it.

    Args:
        image: [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4; uint8, or floats in [0, 1]; uint16 with one channel.

    Returns:
        [H, W] or [H, W, C], uint8 or uint16, contiguous.

    Raises:
        ValueError: if it is no such picture.
    """
    pixels = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image)
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if np.issubdtype(pixels.dtype, np.floating):
        if pixels.size and not (pixels.min() >= 0.0 and pixels.max() <= 1.0):  # also where they are NaN
            raise ValueError(f"Invalid picture: expected floats in [0, 1], found {pixels.min()} to {pixels.max()}.")
        pixels = np.rint(pixels * 255.0).astype(np.uint8)
    if _format_of(pixels) is None or not pixels.size:
        raise ValueError(
            f"Invalid picture of shape {list(np.shape(image))} and dtype {pixels.dtype}: expected [H, W], [H, W, C] or "
            "[C, H, W] with 1, 3 or 4 channels of uint8 or of floats in [0, 1], or with one channel of uint16."
        )
    return np.array(pixels, order="C")


def _format_of(pixels: npt.NDArray[Any]) -> str | None:
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1] if pixels.ndim == 3 else 0
    return _FORMATS.get((pixels.dtype.name, channels))


def encode_png(pixels: npt.NDArray[Any]) -> bytes:
    """A PNG file, packed fast rather than small.

    Args:
        pixels: As `as_png_pixels` gives them.
    """
    pix_fmt = cast("str", _format_of(pixels))
    context = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt = pixels.shape[0], pixels.shape[1], pix_fmt
    context.time_base = Fraction(1)
    _alone(context)
    context.options = {"compression_level": "1"}
    picture = VideoFrame.from_ndarray(pixels, format=pix_fmt)
    picture.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])


def decode_png(data: bytes, *, name: str) -> npt.NDArray[Any]:
    """The picture in a PNG file.

    Args:
        data: The file.
        name: What to call it in errors.

    Returns:
        uint8 or uint16, [H, W] gray, [H, W, 3] RGB or [H, W, 4] RGBA.

    Raises:
        CorruptVideoError: if it is no PNG file, or a damaged one.
    """
    # A context for each picture: told nothing else, FFmpeg's decoder takes the second for a difference to the first.
    context = av.CodecContext.create("png", "r")
    _alone(context)
    context.options = {"err_detect": "crccheck+explode"}
    packet: av.Packet[Any] = av.Packet(len(data))  # `av.Packet(data)` lacks the padding that decoders read into
    packet.update(data)
    packet.is_keyframe = True
    try:
        pictures = [*context.decode(packet), *context.decode(None)] if data else []
    except (av.FFmpegError, ValueError) as error:
        raise CorruptVideoError(f"Expected a PNG picture in {name}, FFmpeg cannot read it: {error}.") from error
    if len(pictures) != 1:
        raise CorruptVideoError(f"Expected a PNG picture in {name}, found {len(data)} bytes without one.")
    return pictures[0].to_ndarray(format=_ARRAYS.get(pictures[0].format.name, "rgb24"))


def _alone(context: VideoCodecContext) -> None:
    """Let a codec work in the caller's thread: others would cost more than a picture does."""
    context.thread_count = 1
    context.thread_type = "NONE"
