"""Bytes of an object of which only parts are known, and the files that FFmpeg reads from them or from a store.

Used by `mp4` (what was fetched so far) and by `probe_demux` (what FFmpeg is given). No FFmpeg here.
"""

from __future__ import annotations

import io
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

from lazyvid.process_lock import ProcessLock
from lazyvid.waiting import LOOK_UP_S

if TYPE_CHECKING:
    from lazyvid.storage import ObjectMeta, ObjectStore

Result = TypeVar("Result")
_WINDOW_BYTES = 8 * 1024 * 1024
_WINDOWS = 3  # the payload's, the container's own index, and the one before


class SparseBytes:
    """The known parts of an object, by offset; parts that overlap must agree."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts: list[int] = []
        self._parts: list[bytearray] = []

    @property
    def known(self) -> int:
        """Number of known bytes."""
        return sum(map(len, self._parts))

    def add(self, start: int, data: bytes) -> None:
        """Make known the bytes from `start`."""
        if not data:
            return
        i = bisect_right(self._starts, start) - 1
        if i >= 0 and start <= self._starts[i] + len(self._parts[i]):
            self._parts[i][start - self._starts[i] : start - self._starts[i] + len(data)] = data
        else:
            i += 1
            self._starts.insert(i, start)
            self._parts.insert(i, bytearray(data))
        stop = self._starts[i] + len(self._parts[i])
        while i + 1 < len(self._starts) and self._starts[i + 1] <= stop:
            later_start, later = self._starts.pop(i + 1), self._parts.pop(i + 1)
            self._parts[i] += later[max(0, stop - later_start) :]
            stop = self._starts[i] + len(self._parts[i])

    def known_until(self, start: int) -> int:
        """One past the last byte known without a gap from `start`; `start` itself when that one is not known."""
        i = bisect_right(self._starts, start) - 1
        return max(start, self._starts[i] + len(self._parts[i])) if i >= 0 else start

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The half-open ranges inside [start, stop) that are not known."""
        gaps = []
        while start < stop:
            known = self.known_until(start)
            if known == start:
                i = bisect_right(self._starts, start)
                gap_stop = min(stop, self._starts[i]) if i < len(self._starts) else stop
                gaps.append((start, gap_stop))
                known = gap_stop
            start = known
        return gaps

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), zeros where they are not known, fewer at the end of the object."""
        stop = min(stop, self.size)
        i = max(0, bisect_right(self._starts, start) - 1)
        if i < len(self._starts) and self._starts[i] <= start and stop <= self._starts[i] + len(self._parts[i]):
            return bytes(self._parts[i][start - self._starts[i] : stop - self._starts[i]])
        result = bytearray(max(0, stop - start))
        while i < len(self._starts) and self._starts[i] < stop:
            part_start, part = self._starts[i], self._parts[i]
            first, last = max(start, part_start), min(stop, part_start + len(part))
            if first < last:
                result[first - start : last - start] = part[first - part_start : last - part_start]
            i += 1
        return bytes(result)


class ByteSource(Protocol):
    """Where a `BytesFile` takes its bytes from."""

    size: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), fewer at the end."""
        ...


class WindowedBytes:
    """An object's bytes, fetched in large windows of which a few are kept: memory stays bounded, requests stay few."""

    def __init__(self, store: ObjectStore, meta: ObjectMeta, *, window_bytes: int = _WINDOW_BYTES) -> None:
        self.size = meta.size
        self._store, self._meta, self._window_bytes = store, meta, window_bytes
        self._windows: OrderedDict[int, bytes] = OrderedDict()

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), fewer at the end of the object."""
        stop = min(stop, self.size)
        parts = []
        while start < stop:
            number, offset = divmod(start, self._window_bytes)
            parts.append(self._window(number)[offset : offset + stop - start])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _window(self, number: int) -> bytes:
        if number in self._windows:
            self._windows.move_to_end(number)
            return self._windows[number]
        start = number * self._window_bytes
        span = (start, min(start + self._window_bytes, self.size))
        (window,) = self._store.read_ranges(self._meta.uri, [span], pin=self._meta)
        self._windows[number] = window
        if len(self._windows) > _WINDOWS:
            self._windows.popitem(last=False)
        return window


class BytesFile:
    """A file over a `ByteSource` for FFmpeg, whose callbacks must not raise: a failure is kept and reads as the end."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0
        self._stopped = False
        self.failure: Exception | None = None

    def read(self, count: int) -> bytes:
        """Up to `count` bytes from the position."""
        if self._stopped:
            return b""
        try:
            data = self._source.read(self._position, self._position + count)
        except Exception as error:
            # Raised again by whoever handed the file out: FFmpeg turns it into "invalid data", or into an early end.
            self.failure, self._stopped = error, True
            return b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; returns the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def stop(self) -> None:
        """From now on the file is at its end: whatever reads it comes to its own end soon."""
        self._stopped = True


# A demuxer over bytes at hand waits for nothing, but gives the interpreter's lock away and takes it back at each
# packet: sixteen threads that do so spend half of their time on that.
_one_at_a_time = ProcessLock()


def with_file(file: BytesFile, work: Callable[[BytesFile], Result]) -> Result:
    """Let `work` hand a file to FFmpeg; what goes wrong while it is read comes out as it is.

    For a thread that no Ctrl-C comes to; another one takes `run_with_file`.

    Raises:
        StoreError: what the file's source raised.
    """
    try:
        return work(file)
    finally:
        if file.failure is not None:
            raise file.failure


def run_with_file(source: ByteSource, work: Callable[[BytesFile], Result]) -> Result:
    """Do `with_file`, over a source, in a thread of its own while the caller waits.

    Ctrl-C interrupts the main thread only, wherever it is; inside one of FFmpeg's callbacks it would be lost and read
    as an early end of the file. The work must not come back here, whose turn it would wait for.

    Raises:
        StoreError: what the source raised while FFmpeg read from it.
    """
    file = BytesFile(source)
    turn = _one_at_a_time.here() if isinstance(source, SparseBytes) else nullcontext()
    outcome: list[Result] = []
    failure: list[BaseException] = []
    done = threading.Event()  # not Thread.join: interrupted once, it takes the thread for ended (CPython 3.11)

    def body() -> None:
        try:
            with turn:
                outcome.append(with_file(file, work))
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=body, name="lazyvid-probe", daemon=True)
    try:
        thread.start()  # which waits for the thread's first sign, and may be interrupted there
        while not done.wait(LOOK_UP_S):
            pass
    except BaseException:
        file.stop()
        if thread.ident is not None:
            done.wait()
        raise
    if failure:
        raise failure[0]
    return outcome[0]
