"""Frames that prove their own number: the picture is painted from the number and the number is read back from pixels.

First step of every test of decoding: `videos.py` encodes what is painted here, whoever decodes reads it back.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

MAX_FRAME_NUMBER = 0xFFFF
"""The largest number that a frame can carry (16 bits)."""

_COLUMNS, _ROWS = 6, 4
_CODE_SHARE = 0.6  # of the height; the rest is texture, so that inter prediction has something to do
_BLACK, _WHITE = 24, 232
_SURELY_BLACK, _SURELY_WHITE = 96, 160
_TEXTURE_SIDE = 128
_LUMA = np.array([0.299, 0.587, 0.114])


def painted_frame(number: int, *, width: int, height: int, motion: int = 3) -> npt.NDArray[np.uint8]:
    """Paints the frame of one number: a grid of black and white cells above a texture that moves with the number.

    The upper part holds 16 bits of number and 8 of checksum, in cells large enough to survive lossy codecs and resizing
    to about 64 pixels. The texture is in colour, so that chroma takes part.

    Args:
        number: what the frame shall prove, 0 to `MAX_FRAME_NUMBER`.
        width: in pixels, odd is fine.
        height: in pixels, odd is fine.
        motion: pixels by which the texture moves from one number to the next; 0 keeps it still.

    Returns:
        The picture, RGB uint8 [height, width, 3].

    Raises:
        ValueError: if the number does not fit or the picture is too small to hold it.
    """
    if not 0 <= number <= MAX_FRAME_NUMBER:
        raise ValueError(f"a frame number is 0 to {MAX_FRAME_NUMBER}, got {number}; use a smaller number")
    if width < 2 * _COLUMNS or height < 4 * _ROWS:
        raise ValueError(
            f"a painted frame is at least {2 * _COLUMNS}x{4 * _ROWS}, got {width}x{height}; paint a larger one"
        )
    frame = _texture_window(width, height, shift=number * motion)
    cells = np.where(_bits(number), _WHITE, _BLACK).astype(np.uint8).reshape(_ROWS, _COLUMNS)
    code_height = round(height * _CODE_SHARE)
    rows = np.arange(code_height) * _ROWS // code_height
    columns = np.arange(width) * _COLUMNS // width
    frame[:code_height] = cells[rows][:, columns][..., None]
    return frame


def read_frame_number(frame: npt.NDArray[Any] | torch.Tensor) -> int:
    """Reads the number that `painted_frame` painted, from a decoded, resized, gray or colour picture.

    Args:
        frame: [H, W], [H, W, C] or [C, H, W] with C 1 or 3; uint8, or floats in [0, 1]; numpy or torch, upright.

    Returns:
        The frame's number.

    Raises:
        ValueError: if no number can be read: a cell is neither black nor white, or the checksum is wrong.
    """
    luma = _as_luma(frame)
    height, width = luma.shape
    code_height = height * _CODE_SHARE
    levels = np.array(
        [
            _cell_mean(luma, top=row * code_height / _ROWS, left=column * width / _COLUMNS,
                       height=code_height / _ROWS, width=width / _COLUMNS)
            for row in range(_ROWS)
            for column in range(_COLUMNS)
        ]
    )  # fmt: skip
    unsure = (levels > _SURELY_BLACK) & (levels < _SURELY_WHITE)
    if unsure.any():
        raise ValueError(
            f"unreadable frame number: expected cells below {_SURELY_BLACK} or above {_SURELY_WHITE}, found "
            f"{np.round(levels[unsure]).astype(int).tolist()} in a {width}x{height} picture"
        )
    bits = (levels >= _SURELY_WHITE).astype(np.uint8)
    number = int(np.packbits(bits[:16]).view(">u2")[0])
    if not np.array_equal(bits, _bits(number)):
        raise ValueError(f"unreadable frame number: the cells say {number}, but their checksum is another one's")
    return number


def _bits(number: int) -> npt.NDArray[np.uint8]:
    """The 24 bits painted for a number: big-endian number, then checksum."""
    payload = number.to_bytes(2, "big")
    return np.unpackbits(np.frombuffer(payload + bytes([_checksum(payload)]), np.uint8))


def _checksum(payload: bytes) -> int:
    """CRC-8 (polynomial 0x07), begun at 0xA5 so that an all black or all white picture is not a number."""
    crc = 0xA5
    for byte in payload:
        crc ^= byte
        for _ in range(8):
            crc = ((crc << 1) ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc


@lru_cache(maxsize=1)
def _texture() -> npt.NDArray[np.uint8]:
    """A tile of smooth colour noise that wraps around at its edges; mid levels only, so that it looks like no cell."""
    noise = np.random.default_rng(20240229).normal(size=(_TEXTURE_SIDE, _TEXTURE_SIDE, 3))
    frequency = np.hypot(np.fft.fftfreq(_TEXTURE_SIDE)[:, None], np.fft.fftfreq(_TEXTURE_SIDE)[None, :])
    low_pass = np.exp(-((frequency * 18) ** 2))[..., None]
    smooth: npt.NDArray[np.float64] = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * low_pass, axes=(0, 1)).real
    texture: npt.NDArray[np.uint8] = np.clip(128 + 28 * smooth / smooth.std(), 98, 158).astype(np.uint8)
    return texture


def _texture_window(width: int, height: int, *, shift: int) -> npt.NDArray[np.uint8]:
    rows = (np.arange(height) + shift // 3) % _TEXTURE_SIDE
    columns = (np.arange(width) + shift) % _TEXTURE_SIDE
    return _texture()[rows][:, columns]


def _as_luma(frame: npt.NDArray[Any] | torch.Tensor) -> npt.NDArray[np.float64]:
    array = np.asarray(frame.detach().cpu() if hasattr(frame, "detach") else frame)
    scale = 255.0 if np.issubdtype(array.dtype, np.floating) else 1.0
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] in (1, 3):
        array = array @ _LUMA if array.shape[-1] == 3 else array[..., 0]
    if array.ndim != 2:
        raise ValueError(f"a picture is [H, W], [H, W, C] or [C, H, W] with 1 or 3 channels, got shape {array.shape}")
    return array.astype(np.float64) * scale


def _cell_mean(luma: npt.NDArray[np.float64], *, top: float, left: float, height: float, width: float) -> float:
    """The mean over the middle half of a cell: its borders are blurred by codecs and resizing."""
    rows = slice(int(top + height / 4), max(int(top + height * 3 / 4), int(top + height / 4) + 1))
    columns = slice(int(left + width / 4), max(int(left + width * 3 / 4), int(left + width / 4) + 1))
    return float(luma[rows, columns].mean())
