"""From a decoded picture to a row of a tensor: colours and size in one pass of libswscale, rotation in one copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from lazyvid.decoding.scaling import Scaling, scaler_for
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
    """Writes pictures of one source into rows of one format. Takes its thread's scaler: use it in one thread."""

    def __init__(self, source: Source, picture_format: PictureFormat) -> None:
        self._source = source
        self._resizes = picture_format.resize is not None
        self._turns = source.rotation // 90
        pixel_format, channels = _FORMATS[picture_format.colorspace]
        height, width, _ = picture_format.shape(source)
        # libswscale scales to the size before rotation.
        height, width = (width, height) if self._turns % 2 else (height, width)
        scales = (height, width) != (source.height, source.width)
        flags = _INTERPOLATIONS[picture_format.interpolation] if scales else _SAME_SIZE
        scaling = Scaling(source.width, source.height, width, height, pixel_format, channels, flags)
        self._scaler = scaler_for(scaling)

    def write(self, picture: VideoFrame, out: npt.NDArray[np.uint8]) -> None:
        """Convert `picture` into `out`.

        Args:
            picture: As decoded.
            out: uint8 [H, W, C], contiguous, written whole.

        Raises:
            DecodeError: if the picture has another size than its source and no resize was asked for.
        """
        source = self._source
        if not self._resizes and (picture.height, picture.width) != (source.height, source.width):
            raise DecodeError(
                f"Expected pictures of {source.width}x{source.height} from {source.uri!r}, found "
                f"{picture.width}x{picture.height}: the video changes its size. Pass resize=(height, width)."
            )
        if not self._turns and not source.hflip:
            self._scaler.write(picture, out)
            return
        pixels = self._scaler.pixels(picture)
        np.copyto(out, np.rot90(pixels[:, ::-1] if source.hflip else pixels, self._turns))
