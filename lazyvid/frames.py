"""What travels between the parts: decoded `Frame`s and `Clip`s, undecoded `Window`s, `ClipSpec`s and `Limits`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lazyvid import timing


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest video that is opened; checked before anything of that size is allocated."""

    pixels: int = 64 * 1024 * 1024
    """Width times height of a picture."""
    frames: int = 10_000_000
    """Frames of a file."""
    index_bytes: int = 256 * 1024 * 1024
    """Header bytes of a file that a scan reads, and bytes of a sidecar."""
    span_bytes: int = 1024 * 1024 * 1024
    """Encoded bytes held at once for one request."""

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = getattr(self, limit.name)
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f"Invalid Limits.{limit.name}: expected a positive int, got {value!r}.")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded frame."""

    data: Tensor
    """uint8 [C, H, W] or [H, W, C]."""
    timestamp: float
    """Seconds."""
    frame_index: int
    """Number in the whole video."""
    duration: float = 0.0
    """Seconds until the next frame, or the last frame's own duration."""

    @property
    def pts_seconds(self) -> float:
        """`timestamp` under torchcodec's name."""
        return self.timestamp

    @property
    def duration_seconds(self) -> float:
        """`duration` under torchcodec's name."""
        return self.duration

    def __repr__(self) -> str:
        return f"Frame(data={_describe(self.data)}, timestamp={self.timestamp}, frame_index={self.frame_index})"


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Decoded frames with their times. Registered with `torch.utils.data.default_collate`."""

    frames: Tensor
    """uint8 [N, C, H, W] or [N, H, W, C]."""
    timestamps: Tensor
    """float64 [N], seconds."""
    frame_indices: Tensor
    """int64 [N], numbers in the whole video."""
    start: float
    """Seconds; where the asked range begins."""
    end: float
    """Seconds; where the asked range ends."""
    metadata: Any = None
    """The video's `metadata`, the very object."""
    durations: Tensor | None = None
    """float64 [N], seconds that each frame is shown, where that is known."""

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        """The clip's frames one by one, without a copy."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, position: int) -> Frame:
        """The frame at `position` of the clip, without a copy."""
        duration = 0.0 if self.durations is None else float(self.durations[position])
        return Frame(
            self.frames[position], float(self.timestamps[position]), int(self.frame_indices[position]), duration
        )

    @property
    def data(self) -> Tensor:
        """`frames` under torchcodec's name."""
        return self.frames

    @property
    def pts_seconds(self) -> Tensor:
        """`timestamps` under torchcodec's name."""
        return self.timestamps

    @property
    def duration_seconds(self) -> Tensor | None:
        """`durations` under torchcodec's name."""
        return self.durations

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Clip:
        """The clip with its frames on `device`; times and numbers stay where they are."""
        return dataclasses.replace(self, frames=self.frames.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Clip:
        """The clip with its frames in page-locked memory, as a DataLoader asks for."""
        return dataclasses.replace(self, frames=self.frames.pin_memory())

    def to_temporaldata(self) -> Any:
        """The clip as a `temporaldata.IrregularTimeSeries` (frames, frame_indices as numpy arrays).

        Raises:
            ImportError: if `temporaldata` is not installed.
        """
        from temporaldata import Interval, IrregularTimeSeries  # an optional package that only this call needs

        return IrregularTimeSeries(
            timestamps=self.timestamps.numpy(),
            frames=self.frames.cpu().numpy(),
            frame_indices=self.frame_indices.numpy(),
            domain=Interval(self.start, self.end),
        )

    def __repr__(self) -> str:
        return (
            f"Clip(frames={_describe(self.frames)}, timestamps={_describe(self.timestamps)}, "
            f"frame_indices={_describe(self.frame_indices)}, start={self.start}, end={self.end})"
        )


@dataclass(frozen=True, slots=True)
class Window:
    """A video of a dataset and a range of its frames, not decoded."""

    video: int
    """The video's position in the dataset."""
    start: int
    """First frame, counted inside that video."""
    stop: int
    """One past the last frame."""
    seed: int | None = field(default=None, compare=False, repr=False)
    """Seeds the random transforms of this draw; no part of what the window is, so that equality and hash ignore it."""

    def __post_init__(self) -> None:
        if self.start > self.stop:
            raise ValueError(f"Invalid Window: start {self.start} lies after stop {self.stop}.")

    def __len__(self) -> int:
        return self.stop - self.start

    @classmethod
    def from_seconds(cls, video: int, start: float, stop: float, *, timestamps: npt.ArrayLike) -> Window:
        """The frames of `video` whose timestamp lies in [start, stop) seconds.

        Args:
            video: The video's position in the dataset.
            start: Seconds, included.
            stop: Seconds, excluded.
            timestamps: float64 [N], that video's `timestamps`.
        """
        return cls(video, *timing.between(np.asarray(timestamps, dtype=np.float64), start, stop))


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """How the clips of a dataset are cut."""

    num_frames: int
    """Frames of a clip, T."""
    frame_stride: int = 1
    """Take every n-th frame."""
    fps: float | None = None
    """Frames per second of the clip, taken by time; None keeps the video's own frames."""
    step: int | None = None
    """Frames between the starts of neighbouring clips; None is the clip's span, so that clips do not overlap."""
    pad: Literal["error", "repeat"] = "error"
    """At a video's end "error" gives whole clips only; "repeat" repeats the last frame and says so in `is_pad`."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"Invalid ClipSpec.{name}: expected 1 or more, got {getattr(self, name)}.")
        if self.step is not None and self.step < 1:
            raise ValueError(f"Invalid ClipSpec.step: expected 1 or more, got {self.step}.")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"Invalid ClipSpec.fps: expected a positive rate, got {self.fps}.")
        if self.fps is not None and self.frame_stride != 1:
            raise ValueError("Invalid ClipSpec: give fps or frame_stride, not both.")
        if self.pad not in ("error", "repeat"):
            raise ValueError(f"Invalid ClipSpec.pad {self.pad!r}: expected 'error' or 'repeat'.")

    @property
    def span(self) -> int:
        """Frames from a clip's first to one past its last, at the video's own rate."""
        return (self.num_frames - 1) * self.frame_stride + 1


def _describe(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype}{list(tensor.shape)}"


def _collate_clips(batch: list[Clip], *, collate_fn_map: Any = None) -> Clip:
    """Clips of equal shape as one clip whose fields have a leading batch dimension."""

    def stack(values: list[Any]) -> Any:
        return collate(values, collate_fn_map=collate_fn_map)

    return Clip(
        frames=stack([clip.frames for clip in batch]),
        timestamps=stack([clip.timestamps for clip in batch]),
        frame_indices=stack([clip.frame_indices for clip in batch]),
        start=stack([clip.start for clip in batch]),
        end=stack([clip.end for clip in batch]),
        metadata=[clip.metadata for clip in batch],
        durations=None if any(clip.durations is None for clip in batch) else stack([clip.durations for clip in batch]),
    )


# The one effect that importing lazyvid has outside itself: torch knows how to batch a Clip.
default_collate_fn_map[Clip] = _collate_clips
