"""Fetches the packets of planned runs, a whole batch together, and checks them before anything is decoded.

    jobs (a run of a source of a video) ─▶ one vectored read over all objects ─▶ lengths and checksums ─▶ payloads

`plan` says what will be read and how much that is, `begin` starts it, `result` waits for it and checks what came.

No byte is read inside a callback of FFmpeg: there, a short read or a Ctrl-C would come out as "invalid data".
"""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lazyvid.decoding import container
from lazyvid.decoding.files import VideoFiles
from lazyvid.decoding.plan import DecodeOrder, Run, byte_ranges
from lazyvid.errors import CorruptVideoError
from lazyvid.index.frame_index import UNKNOWN
from lazyvid.stats import count
from lazyvid.storage import ObjectMeta, ObjectStore, RangeRequest, display_uri
from lazyvid.storage.pending import PendingRead, PlannedRead

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A run of packets of one source of one video."""

    files: VideoFiles
    source_idx: int
    order: DecodeOrder
    run: Run

    @property
    def uri(self) -> str:
        """The file's absolute URI."""
        return self.files.uris[self.source_idx]

    @property
    def store(self) -> ObjectStore:
        """Where the file lies."""
        return self.files.stores[self.source_idx]

    @property
    def pin(self) -> ObjectMeta:
        """The version of the file that is read."""
        return self.files.pins[self.source_idx]

    @property
    def nbytes(self) -> int:
        """Bytes of the packets from the run's first to its last."""
        return int(self.order.size[self.run.start : self.run.stop].sum())

    def describe(self) -> str:
        """The object and the frames, for messages."""
        frames = self.order.row[self.run.wanted]
        span = f"frame {frames[0]}" if len(frames) == 1 else f"frames {frames.min()} to {frames.max()}"
        return f"{display_uri(self.uri)}, {span}"


class PendingPackets:
    """The packets of jobs, planned and then on their way from their stores; made by `plan`, belongs to its process.

    Packets that only a demuxer reaches, and those of files that are copied whole, are read by `result`.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self.nbytes = 0
        """Encoded bytes that are held for it, those between packets included."""
        groups: defaultdict[ObjectStore, list[int]] = defaultdict(list)
        for i, job in enumerate(jobs):
            if job.order.source.addressing == "packets" and job.files.local_copies is None:
                groups[job.store].append(i)
            else:  # the demuxer's own copy of the file has a check of its own
                self.nbytes += sum(job.order.size[job.run.positions].tolist())
        self._planned: list[tuple[ObjectStore, list[int], _RangeReads, list[PlannedRead]]] = []
        self._begun: list[tuple[list[int], _RangeReads, PendingRead]] | None = None
        for store, members in groups.items():
            reads = _RangeReads([jobs[i] for i in members])
            planned = store.plan_many(reads.requests)
            self._planned.append((store, members, reads, planned))
            for read in planned:
                self.nbytes += read.nbytes

    def begin(self, *, ahead: bool) -> None:
        """Start fetching, all together.

        Args:
            ahead: Whether something else is done before the packets are asked for.
        """
        self._begun = [
            (members, reads, store.begin_planned(planned, ahead=ahead))
            for store, members, reads, planned in self._planned
        ]

    def result(self) -> list[list[bytes]]:
        """The payloads of every job's packets, in feeding order.

        Raises:
            StoreError: if an object cannot be read, or is no longer the one that was pinned.
            CorruptVideoError: if bytes differ from the checksum in the index, also when read a second time.
        """
        if self._begun is None:
            self.begin(ahead=False)
        payloads: list[list[bytes] | None] = [None] * len(self._jobs)
        try:
            for members, reads, pending in self._begun or ():
                for i, own in zip(members, reads.cut(pending.result()), strict=True):
                    payloads[i] = own
        finally:
            self.cancel()
        return [
            _checked(job, own if own is not None else _read_whole(job))
            for job, own in zip(self._jobs, payloads, strict=True)
        ]

    def cancel(self) -> None:
        """Give up what has not arrived."""
        for _, _, pending in self._begun or ():
            pending.cancel()


def plan(jobs: Sequence[Job]) -> PendingPackets:
    """Plan to fetch the packets of every job, all together; nothing is asked of a store yet."""
    return PendingPackets(jobs)


class _RangeReads:
    """The byte ranges of jobs of one store: one request for each object, so that runs side by side are one piece."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        ranges: defaultdict[tuple[str, ObjectMeta], list[tuple[int, int]]] = defaultdict(list)
        self._places: list[tuple[tuple[str, ObjectMeta], slice]] = []
        for job in jobs:
            wanted = ranges[job.uri, job.pin]
            own = byte_ranges(job.order, job.run)
            self._places.append(((job.uri, job.pin), slice(len(wanted), len(wanted) + len(own))))
            wanted.extend(own)
        self._objects = list(ranges)
        self.requests = [RangeRequest(uri, wanted, pin) for (uri, pin), wanted in ranges.items()]

    def cut(self, answers: Sequence[list[bytes]]) -> list[list[bytes]]:
        """Each job's packets out of the answers to the requests."""
        payloads = dict(zip(self._objects, answers, strict=True))
        return [payloads[key][place] for key, place in self._places]


def _checked(job: Job, payloads: list[bytes]) -> list[bytes]:
    """The payloads, read once more where they are damaged: the wire may have been at fault."""
    if _damaged(job, payloads) is None:
        return payloads
    count(refetches=1)
    _log.debug("The bytes of %s are not those that were indexed: reading them again.", job.describe())
    payloads = _read_again(job)
    damaged = _damaged(job, payloads)
    if damaged is not None:
        raise CorruptVideoError(
            f"Expected packet {damaged} of {job.describe()} to have the checksum in the index, found other bytes "
            "twice. The file was damaged since it was indexed: restore it, or index it again (lazyvid index --force) "
            "to decode it as it is."
        )
    _log.warning(
        "The bytes of %s came damaged, and right when read again: the network, a proxy or a disk spoils them.",
        job.describe(),
    )
    return payloads


def _damaged(job: Job, payloads: Sequence[bytes]) -> int | None:
    """The decode position of the first packet whose bytes are not those that were indexed."""
    if not job.order.has_checksums:
        return None
    checksums = job.order.crc32[job.run.positions]
    for position, expected, payload in zip(job.run.positions, checksums.tolist(), payloads, strict=True):
        if expected != UNKNOWN and zlib.crc32(payload) != expected:
            return int(position)
    return None


def _read_again(job: Job) -> list[bytes]:
    if job.files.local_copies is not None:  # the copy may be what is damaged
        job.files.local_copies.discard(job.store, job.uri, pin=job.pin)
    if job.order.source.addressing != "packets" or job.files.local_copies is not None:
        return _read_whole(job)
    return job.store.read_ranges(job.uri, byte_ranges(job.order, job.run), pin=job.pin)


def _read_whole(job: Job) -> list[bytes]:
    """From a copy of the whole file: byte ranges where packets are addressable, else what a demuxer finds."""
    if job.order.source.addressing == "packets":
        copies = job.files.local_copies
        assert copies is not None
        (payloads,) = copies.read_many(job.store, [RangeRequest(job.uri, byte_ranges(job.order, job.run), job.pin)])
        return payloads
    with job.files.whole_file(job.source_idx) as file:
        return container.read_packets(file, job.order, job.run, uri=display_uri(job.uri), limits=job.files.limits)
