"""Clips of several videos, read together into shared memory; between the decoding room and `LazyVideo`."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lazyvid.arguments import check_type, check_word, checked_size
from lazyvid.decoding.convert import Colorspace, InterpolationName, PictureFormat
from lazyvid.decoding.files import Fetch, VideoFiles
from lazyvid.decoding.reader import begin_frames
from lazyvid.decoding.targets import ReadRequest
from lazyvid.decoding.torchcodec import read_with_torchcodec
from lazyvid.errors import LazyVidError, LimitExceededError, ObjectChangedError
from lazyvid.frames import Clip, Limits
from lazyvid.index.recipe import IndexRecipe
from lazyvid.index.view import FrameView
from lazyvid.memory import default_memory
from lazyvid.storage import SegmentCache, display_uri

ChannelFormat = Literal["NCHW", "NHWC"]
Backend = Literal["pyav", "torchcodec"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How frames are fetched and what they look like; the same for every window of a video."""

    picture: PictureFormat
    channel_format: ChannelFormat
    fetch: Fetch
    cache: SegmentCache | None
    backend: Backend
    limits: Limits

    def __post_init__(self) -> None:
        check_word("channel_format", self.channel_format, get_args(ChannelFormat))
        check_word("fetch", self.fetch, get_args(Fetch))
        check_word("backend", self.backend, get_args(Backend))
        resize = self.picture.resize
        if resize is not None and resize[0] * resize[1] > self.limits.pixels:
            raise LimitExceededError(
                f"Expected resize to give at most {self.limits.pixels} pixels (Limits.pixels), got {resize}."
            )
        if self.backend == "torchcodec" and self.picture.colorspace != "RGB":
            raise ValueError("backend='torchcodec' gives RGB only: use backend='pyav' for gray frames.")

    @classmethod
    def of(
        cls,
        *,
        resize: tuple[int, int] | None = None,
        colorspace: Colorspace | Literal["GRAY"] = "RGB",
        channel_format: ChannelFormat = "NCHW",
        interpolation: InterpolationName = "bilinear",
        fetch: Fetch = "ranges",
        cache: SegmentCache | None = None,
        backend: Backend = "pyav",
        limits: Limits | None = None,
    ) -> ReadOptions:
        """The options under the names that `LazyVideo` has for them, checked.

        Raises:
            TypeError: if one is of another type.
            ValueError: if one has a wrong value.
        """
        check_type("cache", cache, SegmentCache)
        check_type("limits", limits, Limits)
        picture = PictureFormat(checked_size(resize), "G" if colorspace == "GRAY" else colorspace, interpolation)
        return cls(picture, channel_format, fetch, cache, backend, limits or Limits())


@dataclass(frozen=True, slots=True, eq=False)
class ClipRequest:
    """Frames of one video."""

    view: FrameView
    files: VideoFiles
    recipe: IndexRecipe
    options: ReadOptions
    metadata: Any
    """Handed on to the clip."""
    positions: npt.NDArray[np.int64]
    """int64 [N], each in [0, len(view))."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C) of the clip in memory."""
        return (len(self.positions), *self.options.picture.shape(self.view.index.sources[0]))

    def read_request(self, out: npt.NDArray[np.uint8]) -> ReadRequest:
        """The same for the decoding room, with the memory that the frames go to."""
        return ReadRequest(self.files, self.view.rows[self.positions], self.options.picture, out)

    def clip(self, pixels: Tensor) -> Clip:
        """The clip, once its pixels are there."""
        times = self.view.timestamps[self.positions]
        durations = self.view.durations(self.positions)
        if len(times):
            start, end = float(times.min()), float((times + durations).max())
        else:
            start = end = self.view.begin_seconds
        return Clip(
            frames=pixels.permute(0, 3, 1, 2) if self.options.channel_format == "NCHW" else pixels,
            timestamps=torch.from_numpy(times),
            frame_indices=torch.from_numpy(self.view.rows[self.positions]),
            start=start,
            end=end,
            metadata=self.metadata,
            durations=torch.from_numpy(durations),
        )


def files_of(view: FrameView, recipe: IndexRecipe, options: ReadOptions) -> VideoFiles:
    """A video's files as the decoding room takes them."""
    pins = recipe.pins
    return VideoFiles(
        index=view.index,
        stores=recipe.stores,
        uris=tuple(pin.uri for pin in pins),
        pins=pins,
        content_hash=recipe.content_hash,
        limits=options.limits,
        fetch=options.fetch,
        cache=options.cache,
    )


class PendingClips:
    """Clips whose packets are on their way; made by `begin_clips`.

    Only the process that began it has the bytes: in a forked child `result` fetches them anew, and a pickle is refused.
    """

    def __init__(self, requests: Sequence[ClipRequest]) -> None:
        """Plans the reads and starts fetching; what goes wrong is raised by `result`."""
        self._requests = list(requests)
        self._clips: list[Clip] | None = None
        self._cancelled = False
        self._pid = os.getpid()
        self._reading: _Reading | None = None
        with contextlib.suppress(LazyVidError):  # `result` begins anew, and meets it again
            self._reading = _Reading(self._requests, ahead=True)

    def result(self) -> list[Clip]:
        """Wait for the packets, verify and decode them.

        Returns:
            One clip a request, the same ones when called again; clips of one shape are consecutive rows of one tensor.

        Raises:
            LazyVidError: if frames cannot be read; a further call tries again.
            concurrent.futures.CancelledError: after `cancel`.
        """
        if self._cancelled:
            raise CancelledError("The clips were cancelled before they were read.")
        if self._clips is None:
            reading, self._reading = self._reading, None
            if reading is None or self._pid != os.getpid():
                reading = _Reading(self._requests, ahead=False)
            self._clips = reading.result()
        return list(self._clips)

    def cancel(self) -> None:
        """Give up what has not been read; nothing of it stays behind. Clips that are there stay."""
        reading, self._reading = self._reading, None
        self._cancelled = self._clips is None
        if reading is not None and self._pid == os.getpid():
            reading.cancel()

    def __reduce__(self) -> NoReturn:
        raise TypeError("Pending clips belong to their process and cannot be pickled: send the requests instead.")


class _Reading:
    """One attempt at reading clips, begun."""

    def __init__(self, requests: Sequence[ClipRequest], *, ahead: bool) -> None:
        self._requests = requests
        self._pixels = _allocate([request.shape for request in requests])
        by_backend: dict[Backend, list[ReadRequest]] = {"pyav": [], "torchcodec": []}
        for request, out in zip(requests, self._pixels, strict=True):
            if len(out):
                by_backend[request.options.backend].append(request.read_request(out.numpy()))
        self._by_torchcodec = by_backend["torchcodec"]
        self._frames = begin_frames(by_backend["pyav"], ahead=ahead)

    def result(self) -> list[Clip]:
        try:
            self._frames.result()
            for read_request in self._by_torchcodec:
                read_with_torchcodec(read_request)
        except ObjectChangedError as error:
            raise _with_advice(error, self._requests) from error
        return [request.clip(out) for request, out in zip(self._requests, self._pixels, strict=True)]

    def cancel(self) -> None:
        self._frames.cancel()


def begin_together(requests: Sequence[ClipRequest]) -> PendingClips:
    """Plan clips together and start fetching their packets; their pixels are made by `result`."""
    return PendingClips(requests)


def read_together(requests: Sequence[ClipRequest]) -> list[Clip]:
    """Read clips together, at once.

    Raises:
        LazyVidError: if frames cannot be read.
    """
    return _Reading(requests, ahead=False).result()


def _with_advice(error: ObjectChangedError, requests: Sequence[ClipRequest]) -> ObjectChangedError:
    """The error, and what to do where a catalog describes the version that was there before."""
    for part in (part for request in requests for part in request.recipe.parts):
        if part.catalog is not None and any(display_uri(pin.uri) in str(error) for pin in part.pins):
            place = display_uri(part.catalog.place.uri)
            return ObjectChangedError(
                f"{error} The catalog {place} describes the version before: lazyvid catalog refresh {place}, or "
                "Catalog.refresh()."
            )
    return error


def _allocate(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """uint8 tensors of these shapes; those of one shape are consecutive rows of one tensor."""
    empty = default_memory().empty
    if len(shapes) == 1:
        return [empty(shapes[0])]
    rows = {shape: iter(empty((many, *shape))) for shape, many in Counter(shapes).items()}
    return [next(rows[shape]) for shape in shapes]
