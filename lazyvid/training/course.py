"""Which batches a loader gives, and how far it is: over a sampler's items, or over a stream that makes its own batches.

Pure bookkeeping: `processes.py` and `threads.py` read what is ordered here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from lazyvid.training.orders import BatchOrder, batch_count, batches, orders
from lazyvid.training.progress import Progress
from lazyvid.training.stream import ClipStream

State = dict[str, Any]


class Course(Protocol):
    """The batches of one epoch after the other, and a place in them."""

    @property
    def sampler(self) -> Any:
        """What `set_epoch` may be called on."""

    @property
    def epoch(self) -> int:
        """The epoch that is read, or comes next."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass reads; another one forgets the loaded place."""

    def __len__(self) -> int:
        """Batches of a whole epoch."""

    def begin(self, *, readers: int) -> Iterator[BatchOrder]:
        """Begin a pass from the loaded place on; that place is used once."""

    def deliver(self) -> None:
        """Note that the next batch of the pass was given."""

    def end_epoch(self) -> None:
        """Note that the pass has given all, and go to the next epoch."""

    def state(self) -> State:
        """The place after what was delivered; the same on every rank."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state."""


class SamplerCourse:
    """Batches of the items that a sampler draws."""

    def __init__(self, progress: Progress, *, batch_size: int, drop_last: bool) -> None:
        self._progress = progress
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._forget()

    def _forget(self) -> None:
        self._pass_epoch = self.epoch
        self._sizes: deque[int] = deque()  # of the batches that are ordered, but not delivered
        self._consumed = 0  # items of those that the pass has delivered
        self._remaining = len(self._progress)  # items that it had to deliver

    @property
    def sampler(self) -> Any:
        """The sampler, dealt out to the ranks."""
        return self._progress.sampler

    @property
    def epoch(self) -> int:
        """The sampler's."""
        return self._progress.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass reads."""
        self._progress.set_epoch(epoch)

    def __len__(self) -> int:
        return batch_count(len(self._progress), self._batch_size, drop_last=self._drop_last)

    def begin(self, *, readers: int) -> Iterator[BatchOrder]:
        """Order the epoch's batches, for `readers` that take them in turn."""
        self._forget()
        self._remaining = self._progress.remaining
        items = self._progress.begin()
        self._pass_epoch = self.epoch  # beginning may have gone to the next one
        return self._ordered(orders(batches(items, self._batch_size, drop_last=self._drop_last), readers=readers))

    def _ordered(self, made: Iterator[BatchOrder]) -> Iterator[BatchOrder]:
        for order in made:
            self._sizes.append(len(order))
            yield order

    def deliver(self) -> None:
        """Count the items of the next batch."""
        self._consumed += self._sizes.popleft()

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self._progress.end_epoch()
        self._forget()

    def state(self) -> State:
        """The sampler's state.

        Raises:
            ValueError: if the sampler's order cannot be drawn again.
        """
        # Whoever called the sampler's own `set_epoch` has gone on to another epoch, of which nothing is consumed.
        consumed = self._consumed if self._pass_epoch == self.epoch else 0
        if self._drop_last and consumed and self._remaining - consumed < self._batch_size:
            consumed = self._remaining  # what is left makes no batch: the epoch is over
        return self._progress.state(consumed)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state.

        Raises:
            ValueError: if it belongs to another plan.
        """
        self._progress.load(state)
        self._forget()


class StreamCourse:
    """Batches that a stream makes itself."""

    def __init__(self, stream: ClipStream) -> None:
        self._stream = stream
        self._pass_epoch = self.epoch
        self._delivered = 0  # batches of the pass
        self._is_placed = True  # whether the stream stands where the next pass is to begin

    @property
    def sampler(self) -> Any:
        """The stream, which has the epochs."""
        return self._stream

    @property
    def epoch(self) -> int:
        """The stream's."""
        return self._stream.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass reads."""
        self._stream.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._stream)

    def begin(self, *, readers: int) -> Iterator[BatchOrder]:  # noqa: ARG002 - the stream deals to its readers itself
        """Nothing is ordered: the stream's readers know what to read."""
        if not self._is_placed:
            # Only the workers know that the place which was loaded is used up.
            self._stream.load_state_dict({**self._stream.state_at(0), "position": 0})
        self._pass_epoch, self._delivered, self._is_placed = self.epoch, 0, False
        return iter(())

    def deliver(self) -> None:
        """Count the batch."""
        self._delivered += 1

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self._stream.set_epoch(self._stream.epoch + 1)
        self._delivered, self._is_placed = 0, True

    def state(self) -> State:
        """The stream's state."""
        return self._stream.state_at(self._delivered if self._pass_epoch == self.epoch else 0)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state.

        Raises:
            ValueError: if it belongs to another plan.
        """
        self._stream.load_state_dict(dict(state))
        self._delivered, self._is_placed = 0, True
