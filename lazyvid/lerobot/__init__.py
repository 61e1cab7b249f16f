"""LeRobot datasets, read where they lie and written so that LeRobot opens them."""

from __future__ import annotations

from lazyvid.lerobot.dataset import LeRobotDataset
from lazyvid.lerobot.layout import LeRobotLayout
from lazyvid.lerobot.metadata import LeRobotMetadata

__all__ = ["LeRobotDataset", "LeRobotLayout", "LeRobotMetadata"]
