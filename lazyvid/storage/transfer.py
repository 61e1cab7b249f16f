"""Moves bytes between a `Backend` and memory or a file: retries, resumes, checks lengths, bounds what is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lazyvid.errors import LazyVidError, ObjectChangedError, ObjectNotFoundError, ShortReadError, StoreError
from lazyvid.stats import count
from lazyvid.storage.answers import Explainer
from lazyvid.storage.backend import Backend, Body, Tuning
from lazyvid.storage.layout import split
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta, difference
from lazyvid.storage.ranges import split_span
from lazyvid.storage.retry import Deadline, TransientFault, retrying

T = TypeVar("T")

PART_BYTES = 8 << 20
"""A longer span travels in parts of this size, over several connections."""
UPLOAD_PART_BYTES = 16 << 20
_MOST_PARTS = 10_000
_SLOWEST_BYTES_PER_S = 64 << 10
"""An upload that is slower than this is taken for stalled."""
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
    """Do one thing with a backend, again while it fails in a way that may pass, and explain what it raises."""

    async def once() -> T:
        try:
            return await work()
        except (LazyVidError, TransientFault):
            raise
        except Exception as error:
            explainer: Explainer = backend.explainer
            raise backend.classify(error, uri) from explainer.cause(error)

    what = f"Cannot {action} {display_uri(uri)}"
    return await retrying(once, what=what, deadline=deadline, answered=lambda: backend.answered)


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
        whole = body.start == 0 and body.length in (None, body.meta.size)
        if whole and self.stop is None and self.restarts < _RESTARTS:
            self.restarts += 1
            self.at = self.start
            return
        if whole:
            raise StoreError(
                f"{display_uri(self.uri)} cannot be read in parts: the server ignores the Range header and sends the "
                'whole object. Copy it first: fetch="file".'
            )
        raise TransientFault(f"bytes from {body.start} instead of {self.at}", kind="short")


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
        [lambda part=part: _read_span(part, deadline) for _number, part in parts],  # type: ignore[misc]
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

    work = [lambda b=backend, u=uri, p=pin: check(b, u, p) for (uri, pin), backend in pinned.items()]  # type: ignore[misc]
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
    await together([lambda p=p: part(*p) for p in parts], at_most=tuning.max_concurrency)  # type: ignore[misc]
    if pin is None or parts:
        await _check_afterwards([Span(backend, uri, 0, meta.size, meta)], Deadline(tuning.deadline_s), tuning)
    return meta


async def copy_in(
    backend: Backend, uri: str, size: int, read_at: Callable[[int, int], bytes], *, tuning: Tuning
) -> ObjectMeta | None:
    """Store `size` bytes, in parts when there are many; None where the store takes whole objects only and they are many.

    Args:
        backend: where to.
        uri: the object.
        size: bytes.
        read_at: gives `length` bytes from `start`.
        tuning: the store's limits.
    """
    part_bytes = max(UPLOAD_PART_BYTES, -(-size // _MOST_PARTS))

    def limit(length: int) -> Deadline:
        return Deadline(tuning.deadline_s + length / _SLOWEST_BYTES_PER_S)

    if size <= part_bytes:
        data = read_at(0, size)
        return await attempt(backend, uri, "write", lambda: backend.put(uri, data), deadline=limit(size))
    upload = await attempt(backend, uri, "write", lambda: backend.start_upload(uri), deadline=limit(0))
    if upload is None:
        return None

    async def part(number: int, start: int, stop: int) -> Any:
        data = read_at(start, stop - start)
        send = lambda: backend.put_part(uri, upload, number, data)  # noqa: E731
        return await attempt(backend, uri, "write", send, deadline=limit(stop - start))

    try:
        spans = split_span(0, size, part_bytes=part_bytes)
        work = [lambda n=n, s=s: part(n, *s) for n, s in enumerate(spans, 1)]  # type: ignore[misc]
        parts = await together(work, at_most=min(4, tuning.max_concurrency))
        finish = lambda: backend.finish_upload(uri, upload, parts)  # noqa: E731
        await attempt(backend, uri, "write", finish, deadline=limit(0))
    except BaseException:
        await asyncio.shield(_abort(backend, uri, upload))
        raise
    return await head(backend, uri, deadline=limit(0))


async def _abort(backend: Backend, uri: str, upload: Any) -> None:
    """Parts that are left lying cost their owner money; but the failure that brought us here is what counts."""
    await asyncio.wait([asyncio.ensure_future(backend.abort_upload(uri, upload))], timeout=5.0)


async def write(backend: Backend, uri: str, data: memoryview, *, tuning: Tuning) -> ObjectMeta:
    """Store what is in memory, in parts where the store takes parts."""
    read_at = lambda start, length: bytes(data[start : start + length])  # noqa: E731
    meta = await copy_in(backend, uri, len(data), read_at, tuning=tuning)
    if meta is None:
        limit = Deadline(tuning.deadline_s + len(data) / _SLOWEST_BYTES_PER_S)
        whole = bytes(data)
        meta = await attempt(backend, uri, "write", lambda: backend.put(uri, whole), deadline=limit)
    return meta


async def upload(
    backend: Backend, uri: str, path: str, size: int, read_at: Callable[[int, int], bytes], *, tuning: Tuning
) -> ObjectMeta:
    """Store a local file; returns what the store says afterwards."""
    if await copy_in(backend, uri, size, read_at, tuning=tuning) is None:
        limit = Deadline(tuning.deadline_s + size / _SLOWEST_BYTES_PER_S)
        await attempt(backend, uri, "write", lambda: backend.put_file(uri, path), deadline=limit)
    return await head(backend, uri, deadline=Deadline(tuning.deadline_s))


async def list_below(backend: Backend, uri: str, *, tuning: Tuning) -> list[ObjectMeta]:
    """Every object below a folder, and the object itself when it is one; sorted by URI."""
    deadline = Deadline(tuning.deadline_s, renewed=True)
    found: list[ObjectMeta] = []
    token: Any = None
    while True:
        at = token
        page, token = await attempt(backend, uri, "list", lambda t=at: backend.list_page(uri, t), deadline=deadline)  # type: ignore[misc]
        found += page
        deadline.progress()
        if token is None:
            break
    return sorted(found or await _itself(backend, uri, deadline), key=lambda meta: meta.uri)


async def _itself(backend: Backend, uri: str, deadline: Deadline) -> list[ObjectMeta]:
    """The object of this very name, when there is one."""
    path = split(uri)[1]
    if not path or path.endswith("/"):
        return []
    try:
        return [await head(backend, uri, deadline=deadline)]
    except ObjectNotFoundError:
        return []


async def any_below(backend: Backend, uri: str, *, deadline: Deadline) -> bool:
    """Whether a folder holds anything."""
    token: Any = None
    while True:
        at = token
        page, token = await attempt(backend, uri, "list", lambda t=at: backend.list_page(uri, t), deadline=deadline)  # type: ignore[misc]
        if page or token is None:
            return bool(page)


async def remove(backend: Backend, uri: str, *, tuning: Tuning) -> None:
    """Remove an object, or every object below a folder."""
    below = await list_below(backend, uri, tuning=tuning)
    itself = await _itself(backend, uri, Deadline(tuning.deadline_s))
    found = {meta.uri: meta for meta in [*below, *itself]}
    if not found:
        raise ObjectNotFoundError(f"Cannot delete {display_uri(uri)}: there is no object or folder. Check the URI.")

    async def one(each: str) -> None:
        await attempt(backend, each, "delete", lambda: backend.remove(each), deadline=Deadline(tuning.deadline_s))

    work = [lambda each=each: one(each) for each in found]  # type: ignore[misc]
    await together(work, at_most=tuning.max_concurrency)
