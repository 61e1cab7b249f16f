"""`DecoderPool`: decoder contexts of this process, lent out one user at a time and kept for the next."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lazyvid.decoding.decoder import PacketDecoder
from lazyvid.decoding.plan import Standing
from lazyvid.index.frame_index import Source

_MOST_STANDING = 4
"""Contexts of one kind that stand somewhere before one of them is restarted for something else."""

_STREAMS_NOTED = 64
"""Streams of which it is known where they were read last."""

_PICTURES_HELD = 8
"""Pictures that a context keeps alive between uses, for the estimate of its bytes; references are freed on restart."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What two sources must share for one context to serve both."""

    codec: str
    extradata: bytes
    size: tuple[int, int]
    colours: tuple[int, int, int, int]

    @classmethod
    def of(cls, source: Source) -> _Key:
        colours = (source.color_range, source.colorspace, source.color_primaries, source.color_trc)
        return cls(source.codec, source.extradata, (source.width, source.height), colours)

    @property
    def bytes_estimate(self) -> int:
        return self.size[0] * self.size[1] * 2 * _PICTURES_HELD


@dataclass(slots=True)
class _Trail:
    """What is known of the reads of a stream."""

    last: int
    """Row of the last frame that was planned."""
    held_back: int = 0
    """Pictures that a decoder of it held back."""


@dataclass(slots=True)
class _Idle:
    """Contexts waiting for work, oldest first; belongs to the process that made it."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    contexts: OrderedDict[int, tuple[_Key, PacketDecoder]] = field(default_factory=OrderedDict)
    serial: int = 0
    trails: OrderedDict[Hashable, _Trail] = field(default_factory=OrderedDict)


class DecoderPool:
    """Decoder contexts by codec parameters, bounded by count and bytes. Thread-safe; empty again after a fork.

    Args:
        max_contexts: Idle contexts to keep.
        max_bytes: Estimated bytes of picture memory that idle contexts may hold.
    """

    def __init__(self, *, max_contexts: int = 16, max_bytes: int = 1 << 30) -> None:
        if max_contexts < 0 or max_bytes < 0:
            raise ValueError(f"Expected bounds of 0 or more, got {max_contexts=} and {max_bytes=}.")
        self._max_contexts = max_contexts
        self._max_bytes = max_bytes
        self._idle = _Idle()

    def _own(self) -> _Idle:
        # The parent's contexts and lock may be in use at the moment of the fork: leave them alone.
        if self._idle.pid != os.getpid():
            self._idle = _Idle()
        return self._idle

    def size(self) -> int:
        """Idle contexts held in this process."""
        return len(self._own().contexts)

    def clear(self) -> None:
        """Drop all idle contexts."""
        idle = self._own()
        with idle.lock:
            idle.contexts.clear()

    def follow(self, stream: Hashable, first: int, last: int) -> int | None:
        """Note that frames of a stream are about to be read, and see whether they follow those noted before.

        Args:
            stream: Names the stream and the bytes that it is read from.
            first: Row of the first frame.
            last: Row of the last one.

        Returns:
            None unless the frames begin behind the last ones, no further away than they span; then the next ones will,
            too. Else how many pictures a decoder of this stream is known to hold back.
        """
        idle = self._own()
        with idle.lock:
            trail = idle.trails.pop(stream, None)
            before = None if trail is None else trail.last
            idle.trails[stream] = trail = trail or _Trail(last)
            trail.last = last
            if len(idle.trails) > _STREAMS_NOTED:
                idle.trails.popitem(last=False)
        return trail.held_back if before is not None and 0 < first - before <= last - first + 1 else None

    def note_held_back(self, stream: Hashable, pictures: int) -> None:
        """Note how many pictures a decoder of a stream holds back."""
        trail = self._own().trails.get(stream)
        if trail is not None:
            trail.held_back = max(trail.held_back, pictures)

    @contextmanager
    def checkout(self, source: Source, *, serves: Callable[[Standing], bool] | None = None) -> Iterator[PacketDecoder]:
        """Lend a context for `source` to this thread alone.

        It is restarted, but for one that may go on where it stands: that one has its `standing`. What the borrower
        leaves as `standing` is kept with the context.

        After an error inside the block, or when it was fed parameter sets other than its extradata, the context is
        dropped: its state cannot be trusted.

        Args:
            source: What is to be decoded.
            serves: Whether a context that stands somewhere may go on from there; None wants a restarted one.

        Raises:
            UnsupportedCodecError: if there is no decoder for the codec.
        """
        key = _Key.of(source)
        decoder = self._take(key, serves) or PacketDecoder(source)
        yield decoder
        if not decoder.tainted:
            if decoder.standing is None:
                decoder.restart()
            self._give_back(key, decoder)

    def _take(self, key: _Key, serves: Callable[[Standing], bool] | None) -> PacketDecoder | None:
        idle = self._own()
        with idle.lock:
            free: list[int] = []
            standing: list[int] = []
            for serial, (other, decoder) in reversed(idle.contexts.items()):
                if other != key:
                    continue
                if decoder.standing is None:
                    free.append(serial)
                elif serves is not None and serves(decoder.standing):
                    del idle.contexts[serial]
                    return decoder
                else:
                    standing.append(serial)
            if not free and len(standing) < _MOST_STANDING:
                return None
            # The one used last: its memory is warm. Of those that could still go on, the one used first.
            _, decoder = idle.contexts.pop(free[0] if free else standing[-1])
        decoder.restart()
        return decoder

    def _give_back(self, key: _Key, decoder: PacketDecoder) -> None:
        idle = self._own()
        with idle.lock:
            idle.serial += 1
            idle.contexts[idle.serial] = (key, decoder)
            while idle.contexts and (
                len(idle.contexts) > self._max_contexts
                or sum(k.bytes_estimate for k, _ in idle.contexts.values()) > self._max_bytes
            ):
                idle.contexts.popitem(last=False)

    def __reduce__(self) -> tuple[type[DecoderPool], tuple[()], dict[str, int]]:
        return DecoderPool, (), {"_max_contexts": self._max_contexts, "_max_bytes": self._max_bytes}


class _Default:
    """The pool that readers of this process use when they are given none."""

    pool = DecoderPool()


def default_pool() -> DecoderPool:
    """The process's own pool."""
    return _Default.pool
