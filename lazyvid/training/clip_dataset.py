"""`ClipDataset`: clips of videos as a map-style dataset that reads a whole batch at once.

Above `LazyVideo`, below samplers and loaders: `reading.py` says how windows become samples, `skipping.py` what happens
to those that cannot be read, `prefetched.py` keeps what is fetched early, `collate.py` makes batches.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

from torch.utils.data import Dataset

from lazyvid.arguments import check_word
from lazyvid.frames import ClipSpec, Window
from lazyvid.training.checks import check_before_sending
from lazyvid.training.extents import Extents
from lazyvid.training.prefetched import Prefetched
from lazyvid.training.reading import ClipReader, PendingSamples, Sample
from lazyvid.training.samplers import ClipSampler
from lazyvid.training.seeding import transformed
from lazyvid.training.skipping import ErrorBudget, OnError, Skipping
from lazyvid.training.sources import VideosLike, VideoSource, open_cameras
from lazyvid.training.substitutes import FromPlan, FromSampler

Transform = Callable[[Sample], Any]
Item = SupportsIndex | Window


class ClipDataset(Dataset[Any]):
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
        videos: `LazyVideo`s or URIs, or one folder (with those below it) or glob, or a `Catalog`; or a mapping from a
            camera's name to any of these, one video a recording. The first camera's frames cut the clips.
        clip: How clips are cut. With `fps` a clip takes the nearest frame to each of its times. Of several cameras, the
            others give their nearest frame to each of the first one's times; or `clip` is a mapping from cameras to
            their own specs, each at its own rate: such a camera's clip begins with its nearest frame to the time of the
            first one's first frame, and goes on as its spec says.
        transform: Called with each sample; what it returns takes the sample's place. For a `Window` with a seed, as
            samplers draw it, the global generators of torch, numpy and `random` are seeded with it for the call.
        on_error: "raise", or "skip": a clip that cannot be read is replaced by another one (the next, then ever further
            ones, at most 16), always the same, with a warning in the log that says why; `read_stats` counts them as
            `samples_skipped`. Batches keep their size. What `transform` raises is never skipped.
        max_error_rate: With "skip", the share of the clips asked for that may be skipped, in [0, 1], counted in each
            process once it has asked for 100; None is no bound.
        tolerance_s: Seconds; the furthest that another camera's frame may be from the time that it stands for. None is
            the median step of that video.
        **video_options: For videos that are given by URI, as `LazyVideo` takes them: `storage_options`, `resize`, ...

    Raises:
        ValueError: if an argument has a wrong value, or cameras have different numbers of videos.
        ObjectNotFoundError: if a folder or glob finds no video.
        LazyVidError: if a video cannot be opened.
    """

    def __init__(
        self,
        videos: VideosLike | Mapping[str, VideosLike],
        clip: ClipSpec | Mapping[str, ClipSpec],
        *,
        transform: Transform | None = None,
        on_error: OnError = "raise",
        max_error_rate: float | None = None,
        tolerance_s: float | None = None,
        **video_options: Any,
    ) -> None:
        check_word("on_error", on_error, ("raise", "skip"))
        if max_error_rate is not None and on_error == "raise":
            raise ValueError(f"Expected on_error='skip' with max_error_rate={max_error_rate}, got 'raise'.")
        if tolerance_s is not None and not tolerance_s >= 0:
            raise ValueError(f"Invalid tolerance_s={tolerance_s!r}: expected seconds, 0 or more, or None.")
        self.transform = transform
        cameras = open_cameras(videos, video_options)
        has_names = isinstance(videos, Mapping)
        self._reader = ClipReader.of(cameras, clip, tolerance_s=tolerance_s, has_names=has_names)
        self._skipping = Skipping(
            on_error, ErrorBudget(max_error_rate), FromPlan(self._reader.plan), self._reader.named
        )
        self._prefetched: Prefetched[PendingSamples] = Prefetched()

    @property
    def clip(self) -> ClipSpec:
        """How clips are cut; of several cameras, by the first one's spec."""
        return self._reader.plan.spec

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras' names; empty where there is a single one without a name."""
        return tuple(self._reader.cameras) if self._reader.has_names else ()

    @property
    def videos(self) -> VideoSource:
        """The (first camera's) videos; `Window.video` and `video_id` count in it."""
        return self._reader.leader

    @property
    def extents(self) -> Extents:
        """The frames of each recording that clips may use, and its encoded bytes: what samplers draw from."""
        return self._reader.extents

    @property
    def window_length(self) -> int:
        """Frames of a window that holds a clip, at the video's own rate; with `fps`, in any of the videos."""
        return self._reader.plan.window_length

    def __len__(self) -> int:
        """Clips of the plain enumeration."""
        return len(self._reader.plan)

    def __repr__(self) -> str:
        cameras = f", cameras={list(self.cameras)}" if self.cameras else ""
        return f"ClipDataset(videos={len(self.videos)}, clips={len(self)}, clip={self.clip}{cameras})"

    def window(self, index: SupportsIndex) -> Window:
        """The clip with this number as a window: `ds[i]` is `ds[ds.window(i)]`.

        Raises:
            IndexError: if there is no such clip.
        """
        return self._reader.plan.window(operator.index(index))

    def __getitem__(self, item: Item) -> Any:
        """One clip.

        Raises:
            IndexError: if there is no such clip, video or frame.
            ValueError: if a window ends after its video and must not be padded.
            LazyVidError: if frames cannot be read.
        """
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[Item]) -> list[Any]:
        """Clips, in the order asked, read together.

        Raises:
            IndexError: if there is no such clip, video or frame.
            ValueError: if a window ends after its video and must not be padded.
            LazyVidError: if frames cannot be read; with `on_error="skip"`, if no other clip can be read in their place,
                or too many were skipped.
        """
        windows = self._windows(items)
        return self._finish(windows, self._prefetched.pop(tuple(windows)) or self._reader.begin(windows))

    def prefetch(self, items: Sequence[Item]) -> None:
        """Begin to fetch what `__getitems__` of these items will need, and return at once.

        What goes wrong is raised there. The bytes of the last 16 batches that were announced are kept, in this process
        alone, until they are asked for.
        """
        with contextlib.suppress(IndexError, TypeError, ValueError):
            windows = self._windows(items)
            self._prefetched.add(tuple(windows), lambda: self._reader.begin(windows))

    def forget_prefetched(self) -> None:
        """Give up what `prefetch` began and nobody has asked for."""
        self._prefetched.clear()

    def begin(self, items: Sequence[Item]) -> PendingBatch:
        """Begin to read clips: `begin(items).result()` is `__getitems__(items)`.

        Returns:
            The samples to come; to be cancelled when nobody wants them any more.

        Raises:
            IndexError: if there is no such clip, video or frame.
            ValueError: if a window ends after its video and must not be padded.
        """
        windows = self._windows(items)
        return PendingBatch(self, windows, self._reader.begin(windows))

    def replacing_from(self, sampler: ClipSampler) -> ClipDataset:
        """The same dataset, in which only windows of this sampler take the places of clips that cannot be read.

        The next clip of the plain enumeration may be one that the sampler leaves out, such as one of another split.
        `ClipLoader` and `ClipStream` read from this; where nothing is skipped, it is the dataset itself.
        """
        if self._skipping.on_error == "raise":
            return self
        other = type(self).__new__(type(self))
        other.__dict__ = {**self.__dict__, "_skipping": replace(self._skipping, substitutes=FromSampler.of(sampler))}
        return other

    def __getstate__(self) -> dict[str, Any]:
        check_before_sending(transform=self.transform)
        return self.__dict__

    def _windows(self, items: Sequence[Item]) -> list[Window]:
        windows = [item if isinstance(item, Window) else self.window(item) for item in items]
        for window in windows:
            self._reader.plan.check(window)
        return windows

    def _finish(self, windows: Sequence[Window], pending: PendingSamples) -> list[Any]:
        samples = self._skipping.read(windows, pending.result, self._reader.read)
        if self.transform is None:
            return samples
        return [transformed(self.transform, s, window.seed) for s, window in zip(samples, windows, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class PendingBatch:
    """Samples that are on their way, as `ClipDataset.begin` gives them; belongs to the process that began it."""

    dataset: ClipDataset
    windows: Sequence[Window]
    samples: PendingSamples

    def result(self) -> list[Any]:
        """Wait for the bytes, decode and transform.

        Raises:
            LazyVidError: as `ClipDataset.__getitems__`.
        """
        return self.dataset._finish(self.windows, self.samples)

    def cancel(self) -> None:
        """Give up what has not arrived."""
        self.samples.cancel()
