"""`Scaler`: one pass of libswscale from a decoded picture to packed pixels of a size; kept and used again by a thread.

Directly into the caller's memory where that can be (`swscale.py`), through a picture of PyAV's where it cannot; the
pixels are the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from lazyvid.decoding.swscale import PADDING, PIXELS_PER_STEP, DirectConverter, Pixels

_KEPT = 8
"""Scalers that a thread keeps: each holds tables, and a picture's worth of memory where rows need padding."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is made of which pictures."""

    source_width: int
    source_height: int
    width: int
    height: int
    pixel_format: str
    """"rgb24", "gray" or "gray12le"."""
    channels: int
    """Bytes a pixel."""
    interpolation: Interpolation

    @property
    def scales(self) -> bool:
        """Whether the size changes."""
        return (self.source_width, self.source_height) != (self.width, self.height)


class Scaler:
    """Does one `Scaling`. Holds libswscale's tables: use one in one thread."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self._reformatter = VideoReformatter()
        self._row_bytes = scaling.width * scaling.channels
        self._direct: DirectConverter | None = None
        self._scratch: Pixels | None = None
        if not scaling.scales:
            self._direct = DirectConverter(
                scaling.width, scaling.height, scaling.pixel_format, reference=self._reformatted
            )

    def write(self, picture: VideoFrame, out: Pixels) -> None:
        """Convert `picture` into `out`, uint8 [H, W, C], contiguous, written whole."""
        in_place = self._direct is not None and self._scaling.width % PIXELS_PER_STEP == 0
        if not (in_place and self._written(picture, out, self._row_bytes)):
            np.copyto(out, self.pixels(picture))

    def pixels(self, picture: VideoFrame) -> Pixels:
        """The converted picture, uint8 [H, W, C], in memory that the next call may overwrite."""
        scaling = self._scaling
        rows = self._in_scratch(picture)
        if rows is None:
            rows = self._reformatted(picture)
        return rows.reshape(scaling.height, scaling.width, scaling.channels)

    def _in_scratch(self, picture: VideoFrame) -> Pixels | None:
        """Converted directly, each row with padding behind it: uint8 [H, W * channels]."""
        if self._direct is None:
            return None
        stride = -(-self._row_bytes // PADDING) * PADDING + PADDING
        if self._scratch is None:
            self._scratch = np.empty((self._scaling.height, stride), np.uint8)
        return self._scratch[:, : self._row_bytes] if self._written(picture, self._scratch, stride) else None

    def _written(self, picture: VideoFrame, out: Pixels, stride: int) -> bool:
        """Whether the picture has the size that the direct way takes (a video may change it) and went that way."""
        scaling = self._scaling
        if self._direct is None or (picture.width, picture.height) != (scaling.source_width, scaling.source_height):
            return False
        return self._direct.write(picture, out, stride)

    def _reformatted(self, picture: VideoFrame) -> Pixels:
        """By PyAV: uint8 [H, W * channels]."""
        scaling = self._scaling
        # PyAV's default of threads=0 would start threads for each picture.
        converted = self._reformatter.reformat(
            picture,
            width=scaling.width,
            height=scaling.height,
            format=scaling.pixel_format,
            interpolation=scaling.interpolation,
            threads=1,
        )
        plane = converted.planes[0]
        return np.frombuffer(memoryview(plane), np.uint8).reshape(scaling.height, -1)[:, : self._row_bytes]


class _Kept(threading.local):
    """The scalers of one thread, the last used ones last: their tables are worth keeping, and no lock is needed."""

    def __init__(self) -> None:
        self.scalers: OrderedDict[Scaling, Scaler] = OrderedDict()


_kept = _Kept()


def scaler_for(scaling: Scaling) -> Scaler:
    """The calling thread's scaler of this kind."""
    scalers = _kept.scalers
    if scaling in scalers:
        scalers.move_to_end(scaling)
        return scalers[scaling]
    scaler = scalers[scaling] = Scaler(scaling)
    while len(scalers) > _KEPT:
        scalers.popitem(last=False)
    return scaler
