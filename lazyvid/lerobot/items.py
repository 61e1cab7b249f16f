"""Items as LeRobot gives them: rows gathered, the frames of all cameras read in one go, pictures transformed.

Between `dataset.py`, which says which frames are wanted, and `rows.py` and `videos.py`, which find them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lazyvid.arguments import check_word
from lazyvid.clips import PendingClips
from lazyvid.errors import DatasetError
from lazyvid.frames import Clip, Window
from lazyvid.lerobot.deltas import DeltaWindows
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lerobot.pictures import DepthUnit, as_floats, decode_image, depth_of_codes, depth_of_image
from lazyvid.lerobot.rows import RowBatch, Rows
from lazyvid.lerobot.schema import IMAGE, Feature
from lazyvid.lerobot.videos import DatasetVideos, EpisodeFrames
from lazyvid.storage import display_uri
from lazyvid.training.collate import consecutive_rows
from lazyvid.training.seeding import transformed
from lazyvid.video import begin_clips

IntArray = npt.NDArray[np.int64]
Item = dict[str, Any]
Transform = Callable[[Tensor], Tensor]
Dtypes = Literal["lerobot", "stored"]


@dataclass(frozen=True, slots=True)
class ItemFormat:
    """What the values of items look like."""

    dtypes: Dtypes
    """Of numbers: as LeRobot gives them, or as they are stored."""
    depth_unit: DepthUnit
    """Of depth maps."""
    return_uint8: bool
    """Whether pictures of videos stay bytes."""

    def __post_init__(self) -> None:
        check_word("dtypes", self.dtypes, get_args(Dtypes))
        check_word("depth_output_unit", self.depth_unit, get_args(DepthUnit))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The frames of a batch."""

    windows: Sequence[Window]
    """As they were asked for."""
    episodes: IntArray
    """int64 [B], as the dataset counts them."""
    frames: IntArray
    """int64 [B], the items' own, counted in their episodes."""
    lengths: IntArray
    """int64 [B], frames of these episodes."""


class ItemReader:
    """Reads items of a dataset.

    Args:
        meta: The dataset.
        deltas: Which frames belong to an item.
        rows: Its rows.
        videos: Its videos.
        looks: What items look like.
    """

    def __init__(
        self, meta: LeRobotMetadata, deltas: DeltaWindows, rows: Rows, videos: DatasetVideos, looks: ItemFormat
    ) -> None:
        self.image_transforms: Transform | None = None
        self._meta, self._deltas, self._rows, self._videos, self._looks = meta, deltas, rows, videos, looks

    def begin(self, windows: Sequence[Window], chosen: IntArray) -> PendingItems:
        """Gather rows, and start to fetch frames.

        Args:
            windows: Each of one frame.
            chosen: int64 [E], the episode that each `Window.video` stands for.

        Raises:
            EpisodeMismatchError: if an episode's rows and videos contradict one another.
            LazyVidError: if rows cannot be read, or a video not be opened.
        """
        episodes = chosen[[window.video for window in windows]]
        frames = np.array([window.start for window in windows], np.int64)
        batch = Batch(windows, episodes, frames, self._meta.episodes.lengths[episodes])
        items: list[Item] = [{} for _ in windows]
        if windows:
            rows = self._rows.batch(episodes)
            self._add_rows(items, batch, rows)
            self._add_windows(items, batch, rows)
        return PendingItems(self, batch, items, self._begin_videos(batch))

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _add_rows(self, items: list[Item], batch: Batch, rows: RowBatch) -> None:
        """Each feature at the items' own frames, but for those that have a window; and the task."""
        own = batch.frames[:, None]
        for key, feature in self._meta.info.features.items():
            if key in self._deltas.offsets:
                continue
            if key in self._rows.numbers:
                for item, value in zip(items, self._as_tensor(rows.numbers(key, own)[:, 0]), strict=True):
                    item[key] = value
            elif key in self._rows.objects:
                for item, (value,) in zip(items, rows.objects(key, own), strict=True):
                    item[key] = self._as_object(feature, value)
        for item, number in zip(items, rows.numbers("task_index", own)[:, 0].tolist(), strict=True):
            item["task"] = self._task(number)

    def _task(self, number: int) -> str:
        if not 0 <= number < len(self._meta.tasks):
            raise DatasetError(
                f"Expected the text of task {number} in the table of tasks of {display_uri(self._meta.root)}, found "
                f"{len(self._meta.tasks)} tasks."
            )
        return self._meta.tasks[number]

    def _add_windows(self, items: list[Item], batch: Batch, rows: RowBatch) -> None:
        """`{key}_is_pad` of each feature with a window, and its values where they are no videos."""
        for key in self._deltas.offsets:
            frames, is_pad = self._deltas.frames(key, batch.frames, batch.lengths)
            values = self._window_values(key, frames, rows)
            for number, pad in enumerate(torch.from_numpy(is_pad)):
                items[number][f"{key}_is_pad"] = pad
                if values is not None:
                    items[number][key] = values[number]

    def _window_values(self, key: str, frames: IntArray, rows: RowBatch) -> Any:
        """A feature's values at frames, int64 [B, T]; None of a video."""
        if key in self._rows.numbers:
            return self._as_tensor(rows.numbers(key, frames))
        if key not in self._rows.objects:
            return None
        feature = self._rows.objects[key]
        return [_stacked([self._as_object(feature, value) for value in values]) for values in rows.objects(key, frames)]

    def _as_tensor(self, values: npt.NDArray[Any]) -> Tensor:
        """Gathered values, which are a copy already."""
        if self._looks.dtypes == "lerobot" and values.dtype != np.bool_:
            values = values.astype(np.int64 if values.dtype.kind in "iu" else np.float32, copy=False)
        return torch.from_numpy(values)

    def _as_object(self, feature: Feature, value: Any) -> Any:
        if feature.dtype != IMAGE:
            return value
        what = f"{feature.key} of {display_uri(self._meta.root)}"
        image = decode_image(value, store=self._meta.place.store, what=what)
        return depth_of_image(image, feature, self._looks.depth_unit) if feature.is_depth else image

    # -- videos -------------------------------------------------------------------------------------------------------

    def _begin_videos(self, batch: Batch) -> PendingClips:
        """The clips of all cameras, camera by camera, so that each one's are neighbours in memory."""
        wanted = [
            EpisodeFrames(key, batch.episodes, self._deltas.frames(key, batch.frames, batch.lengths)[0])
            for key in self._meta.video_keys
        ]
        return begin_clips(self._videos.requests(wanted))

    def finish(self, windows: Sequence[Window], items: list[Item], clips: Sequence[Clip]) -> list[Item]:
        """Add the frames to items and transform their pictures."""
        for number, key in enumerate(self._meta.video_keys):
            feature = self._meta.info.features[key]
            pictures = self._pictures(clips[number * len(items) : (number + 1) * len(items)], feature)
            for item, frames in zip(items, pictures, strict=True):
                item[key] = frames[0] if len(frames) == 1 else frames
        if self.image_transforms is not None:
            transform = partial(self._transformed, self.image_transforms)
            return [transformed(transform, item, w.seed) for item, w in zip(items, windows, strict=True)]
        return items

    def _pictures(self, clips: Sequence[Clip], feature: Feature) -> Sequence[Tensor]:
        """[T, C, H, W] of each clip; converted together where they are rows of one tensor."""
        frames = [clip.frames for clip in clips]
        joined = consecutive_rows(frames) if frames else None
        if joined is not None:
            return list(self._converted(joined, feature))
        return [self._converted(each, feature) for each in frames]

    def _converted(self, pixels: Tensor, feature: Feature) -> Tensor:
        """uint8 [..., H, W, C] as it is given out, [..., C, H, W]."""
        if feature.is_depth:
            codes = pixels.contiguous().view(torch.int16).to(torch.int32)
            return depth_of_codes(codes.movedim(-1, -3), feature, self._looks.depth_unit)
        levels = pixels.movedim(-1, -3)
        return levels if self._looks.return_uint8 else as_floats(levels)

    def _transformed(self, transform: Transform, item: Item) -> Item:
        for key, feature in self._meta.info.features.items():
            if feature.is_camera and not feature.is_depth:
                item[key] = transform(item[key])
        return item


class PendingItems:
    """Items whose rows are there and whose frames are on their way; made by `LeRobotDataset.begin`."""

    def __init__(self, reader: ItemReader, batch: Batch, items: list[Item], clips: PendingClips) -> None:
        self._reader, self._batch, self._items, self._clips = reader, batch, items, clips

    def result(self, windows: Sequence[Window] | None = None) -> list[Item]:
        """Wait for the frames, decode them and put the items together.

        Args:
            windows: The same ones, where others' seeds shall count.

        Raises:
            LazyVidError: if frames cannot be read; a further call tries again.
        """
        items = [dict(item) for item in self._items]
        return self._reader.finish(windows or self._batch.windows, items, self._clips.result())

    def cancel(self) -> None:
        """Give up what has not been read."""
        self._clips.cancel()


def _stacked(values: Sequence[Any]) -> Any:
    return torch.stack(list(values)) if isinstance(values[0], Tensor) else list(values)
