"""The journal of an episode that is being recorded: every row as soon as it is there, so that a kill loses none.

Written by `recorder.py` beside the unfinished videos, read by `recover.py`, removed once the episode is in the tables.
A record is `<4 bytes: "LVJ1"><length of JSON><length of payload><crc32 of both><JSON><payload>`, little-endian; reading
stops at the first one that is not whole.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lazyvid.errors import RecordingDiskFullError, RecordingError
from lazyvid.recording.episodes import EpisodeRows
from lazyvid.recording.features import CheckedFrame, Features

_HEADER = struct.Struct("<4sIII")
_MAGIC = b"LVJ1"
_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger(__name__)


class Journal:
    """An episode's journal, open for writing. A thread of its own brings it to the disk now and then.

    Args:
        path: The file; replaced if it is there.
        durable_s: Seconds between two fsyncs: what a loss of power may cost; a killed process loses nothing.

    Raises:
        RecordingError: if the file cannot be made.
    """

    def __init__(self, path: Path, *, durable_s: float) -> None:
        self.path = path
        self._durable_s = durable_s
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RecordingError(f"Cannot make {path}: {error}. Check the folder, or set spool_dir.") from error
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sync_now_and_then, name="lazyvid-journal", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._stopped.set()
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
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file and leave it there. Closing twice does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        try:
            self._thread.join()
        finally:  # also where a Ctrl-C comes while the disk is slow
            os.close(self._descriptor)

    def _append(self, head: dict[str, Any], payload: bytes) -> None:
        text = json.dumps(head).encode()
        record = _HEADER.pack(_MAGIC, len(text), len(payload), zlib.crc32(payload, zlib.crc32(text))) + text + payload
        start = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, record)
            if written < len(record):
                written += os.write(self._descriptor, record[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, start)  # half a record would hide those that follow
            if error.errno in _FULL:
                raise RecordingDiskFullError(
                    f"Cannot write {self.path}: the disk is full. What was recorded so far is kept; free some space, "
                    "then finish it with lazyvid.recording.recover."
                ) from error
            raise RecordingError(f"Cannot write {self.path}: {error}.") from error

    def _sync_now_and_then(self) -> None:
        warned = False
        while not self._stopped.wait(self._durable_s):
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                # Not the recording's end: the rows are written, and the disk may take the next ones.
                if not warned:
                    _log.warning("%s could not be brought to the disk, tried again: %s.", self.path, error)
                warned = True


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
