"""From windows to samples: the frames of every camera are planned, fetched and decoded together, a whole batch at once.

windows ─▶ ClipPlan, Follower ─▶ frames of videos ─▶ begin_clips ─▶ samples
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lazyvid.clips import PendingClips
from lazyvid.errors import LazyVidError
from lazyvid.frames import Clip, ClipSpec, Window
from lazyvid.storage import display_uri
from lazyvid.training.cameras import Follower, followers_of, specs_of, usable_frames
from lazyvid.training.clips import BoolArray, ClipPlan, IntArray
from lazyvid.training.extents import Extents
from lazyvid.training.sources import VideoSource
from lazyvid.video import LazyVideo, begin_clips

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class ClipReader:
    """Reads windows of recordings; holds videos and plans, no handle."""

    cameras: Mapping[str, VideoSource]
    """By name and in order; the first one is the leader."""
    has_names: bool
    """Whether samples have a part for each camera."""
    plan: ClipPlan
    """Of the leader."""
    followers: Sequence[Follower]

    @classmethod
    def of(
        cls,
        cameras: Mapping[str, VideoSource],
        clip: ClipSpec | Mapping[str, ClipSpec],
        *,
        tolerance_s: float | None,
        has_names: bool,
    ) -> ClipReader:
        """The reader for cameras, and for clips that are cut so.

        Raises:
            TypeError, ValueError: if `clip` does not fit the cameras.
        """
        spec, own = specs_of(clip, list(cameras))
        followers = followers_of(cameras, own, tolerance_s)
        leader = next(iter(cameras.values()))
        ranges, starts_before = usable_frames(leader, followers)
        return cls(cameras, has_names, ClipPlan.of(spec, ranges, leader, starts_before=starts_before), followers)

    @property
    def leader(self) -> VideoSource:
        """The first camera's videos."""
        return next(iter(self.cameras.values()))

    @property
    def extents(self) -> Extents:
        """The frames that windows as long as a clip may use, and the encoded bytes of all cameras."""
        nbytes = np.sum([videos.nbytes for videos in self.cameras.values()], axis=0)
        return Extents(self.plan.first, self.plan.window_stop, nbytes)

    def named(self, window: Window) -> str:
        """A window as messages name it."""
        return f"{window} of {display_uri(self.leader.uri(window.video))}"

    def begin(self, windows: Sequence[Window]) -> PendingSamples:
        """Plan the frames of windows that the plan let pass, and start fetching their bytes.

        Raises:
            ValueError: if a window ends after its video and must not be padded.
        """
        return PendingSamples(self, windows)

    def read(self, windows: Sequence[Window]) -> list[Sample]:
        """The samples of windows.

        Raises:
            ValueError: as `begin`.
            LazyVidError: if frames cannot be read.
        """
        return self.begin(windows).result()

    def parts(self, windows: Sequence[Window]) -> list[list[Part]]:
        """What each camera gives for each window.

        Raises:
            ValueError: as `begin`.
            LazyVidError: if a video cannot be opened, or cameras have no frames near each other.
        """
        # Camera by camera, so that each one's clips are neighbours in memory.
        parts: list[list[Part]] = [[] for _ in self.cameras]
        for window in windows:
            times = self.leader.timestamps(window.video)
            positions, is_pad = self.plan.positions(window, times)
            parts[0].append(Part(self.leader[window.video], positions, is_pad))
            for place, follower in enumerate(self.followers, start=1):
                own, own_pad = follower.frames(window.video, times[positions], is_pad)
                parts[place].append(Part(follower.videos[window.video], own, own_pad))
        return parts


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One camera's share of a clip."""

    video: LazyVideo
    positions: IntArray
    is_pad: BoolArray


class PendingSamples:
    """Samples whose bytes are on their way; belongs to the process that began it."""

    def __init__(self, reader: ClipReader, windows: Sequence[Window]) -> None:
        """Plans the reads and starts them; what cannot be read is raised by `result`."""
        self._reader = reader
        self._windows = windows
        self._clips: PendingClips | None = None
        self._error: LazyVidError | None = None
        try:
            self._parts = reader.parts(windows)
            self._clips = begin_clips([(part.video, part.positions) for parts in self._parts for part in parts])
        except LazyVidError as error:
            self._error = error

    def result(self) -> list[Sample]:
        """Wait for the bytes and decode them.

        Raises:
            LazyVidError: if frames cannot be read.
        """
        if self._clips is None:
            assert self._error is not None
            raise self._error
        clips = iter(self._clips.result())
        by_camera = [
            [_sample(next(clips), part.is_pad, window.video) for part, window in zip(parts, self._windows, strict=True)]
            for parts in self._parts
        ]
        if not self._reader.has_names:
            return by_camera[0]
        return [dict(zip(self._reader.cameras, samples, strict=True)) for samples in zip(*by_camera, strict=True)]

    def cancel(self) -> None:
        """Give up what has not arrived."""
        if self._clips is not None:
            self._clips.cancel()


def _sample(clip: Clip, is_pad: BoolArray, video_id: int) -> Sample:
    return {
        "frames": clip.frames,
        "timestamps": clip.timestamps,
        "frame_indices": clip.frame_indices,
        "is_pad": torch.from_numpy(is_pad.copy()),
        "video_id": video_id,
    }
