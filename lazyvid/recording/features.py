"""What a recording holds per frame: features by name, checked once when it is made, and every frame held against them.

Used by `recorder.py` before anything of a frame is encoded or kept, so that a wrong frame changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lazyvid.recording.pictures import FrameLike

TASK, TIMESTAMP = "task", "timestamp"
RESERVED = (TASK, TIMESTAMP, "frame_index", "episode_index", "index", "task_index")
"""Names that every row has anyway."""

VIDEO, STRING = "video", "string"
NUMBERS = (
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
_CHANNELS = (1, 3, 4)
_CHANNEL_NAMES = ("channel", "channels", "c")
# Which kinds of numbers Python's own may become.
_TAKEN_BY = {"b": "b", "i": "iuf", "f": "f"}


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that is recorded per frame."""

    name: str
    """Its key in a frame."""
    dtype: str
    """"video", "string", or numpy's name of a number type."""
    shape: tuple[int, ...]
    """Of one frame's value; of a video [H, W], [H, W, C] or [C, H, W]."""
    names: Any = None
    """What the components are called, as the user said it."""

    @property
    def is_video(self) -> bool:
        """Whether it is a camera."""
        return self.dtype == VIDEO

    @property
    def is_number(self) -> bool:
        """Whether its values are arrays of numbers."""
        return self.dtype in NUMBERS

    @property
    def picture(self) -> tuple[int, int, int]:
        """(height, width, channels) of a camera."""
        if len(self.shape) == 2:
            return self.shape[0], self.shape[1], 1
        a, b, c = self.shape
        return (b, c, a) if self._channels_first() else (a, b, c)

    def to_json(self) -> dict[str, Any]:
        """As users write it."""
        return {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}

    def _channels_first(self) -> bool:
        if isinstance(self.names, (list, tuple)) and len(self.names) == 3:
            places = [i for i, name in enumerate(self.names) if str(name).lower() in _CHANNEL_NAMES]
            if places:
                return places[0] == 0
        return self.shape[-1] not in _CHANNELS and self.shape[0] in _CHANNELS


@dataclass(frozen=True, slots=True)
class CheckedFrame:
    """A frame that fits its features."""

    task: str
    """What is being done."""
    pictures: dict[str, FrameLike]
    """By camera, as they were given."""
    values: dict[str, Any]
    """By tabular feature: arrays of the feature's dtype and shape, or texts."""
    times: dict[str, float] | None
    """Capture time by camera, in seconds; None when the frame has none."""


class Features:
    """The features of a recording.

    Args:
        features: By name, each `{"dtype": ..., "shape": [...], "names": [...]}`.

    Raises:
        ValueError: if one is invalid; the message names it.
    """

    def __init__(self, features: Mapping[str, Mapping[str, Any]]) -> None:
        if not isinstance(features, Mapping) or not features:
            raise ValueError(
                "Invalid features: expected a mapping from names to {'dtype', 'shape', 'names'}, not empty."
            )
        self._all = {name: _parsed(name, given) for name, given in features.items()}
        self.videos = {name: feature for name, feature in self._all.items() if feature.is_video}
        self.tabular = {name: feature for name, feature in self._all.items() if not feature.is_video}

    def __iter__(self) -> Iterator[Feature]:
        return iter(self._all.values())

    def to_json(self) -> dict[str, dict[str, Any]]:
        """As users write them; `Features` takes it back."""
        return {feature.name: feature.to_json() for feature in self._all.values()}

    def check(self, frame: Mapping[str, Any]) -> CheckedFrame:
        """A frame with every value in the form in which it is kept.

        Args:
            frame: `task` (text), optionally `timestamp` (seconds, or {camera: seconds}), and every feature.

        Raises:
            ValueError: if a key is missing or unknown, or a value has another shape or dtype than its feature.
        """
        if not isinstance(frame, Mapping):
            raise ValueError(f"Invalid frame: expected a mapping from names to values, got {type(frame).__name__}.")
        self._check_keys(frame)
        task = frame[TASK]
        if not isinstance(task, str):
            raise ValueError(f"Invalid {TASK!r}: expected a text, got {type(task).__name__}.")
        for name, feature in self.videos.items():
            _check_picture(feature, frame[name])
        values = {name: _value(feature, frame[name]) for name, feature in self.tabular.items()}
        return CheckedFrame(task, {name: frame[name] for name in self.videos}, values, self._times(frame))

    def _check_keys(self, frame: Mapping[str, Any]) -> None:
        expected = {TASK, *self._all}
        missing = sorted(expected - frame.keys())
        unknown = sorted(str(key) for key in frame.keys() - expected - {TIMESTAMP})
        if missing or unknown:
            found = [f"missing {', '.join(map(repr, missing))}"] if missing else []
            found += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
            raise ValueError(
                f"Invalid frame: expected the keys {', '.join(map(repr, sorted(expected)))} and, where there are "
                f"capture times, {TIMESTAMP!r}; found {' and '.join(found)}."
            )

    def _times(self, frame: Mapping[str, Any]) -> dict[str, float] | None:
        given = frame.get(TIMESTAMP)
        if given is None:
            return None
        if isinstance(given, Mapping):
            if given.keys() != self.videos.keys():
                raise ValueError(
                    f"Invalid {TIMESTAMP!r}: expected seconds for each of the cameras "
                    f"{', '.join(map(repr, self.videos))}, got some for {', '.join(map(repr, given))}."
                )
            return {name: _seconds(name, given[name]) for name in self.videos}
        seconds = _seconds(TIMESTAMP, given)
        return dict.fromkeys(self.videos, seconds) or {TIMESTAMP: seconds}


def _parsed(name: object, given: Mapping[str, Any]) -> Feature:
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name.startswith("."):
        raise ValueError(f"Invalid feature name {name!r}: expected a text without '/' that does not begin with '.'.")
    if name in RESERVED:
        raise ValueError(f"Invalid feature name {name!r}: every row has one anyway; choose another name.")
    if not isinstance(given, Mapping) or "dtype" not in given or "shape" not in given:
        raise ValueError(f"Invalid feature {name!r}: expected a mapping with 'dtype' and 'shape', got {given!r}.")
    dtype, shape = given["dtype"], given["shape"]
    if dtype not in (VIDEO, STRING, *NUMBERS):
        raise ValueError(
            f"Invalid dtype {dtype!r} of feature {name!r}: expected one of {', '.join((VIDEO, STRING, *NUMBERS))}."
        )
    feature = Feature(name, dtype, _shape(name, shape), given.get("names"))
    if feature.is_video and (len(feature.shape) not in (2, 3) or feature.picture[2] not in _CHANNELS):
        raise ValueError(
            f"Invalid shape {list(feature.shape)} of video {name!r}: expected [height, width], "
            "[height, width, channels] or [channels, height, width] with 1, 3 or 4 channels."
        )
    if dtype == STRING and feature.shape != (1,):
        raise ValueError(f"Invalid shape {list(feature.shape)} of feature {name!r}: texts have the shape [1].")
    return feature


def _shape(name: str, shape: object) -> tuple[int, ...]:
    sizes = list(shape) if isinstance(shape, (list, tuple)) else []
    if not sizes or not all(isinstance(n, (int, np.integer)) and n > 0 for n in sizes):
        raise ValueError(f"Invalid shape {shape!r} of feature {name!r}: expected a list of one positive size or more.")
    return tuple(int(n) for n in sizes)


def _check_picture(feature: Feature, value: object) -> None:
    if not isinstance(value, (np.ndarray, torch.Tensor)):
        raise ValueError(
            f"Invalid value of {feature.name!r}: expected a numpy array or a torch tensor, got {type(value).__name__}."
        )
    height, width, channels = feature.picture
    shapes = [(height, width, channels), (channels, height, width)] + ([(height, width)] if channels == 1 else [])
    if tuple(value.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"Invalid shape {list(value.shape)} of {feature.name!r}: expected {expected}.")
    kind = str(value.dtype).removeprefix("torch.")
    if kind not in ("uint8", "uint16") and "float" not in kind:
        raise ValueError(f"Invalid dtype {kind} of {feature.name!r}: expected uint8, or floats in [0, 1].")


def _value(feature: Feature, value: object) -> Any:
    if feature.dtype == STRING:
        if not isinstance(value, str):
            raise ValueError(f"Invalid value of {feature.name!r}: expected a text, got {type(value).__name__}.")
        return value
    array = _array(feature, value)
    if array.shape != feature.shape and not (array.shape == () and feature.shape == (1,)):
        raise ValueError(f"Invalid shape {list(array.shape)} of {feature.name!r}: expected {list(feature.shape)}.")
    if array.dtype != np.dtype(feature.dtype):
        raise ValueError(f"Invalid dtype {array.dtype} of {feature.name!r}: expected {feature.dtype}.")
    # A copy: the caller may fill the same array anew for the next frame.
    return np.array(array.reshape(feature.shape), order="C", copy=True)


def _array(feature: Feature, value: object) -> npt.NDArray[Any]:
    """The value as an array; Python's own numbers take the feature's dtype where that loses nothing but digits."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of unlike lengths
        raise ValueError(f"Invalid value of {feature.name!r}: expected an array of numbers, got {value!r}.") from error
    target = np.dtype(feature.dtype)
    if target.kind not in _TAKEN_BY.get(array.dtype.kind, ""):
        raise ValueError(
            f"Invalid value of {feature.name!r}: expected {feature.dtype}, got {type(value).__name__} of "
            f"{array.dtype.name}."
        )
    if target.kind in "iu" and not np.array_equal(array.astype(target), array):
        raise ValueError(f"Invalid value of {feature.name!r}: {value!r} does not fit into {feature.dtype}.")
    return array.astype(target)


def _seconds(name: str, value: object) -> float:
    if not isinstance(value, (int, float, np.integer, np.floating)) or not math.isfinite(value):
        raise ValueError(f"Invalid {TIMESTAMP!r} of {name!r}: expected seconds, got {value!r}.")
    return float(value)
