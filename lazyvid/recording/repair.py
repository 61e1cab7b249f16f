"""Unfinished MP4s made whole: what a killed recorder left becomes an ordinary MP4, its packets copied.

Used by `recover.py`. Every frame of a whole fragment is kept, at its time.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from lazyvid.errors import NotAVideoError, RecordingError, TruncatedVideoError
from lazyvid.index.probe import build_index
from lazyvid.recording.mp4 import ORIGIN_TAG, sync
from lazyvid.storage.local import TEMPORARY_PREFIX, sync_folder

_OPTIONS = {"movflags": "use_metadata_tags", "movie_timescale": "1000000"}
_SMALL, _LARGE = struct.Struct(">I4s"), struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of an MP4 is there."""

    whole: bool
    """Whether it is an ordinary, complete MP4."""
    end: int
    """Bytes up to the end of the last whole fragment."""
    fragments: int
    """Whole fragments."""


def extent_of(path: Path) -> Extent:
    """Look at an MP4's outermost boxes.

    Raises:
        NotAVideoError: if the file does not begin as an MP4.
    """
    kinds: list[str] = []
    end = last_end = fragments = 0
    complete = True
    size = path.stat().st_size
    with path.open("rb") as file:
        for kind, start, stop in _boxes(file, size):
            if not kinds and kind != "ftyp":
                raise NotAVideoError(f"Expected an MP4 in {path}, found a file that does not begin as one.")
            if stop > size:
                complete = False
                break
            if kind == "mdat" and kinds and kinds[-1] == "moof":
                end, fragments = stop, fragments + 1
            kinds.append(kind)
            last_end = stop
            del start
    whole = complete and last_end == size and "moov" in kinds and "moof" not in kinds
    return Extent(whole, end, fragments)


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[str, int, int]]:
    """(kind, first byte, end) of each outermost box; the last one may end beyond the file."""
    at = 0
    while at + _SMALL.size <= size:
        file.seek(at)
        length, kind = _SMALL.unpack(file.read(_SMALL.size))
        if length == 1:
            rest = file.read(_LARGE.size)
            length = _LARGE.unpack(rest)[0] if len(rest) == _LARGE.size else size + 1
        elif length == 0:
            length = size - at
        if length < _SMALL.size:
            return
        yield kind.decode("latin-1"), at, at + length
        at += length


def repair(path: Path) -> bool:
    """Make an unfinished MP4 an ordinary one, in place; what was there stays until the new one is on the disk.

    Args:
        path: The file.

    Returns:
        Whether there was anything to do.

    Raises:
        TruncatedVideoError: if no fragment is whole, so that no frame can be had.
        NotAVideoError: if it is no MP4.
        RecordingError: if it cannot be copied.
    """
    found = extent_of(path)
    if found.whole:
        return False
    if not found.fragments:
        raise TruncatedVideoError(
            f"Expected a whole fragment or more in {path}, found none in {path.stat().st_size} bytes: the recorder was "
            "killed before its first group of pictures was written. There is no frame to recover."
        )
    target = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.mp4")
    try:
        times = _copy(path, found.end, target)
        _check(target, times, path)
        sync(str(target))
        os.replace(target, path)
        sync_folder(path.parent)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"Cannot make {path} whole: {error}. It is left as it was.") from error
    finally:
        target.unlink(missing_ok=True)
    return True


class _Prefix(io.RawIOBase):
    """The first bytes of a file as a file."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end = file, end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(self._end + offset) if whence == 2 else self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _copy(path: Path, end: int, target: Path) -> list[float]:
    """Copy the video packets of the first bytes of a file into another; their times, sorted, in seconds."""
    times: list[float] = []
    with (
        path.open("rb") as file,
        av.open(_Prefix(file, end), "r", format="mp4") as source,
        av.open(str(target), "w", format="mp4", options=_OPTIONS) as output,
    ):
        given = source.streams.video[0]
        stream = output.add_stream_from_template(given, opaque=True)  # else it looks for an encoder
        stream.time_base = given.time_base
        if ORIGIN_TAG in source.metadata:
            output.metadata[ORIGIN_TAG] = source.metadata[ORIGIN_TAG]
        for packet in source.demux(given):
            if packet.dts is None or packet.pts is None:  # the end
                continue
            times.append(float(packet.pts * packet.time_base))
            packet.stream = stream
            output.mux(packet)
    return sorted(times)


def _check(target: Path, times: list[float], path: Path) -> None:
    found = build_index(target).timestamp
    if len(found) != len(times) or np.any(np.abs(found - times) > 1e-6):
        raise RecordingError(
            f"Expected {len(times)} frames at their times in the copy of {path}, found {len(found)} at others. "
            "The file is left as it was."
        )
