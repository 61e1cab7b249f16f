"""From a decoded picture to a row of a tensor: colours and size in one pass of libswscale, rotation in one copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from lazyvid.errors import DecodeError
from lazyvid.index.frame_index import Source

Colorspace = Literal["RGB", "G", "G12"]
InterpolationName = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]

# Bytes a pixel; of 12 bits of gray two, the lower one first.
_FORMATS: dict[str, tuple[str, int]] = {"RGB": ("rgb24", 3), "G": ("gray", 1), "G12": ("gray12le", 2)}
# libswscale's algorithms without further flags, so that pixels equal those of `av.VideoFrame.reformat`. Its bilinear
# filter widens when it shrinks, as an antialiased one does. SWS_FULL_CHR_H_INT would come nearer to resizing in RGB
# (mean difference 1.2 instead of 1.4 levels from 640x360 to 224x224) and take 1.4 times as long.
_INTERPOLATIONS: dict[str, Interpolation] = {
    "nearest": Interpolation.POINT,
    "bilinear": Interpolation.BILINEAR,
    "bicubic": Interpolation.BICUBIC,
    "area": Interpolation.AREA,
    "lanczos": Interpolation.LANCZOS,
}
_SAME_SIZE = Interpolation.BILINEAR
"""Without a resize: FFmpeg's, PyAV's and torchcodec's own default, so that pixels equal theirs."""


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """The pictures that a caller wants."""

    resize: tuple[int, int] | None = None
    """(height, width) as shown, after rotation; None keeps the video's size."""
    colorspace: Colorspace = "RGB"
    """"RGB", "G" (luma) or "G12" (luma of 12 bits in two bytes, as depth cameras are recorded)."""
    interpolation: InterpolationName = "bilinear"
    """How a resize interpolates."""

    def __post_init__(self) -> None:
        if self.colorspace not in _FORMATS:
            raise ValueError(f"Invalid colorspace {self.colorspace!r}: expected 'RGB', 'G', 'GRAY' or 'G12'.")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"Invalid interpolation {self.interpolation!r}: expected one of {', '.join(_INTERPOLATIONS)}."
            )

    @property
    def channels(self) -> int:
        """Bytes a pixel."""
        return _FORMATS[self.colorspace][1]

    def shape(self, source: Source) -> tuple[int, int, int]:
        """(H, W, C) of a converted picture of `source`."""
        return (*(self.resize or source.display_size), self.channels)


class PictureConverter:
    """Writes pictures of one source into rows of one format. Holds libswscale's tables: use one in one thread."""

    def __init__(self, source: Source, picture_format: PictureFormat) -> None:
        self._source = source
        self._format = picture_format
        self._reformatter = VideoReformatter()
        self._pixel_format, self._channels = _FORMATS[picture_format.colorspace]
        height, width, _ = picture_format.shape(source)
        self._turns = source.rotation // 90
        # libswscale scales to the size before rotation.
        self._height, self._width = (width, height) if self._turns % 2 else (height, width)
        scales = (self._height, self._width) != (source.height, source.width)
        self._flags = _INTERPOLATIONS[picture_format.interpolation] if scales else _SAME_SIZE

    def write(self, picture: VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        """Convert `picture` into `out`.

        Args:
            picture: As decoded.
            out: uint8 [H, W, C], written whole.

        Raises:
            DecodeError: if the picture has another size than its source and no resize was asked for.
        """
        if self._format.resize is None and (picture.height, picture.width) != (self._source.height, self._source.width):
            raise DecodeError(
                f"Expected pictures of {self._source.width}x{self._source.height} from {self._source.uri!r}, found "
                f"{picture.width}x{picture.height}: the video changes its size. Pass resize=(height, width)."
            )
        # PyAV's default of threads=0 would start threads for each picture.
        converted = self._reformatter.reformat(
            picture,
            width=self._width,
            height=self._height,
            format=self._pixel_format,
            interpolation=self._flags,
            threads=1,
        )
        plane = converted.planes[0]
        row_bytes = self._width * self._channels
        pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(self._height, plane.line_size)[:, :row_bytes]
        self._place(pixels.reshape(self._height, self._width, self._channels), out)

    def _place(self, pixels: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
        if self._source.hflip:
            pixels = pixels[:, ::-1]
        if self._turns:
            pixels = np.rot90(pixels, self._turns)
        np.copyto(out, pixels)
