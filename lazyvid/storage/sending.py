"""Stores objects in `Backend`s: whole, or in parts where they are large; the way out of both flows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from lazyvid.storage.backend import Backend, Tuning
from lazyvid.storage.objects import ObjectMeta
from lazyvid.storage.ranges import split_span
from lazyvid.storage.retry import Deadline, TransientFault
from lazyvid.storage.transfer import attempt, head, together

T = TypeVar("T")

PART_BYTES = 16 << 20
_PARTS_AT_ONCE = 4
_MOST_PARTS = 10_000
_SLOWEST_BYTES_PER_S = 64 << 10
"""A part that travels more slowly than this is taken for stalled."""


async def copy_in(
    backend: Backend, uri: str, size: int, read_at: Callable[[int, int], bytes], *, tuning: Tuning
) -> ObjectMeta | None:
    """Store `size` bytes, in parts when there are many; None where the store takes no parts and they are many.

    Args:
        backend: where to.
        uri: the object.
        size: bytes.
        read_at: gives `length` bytes from `start`.
        tuning: the store's limits.
    """
    part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))

    def limit(length: int) -> Deadline:
        return Deadline(tuning.deadline_s + length / _SLOWEST_BYTES_PER_S)

    if size <= part_bytes:
        data = read_at(0, size)
        put = partial(_moving, partial(backend.put, uri, data), size, tuning)
        return await attempt(backend, uri, "write", put, deadline=limit(size))
    upload = await attempt(backend, uri, "write", partial(backend.start_upload, uri), deadline=limit(0))
    if upload is None:
        return None

    async def part(number: int, start: int, stop: int) -> Any:
        data = read_at(start, stop - start)
        send = partial(_moving, partial(backend.put_part, uri, upload, number, data), stop - start, tuning)
        return await attempt(backend, uri, "write", send, deadline=limit(stop - start))

    try:
        spans = split_span(0, size, part_bytes=part_bytes)
        work = [partial(part, number, start, stop) for number, (start, stop) in enumerate(spans, 1)]
        parts = await together(work, at_most=min(_PARTS_AT_ONCE, tuning.max_concurrency))
        finish = partial(backend.finish_upload, uri, upload, parts)
        await attempt(backend, uri, "write", finish, deadline=limit(0))
    except BaseException:
        await asyncio.shield(_abort(backend, uri, upload))
        raise
    return await head(backend, uri, deadline=limit(0))


async def _moving(send: Callable[[], Awaitable[T]], size: int, tuning: Tuning) -> T:
    """One try, given up where it stalls: a client that waits for leave to send its bytes has no limit of its own."""
    seconds = tuning.stall_s + size / _SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(seconds) as limit:
            return await send()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TransientFault(f"{size} bytes were not taken within {seconds:.3g} s", kind="timeout") from error


async def _abort(backend: Backend, uri: str, upload: Any) -> None:
    """Parts that are left lying cost their owner money; but the failure that brought us here is what counts."""
    await asyncio.wait([asyncio.ensure_future(backend.abort_upload(uri, upload))], timeout=5.0)


async def write(backend: Backend, uri: str, data: memoryview, *, tuning: Tuning) -> ObjectMeta:
    """Store what is in memory, in parts where the store takes parts."""

    def read_at(start: int, length: int) -> bytes:
        return bytes(data[start : start + length])

    meta = await copy_in(backend, uri, len(data), read_at, tuning=tuning)
    if meta is None:
        limit = Deadline(tuning.deadline_s + len(data) / _SLOWEST_BYTES_PER_S)
        whole = bytes(data)
        put = partial(_moving, partial(backend.put, uri, whole), len(data), tuning)
        meta = await attempt(backend, uri, "write", put, deadline=limit)
    return meta


async def upload(
    backend: Backend, uri: str, path: str, size: int, read_at: Callable[[int, int], bytes], *, tuning: Tuning
) -> ObjectMeta:
    """Store a local file; returns what the store says afterwards."""
    if await copy_in(backend, uri, size, read_at, tuning=tuning) is None:
        limit = Deadline(tuning.deadline_s + size / _SLOWEST_BYTES_PER_S)
        put = partial(_moving, partial(backend.put_file, uri, path), size, tuning)
        await attempt(backend, uri, "write", put, deadline=limit)
    return await head(backend, uri, deadline=Deadline(tuning.deadline_s))
