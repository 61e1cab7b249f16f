"""`verify_index`: does an index tell the truth about the bytes, and does random access by it give the right pixels?

Beside the read flow: it reads what the flow would read, and compares with a fresh scan and a sequential decode.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from lazyvid.decoding.plan import in_batches
from lazyvid.decoding.verify_pixels import PixelComparison, listed
from lazyvid.errors import IndexStateError, VideoError
from lazyvid.frames import Limits
from lazyvid.index.frame_index import NO_PTS, UNKNOWN, FrameIndex, PacketTable, Source
from lazyvid.index.opening import OpenedIndex, open_index
from lazyvid.index.probe import build_index
from lazyvid.storage import ObjectMeta, ObjectStore, display_uri

IntArray = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Is told how many units of work are done, of how many."""

_READ_BYTES = 32 * 1024 * 1024
_EXACT_COLUMNS = ("offset", "size", "pts", "dts", "duration", "key")
_OWN_FIELDS = ("uri", "size", "etag", "fingerprint")
"""Fields of a source that say which file it is, not what it holds; `open_index` has compared them."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify_index` found. Frame numbers are rows of the index."""

    uri: str
    """The video, as it may be shown."""
    frames: int
    """Frames of the index that were checked."""
    decoded: bool
    """Whether pixels were compared, too."""
    packets_read: int
    """Packets whose bytes were read again and compared with their checksums."""
    wrong_frames: tuple[int, ...] = ()
    """Frames whose entry in the index contradicts the file, or whose pixels differ from a sequential decode."""
    missing_frames: tuple[int, ...] = ()
    """Frames that one of the two ways of decoding does not give."""
    damaged_packets: tuple[tuple[int, int], ...] = ()
    """(source, decode position) of the packets whose bytes are not those that were indexed."""
    left_out: int = 0
    """Frames of the files that the index does not list."""
    messages: tuple[str, ...] = ()
    """What is wrong, a line each; empty when nothing is."""

    @property
    def ok(self) -> bool:
        """Whether index and files agree in everything that was compared."""
        return not self.messages


def verify_index(
    uri: str | os.PathLike[str],
    index: FrameIndex,
    *,
    store: ObjectStore | None = None,
    decode: bool = True,
    partial: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare an index with the files that it describes.

    Every packet whose checksum the index knows is read again, and the whole packet table is compared with that of a
    fresh full scan. With `decode`, every frame is decoded twice, once by decoding the file from its start and once out
    of order by the index, and the pixels are compared. Memory does not grow with the video.

    Args:
        uri: The video.
        index: Its index.
        store: Where it lies; by default an `ObjectStore` without options.
        decode: Whether to compare pixels, which takes as long as decoding the video several times.
        partial: Whether the index may leave out frames of the files, as sidecars of other tools do.
        limits: The largest video that is read.
        progress: Called now and then with the work done and all of it, in units of a packet or frame.

    Returns:
        What was found; a file that cannot be decoded, or is another one than was indexed, is a finding, too.

    Raises:
        StoreError: if the files cannot be read.
    """
    store = store or ObjectStore()
    video = store.resolve(uri)
    limits = limits or Limits()
    try:
        opened = open_index(video, store=store, frame_index=index, warn=False, limits=limits)
    except (IndexStateError, VideoError) as error:
        return VerifyReport(display_uri(video), len(index), decoded=False, packets_read=0, messages=(str(error),))
    check = _Check(store, opened, limits, decode=decode, progress=progress)
    check.times()
    for file in _files(opened):
        check.file(file)
    return check.report(display_uri(video), partial=partial)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the index."""

    meta: ObjectMeta
    sources: tuple[int, ...]
    """The sources of the index that lie in it."""


def _files(opened: OpenedIndex) -> list[_File]:
    distinct = dict(zip(opened.uris, opened.pins, strict=True))
    return [
        _File(meta, tuple(k for k, other in enumerate(opened.uris) if other == uri)) for uri, meta in distinct.items()
    ]


@dataclass(slots=True)
class _Check:
    """One call of `verify_index`, and what it has found so far."""

    store: ObjectStore
    opened: OpenedIndex
    limits: Limits
    decode: bool
    progress: Progress | None
    packets_read: int = 0
    left_out: int = 0
    done: int = 0
    wrong: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    damaged: set[tuple[int, int]] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    @property
    def index(self) -> FrameIndex:
        return self.opened.index

    def report(self, uri: str, *, partial: bool) -> VerifyReport:
        messages = list(self.messages)
        if self.left_out and not partial:
            messages.append(f"Expected every frame of the files in the index, found {self.left_out} left out.")
        return VerifyReport(
            uri=uri,
            frames=len(self.index),
            decoded=self.decode,
            packets_read=self.packets_read,
            wrong_frames=tuple(sorted(self.wrong)),
            missing_frames=tuple(sorted(self.missing)),
            damaged_packets=tuple(sorted(self.damaged)),
            left_out=self.left_out,
            messages=tuple(messages),
        )

    def advance(self, units: int) -> None:
        """Tell the caller; each packet is read, and scanned, and each frame decoded."""
        self.done += units
        if self.progress is not None:
            packets = len(self.index.packets) + len(self.index.hidden)
            total = 2 * packets + (len(self.index) if self.decode else 0)
            self.progress(min(self.done, total), total)

    def found_wrong(self, rows: Iterable[int], what: str) -> None:
        """Note frames that are wrong."""
        rows = sorted(rows)
        if rows:
            self.wrong.update(rows)
            self.messages.append(f"{what}: {len(rows)} frames, {listed(rows)}.")

    def times(self) -> None:
        """Frames of a segment must be in the order of their times and of their pts alike."""
        source, pts = self.index.packets.source_idx, self.index.packets.pts
        together = (np.diff(self.index.segment_idx) == 0) & (np.diff(source) == 0) & (pts[:-1] != NO_PTS)
        differs = together & (np.sign(np.diff(self.index.timestamp)) != np.sign(np.diff(pts)))
        self.found_wrong((np.flatnonzero(differs) + 1).tolist(), "Expected times in the order of the packets' pts")

    def file(self, file: _File) -> None:
        """Check all that the index says of one file."""
        for source_idx in file.sources:
            table = _table_of(self.index, source_idx)
            self.bytes_of(file, source_idx, table)
            self.advance(len(table.packets))
        stream = self.index.sources[file.sources[0]].stream
        try:
            fresh = build_index(file.meta.uri, store=self.store, scan="full", stream=stream, limits=self.limits)
        except VideoError as error:
            self.messages.append(f"A fresh scan fails: {error}")
            return
        pairs = self.paired(file, fresh)
        if not pairs:
            return
        shown_anywhere: dict[int, npt.NDArray[np.bool_]] = {}
        for source_idx, fresh_idx in pairs:
            shown = self.table(source_idx, _table_of(self.index, source_idx), _table_of(fresh, fresh_idx))
            earlier = shown_anywhere.get(fresh_idx)
            shown_anywhere[fresh_idx] = shown if earlier is None else shown | earlier
            self.source(source_idx, fresh.sources[fresh_idx])
        for fresh_idx, shown in shown_anywhere.items():
            self.left_out += int(np.sum((_table_of(fresh, fresh_idx).rows >= 0) & ~shown))
        self.advance(sum(len(_table_of(self.index, source_idx).packets) for source_idx, _ in pairs))
        if self.decode:
            self.pixels(file, fresh, pairs)

    def pixels(self, file: _File, fresh: FrameIndex, pairs: Sequence[tuple[int, int]]) -> None:
        """Decode the file both ways."""
        rows = _rows_of_pictures(self.index, fresh, pairs)
        comparison = PixelComparison(
            self.store, self.opened, file.meta, fresh, rows, limits=self.limits, advance=self.advance
        )
        comparison.run()
        self.wrong.update(comparison.differing)
        self.missing.update(comparison.missing)
        self.messages += comparison.messages

    def paired(self, file: _File, fresh: FrameIndex) -> list[tuple[int, int]]:
        """Which source of a fresh scan each source of the index is: they repeat where segments share a file."""
        if len(file.sources) % len(fresh.sources):
            self.messages.append(
                f"Expected {len(file.sources)} sets of codec parameters in {display_uri(file.meta.uri)}, as the index "
                f"says, found {len(fresh.sources)}."
            )
            return []
        return [(source_idx, k % len(fresh.sources)) for k, source_idx in enumerate(file.sources)]

    # -- bytes and tables ---------------------------------------------------------------------------------------------

    def bytes_of(self, file: _File, source_idx: int, table: _Table) -> None:
        """Read again every packet whose checksum is known."""
        packets = table.packets
        known = np.flatnonzero((packets.crc32 != UNKNOWN) & (packets.offset >= 0))
        known = known[np.argsort(packets.offset[known], kind="stable")]
        inside = packets.offset[known] + packets.size[known] <= file.meta.size
        bad = known[~inside].tolist()
        known = known[inside]
        for batch in in_batches(packets.size[known].tolist(), max_bytes=_READ_BYTES):
            bad += self.damaged_among(file, packets, known[batch])
        self.packets_read += len(known)
        self.damaged.update((source_idx, int(packets.decode_position[k])) for k in bad)
        if bad:
            rows = [int(table.rows[k]) for k in bad if table.rows[k] >= 0]
            self.wrong.update(rows)
            self.messages.append(
                f"Expected the packets of {display_uri(file.meta.uri)} to have the checksums in the index, found other "
                f"bytes in {len(bad)}, of the frames {listed(rows)}."
            )

    def damaged_among(self, file: _File, packets: PacketTable, chosen: IntArray) -> list[int]:
        """Those of the chosen packets whose bytes differ from their checksums, also when read a second time."""
        for _ in range(2):
            if not len(chosen):
                break
            starts, stops = packets.offset[chosen], packets.offset[chosen] + packets.size[chosen]
            ranges = list(zip(starts.tolist(), stops.tolist(), strict=True))
            payloads = self.store.read_ranges(file.meta.uri, ranges, pin=file.meta)
            crcs = np.array([zlib.crc32(payload) for payload in payloads], np.int64)
            chosen = chosen[crcs != packets.crc32[chosen]]
        found: list[int] = chosen.tolist()
        return found

    def table(self, source_idx: int, mine: _Table, fresh: _Table) -> npt.NDArray[np.bool_]:
        """Compare two packet tables of one source.

        Returns:
            bool [P], which of the fresh scan's packets the index shows.
        """
        count = min(len(mine.rows), len(fresh.rows))
        if len(mine.rows) != len(fresh.rows):
            self.messages.append(
                f"Expected {len(mine.rows)} packets of source {source_idx}, as the index says, found {len(fresh.rows)}."
            )
            self.missing.update(mine.rows[count:][mine.rows[count:] >= 0].tolist())
        rows = mine.rows[:count]
        for name in _EXACT_COLUMNS:
            differs = getattr(mine.packets, name)[:count] != getattr(fresh.packets, name)[:count]
            self.differing(source_idx, rows, differs, name)
        scanned = mine.packets.crc32[:count] != UNKNOWN
        for name in ("crc32", "disposable"):
            # Where the payload was not read, the index knows less than the fresh scan, which is no contradiction.
            ours, theirs = getattr(mine.packets, name)[:count], getattr(fresh.packets, name)[:count]
            differs = scanned & (ours != UNKNOWN) & (theirs != UNKNOWN) & (ours != theirs)
            self.differing(source_idx, rows, differs, name)
        self.differing(source_idx, rows, (rows >= 0) & (fresh.rows[:count] < 0), "shown")
        shown = np.zeros(len(fresh.rows), np.bool_)
        shown[:count] = rows >= 0
        return shown

    def differing(self, source_idx: int, rows: IntArray, differs: npt.NDArray[np.bool_], name: str) -> None:
        """Note packets of which the index says something else than a fresh scan."""
        positions = np.flatnonzero(differs)
        if not len(positions):
            return
        frames = sorted(int(row) for row in rows[positions] if row >= 0)
        self.wrong.update(frames)
        if name == "crc32":
            self.damaged.update((source_idx, int(position)) for position in positions)
        self.messages.append(
            f"Expected the column '{name}' of source {source_idx} to be that of a fresh scan, found another value for "
            f"{len(positions)} packets, of the frames {listed(frames)}."
        )

    def source(self, source_idx: int, fresh: Source) -> None:
        """Compare what two scans say of a source as a whole."""
        mine = self.index.sources[source_idx]
        names = [f.name for f in fields(Source) if f.name not in _OWN_FIELDS]
        for name in names:
            ours, theirs = getattr(mine, name), getattr(fresh, name)
            if ours != theirs:
                self.messages.append(
                    f"Expected {name}={_shown(theirs)} for source {source_idx}, as the file says, found "
                    f"{_shown(ours)} in the index."
                )


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The packets of one source in decode order, hidden ones included."""

    rows: IntArray
    """int64 [P], the frame that each packet shows; -1 for none."""
    packets: PacketTable


def _table_of(index: FrameIndex, source_idx: int) -> _Table:
    shown = np.flatnonzero(index.packets.source_idx == source_idx)
    hidden = index.hidden.take(np.flatnonzero(index.hidden.source_idx == source_idx))
    packets = PacketTable.concat([index.packets.take(shown), hidden], source_shifts=[0, 0])
    rows = np.concatenate([shown, np.full(len(hidden), -1)]).astype(np.int64)
    order = np.argsort(packets.decode_position, kind="stable")
    return _Table(rows[order], packets.take(order))


def _rows_of_pictures(index: FrameIndex, fresh: FrameIndex, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each frame of a fresh scan, the frames of the index that its packet shows; often one."""
    rows: list[list[int]] = [[] for _ in range(len(fresh))]
    for source_idx, fresh_idx in pairs:
        mine = _table_of(index, source_idx).rows
        numbers = np.flatnonzero(fresh.packets.source_idx == fresh_idx)
        for number, position in zip(numbers.tolist(), fresh.packets.decode_position[numbers].tolist(), strict=True):
            if position < len(mine) and mine[position] >= 0:
                rows[number].append(int(mine[position]))
    return rows


def _shown(value: object) -> str:
    return f"{len(value)} bytes (crc32 {zlib.crc32(value):08x})" if isinstance(value, bytes) else repr(value)
