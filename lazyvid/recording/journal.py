"""The journal of an episode that is being recorded: every row as soon as it is there, so that a kill loses none.

Written by `recorder.py` beside the unfinished videos, read by `recover.py`, removed once the episode is in the tables.
A record is `<4 bytes: "LVJ1"><length of JSON><length of payload><crc32 of both><JSON><payload>`, little-endian; reading
stops at the first one that is not whole.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lazyvid.errors import RecordingError
from lazyvid.recording.disk import disk_failures
from lazyvid.recording.episodes import EpisodeRows
from lazyvid.recording.features import CheckedFrame, Features
from lazyvid.recording.syncing import SyncingThread
from lazyvid.storage.local import sync_folder

_HEADER = struct.Struct("<4sIII")
_MAGIC = b"LVJ1"


class Journal:
    """An episode's journal, open for writing. A thread of its own brings it to the disk now and then.

    Args:
        path: The file; replaced if it is there.
        durable_s: What a loss of power may cost, in seconds; a killed process loses nothing.
        names_in: The folders above it whose names belong to it, to be brought to the disk with it.

    Raises:
        RecordingError: if the file cannot be made.
    """

    def __init__(self, path: Path, *, durable_s: float, names_in: Sequence[Path] = ()) -> None:
        self.path = path
        self._names_in = [path.parent, *names_in]
        self._broken: OSError | None = None
        self._syncing = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RecordingError(f"Cannot make {path}: {error}. Check the folder, or set spool_dir.") from error
        self._is_closed = False
        self._thread = SyncingThread([self], every_s=durable_s)
        try:
            self._thread.start()
        except BaseException:
            self._thread.stop()
            os.close(self._descriptor)
            raise

    def add_frame(self, frame: CheckedFrame) -> None:
        """Append a row."""
        arrays = {name: value for name, value in frame.values.items() if isinstance(value, np.ndarray)}
        texts = {name: value for name, value in frame.values.items() if isinstance(value, str)}
        head = {"kind": "frame", "task": frame.task, "times": frame.times, "texts": texts}
        self._append(head, b"".join(array.tobytes() for array in arrays.values()))

    def mark_saved(self) -> None:
        """Note that the user saved the episode, and bring the journal to the disk: from here on it is not lost."""
        self._append({"kind": "saved"}, b"")
        with disk_failures(f"bring {self.path} to the disk"):
            self.sync()

    def sync(self) -> None:
        """Bring it to the disk; for its thread, too.

        Raises:
            OSError: if the disk does not take it.
        """
        with self._syncing:
            try:
                os.fsync(self._descriptor)
                while self._names_in:
                    sync_folder(self._names_in[0])
                    del self._names_in[0]
            except OSError as error:
                # Told once: the system takes the pages for written from here on, and a later sync would find no fault.
                self._broken = error
                raise

    def close(self) -> None:
        """Close the file and leave it there. Closing twice does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._thread.stop()
        try:
            self._thread.join()
        finally:  # also where a Ctrl-C comes while the disk is slow
            os.close(self._descriptor)

    def _append(self, head: dict[str, Any], payload: bytes) -> None:
        text = json.dumps(head).encode()
        record = _HEADER.pack(_MAGIC, len(text), len(payload), zlib.crc32(payload, zlib.crc32(text))) + text + payload
        with disk_failures(f"write {self.path}"):
            if self._broken is not None:
                raise self._broken
            start = os.fstat(self._descriptor).st_size
            try:
                while record:
                    record = record[os.write(self._descriptor, record) :]
            except OSError:
                self._cut_off(start)
                raise

    def _cut_off(self, start: int) -> None:
        """Remove what there is of a record that could not be written: half of one would hide those that follow."""
        try:
            os.ftruncate(self._descriptor, start)
        except OSError as error:
            self._broken = error


def read_journal(path: Path, features: Features) -> tuple[EpisodeRows, bool]:
    """The rows of a journal, and whether the episode was saved by the user before the recorder ended.

    Args:
        path: The file; one that is cut short, damaged or missing gives the rows before the damage.
        features: What its rows hold.
    """
    rows, saved = EpisodeRows(), False
    for head, payload in _records(path):
        if head["kind"] == "saved":
            saved = True
            continue
        frame = _frame(head, payload, features)
        if frame is None:
            break
        rows.add(frame)
    return rows, saved


def _records(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at + _HEADER.size <= len(data):
        magic, text_bytes, payload_bytes, crc = _HEADER.unpack_from(data, at)
        start = at + _HEADER.size
        at = start + text_bytes + payload_bytes
        if magic != _MAGIC or at > len(data) or zlib.crc32(data[start:at]) != crc:
            return
        yield json.loads(data[start : start + text_bytes]), data[start + text_bytes : at]


def _frame(head: dict[str, Any], payload: bytes, features: Features) -> CheckedFrame | None:
    """A row; None when it is not one of these features."""
    values: dict[str, Any] = dict(head["texts"])
    at = 0
    for name, feature in features.tabular.items():
        if feature.is_number:
            dtype = np.dtype(feature.dtype)
            size = dtype.itemsize * int(np.prod(feature.shape))
            if at + size > len(payload):
                return None
            values[name] = np.frombuffer(payload, dtype, count=size // dtype.itemsize, offset=at).reshape(feature.shape)
            at += size
    return CheckedFrame(head["task"], {}, values, head["times"])
