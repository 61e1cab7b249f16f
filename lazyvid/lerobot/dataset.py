"""`LeRobotDataset`: a LeRobot dataset where it lies, as a map-style dataset that reads a whole batch at once.

On top of this room: `metadata.py` says what there is, `items.py` puts items together from rows and frames.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from lazyvid.errors import EpisodeMismatchError, LazyVidError
from lazyvid.frames import ClipSpec, Window
from lazyvid.lerobot.deltas import DeltaWindows
from lazyvid.lerobot.items import Dtypes, Item, ItemFormat, ItemReader, PendingItems, Transform
from lazyvid.lerobot.metadata import DatasetPlace, LeRobotMetadata
from lazyvid.lerobot.pictures import DepthUnit
from lazyvid.lerobot.rows import Rows
from lazyvid.lerobot.videos import DatasetVideos, OnMismatch
from lazyvid.storage import ObjectStore, SegmentCache, display_uri
from lazyvid.training.checks import check_before_sending
from lazyvid.training.extents import Extents
from lazyvid.training.prefetched import Prefetched
from lazyvid.training.samplers import ClipSampler, RandomClipSampler, SequentialClipSampler
from lazyvid.training.stream import ClipStream

IntArray = npt.NDArray[np.int64]

_FIXED_OPTIONS = ("colorspace", "channel_format", "metadata", "frame_index", "segment_uris", "stream")


class LeRobotDataset(Dataset[Item]):
    """A dataset in LeRobot's format v3.0 (v2.1 and v2.0 are read, too), from a folder, a bucket or a Hub checkout.

    `ds[i]` is the i-th frame of the chosen episodes, in their order, as the mapping that LeRobot gives: each feature
    by its name (pictures [C, H, W], with several `delta_timestamps` [T, C, H, W]), `{key}_is_pad` for each key of
    `delta_timestamps`, `task`, `index`, `episode_index`, `frame_index`, `timestamp`, `task_index`.
    `ds[Window(e, k, k + 1)]` is the k-th frame of the e-th chosen episode.

    Which frame belongs to a row is known from the video's frame index and the episode's time range; a video that has
    another number of frames than there are rows is an error that says so. A batch's rows and all cameras' frames are
    read together; `torch.utils.data.DataLoader` asks for batches in this way by itself.

    The dataset holds no open file: it may be pickled and used by workers of any start method.

    Args:
        root: The dataset's folder: a path or a URL of any scheme that fsspec knows.
        episodes: Which episodes; None is all of them. Frames come in the order of the dataset.
        delta_timestamps: By feature, seconds relative to the current frame; an item then has that feature at all of
            these times, clamped to the episode's first and last frame.
        tolerance_s: How far, in seconds, `delta_timestamps` may be from multiples of 1 / fps.
        image_transforms: Called with the pictures of each camera of an item, but for depth.
        storage_options: Options for fsspec (credentials, endpoint), when no `store` is given.
        return_uint8: Give the pictures of videos as uint8 instead of float32 in [0, 1].
        store: Where the dataset lies; by default an `ObjectStore` made from `storage_options`.
        depth_output_unit: Unit of depth maps, "mm" or "m".
        dtypes: "lerobot": integers as int64, floats as float32, as LeRobot gives them; "stored": as they are stored.
        on_mismatch: Where an episode's video has another number of frames than rows: "raise", or "nearest": take the
            frame nearest to each row's time, to within `tolerance_s`, as LeRobot does.
        max_open_videos: Videos whose frame index is kept at hand, in each process; fewer where they are long.
        cache: Where this machine keeps rows as its processes share them; by default a `SegmentCache` with its own
            defaults.
        **video_options: For the videos, as `LazyVideo` takes them: `resize`, `fetch`, `index_root`, ...

    Raises:
        ObjectNotFoundError: if there is no dataset.
        DatasetError: if its files are damaged, or of a format that is not known.
        ValueError: if an argument has a wrong value.
        StoreError: if the store cannot be read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        episodes: Sequence[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        tolerance_s: float = 1e-4,
        image_transforms: Transform | None = None,
        storage_options: Mapping[str, Any] | None = None,
        return_uint8: bool = False,
        store: ObjectStore | None = None,
        depth_output_unit: DepthUnit = "mm",
        dtypes: Dtypes = "lerobot",
        on_mismatch: OnMismatch = "raise",
        max_open_videos: int = 512,
        cache: SegmentCache | None = None,
        **video_options: Any,
    ) -> None:
        place = DatasetPlace.of(root, store=store, storage_options=storage_options, cache=cache)
        arguments = {
            "delta_timestamps": delta_timestamps,
            "tolerance_s": tolerance_s,
            "image_transforms": image_transforms,
            "return_uint8": return_uint8,
            "depth_output_unit": depth_output_unit,
            "dtypes": dtypes,
            "on_mismatch": on_mismatch,
            "max_open_videos": max_open_videos,
            "video_options": video_options,
        }
        meta = LeRobotMetadata.open(place)
        self._set(meta, None if episodes is None else checked_episodes(episodes, meta), arguments)

    def _set(self, meta: LeRobotMetadata, chosen: IntArray | None, arguments: dict[str, Any]) -> None:
        """Take all parts; also how a pickle is read."""
        self.meta = meta
        """What the dataset says of itself."""
        self._chosen, self._arguments = chosen, arguments
        self.delta_timestamps: Mapping[str, Sequence[float]] | None = arguments["delta_timestamps"]
        if chosen is None:
            _check_all_there(meta)
        self._episodes = np.arange(len(meta.episodes)) if chosen is None else chosen
        self._lengths = meta.episodes.lengths[self._episodes]
        self._ends = np.cumsum(self._lengths)
        tolerance_s = _checked_tolerance(arguments["tolerance_s"])
        self._windows = DeltaWindows.of(
            self.delta_timestamps, fps=meta.fps, tolerance_s=tolerance_s, features=meta.info.features
        )
        videos = DatasetVideos(
            meta,
            on_mismatch=arguments["on_mismatch"],
            tolerance_s=tolerance_s,
            capacity=_checked_capacity(arguments["max_open_videos"]),
            options=_checked_options(arguments["video_options"]),
        )
        looks = ItemFormat(
            dtypes=arguments["dtypes"],
            depth_unit=arguments["depth_output_unit"],
            return_uint8=bool(arguments["return_uint8"]),
        )
        self._reader = ItemReader(meta, self._windows, Rows(meta), videos, looks)
        self._reader.image_transforms = arguments["image_transforms"]
        self._prefetched: Prefetched[PendingItems] = Prefetched()

    @property
    def image_transforms(self) -> Transform | None:
        """Called with the pictures of each camera of an item; may be set."""
        return self._reader.image_transforms

    @image_transforms.setter
    def image_transforms(self, transform: Transform | None) -> None:
        self._reader.image_transforms = transform

    @classmethod
    def _restore(cls, meta: LeRobotMetadata, chosen: IntArray | None, arguments: dict[str, Any]) -> LeRobotDataset:
        dataset = cls.__new__(cls)
        dataset._set(meta, chosen, arguments)
        return dataset

    def __reduce__(self) -> tuple[Any, ...]:
        check_before_sending(image_transforms=self.image_transforms)
        arguments = self._arguments | {"image_transforms": self.image_transforms}
        return type(self)._restore, (self.meta, self._chosen, arguments)

    def __repr__(self) -> str:
        deltas = f", delta_timestamps={dict(self.delta_timestamps)}" if self.delta_timestamps else ""
        return (
            f"LeRobotDataset({display_uri(self.meta.root)!r}, episodes={self.num_episodes}, "
            f"frames={self.num_frames}{deltas})"
        )

    # -- facts --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Frames of the chosen episodes."""
        return self.num_frames

    @property
    def num_frames(self) -> int:
        """Frames of the chosen episodes."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_episodes(self) -> int:
        """The chosen episodes."""
        return len(self._episodes)

    @property
    def episodes(self) -> list[int] | None:
        """The numbers of the chosen episodes; None where all are."""
        return None if self._chosen is None else self._chosen.tolist()

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.meta.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """By name: dtype, shape, names, and info of videos."""
        return self.meta.features

    @property
    def delta_indices(self) -> dict[str, list[int]] | None:
        """`delta_timestamps` in frames."""
        offsets = self._windows.offsets
        return {key: list(frames) for key, frames in offsets.items()} if self.delta_timestamps is not None else None

    @property
    def frame_counts(self) -> IntArray:
        """int64 [E], frames of each chosen episode."""
        return self._lengths.copy()

    # -- items --------------------------------------------------------------------------------------------------------

    @property
    def extents(self) -> Extents:
        """The frames of each chosen episode: what samplers draw windows of one frame from."""
        return Extents(np.zeros_like(self._lengths), self._lengths)

    @property
    def clip(self) -> ClipSpec:
        """What samplers draw: one frame, to which `delta_timestamps` adds others."""
        return ClipSpec(num_frames=1)

    def window(self, index: SupportsIndex) -> Window:
        """Item `index` as a frame of an episode: `ds[i]` is `ds[ds.window(i)]`.

        Raises:
            IndexError: if there is no such item.
        """
        asked = operator.index(index)
        number = asked + len(self) if asked < 0 else asked
        if not 0 <= number < len(self):
            raise IndexError(f"Item {asked} is out of range: the dataset has {len(self)} frames.")
        episode = int(np.searchsorted(self._ends, number, side="right"))
        frame = number - int(self._ends[episode] - self._lengths[episode])
        return Window(episode, frame, frame + 1)

    def __getitem__(self, item: SupportsIndex | Window) -> Item:
        """One frame with all that belongs to it.

        Raises:
            IndexError: if there is no such frame.
            ValueError: if a window is of another length than 1.
            EpisodeMismatchError: if the episode's rows and videos contradict one another.
            LazyVidError: if rows or frames cannot be read.
        """
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[SupportsIndex | Window]) -> list[Item]:
        """Frames, in the order asked, read together.

        Raises:
            IndexError: if there is no such frame.
            ValueError: if a window is of another length than 1.
            EpisodeMismatchError: if an episode's rows and videos contradict one another.
            LazyVidError: if rows or frames cannot be read.
        """
        windows = [self._checked(item) for item in items]
        pending = self._prefetched.pop(tuple(windows)) or self._reader.begin(windows, self._episodes)
        return pending.result(windows)

    def prefetch(self, items: Sequence[SupportsIndex | Window]) -> None:
        """Begin to fetch what `__getitems__` of these items will need, and return at once.

        What goes wrong is raised there. The last batches that were announced are kept, in this process alone, until
        they are asked for.
        """
        with contextlib.suppress(LazyVidError, IndexError, TypeError, ValueError):
            windows = [self._checked(item) for item in items]
            self._prefetched.add(tuple(windows), lambda: self._reader.begin(windows, self._episodes))

    def begin(self, items: Sequence[SupportsIndex | Window]) -> PendingItems:
        """Begin to read frames: `begin(items).result()` is `__getitems__(items)`.

        Returns:
            The items to come; to be cancelled when nobody wants them any more.

        Raises:
            As `__getitems__`; frames that cannot be fetched or decoded are the result's business.
        """
        windows = [self._checked(item) for item in items]
        return self._reader.begin(windows, self._episodes)

    def stream(
        self,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        sampler: ClipSampler | None = None,
        **options: Any,
    ) -> ClipStream:
        """Items as an iterable dataset, dealt to ranks and workers, the bytes of what follows on their way.

        Args:
            batch_size: Items of a batch, on each rank; None gives single items.
            shuffle: All frames of an epoch in one random order, drawn anew for each; else in the order of the dataset.
            seed: The order is a pure function of it and the epoch.
            sampler: What is drawn, instead: a `BlockShuffleSampler` keeps neighbours in bytes together.
            **options: Further ones of `lazyvid.training.ClipStream`: `drop_last`, `epochs`, `ahead`, `uneven`, ...

        Raises:
            ValueError: if an argument has a wrong value.
        """
        if sampler is None:
            sampler = RandomClipSampler(self, seed=seed) if shuffle else SequentialClipSampler(self, seed=seed)
        return ClipStream.over(self, sampler, batch_size=batch_size, **options)

    def _checked(self, item: SupportsIndex | Window) -> Window:
        if not isinstance(item, Window):
            return self.window(item)
        if len(item) != 1:
            raise ValueError(f"Expected a window of one frame, the current one, got {item}: see delta_timestamps.")
        if not 0 <= item.video < self.num_episodes or not 0 <= item.start < int(self._lengths[item.video]):
            raise IndexError(f"{item} is out of range: there are {self.num_episodes} episodes.")
        return item


def checked_episodes(episodes: Sequence[int], meta: LeRobotMetadata) -> IntArray:
    """int64 [E], the numbers in order.

    Raises:
        ValueError: if one is given twice, or there is no such episode.
    """
    numbers = np.array([operator.index(episode) for episode in episodes], np.int64)
    outside = numbers[(numbers < 0) | (numbers >= len(meta.episodes))]
    if len(outside):
        raise ValueError(
            f"Invalid episodes: expected numbers from 0 to {len(meta.episodes) - 1}, got {outside[:8].tolist()}."
        )
    ordered = np.unique(numbers)
    if len(ordered) < len(numbers):
        raise ValueError("Invalid episodes: expected each number once, got some twice.")
    return ordered


def _check_all_there(meta: LeRobotMetadata) -> None:
    if len(meta.episodes) < meta.total_episodes:
        raise EpisodeMismatchError(
            f"Expected the {meta.total_episodes} episodes that meta/info.json counts in the table of episodes of "
            f"{display_uri(meta.root)}, found {len(meta.episodes)}: its recorder was killed, or files are missing. "
            f"Restore them, or take those that are there: episodes=range({len(meta.episodes)})."
        )


def _checked_tolerance(tolerance_s: float) -> float:
    if not tolerance_s >= 0:
        raise ValueError(f"Invalid tolerance_s {tolerance_s!r}: expected 0 or more seconds.")
    return float(tolerance_s)


def _checked_capacity(count: int) -> int:
    if operator.index(count) < 1:
        raise ValueError(f"Invalid max_open_videos {count!r}: expected 1 or more.")
    return operator.index(count)


def _checked_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    wrong = sorted(set(_FIXED_OPTIONS) & set(options))
    if wrong:
        raise TypeError(f"LeRobotDataset sets {', '.join(wrong)} itself: give none.")
    return options
