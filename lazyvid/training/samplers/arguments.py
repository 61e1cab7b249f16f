"""The arguments that samplers share: what is sampled, and how long a window is."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy.typing as npt

from lazyvid.frames import ClipSpec
from lazyvid.training.extents import Extents
from lazyvid.training.samplers.grids import Grid


def window_spec(videos: Any, window_length: int | None, clip: ClipSpec | None) -> tuple[int, int | None]:
    """Frames of a window, and the step between windows where a `ClipSpec` names one.

    Args:
        videos: What is sampled; a dataset's own `clip` counts where neither of the others is given.
        window_length: Frames at the video's own rate.
        clip: Its span is the window's length. With `fps` it must be the dataset's own, which knows how many frames of
            any of its videos such a clip needs.

    Raises:
        TypeError: if nothing says how long a window is, or both do.
        ValueError: if the length is less than 1, or a clip is cut by time.
    """
    if window_length is not None and clip is not None:
        raise TypeError("Expected window_length or clip, got both.")
    if window_length is not None:
        if window_length < 1:
            raise ValueError(f"Invalid window_length {window_length}: expected 1 frame or more.")
        return int(window_length), None
    own = getattr(videos, "clip", None)
    spec = own if clip is None else clip
    if not isinstance(spec, ClipSpec):
        raise TypeError("Expected window_length in frames, clip=ClipSpec(...), or a dataset that has a clip.")
    if spec.fps is not None and spec == own:
        return int(videos.window_length), spec.step
    if spec.fps is not None:
        raise ValueError(
            f"{spec} is cut by time, and how many frames that is depends on the videos: give a dataset of such clips, "
            "or window_length, the frames that such a clip lasts at the rate of the videos."
        )
    return spec.span, spec.step


def plan_name(kind: str, extents: Extents, **parameters: Any) -> str:
    """What determines an order, as a line that can be compared and read."""
    shown = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    frames = int(extents.counts.sum())
    return f"{kind}({shown}) over {len(extents)} recordings, {frames} frames, {extents.digest()}"


def array_digest(values: npt.NDArray[Any]) -> str:
    """Equal for equal numbers."""
    return hashlib.blake2b(values.astype(values.dtype.newbyteorder("<")).tobytes(), digest_size=8).hexdigest()


def epoch_length(extents: Extents, length: int, num_samples: int | None) -> int:
    """Windows of an epoch, where the user may ask for another number than lie side by side.

    Raises:
        ValueError: if the number is less than 1.
    """
    if num_samples is None:
        return int((extents.counts // length).sum())
    if num_samples < 1:
        raise ValueError(f"Invalid num_samples {num_samples}: expected 1 window or more.")
    return int(num_samples)


def check_some(grid: Grid) -> None:
    """Raise unless a grid has a window.

    Raises:
        ValueError: if no recording is long enough.
    """
    if not len(grid):
        longest = int(grid.extents.counts.max(initial=0))
        raise ValueError(
            f"Expected a recording of {grid.length} usable frames or more, the longest of {len(grid.extents)} has "
            f"{longest}."
        )
