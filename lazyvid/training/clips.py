"""Which clips a dataset has, and which frames a clip takes: pure, over arrays of a few numbers a video.

`clip_dataset.py` asks it before anything is read.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lazyvid import timing
from lazyvid.frames import ClipSpec, Window

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SLACK_S = 1e-6
"""What adding up seconds may cost."""


class FrameTimes(Protocol):
    """When the frames of V videos are shown, asked of all at once; what a `VideoSource` knows."""

    @property
    def median_steps(self) -> FloatArray:
        """float64 [V], seconds between neighbouring frames of each video, the median."""

    def times_at(self, positions: IntArray) -> FloatArray:
        """float64 [V], when the frame at each video's position is shown; NaN where it has no such frame."""

    def search(self, seconds: FloatArray, *, side: Literal["left", "right"]) -> IntArray:
        """int64 [V], frames of each video that are shown before its time, or ("right") before it or at it."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipPlan:
    """The plain enumeration: every clip that starts at a multiple of a video's step; never a list of them."""

    spec: ClipSpec
    first: IntArray
    """int64 [V], the first frame that clips may use."""
    stop: IntArray
    """int64 [V], one past the last frame that clips may use."""
    window_stop: IntArray
    """int64 [V], the same for windows as long as a clip: they start where clips may."""
    step: IntArray
    """int64 [V], frames between the starts of neighbouring clips."""
    half_step_s: FloatArray
    """float64 [V], half the median time between frames, in seconds; 0 where the spec has no `fps`."""
    cumulative: IntArray
    """int64 [V + 1], clips of the videos before each."""

    @classmethod
    def of(
        cls,
        spec: ClipSpec,
        ranges: Sequence[tuple[int, int]] | IntArray,
        times: FrameTimes | None = None,
        *,
        starts_before: IntArray | None = None,
    ) -> ClipPlan:
        """The plan for videos of which the frames [first, stop) can be used.

        Args:
            spec: How clips are cut.
            ranges: int64 [V, 2], first and stop of each video.
            times: When their frames are shown; needed for a spec with `fps`.
            starts_before: int64 [V], one past the last frame of each video at which a clip may start; None for `stop`.
        """
        bounds = np.array(ranges, np.int64).reshape(-1, 2)
        first, stop = bounds[:, 0], np.maximum(bounds[:, 0], bounds[:, 1])
        if spec.fps is None:
            step = np.full(len(bounds), spec.step or spec.span, np.int64)
            half = np.zeros(len(bounds))
            starts = stop - first - (spec.span - 1 if spec.pad == "error" else 0)
        else:
            if times is None:
                raise ValueError("Expected the times of the videos' frames: the spec has fps.")
            step, half = _steps(spec, times.median_steps), times.median_steps / 2
            starts = _starts_by_time(spec, first, stop, half, times)
        window_stop = stop
        if starts_before is not None:
            starts = np.minimum(starts, starts_before - first)
            window_stop = np.clip(starts_before + _reach(spec, half), first, stop)
        counts = -(-np.maximum(starts, 0) // step)
        cumulative = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(spec, first, stop, window_stop, step, half, cumulative)

    def __reduce__(self) -> tuple[Any, ...]:
        """Compressed: the columns of many videos are mostly the same few numbers, and every worker is sent them."""
        columns = (self.first, self.stop, self.window_stop, self.step, self.half_step_s, np.diff(self.cumulative))
        return _plan_of, (self.spec, [(column.dtype.str, zlib.compress(column.tobytes())) for column in columns])

    def __len__(self) -> int:
        return int(self.cumulative[-1])

    @property
    def window_length(self) -> int:
        """Frames of a window that holds a clip, at the video's own rate; with `fps`, in any of the videos."""
        return 1 + int(np.max(_reach(self.spec, self.half_step_s), initial=0))

    def window(self, index: int) -> Window:
        """The clip with this number; with `fps` it reaches to the end of what the video has, and takes what it needs.

        Raises:
            IndexError: if there is no such clip.
        """
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"Clip {index} is out of range: the dataset has {len(self)} clips.")
        video = int(np.searchsorted(self.cumulative, number, side="right")) - 1
        start = int(self.first[video] + (number - self.cumulative[video]) * self.step[video])
        stop = start + self.spec.span if self.spec.fps is None else int(self.stop[video])
        return Window(video, start, stop)

    def index_near(self, window: Window) -> int:
        """The number of the clip that starts at a window's start, or is the next one after it; wraps at the end."""
        number = -(-(window.start - int(self.first[window.video])) // int(self.step[window.video]))
        count = int(self.cumulative[window.video + 1] - self.cumulative[window.video])
        return int(self.cumulative[window.video] + min(max(number, 0), count)) % max(len(self), 1)

    def check(self, window: Window) -> None:
        """Raise unless the frames of a window can be taken.

        Raises:
            IndexError: if there is no such video, or the window does not begin at a frame of it.
            ValueError: if the window is empty, or ends after the video and must not be padded.
        """
        if not 0 <= window.video < len(self.stop):
            raise IndexError(f"{window} is out of range: the dataset has {len(self.stop)} videos.")
        stop = int(self.stop[window.video])
        if not 0 <= window.start < stop:
            raise IndexError(f"{window} is out of range: frames 0 to {stop - 1} of this video can be used.")
        if not len(window):
            raise ValueError(f"{window} is empty: expected one frame or more.")
        if self.spec.pad == "error" and self.spec.fps is None:
            last = window.start + (len(window) - 1) // self.spec.frame_stride * self.spec.frame_stride
            if last >= stop:
                raise ValueError(
                    f"{window} ends after the last frame that can be used, {stop - 1}: choose a window inside the "
                    "video, or ClipSpec(pad='repeat')."
                )

    def positions(self, window: Window, timestamps: FloatArray) -> tuple[IntArray, BoolArray]:
        """The frames of a window that `check` let pass.

        Args:
            window: Without `fps`, every `frame_stride`-th frame of it is taken; with `fps`, `num_frames` frames from
                its start on.
            timestamps: float64 [N], that video's; looked at with `fps` only.

        Returns:
            int64 [T], frames of the video; and bool [T], which of them repeat the last one because the video had ended.

        Raises:
            ValueError: if the clip ends after the window and must not be padded; with `fps` only.
        """
        stop = int(self.stop[window.video])
        if self.spec.fps is None:
            wanted = np.arange(window.start, window.stop, self.spec.frame_stride)
            return np.minimum(wanted, stop - 1), wanted >= stop
        seen = timestamps[window.start : min(window.stop, stop)]
        asked = seen[0] + np.arange(self.spec.num_frames) / self.spec.fps
        is_pad = asked > seen[-1] + self.half_step_s[window.video] + SLACK_S
        if self.spec.pad == "error" and is_pad.any():
            raise ValueError(
                f"{window} ends at {seen[-1]} s, but {self.spec.num_frames} frames at {self.spec.fps} fps from "
                f"{seen[0]} s on reach to {asked[-1]} s: choose an earlier start, or ClipSpec(pad='repeat')."
            )
        return window.start + timing.nearest(seen, asked), is_pad


def _steps(spec: ClipSpec, medians: FloatArray) -> IntArray:
    """Frames between starts, for clips that are cut by time: as many as a clip lasts, at each video's own rate."""
    if spec.step is not None:
        return np.full(len(medians), spec.step, np.int64)
    seconds = spec.num_frames / float(spec.fps or 1)
    frames = np.divide(seconds, medians, out=np.ones(len(medians)), where=medians > 0)
    return np.maximum(np.round(frames), 1).astype(np.int64)


def _reach(spec: ClipSpec, half_step_s: FloatArray) -> int | IntArray:
    """Frames from a clip's first to its last, at each video's own rate."""
    if spec.fps is None:
        return spec.span - 1
    seconds = (spec.num_frames - 1) / spec.fps
    frames = np.divide(seconds, 2 * half_step_s, out=np.zeros(len(half_step_s)), where=half_step_s > 0)
    return np.ceil(frames - SLACK_S).astype(np.int64)


def _starts_by_time(
    spec: ClipSpec, first: IntArray, stop: IntArray, half_step_s: FloatArray, times: FrameTimes
) -> IntArray:
    """int64 [V], at how many of each video's frames [first, stop) a clip may start."""
    if spec.pad == "repeat":
        return stop - first
    latest = times.times_at(stop - 1) + half_step_s - (spec.num_frames - 1) / float(spec.fps or 1)
    return np.clip(times.search(latest, side="right"), first, stop) - first


def _plan_of(spec: ClipSpec, columns: Sequence[tuple[str, bytes]]) -> ClipPlan:
    """How a pickle is read."""
    arrays = [np.frombuffer(zlib.decompress(data), dtype) for dtype, data in columns]
    first, stop, window_stop, step, half_step_s, counts = arrays
    cumulative = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ClipPlan(spec, first, stop, window_stop, step, half_step_s, cumulative)
