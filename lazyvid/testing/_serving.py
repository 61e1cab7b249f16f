"""What the fault server and the counting proxy share: a loopback server in a thread of its own, and HTTP/1.1 heads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BUFFER_BYTES = 1 << 20
_JOIN_S = 60.0


class LoopbackServer:
    """A TCP server on 127.0.0.1, run by an event loop in a daemon thread; base of the servers of this room.

    A subclass handles one connection in `_serve`. The port is chosen by the system.
    """

    def __init__(self) -> None:
        """Prepares a server; nothing listens before `with` or `start`."""
        self.port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._listening = threading.Event()

    @property
    def endpoint_url(self) -> str:
        """Where the server listens, `http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Starts listening.

        Returns:
            The server itself.

        Raises:
            RuntimeError: if it already runs, or cannot listen.
        """
        if self._thread is not None:
            raise RuntimeError(f"{type(self).__name__} already runs at {self.endpoint_url}; stop it first")
        self._listening.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name=type(self).__name__, daemon=True)
        self._thread.start()
        if not self._listening.wait(_JOIN_S):
            raise RuntimeError(f"{type(self).__name__} did not start to listen within {_JOIN_S:.0f} s")
        return self

    def stop(self) -> None:
        """Closes every connection and waits for the thread; harmless when it does not run."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stopping is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(_JOIN_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handles one connection until it ends; connection errors may leave it."""
        raise NotImplementedError

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                connections.add(task)
                task.add_done_callback(connections.discard)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self._serve(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=BUFFER_BYTES, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopping.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an HTTP/1.1 request or answer."""

    raw: bytes
    """As received, the empty line included."""
    first_line: str
    headers: Mapping[str, str]
    """By lower-case name."""

    @property
    def words(self) -> list[str]:
        """The first line's words: method, target and version; or version, status and reason."""
        return self.first_line.split(" ")

    @property
    def content_length(self) -> int:
        """The announced length of the body in bytes; 0 if none is."""
        return int(self.headers.get("content-length") or 0)


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Reads one head.

    Args:
        reader: the connection.

    Returns:
        The head.

    Raises:
        asyncio.IncompleteReadError: if the connection ended first.
    """
    raw = await reader.readuntil(b"\r\n\r\n")
    first_line, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(raw, first_line, {name.strip().lower(): value.strip() for name, _, value in pairs})
