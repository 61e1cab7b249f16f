"""Which packets must be fed to get which frames: pure planning, no I/O and no decoder.

    frame numbers ─▶ positions in decode order ─▶ runs from a key packet to the last packet needed ─▶ byte ranges

The rule (verified on open GOPs, edit lists, non-zero starts, leading pictures): start at the last key packet whose
decode position and presentation time are not after the target's; leave out disposable packets that nobody asked for;
stop at the target and drain. The nearest key packet in decode order alone would lose leading pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lazyvid.errors import CorruptIndexError
from lazyvid.index.frame_index import UNKNOWN, FrameIndex, PacketTable, Source

IntArray = npt.NDArray[np.int64]

HIDDEN_ROW = -1
"""The frame number of a packet that is never shown."""

_MOST_REORDERED = 16
"""The largest number of pictures that a codec lets a decoder hold back."""

_MOST_PUSHING = 64
"""Packets that a run feeds on, at most, to push its last picture out."""

_LONG_RUN = 256
"""Packets after which a run that could go on ends."""


@dataclass(frozen=True, eq=False)
class DecodeOrder:
    """All packets of one source, hidden ones included, in decode order: position p of every array is packet p."""

    source: Source
    """The file and its codec parameters."""
    row: IntArray
    """int64 [P], the frame that the packet shows, by its row in the index; `HIDDEN_ROW` for none."""
    offset: IntArray
    """int64 [P], first byte of the payload."""
    size: IntArray
    """int64 [P], bytes of payload."""
    pts: IntArray
    """int64 [P], presentation time in ticks."""
    disposable: npt.NDArray[np.int8]
    """int8 [P], 1 when no other packet refers to it, -1 where that is not known."""
    crc32: IntArray
    """int64 [P], checksum of the payload, -1 where it is not known."""
    keys: IntArray
    """int64 [K], positions of the key packets, ascending."""
    has_checksums: bool
    """Whether any checksum is known."""

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, index: FrameIndex, source_idx: int) -> DecodeOrder:
        """The packets of a source of `index`.

        Raises:
            CorruptIndexError: if the decode positions are not 0, 1, 2, ... or no packet is a key packet.
        """
        if len(index.sources) == 1 and not len(index.hidden) and _counts_up(index.packets.decode_position):
            return cls._made(index.sources[0], np.arange(len(index)), index.packets)  # of which nothing is copied
        shown_rows = np.flatnonzero(index.packets.source_idx == source_idx)
        hidden_rows = np.flatnonzero(index.hidden.source_idx == source_idx)
        shown, hidden = index.packets.take(shown_rows), index.hidden.take(hidden_rows)
        packets = PacketTable.concat([shown, hidden], source_shifts=[0, 0]) if len(hidden) else shown
        rows = np.concatenate([shown_rows, np.full(len(hidden), HIDDEN_ROW)]) if len(hidden) else shown_rows
        order = np.argsort(packets.decode_position, kind="stable")
        if not _counts_up(packets.decode_position[order]):
            raise CorruptIndexError(
                f"Expected the decode positions of {index.sources[source_idx].uri!r} to count 0, 1, 2, ... over its "
                f"{len(order)} packets, found others. Index the video again (lazyvid index --force)."
            )
        return cls._made(index.sources[source_idx], rows[order].astype(np.int64), packets.take(order))

    @classmethod
    def _made(cls, source: Source, row: IntArray, packets: PacketTable) -> DecodeOrder:
        """Of packets that are in decode order."""
        _check_places(source, packets)
        keys = np.flatnonzero(packets.key)
        return cls(
            source=source,
            row=row,
            offset=packets.offset,
            size=packets.size,
            pts=packets.pts,
            disposable=packets.disposable,
            crc32=packets.crc32,
            # A stream that marks no packet at all can only be decoded from its first one.
            keys=keys if len(keys) else np.zeros(min(1, len(row)), np.int64),
            has_checksums=bool(np.any(packets.crc32 != UNKNOWN)),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its own, besides those of the index."""
        arrays = (self.row, self.offset, self.size, self.pts, self.disposable, self.crc32, self.keys)
        return sum(array.nbytes for array in arrays if array.flags.owndata)

    @cached_property  # sixteen passes over all packets: once for a file, not for each read
    def reorder_depth(self) -> int:
        """The most pictures that are decoded before one and shown after it: how many a decoder holds back, at most."""
        ranks = self.row[self.row != HIDDEN_ROW]
        later = np.zeros(len(ranks), np.int64)
        for distance in range(1, min(_MOST_REORDERED + 1, len(ranks))):
            later[distance:] += ranks[:-distance] > ranks[distance:]
        return int(later.max(initial=0))

    def starts_for(self, positions: IntArray, *, steps_back: int = 0) -> IntArray:
        """Where to start feeding to get the pictures of these packets.

        Args:
            positions: int64 [K], places in decode order.
            steps_back: Start this many key packets earlier than the rule says, or at the first packet.

        Returns:
            int64 [K], decode positions of key packets; 0 where the rule finds none.
        """
        k = self.keys.searchsorted(positions, side="right") - 1
        pts = self.pts[positions]
        # Leading pictures are shown before the key packet that they follow: they need the one before it.
        while (leading := (k >= 0) & (self.pts[self.keys[k]] > pts)).any():
            k[leading] -= 1
        k -= steps_back
        starts = self.keys[np.maximum(k, 0)]
        starts[k < 0] = 0
        return starts


def _check_places(source: Source, packets: PacketTable) -> None:
    """Raise CorruptIndexError unless every packet lies in its file, as far as the index says where they lie."""
    if source.addressing != "packets" or not len(packets):
        return
    offset, size = packets.offset, packets.size
    if offset.min() < 0 or size.min() < 0 or (offset > source.size - size).any():
        raise CorruptIndexError(
            f"Expected every packet of {source.uri!r} inside its {source.size} bytes, found some outside. Index the "
            "video again (lazyvid index --force)."
        )


def _counts_up(positions: IntArray) -> bool:
    return np.array_equal(positions, np.arange(len(positions)))


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Packets to feed to one decoder, in order, from a place where decoding can start."""

    start: int
    """Decode position where the run begins."""
    stop: int
    """One past the decode position of the last packet that is fetched, and fed if need be."""
    positions: IntArray
    """int64 [M], decode positions of the packets to feed, ascending, start first and stop - 1 last."""
    wanted: IntArray
    """int64 [K], decode positions of the packets whose pictures are wanted, ascending."""
    needed_stop: int
    """One past the decode position of the last wanted packet; behind it, packets are fed in place of a drain."""
    goes_on: bool = False
    """Whether the next read is likely to go on where this one ends."""
    steps_back: int = 0
    """Key packets by which it begins earlier than the rule says."""

    def without_going_on(self) -> Run:
        """The run up to its last wanted packet: no other one must be sound."""
        needed = int(self.positions.searchsorted(self.needed_stop))
        return replace(self, stop=self.needed_stop, positions=self.positions[:needed], goes_on=False)


@dataclass(slots=True, eq=False)
class Standing:
    """Where a decoder stands that was neither drained nor restarted: it can go on with what lies ahead of it."""

    stream: Hashable
    """The stream that it was fed, and from which bytes."""
    start: int
    """Decode position where feeding began."""
    next: int
    """One past the decode position of the last packet fed; between the two, none was left out that others refer to."""
    inside: set[int]
    """Frames that were fed and whose pictures have not come out."""

    def serves(self, stream: Hashable, order: DecodeOrder, run: Run) -> bool:
        """Whether going on from here gives the pictures of a run, as starting at its start would."""
        if stream != self.stream or not self.start <= run.start <= self.next:
            return False
        passed = run.wanted[: int(run.wanted.searchsorted(self.next))]
        return self.inside.issuperset(order.row[passed].tolist())


def plan_runs(
    order: DecodeOrder,
    positions: IntArray,
    *,
    steps_back: int = 0,
    held_back: int | None = None,
    long_run: int = _LONG_RUN,
) -> list[Run]:
    """Runs that give the pictures of these packets.

    Two wanted packets share a run when one's start lies inside the other's run or right behind it: going on costs no
    more packets than starting again, and no drain and flush. A long run ends at such a seam, to bound what is held.

    Args:
        order: The source's packets.
        positions: int64 [K], decode positions of the wanted pictures, ascending, without duplicates.
        steps_back: See `DecodeOrder.starts_for`.
        held_back: Given where the next read is likely to want the frames behind these: then the last run feeds on until
            its pictures come out, so that the decoder is not drained and can go on. So many pictures, or more, a
            decoder of this stream is known to hold back.
        long_run: Packets after which a run ends at the next seam.

    Returns:
        Runs in decode order that do not overlap.
    """
    if not len(positions):
        return []
    starts = order.starts_for(positions, steps_back=steps_back).tolist()
    groups: list[tuple[int, list[int]]] = []
    first = stop = -1
    # By start, since a leading picture's start lies before that of its key packet.
    for start, position in sorted(zip(starts, positions.tolist(), strict=True)):
        if start > stop or (start == stop and stop - first >= long_run) or not groups:
            groups.append((start, []))
            first = start
        groups[-1][1].append(position)
        stop = max(stop, position + 1)
    runs = [_run(order, start, sorted(group), steps_back) for start, group in groups]
    return runs if held_back is None else [*runs[:-1], _going_on(order, runs[-1], held_back)]


def _run(order: DecodeOrder, start: int, group: list[int], steps_back: int) -> Run:
    wanted = np.array(group, np.int64)
    stop = group[-1] + 1
    needed = order.disposable[start:stop] != 1
    needed[wanted - start] = True
    needed[0] = True
    return Run(start, stop, needed.nonzero()[0] + start, wanted, stop, steps_back=steps_back)


def _going_on(order: DecodeOrder, run: Run, held_back: int) -> Run:
    """The run, with the packets behind it that push its last picture out, disposable ones too: the next read's own."""
    depth = max(held_back, order.reorder_depth)
    # The picture comes out once so many are inside that are shown after it, whatever is decoded in between.
    later = order.row[run.stop : run.stop + _MOST_PUSHING] > order.row[run.wanted].max()
    stop = run.stop + int(later.cumsum().searchsorted(depth)) + 1 if depth else run.stop
    stop = min(stop, len(order), run.stop + _MOST_PUSHING)
    positions = np.concatenate([run.positions, np.arange(run.stop, stop)])
    return replace(run, stop=stop, positions=positions, goes_on=True)


def byte_ranges(order: DecodeOrder, run: Run) -> list[tuple[int, int]]:
    """Half-open byte ranges of a run's packets, one a packet, in feeding order."""
    starts = order.offset[run.positions]
    return list(zip(starts.tolist(), (starts + order.size[run.positions]).tolist(), strict=True))


def in_batches(sizes: Sequence[int], *, max_bytes: int) -> Iterator[slice]:
    """Cut a sequence of sizes into slices of at most `max_bytes` in sum, at least one item each."""
    first, total = 0, 0
    for i, size in enumerate(sizes):
        if i > first and total + size > max_bytes:
            yield slice(first, i)
            first, total = i, 0
        total += size
    if first < len(sizes):
        yield slice(first, len(sizes))
