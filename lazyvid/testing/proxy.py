"""Counts what passes between a client and an HTTP server, above all an S3 server: requests, ranges, bytes, delays.

The count is taken on the wire, so that a test of bytes and round trips does not have to trust the code that it tests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from lazyvid.testing._serving import BUFFER_BYTES, Head, LoopbackServer, read_head
from lazyvid.testing.s3 import S3Server

_CHUNK = 1 << 18
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class ProxiedRequest:
    """One request that came through the proxy."""

    method: str
    path: str
    """Without the query."""
    query: str
    """Without the question mark; empty if there is none."""
    range: str | None
    """The Range header."""
    if_match: str | None
    """The If-Match header."""
    started_s: float
    """When its head had arrived, `time.monotonic()`."""
    status: int = 0
    """Of the answer; 0 while there is none."""
    bytes_down: int = 0
    """Bytes of the answer's body that were passed on so far."""
    bytes_up: int = 0
    """Bytes of the request's body that were passed on so far."""
    last_byte_s: float = 0.0
    """When the last of them was passed on, `time.monotonic()`."""


class CountingProxy(LoopbackServer):
    """A loopback HTTP/1.1 proxy before one server, as a context manager.

    Everything is passed on byte for byte, the Host header included, so that signatures stay valid.
    """

    def __init__(self, upstream_url: str, *, delay_s: float = 0.0) -> None:
        """Prepares a proxy; nothing listens before `with` or `start`.

        Args:
            upstream_url: the server, `http://host:port`.
            delay_s: seconds by which each request is delayed; may be changed while the proxy runs.
        """
        super().__init__()
        address = urlsplit(upstream_url)
        if address.scheme != "http" or address.hostname is None:
            raise ValueError(f"upstream_url is http://host:port, got {upstream_url!r}")
        self.delay_s = delay_s
        self._upstream = (address.hostname, address.port or 80)
        self._lock = threading.Lock()
        self._requests: dict[int, ProxiedRequest] = {}
        self._last = 0

    @property
    def requests(self) -> list[ProxiedRequest]:
        """The requests since the start or the last `reset`, in the order in which they came."""
        with self._lock:
            return list(self._requests.values())

    @property
    def bytes_down(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(request.bytes_down for request in self.requests)

    @property
    def bytes_up(self) -> int:
        """Bytes of all requests' bodies."""
        return sum(request.bytes_up for request in self.requests)

    def reset(self) -> None:
        """Forgets what was counted so far."""
        with self._lock:
            self._requests.clear()

    def storage_options_for(self, server: S3Server) -> dict[str, Any]:
        """The server's storage options with this proxy for an endpoint.

        Args:
            server: the S3 server behind this proxy.

        Returns:
            Options for fsspec's S3.
        """
        options = server.storage_options
        return {**options, "client_kwargs": {**options["client_kwargs"], "endpoint_url": self.endpoint_url}}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: _Connection | None = None
        try:
            while True:
                head = await read_head(reader)
                if upstream is None:
                    upstream = await asyncio.open_connection(*self._upstream, limit=BUFFER_BYTES)
                if not await self._exchange(head, (reader, writer), upstream):
                    return
        finally:
            if upstream is not None:
                upstream[1].close()

    async def _exchange(self, head: Head, client: _Connection, upstream: _Connection) -> bool:
        """Passes one request and its answer on; False when the connection ends with it."""
        request = self._begin(head)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        upstream[1].write(head.raw)
        answer = None
        if head.headers.get("expect", "").lower() == "100-continue":
            answer = await self._pass_answer_head(request, client, upstream)
            if answer.words[1] == "100":  # anything else is already the answer, and no body follows
                answer = None
        if answer is None:
            await _pass_body(client[0], upstream[1], head, lambda n: self._add(request, bytes_up=n))
            answer = await self._pass_answer_head(request, client, upstream)
        if head.words[0] != "HEAD" and answer.words[1] not in ("204", "304"):
            await _pass_body(upstream[0], client[1], answer, lambda n: self._add(request, bytes_down=n))
        await client[1].drain()
        return "close" not in (answer.headers.get("connection", "").lower(), head.headers.get("connection", "").lower())

    async def _pass_answer_head(self, request: int, client: _Connection, upstream: _Connection) -> Head:
        await upstream[1].drain()
        answer = await read_head(upstream[0])
        with self._lock:
            if request in self._requests:
                self._requests[request] = replace(self._requests[request], status=int(answer.words[1]))
        client[1].write(answer.raw)
        return answer

    def _begin(self, head: Head) -> int:
        path, _, query = head.words[1].partition("?")
        request = ProxiedRequest(
            method=head.words[0],
            path=path,
            query=query,
            range=head.headers.get("range"),
            if_match=head.headers.get("if-match"),
            started_s=time.monotonic(),
        )
        with self._lock:
            self._last += 1
            self._requests[self._last] = request
            return self._last

    def _add(self, request: int, *, bytes_down: int = 0, bytes_up: int = 0) -> None:
        """Counts bytes before they are passed on, so that whoever has received them finds them counted."""
        with self._lock:
            known = self._requests.get(request)
            if known is not None:  # else forgotten by `reset`
                self._requests[request] = replace(
                    known,
                    bytes_down=known.bytes_down + bytes_down,
                    bytes_up=known.bytes_up + bytes_up,
                    last_byte_s=time.monotonic(),
                )


async def _pass_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: Head, count: Callable[[int], None]
) -> None:
    """Passes a body on; of a chunked one only the contents are counted."""
    if head.headers.get("transfer-encoding", "").lower() != "chunked":
        await _pass_bytes(reader, writer, head.content_length, count)
        return
    size = -1
    while size:
        size_line = await reader.readuntil(b"\r\n")
        size = int(size_line.split(b";")[0], 16)
        writer.write(size_line)
        if size:
            await _pass_bytes(reader, writer, size, count)
            writer.write(await reader.readexactly(2))
    line = b""
    while line != b"\r\n":  # trailers, then an empty line
        line = await reader.readuntil(b"\r\n")
        writer.write(line)
    await writer.drain()


async def _pass_bytes(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int, count: Callable[[int], None]
) -> None:
    left = length
    while left:
        data = await reader.read(min(left, _CHUNK))
        if not data:
            raise ConnectionResetError
        count(len(data))
        writer.write(data)
        await writer.drain()
        left -= len(data)
