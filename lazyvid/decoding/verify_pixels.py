"""Compares the pixels of random access with those of a sequential decode, file by file: the second half of `verify`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from lazyvid.decoding.convert import PictureFormat
from lazyvid.decoding.files import VideoFiles
from lazyvid.decoding.reader import read_frames
from lazyvid.decoding.sequential import decode_file, rgb_pixels
from lazyvid.decoding.targets import ReadRequest
from lazyvid.errors import LazyVidError, VideoError
from lazyvid.frames import Limits
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.opening import OpenedIndex
from lazyvid.storage import ObjectMeta, ObjectStore, display_uri

Pixels = npt.NDArray[np.uint8]

_CHUNK_BYTES = 64 * 1024 * 1024
"""Decoded pixels held at once, for each of the two ways of decoding."""


class PixelComparison:
    """Every frame of one file, decoded from the file's start and out of order by the index.

    Args:
        store: Where the file lies.
        opened: The index that is checked.
        meta: The file.
        fresh: A fresh scan of the file.
        rows: For each frame of `fresh`, the rows of the index that show it.
        limits: The largest video that is read.
        advance: Told how many frames more were compared.

    Attributes:
        differing: Rows whose pixels differ.
        missing: Rows that one of the two ways does not give.
        messages: What is wrong, a line each.
    """

    def __init__(
        self,
        store: ObjectStore,
        opened: OpenedIndex,
        meta: ObjectMeta,
        fresh: FrameIndex,
        rows: Sequence[Sequence[int]],
        *,
        limits: Limits,
        advance: Callable[[int], None],
    ) -> None:
        self.differing: list[int] = []
        self.missing: set[int] = set()
        self.messages: list[str] = []
        self._store, self._meta, self._fresh, self._rows = store, meta, fresh, rows
        self._limits, self._advance = limits, advance
        self._index = opened.index
        stores = (store,) * len(opened.uris)
        self._files = VideoFiles(opened.index, stores, opened.uris, opened.pins, opened.content_hash, limits=limits)
        self._by_pts = _numbers_by_pts(fresh)
        self._unseen = set(range(len(fresh)))
        self._strangers = 0
        self._waiting: list[tuple[int, Pixels]] = []
        self._waiting_bytes = 0
        self._random = np.random.default_rng(len(fresh))

    def run(self) -> None:
        """Decode and compare."""
        uri = display_uri(self._meta.uri)
        try:
            decode_file(self._store, self._meta, self._fresh.sources[0], limits=self._limits, look=self._look)
        except VideoError as error:
            self.messages.append(f"A sequential decode fails: {error}")
        self._compare()
        if self.differing:
            self.messages.append(
                f"Expected the pixels of a sequential decode from random access to {uri}, found others for "
                f"{len(self.differing)} frames, {listed(sorted(self.differing))}."
            )
        unseen = sorted(row for number in self._unseen for row in self._rows[number])
        if unseen:
            self.missing.update(unseen)
            self.messages.append(
                f"Expected a picture for each frame from a sequential decode of {uri}, found none for {len(unseen)} "
                f"frames, {listed(unseen)}."
            )
        if self._strangers:
            self.messages.append(
                f"Expected {len(self._fresh)} pictures from a sequential decode of {uri}, found {self._strangers} more "
                "that belong to no frame."
            )

    def _look(self, number: int, picture: VideoFrame) -> None:
        if self._by_pts is not None:
            # By time: a picture that the decoder leaves out must not shift those after it.
            number = self._by_pts.get(picture.pts, -1) if picture.pts is not None else -1
        if number not in self._unseen:
            self._strangers += 1
            return
        self._unseen.remove(number)
        pixels = rgb_pixels(picture, self._fresh.sources[self._fresh.packets.source_idx[number]])
        self._waiting += [(row, pixels) for row in self._rows[number]]
        self._waiting_bytes += pixels.nbytes
        if self._waiting_bytes >= _CHUNK_BYTES:
            self._compare()

    def _compare(self) -> None:
        """Read the frames that wait by the index, out of order, and compare."""
        shuffled = [self._waiting[k] for k in self._random.permutation(len(self._waiting))]
        self._waiting, self._waiting_bytes = [], 0
        source_of = self._index.packets.source_idx
        # One source at a time, since sources may differ in size.
        for source_idx in sorted({int(source_of[row]) for row, _ in shuffled}):
            chosen = [(row, expected) for row, expected in shuffled if source_of[row] == source_idx]
            found = self._read([row for row, _ in chosen], source_idx)
            self.differing += [
                row for row, expected in chosen if row in found and not np.array_equal(found[row], expected)
            ]
        self._advance(len(shuffled))

    def _read(self, rows: Sequence[int], source_idx: int) -> dict[int, Pixels]:
        """The frames that random access gives; those that it does not are noted."""
        picture_format = PictureFormat()
        out = np.empty((len(rows), *picture_format.shape(self._index.sources[source_idx])), np.uint8)
        try:
            read_frames([ReadRequest(self._files, np.array(rows, np.int64), picture_format, out)])
        except LazyVidError as error:
            if len(rows) > 1:
                # One by one, to know which of them it is.
                return {row: pixels for each in rows for row, pixels in self._read([each], source_idx).items()}
            if not self.missing:
                self.messages.append(f"Random access to frame {rows[0]} fails: {error}")
            self.missing.add(rows[0])
            return {}
        return dict(zip(rows, out, strict=True))


def _numbers_by_pts(fresh: FrameIndex) -> dict[int, int] | None:
    """Frame numbers by their pts; None where pictures can only be counted."""
    pts = fresh.packets.pts.tolist()
    counted = any(source.addressing == "sequential" for source in fresh.sources)
    return None if counted or len(set(pts)) < len(pts) else {value: number for number, value in enumerate(pts)}


def listed(rows: Sequence[int]) -> str:
    """The first few of some frame numbers, for messages."""
    shown = ", ".join(map(str, rows[:8]))
    return f"{shown}, ..." if len(rows) > 8 else shown or "that are never shown"
