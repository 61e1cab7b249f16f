"""The body of an HTTP request that sends an object: from its first byte each time, however often aiohttp sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

_WRITTEN_AT_ONCE = 1 << 18


class WholeBody(aiohttp.Payload):
    """Bytes that can be sent again.

    aiohttp sends a request once more by itself where a connection that it had kept fails. Of a file, or a `BytesIO`,
    some of its versions (3.11 is one) then send what they had not read yet, under the length of that: the object is cut
    short, and nobody told.

    Args:
        size: Bytes of the object.
        read_at: Gives `length` bytes from `start`, in any thread and any order.
        filename: What the type of the content is guessed from.
    """

    def __init__(self, size: int, read_at: Callable[[int, int], bytes], *, filename: str | None = None) -> None:
        super().__init__(None, filename=filename)
        self._size = self._length = size
        self._read_at = read_at

    async def write(self, writer: Any) -> None:
        """Send all of it."""
        for start in range(0, self._length, _WRITTEN_AT_ONCE):
            length = min(_WRITTEN_AT_ONCE, self._length - start)
            await writer.write(await asyncio.to_thread(self._read_at, start, length))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of it as text, for aiohttp's own messages."""
        return self._read_at(0, self._length).decode(encoding, errors)

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002
        """All of it, for whoever signs it."""
        return await asyncio.to_thread(self._read_at, 0, self._length)
