"""Node-local, memory-mapped files of Arrow batches: a machine's processes share the pages of one file.

`local` lays indexes in them, `catalog_files` catalogs. A file is `<rows: Arrow IPC><directory: Arrow IPC><trailer>`; it
is written once, renamed into place, never changed, and removed by unlink only: readers that have it mapped keep it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
import tempfile
import threading
import time
import warnings
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lazyvid.errors import CorruptIndexError

DIRECTORY_VARIABLE = "LAZYVID_INDEX_DIR"
QUOTA_VARIABLE = "LAZYVID_INDEX_QUOTA_BYTES"
DEFAULT_QUOTA_BYTES = 2 * 1024**3
MOST_MAPS = 512
"""Files that one process has mapped at once; each holds a file descriptor."""

_SUFFIX = ".index"
_TEMPORARY = ".tmp-"
_TEMPORARY_AGE_S = 3600.0
_MAGIC = b"lazyvid\x01"
_TRAILER = struct.Struct("<QQI4x8s")  # bytes of rows, bytes of directory, crc32 of directory and schema, magic
_ALIGNMENT = 64

Batches = tuple[pa.RecordBatch, pa.RecordBatch]
"""(rows, directory): the directory is verified when a file is opened; who reads rows verifies what he reads."""


class _Unusable(Exception):
    """The directory cannot be used; the message says why."""


class _State:
    """What this process has open."""

    def __init__(self, inherited: _State | None = None) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        # A fork may use what its parent had open, but not its lock.
        self.files: OrderedDict[str, MappedFile] = OrderedDict(inherited.files if inherited else ())
        self.maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet(inherited.maps if inherited else ())
        self.warned: bool = inherited.warned if inherited else False


_state = _State()


def _this_process() -> _State:
    global _state
    if _state.pid != os.getpid():
        _state = _State(_state)
    return _state


def lock() -> threading.RLock:
    """Held by who looks for files and lays them; this process' own."""
    return _this_process().lock


class MappedFile:
    """The batches of one file, or of what could not be laid in one."""

    def __init__(self, rows: pa.RecordBatch, directory: pa.RecordBatch) -> None:
        self.rows, self.directory = rows, directory
        self.made: dict[int, Any] = {}
        """What was made of it, for whoever made it."""


def find(name: str) -> MappedFile | None:
    """A file that this user laid on this machine; None when it is not there (evicted, laid elsewhere) or damaged.

    Args:
        name: As it was laid.
    """
    state = _this_process()
    with state.lock:
        file = state.files.get(name)
        if file is None:
            try:
                file = _open(name, state)
            except (CorruptIndexError, pa.ArrowException, OSError, ValueError, TypeError):
                discard(name)
            if file is None:
                return None
            _keep(state, name, file)
        state.files.move_to_end(name)
        return file


def lay(name: str, make: Callable[[], Batches]) -> MappedFile:
    """Lay batches as a file, where there is none of this name yet.

    Args:
        name: Says what is in it: files of one name have equal content.
        make: Gives what is to be laid.

    Returns:
        The file. Where none can be written it stays in this process' memory, and one warning says so.
    """
    state = _this_process()
    with state.lock:
        file = find(name)
        if file is not None:
            return file
        batches = make()
        try:
            folder = _directory()
            data = _file_bytes(*batches)
            _evict(folder, keep=name, room=sum(len(part) for part in data))
            _write(folder / (name + _SUFFIX), data)
            file = find(name)
        except (_Unusable, OSError) as error:
            _warn_once(state, error)
        if file is None:
            file = MappedFile(*batches)
            _keep(state, name, file)
        return file


def discard(name: str) -> None:
    """Forget a file and remove it: what it holds is damaged."""
    state = _this_process()
    with state.lock:
        state.files.pop(name, None)
    with contextlib.suppress(_Unusable, OSError):
        (_directory() / (name + _SUFFIX)).unlink(missing_ok=True)


def clear() -> None:
    """Forget everything that this process has open here; files stay."""
    state = _this_process()
    with state.lock:
        state.files.clear()


# -- writing ----------------------------------------------------------------------------------------------------------


def _file_bytes(rows: pa.RecordBatch, directory: pa.RecordBatch) -> list[pa.Buffer | bytes]:
    first, second = _ipc_file(rows), _ipc_file(directory)
    padding = bytes(-first.size % _ALIGNMENT)
    trailer = _TRAILER.pack(first.size + len(padding), second.size, zlib.crc32(second), _MAGIC)
    return [first, padding, second, trailer]


def _ipc_file(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _write(path: Path, data: Sequence[pa.Buffer | bytes]) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _evict(folder: Path, *, keep: str, room: int) -> None:
    """Unlink the files that were used longest ago until `room` more bytes fit the quota."""
    quota = _quota()
    if room > quota:
        raise _Unusable(f"{room} bytes do not fit the quota of {quota} bytes ({QUOTA_VARIABLE})")
    files = sorted(_published(folder), key=lambda item: item[1].st_mtime_ns)
    total = sum(facts.st_size for _, facts in files) + room
    for path, facts in files:
        if total <= quota:
            return
        if path.name != keep + _SUFFIX:
            path.unlink(missing_ok=True)
            total -= facts.st_size


def _published(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The published files; temporary ones that a killed process left are swept on the way."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            facts = path.lstat()
            if path.name.startswith(_TEMPORARY) and time.time() - facts.st_mtime > _TEMPORARY_AGE_S:
                path.unlink()
            elif path.suffix == _SUFFIX:
                yield path, facts


def _quota() -> int:
    text = os.environ.get(QUOTA_VARIABLE, "")
    if not text:
        return DEFAULT_QUOTA_BYTES
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"Invalid {QUOTA_VARIABLE}={text!r}: expected a number of bytes.")
    return int(text)


def _warn_once(state: _State, error: Exception) -> None:
    if not state.warned:
        state.warned = True
        warnings.warn(
            f"Frame indexes stay in the memory of each process: {error}. Set {DIRECTORY_VARIABLE} to a folder of your "
            "own "
            "with free space, and workers will share them.",
            stacklevel=5,
        )


# -- the directory ----------------------------------------------------------------------------------------------------


def _directory() -> Path:
    """The directory, made where it is missing, and trusted only when no one else can write into it."""
    default = Path(tempfile.gettempdir()) / f"lazyvid-index-{os.getuid()}"
    folder = Path(os.environ.get(DIRECTORY_VARIABLE) or default)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise _Unusable(f"{folder} is not a directory")
    if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise _Unusable(
            f"{folder} is owned by user {facts.st_uid} with mode {stat.S_IMODE(facts.st_mode):o}; expected user "
            f"{os.getuid()} and mode 700"
        )
    return folder


def _open(name: str, state: _State) -> MappedFile | None:
    try:
        path = _directory() / (name + _SUFFIX)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (_Unusable, OSError):
        return None
    try:
        sizes = _checked_sizes(descriptor)
        if sizes is None:
            discard(name)
            return None
        # Eviction goes by this time; another process may have unlinked it meanwhile.
        with contextlib.suppress(OSError):
            os.utime(descriptor)
        return _parse(_bytes_of(descriptor, state), *sizes)
    finally:
        os.close(descriptor)


def _checked_sizes(descriptor: int) -> tuple[int, int, int] | None:
    """(bytes of rows, bytes of directory, crc32) by the trailer; None unless the file has just the size it should."""
    size = os.fstat(descriptor).st_size
    trailer = os.pread(descriptor, _TRAILER.size, max(0, size - _TRAILER.size))
    if len(trailer) < _TRAILER.size:
        return None
    rows, directory, crc, magic = _TRAILER.unpack(trailer)
    return (rows, directory, crc) if magic == _MAGIC and rows + directory + _TRAILER.size == size else None


def _bytes_of(descriptor: int, state: _State) -> pa.Buffer:
    while len(state.maps) >= MOST_MAPS and state.files:
        state.files.popitem(last=False)  # unmapped when the last index of it is gone
    if len(state.maps) >= MOST_MAPS:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return pa.py_buffer(file.read())
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    state.maps.add(mapped)
    return pa.py_buffer(mapped)


def _parse(data: pa.Buffer, rows_size: int, directory_size: int, crc: int) -> MappedFile:
    directory = data.slice(rows_size, directory_size)
    if zlib.crc32(directory) != crc:
        raise CorruptIndexError("Expected the directory that was written, found another one.")
    return MappedFile(_read_batch(data.slice(0, rows_size)), _read_batch(directory))


def _read_batch(data: pa.Buffer) -> pa.RecordBatch:
    with pa.ipc.open_stream(data) as reader:
        batch = reader.read_next_batch()
    batch.validate(full=True)  # offsets of binary columns must not lead out of the file
    return batch


def _keep(state: _State, name: str, file: MappedFile) -> None:
    state.files[name] = file
    state.files.move_to_end(name)
    while len(state.files) > MOST_MAPS:
        state.files.popitem(last=False)
