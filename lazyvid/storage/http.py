"""Objects behind plain HTTP(S) URLs, presigned ones too, through fsspec's aiohttp session."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from lazyvid.errors import ObjectChangedError, StoreError, UnsafeKeyError
from lazyvid.stats import count
from lazyvid.storage import local
from lazyvid.storage.answers import Explainer, body_length, content_range, http_date, range_header
from lazyvid.storage.backend import READ_BYTES, Body, Tuning
from lazyvid.storage.filesystems import make_filesystem
from lazyvid.storage.layout import split
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta, Pinning
from lazyvid.storage.retry import TransientFault

_NO_HEAD = frozenset({400, 401, 403, 405, 501})
_LINKED_AT_ONCE = 8


class HttpBackend:
    """One set of HTTP options, in this process."""

    parallel_copies = False  # a server that cannot send ranges can still be copied from

    def __init__(self, options: Mapping[str, Any], tuning: Tuning) -> None:
        self._answered: set[str] = set()
        given = "headers, auth or cookies in storage_options" if options else "none in storage_options"
        self.explainer = Explainer(options, credentials=f"{given}, or those in the URL itself")
        self._fs = make_filesystem("http", options)
        self._own_timeout = "timeout" in self._fs.kwargs or "timeout" in self._fs.client_kwargs
        self._stall_s = tuning.stall_s

    @contextlib.asynccontextmanager
    async def _ask(
        self, method: str, uri: str, *, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> AsyncIterator[Any]:
        import aiohttp

        session = await self._fs.set_session()
        arguments = dict(self._fs.kwargs)
        # A compressed body would have other offsets than the object.
        arguments["headers"] = {**arguments.get("headers", {}), "Accept-Encoding": "identity", **(headers or {})}
        if not self._own_timeout:
            arguments["timeout"] = aiohttp.ClientTimeout(
                total=None, sock_connect=self._stall_s, sock_read=self._stall_s
            )
        count(requests=1)
        async with session.request(method, self._fs.encode_url(uri), data=data, **arguments) as answer:
            self._answered.add(split(uri)[0])
            yield answer

    def _check(self, answer: Any, uri: str) -> None:
        if answer.status >= 400:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            raise self.explainer.status(answer.status, uri, reason=answer.reason or "", headers=headers)

    @property
    def is_ready(self) -> bool:
        """Whether there is a session."""
        return self._fs._session is not None

    async def get_ready(self) -> None:
        """Make the session."""
        await self._fs.set_session()

    def has_answered(self, uri: str) -> bool:
        """Whether the URL's host has."""
        return split(uri)[0] in self._answered

    def pinning(self, pin: ObjectMeta) -> Pinning:
        """By a strong etag; a weak one promises no equal bytes."""
        return "if-match" if pin.etag else "none"

    async def head(self, uri: str) -> ObjectMeta:
        """One HEAD request; where it is refused or gives no size, as for presigned URLs, a GET of the first byte."""
        async with self._ask("HEAD", uri) as answer:
            if answer.status not in _NO_HEAD:
                self._check(answer, uri)
                if (length := body_length(answer.headers.get("Content-Length"))) is not None:
                    return _meta(uri, length, answer)
        async with self._ask("GET", uri, headers={"Range": "bytes=0-0"}) as answer:
            if answer.status == 416:  # of an empty object no byte can be asked for
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                return _meta(uri, int(total) if total.isdigit() else 0, answer)
            self._check(answer, uri)
            found = content_range(answer.headers.get("Content-Range"))
            size = found[2] if found else int(answer.headers.get("Content-Length", -1))
            if size < 0:
                raise StoreError(
                    f"{display_uri(uri)}: the server does not tell the object's size. Copy the file first."
                )
            return _meta(uri, size, answer)

    @contextlib.asynccontextmanager
    async def body(self, uri: str, start: int, stop: int | None, pin: ObjectMeta | None) -> AsyncIterator[Body]:
        """One GET request, with `Range` and `If-Match`."""
        headers = {}
        if (header := range_header(start, stop)) is not None:
            headers["Range"] = header
        if pin is not None and pin.etag:
            headers["If-Match"] = pin.etag
        async with self._ask("GET", uri, headers=headers) as answer:
            if answer.status == 412 and pin is not None:
                found = answer.headers.get("ETag") or (await self.head(uri)).etag
                raise ObjectChangedError(
                    f"{display_uri(uri)} has changed since it was pinned: expected etag {pin.etag}, found "
                    f"{found or 'none'}. Open it anew."
                )
            self._check(answer, uri)
            yield _body(uri, answer)

    async def put(self, uri: str, data: bytes) -> ObjectMeta:
        """One PUT request, for servers and presigned URLs that take it."""
        from lazyvid.storage.http_body import WholeBody

        body = WholeBody(len(data), lambda start, length: data[start : start + length])
        async with self._ask("PUT", uri, data=body) as answer:
            self._check(answer, uri)
            return _meta(uri, len(data), answer)

    async def start_upload(self, uri: str) -> Any:  # noqa: ARG002
        """HTTP has no uploads in parts."""
        return None

    async def put_part(self, uri: str, upload: Any, number: int, data: bytes) -> Any:
        """Never called: see `start_upload`."""
        raise NotImplementedError

    async def finish_upload(self, uri: str, upload: Any, parts: list[Any]) -> None:
        """Never called: see `start_upload`."""
        raise NotImplementedError

    async def abort_upload(self, uri: str, upload: Any) -> None:
        """Never called: see `start_upload`."""

    async def put_file(self, uri: str, path: str) -> None:
        """One PUT request that streams a file."""
        from lazyvid.storage.http_body import WholeBody

        with open(path, "rb") as file:
            descriptor = file.fileno()

            def read_at(start: int, length: int) -> bytes:
                return local.pread(descriptor, path, start, start + length)

            body = WholeBody(os.fstat(descriptor).st_size, read_at, filename=path)
            async with self._ask("PUT", uri, data=body) as answer:
                self._check(answer, uri)

    async def list_page(self, uri: str, token: Any) -> tuple[list[ObjectMeta], Any]:
        """The files that one index page links to: HTTP has no listings of its own."""
        open_folders, seen = token or ([uri.rstrip("/") + "/"], frozenset())
        folder, *rest = open_folders
        count(requests=1)
        try:
            links = await self._fs._ls_real(folder, detail=False)
        except FileNotFoundError:
            links = []  # the same answer as an empty folder of any other store
        links = [link for link in sorted(set(links)) if "?" not in link and link.startswith(folder) and link != folder]
        folders = [link for link in links if link.endswith("/") and link not in seen]
        gate = asyncio.Semaphore(_LINKED_AT_ONCE)

        async def head(link: str) -> ObjectMeta:
            async with gate:
                return await self.head(link)

        page = await asyncio.gather(*[head(link) for link in links if not link.endswith("/")])
        left = [*rest, *folders]
        return list(page), (left, seen | {folder, *folders}) if left else None

    async def remove(self, uri: str) -> None:
        """One DELETE request."""
        async with self._ask("DELETE", uri) as answer:
            if answer.status != 404:
                self._check(answer, uri)

    def classify(self, error: Exception, uri: str) -> TransientFault | StoreError:
        """Say what an exception of aiohttp means."""
        import aiohttp

        text = self.explainer.text(error)
        if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
            return UnsafeKeyError(f"{display_uri(uri)} is no valid URL. Expected http(s)://host/path.")
        if isinstance(error, aiohttp.ClientSSLError):
            return self.explainer.certificate(error, uri)
        if isinstance(error, TimeoutError):
            return TransientFault(text or "no byte in time", kind="timeout")
        if isinstance(error, aiohttp.ClientConnectorError):
            return TransientFault(text, kind="connect")
        if isinstance(error, aiohttp.ClientPayloadError):
            return TransientFault(text, kind="short")
        if isinstance(error, aiohttp.ClientConnectionError):
            return TransientFault(text)
        return self.explainer.exception(error, uri)

    async def close(self) -> None:
        """Close the connections."""
        if self._fs._session is not None:
            await self._fs._session.close()


def _etag(answer: Any) -> str | None:
    found: str | None = answer.headers.get("ETag")
    return None if not found or found.startswith("W/") else found


def _meta(uri: str, size: int, answer: Any) -> ObjectMeta:
    modified = http_date(answer.headers.get("Last-Modified"))
    modified_ns = None if modified is None else int(modified.timestamp()) * 1_000_000_000
    return ObjectMeta(uri, size, _etag(answer), modified_ns=modified_ns)


def _body(uri: str, answer: Any) -> Body:
    length = body_length(answer.headers.get("Content-Length"))
    found = content_range(answer.headers.get("Content-Range"))
    if answer.status == 206 and found is None:
        raise TransientFault("a partial answer that does not say which part it is", kind="short")
    start, total = (found[0], found[2]) if found else (0, -1 if length is None else length)
    # Without the time of change: the mirrors behind one name may each have their own.
    return Body(ObjectMeta(uri, total, _etag(answer)), start, length, answer.content.iter_chunked(READ_BYTES))
