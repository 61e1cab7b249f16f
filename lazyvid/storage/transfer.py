"""Fetches bytes from `Backend`s: retries, resumes, checks lengths and versions, bounds what is in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from lazyvid.errors import LazyVidError, ObjectChangedError, ShortReadError, StoreError
from lazyvid.stats import count
from lazyvid.storage.answers import Explainer
from lazyvid.storage.backend import Backend, Body, Tuning
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta, difference
from lazyvid.storage.ranges import split_span
from lazyvid.storage.retry import Deadline, TransientFault, retrying

T = TypeVar("T")
V = TypeVar("V")

_log = logging.getLogger(__name__)

PART_BYTES = 8 << 20
"""A longer span travels in parts of this size, over several connections."""
_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Span:
    """One contiguous piece of an object, to be fetched."""

    backend: Backend
    uri: str
    start: int
    stop: int
    pin: ObjectMeta | None


async def attempt(
    backend: Backend, uri: str, action: str, work: Callable[[], Awaitable[T]], *, deadline: Deadline
) -> T:
    """Do one thing with a backend, again while it fails in a way that may pass, and explain what it raises.

    Getting the backend ready takes this machine's time, not the store's: it has a limit of its own, as long.
    """

    def explained(make: Callable[[], Awaitable[V]]) -> Callable[[], Awaitable[V]]:
        async def once() -> V:
            try:
                return await make()
            except (LazyVidError, TransientFault, MemoryError):  # the last is nothing that a store can help
                raise
            except Exception as error:
                explainer: Explainer = backend.explainer
                raise backend.classify(error, uri) from explainer.cause(error)

        return once

    what = f"Cannot {action} {display_uri(uri)}"
    if not backend.is_ready:
        await retrying(explained(backend.get_ready), what=what, deadline=Deadline(deadline.seconds))
    return await retrying(explained(work), what=what, deadline=deadline, answered=lambda: backend.has_answered(uri))


async def together(work: Sequence[Callable[[], Coroutine[Any, Any, T]]], *, at_most: int) -> list[T]:
    """Run coroutines side by side, at most so many at a time; the first failure cancels the others."""
    gate = asyncio.Semaphore(at_most)

    async def gated(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with gate:
            return await make()

    tasks = [asyncio.ensure_future(gated(make)) for make in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Transfer:
    """Fetches one range, or a whole object, into a sink; what has arrived is not asked for again."""

    def __init__(
        self,
        backend: Backend,
        uri: str,
        *,
        start: int,
        stop: int | None,
        pin: ObjectMeta | None,
        sink: Callable[[int, bytes], None],
        deadline: Deadline,
    ) -> None:
        self.backend, self.uri, self.start, self.stop = backend, uri, start, stop
        self.sink, self.deadline = sink, deadline
        self.pin = pin
        self.at = start
        self.restarts = 0
        self.meta: ObjectMeta | None = None

    async def run(self) -> ObjectMeta:
        """Fetch it all; returns what the answer says of the object."""
        await attempt(self.backend, self.uri, "read", self._once, deadline=self.deadline)
        meta = self.meta
        if meta is None:
            raise StoreError(f"{display_uri(self.uri)} could not be read: the store gave no answer. Try again.")
        return meta if meta.size >= 0 else ObjectMeta(meta.uri, self.at, meta.etag, meta.version, meta.modified_ns)

    async def _once(self) -> None:
        received = 0
        try:
            async with self.backend.body(self.uri, self.at, self.stop, self.pin) as body:
                end = self._accept(body)
                async for chunk in body.chunks:
                    received += len(chunk)
                    if end is not None and self.at + len(chunk) > end:
                        raise TransientFault(f"more bytes than the {end - self.start} asked for", kind="short")
                    self.sink(self.at - self.start, chunk)
                    self.at += len(chunk)
                    self.deadline.progress()
        finally:
            count(bytes_fetched=received)
        if end is not None and self.at < end:
            raise TransientFault(f"{self.at - self.start} of {end - self.start} bytes arrived", kind="short")

    def _accept(self, body: Body) -> int | None:
        """Check that the answer is what was asked for; returns where its bytes end in the object."""
        meta, shown = body.meta, display_uri(self.uri)
        if self.pin is not None:
            known = meta if meta.size >= 0 else ObjectMeta(meta.uri, self.pin.size, meta.etag, meta.version)
            if changed := difference(self.pin, known):
                raise ObjectChangedError(f"{shown} has changed since it was pinned: {changed}. Open it anew.")
        if self.meta is None or self.meta.etag is None:
            self.meta = meta
            if self.pin is None and meta.etag is not None and meta.size >= 0:
                self.pin = meta  # a resumed read must not be put together from two versions
        if self.stop is not None and 0 <= meta.size < self.stop:
            raise ShortReadError(
                f"{shown} ends too early: expected bytes {self.start} to {self.stop}, found {meta.size} bytes in all. "
                "It is cut short, or its index describes another one."
            )
        if body.start != self.at or (self.stop is not None and body.length not in (None, self.stop - self.at)):
            self._refuse(body)
        if self.stop is not None:
            return self.stop
        return None if body.length is None else self.at + body.length

    def _refuse(self, body: Body) -> None:
        """Other bytes than those asked for: start over where that can be right, else say so."""
        shown = display_uri(self.uri)
        whole = body.start == 0 and body.length in (None, body.meta.size)
        if whole and self.stop is None and self.restarts < _RESTARTS:
            self.restarts += 1
            _log.debug("%s: the server sends it from its start again, byte %d was asked for.", shown, self.at)
            self.at = self.start
            return
        if whole:
            raise StoreError(
                f"{shown} cannot be read in parts: the server ignores the Range header and sends the "
                'whole object. Copy it first: fetch="file".'
            )
        wanted = f"{self.at} to {self.stop}" if self.stop is not None else f"{self.at} on"
        raise TransientFault(
            f"asked for bytes {wanted}, answered with {body.length} bytes from {body.start}", kind="short"
        )


async def head(backend: Backend, uri: str, *, deadline: Deadline) -> ObjectMeta:
    """What the store says of an object."""
    return await attempt(backend, uri, "read", lambda: backend.head(uri), deadline=deadline)


async def read_whole(backend: Backend, uri: str, *, deadline: Deadline) -> bytes:
    """A whole object, in memory."""
    chunks: list[bytes] = []

    def sink(at: int, chunk: bytes) -> None:
        if at == 0:
            chunks.clear()
        chunks.append(chunk)

    await _Transfer(backend, uri, start=0, stop=None, pin=None, sink=sink, deadline=deadline).run()
    return b"".join(chunks)


async def _read_span(span: Span, deadline: Deadline) -> bytes:
    chunks: list[bytes] = []
    await _Transfer(
        span.backend,
        span.uri,
        start=span.start,
        stop=span.stop,
        pin=span.pin,
        sink=lambda _at, chunk: chunks.append(chunk),
        deadline=deadline,
    ).run()
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_spans(spans: Sequence[Span], *, tuning: Tuning) -> list[bytes]:
    """Fetch spans of any number of objects, all in flight together up to the limit; each at its full length."""
    deadline = Deadline(tuning.deadline_s)
    parts = [
        (number, Span(span.backend, span.uri, start, stop, span.pin))
        for number, span in enumerate(spans)
        for start, stop in split_span(span.start, span.stop, part_bytes=PART_BYTES)
    ]
    bodies = await together(
        [partial(_read_span, part, deadline) for _number, part in parts],
        at_most=tuning.max_concurrency,
    )
    await _check_afterwards(spans, deadline, tuning)
    joined: list[list[bytes]] = [[] for _ in spans]
    for (number, _part), body in zip(parts, bodies, strict=True):
        joined[number].append(body)
    return [pieces[0] if len(pieces) == 1 else b"".join(pieces) for pieces in joined]


async def _check_afterwards(spans: Sequence[Span], deadline: Deadline, tuning: Tuning) -> None:
    """Ask once more for the facts of the objects whose store cannot tie a read to a version."""
    pinned = {
        (span.uri, span.pin): span.backend
        for span in spans
        if span.pin is not None and span.backend.pinning(span.pin) == "stat-after"
    }

    async def check(backend: Backend, uri: str, pin: ObjectMeta) -> None:
        if changed := difference(pin, await head(backend, uri, deadline=deadline)):
            raise ObjectChangedError(f"{display_uri(uri)} has changed since it was pinned: {changed}. Open it anew.")

    work = [partial(check, backend, uri, pin) for (uri, pin), backend in pinned.items()]
    await together(work, at_most=tuning.max_concurrency)


async def copy_out(
    backend: Backend, uri: str, sink: Callable[[int, bytes], None], *, pin: ObjectMeta | None, tuning: Tuning
) -> ObjectMeta:
    """Copy a whole object into `sink(at, bytes)`: no total time, but an end when no byte arrives.

    Args:
        backend: where it lies.
        uri: the object.
        sink: takes the bytes and where in the object they belong, in any order.
        pin: the version that is wanted.
        tuning: the store's limits.

    Returns:
        What was copied.
    """
    if not backend.parallel_copies:
        deadline = Deadline(tuning.deadline_s, renewed=True)
        return await _Transfer(backend, uri, start=0, stop=None, pin=pin, sink=sink, deadline=deadline).run()
    meta = pin or await head(backend, uri, deadline=Deadline(tuning.deadline_s))

    async def part(start: int, stop: int) -> None:
        await _Transfer(
            backend,
            uri,
            start=start,
            stop=stop,
            pin=meta,
            sink=lambda at, chunk: sink(start + at, chunk),
            deadline=Deadline(tuning.deadline_s, renewed=True),
        ).run()

    parts = split_span(0, meta.size, part_bytes=PART_BYTES)
    await together([partial(part, start, stop) for start, stop in parts], at_most=tuning.max_concurrency)
    await _check_afterwards([Span(backend, uri, 0, meta.size, meta)], Deadline(tuning.deadline_s), tuning)
    return meta
