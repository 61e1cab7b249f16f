"""Pictures as LeRobot gives them: from image files in the rows, from bytes of videos, and depth from its codes.

Pure but for reading image files that the rows only name.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lazyvid.errors import DatasetError
from lazyvid.lerobot.schema import Feature
from lazyvid.storage import ObjectStore

DepthUnit = Literal["mm", "m"]

_MM_PER_M = 1000.0
_QMAX = 4095
_DEPTH_DEFAULTS = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True}
_16_BIT = ("I;16", "I;16L", "I;16B")
_WHITE = 255.0


def as_floats(frames: Tensor) -> Tensor:
    """Levels 0 to 255 as float32 in [0, 1], the memory laid out as it was: the quotients that LeRobot gives."""
    return frames.to(torch.float32).div_(_WHITE)


# -- images in the rows -----------------------------------------------------------------------------------------------


def decode_image(cell: Any, *, store: ObjectStore, what: str) -> Tensor:
    """An image of the rows.

    Args:
        cell: Its bytes, or where it lies; as `datasets` keeps images.
        store: Where it lies, when it is not in the row.
        what: Named in errors.

    Returns:
        float32 [C, H, W] in [0, 1]; depth maps [1, H, W] in their stored unit.

    Raises:
        DatasetError: if there is none, or it cannot be decoded.
    """
    data = _image_bytes(cell, store)
    if data is None:
        raise DatasetError(f"Expected an image in {what}, found {type(cell).__name__} without bytes or a path.")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _to_tensor(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"Cannot decode the image in {what}: {error}.") from error


def _image_bytes(cell: Any, store: ObjectStore) -> bytes | None:
    if isinstance(cell, (bytes, bytearray)):
        return bytes(cell)
    if isinstance(cell, str):
        return store.read(cell)
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path"):
            return store.read(str(cell["path"]))
    return None


def _to_tensor(image: Image.Image) -> Tensor:
    """As torchvision's `ToTensor` does, but for 16-bit levels, which stay what they are."""
    if image.mode in _16_BIT or image.mode == "F":
        return torch.from_numpy(np.array(image, dtype=np.float32))[None]
    if image.mode in ("1", "P"):
        image = image.convert("RGB" if image.mode == "P" else "L")
    pixels = np.array(image)
    if pixels.dtype != np.uint8:
        return torch.from_numpy(pixels.astype(np.float32))[None]
    channels_last = pixels[..., None] if pixels.ndim == 2 else pixels
    return as_floats(torch.from_numpy(np.ascontiguousarray(channels_last.transpose(2, 0, 1))))


# -- depth ------------------------------------------------------------------------------------------------------------


def depth_of_image(stored: Tensor, feature: Feature, unit: DepthUnit) -> Tensor:
    """A depth map of the rows in another unit; one whose unit nobody noted stays as it is."""
    noted = feature.info.get("depth_unit")
    if noted == unit or noted not in get_args(DepthUnit):
        return stored
    return stored * _MM_PER_M if unit == "mm" else stored / _MM_PER_M


def depth_of_codes(codes: Tensor, feature: Feature, unit: DepthUnit) -> Tensor:
    """Depth from the 12-bit codes of a video, by the parameters that the feature's info notes.

    Code q stands for d with (log(d + shift) - log(min + shift)) / (log(max + shift) - log(min + shift)) = q / 4095,
    or, without logarithms, for min + (max - min) q / 4095; in metres.

    Args:
        codes: int32 [..., 1, H, W], 0 to 4095.
        feature: The camera.
        unit: Of what is given back.

    Returns:
        float32 of the same shape: metres, or whole millimetres.
    """
    low, high, shift, is_log = (_depth_parameter(feature, name) for name in _DEPTH_DEFAULTS)
    table = _depth_table(low, high, shift, is_log=bool(is_log), unit=unit)
    return torch.from_numpy(table.take(codes.numpy(), mode="clip"))


@functools.lru_cache(maxsize=16)
def _depth_table(low: float, high: float, shift: float, *, is_log: bool, unit: DepthUnit) -> npt.NDArray[np.float32]:
    """float32 [4096], the depth of each code: exact to the last bit, which float32's own exponentials are not."""
    codes = np.arange(_QMAX + 1) / _QMAX
    if is_log:
        bottom, top = math.log(low + shift), math.log(high + shift)
        depth = np.exp(bottom + (top - bottom) * codes) - shift
    else:
        depth = low + (high - low) * codes
    depth = np.clip(depth, low, high)
    if unit == "mm":
        depth = np.clip(np.round(depth * _MM_PER_M), 0, 65535)
    return depth.astype(np.float32)


def _depth_parameter(feature: Feature, name: str) -> float:
    value = feature.info.get(f"video.{name}", feature.info.get(name))
    return float(_DEPTH_DEFAULTS[name] if value is None else value)
