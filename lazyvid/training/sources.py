"""A dataset's videos, however many: a `VideoSource` answers for all of them at once and makes a `LazyVideo` when asked.

Users name videos as objects, URIs, a folder or a glob, for each camera; `open_cameras` makes sources of these.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lazyvid import timing
from lazyvid.clips import ReadOptions
from lazyvid.index.catalog import Catalog
from lazyvid.index.finding import find_videos
from lazyvid.lru import ProcessLRU
from lazyvid.storage import ObjectStore
from lazyvid.video import LazyVideo, video_of

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

VideosLike = str | os.PathLike[str] | Sequence[LazyVideo | str | os.PathLike[str]] | Catalog
"""Videos, their URIs, one folder or glob that finds them, or a catalog."""

_KEPT = 128
_OF_OPENING = ("index_root", "on_missing_index", "on_stale_index", "segment_uris", "stream", "frame_index", "metadata")


class VideoSource(Protocol):
    """Videos in a fixed order, V of them: what is asked of all at once is an array, and no video is made for it.

    Times increase within a video, as those of a `LazyVideo` do. A source survives pickling and start methods.
    """

    def __len__(self) -> int:
        """V, the number of videos."""

    def __getitem__(self, number: int, /) -> LazyVideo:
        """A video.

        Raises:
            IndexError: if there is none with this number.
        """

    def __iter__(self) -> Iterator[LazyVideo]:
        """The videos in order, one at a time."""

    @property
    def frame_counts(self) -> IntArray:
        """int64 [V], frames of each video."""

    @property
    def nbytes(self) -> IntArray:
        """int64 [V], bytes of the packets that each video's frames are coded in."""

    @property
    def median_steps(self) -> FloatArray:
        """float64 [V], seconds between neighbouring frames of each video, the median; 0 for fewer than two frames."""

    def uri(self, number: int) -> str:
        """A video's URI."""

    def timestamps(self, number: int) -> FloatArray:
        """float64 [N], seconds, when each frame of a video is shown."""

    def times_at(self, positions: IntArray) -> FloatArray:
        """float64 [V], when the frame at each video's position is shown; NaN where it has no such frame.

        Args:
            positions: int64 [V].
        """

    def search(self, seconds: FloatArray, *, side: Literal["left", "right"]) -> IntArray:
        """int64 [V], frames of each video that are shown before its time ("left"), or before it or at it ("right").

        Args:
            seconds: float64 [V].
            side: As for `numpy.searchsorted`.
        """


class VideoList(Sequence[LazyVideo]):
    """A `VideoSource` of videos that are at hand."""

    def __init__(self, videos: Sequence[LazyVideo]) -> None:
        self._videos = tuple(videos)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._videos,)

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, number: Any, /) -> Any:
        """A video, or those of a slice."""
        return self._videos[number]

    def __repr__(self) -> str:
        return f"VideoList({len(self)} videos)"

    @cached_property
    def frame_counts(self) -> IntArray:
        """int64 [V], frames of each video."""
        return np.array([len(video) for video in self._videos], np.int64)

    @cached_property
    def nbytes(self) -> IntArray:
        """int64 [V], bytes of the packets that each video's frames are coded in."""
        sizes = (video.frame_index.packets.size[video.frame_indices] for video in self._videos)
        return np.array([size.sum() for size in sizes], np.int64)

    @cached_property
    def median_steps(self) -> FloatArray:
        """float64 [V], seconds between neighbouring frames of each video, the median."""
        return np.array([timing.median_step(video.timestamps) for video in self._videos], np.float64)

    def uri(self, number: int) -> str:
        """A video's URI."""
        return self._videos[number].uri

    def timestamps(self, number: int) -> FloatArray:
        """float64 [N], seconds, when each frame of a video is shown."""
        return self._videos[number].timestamps

    def times_at(self, positions: IntArray) -> FloatArray:
        """float64 [V], when the frame at each video's position is shown; NaN where it has no such frame."""
        times = zip(self._videos, positions.tolist(), strict=True)
        return np.array([v.timestamps[p] if 0 <= p < len(v) else np.nan for v, p in times], np.float64)

    def search(self, seconds: FloatArray, *, side: Literal["left", "right"]) -> IntArray:
        """int64 [V], frames of each video that are shown before its time, or ("right") before it or at it."""
        times = zip(self._videos, seconds.tolist(), strict=True)
        return np.array([np.searchsorted(video.timestamps, t, side=side) for video, t in times], np.int64)


class CatalogVideos(Sequence[LazyVideo]):
    """A `VideoSource` of the videos of a catalog: each is made when it is asked for, without asking the store.

    A video's `metadata` are the user's columns of its row, by name.

    Args:
        catalog: A catalog, or a view of one; as it is now, whatever is changed in it later.
        **options: As `LazyVideo` takes them, as far as they say how frames are read: `resize`, `backend`, ...; and
            `store` or `storage_options`, where the videos need other ones than the catalog.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if an option has a wrong value, or would say how an index is found, which the catalog has done.
    """

    def __init__(self, catalog: Catalog, **options: Any) -> None:
        given = [name for name in _OF_OPENING if options.pop(name, None) is not None]
        if given:
            raise ValueError(f"Expected no {', '.join(given)} with a catalog: it holds the indexes of its videos.")
        store, storage_options = options.pop("store", None), options.pop("storage_options", None)
        if store is not None and storage_options is not None:
            raise ValueError("Expected store or storage_options, got both: options belong to the store.")
        if storage_options is not None:
            store = ObjectStore(storage_options=storage_options)
        self._made: ProcessLRU[int, LazyVideo]
        self.__setstate__((catalog.snapshot(), ReadOptions.of(**options), store))

    def __getstate__(self) -> tuple[Catalog, ReadOptions, ObjectStore | None]:
        return self._parts

    def __setstate__(self, state: tuple[Catalog, ReadOptions, ObjectStore | None]) -> None:
        self._parts, self._made = state, ProcessLRU(_KEPT)

    @property
    def catalog(self) -> Catalog:
        """Where the videos stand."""
        return self._parts[0]

    def __len__(self) -> int:
        return len(self.catalog)

    def __getitem__(self, number: Any, /) -> Any:
        """A video, or a list of those of a slice."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = operator.index(number)
        if not -len(self) <= at < len(self):
            raise IndexError(f"Video {at} is out of range: {self!r}.")
        at %= len(self)
        return self._made.get(at, lambda: self._make(at))

    def _make(self, number: int) -> LazyVideo:
        catalog, options, store = self._parts
        recipe = catalog.recipe(number, store=store)
        return video_of(recipe, catalog.index(number), options, metadata=catalog.metadata(number))

    def __repr__(self) -> str:
        return f"CatalogVideos({self.catalog!r})"

    @property
    def frame_counts(self) -> IntArray:
        """int64 [V], frames of each video."""
        return self.catalog.frame_counts

    @property
    def nbytes(self) -> IntArray:
        """int64 [V], bytes of the packets that each video's frames are coded in."""
        return self.catalog.nbytes

    @property
    def median_steps(self) -> FloatArray:
        """float64 [V], seconds between neighbouring frames of each video, the median."""
        return self.catalog.numbers("median_step")

    def uri(self, number: int) -> str:
        """A video's URI."""
        return self.catalog.uri_of(number)

    def timestamps(self, number: int) -> FloatArray:
        """float64 [N], seconds, when each frame of a video is shown."""
        times: FloatArray = self[number].timestamps
        return times

    def times_at(self, positions: IntArray) -> FloatArray:
        """float64 [V], when the frame at each video's position is shown; NaN where it has no such frame.

        Only videos of which another frame than the first or the last is asked for are looked up.
        """
        counts = self.frame_counts
        ends = np.where(positions == 0, self.catalog.numbers("first_timestamp"), self.catalog.numbers("last_timestamp"))
        outside = (positions < 0) | (positions >= counts)
        times = np.where(outside, np.nan, ends)
        for number in np.flatnonzero(~outside & (positions > 0) & (positions < counts - 1)).tolist():
            times[number] = self.timestamps(number)[positions[number]]
        return times

    def search(self, seconds: FloatArray, *, side: Literal["left", "right"]) -> IntArray:
        """int64 [V], frames of each video that are shown before its time, or ("right") before it or at it.

        Only videos of which the catalog's facts leave it open are looked up: where the time is that of a frame, or the
        frames are not evenly spaced.
        """
        least, most = timing.frames_before(
            seconds,
            first=self.catalog.numbers("first_timestamp"),
            last=self.catalog.numbers("last_timestamp"),
            counts=self.frame_counts,
            errors=self.catalog.numbers("grid_error"),
        )
        for number in np.flatnonzero(least < most).tolist():
            least[number] = np.searchsorted(self.timestamps(number), seconds[number], side=side)
        return least


def open_cameras(videos: VideosLike | Mapping[str, VideosLike], options: Mapping[str, Any]) -> dict[str, VideoSource]:
    """The videos of each camera; of a single one without a name under "".

    Args:
        videos: Videos, or a mapping from the camera's name to its videos.
        options: For those that must be opened, as `LazyVideo` takes them.

    Raises:
        ValueError: if there is no camera, or the cameras have different numbers of videos.
        ObjectNotFoundError: if a folder or glob finds no video.
        LazyVidError: if a video cannot be opened.
    """
    if not isinstance(videos, Mapping):
        return {"": open_videos(videos, options)}
    cameras = {str(name): open_videos(each, options) for name, each in videos.items()}
    counts = {name: len(each) for name, each in cameras.items()}
    if not counts:
        raise ValueError("Expected one camera or more, got an empty mapping.")
    if len(set(counts.values())) > 1:
        raise ValueError(f"Expected as many videos for each camera, one a recording, got {counts}.")
    return cameras


def open_videos(videos: VideosLike, options: Mapping[str, Any]) -> VideoSource:
    """The videos of one camera, in order; those that a folder or glob finds are sorted by URI."""
    if isinstance(videos, Catalog):
        return CatalogVideos(videos, **options)
    store = options.get("store") or ObjectStore(storage_options=options.get("storage_options"))
    if isinstance(videos, (str, os.PathLike)):
        videos = find_videos(os.fspath(videos), store)
    elif not isinstance(videos, Sequence):  # a LazyVideo is none
        raise TypeError(
            f"Expected a sequence of videos or URIs, a folder, a glob or a catalog, got {type(videos).__name__}."
        )
    opened = {number: video for number, video in enumerate(videos) if isinstance(video, LazyVideo)}
    unopened = [(number, uri) for number, uri in enumerate(videos) if not isinstance(uri, LazyVideo)]
    if unopened:
        rest = {name: value for name, value in options.items() if name != "storage_options"} | {"store": store}
        found = LazyVideo.open_many([uri for _, uri in unopened], **rest)
        opened |= {number: video for (number, _), video in zip(unopened, found, strict=True)}
    return VideoList([opened[number] for number in range(len(opened))])
