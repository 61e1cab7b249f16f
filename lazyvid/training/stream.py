"""`ClipStream`: clips as an iterable dataset, dealt to ranks and workers, with the bytes of what follows on their way.

sampler ─▶ stream_plan.py ─▶ this worker's batches ─▶ begin, begin, ... ─▶ decode, transform, collate ─▶ batch
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from torch.utils.data import IterableDataset, get_worker_info

from lazyvid.arguments import check_word
from lazyvid.frames import ClipSpec, Window
from lazyvid.training.checks import check_before_sending
from lazyvid.training.clip_dataset import ClipDataset, Transform
from lazyvid.training.collate import collate_clips
from lazyvid.training.samplers import (
    BlockShuffleSampler,
    ClipSampler,
    DistributedClipSampler,
    SequentialClipSampler,
)
from lazyvid.training.skipping import OnError
from lazyvid.training.sources import VideosLike
from lazyvid.training.stream_plan import SharedPlace, StreamPlan, StreamRun

_BATCHES_AHEAD, _CLIPS_AHEAD = 2, 8


class PendingSamples(Protocol):
    """Samples that are on their way."""

    def result(self) -> list[Any]:
        """The samples, once they are there."""

    def cancel(self) -> None:
        """Give up what has not been read."""


class StreamedDataset(Protocol):
    """What a stream reads from."""

    def begin(self, items: Sequence[Any]) -> PendingSamples:
        """Start to fetch the samples of some windows."""


class ClipStream(IterableDataset[Any]):
    """Clips in a stream: an epoch, or one epoch after the other without end.

    Every window of the sampler's plan is given once an epoch, by one rank and one worker. With `batch_size` the stream
    makes the batches itself, and `DataLoader(stream, batch_size=None, num_workers=n)` gives the same ones in the same
    order for every n: worker w reads the batches w, w + n, w + 2 n, ... Without it, the stream gives single clips; so a
    `DataLoader(stream, batch_size=b)` gives each clip once, too, but which ones share a batch depends on n.

    Call `set_epoch` before each epoch, unless the stream is endless; it reaches persistent workers, too. A state is the
    same on each rank and fits any number of workers and ranks. Where workers iterate, whoever counts the batches that
    the loader delivered asks for `state_at(count)`.

    Iterating starts no thread of its own: the process's I/O thread fetches, `next` decodes. An iterator that is dropped
    half-way gives up what it had begun to fetch.

    Args:
        videos: As for `ClipDataset`.
        clip: As for `ClipDataset`.
        batch_size: Clips of a batch, on each rank; None gives single clips.
        drop_last: Leave out an epoch's last batch where it is smaller.
        shuffle: Draw windows anew for each epoch, in random order with neighbours in bytes together
            (`BlockShuffleSampler`); else take them in order (`SequentialClipSampler`).
        seed: The order is a pure function of it and the epoch.
        sampler: What is drawn, instead of what `shuffle` and `seed` say.
        epochs: 1, or None for one epoch after the other without end.
        num_replicas: Ranks; None asks `torch.distributed`, and is 1 where no group is initialised.
        rank: This one; None likewise, and 0.
        uneven: When windows do not go round evenly, "drop" leaves some out, "pad" repeats some: ranks stay in step.
        ahead: Batches (or single clips) whose bytes are fetched before they are asked for; None is 2 batches, 8 clips.
        collate_fn: Makes a batch of samples.
        transform: As for `ClipDataset`.
        on_error: As for `ClipDataset`; but only windows of the sampler take the places of others.
        max_error_rate: As for `ClipDataset`.
        tolerance_s: As for `ClipDataset`.
        **video_options: As for `ClipDataset`.

    Raises:
        ValueError: if an argument has a wrong value, or an epoch has no batch.
        ObjectNotFoundError: if a folder or glob finds no video.
        LazyVidError: if a video cannot be opened.
    """

    def __init__(
        self,
        videos: VideosLike | Mapping[str, VideosLike],
        clip: ClipSpec | Mapping[str, ClipSpec],
        *,
        batch_size: int | None = None,
        drop_last: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        sampler: ClipSampler | None = None,
        epochs: Literal[1] | None = 1,
        num_replicas: int | None = None,
        rank: int | None = None,
        uneven: Literal["drop", "pad"] = "drop",
        ahead: int | None = None,
        collate_fn: Callable[[Sequence[Any]], Any] = collate_clips,
        transform: Transform | None = None,
        on_error: OnError = "raise",
        max_error_rate: float | None = None,
        tolerance_s: float | None = None,
        **video_options: Any,
    ) -> None:
        _check_arguments(batch_size=batch_size, ahead=ahead, epochs=epochs, uneven=uneven, sampler=sampler)
        dataset = ClipDataset(
            videos,
            clip,
            transform=transform,
            on_error=on_error,
            max_error_rate=max_error_rate,
            tolerance_s=tolerance_s,
            **video_options,
        )
        if sampler is None:
            sampler = _sampler_of(dataset, shuffle=shuffle, seed=seed)
        dealt = DistributedClipSampler(sampler, num_replicas=num_replicas, rank=rank, uneven=uneven)
        self._set(
            dataset.replacing_from(sampler),
            dealt,
            batch_size=batch_size,
            drop_last=drop_last,
            endless=epochs is None,
            ahead=ahead,
            collate_fn=collate_fn,
        )

    @classmethod
    def over(
        cls,
        dataset: StreamedDataset,
        sampler: ClipSampler,
        *,
        batch_size: int | None = None,
        drop_last: bool = False,
        epochs: Literal[1] | None = 1,
        num_replicas: int | None = None,
        rank: int | None = None,
        uneven: Literal["drop", "pad"] = "drop",
        ahead: int | None = None,
        collate_fn: Callable[[Sequence[Any]], Any] = collate_clips,
    ) -> ClipStream:
        """A stream over a dataset that is there already, such as a LeRobot dataset.

        Args:
            dataset: What is read; its `begin` starts to fetch a batch.
            sampler: What is drawn from it.
            batch_size: As for `ClipStream`, like all others.
            drop_last: Leave out an epoch's last batch where it is smaller.
            epochs: 1, or None for a stream without end.
            num_replicas: Ranks.
            rank: This one.
            uneven: When windows do not go round evenly.
            ahead: Batches whose bytes are fetched before they are asked for.
            collate_fn: Makes a batch of samples.

        Raises:
            ValueError: if an argument has a wrong value.
        """
        _check_arguments(batch_size=batch_size, ahead=ahead, epochs=epochs, uneven=uneven, sampler=sampler)
        stream = cls.__new__(cls)
        dealt = DistributedClipSampler(sampler, num_replicas=num_replicas, rank=rank, uneven=uneven)
        stream._set(
            dataset,
            dealt,
            batch_size=batch_size,
            drop_last=drop_last,
            endless=epochs is None,
            ahead=ahead,
            collate_fn=collate_fn,
        )
        return stream

    def _set(
        self,
        dataset: StreamedDataset,
        dealt: DistributedClipSampler,
        *,
        batch_size: int | None,
        drop_last: bool,
        endless: bool,
        ahead: int | None,
        collate_fn: Callable[[Sequence[Any]], Any],
    ) -> None:
        self.dataset: Any = dataset
        self.batch_size = batch_size
        self._collate = collate_fn
        self._ahead = (_CLIPS_AHEAD if batch_size is None else _BATCHES_AHEAD) if ahead is None else ahead
        self._plan = StreamPlan(dealt, batch_size or 1, drop_last, endless=endless)
        begin = dealt.state_at(0)
        self._place = SharedPlace.at(begin["epoch"], begin["position"])
        self._seen: int | None = None  # which setting of the place was used already in this process
        self._epoch = begin["epoch"]
        self._given_before = 0  # batches that this process's next iteration leaves out
        self._run: StreamRun | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration begins in, or where the last one in this process began."""
        epoch, position, times = self._place.get()
        return self._epoch if times == self._seen else self._plan.at(epoch, position).epoch

    def __len__(self) -> int:
        """Batches (or single clips) of a whole epoch on this rank, also where an iteration begins in its middle.

        Raises:
            TypeError: if the stream is endless.
        """
        if self._plan.endless:
            raise TypeError("An endless ClipStream has no length.")
        return len(self._plan)

    def set_epoch(self, epoch: int) -> None:
        """Go to this epoch: to its begin, unless the stream is in it already.

        Raises:
            ValueError: if it is negative.
        """
        if epoch < 0:
            raise ValueError(f"Invalid epoch {epoch}: expected 0 or more.")
        if epoch != self.epoch:
            self._place.set(int(epoch), 0)

    def __iter__(self) -> Iterator[Any]:
        """The batches (or single clips), from the place that was loaded; the iteration after it begins at the epoch's.

        Raises:
            LazyVidError: if clips cannot be read.
        """
        if not len(self._plan):
            raise ValueError(
                f"Expected a batch of {self.batch_size or 1} clips or more on each rank, got "
                f"{len(self._plan.sampler)}: use drop_last=False, a smaller batch_size, or uneven='pad'."
            )
        return self._iterate()

    def _iterate(self) -> Iterator[Any]:
        run = self._begin()
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        groups = itertools.islice(run.groups(), run.given + first, None, step)
        with contextlib.closing(_read_ahead(self.dataset.begin, groups, self._ahead)) as batches:
            for samples in batches:
                run.given += step
                yield samples[0] if self.batch_size is None else self._collate(samples)

    def _begin(self) -> StreamRun:
        epoch, position, times = self._place.get()
        run = self._plan.at(self._epoch, 0) if times == self._seen else self._plan.at(epoch, position)
        run.given, self._given_before = self._given_before, 0
        self._seen, self._epoch, self._run = times, run.epoch, run
        return run

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state after what the iteration in this process has given; `state_at` where workers iterate.

        A worker's own state fits that worker alone: loaders that keep one for each may load it there.
        """
        run = self._current()
        if get_worker_info() is not None:
            return {**run.state_at(0), "given": run.given}
        return run.state_at(run.given)

    def state_at(self, consumed: int) -> dict[str, Any]:
        """The state when `consumed` batches (or single clips) were delivered on this rank since the iteration began.

        Returns:
            A dict of ints and strings, the same on each rank: version, seed, epoch, position, plan; the state of the
            sampler. All delivered, it says that the epoch is over, and the next one begins.

        Raises:
            ValueError: if the iteration does not give as many.
        """
        return self._current().state_at(consumed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration where `state` was taken, whatever the number of workers and ranks is now.

        Raises:
            ValueError: if it is the state of another plan (other videos, clips or sampler) or seed.
        """
        place = self._plan.place_of(state)
        if get_worker_info() is not None:  # each worker may be given a state of its own
            self._place = SharedPlace.at(*self._place.get()[:2])
            self._seen = None
        self._given_before = int(state.get("given", 0))
        self._place.set(*place)

    def _current(self) -> StreamRun:
        """The iteration of this process, or the one that its workers have begun or will begin."""
        epoch, position, times = self._place.get()
        return self._run if self._run is not None and times == self._seen else self._plan.at(epoch, position)

    def __getstate__(self) -> dict[str, Any]:
        check_before_sending(transform=getattr(self.dataset, "transform", None), collate_fn=self._collate)
        # A new process knows of no process group: the ranks that are settled now travel along.
        return {**self.__dict__, "_plan": self._plan.settled(), "_run": None}

    def __repr__(self) -> str:
        length = "endless" if self._plan.endless else f"{len(self._plan)} an epoch"
        return f"ClipStream({length}, batch_size={self.batch_size}, {self._plan.sampler!r})"


def _read_ahead(
    begin: Callable[[list[Window]], PendingSamples], groups: Iterable[list[Window]], ahead: int
) -> Generator[list[Any], None, None]:
    """The samples of each group; `ahead` groups more have been begun when one is given out."""
    pending: deque[PendingSamples] = deque()
    try:
        for group in groups:
            pending.append(begin(group))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for batch in pending:
            batch.cancel()


def _sampler_of(dataset: ClipDataset, *, shuffle: bool, seed: int) -> ClipSampler:
    if shuffle:
        return BlockShuffleSampler(dataset, seed=seed)
    tail: Literal["drop", "pad"] = "pad" if dataset.clip.pad == "repeat" else "drop"
    return SequentialClipSampler(dataset, seed=seed, tail=tail)


def _check_arguments(
    *, batch_size: int | None, ahead: int | None, epochs: int | None, uneven: str, sampler: ClipSampler | None
) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("ahead", ahead, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"Invalid {name}={value!r}: expected an int, {least} or more, or None.")
    if epochs not in (1, None):
        raise ValueError(f"Invalid epochs={epochs!r}: expected 1, or None for a stream without end.")
    check_word("uneven", uneven, ("drop", "pad"))
    if isinstance(sampler, DistributedClipSampler):
        raise ValueError(
            "Expected a sampler that is not distributed yet: the stream deals it out (num_replicas, rank)."
        )
