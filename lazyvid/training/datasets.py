"""`ClipDataset`: clips of videos as a map-style dataset that reads a whole batch at once.

Above `LazyVideo`, below samplers and loaders: `clips.py` says which frames a clip has, `collate.py` makes batches.
"""

from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from torch.utils.data import Dataset

from lazyvid import timing
from lazyvid.errors import FrameTimestampError, LazyVidError
from lazyvid.frames import Clip, ClipSpec, Window
from lazyvid.storage import display_uri
from lazyvid.training.clips import BoolArray, ClipPlan, FloatArray, IntArray
from lazyvid.training.sources import VideosLike, VideoSource, open_cameras
from lazyvid.video import LazyVideo, read_clips

Sample = dict[str, Any]
Transform = Callable[[Sample], Sample]

_MOST_SUBSTITUTES = 16
_log = logging.getLogger(__name__)


class ClipDataset(Dataset[Sample]):
    """Clips of videos, decoded when asked for.

    `ds[i]` is the i-th clip of the plain enumeration: of each video in turn the clips that start at multiples of the
    step. `ds[Window(video, start, stop)]` is any other. A batch is planned, fetched and decoded together, into one
    tensor where its clips have one shape; `torch.utils.data.DataLoader` asks for batches in this way by itself. Its
    `default_collate` is right for the samples; `collate_fn=lazyvid.training.collate_clips` spares a copy of the pixels.

    A sample is a dict of torch tensors: `frames` uint8 [T, C, H, W] (or as the videos' `channel_format` says),
    `timestamps` float64 [T] in seconds, `frame_indices` int64 [T] in the whole video, `is_pad` bool [T], and
    `video_id`, an int. With cameras by name there is one such dict under each name.

    The dataset holds videos, not clips or open files: it may be pickled and used by workers of any start method.

    Args:
        videos: `LazyVideo`s or URIs, or one folder (with those below it) or glob; or a mapping from a camera's name to
            any of these, one video a recording. The clips of several cameras are cut by the first one's frames; the
            others give their nearest frame to each of its times.
        clip: How clips are cut. With `fps` a clip takes the nearest frame to each of its times.
        transform: Called with each sample; what it returns takes the sample's place.
        on_error: "raise", or "skip": a clip that cannot be read is replaced by another one (the next, then ever further
            ones, at most 16), always the same, with a warning in the log that says why. Batches keep their size. What
            `transform` raises is never skipped.
        tolerance_s: Seconds; the furthest that another camera's frame may be from the first one's. None is the median
            step of that camera.
        **video_options: For videos that are given by URI, as `LazyVideo` takes them: `storage_options`, `resize`, ...

    Raises:
        ValueError: if an argument has a wrong value, or cameras have different numbers of videos.
        ObjectNotFoundError: if a folder or glob finds no video.
        LazyVidError: if a video cannot be opened.
    """

    def __init__(
        self,
        videos: VideosLike | Mapping[str, VideosLike],
        clip: ClipSpec,
        *,
        transform: Transform | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        tolerance_s: float | None = None,
        **video_options: Any,
    ) -> None:
        if not isinstance(clip, ClipSpec):
            raise TypeError(f"Expected a ClipSpec, got {type(clip).__name__}: ClipSpec(num_frames=16), for example.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"Invalid on_error={on_error!r}: expected 'raise' or 'skip'.")
        if tolerance_s is not None and not tolerance_s >= 0:
            raise ValueError(f"Invalid tolerance_s={tolerance_s!r}: expected seconds, 0 or more, or None.")
        self.transform = transform
        self._on_error = on_error
        self._by_name = isinstance(videos, Mapping)
        self._cameras = open_cameras(videos, video_options)
        names = iter(self._cameras)
        self._leader = next(names)
        self._tolerances = {name: _tolerances(self._cameras[name], tolerance_s) for name in names}
        self._plan = ClipPlan.of(clip, self._usable(), self._cameras[self._leader])

    @property
    def clip(self) -> ClipSpec:
        """How clips are cut."""
        return self._plan.spec

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras' names; empty where there is a single one without a name."""
        return tuple(self._cameras) if self._by_name else ()

    @property
    def videos(self) -> VideoSource:
        """The (first camera's) videos; `Window.video` and `video_id` count in it."""
        return self._cameras[self._leader]

    def __len__(self) -> int:
        """Clips of the plain enumeration."""
        return len(self._plan)

    def __repr__(self) -> str:
        cameras = f", cameras={list(self.cameras)}" if self.cameras else ""
        return f"ClipDataset(videos={len(self._cameras[self._leader])}, clips={len(self)}, clip={self.clip}{cameras})"

    def window(self, index: SupportsIndex) -> Window:
        """The clip with this number as a window: `ds[i]` is `ds[ds.window(i)]`.

        Raises:
            IndexError: if there is no such clip.
        """
        return self._plan.window(operator.index(index))

    def __getitem__(self, item: SupportsIndex | Window) -> Sample:
        """One clip.

        Raises:
            IndexError: if there is no such clip, video or frame.
            ValueError: if a window ends after its video and must not be padded.
            LazyVidError: if frames cannot be read.
        """
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[SupportsIndex | Window]) -> list[Sample]:
        """Clips, in the order asked, read together.

        Raises:
            IndexError: if there is no such clip, video or frame.
            ValueError: if a window ends after its video and must not be padded.
            LazyVidError: if frames cannot be read; with `on_error="skip"`, if no other clip can be read in their place.
        """
        windows = [item if isinstance(item, Window) else self.window(item) for item in items]
        for window in windows:
            self._plan.check(window)
        try:
            samples = self._read(windows)
        except LazyVidError:
            if self._on_error == "raise":
                raise
            samples = [self._read_or_substitute(window) for window in windows]
        return samples if self.transform is None else [self.transform(sample) for sample in samples]

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, windows: Sequence[Window]) -> list[Sample]:
        """The clips of all cameras, in one go."""
        requests: list[tuple[LazyVideo, IntArray]] = []
        pads: list[BoolArray] = []
        leaders = [self._cameras[self._leader][window.video] for window in windows]
        for window, video in zip(windows, leaders, strict=True):
            positions, is_pad = self._plan.positions(window, video.timestamps)
            requests.append((video, positions))
            pads.append(is_pad)
        # Camera by camera, so that each one's clips are neighbours in memory.
        for name in self._tolerances:
            for window, (video, positions) in zip(windows, requests[: len(windows)], strict=True):
                requests.append(self._matched(name, window.video, video.timestamps[positions]))
        clips = read_clips(requests)
        by_camera = [
            [_sample(clip, pad, w.video) for clip, pad, w in zip(part, pads, windows, strict=True)]
            for part in (clips[at : at + len(windows)] for at in range(0, len(clips), len(windows)))
        ]
        if not self._by_name:
            return by_camera[0]
        return [dict(zip(self._cameras, samples, strict=True)) for samples in zip(*by_camera, strict=True)]

    def _matched(self, name: str, number: int, times: FloatArray) -> tuple[LazyVideo, IntArray]:
        """The frames of another camera at the first one's times."""
        video = self._cameras[name][number]
        positions = timing.nearest(video.timestamps, times)
        distances = np.abs(video.timestamps[positions] - times)
        worst = int(np.argmax(distances))
        tolerance = self._tolerances[name][number]
        if not distances[worst] <= tolerance:
            raise FrameTimestampError(
                f"Expected a frame of camera {name!r} ({display_uri(video.uri)}) within {tolerance} s of "
                f"{times[worst]} s, the time of a frame of camera {self._leader!r}; the nearest one is at "
                f"{video.timestamps[positions[worst]]} s. Record on one clock, leave such windows out, or set "
                "tolerance_s."
            )
        return video, positions

    def _usable(self) -> IntArray:
        """int64 [V, 2], each recording's frames [first, stop) for which all other cameras had begun and not ended."""
        leaders = self._cameras[self._leader]
        first, stop = np.zeros_like(leaders.frame_counts), leaders.frame_counts
        for name, slack in self._tolerances.items():
            others = self._cameras[name]
            begin, end = others.times_at(np.zeros_like(first)), others.times_at(others.frame_counts - 1)
            first = np.maximum(first, leaders.search(begin - slack, side="left"))
            stop = np.minimum(stop, leaders.search(end + slack, side="right"))
            stop = np.where(others.frame_counts > 0, stop, 0)
        return np.stack([first, np.maximum(first, stop)], axis=1)

    # -- substitutes --------------------------------------------------------------------------------------------------

    def _read_or_substitute(self, window: Window) -> Sample:
        """The clip, or the first of its substitutes that can be read."""
        tried = 0
        cause: LazyVidError | None = None
        for candidate in itertools.chain([window], self._substitutes(window)):
            tried += 1
            try:
                (sample,) = self._read([candidate])
            except LazyVidError as error:
                cause = error
                _log.warning("%s is skipped: %s: %s", self._named(candidate), type(error).__name__, error)
            else:
                if candidate is not window:
                    _log.warning("%s takes the place of %s", self._named(candidate), self._named(window))
                return sample
        raise LazyVidError(
            f"Expected {self._named(window)} or another clip in its place, found none that can be read among {tried}; "
            f"the last one failed with {type(cause).__name__}: {cause}"
        ) from cause

    def _substitutes(self, window: Window) -> Iterator[Window]:
        """Other clips of the same number of frames: the next one, then ever further ones."""
        count = len(self)
        origin = self._plan.index_near(window) if count else 0
        leaps = [1 << exponent for exponent in range(count.bit_length())]
        offsets = dict.fromkeys(itertools.chain(leaps, range(1, min(count + 1, 4 * _MOST_SUBSTITUTES))))
        found = 0
        for number in dict.fromkeys((origin + offset) % count for offset in offsets):
            plain = self._plan.window(number)
            stop = plain.stop if self.clip.fps is not None else plain.start + len(window)
            candidate = Window(plain.video, plain.start, stop)
            if found == _MOST_SUBSTITUTES or not self._fits(candidate, window):
                continue
            found += 1
            yield candidate

    def _fits(self, candidate: Window, window: Window) -> bool:
        if (candidate.video, candidate.start) == (window.video, window.start):
            return False
        try:
            self._plan.check(candidate)
        except ValueError:
            return False
        return True

    def _named(self, window: Window) -> str:
        return f"{window} of {display_uri(self._cameras[self._leader].uri(window.video))}"


def _sample(clip: Clip, is_pad: BoolArray, video_id: int) -> Sample:
    return {
        "frames": clip.frames,
        "timestamps": clip.timestamps,
        "frame_indices": clip.frame_indices,
        "is_pad": torch.from_numpy(is_pad.copy()),
        "video_id": video_id,
    }


def _tolerances(videos: VideoSource, tolerance_s: float | None) -> FloatArray:
    """float64 [V], seconds that a frame of each video may be away from the time that it stands for."""
    return videos.median_steps if tolerance_s is None else np.full(len(videos), float(tolerance_s))
