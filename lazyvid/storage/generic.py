"""Objects in any other store that fsspec opens (gs://, az://, memory://, ...), through fsspec's common calls."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from lazyvid.errors import ObjectNotFoundError, ShortReadError, StoreError
from lazyvid.stats import count
from lazyvid.storage.answers import Explainer
from lazyvid.storage.backend import Body, Tuning
from lazyvid.storage.filesystems import make_filesystem
from lazyvid.storage.layout import scheme
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta, Pinning
from lazyvid.storage.retry import TransientFault


class FsspecBackend:
    """One fsspec file system, in this process; a synchronous one is called from a few threads."""

    parallel_copies = True

    def __init__(self, name: str, options: Mapping[str, Any], tuning: Tuning) -> None:
        given = "those in storage_options" if options else "the default ones of this kind of store"
        self.explainer = Explainer(options, credentials=given)
        self._fs = make_filesystem(name, options)
        self._pool = None if self._fs.async_impl else ThreadPoolExecutor(tuning.max_concurrency, "lazyvid-fsspec")

    async def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        count(requests=1)
        if self._pool is None:
            return await getattr(self._fs, f"_{method}")(*arguments, **named)
        call = functools.partial(getattr(self._fs, method), *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _path(self, uri: str) -> str:
        return str(self._fs._strip_protocol(uri))

    is_ready = True
    """Taken for granted: fsspec has no common way to make a file system's client before its first request."""

    async def get_ready(self) -> None:
        """Never called: see `is_ready`."""

    def has_answered(self, uri: str) -> bool:  # noqa: ARG002
        """Taken for granted: what fsspec raises does not tell a dead server from another failure."""
        return True

    def pinning(self, pin: ObjectMeta) -> Pinning:
        """The object's facts are compared after it was read, where the store gives any."""
        return "stat-after" if pin.etag or pin.version or pin.modified_ns else "none"

    async def head(self, uri: str) -> ObjectMeta:
        """The facts of an object."""
        facts = await self._call("info", self._path(uri))
        if facts.get("type") == "directory" or facts.get("size") is None:
            raise ObjectNotFoundError(f"{display_uri(uri)} does not exist: expected an object, found a folder.")
        return _meta(uri, facts)

    @contextlib.asynccontextmanager
    async def body(self, uri: str, start: int, stop: int | None, pin: ObjectMeta | None) -> AsyncIterator[Body]:  # noqa: ARG002
        """The bytes, in one piece."""
        data: bytes = await self._call("cat_file", self._path(uri), start=start, end=stop)
        size = -1
        if stop is not None and len(data) != stop - start:
            size = (await self.head(uri)).size
            if stop > size:
                raise ShortReadError(
                    f"{display_uri(uri)} ends too early: expected bytes {start} to {stop}, found {size} bytes in all. "
                    "It is cut short, or its index describes another one."
                )

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        yield Body(ObjectMeta(uri, size), start, len(data), chunks())

    async def put(self, uri: str, data: bytes) -> ObjectMeta:
        """Store a whole object, and ask for its facts."""
        await self._make_folder(uri)
        await self._call("pipe_file", self._path(uri), data)
        return await self.head(uri)

    async def _make_folder(self, uri: str) -> None:
        """Stores with real folders want them first; for others this is no request that matters."""
        with contextlib.suppress(NotImplementedError, FileExistsError):
            await self._call("makedirs", self._fs._parent(self._path(uri)), exist_ok=True)

    async def start_upload(self, uri: str) -> Any:  # noqa: ARG002
        """The file system's own `put_file` does uploads in parts."""
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
        """Store a local file."""
        await self._make_folder(uri)
        await self._call("put_file", path, self._path(uri))

    async def list_page(self, uri: str, token: Any) -> tuple[list[ObjectMeta], Any]:
        """The objects of one folder."""
        base = self._path(uri).rstrip("/")
        folder, *rest = token or [base]
        try:
            entries = await self._call("ls", folder, detail=True)
        except FileNotFoundError:
            entries = []
        entries = [entry for entry in entries if entry["name"].rstrip("/") != folder.rstrip("/")]
        below = [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
        page = [
            _meta(uri.rstrip("/") + entry["name"].removeprefix(base), entry)
            for entry in entries
            if entry["type"] != "directory"
        ]
        return page, [*rest, *below] or None

    async def remove(self, uri: str) -> None:
        """Remove one object."""
        with contextlib.suppress(FileNotFoundError):
            await self._call("rm_file", self._path(uri))

    def classify(self, error: Exception, uri: str) -> TransientFault | StoreError:
        """Say what an exception of the file system means."""
        return self.explainer.exception(error, uri)

    async def close(self) -> None:
        """Close the session, where the file system keeps one in the usual place."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        session = getattr(self._fs, "_session", None)
        if session is not None:
            await session.close()


def _meta(uri: str, facts: Mapping[str, Any]) -> ObjectMeta:
    """The facts that fsspec's file systems give, each under its own names."""
    etag = facts.get("ETag") or facts.get("etag")
    version = facts.get("generation") or facts.get("version_id") or facts.get("VersionId")
    modified = next(
        (facts[name] for name in ("mtime", "modified", "last_modified", "updated", "created") if facts.get(name)), None
    )
    return ObjectMeta(uri, int(facts["size"]), etag and str(etag), version and str(version), _nanoseconds(modified))


def _nanoseconds(moment: Any) -> int | None:
    if isinstance(moment, datetime):
        return int(moment.timestamp() * 1_000_000) * 1000
    return int(moment * 1_000_000_000) if isinstance(moment, (int, float)) else None


def backend_name(uri: str) -> str:
    """The kind of store a URI belongs to: aliases of one kind share a backend."""
    name = scheme(uri)
    return {"s3a": "s3", "https": "http"}.get(name, name)
