"""How many frames of an MP4 that is being written would outlive the process, read off the file itself.

Beside the write flow: a camera's thread asks after each frame that it encoded, another thread brings them to the disk.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from lazyvid.index.mp4 import Box, boxes_in, read_box
from lazyvid.storage.local import sync_folder

_HEADER = 16


class GrowingMp4:
    """Follows a fragmented MP4 while it grows. `sync` may be called by any thread, the rest belongs to one.

    Args:
        path: The file, which need not be there yet.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._position = 0  # of the first box that is not known to be whole
        self._whole = 0  # where the last whole fragment ends
        self._pending = 0  # frames described by a fragment whose data may not be whole yet
        self._frames = 0
        self._synced = 0
        self._closing = threading.Lock()

    def count(self) -> int:
        """Frames in whole fragments: those that can be played if the process ends now.

        Raises:
            OSError: if the file cannot be read.
        """
        if self._opened():
            while (box := self._next_whole_box()) is not None:
                self._take(box)
        return self._frames

    def trim(self) -> None:
        """Cut off what a write that failed left of a fragment; players would take it for damage.

        Raises:
            OSError: if the file cannot be cut.
        """
        self.count()
        if (self._whole and self._size() > self._position) or self._pending:
            os.truncate(self._path, self._whole)

    def sync(self) -> None:
        """Bring what was written to the disk, so that a loss of power leaves it; costs nothing where nothing is new.

        Raises:
            OSError: if the disk does not take it.
        """
        with self._closing:
            frames = self._frames
            if self._descriptor is not None and frames > self._synced:
                os.fsync(self._descriptor)
                if not self._synced:  # the file's and its folder's names, too
                    sync_folder(Path(self._path).parent)
                    sync_folder(Path(self._path).parent.parent)
                self._synced = frames

    def close(self) -> None:
        """Let go of the file; the count stays."""
        with self._closing:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _opened(self) -> bool:
        if self._descriptor is None:
            # FFmpeg makes the file when the first packet comes out of the encoder.
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        return True

    def _next_whole_box(self) -> Box | None:
        size = self._size()
        if size < self._position + 8:
            return None
        box = read_box(self._read(self._position, _HEADER), self._position, size)
        return None if box is None or box.stop > size else box

    def _take(self, box: Box) -> None:
        if box.kind == b"moof":
            self._pending = _samples(self._read(box.payload, box.stop - box.payload))
        elif box.kind == b"mdat":
            self._frames, self._pending = self._frames + self._pending, 0
            self._whole = box.stop
        self._position = box.stop

    def _size(self) -> int:
        return 0 if self._descriptor is None else os.fstat(self._descriptor).st_size

    def _read(self, start: int, length: int) -> bytes:
        return b"" if self._descriptor is None else os.pread(self._descriptor, length, start)


def _samples(moof: bytes) -> int:
    """Samples of a fragment with one track: the counts of its runs."""
    return sum(
        int.from_bytes(moof[run.payload + 4 : run.payload + 8], "big")
        for track in boxes_in(moof, 0, len(moof))
        if track.kind == b"traf"
        for run in boxes_in(moof, track.payload, track.stop)
        if run.kind == b"trun"
    )
