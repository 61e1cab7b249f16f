"""Fetches the packets of planned runs, a whole batch together, and checks them before anything is decoded.

    jobs (a run of a source of a video) ─▶ one vectored read over all objects ─▶ lengths and checksums ─▶ payloads

No byte is read inside a callback of FFmpeg: there, a short read or a Ctrl-C would come out as "invalid data".
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lazyvid.decoding import container
from lazyvid.decoding.files import VideoFiles
from lazyvid.decoding.plan import DecodeOrder, Run, byte_ranges
from lazyvid.errors import CorruptVideoError
from lazyvid.index.frame_index import UNKNOWN
from lazyvid.storage import ObjectMeta, ObjectStore, RangeRequest, display_uri
from lazyvid.storage.cache import SegmentCache


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
        """Bytes from the run's first packet to its last."""
        return int(self.order.size[self.run.start : self.run.stop].sum())

    def describe(self) -> str:
        """The object and the frames, for messages."""
        frames = self.order.row[self.run.wanted]
        span = f"frame {frames[0]}" if len(frames) == 1 else f"frames {frames.min()} to {frames.max()}"
        return f"{display_uri(self.uri)}, {span}"


def fetch(jobs: Sequence[Job]) -> list[list[bytes]]:
    """The payloads of every job's packets, in feeding order.

    Raises:
        StoreError: if an object cannot be read, or is no longer the one that was pinned.
        CorruptVideoError: if bytes differ from the checksum in the index, also when read a second time.
    """
    payloads = _read(jobs)
    for i, job in enumerate(jobs):
        if _damaged(job, payloads[i]) is not None:
            payloads[i] = _read([job])[0]  # once more: the wire may have been at fault
            damaged = _damaged(job, payloads[i])
            if damaged is not None:
                raise CorruptVideoError(
                    f"Expected packet {damaged} of {job.describe()} to have the checksum in the index, found other "
                    "bytes twice. The file was damaged since it was indexed: restore it, or index it again "
                    "(lazyvid index --force) to decode it as it is."
                )
    return payloads


def _damaged(job: Job, payloads: Sequence[bytes]) -> int | None:
    """The decode position of the first packet whose bytes are not those that were indexed."""
    checksums = job.order.crc32[job.run.positions]
    if not np.any(checksums != UNKNOWN):
        return None
    for position, expected, payload in zip(job.run.positions, checksums.tolist(), payloads, strict=True):
        if expected != UNKNOWN and zlib.crc32(payload) != expected:
            return int(position)
    return None


def _read(jobs: Sequence[Job]) -> list[list[bytes]]:
    """Read by byte ranges where packets are addressable, through a demuxer where they are not."""
    results: list[list[bytes]] = [[] for _ in jobs]
    by_store: defaultdict[tuple[ObjectStore, SegmentCache | None], list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        if job.order.source.addressing == "packets":
            by_store[job.store, job.files.local_copies].append(i)
        else:
            results[i] = _demux(job)
    for (store, copies), members in by_store.items():
        for i, payloads in zip(members, _read_ranges(store, copies, [jobs[i] for i in members]), strict=True):
            results[i] = payloads
    return results


def _read_ranges(store: ObjectStore, copies: SegmentCache | None, jobs: Sequence[Job]) -> list[list[bytes]]:
    """One request for each object, so that runs which lie side by side are read in one piece."""
    ranges: defaultdict[tuple[str, ObjectMeta], list[tuple[int, int]]] = defaultdict(list)
    places = []
    for job in jobs:
        wanted = ranges[job.uri, job.pin]
        own = byte_ranges(job.order, job.run)
        places.append(slice(len(wanted), len(wanted) + len(own)))
        wanted.extend(own)
    requests = [RangeRequest(uri, wanted, pin) for (uri, pin), wanted in ranges.items()]
    answers = store.read_many(requests) if copies is None else copies.read_many(store, requests)
    payloads = dict(zip(ranges, answers, strict=True))
    return [payloads[job.uri, job.pin][place] for job, place in zip(jobs, places, strict=True)]


def _demux(job: Job) -> list[bytes]:
    with job.files.whole_file(job.source_idx) as file:
        return container.read_packets(file, job.order, job.run, uri=display_uri(job.uri), limits=job.files.limits)
