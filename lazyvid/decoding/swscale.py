"""libswscale called directly, to convert pictures straight into rows of a tensor: PyAV's `reformat` cannot do that.

`reformat` makes a new picture each time, in memory that is fresh from the system, and the pixels are then copied. For
a conversion without scaling that costs four times as much as the conversion itself. The library is the one that PyAV
has loaded; of it, functions are used that have been stable for a decade, and no structure is looked into.

Nothing is taken on trust: the first picture of each kind is converted both ways, into memory with guards around it, and
unless all bytes are the same and the guards untouched, this way is not used for that kind.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video import reformatter
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation

Pixels = npt.NDArray[np.uint8]
Kind = tuple[str, int, int]
"""What a picture's conversion depends on besides its size: pixel format, colour space, colour range."""

PIXELS_PER_STEP = 16
"""Rows of a multiple of this width are written to their last byte and no further, by libswscale's vector code too."""
PADDING = 64
"""Bytes behind each row of scratch memory, for vector code that writes past a row's end."""

_YUV420P = 0
_OUTPUTS = {"rgb24": 2, "gray": 8}
_INPUTS = ("yuv420p", "yuvj420p")  # others are converted by code that looks at where chroma lies, which PyAV hides
_COLORSPACES = (1, 2, 5, 6, 9)  # BT.709, unspecified, BT.470BG, SMPTE 170M, BT.2020: those with coefficients
_GUARD = 4096
_FILLS = (0xA5, 0x5A)
_PLANES = 4
_Pointers = ctypes.c_void_p * _PLANES
_Ints = ctypes.c_int * _PLANES


@functools.cache
def _library() -> Any:
    """The libswscale that PyAV uses, found through its own module; None where it cannot be reached."""
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "sws_getContext": (pointer, [number] * 7 + [pointer] * 3),
        "sws_freeContext": (None, [pointer]),
        "sws_getCoefficients": (pointer, [number]),
        "sws_setColorspaceDetails": (number, [pointer, pointer, number, pointer] + [number] * 4),
        "sws_scale": (number, [pointer, pointer, pointer, number, number, pointer, pointer]),
    }
    try:
        library = ctypes.CDLL(reformatter.__file__)
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library


class DirectConverter:
    """Converts YUV 4:2:0 pictures of one size to packed RGB or gray of the same size. Use one in one thread.

    Args:
        width: Pixels.
        height: Pixels, even.
        pixel_format: "rgb24" or "gray"; others are always left to PyAV.
        reference: Converts a picture by PyAV, to compare with; uint8 [H, W * channels].
    """

    def __init__(
        self, width: int, height: int, pixel_format: str, *, reference: Callable[[VideoFrame], Pixels]
    ) -> None:
        self._width, self._height = width, height
        self._output = _OUTPUTS.get(pixel_format)
        self._reference = reference
        self._contexts: dict[tuple[Kind, int], _Context | None] = {}

    def write(self, picture: VideoFrame, out: Pixels, stride: int) -> bool:
        """Convert `picture` into `out`.

        Args:
            picture: As decoded, of this converter's size.
            out: uint8, contiguous, its last row followed by what `stride` has beyond it.
            stride: Bytes from one row to the next.

        Returns:
            Whether it was written; False for pictures that are to be converted by PyAV.
        """
        kind = (picture.format.name, picture.colorspace, picture.color_range)
        key = (kind, stride)
        if key not in self._contexts:
            self._contexts[key] = self._trusted(picture, kind, stride)
        context = self._contexts[key]
        return context is not None and context.scale(picture, out.ctypes.data, stride)

    def _trusted(self, picture: VideoFrame, kind: Kind, stride: int) -> _Context | None:
        """A context for this kind, once it has given PyAV's bytes and has written nowhere else."""
        context = self._opened(kind)
        if context is None:
            return None
        expected = self._reference(picture)
        for fill in _FILLS:
            memory = np.full(self._height * stride + 2 * _GUARD, fill, np.uint8)
            inner = memory[_GUARD:-_GUARD]
            written = context.scale(picture, inner.ctypes.data, stride)
            rows = inner.reshape(self._height, stride)[:, : expected.shape[1]]
            outside = np.concatenate([memory[:_GUARD], memory[-_GUARD:]])
            if not written or np.any(outside != fill) or not np.array_equal(rows, expected):
                return None
        return context

    def _opened(self, kind: Kind) -> _Context | None:
        pixel_format, colorspace, color_range = kind
        library = _library()
        if library is None or self._output is None or pixel_format not in _INPUTS:
            return None
        if colorspace not in _COLORSPACES or self._height % 2:
            return None
        full = pixel_format == "yuvj420p" or color_range == ColorRange.JPEG
        size = (self._width, self._height)
        pointer = library.sws_getContext(*size, _YUV420P, *size, self._output, Interpolation.BILINEAR, None, None, None)
        if not pointer:
            return None
        context = _Context(library, pointer, self._height)
        coefficients = library.sws_getCoefficients(colorspace)
        # Output is full-range; brightness, contrast and saturation are the neutral ones.
        neutral = (0, 1 << 16, 1 << 16)
        if library.sws_setColorspaceDetails(pointer, coefficients, int(full), coefficients, 1, *neutral) < 0:
            return None
        return context


class _Context:
    """One `SwsContext`, freed with this object."""

    def __init__(self, library: Any, pointer: int, height: int) -> None:
        self._library, self._pointer, self._height = library, pointer, height
        self._sources, self._source_strides = _Pointers(), _Ints()
        self._targets, self._target_strides = _Pointers(), _Ints()
        # Not at exit: threads that nobody waits for may be scaling still, and the system takes it all then.
        weakref.finalize(self, library.sws_freeContext, pointer).atexit = False

    def scale(self, picture: VideoFrame, address: int, stride: int) -> bool:
        for i, plane in enumerate(picture.planes):
            self._sources[i], self._source_strides[i] = plane.buffer_ptr, plane.line_size
        self._targets[0], self._target_strides[0] = address, stride
        rows: int = self._library.sws_scale(
            self._pointer, self._sources, self._source_strides, 0, self._height, self._targets, self._target_strides
        )
        return rows == self._height
