"""The videos of a dataset's cameras: opened when a frame of them is first needed, and which of their frames is whose.

An episode's k-th frame is the k-th one of the file's frames that lie in the episode's time range; the file's frame
index knows them all, so nothing is computed from an average rate. What has been opened is kept within bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lazyvid import timing
from lazyvid.arguments import check_word
from lazyvid.errors import EpisodeMismatchError, FrameTimestampError, MissingIndexError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.lerobot.metadata import LeRobotMetadata
from lazyvid.lru import ProcessLRU
from lazyvid.storage import display_uri
from lazyvid.video import LazyVideo

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
OnMismatch = Literal["raise", "nearest"]
VideoFile = tuple[str, int, int]
"""A camera's file: its key, the chunk and the number."""

_OPEN_AT_ONCE = 16
_MOST_BYTES = 256 << 20
"""Of videos kept open, besides their indexes, which processes share: 16 a frame."""
_MOST_KNOWN = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class OpenVideo:
    """A video and what is needed to find episodes in it."""

    video: LazyVideo
    seconds: FloatArray
    """float64 [N], when each frame is shown by the file's own clock, whatever its sidecar says of capture times."""

    @classmethod
    def of(cls, video: LazyVideo) -> OpenVideo:
        """A video with its frames' times."""
        return cls(video, file_seconds(video.frame_index)[video.frame_indices])

    @property
    def nbytes(self) -> int:
        """Bytes held besides the index."""
        return self.seconds.nbytes + self.video.frame_indices.nbytes


def file_seconds(index: FrameIndex) -> FloatArray:
    """float64 [N], the times of an index's frames that the file itself says."""
    if len(index.sources) != 1:
        return index.timestamp
    return timing.ticks_to_seconds(index.packets.pts, index.sources[0].time_base)


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeFrames:
    """Where frames of a batch's episodes are in the videos of a camera."""

    key: str
    """The camera."""
    episodes: IntArray
    """int64 [B]."""
    frames: IntArray
    """int64 [B, T], counted in the episodes."""


class DatasetVideos:
    """The videos of a dataset.

    Args:
        meta: The dataset.
        on_mismatch: What to do where an episode has another number of frames than rows: "raise", or "nearest": take
            the frame nearest to each row's time, as LeRobot does.
        tolerance_s: With "nearest": how far, in seconds, a frame may be from its row's time.
        capacity: Videos kept open.
        options: For `LazyVideo`.
    """

    def __init__(
        self,
        meta: LeRobotMetadata,
        *,
        on_mismatch: OnMismatch,
        tolerance_s: float,
        capacity: int,
        options: Mapping[str, Any],
    ) -> None:
        check_word("on_mismatch", on_mismatch, get_args(OnMismatch))
        self._meta = meta
        self._on_mismatch = on_mismatch
        self._tolerance_s = tolerance_s
        self._options = dict(options)
        self._files = {key: meta.episodes.video_files(key) for key in meta.video_keys}
        self._times = {key: meta.episodes.video_times(key) for key in meta.video_keys}
        self._open: ProcessLRU[VideoFile, OpenVideo] = ProcessLRU(
            capacity, nbytes=lambda video: video.nbytes, max_bytes=_MOST_BYTES
        )
        # Of videos that were open once: a few hundred bytes each, from which the index is found again without a look
        # at the store.
        self._known: ProcessLRU[VideoFile, LazyVideo] = ProcessLRU(_MOST_KNOWN)

    def requests(self, wanted: Sequence[EpisodeFrames]) -> list[tuple[LazyVideo, IntArray]]:
        """The frames of a batch as `read_clips` takes them: camera by camera, item by item.

        Raises:
            EpisodeMismatchError: if a video has not as many frames of an episode as there are rows.
            FrameTimestampError: with `on_mismatch="nearest"`, if there is no frame near a row's time.
            LazyVidError: if a video cannot be opened.
        """
        files = [[self._file(want.key, episode) for episode in want.episodes.tolist()] for want in wanted]
        videos = self._open_all(list(dict.fromkeys(file for each in files for file in each)))
        requests: list[tuple[LazyVideo, IntArray]] = []
        for want, each in zip(wanted, files, strict=True):
            places = self._positions(want, each, videos)
            requests += [(videos[file].video, positions) for file, positions in zip(each, places, strict=True)]
        return requests

    def open(self, key: str, episode: int) -> OpenVideo:
        """The video in which an episode of a camera lies."""
        file = self._file(key, episode)
        return self._open_all([file])[file]

    def _file(self, key: str, episode: int) -> VideoFile:
        chunk, number = self._files[key][episode].tolist()
        return key, chunk, number

    def _uri(self, file: VideoFile) -> str:
        return self._meta.place.store.resolve(self._meta.video_uri(*file))

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open_all(self, files: Sequence[VideoFile]) -> dict[VideoFile, OpenVideo]:
        """The videos, those that are not open yet all at once."""
        found = {file: self._open.peek(file) for file in files}
        missing = [file for file, video in found.items() if video is None]
        if len(missing) > 1:
            with ThreadPoolExecutor(min(len(missing), _OPEN_AT_ONCE)) as pool:
                opened = list(pool.map(self._opened, missing))
        else:
            opened = [self._opened(file) for file in missing]
        return {file: video for file, video in found.items() if video is not None} | dict(
            zip(missing, opened, strict=True)
        )

    def _opened(self, file: VideoFile) -> OpenVideo:
        return self._open.get(file, lambda: self._from_known(file))

    def _from_known(self, file: VideoFile) -> OpenVideo:
        fresh: list[LazyVideo] = []

        def look() -> LazyVideo:
            fresh.append(self._look(file))
            return without_index(fresh[0])

        known = self._known.get(file, look)
        return OpenVideo.of(fresh[0] if fresh else without_index(known))

    def _look(self, file: VideoFile) -> LazyVideo:
        """Open a video: by its sidecar, else by a scan, about which there is nothing to be said here."""
        feature = self._meta.info.features[file[0]]
        store, uri = self._meta.place.store, self._uri(file)
        options = {"on_missing_index": "build"} | self._options
        if feature.is_depth:
            options |= {"colorspace": "G12"}
        wish = options.pop("on_missing_index")
        try:
            return LazyVideo(uri, store=store, on_missing_index="raise", channel_format="NHWC", **options)
        except MissingIndexError:
            if wish == "raise":
                raise
        index = build_index(uri, store=store)
        return LazyVideo(uri, store=store, frame_index=index, channel_format="NHWC", **options)

    # -- which frames -------------------------------------------------------------------------------------------------

    def _positions(
        self, want: EpisodeFrames, files: Sequence[VideoFile], videos: Mapping[VideoFile, OpenVideo]
    ) -> list[IntArray]:
        """int64 [T] for each item: positions in its video."""
        if self._on_mismatch == "nearest":
            each = zip(want.episodes.tolist(), want.frames, files, strict=True)
            return [self._nearest(want.key, episode, frames, videos[file]) for episode, frames, file in each]
        spans = {}
        for episode, file in zip(want.episodes.tolist(), files, strict=True):
            if episode not in spans:
                spans[episode] = self.first_frame(want.key, episode, videos[file].seconds)
        return [spans[episode] + frames for episode, frames in zip(want.episodes.tolist(), want.frames, strict=True)]

    def first_frame(self, key: str, episode: int, seconds: FloatArray) -> int:
        """The position of an episode's first frame in its video.

        Args:
            key: The camera.
            episode: The episode.
            seconds: float64 [N], when the video's frames are shown.

        Raises:
            EpisodeMismatchError: unless the video has as many frames in the episode's time as there are rows.
        """
        first, stop = self.span(key, episode, seconds)
        rows = int(self._meta.episodes.lengths[episode])
        if stop - first != rows:
            start, end = self._times[key][episode].tolist()
            where = display_uri(self._uri(self._file(key, episode)))
            raise EpisodeMismatchError(
                f"Expected {rows} frames of episode {episode}, one a row, in {where} from {start} s to {end} s, found "
                f"{stop - first} ({len(seconds)} in the whole file): which frame belongs to which row cannot be known. "
                "Mend or leave out the episode (episodes=[...]), or take the frame nearest to each row's time, as "
                "LeRobot does: on_mismatch='nearest'. See what else is wrong: lazyvid lerobot check "
                f"{display_uri(self._meta.root)}"
            )
        return first

    def span(self, key: str, episode: int, seconds: FloatArray) -> tuple[int, int]:
        """The frames [first, stop) that lie in an episode's time; times are right to within half a frame."""
        if not self._meta.info.is_v3:
            return 0, len(seconds)  # a file of its own
        edges = self._times[key][episode] - 0.5 / self._meta.fps
        first, stop = np.searchsorted(seconds, edges, side="left").tolist()
        return first, max(first, stop)

    def _nearest(self, key: str, episode: int, frames: IntArray, opened: OpenVideo) -> IntArray:
        asked = self._times[key][episode][0] + frames / self._meta.fps
        if not len(opened.seconds):
            raise FrameTimestampError(f"Expected frames of episode {episode}, found none: {opened.video!r} is empty.")
        positions = timing.nearest(opened.seconds, asked)
        distances = np.abs(opened.seconds[positions] - asked)
        worst = int(np.argmax(distances))
        if not distances[worst] <= self._tolerance_s:
            raise FrameTimestampError(
                f"Expected a frame of episode {episode} within {self._tolerance_s} s of {asked[worst]} s (its row "
                f"{frames[worst]}) in {display_uri(opened.video.uri)}, found the nearest at "
                f"{opened.seconds[positions[worst]]} s. Mend or leave out the episode, or allow a larger tolerance_s."
            )
        return positions


def without_index(video: LazyVideo) -> LazyVideo:
    """The same video, which finds its index again when it is needed."""
    make, parts = video.__reduce__()
    return make(*parts)  # type: ignore[no-any-return]
