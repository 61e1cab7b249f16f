"""`VideoFrame`: what LeRobot calls the column of a camera in Hugging Face `datasets`, a file and a time in it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import pyarrow as pa

_NAME = "VideoFrame"


@dataclass
class VideoFrame:
    """A feature type for Hugging Face `datasets`: `Features({"observation.images.front": VideoFrame()})`.

    Values are mappings of `path` (string) and `timestamp` (float32, seconds), stored and given as they are. The name
    and the Arrow type are those of LeRobot, so that tables with such a column are the same in both.
    """

    pa_type: ClassVar[Any] = pa.struct({"path": pa.string(), "timestamp": pa.float32()})
    _type: str = field(default=_NAME, init=False, repr=False)

    def __call__(self) -> Any:
        """The Arrow type."""
        return self.pa_type


def register_video_frame() -> bool:
    """Make `VideoFrame` known to Hugging Face `datasets`, unless LeRobot's own is known to it already.

    Returns:
        Whether that package is installed.
    """
    if find_spec("datasets") is None:
        return False
    features = import_module("datasets.features.features")
    if _NAME not in features._FEATURE_TYPES:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is experimental", category=UserWarning)
            features.register_feature(VideoFrame, _NAME)
    return True


register_video_frame()
