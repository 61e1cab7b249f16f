"""`DecoderPool`: decoder contexts of this process, lent out one user at a time and kept for the next."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lazyvid.decoding.decoder import PacketDecoder
from lazyvid.index.frame_index import Source

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
class _Idle:
    """Contexts waiting for work, oldest first; belongs to the process that made it."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    contexts: OrderedDict[int, tuple[_Key, PacketDecoder]] = field(default_factory=OrderedDict)
    serial: int = 0


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

    @contextmanager
    def checkout(self, source: Source) -> Iterator[PacketDecoder]:
        """Lend a restarted context for `source` to this thread alone.

        After an error inside the block, or when it was fed parameter sets other than its extradata, the context is
        dropped: its state cannot be trusted.

        Raises:
            UnsupportedCodecError: if there is no decoder for the codec.
        """
        key = _Key.of(source)
        decoder = self._take(key) or PacketDecoder(source)
        yield decoder
        if not decoder.tainted:
            decoder.restart()
            self._give_back(key, decoder)

    def _take(self, key: _Key) -> PacketDecoder | None:
        idle = self._own()
        with idle.lock:
            for serial, (candidate, decoder) in reversed(idle.contexts.items()):
                if candidate == key:
                    del idle.contexts[serial]
                    return decoder
        return None

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
