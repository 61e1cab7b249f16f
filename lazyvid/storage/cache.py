"""Whole copies of objects on this machine's disk, shared by its processes; used by `fetch="file"`.

A copy is a plain file named by the hash of what it is a copy of. It appears complete or not at all, is never changed,
and is removed by unlink only, so a reader that has opened it keeps what it has. Whatever happens to the directory
(deleted, full, not writable, files cut short) costs time, never correctness: `open` and `read_many` then read from the
store.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lazyvid.errors import StoreError
from lazyvid.lru import ProcessLRU
from lazyvid.stats import count
from lazyvid.storage import local
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta, RangeRequest, UriLike
from lazyvid.storage.ranges import merge_ranges
from lazyvid.storage.store import ObjectStore

_log = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "LAZYVID_CACHE_DIR"
QUOTA_VARIABLE = "LAZYVID_CACHE_QUOTA_BYTES"
DEFAULT_QUOTA_BYTES = 10_000_000_000

_COPY_SUFFIX = ".copy"
_LOCKS = "locks"
_STALE_S = 3600.0
"""A temporary file that nobody has written to for so long was left by a process that died."""
_LOOKS = 100
"""Each process looks after the quota once for a hundredth of it that it adds in derived files."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class SegmentCache:
    """Local copies of objects, one per version, removed least recently used first.

    It holds no handle: it can be pickled, and used by any number of processes and threads at once; each object is
    downloaded once for all of them.

    Args:
        root: the directory; None takes `LAZYVID_CACHE_DIR`, else `lazyvid-cache-<user id>` in the directory for
            temporary files. It is looked up when it is needed, so a pickled cache uses the receiver's own.
        quota_bytes: the most that the copies may take together; None takes `LAZYVID_CACHE_QUOTA_BYTES`, else 10 GB.

    Raises:
        ValueError: if the quota is not positive, or the environment variable is no number.
    """

    __slots__ = ("_quota_bytes", "_root")

    def __init__(self, root: str | os.PathLike[str] | None = None, quota_bytes: int | None = None) -> None:
        self._root = os.path.abspath(os.fspath(root)) if root is not None else None
        self._quota_bytes = quota_bytes
        if self.quota_bytes <= 0:
            raise ValueError(f"Invalid quota_bytes {self.quota_bytes}: expected a number of bytes > 0.")

    @property
    def root(self) -> Path:
        """The directory that is used in this process."""
        if self._root is not None:
            return Path(self._root)
        named = os.environ.get(DIRECTORY_VARIABLE)
        return Path(named).absolute() if named else Path(tempfile.gettempdir()) / f"lazyvid-cache-{os.getuid()}"

    @property
    def quota_bytes(self) -> int:
        """The most that the copies may take together."""
        if self._quota_bytes is not None:
            return self._quota_bytes
        named = os.environ.get(QUOTA_VARIABLE)
        if not named:
            return DEFAULT_QUOTA_BYTES
        try:
            return int(named)
        except ValueError as error:
            raise ValueError(f"Invalid {QUOTA_VARIABLE} {named!r}: expected a number of bytes.") from error

    def __repr__(self) -> str:
        """The arguments, as they apply here."""
        return f"SegmentCache({str(self.root)!r}, quota_bytes={self.quota_bytes})"

    def __eq__(self, other: object) -> bool:
        """Equal when the arguments are."""
        if not isinstance(other, SegmentCache):
            return NotImplemented
        return (self._root, self._quota_bytes) == (other._root, other._quota_bytes)

    def __hash__(self) -> int:
        """By the arguments."""
        return hash((self._root, self._quota_bytes))

    def fetch(self, store: ObjectStore, uri: UriLike, *, pin: ObjectMeta | None = None) -> Path:
        """The local copy of an object, downloaded if there is none.

        Another process may remove the copy between this call and opening it, to make room; `open` and `read_many` take
        care of that.

        Args:
            store: where the object lies.
            uri: the object.
            pin: the version that is wanted; None asks the store what lies there now.

        Returns:
            The copy's path. It must not be written to.

        Raises:
            StoreError: if it cannot be kept here: the disk is full, the directory cannot be written, or the object is
                larger than the quota. Read it from the store instead, as `open` and `read_many` do.
            ObjectChangedError: if the object is no longer the pinned version and there is no copy of that.
        """
        full, meta = self._wanted(store, uri, pin)
        try:
            return self._copy(store, full, meta)
        except _NotKeptError as error:
            raise StoreError(f"No copy of {display_uri(full)} in the cache: {error}") from error.__cause__

    def derived(self, name: str, write: Callable[[BinaryIO], None]) -> Path:
        """A file made from objects, kept under the same rules as the copies; made if there is none.

        As with `fetch`, another process may remove it before it is opened: then call again.

        Args:
            name: what it is made of, and how; another name for every version. It does not show in the path.
            write: makes the file. One process at a time is at it for a name.

        Returns:
            The file's path. It must not be written to.

        Raises:
            StoreError: if it cannot be kept here: the disk is full, the directory cannot be written, or the file is
                larger than the quota.
        """
        path = self.root / (_hashed(f"derived\0{name}") + _COPY_SUFFIX)
        if _is_used(path):
            return path
        try:
            with self._usable(), self._locked(path.name):
                if _is_used(path):  # another process was quicker
                    return path
                with local.AtomicFile(str(path)) as descriptor:
                    with open(os.dup(descriptor), "wb") as file:
                        write(file)
                    size = os.fstat(descriptor).st_size
                    if size > self.quota_bytes:
                        raise _NotKeptError(f"{size} bytes are more than the quota of {self.quota_bytes}.")
                    if self._is_due(size):
                        self._make_room(needed=size)
        except _NotKeptError as error:
            raise StoreError(f"Cannot keep a file in the cache {self.root}: {error}") from error.__cause__
        return path

    def open(self, store: ObjectStore, uri: UriLike, *, pin: ObjectMeta | None = None) -> BinaryIO:
        """An object as a seekable file: its local copy, or, where none can be kept, the object itself.

        Args:
            store: where the object lies.
            uri: the object.
            pin: the version that is wanted; None takes what lies there now.

        Returns:
            A file for reading; what it reads stays the same even when the copy is removed.
        """
        full, meta = self._wanted(store, uri, pin)
        return self._opened(store, full, meta) or store.open(full, pin=meta)

    def read_many(self, store: ObjectStore, requests: Sequence[RangeRequest]) -> list[list[bytes]]:
        """Byte ranges of several objects, read from their local copies; the same answers as `ObjectStore.read_many`.

        Args:
            store: where the objects lie.
            requests: what to read.

        Returns:
            For each request, the bytes of each of its ranges.
        """
        return [self._read(store, request) for request in requests]

    def _read(self, store: ObjectStore, request: RangeRequest) -> list[bytes]:
        full, meta = self._wanted(store, request.uri, request.pin)
        file = self._opened(store, full, meta)
        if file is None:
            return store.read_ranges(full, request.ranges, pin=meta)
        with file:
            plan = merge_ranges(request.ranges, max_gap=0)
            return plan.cut([local.pread(file.fileno(), full, start, stop) for start, stop in plan.spans])

    def _wanted(self, store: ObjectStore, uri: UriLike, pin: ObjectMeta | None) -> tuple[str, ObjectMeta]:
        full = store.resolve(uri)
        return full, pin if pin is not None else store.head(full)

    def _opened(self, store: ObjectStore, uri: str, meta: ObjectMeta) -> BinaryIO | None:
        """The copy, opened; None where none can be kept."""
        for _try in range(2):
            try:
                return self._copy(store, uri, meta).open("rb")
            except FileNotFoundError as error:
                if isinstance(error, StoreError):
                    raise
                continue  # another process made room since it was fetched
            except _NotKeptError as error:
                warnings.warn(f"Reading from the store, not from the cache: {error}", RuntimeWarning, stacklevel=1)
                return None
        return None

    def _copy(self, store: ObjectStore, uri: str, meta: ObjectMeta) -> Path:
        """The path of the copy, made if need be."""
        path = self.root / (_key(uri, meta) + _COPY_SUFFIX)
        if _is_complete(path, meta):
            count(cache_hits=1)
            return path
        if meta.size > self.quota_bytes:
            raise _NotKeptError(
                f"objects of more than {self.quota_bytes} bytes (the quota) are not kept in {self.root}."
            )
        with self._usable(), self._locked(path.name):
            if _is_complete(path, meta):  # another process was quicker
                count(cache_hits=1)
                return path
            count(cache_misses=1)
            _log.debug("Copying %s (%d bytes) into %s.", display_uri(uri), meta.size, self.root)
            self._make_room(needed=meta.size)
            store.download(uri, path, pin=meta)
            self._make_room(keep=path)
        return path

    def discard(self, store: ObjectStore, uri: UriLike, *, pin: ObjectMeta | None = None) -> None:
        """Remove the copy of an object, where there is one: it was found to be damaged.

        Args:
            store: where the object lies.
            uri: the object.
            pin: the version; None asks the store what lies there now.
        """
        _log.debug("Removing the copy of %s: its bytes are not those of the object.", display_uri(uri))
        with contextlib.suppress(OSError):
            (self.root / (_key(*self._wanted(store, uri, pin)) + _COPY_SUFFIX)).unlink()

    def size(self) -> int:
        """The bytes that the copies take now."""
        return sum(facts.st_size for _path, facts in self._copies())

    def clear(self) -> None:
        """Remove every copy and every unfinished one. Readers that have one open keep it."""
        for path, _facts in [*self._copies(), *self._unfinished()]:
            with contextlib.suppress(OSError):
                path.unlink()

    def _copies(self) -> list[tuple[Path, os.stat_result]]:
        return [(path, facts) for path, facts in self._files() if path.suffix == _COPY_SUFFIX]

    def _unfinished(self) -> list[tuple[Path, os.stat_result]]:
        return [(path, facts) for path, facts in self._files() if path.name.startswith(local.TEMPORARY_PREFIX)]

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        with contextlib.suppress(OSError):
            for path in self.root.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.stat()

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        """Make the directory, and say so when it, or its disk, cannot be used."""
        root = self.root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = root.stat(follow_symlinks=self._is_named())
            if not self._is_named() and (facts.st_uid != os.getuid() or not stat.S_ISDIR(facts.st_mode)):
                raise PermissionError(errno.EPERM, "it belongs to another user", str(root))
            (root / _LOCKS).mkdir(mode=0o700, exist_ok=True)
            yield
        except (OSError, StoreError) as error:
            cause = error.__cause__ if isinstance(error, StoreError) else error
            if not isinstance(cause, OSError) or not _is_about(root, cause):
                raise
            raise _NotKeptError(f"{root} cannot be written: {cause.strerror}.") from cause

    def _is_named(self) -> bool:
        """Whether the user named the directory; nobody else can have laid the one of our own under another's name."""
        return self._root is not None or bool(os.environ.get(DIRECTORY_VARIABLE))

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Let one process or thread at a time in; the system frees the lock of one that dies.

        There is a fixed number of locks, so that a million objects do not leave a million lock files behind.
        """
        import filelock

        with filelock.FileLock(self.root / _LOCKS / f"{name[:3]}.lock", is_singleton=False):
            yield

    def _is_due(self, size: int) -> bool:
        """Whether this process has added so much since it last looked that the quota may not hold any more.

        Looking takes as long as there are files: many small ones would cost more to count than to make.
        """
        added = _added.get(str(self.root), lambda: [self.quota_bytes])  # it looks with its first file
        added[0] += size
        if added[0] * _LOOKS < self.quota_bytes:
            return False
        added[0] = 0
        return True

    def _make_room(self, *, needed: int = 0, keep: Path | None = None) -> None:
        """Remove what dead processes left, and the least recently used copies until the quota holds."""
        for path, facts in self._unfinished():
            if time.time() - facts.st_mtime > _STALE_S:
                with contextlib.suppress(OSError):
                    path.unlink()
        copies = sorted(self._copies(), key=lambda file: file[1].st_atime_ns)
        total = needed + sum(facts.st_size for _path, facts in copies)
        for path, facts in copies:
            if total <= self.quota_bytes:
                return
            if path != keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    _log.debug("Removed %s (%d bytes) to make room.", path, facts.st_size)
                    total -= facts.st_size


_added: ProcessLRU[str, list[int]] = ProcessLRU(capacity=16)
"""By directory: bytes that this process has added since it last looked."""


class _NotKeptError(Exception):
    """No copy can be kept; becomes a `StoreError`, or a warning and a read from the store."""


def _is_about(root: Path, error: OSError) -> bool:
    """Whether an error is about the cache's own directory or disk, not about where the object comes from."""
    if error.filename is None:
        return error.errno in _NO_ROOM
    return Path(os.fsdecode(error.filename)).is_relative_to(root) or root.is_relative_to(os.fsdecode(error.filename))


def _key(uri: str, meta: ObjectMeta) -> str:
    """The name of a version of an object; nothing of its URI can be read from it."""
    version = meta.etag or meta.version or f"{meta.size}:{meta.modified_ns}"
    return _hashed(f"{uri}\0{version}")


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def _is_complete(path: Path, meta: ObjectMeta) -> bool:
    """Whether the copy is there at its full length; notes that it was used."""
    try:
        return path.stat().st_size == meta.size and _is_used(path)
    except OSError:
        return False


def _is_used(path: Path) -> bool:
    """Whether the file is there and can be believed; notes that it was used, where it is this user's own."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except PermissionError:
        return _is_its_owners(path)
    except OSError:
        return False
    return True


def _is_its_owners(path: Path) -> bool:
    """Whether the file of another user is that of the directory's owner, and nobody else can have laid it there."""
    try:
        folder, file = path.parent.stat(), path.stat()
    except OSError:
        return False
    return file.st_uid == folder.st_uid and not folder.st_mode & 0o022 and os.access(path, os.R_OK)
