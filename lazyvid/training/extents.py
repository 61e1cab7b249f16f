"""`Extents`: which frames of each recording can be used, in a few numbers a recording; what samplers are made from."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lazyvid.training.sources import VideoList
from lazyvid.video import LazyVideo

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Extents:
    """The frames of each recording that windows may use, and its encoded bytes; R recordings."""

    first: IntArray
    """int64 [R], the first frame that can be used."""
    stop: IntArray
    """int64 [R], one past the last frame that can be used."""
    nbytes: IntArray | None = None
    """int64 [R], encoded bytes of those frames; None where nobody knows."""
    video: IntArray | None = None
    """int64 [R], the video of each, as `Window.video` counts; None is 0, 1, 2, ..."""

    def __post_init__(self) -> None:
        for name in ("first", "stop", "nbytes", "video"):
            given = getattr(self, name)
            if given is None:
                continue
            values = np.array(given, dtype=np.int64)
            if values.ndim != 1 or len(values) != len(self.first):
                raise ValueError(f"Invalid Extents.{name}: expected one number a recording, got shape {values.shape}.")
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        wrong = np.flatnonzero((self.first < 0) | (self.stop < self.first))
        if len(wrong):
            at = int(wrong[0])
            raise ValueError(
                f"Invalid Extents: expected 0 <= first <= stop, got first {self.first[at]} and stop {self.stop[at]} "
                f"for recording {at}."
            )

    @classmethod
    def of(cls, videos: Any) -> Extents:
        """The extents of what a dataset is made from; no video is opened where its frame count is at hand.

        Args:
            videos: `Extents`; an object that has `extents` (a dataset) or `frame_counts` (a video source, a catalog);
                a sequence of `LazyVideo`s; or a sequence or array of frame counts.

        Raises:
            TypeError: if it is something else.
            ValueError: if a count is negative.
        """
        if isinstance(videos, Extents):
            return videos
        if isinstance(extents := getattr(videos, "extents", None), Extents):
            return extents
        if (counts := getattr(videos, "frame_counts", None)) is not None:
            return cls._whole(counts, getattr(videos, "nbytes", None))
        if isinstance(videos, np.ndarray):
            return cls._whole(_checked_counts(videos))
        if not isinstance(videos, Sequence) or isinstance(videos, (str, bytes)):
            raise TypeError(
                "Expected a dataset, Extents, or a sequence of LazyVideos or frame counts, got "
                f"{type(videos).__name__}."
            )
        if all(isinstance(video, LazyVideo) for video in videos):
            return cls.of(VideoList(videos))
        return cls._whole([_checked_count(number, count) for number, count in enumerate(videos)])

    @classmethod
    def _whole(cls, counts: npt.ArrayLike, nbytes: npt.ArrayLike | None = None) -> Extents:
        stop = np.asarray(counts, dtype=np.int64)
        return cls(np.zeros_like(stop), stop, None if nbytes is None else np.asarray(nbytes, dtype=np.int64))

    @classmethod
    def intervals(cls, videos: Any, bounds: npt.ArrayLike) -> Extents:
        """Parts of recordings, such as trials or a split, each as a recording of its own.

        Args:
            videos: As `of` takes them.
            bounds: int64 [R, 3], a video and the first and one past the last frame of a part of it.

        Raises:
            ValueError: if a part lies outside its video's extent.
        """
        whole = cls.of(videos)
        rows = np.asarray(bounds, dtype=np.int64).reshape(-1, 3)
        video, first, stop = rows.T
        outside = (video < 0) | (video >= len(whole)) | (first > stop)
        at = np.where(outside, 0, video)
        if len(whole):
            outside |= (first < whole.first[at]) | (stop > whole.stop[at])
        if outside.any():
            raise ValueError(
                f"Expected (video, first, stop) inside the usable frames of {len(whole)} recordings, got "
                f"{tuple(rows[outside][0].tolist())}."
            )
        share = None
        if whole.nbytes is not None:
            share = whole.nbytes[at] * (stop - first) // np.maximum(whole.counts[at], 1)
        return cls(first, stop, share, whole.videos[at])

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        return f"Extents(recordings={len(self)}, frames={int(self.counts.sum())})"

    @property
    def counts(self) -> IntArray:
        """int64 [R], frames that can be used."""
        return self.stop - self.first

    @property
    def videos(self) -> IntArray:
        """int64 [R], the video of each, as `Window.video` counts."""
        return np.arange(len(self), dtype=np.int64) if self.video is None else self.video

    def select(self, rows: IntArray) -> Extents:
        """Some of the recordings, in this order; their videos keep their numbers."""
        nbytes = None if self.nbytes is None else self.nbytes[rows]
        return Extents(self.first[rows], self.stop[rows], nbytes, self.videos[rows])

    def trimmed(self, drop_first: int, drop_last: int) -> Extents:
        """The same without that many frames at each one's begin and end."""
        first = np.minimum(self.first + drop_first, self.stop)
        stop = np.maximum(self.stop - drop_last, first)
        nbytes = None if self.nbytes is None else self.nbytes * (stop - first) // np.maximum(self.counts, 1)
        return Extents(first, stop, nbytes, self.video)

    def digest(self) -> str:
        """Equal for equal frames of equal videos; bytes are left out."""
        hashed = hashlib.blake2b(digest_size=8)
        for column in (self.first, self.stop, self.videos):
            hashed.update(column.astype("<i8").tobytes())
        return hashed.hexdigest()


def _checked_counts(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if counts.dtype.kind not in "iu":
        raise TypeError(f"Expected an array of frame counts, ints, got dtype {counts.dtype}.")
    return counts


def _checked_count(number: int, count: Any) -> int:
    try:
        return operator.index(count)
    except TypeError:
        raise TypeError(
            f"Expected LazyVideos or frame counts, all of one kind, got {type(count).__name__} at {number}."
        ) from None
