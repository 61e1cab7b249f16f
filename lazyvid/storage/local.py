"""Objects in folders of this machine, by plain system calls; the path that must cost microseconds."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lazyvid.errors import (
    AccessDeniedError,
    LazyVidError,
    ObjectChangedError,
    ObjectNotFoundError,
    ShortReadError,
    StoreError,
    StoreUnavailableError,
    UnsafeKeyError,
)
from lazyvid.stats import count
from lazyvid.storage.objects import ObjectMeta

TEMPORARY_PREFIX = ".lazyvid-tmp-"
"""Names of files that are being written; listings leave them out."""

_BLOCK = 1 << 20
_AHEAD = 128 << 10
"""Linux reads no more ahead at a time, however much it is told of."""
# What file systems say that cannot sync a folder, or one that may not be read or is gone.
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENOENT)


@contextlib.contextmanager
def translated(action: str, path: str) -> Iterator[None]:
    """Turn an `OSError` about `path` into the `StoreError` that says what to do."""
    try:
        yield
    except LazyVidError:  # some are OSErrors too
        raise
    except OSError as error:
        raise _store_error(error, action, path) from error


def _store_error(error: OSError, action: str, path: str) -> StoreError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ObjectNotFoundError(f"Cannot {action} {path}: expected a file, found none there. Check the path.")
    if isinstance(error, IsADirectoryError):
        return ObjectNotFoundError(f"Cannot {action} {path}: expected a file, found a folder.")
    if isinstance(error, PermissionError):
        return AccessDeniedError(
            f"Cannot {action} {path}: {error.strerror}. Check the permissions of user id {os.geteuid()}."
        )
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
        return UnsafeKeyError(f"Cannot {action} {path!r}: {error.strerror}. Choose another name.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"Cannot {action} {path}: {error.strerror}. Free some space and try again.")
    return StoreUnavailableError(f"Cannot {action} {path}: {error}. Check the disk or the mount.")


def _meta(path: str, facts: os.stat_result) -> ObjectMeta:
    return ObjectMeta(path, facts.st_size, modified_ns=facts.st_mtime_ns)


def _open_regular(path: str) -> tuple[int, os.stat_result]:
    """A descriptor of a regular file and its facts; never waits, as opening a pipe would."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode):
        return descriptor, facts
    os.close(descriptor)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise StoreError(f"Cannot read {path}: expected a regular file, found a device, pipe or socket.")


def head(path: str) -> ObjectMeta:
    """Size and time of a regular file."""
    with translated("read", path):
        facts = os.stat(path)
        if stat.S_ISDIR(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return _meta(path, facts)


def read_spans(path: str, spans: Sequence[tuple[int, int]], *, pin: ObjectMeta | None) -> list[bytes]:
    """Read half-open byte spans through one descriptor, so that all come from one file even if it is replaced."""
    if not spans:
        return []
    with translated("read", path):
        descriptor, facts = _open_regular(path)
        try:
            if pin is not None:
                _check_same(path, pin, facts)
            bodies = [pread(descriptor, path, start, stop) for start, stop in spans]
            if pin is not None:
                _check_same(path, pin, os.fstat(descriptor))
        finally:
            os.close(descriptor)
    count(requests=len(spans), bytes_fetched=sum(map(len, bodies)))
    return bodies


def advise(path: str, spans: Sequence[tuple[int, int]]) -> None:
    """Have the system read spans ahead, where it can; what is wrong with the file will be seen when it is read."""
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            for start, stop in spans:
                for at in range(start, stop, _AHEAD):
                    os.posix_fadvise(descriptor, at, min(_AHEAD, stop - at), os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _check_same(path: str, pin: ObjectMeta, facts: os.stat_result) -> None:
    if pin.size != facts.st_size or (pin.modified_ns is not None and pin.modified_ns != facts.st_mtime_ns):
        raise ObjectChangedError(
            f"{path} has changed: expected {pin.size} bytes of time {pin.modified_ns} ns, found {facts.st_size} bytes "
            f"of time {facts.st_mtime_ns} ns. Open it anew."
        )


def pread(descriptor: int, path: str, start: int, stop: int) -> bytes:
    """The bytes from `start` to `stop` of an open file, all of them."""
    body = os.pread(descriptor, stop - start, start)
    while len(body) < stop - start:  # the kernel gives at most 2 GiB at once
        more = os.pread(descriptor, stop - start - len(body), start + len(body))
        if not more:
            raise ShortReadError(
                f"{path} ends too early: expected bytes {start} to {stop}, found {os.fstat(descriptor).st_size} bytes "
                "in all. The file is cut short, or its index describes another one."
            )
        body += more
    return body


def read(path: str) -> bytes:
    """The whole file."""
    with translated("read", path):
        descriptor, _facts = _open_regular(path)
        with open(descriptor, "rb") as file:
            body = file.read()
    count(requests=1, bytes_fetched=len(body))
    return body


def open_file(path: str, *, pin: ObjectMeta | None = None) -> BinaryIO:
    """The file, opened for reading."""
    with translated("open", path):
        descriptor, facts = _open_regular(path)
        if pin is not None:
            try:
                _check_same(path, pin, facts)
            except BaseException:
                os.close(descriptor)
                raise
        return open(descriptor, "rb")


class AtomicFile:
    """A file that appears under its name only when it is complete and on the disk.

    Used as a context manager: it gives the descriptor of a temporary file in the same folder; leaving it without an
    exception renames the file, otherwise it is removed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = os.path.dirname(path) or "."
        self.temporary = os.path.join(self.folder, TEMPORARY_PREFIX + secrets.token_hex(8))
        self.descriptor = -1
        self._changed: list[str] = []

    def __enter__(self) -> int:
        """Make the folders and the temporary file."""
        self._changed = make_folders(self.folder)
        if os.path.isdir(self.path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.descriptor = os.open(self.temporary, flags, 0o666)
        return self.descriptor

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """Put the file in its place, or remove it."""
        try:
            if kind is None:
                os.fsync(self.descriptor)
                os.replace(self.temporary, self.path)
                # Last, when there is little left to do for the disk: the names of folders that were made.
                for folder in (self.folder, *self._changed):
                    sync_folder(folder)
        finally:
            os.close(self.descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)


def make_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Make a folder and those above it that are not there.

    Returns:
        The folders that have new names in them, from the bottom up; `sync_folder` brings those to the disk.
    """
    changed, above = [], os.fspath(folder)
    while not os.path.isdir(above):
        above = os.path.dirname(above) or "."
        changed.append(above)
    if changed:
        os.makedirs(folder, exist_ok=True)
    return changed


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder survive a loss of power, where the file system allows it.

    Raises:
        OSError: if the disk does not take it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def write_all(descriptor: int, data: bytes | bytearray | memoryview, *, at: int) -> None:
    """Write all of `data` at byte `at`."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def write(path: str, data: bytes | bytearray | memoryview) -> ObjectMeta:
    """Write a file, atomic to readers."""
    with translated("write", path), AtomicFile(path) as descriptor:
        write_all(descriptor, data, at=0)
        facts = os.fstat(descriptor)
    return _meta(path, facts)


def copy_in(source: str, path: str, *, pin: ObjectMeta | None = None) -> ObjectMeta:
    """Copy a local file to `path`, atomic to readers."""
    with translated("read", source):
        descriptor, before = _open_regular(source)
    with open(descriptor, "rb") as reader, translated("write", path), AtomicFile(path) as target:
        at = 0
        while block := reader.read(_BLOCK):
            write_all(target, block, at=at)
            at += len(block)
        # Compared before the new file gets its name: half an old and half a new version must not appear.
        _check_same(source, pin or _meta(source, before), os.fstat(descriptor))
        facts = os.fstat(target)
    return _meta(path, facts)


def delete(path: str) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    with translated("delete", path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def walk(folder: str) -> list[ObjectMeta]:
    """Every file in a folder and the folders below it, links followed, sorted by path; a file is listed as itself.

    Files that vanish while they are listed, links that lead nowhere, and unfinished files of writers are no objects.
    """
    with translated("list", folder):
        if Path(folder).is_file():
            return [head(folder)]
        found: list[ObjectMeta] = []
        _walk_into(folder, found, frozenset())
    return sorted(found, key=lambda meta: meta.uri)


def _walk_into(folder: str, found: list[ObjectMeta], above: frozenset[tuple[int, int]]) -> None:
    try:
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in above:  # a link to a folder that leads here
            return
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir():
            _walk_into(entry.path, found, above | {(facts.st_dev, facts.st_ino)})
        elif not entry.name.startswith(TEMPORARY_PREFIX):
            with contextlib.suppress(FileNotFoundError):
                found.append(_meta(entry.path, entry.stat()))
