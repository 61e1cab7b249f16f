"""`FrameDataset`: single frames of videos as a map-style dataset; a `ClipDataset` of clips of one frame underneath."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from torch.utils.data import Dataset

from lazyvid.frames import ClipSpec, Window
from lazyvid.training.clip_dataset import ClipDataset, Item, PendingBatch, Transform
from lazyvid.training.extents import Extents
from lazyvid.training.reading import Sample
from lazyvid.training.samplers import ClipSampler
from lazyvid.training.skipping import OnError
from lazyvid.training.sources import VideosLike, VideoSource


class FrameDataset(Dataset[Any]):
    """Single frames of videos, decoded when asked for.

    `ds[i]` is the i-th frame of all videos in turn; `ds[Window(video, start, start + 1)]` is that frame of a video.
    What `ClipDataset` says of batches, cameras, workers and errors holds here, too.

    A sample is a dict: `frames` uint8 [C, H, W] (or as the videos' `channel_format` says), `timestamp`, a float in
    seconds, `frame_index`, an int in the whole video, and `video_id`, an int. With cameras by name there is one such
    dict under each name.

    Args:
        videos: As for `ClipDataset`; the frames are the first camera's, the others give their nearest ones.
        transform: As for `ClipDataset`.
        on_error: As for `ClipDataset`.
        max_error_rate: As for `ClipDataset`.
        tolerance_s: As for `ClipDataset`.
        **video_options: As for `ClipDataset`.

    Raises:
        ValueError: if an argument has a wrong value, or cameras have different numbers of videos.
        ObjectNotFoundError: if a folder or glob finds no video.
        LazyVidError: if a video cannot be opened.
    """

    def __init__(
        self,
        videos: VideosLike | Mapping[str, VideosLike],
        *,
        transform: Transform | None = None,
        on_error: OnError = "raise",
        max_error_rate: float | None = None,
        tolerance_s: float | None = None,
        **video_options: Any,
    ) -> None:
        self._framed = _AsFrame(isinstance(videos, Mapping), transform)
        self._clips = ClipDataset(
            videos,
            ClipSpec(1, step=1),
            transform=self._framed,
            on_error=on_error,
            max_error_rate=max_error_rate,
            tolerance_s=tolerance_s,
            **video_options,
        )

    @property
    def transform(self) -> Transform | None:
        """What is called with each sample."""
        return self._framed.transform

    @property
    def clip(self) -> ClipSpec:
        """A clip of one frame: what samplers draw."""
        return self._clips.clip

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras' names; empty where there is a single one without a name."""
        return self._clips.cameras

    @property
    def videos(self) -> VideoSource:
        """The (first camera's) videos; `Window.video` and `video_id` count in it."""
        return self._clips.videos

    @property
    def extents(self) -> Extents:
        """The frames of each recording that can be used, and its encoded bytes: what samplers draw from."""
        return self._clips.extents

    def __len__(self) -> int:
        """Frames of all videos."""
        return len(self._clips)

    def __repr__(self) -> str:
        cameras = f", cameras={list(self.cameras)}" if self.cameras else ""
        return f"FrameDataset(videos={len(self.videos)}, frames={len(self)}{cameras})"

    def window(self, index: SupportsIndex) -> Window:
        """The frame with this number as a window: `ds[i]` is `ds[ds.window(i)]`.

        Raises:
            IndexError: if there is no such frame.
        """
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"Frame {number} is out of range: the dataset has {len(self)} frames.")
        return self._clips.window(number)

    def __getitem__(self, item: Item) -> Any:
        """One frame.

        Raises:
            IndexError: if there is no such frame or video.
            ValueError: if a window has another number of frames than one.
            LazyVidError: if it cannot be read.
        """
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[Item]) -> list[Any]:
        """Frames, in the order asked, read together.

        Raises:
            IndexError, ValueError: as `__getitem__`.
            LazyVidError: as `ClipDataset.__getitems__`.
        """
        return self._clips.__getitems__(self._windows(items))

    def prefetch(self, items: Sequence[Item]) -> None:
        """As `ClipDataset.prefetch`."""
        self._clips.prefetch(items)

    def begin(self, items: Sequence[Item]) -> PendingBatch:
        """As `ClipDataset.begin`."""
        return self._clips.begin(self._windows(items))

    def replacing_from(self, sampler: ClipSampler) -> FrameDataset:
        """As `ClipDataset.replacing_from`."""
        clips = self._clips.replacing_from(sampler)
        if clips is self._clips:
            return self
        other = type(self).__new__(type(self))
        other.__dict__ = {**self.__dict__, "_clips": clips}
        return other

    def _windows(self, items: Sequence[Item]) -> list[Window]:
        windows = [item if isinstance(item, Window) else self.window(item) for item in items]
        for window in windows:
            if len(window) != 1:
                raise ValueError(f"Expected windows of one frame, got {window}: ClipDataset reads longer ones.")
        return windows


@dataclass(frozen=True, slots=True)
class _AsFrame:
    """Takes the dimension of time away from a sample, then transforms it."""

    has_names: bool
    transform: Transform | None

    def __call__(self, sample: Sample) -> Any:
        framed = {name: _frame(part) for name, part in sample.items()} if self.has_names else _frame(sample)
        return framed if self.transform is None else self.transform(framed)


def _frame(clip: Sample) -> Sample:
    return {
        "frames": clip["frames"][0],
        "timestamp": float(clip["timestamps"][0]),
        "frame_index": int(clip["frame_indices"][0]),
        "video_id": clip["video_id"],
    }
