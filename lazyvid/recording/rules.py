"""What a layout asks of the frames in an episode's videos: when they lie, and what becomes of gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OnGap = Literal["leave", "repeat", "drop_row"]
"""What becomes of a row when a camera's frame finds its queue full and must not wait."""


@dataclass(frozen=True, slots=True)
class FrameRules:
    """How the frames of videos and the rows of an episode go together."""

    on_grid: bool = False
    """Whether frame k lies at k / fps also where there are capture times, which the rows alone keep then."""
    on_gap: OnGap = "leave"
    """"leave": the row has no frame of that camera; "repeat": the camera's frame before is encoded again in its place;
    "drop_row": the row is left out, for all cameras."""

    @property
    def needs_all_frames(self) -> bool:
        """Whether each row must have a frame of every camera."""
        return self.on_gap != "leave"
