"""`ObjectStore`: one way to read and write objects, wherever they lie; the first station of both flows."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

from lazyvid.errors import ObjectNotFoundError, StoreError, UnsafeKeyError
from lazyvid.storage import layout, listing, local, sending, transfer
from lazyvid.storage.backend import Backend, Tuning
from lazyvid.storage.generic import FsspecBackend, backend_name
from lazyvid.storage.glob import matcher
from lazyvid.storage.http import HttpBackend
from lazyvid.storage.masking import display_uri, mask_options
from lazyvid.storage.objects import ObjectMeta, Pinning, RangeRequest, UriLike
from lazyvid.storage.options import frozen, options_for
from lazyvid.storage.pending import PendingRead, PlannedRead
from lazyvid.storage.process import process_io, wait_for
from lazyvid.storage.ranges import MergePlan, merge_ranges
from lazyvid.storage.remote_file import open_remote
from lazyvid.storage.retry import Deadline
from lazyvid.storage.s3 import S3Backend

T = TypeVar("T")

LOCAL_MAX_GAP = 4 << 10
REMOTE_MAX_GAP = 64 << 10
MOST_KEY_BYTES = 1024
"""The longest key that S3 takes."""
_GRACE_S = 5.0
_ENCODED_DOTS = re.compile(r"%2e", re.IGNORECASE)


class ObjectStore:
    """Objects in folders of this machine and in remote stores: `s3://`, `https://`, `gs://`, `memory://`, ...

    A store holds options only, never an open handle: it can be pickled, hashed, compared, and used in forked and
    spawned processes, each of which opens its own connections. Retries are its own business, and every
    call ends within a limit.

    Args:
        url: the root that relative URIs are resolved against; empty, they are relative to the working directory.
        storage_options: options for fsspec (for S3: `key`, `secret`, `profile`, `client_kwargs`, ...), or one such
            mapping per scheme: `{"s3": {...}, "https": {...}}`. They are copied. Without any, S3 finds credentials and
            `AWS_ENDPOINT_URL` in the environment, as botocore does.
        max_gap: bytes that nobody asked for and that are fetched all the same to save a request; None takes 64 KiB for
            remote stores and 4 KiB for local files.
        max_concurrency: requests in flight per call.
        deadline_s: seconds that a range read, head or whole read may take from its first request on, retries included;
            copies of whole objects and listings have no total, but end when nothing arrives for as long. The first
            call of a process makes the connection's client before it, which may take as long again.
        stall_s: seconds without a byte after which a connection is given up and the request sent again.

    Raises:
        ValueError: if a number is not positive.
    """

    __slots__ = ("_identity", "_max_gap", "_options", "_tuning", "_url")

    def __init__(
        self,
        url: UriLike = "",
        *,
        storage_options: Mapping[str, Any] | None = None,
        max_gap: int | None = None,
        max_concurrency: int = 16,
        deadline_s: float = 60.0,
        stall_s: float = 10.0,
    ) -> None:
        if max_gap is not None and max_gap < 0:
            raise ValueError(f"Invalid max_gap {max_gap}: expected a number of bytes >= 0.")
        if max_concurrency < 1 or not deadline_s > 0 or not stall_s > 0:
            raise ValueError(
                "Invalid limits: expected max_concurrency >= 1, deadline_s > 0 and stall_s > 0, found "
                f"{max_concurrency}, {deadline_s}, {stall_s}."
            )
        self._url = layout.normalise(url).rstrip("/") or "/" if os.fspath(url) else ""
        self._options: dict[str, Any] = copy.deepcopy(dict(storage_options or {}))
        self._max_gap = max_gap
        self._tuning = Tuning(max_concurrency, float(deadline_s), float(stall_s))
        self._identity = (self._url, frozen(self._options), max_gap, self._tuning)

    @property
    def url(self) -> str:
        """The root, normalised; empty without one."""
        return self._url

    @property
    def storage_options(self) -> dict[str, Any]:
        """A copy of the options, secrets included: not to be shown."""
        return copy.deepcopy(self._options)

    def __repr__(self) -> str:
        """The root and the options, secrets masked."""
        options = f", storage_options={mask_options(self._options)}" if self._options else ""
        return f"ObjectStore({display_uri(self._url)!r}{options})"

    def __eq__(self, other: object) -> bool:
        """Equal when all arguments are."""
        return self._identity == other._identity if isinstance(other, ObjectStore) else NotImplemented

    def __hash__(self) -> int:
        """By the arguments."""
        return hash(self._identity)

    def __reduce__(self) -> tuple[Any, ...]:
        """The arguments: keys travel only when they were given literally."""
        limits = (self._max_gap, self._tuning.max_concurrency, self._tuning.deadline_s, self._tuning.stall_s)
        return _restore, (self._url, self._options, *limits)

    def at(self, url: UriLike) -> ObjectStore:
        """The same store with another root."""
        limits = (self._max_gap, self._tuning.max_concurrency, self._tuning.deadline_s, self._tuning.stall_s)
        return _restore(os.fspath(url), self._options, *limits)

    def resolve(self, uri: UriLike) -> str:
        """The full URI of an object.

        Args:
            uri: relative to the root; or a URL, `file://` URL or absolute path, which stand for themselves.

        Returns:
            An absolute local path, or a URL.

        Raises:
            UnsafeKeyError: if a relative URI leaves the root, or the key is one that no store can hold.
        """
        text = os.fspath(uri)
        absolute = layout.normalise(text) if not self._url or text.startswith("/") or "://" in text else None
        if absolute is None:
            absolute = self._below_root(text)
        if absolute.startswith(("s3://", "s3a://")) and _key_bytes(absolute) > MOST_KEY_BYTES:
            raise UnsafeKeyError(f"Invalid key {absolute[:80]!r}...: expected at most {MOST_KEY_BYTES} bytes.")
        return absolute

    def _below_root(self, relative: str) -> str:
        if not relative:
            return self._url
        checked = _ENCODED_DOTS.sub(".", relative) if layout.scheme(self._url) in ("http", "https") else relative
        depth = 0
        for part in checked.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            if depth < 0:
                raise UnsafeKeyError(
                    f"Invalid relative URI {display_uri(relative)!r}: expected one below {display_uri(self._url)}."
                )
        return layout.join_uri(self._url, relative)

    def head(self, uri: UriLike) -> ObjectMeta:
        """What the store says of an object: size, etag, version, time.

        Raises:
            ObjectNotFoundError: if there is no object (a folder is none).
            StoreError: for everything else, by its subclasses.
        """
        full = self.resolve(uri)
        if _is_path(full):
            return local.head(full)
        return self._run(transfer.head(self._backend(full), full, deadline=self._deadline()))

    def exists(self, uri: UriLike) -> bool:
        """Whether there is an object, or a folder with something in it."""
        full = self.resolve(uri)
        if _is_path(full):
            return os.path.exists(full)
        try:
            self.head(full)
        except ObjectNotFoundError:
            return self._run(listing.any_below(self._backend(full), full, deadline=self._deadline()))
        return True

    def pinning(self, uri: UriLike) -> Pinning:
        """How reads of this object can be tied to the version that `head` describes; asks the store."""
        full = self.resolve(uri)
        return "stat-after" if _is_path(full) else self._backend(full).pinning(self.head(full))

    def read(self, uri: UriLike) -> bytes:
        """A whole object."""
        full = self.resolve(uri)
        if _is_path(full):
            return local.read(full)
        return self._run(transfer.read_whole(self._backend(full), full, deadline=self._deadline()))

    def open(self, uri: UriLike, *, pin: ObjectMeta | None = None) -> BinaryIO:
        """An object as a seekable file for reading; a remote one stays at the version `pin`, or that found now."""
        full = self.resolve(uri)
        if _is_path(full):
            return local.open_file(full, pin=pin)
        return open_remote(self, dataclasses.replace(pin or self.head(full), uri=full))

    def read_ranges(
        self, uri: UriLike, ranges: Sequence[tuple[int, int]], *, pin: ObjectMeta | None = None
    ) -> list[bytes]:
        """Byte ranges of one object, merged over small gaps and fetched together.

        Args:
            uri: the object.
            ranges: half-open (start, stop) byte ranges, in any order.
            pin: the version they must come from, as `head` gave it.

        Returns:
            The bytes of each range, in the order asked, each at its full length.

        Raises:
            ObjectChangedError: if the object is no longer the pinned version.
            ShortReadError: if it ends before a range does.
            StoreError: for everything else, by its subclasses.
        """
        full = self.resolve(uri)
        if _is_path(full):  # microseconds count here
            plan = self._merged(full, ranges)
            return plan.cut(local.read_spans(full, plan.spans, pin=pin))
        return self.read_many([RangeRequest(full, ranges, pin)])[0]

    def read_many(self, requests: Sequence[RangeRequest]) -> list[list[bytes]]:
        """Byte ranges of several objects, all in flight together.

        Args:
            requests: what to read; local and remote objects may be mixed.

        Returns:
            For each request, the bytes of each of its ranges.

        Raises:
            StoreError: as `read_ranges`.
        """
        return self.begin_many(requests, ahead=False).result()

    def plan_many(self, requests: Sequence[RangeRequest]) -> list[PlannedRead]:
        """What `read_many` would fetch; nothing is asked of a store.

        Raises:
            UnsafeKeyError: if a URI cannot be.
        """
        return [
            PlannedRead(full := self.resolve(request.uri), self._merged(full, request.ranges), request.pin)
            for request in requests
        ]

    def begin_many(self, requests: Sequence[RangeRequest], *, ahead: bool = True) -> PendingRead:
        """Begin what `read_many` does; its `result` waits for the bytes, or raises what went wrong.

        Args:
            requests: what to read.
            ahead: whether something else is done before `result` is called: then the system is told to read local files
                ahead.
        """
        return self.begin_planned(self.plan_many(requests), ahead=ahead)

    def begin_planned(self, reads: Sequence[PlannedRead], *, ahead: bool = True) -> PendingRead:
        """The same for what `plan_many` planned, once its size was found to be no matter."""
        spans = [
            transfer.Span(self._backend(read.uri), read.uri, start, stop, read.pin)
            for read in reads
            if not read.is_local
            for start, stop in read.plan.spans
        ]
        remote = process_io().begin(transfer.read_spans(spans, tuning=self._tuning)) if spans else None
        if ahead:
            for read in reads:
                if read.is_local:
                    local.advise(read.uri, read.plan.spans)
        return PendingRead(reads, remote, timeout_s=self._most_s())

    def _merged(self, full: str, ranges: Sequence[tuple[int, int]]) -> MergePlan:
        default = LOCAL_MAX_GAP if _is_path(full) else REMOTE_MAX_GAP
        return merge_ranges(ranges, max_gap=default if self._max_gap is None else self._max_gap)

    def write(self, uri: UriLike, data: bytes | bytearray | memoryview) -> ObjectMeta:
        """Store an object; a reader sees the old one or the new one, whole.

        Returns:
            What was stored, usable as a pin.
        """
        full = self._target(uri)
        if _is_path(full):
            return local.write(full, data)
        view = memoryview(data).cast("B")
        work = sending.write(self._backend(full), full, view, tuning=self._tuning)
        return self._checked(self._run(work, total=False), full, len(view))

    def upload(self, path: str | os.PathLike[str], uri: UriLike) -> ObjectMeta:
        """Store a local file, in parts when it is large, without reading it into memory.

        Returns:
            What lies in the store afterwards; its size was compared with the file's.
        """
        full, source = self._target(uri), layout.local_path(path)
        if _is_path(full):
            return local.copy_in(source, full)
        size = local.head(source).size
        with local.open_file(source) as file:
            descriptor = file.fileno()

            def read_at(start: int, length: int) -> bytes:
                return local.pread(descriptor, source, start, start + length)

            work = sending.upload(self._backend(full), full, source, size, read_at, tuning=self._tuning)
            return self._checked(self._run(work, total=False), full, size)

    def _checked(self, meta: ObjectMeta, uri: str, size: int) -> ObjectMeta:
        if meta.size != size:
            raise StoreError(
                f"{display_uri(uri)} was stored wrongly: expected {size} bytes, found {meta.size}. Try again."
            )
        return meta

    def download(self, uri: UriLike, path: str | os.PathLike[str], *, pin: ObjectMeta | None = None) -> ObjectMeta:
        """Copy a whole object to a local file, which appears only when it is complete.

        Args:
            uri: the object.
            path: where to; folders are made.
            pin: the version that is wanted.

        Returns:
            What was copied.

        Raises:
            StoreTimeoutError: if no byte arrives for `deadline_s`, or three connections in a row stall.
            StoreError: for everything else, by its subclasses.
        """
        full, target = self.resolve(uri), layout.local_path(path)
        if _is_path(full):
            meta = pin or local.head(full)
            local.copy_in(full, target, pin=meta)
            return meta
        with local.translated("write", target), local.AtomicFile(target) as descriptor:

            def sink(at: int, chunk: bytes) -> None:
                with local.translated("write", target):  # else it would pass for a failure of the store
                    local.write_all(descriptor, chunk, at=at)

            work = transfer.copy_out(self._backend(full), full, sink, pin=pin, tuning=self._tuning)
            meta = self._run(work, total=False)
            return self._checked(meta, full, os.fstat(descriptor).st_size)

    def delete(self, uri: UriLike) -> None:
        """Remove an object, or a folder with all that lies below it.

        Raises:
            ObjectNotFoundError: if there is neither.
            UnsafeKeyError: if it is the root, or a whole bucket.
        """
        full = self._target(uri)
        if _is_path(full):
            local.delete(full)
        else:
            self._run(listing.remove(self._backend(full), full, tuning=self._tuning), total=False)

    def list(self, prefix: UriLike = "", *, glob: str | None = None) -> list[ObjectMeta]:
        """Every object below a folder.

        Args:
            prefix: the folder; an object is listed as itself. A folder that does not exist has no objects, in every
                store. Files that writers have not finished, and S3's folder markers, are no objects.
            glob: which of them, by their path below the folder: `*` and `?` stay within one folder, `**/` crosses any
                number of them. `*.mp4` is the folder's own, `**/*.mp4` all of them.

        Returns:
            The objects, sorted by URI. HTTP servers have no listings; their index pages are followed.
        """
        full = self.resolve(prefix)
        if _is_path(full):
            found = local.walk(full)
        else:
            found = self._run(listing.list_below(self._backend(full), full, tuning=self._tuning), total=False)
        if glob is None:
            return found
        matches = matcher(glob)
        return [meta for meta in found if matches(layout.relative_uri(meta.uri, base=full).removeprefix("./"))]

    def _target(self, uri: UriLike) -> str:
        """The URI of an object that is to be written or removed; never a whole store."""
        full = self.resolve(uri)
        path = layout.split(full)[1].strip("/")
        if not path or full.rstrip("/") == self._url:
            raise UnsafeKeyError(f"Invalid target {display_uri(full)!r}: expected an object below the root or bucket.")
        if not _is_path(full) and full.endswith("/"):
            raise UnsafeKeyError(f"Invalid target {display_uri(full)!r}: expected a key that does not end in '/'.")
        return full

    def _deadline(self) -> Deadline:
        return Deadline(self._tuning.deadline_s)

    def _backend(self, uri: str) -> Backend:
        name = backend_name(uri)
        options = options_for(name, self._options, root_scheme=backend_name(self._url) if self._url else None)

        def make() -> Backend:
            if name == "s3":
                return S3Backend(options, self._tuning)
            return HttpBackend(options, self._tuning) if name == "http" else FsspecBackend(name, options, self._tuning)

        key = (name, frozen(options), self._tuning.max_concurrency, self._tuning.stall_s)
        return process_io().handle(key, make)

    def _run(self, work: Coroutine[Any, Any, T], *, total: bool = True) -> T:
        return wait_for(process_io().begin(work), timeout_s=self._most_s() if total else None)

    def _most_s(self) -> float:
        """Seconds after which a call is given up that should have ended by itself: to get ready, and to do it."""
        return 2 * self._tuning.deadline_s + _GRACE_S


def _is_path(resolved: str) -> bool:
    """Whether a resolved URI is a local path: cheaper than `layout.is_local`, which takes any URI."""
    return resolved.startswith("/")


def _key_bytes(uri: str) -> int:
    try:
        return len(layout.split(uri)[1].encode())
    except UnicodeEncodeError as error:  # half a character, as the name of a file of this machine may hold
        raise UnsafeKeyError(f"Invalid key {uri[:80]!r}: expected text that can be written as UTF-8.") from error


def _restore(url: str, options: dict[str, Any], *limits: Any) -> ObjectStore:
    max_gap, max_concurrency, deadline_s, stall_s = limits
    return ObjectStore(
        url,
        storage_options=options,
        max_gap=max_gap,
        max_concurrency=max_concurrency,
        deadline_s=deadline_s,
        stall_s=stall_s,
    )
