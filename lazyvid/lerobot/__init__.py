"""LeRobot datasets, read where they lie and written so that LeRobot opens them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lazyvid.lerobot.dataset import LeRobotDataset
from lazyvid.lerobot.layout import LeRobotLayout
from lazyvid.lerobot.metadata import LeRobotMetadata

if TYPE_CHECKING:
    from lazyvid.lerobot.video_frame import VideoFrame

__all__ = ["LeRobotDataset", "LeRobotLayout", "LeRobotMetadata", "VideoFrame"]


def __getattr__(name: str) -> Any:
    # Only here is Hugging Face's `datasets` imported, a second's work that no worker should do.
    if name == "VideoFrame":
        return importlib.import_module("lazyvid.lerobot.video_frame").VideoFrame
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
