"""Several cameras of one recording: which frames of the others belong to a clip that is cut by the first one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazyvid import timing
from lazyvid.errors import FrameTimestampError
from lazyvid.frames import ClipSpec
from lazyvid.storage import display_uri
from lazyvid.training.clips import SLACK_S, BoolArray, FloatArray, IntArray
from lazyvid.training.sources import VideoSource


@dataclass(frozen=True, slots=True, eq=False)
class Follower:
    """A camera whose frames are chosen by the times of another one, the leader."""

    name: str
    videos: VideoSource
    spec: ClipSpec | None
    """How its own clips run on from the time of the leader's first frame; None: a frame for each of the leader's."""
    tolerance_s: FloatArray
    """float64 [V], seconds that a frame may be away from the time that it stands for."""
    half_step_s: FloatArray
    """float64 [V], half the median time between its frames, in seconds."""

    # -- which clips there are ----------------------------------------------------------------------------------------

    def usable(self, leader: VideoSource) -> tuple[IntArray, IntArray, IntArray]:
        """Which of the leader's frames clips may use, and at which they may start, for this camera to go along.

        Returns:
            int64 [V] each: the first frame that can be used, one past the last one, and one past the last one at which
            a clip may start.
        """
        counts = self.videos.frame_counts
        begin, end = self.videos.times_at(np.zeros_like(counts)), self.videos.times_at(counts - 1)
        first = leader.search(begin - self.tolerance_s, side="left")
        if self.spec is None:
            stop = leader.search(end + self.tolerance_s, side="right")
            starts = stop
        else:
            stop = leader.frame_counts
            starts = leader.search(self._latest_start(self.spec, end), side="right")
        return first, np.where(counts > 0, stop, 0), np.where(counts > 0, starts, 0)

    def _latest_start(self, spec: ClipSpec, end: FloatArray) -> FloatArray:
        """float64 [V], the latest time from which this camera has what its spec wants."""
        if spec.fps is not None:
            seconds = (spec.num_frames - 1) / spec.fps if spec.pad == "error" else 0.0
            return np.minimum(end + self.half_step_s - seconds, end + self.tolerance_s)
        if spec.pad == "repeat":
            return end + self.tolerance_s
        latest = self.videos.frame_counts - spec.span
        at, after = self.videos.times_at(latest), self.videos.times_at(latest + 1)
        # At half the way to the frame after it, rounding decides which one is nearer: stay clear of that.
        limit = np.fmin(at + self.tolerance_s, (at + after) / 2 - SLACK_S)
        return np.where(np.isnan(at), -np.inf, limit)

    # -- which frames a clip has --------------------------------------------------------------------------------------

    def frames(self, number: int, times: FloatArray, is_pad: BoolArray) -> tuple[IntArray, BoolArray]:
        """The frames that go with a clip of the leader.

        Args:
            number: The recording.
            times: float64 [T], seconds, of the leader's frames.
            is_pad: bool [T], which of them are repeated.

        Returns:
            int64 [N], frames of this camera's video, and bool [N], which of them are repeated; N is T without a spec.

        Raises:
            FrameTimestampError: if there is no frame within the tolerance, or the video ends too early.
        """
        own = self.videos.timestamps(number)
        if self.spec is None:
            return self._nearest(number, own, times), is_pad
        steps = np.arange(self.spec.num_frames)
        if self.spec.fps is None:
            first = int(self._nearest(number, own, times[:1])[0])
            wanted = first + steps * self.spec.frame_stride
            pads = wanted >= len(own)
            positions = np.minimum(wanted, len(own) - 1)
        else:
            asked = times[0] + steps / self.spec.fps
            pads = asked > (own[-1] if len(own) else np.inf) + self.half_step_s[number] + SLACK_S
            kept = self._nearest(number, own, asked[~pads])
            positions = np.concatenate([kept, np.full(np.count_nonzero(pads), len(own) - 1)])
        if pads.any() and self.spec.pad == "error":
            raise FrameTimestampError(
                f"Expected {len(steps)} frames of camera {self.name!r} ({self._uri(number)}) from {times[0]} s on, "
                f"found {np.count_nonzero(~pads)}: it ends at {own[-1]} s. Choose an earlier start, or "
                "ClipSpec(pad='repeat')."
            )
        return positions, pads

    def _nearest(self, number: int, own: FloatArray, times: FloatArray) -> IntArray:
        if not len(own):
            raise FrameTimestampError(
                f"Expected frames of camera {self.name!r} near {times[0]} s, found none: {self._uri(number)} is empty."
            )
        positions = timing.nearest(own, times)
        distances = np.abs(own[positions] - times)
        tolerance = self.tolerance_s[number]
        if not np.all(distances <= tolerance + SLACK_S):  # `usable` has added up the same seconds in another way
            worst = int(np.argmax(distances))
            raise FrameTimestampError(
                f"Expected a frame of camera {self.name!r} ({self._uri(number)}) within {tolerance} s of "
                f"{times[worst]} s, which the first camera's clip asks for; the nearest one is at "
                f"{own[positions[worst]]} s. Record on one clock, leave such windows out, or set tolerance_s."
            )
        return positions

    def _uri(self, number: int) -> str:
        return display_uri(self.videos.uri(number))


def followers_of(
    cameras: Mapping[str, VideoSource], specs: Mapping[str, ClipSpec], tolerance_s: float | None
) -> list[Follower]:
    """All cameras but the first one.

    Args:
        cameras: In order; the first one is the leader.
        specs: Of those cameras that have clips of their own.
        tolerance_s: Seconds; None is the median step of each video.
    """
    followers = []
    for name, videos in list(cameras.items())[1:]:
        steps = videos.median_steps
        tolerance = steps if tolerance_s is None else np.full(len(videos), float(tolerance_s))
        followers.append(Follower(name, videos, specs.get(name), tolerance, steps / 2))
    return followers


def usable_frames(leader: VideoSource, followers: Sequence[Follower]) -> tuple[IntArray, IntArray | None]:
    """Which of the leader's frames clips may use so that all cameras have frames.

    Returns:
        int64 [V, 2], first and one past the last frame of each recording that can be used; and int64 [V], one past the
        last one at which a clip may start, or None where that follows from the frames.
    """
    first, stop = np.zeros_like(leader.frame_counts), leader.frame_counts
    starts = stop
    for follower in followers:
        own_first, own_stop, own_starts = follower.usable(leader)
        first, stop, starts = np.maximum(first, own_first), np.minimum(stop, own_stop), np.minimum(starts, own_starts)
    own = any(follower.spec is not None for follower in followers)
    return np.stack([first, np.maximum(first, stop)], axis=1), starts if own else None


def specs_of(clip: ClipSpec | Mapping[str, ClipSpec], names: Sequence[str]) -> tuple[ClipSpec, dict[str, ClipSpec]]:
    """The spec that cuts the clips, and those of the other cameras that have one.

    Args:
        clip: One spec, or one for each camera that has clips of its own.
        names: The cameras, in order; the first one's spec cuts.

    Raises:
        TypeError: if something else than a ClipSpec is given.
        ValueError: if the first camera has none, there is no such camera, or another camera has a `step`.
    """
    if isinstance(clip, ClipSpec):
        return clip, {}
    if not isinstance(clip, Mapping) or not all(isinstance(spec, ClipSpec) for spec in clip.values()):
        raise TypeError(f"Expected a ClipSpec, got {clip!r}: ClipSpec(num_frames=16), for example.")
    specs = {str(name): spec for name, spec in clip.items()}
    if unknown := sorted(specs.keys() - set(names)):
        raise ValueError(f"Expected clips of the cameras {list(names)}, got some of {unknown}.")
    leader = names[0]
    if leader not in specs:
        raise ValueError(f"Expected a ClipSpec for the first camera, {leader!r}, whose frames cut the clips.")
    own = {name: spec for name, spec in specs.items() if name != leader}
    if stepping := [name for name, spec in own.items() if spec.step is not None]:
        raise ValueError(f"Expected a step of {leader!r} alone, which cuts the clips; {stepping} must have none.")
    return specs[leader], own
