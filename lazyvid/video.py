"""`LazyVideo`: a picklable handle on a video that decodes just the frames asked for.

Sits above the index and decoding rooms: it turns numbers and times into rows of the index, and asks the decoding room
for their pictures.
"""

from __future__ import annotations

import builtins
import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lazyvid import timing
from lazyvid.arguments import check_type, check_word, checked_positions, checked_times, listed
from lazyvid.clips import (
    Backend,
    ChannelFormat,
    ClipRequest,
    PendingClips,
    ReadOptions,
    begin_together,
    files_of,
    read_together,
)
from lazyvid.decoding.convert import Colorspace, InterpolationName, PictureFormat
from lazyvid.decoding.files import Fetch, VideoFiles
from lazyvid.decoding.torchcodec import TorchcodecAdapter
from lazyvid.errors import FrameTimestampError, LimitExceededError, TimeOutOfRangeError
from lazyvid.frames import Clip, Frame, Limits
from lazyvid.index.frame_index import FrameIndex, check_increasing
from lazyvid.index.opening import check_pixels, open_index
from lazyvid.index.recipe import IndexRecipe
from lazyvid.index.view import FrameView
from lazyvid.storage import ObjectStore, SegmentCache, display_uri

UriLike = str | os.PathLike[str]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class LazyVideo:
    """Frames of one or more video files, decoded when asked for.

    Opening touches metadata only. The object holds no file, connection or decoder: it may be pickled, sent to workers
    of any start method, and used by several threads.

    Numbers count inside this object (a window counts from its own first frame) and may be negative; `frame_indices`
    always count in the whole video. A frame is *played* at t when its timestamp <= t < the next frame's.

    Args:
        uri: The video: a local path, or a URL of any scheme that fsspec knows.
        store: Where it lies; by default an `ObjectStore` made from `storage_options`.
        storage_options: Options for fsspec (credentials, endpoint), when no `store` is given.
        frame_index: The index, when it is at hand already.
        segment_uris: Further files of the same video, one for each segment after the first.
        metadata: Any object; handed on by `slice`, `lazy_slice` and `concat` as it is.
        resize: (height, width) of the frames, after rotation; None keeps the video's size.
        colorspace: "RGB", or "G" (also "GRAY") for luma alone; "G12" for luma of 12 bits in two channels, the lower
            byte first.
        channel_format: "NCHW" (a view of channels-last memory) or "NHWC".
        interpolation: How a resize interpolates: "bilinear", "nearest", "bicubic", "area" or "lanczos", as libswscale
            does under these names; pixels equal those of `av.VideoFrame.reformat`.
        fetch: "ranges" reads the bytes that frames need; "file" copies each file once into `cache` and reads there.
        cache: Where whole files are kept; by default a `SegmentCache` with its own defaults.
        backend: "pyav" (packets fed from the index) or "torchcodec".
        index_root: Folder of the sidecars, where they do not lie beside their videos.
        on_missing_index: "build" scans the file's headers where there is no sidecar; "raise" does not.
        on_stale_index: "raise", or "rebuild" where the sidecar describes another file.
        stream: Position among the file's video streams; None is the first.
        limits: The largest video that is opened.

    Raises:
        ObjectNotFoundError: if there is no such object.
        AccessDeniedError: if the store refuses the credentials.
        MissingIndexError: if there is no sidecar and `on_missing_index="raise"`.
        StaleIndexError: if the sidecar describes another file.
        CorruptIndexError: if the sidecar is damaged.
        VideoError: if the file is no video, is damaged or exceeds the limits.
        ValueError: if an argument has a wrong value, or the number of files does not fit the index.
    """

    def __init__(
        self,
        uri: UriLike,
        *,
        store: ObjectStore | None = None,
        storage_options: dict[str, Any] | None = None,
        frame_index: FrameIndex | None = None,
        segment_uris: Sequence[UriLike] | None = None,
        metadata: Any = None,
        resize: tuple[int, int] | None = None,
        colorspace: Colorspace | Literal["GRAY"] = "RGB",
        channel_format: ChannelFormat = "NCHW",
        interpolation: InterpolationName = "bilinear",
        fetch: Fetch = "ranges",
        cache: SegmentCache | None = None,
        backend: Backend = "pyav",
        index_root: UriLike | None = None,
        on_missing_index: Literal["build", "raise"] = "build",
        on_stale_index: Literal["raise", "rebuild"] = "raise",
        stream: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        check_type("store", store, ObjectStore)
        check_type("frame_index", frame_index, FrameIndex)
        if store is not None and storage_options is not None:
            raise ValueError("Expected store or storage_options, got both: options belong to the store.")
        options = ReadOptions.of(
            resize=resize,
            colorspace=colorspace,
            channel_format=channel_format,
            interpolation=interpolation,
            fetch=fetch,
            cache=cache,
            backend=backend,
            limits=limits,
        )
        if isinstance(segment_uris, (str, os.PathLike)):
            raise TypeError(f"Expected segment_uris to be a sequence of URIs, got one: {display_uri(segment_uris)}.")
        if isinstance(stream, bool):
            raise TypeError(f"Expected stream to be a position among the file's video streams, got {stream}.")
        stream = None if stream is None else operator.index(stream)
        store = store or ObjectStore(storage_options=storage_options)
        uri = store.resolve(uri)
        segments = None if segment_uris is None else tuple(store.resolve(segment) for segment in segment_uris)
        root = None if index_root is None else os.fspath(index_root)
        opened = open_index(
            uri,
            store=store,
            segment_uris=segments,
            index_root=root,
            on_missing_index=on_missing_index,
            on_stale_index=on_stale_index,
            stream=stream,
            limits=options.limits,
            frame_index=frame_index,
        )
        recipe = IndexRecipe.of(opened, uri=uri, store=store, segment_uris=segments, index_root=root, stream=stream)
        self._set(recipe, options, metadata, windows=None, index=opened.index)
        _check_one_size(opened.index, options.picture, uri)

    def _set(
        self,
        recipe: IndexRecipe,
        options: ReadOptions,
        metadata: Any,
        *,
        windows: tuple[tuple[int, int], ...] | None,
        index: FrameIndex | None,
    ) -> None:
        self._recipe = recipe
        self._options = options
        self._windows = windows
        self._index = index
        self._frame_view: FrameView | None = None
        self._files: VideoFiles | None = None
        self.metadata = metadata

    @classmethod
    def _make(
        cls,
        recipe: IndexRecipe,
        options: ReadOptions,
        metadata: Any,
        windows: tuple[tuple[int, int], ...] | None,
        index: FrameIndex | None = None,
    ) -> LazyVideo:
        """A video from its parts, without opening anything; also how a pickle is read."""
        video = cls.__new__(cls)
        video._set(recipe, options, metadata, windows=windows, index=index)
        return video

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._make, (self._recipe, self._options, self.metadata, self._windows)

    @classmethod
    def from_uri(cls, uri: UriLike, **options: Any) -> LazyVideo:
        """Open a video: the constructor under the name that users of time series know."""
        return cls(uri, **options)

    @classmethod
    def open_many(cls, uris: Iterable[UriLike], *, max_workers: int = 16, **options: Any) -> list[LazyVideo]:
        """Open videos at once, in threads.

        Args:
            uris: The videos.
            max_workers: Videos opened at a time.
            **options: As for one video.

        Returns:
            The videos in the order of `uris`.

        Raises:
            LazyVidError: the first error, in that order; those not begun are not opened.
        """
        if isinstance(uris, (str, os.PathLike)):
            raise TypeError(f"Expected a sequence of URIs, got one: {display_uri(uris)}.")
        if options.get("store") is None:
            options["store"] = ObjectStore(storage_options=options.pop("storage_options", None))
        with ThreadPoolExecutor(max_workers) as executor:
            futures = [executor.submit(cls, uri, **options) for uri in uris]
            try:
                return [future.result() for future in futures]
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise

    @classmethod
    def concat(cls, videos: Sequence[LazyVideo], *, timestamps: Literal["keep", "append"] = "keep") -> LazyVideo:
        """One recording's videos, in order, as one; windows keep to their windows.

        Args:
            videos: One or more.
            timestamps: "keep" leaves times as they are and wants them to increase; "append" shifts each video to begin
                where the last one ends.

        Raises:
            ValueError: if none is given, they differ in size, resize, colorspace, channel_format or metadata, or kept
                times do not increase.
            TypeError: if something else than a LazyVideo is among them.
        """
        videos = list(videos)
        check_word("timestamps", timestamps, ("keep", "append"))
        _check_alike(videos)
        shifts = [0.0] * len(videos)
        if timestamps == "append":
            end = videos[0].end_seconds
            for i, video in enumerate(videos[1:], start=1):
                shifts[i] = end - video.begin_seconds
                end += video.end_seconds - video.begin_seconds
        recipe, index = IndexRecipe.joined([v._recipe for v in videos], [v._view.index for v in videos], shifts)
        joined = cls._make(recipe, videos[0]._options, videos[0].metadata, _joined_windows(videos), index)
        check_increasing(joined.timestamps, "LazyVideo.concat(timestamps='keep')")
        return joined

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def _view(self) -> FrameView:
        if self._frame_view is None:
            if self._index is None:
                self._index = self._recipe.load(limits=self._options.limits)
            self._frame_view = FrameView(self._index, self._windows, self._recipe.frame_counts)
        return self._frame_view

    @property
    def uri(self) -> str:
        """The (first) video's URI."""
        return self._recipe.parts[0].uri

    @property
    def resize(self) -> tuple[int, int] | None:
        """(height, width) asked for; None for the video's own."""
        return self._options.picture.resize

    @property
    def colorspace(self) -> Colorspace:
        """What a pixel holds: "RGB" or "G"."""
        return self._options.picture.colorspace

    @property
    def channel_format(self) -> ChannelFormat:
        """Order of the dimensions: "NCHW" or "NHWC"."""
        return self._options.channel_format

    @property
    def frame_index(self) -> FrameIndex:
        """The index of the whole video."""
        return self._view.index

    def __len__(self) -> int:
        return len(self._view)

    @property
    def frame_count(self) -> int:
        """Frames of this object."""
        return len(self)

    @property
    def timestamps(self) -> FloatArray:
        """float64 [N], when each frame is shown, in seconds, increasing; read-only."""
        return self._view.timestamps

    @property
    def frame_indices(self) -> IntArray:
        """int64 [N], each frame's number in the whole video; read-only."""
        return self._view.rows

    @property
    def segment_frame_counts(self) -> IntArray:
        """int64 [S], frames of each segment that this object shows."""
        return self._view.segment_frame_counts()

    @property
    def segment_frame_offsets(self) -> IntArray:
        """int64 [S + 1], where each segment's frames begin in this object; the last is `len(self)`."""
        return np.concatenate([[0], np.cumsum(self.segment_frame_counts)]).astype(np.int64)

    @property
    def height(self) -> int:
        """Pixels of the video's frames as shown, before any resize."""
        return self._view.index.sources[0].display_size[0]

    @property
    def width(self) -> int:
        """Pixels of the video's frames as shown, before any resize."""
        return self._view.index.sources[0].display_size[1]

    @property
    def begin_seconds(self) -> float:
        """When the first frame begins."""
        return self._view.begin_seconds

    @property
    def end_seconds(self) -> float:
        """When the last frame stops being shown."""
        return self._view.end_seconds

    @property
    def average_fps(self) -> float:
        """Frames per second over the whole of this object; 0.0 when it is empty."""
        seconds = self.end_seconds - self.begin_seconds
        return len(self) / seconds if seconds > 0 else 0.0

    def __repr__(self) -> str:
        segments = len(self._view.index.segments)
        return f"LazyVideo(uri={display_uri(self.uri)!r}, frames={len(self)}, segments={segments})"

    # -- by time range ------------------------------------------------------------------------------------------------

    def slice(self, start: float, end: float, reset_origin: bool = True) -> Clip:  # noqa: FBT001, FBT002 - temporaldata's signature
        """Decode the frames whose timestamp lies in [start, end) seconds.

        Args:
            start: Seconds, included; before the video's begin it reaches from there.
            end: Seconds, excluded; after the video's end it reaches to there.
            reset_origin: Count the clip's times from `start`, as all series of a recording that are sliced together do.

        Returns:
            The clip; without frames when start >= end.

        Raises:
            ValueError: if a time is NaN.
            LazyVidError: if the frames cannot be read.
        """
        first, stop = self._between(start, end)
        clip = self._clip(np.arange(first, stop))
        low, high = self._clamped(start), self._clamped(end)
        origin = (start if math.isfinite(start) else low) if reset_origin else 0.0
        return replace(clip, timestamps=clip.timestamps - origin, start=low - origin, end=max(low, high) - origin)

    def lazy_slice(self, start: float, end: float) -> LazyVideo:
        """The frames whose timestamp lies in [start, end) seconds, not decoded; original times are kept.

        Raises:
            ValueError: if a time is NaN.
        """
        return self._window(*self._between(start, end))

    def _between(self, start: float, end: float) -> tuple[int, int]:
        if math.isnan(start) or math.isnan(end):
            raise ValueError(f"Expected times in seconds, got start={start} and end={end}.")
        return timing.between(self.timestamps, start, end)

    def _clamped(self, seconds: float) -> float:
        return min(max(float(seconds), self.begin_seconds), self.end_seconds)

    def _window(self, first: int, stop: int) -> LazyVideo:
        windows = self._view.window(first, stop)
        return self._make(self._recipe, self._options, self.metadata, windows, self._view.index)

    # -- by number ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: int | builtins.slice) -> Tensor:
        """uint8 [C, H, W] for a number, uint8 [N, C, H, W] for a range (or channels last, as `channel_format` says).

        Raises:
            FrameIndexError: (an IndexError) if the number is out of range.
            TypeError: if the key is neither.
        """
        if isinstance(key, builtins.slice):
            return self._clip(np.arange(*key.indices(len(self)))).frames
        return self.get_frame_at(key).data

    def __iter__(self) -> Iterator[Tensor]:
        """The frames in order, decoded in runs of a few dozen."""
        step = 32
        for first in range(0, len(self), step):
            yield from self[first : first + step]

    def get_frame_at(self, index: int) -> Frame:
        """The frame with this number.

        Raises:
            FrameIndexError: (an IndexError) if it is out of range.
        """
        return self._clip(self._positions([index]))[0]

    def get_frames_at(self, indices: Sequence[int] | IntArray | Tensor) -> Clip:
        """The frames with these numbers, in this order, duplicates included.

        Raises:
            FrameIndexError: (an IndexError) if one is out of range.
        """
        return self._clip(self._positions(indices))

    def get_frames_in_range(self, start: int, stop: int, step: int = 1) -> Clip:
        """The frames start, start + step, ... before stop; bounds as in Python's slices.

        Raises:
            ValueError: if step is not positive.
        """
        if step < 1:
            raise ValueError(f"Invalid step {step}: expected 1 or more.")
        return self._clip(np.arange(*builtins.slice(start, stop, step).indices(len(self))))

    # -- by time ------------------------------------------------------------------------------------------------------

    def get_frame_played_at(self, seconds: float) -> Frame:
        """The frame shown at this time.

        Raises:
            TimeOutOfRangeError: (an IndexError and a ValueError) if the time lies outside [begin_seconds, end_seconds).
        """
        return self._clip(self._played_at([seconds]))[0]

    def get_frames_played_at(self, seconds: Sequence[float] | FloatArray | Tensor) -> Clip:
        """The frames shown at these times, in this order.

        Raises:
            TimeOutOfRangeError: (an IndexError and a ValueError) if a time lies outside [begin_seconds, end_seconds).
        """
        return self._clip(self._played_at(seconds))

    def get_frames_played_in_range(self, start_seconds: float, stop_seconds: float, fps: float | None = None) -> Clip:
        """The frames shown in [start_seconds, stop_seconds): also the one that began before and is still shown.

        Args:
            start_seconds: Seconds, in [begin_seconds, end_seconds].
            stop_seconds: Seconds, at least `start_seconds`, at most end_seconds.
            fps: Resample: the frames shown at start_seconds + k / fps, which become the clip's timestamps.

        Raises:
            TimeOutOfRangeError: (an IndexError and a ValueError) if a bound lies outside the video.
            ValueError: if stop_seconds < start_seconds, or fps is not positive.
        """
        bounds = (self.begin_seconds, self.end_seconds)
        if not (bounds[0] <= start_seconds <= bounds[1] and bounds[0] <= stop_seconds <= bounds[1]):
            raise TimeOutOfRangeError(
                f"Expected a range inside [{bounds[0]}, {bounds[1]}] s of {display_uri(self.uri)}, got "
                f"[{start_seconds}, {stop_seconds})."
            )
        if stop_seconds < start_seconds:
            raise ValueError(f"Expected start_seconds <= stop_seconds, got {start_seconds} and {stop_seconds}.")
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f"Invalid fps {fps}: expected a positive rate.")
        if start_seconds == stop_seconds or not len(self):
            return self._clip(np.empty(0, np.int64))
        if fps is None:
            first = int(timing.played_at(self.timestamps, start_seconds))
            return self._clip(np.arange(first, timing.between(self.timestamps, start_seconds, stop_seconds)[1]))
        most = self._options.limits.frames
        if (stop_seconds - start_seconds) * fps > most:
            raise LimitExceededError(
                f"Expected at most {most} frames (Limits.frames), got {stop_seconds - start_seconds} s at fps={fps}."
            )
        asked = timing.grid(start_seconds, stop_seconds, fps)
        return self._clip(timing.played_at(self.timestamps, asked), timestamps=asked)

    def get_nearest_frames(self, seconds: Sequence[float] | FloatArray | Tensor, *, tolerance_s: float) -> Clip:
        """The frames whose timestamps are nearest to these times, in this order.

        Raises:
            FrameTimestampError: (a ValueError) if the nearest to one is further away than `tolerance_s` seconds.
            ValueError: if a time is NaN or infinite, or `tolerance_s` is negative or NaN.
        """
        asked = checked_times(seconds)
        if not tolerance_s >= 0:
            raise ValueError(f"Invalid tolerance_s {tolerance_s}: expected 0 or more seconds.")
        if not len(self) and len(asked):
            raise FrameTimestampError(f"Expected frames near {listed(asked)} s, found none: {self!r} is empty.")
        positions = timing.nearest(self.timestamps, asked) if len(asked) else np.empty(0, np.int64)
        found = self.timestamps[positions]
        far = np.abs(found - asked) > tolerance_s
        if np.any(far):
            raise FrameTimestampError(
                f"Expected frames within {tolerance_s} s of {listed(asked[far])} s in {display_uri(self.uri)}, found "
                f"the nearest at {listed(found[far])} s (backend {self._options.backend}). Check that the times "
                "belong to this video, or allow a larger tolerance_s."
            )
        return self._clip(positions)

    # -- decoding -----------------------------------------------------------------------------------------------------

    def as_torchcodec(self) -> TorchcodecAdapter:
        """This video in the dress of `torchcodec.decoders.VideoDecoder`, for its samplers and code written against it.

        Raises:
            BackendUnavailableError: if torchcodec is not installed or does not load.
        """
        return TorchcodecAdapter(self)

    def _positions(self, indices: Iterable[Any] | Tensor) -> IntArray:
        return checked_positions(indices, len(self), what=lambda: display_uri(self.uri))

    def _played_at(self, seconds: Iterable[Any] | Tensor) -> IntArray:
        asked = checked_times(seconds)
        begin, end = self.begin_seconds, self.end_seconds
        outside = (asked < begin) | (asked >= end)
        if np.any(outside):
            raise TimeOutOfRangeError(
                f"Expected times in [{begin}, {end}) s of {display_uri(self.uri)}, got {listed(asked[outside])} s."
            )
        return timing.played_at(self.timestamps, asked)

    def _clip(self, positions: IntArray, *, timestamps: FloatArray | None = None) -> Clip:
        (clip,) = read_together([self._request(positions)])
        return clip if timestamps is None else replace(clip, timestamps=torch.from_numpy(timestamps), durations=None)

    def _request(self, positions: IntArray) -> ClipRequest:
        view = self._view
        if self._files is None:
            self._files = files_of(view, self._recipe, self._options)
        return ClipRequest(view, self._files, self._recipe, self._options, self.metadata, positions)


def read_clips(requests: Sequence[tuple[LazyVideo, IntArray]]) -> list[Clip]:
    """Clips of several videos, planned and fetched together.

    Clips of one shape share one tensor, each a run of its rows, so that a batch needs no copy to be put together.

    Args:
        requests: A video and the positions of its frames, int64 [N], each in [0, len(video)).

    Returns:
        One clip a request.

    Raises:
        LazyVidError: if frames cannot be read.
    """
    return read_together([video._request(positions) for video, positions in requests])


def begin_clips(requests: Sequence[tuple[LazyVideo, IntArray]]) -> PendingClips:
    """Plan clips of several videos and start fetching their packets, while the caller does something else.

    `begin_clips(requests).result()` is `read_clips(requests)`: `result` verifies, decodes and raises what went wrong.
    Of more than 128 MiB of packets the first part is fetched, each further one while the one before it decodes. Files
    that are copied whole (`fetch="file"`) are read by `result` alone.

    Args:
        requests: As for `read_clips`.

    Returns:
        The clips to come; to be cancelled when nobody wants them any more.
    """
    return begin_together([video._request(positions) for video, positions in requests])


def video_of(recipe: IndexRecipe, index: FrameIndex, options: ReadOptions, *, metadata: Any = None) -> LazyVideo:
    """A video whose index is at hand, as those of a catalog: nothing is opened, and no file is asked for.

    Raises:
        LimitExceededError: if its pictures are larger than the limits allow.
        ValueError: if its files have frames of different sizes and no common one was asked for.
    """
    uri = recipe.parts[0].uri
    check_pixels(index, options.limits, uri)
    _check_one_size(index, options.picture, uri)
    return LazyVideo._make(recipe, options, metadata, None, index)


def _joined_windows(videos: Sequence[LazyVideo]) -> tuple[tuple[int, int], ...] | None:
    """The videos' windows, counted in the joined index."""
    if all(video._windows is None for video in videos):
        return None
    windows: list[tuple[int, int]] = []
    offset = 0
    for video in videos:
        frames = len(video._view.index)
        own = video._windows if video._windows is not None else ((0, frames),)
        windows += [(a + offset, b + offset) for a, b in own]
        offset += frames
    return tuple(windows)


def _check_alike(videos: Sequence[Any]) -> None:
    if not videos:
        raise ValueError("LazyVideo.concat expects one video or more, got none.")
    for position, video in enumerate(videos):
        if not isinstance(video, LazyVideo):
            raise TypeError(f"LazyVideo.concat expects LazyVideo objects, got {type(video)} at {position}.")
    first = videos[0]
    for position, video in enumerate(videos[1:], start=1):
        for name in ("resize", "colorspace", "channel_format", "height", "width"):
            if getattr(video, name) != getattr(first, name):
                raise ValueError(
                    f"LazyVideo.concat expects videos alike: video {position} ({display_uri(video.uri)}) has {name} "
                    f"{getattr(video, name)}, the first one {getattr(first, name)}."
                )
        if not _equal(video.metadata, first.metadata):
            raise ValueError(f"LazyVideo.concat expects equal metadata, video {position} has another than the first.")


def _equal(one: Any, other: Any) -> bool:
    """Whether two objects are the same or equal; those that do not compare as a whole (arrays) are not."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except (TypeError, ValueError, RuntimeError):
        return False


def _check_one_size(index: FrameIndex, picture: PictureFormat, uri: str) -> None:
    sizes = {source.display_size for source in index.sources}
    if len(sizes) > 1 and picture.resize is None:
        raise ValueError(
            f"The files of {display_uri(uri)} have frames of different sizes, (height, width) {sorted(sizes)}: pass "
            "resize=(height, width)."
        )
