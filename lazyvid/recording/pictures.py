"""Arrays as cameras give them to pictures as encoders take them; the first frame fixes size and format.

Second step of the write flow: `writer.py` hands frames in, `mp4.py` encodes what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from lazyvid.errors import CameraFormatChangedError

FrameLike = npt.NDArray[Any] | torch.Tensor
"""A picture: [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4; uint8, or floats in [0, 1]; uint16 with one channel."""

_CHANNELS = (1, 3, 4)
_FORMATS = {1: "gray", 3: "rgb24", 4: "rgba"}
# Formats of one plane of 16-bit words, and the largest value of a sample.
_DEEP_GRAY = {f"gray{bits}le": (1 << bits) - 1 for bits in (10, 12, 14, 16)}
_MEANING = {1: "gray", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class CameraFormat:
    """What all frames of a recording have in common."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    channels: int
    """1 gray, 3 RGB, 4 RGBA."""
    dtype: str
    """"uint8", "uint16" or "float"."""

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {_MEANING[self.channels]} {self.dtype}"


class PictureMaker:
    """Turns frames into pictures of one pixel format. Holds libswscale's tables: use one in one thread.

    Args:
        pix_fmt: FFmpeg's name of the pixel format of the pictures.

    Raises:
        ValueError: if FFmpeg knows no such format.
    """

    def __init__(self, pix_fmt: str) -> None:
        try:
            self._target = VideoFormat(pix_fmt)
        except (ValueError, TypeError) as error:
            raise ValueError(f"Invalid pix_fmt {pix_fmt!r}: expected FFmpeg's name of a pixel format.") from error
        self.pix_fmt = pix_fmt
        self.camera_format: CameraFormat | None = None
        self._reformatter = VideoReformatter()

    @property
    def is_full_range(self) -> bool:
        """Whether the pictures use all values of a byte, as JPEG does: FFmpeg's gray and `yuvj` formats."""
        return self.pix_fmt.startswith(("yuvj", "gray"))

    @property
    def is_yuv(self) -> bool:
        """Whether the pictures hold luma and chroma, so that a colour matrix belongs to them."""
        return not self._target.is_rgb

    def check(self, frame: FrameLike) -> npt.NDArray[Any]:
        """Make sure that `make` takes the frame; the first one fixes the format here, too.

        Args:
            frame: As for `make`.

        Returns:
            A view of the frame, [H, W] or [H, W, C].

        Raises:
            CameraFormatChangedError: if the frame has another size or format than the first one.
            ValueError: if it is no picture, or the pixel format cannot hold it.
        """
        pixels, camera_format = _as_pixels(frame)
        if self.camera_format is None:
            self._check_fits(camera_format)
        elif camera_format != self.camera_format:
            raise CameraFormatChangedError(
                f"Expected frames of {self.camera_format} as the recording's first one, got {camera_format}. Frames "
                "are never rescaled: begin another recording for them."
            )
        self._check_values(pixels)
        # Only a frame that was a picture may fix the format.
        self.camera_format = camera_format
        return pixels

    def make(self, frame: FrameLike) -> VideoFrame:
        """One picture, without a time.

        Args:
            frame: A numpy array or tensor, uint8 or floats in [0, 1]: [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4.
                [H, W, C] where both readings are possible. uint16 with one channel, whose values become the samples of
                gray formats of more than 8 bits, as they are.

        Returns:
            The picture in the pixel format; a copy.

        Raises:
            CameraFormatChangedError: if the frame has another size or format than the first one.
            ValueError: if it is no picture, or the pixel format cannot hold it.
        """
        pixels = self.check(frame)
        if pixels.dtype == np.uint16:
            picture = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=self.pix_fmt)
            picture.color_range = ColorRange.JPEG
            return picture
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        # A conversion copies, so what is converted may lie in the memory of the frame; the encoder keeps what is not.
        is_converted = _FORMATS[channels] != self.pix_fmt
        wrap = VideoFrame.from_numpy_buffer if is_converted else VideoFrame.from_ndarray
        source = wrap(_as_bytes(pixels), format=_FORMATS[channels])
        return self._reformatter.reformat(
            source,
            format=self.pix_fmt,
            dst_colorspace=Colorspace.ITU601 if self.is_yuv else None,
            dst_color_range=ColorRange.JPEG if self.is_full_range else None,
            threads=1,  # PyAV's default would start threads for each picture
        )

    def _check_fits(self, camera_format: CameraFormat) -> None:
        """Raise ValueError unless the pixel format can hold such frames."""
        target, pix_fmt = self._target, self.pix_fmt
        width, height = camera_format.width, camera_format.height
        across, down = 8 // max(target.chroma_width(8), 1), 8 // max(target.chroma_height(8), 1)
        if width % across or height % down:
            raise ValueError(
                f"Invalid frame size {width}x{height} for pix_fmt={pix_fmt!r}, which halves the colour's resolution: "
                f"expected a width that is a multiple of {across} and a height that is one of {down}. Cut or pad the "
                "frames, or use pix_fmt='yuv444p'."
            )
        if camera_format.dtype == "uint16" and (camera_format.channels != 1 or pix_fmt not in _DEEP_GRAY):
            raise ValueError(
                f"Invalid {_MEANING[camera_format.channels]} frame of uint16 for pix_fmt={pix_fmt!r}: expected one "
                f"channel and one of {', '.join(_DEEP_GRAY)}, with an encoder that takes it. Give uint8 otherwise."
            )
        if camera_format.channels == 4 and not any(component.is_alpha for component in target.components):
            raise ValueError(
                f"Invalid RGBA frame for pix_fmt={pix_fmt!r}, which has no alpha: drop the fourth channel, or choose "
                "an encoder and pixel format with alpha."
            )
        if camera_format.channels == 3 and len(target.components) == 1:
            raise ValueError(
                f"Invalid RGB frame for pix_fmt={pix_fmt!r}, which has no colour: give gray frames, or use another "
                "pixel format."
            )

    def _check_values(self, pixels: npt.NDArray[Any]) -> None:
        """Raise ValueError for values that the samples cannot hold."""
        if pixels.dtype == np.uint8:
            return
        lowest, highest = (0, _DEEP_GRAY[self.pix_fmt]) if pixels.dtype == np.uint16 else (0.0, 1.0)
        low, high = pixels.min(), pixels.max()
        if not (low >= lowest and high <= highest):  # also where they are NaN
            kind = "floats in [0, 1]" if pixels.dtype != np.uint16 else f"0 to {highest} for {self.pix_fmt}"
            raise ValueError(f"Invalid frame: expected {kind}, found values from {low} to {high}.")


def _as_pixels(frame: FrameLike) -> tuple[npt.NDArray[Any], CameraFormat]:
    """A view of `frame` as [H, W] or [H, W, C], and its format; raises ValueError for anything else."""
    if isinstance(frame, torch.Tensor):
        tensor = frame.detach().cpu()
        pixels = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    elif isinstance(frame, np.ndarray):
        pixels = frame
    else:
        raise ValueError(f"Invalid frame: expected a numpy array or a torch tensor, got {type(frame).__name__}.")
    if pixels.ndim == 3 and pixels.shape[-1] not in _CHANNELS and pixels.shape[0] in _CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1] if pixels.ndim == 3 else 0
    if channels not in _CHANNELS or 0 in pixels.shape:
        raise ValueError(
            f"Invalid frame of shape {list(frame.shape)}: expected [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 "
            "channels."
        )
    if pixels.dtype not in (np.uint8, np.uint16) and not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"Invalid frame of dtype {pixels.dtype}: expected uint8, uint16, or floats in [0, 1].")
    kind = "float" if np.issubdtype(pixels.dtype, np.floating) else str(pixels.dtype)
    return pixels, CameraFormat(pixels.shape[0], pixels.shape[1], channels, kind)


def _as_bytes(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Floats in [0, 1] as the nearest bytes; contiguous."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(np.rint(pixels * 255.0).astype(np.uint8))
