"""A remote object as a seekable file that reads ahead; holds no handle, so it survives pickling and forks."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from lazyvid.storage.objects import ObjectMeta

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from lazyvid.storage.store import ObjectStore

_FIRST_AHEAD = 64 << 10
_MOST_AHEAD = 8 << 20


class RemoteFile(io.RawIOBase):
    """Reads one version of an object.

    Args:
        store: where it lies.
        meta: the version; every request is pinned to it.
    """

    def __init__(self, store: ObjectStore, meta: ObjectMeta) -> None:
        super().__init__()
        self._store = store
        self._meta = meta
        self._at = 0
        self._window = b""
        self._window_start = 0
        self._ahead = _FIRST_AHEAD

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; no request is made."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._meta.size}.get(whence)
        if origin is None or origin + offset < 0:
            raise ValueError(f"Invalid seek({offset}, {whence}): expected a position inside the object.")
        self._at = origin + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` from the position on; fewer bytes at the end of what was read ahead, 0 at the object's end."""
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        target = memoryview(buffer).cast("B")
        if not target or self._at >= self._meta.size:
            return 0
        if not self._window_start <= self._at < self._window_start + len(self._window):
            self._fetch(len(target))
        offset = self._at - self._window_start
        piece = self._window[offset : offset + len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _fetch(self, wanted: int) -> None:
        """Read ahead twice as far as before while the reading is sequential, little after a jump."""
        sequential = self._at == self._window_start + len(self._window)
        self._ahead = min(2 * self._ahead, _MOST_AHEAD) if sequential and self._window else _FIRST_AHEAD
        stop = min(self._meta.size, self._at + max(wanted, self._ahead))
        [self._window] = self._store.read_ranges(self._meta.uri, [(self._at, stop)], pin=self._meta)
        self._window_start = self._at


def open_remote(store: ObjectStore, meta: ObjectMeta) -> io.BufferedReader:
    """A buffered reader of one version of a remote object."""
    return io.BufferedReader(RemoteFile(store, meta), buffer_size=_FIRST_AHEAD)
