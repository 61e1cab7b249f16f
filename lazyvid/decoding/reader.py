"""Frames of a batch of videos, read together: plan all, fetch all, verify, then decode each into its rows.

    ReadRequests ─▶ plan ─▶ jobs ─▶ packets.plan ─▶ PacketDecoder ─▶ PictureConverter ─▶ rows of the caller's tensors

Every frame delivered is the one planned; a frame that does not come out is tried again from earlier key packets, and in
the end is an error. Nothing is filled with zeros, repeated or shifted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lazyvid.decoding import container, packets
from lazyvid.decoding.feeding import decode_run
from lazyvid.decoding.packets import Job
from lazyvid.decoding.plan import in_batches, plan_runs
from lazyvid.decoding.pool import DecoderPool, default_pool
from lazyvid.decoding.targets import ReadRequest, Target, targets_of
from lazyvid.errors import LimitExceededError, TruncatedVideoError
from lazyvid.out_of_memory import blaming_memory_first
from lazyvid.stats import count
from lazyvid.storage import display_uri

_log = logging.getLogger(__name__)

_BATCH_BYTES = 128 << 20
"""Encoded bytes fetched at once; a larger request is read and decoded in several batches, of which two are held where
`Limits.span_bytes` allows it."""

_PICTURES = 16
"""The most that a decoder of H.264 or HEVC holds at once, each of up to two bytes a pixel."""


class PendingFrames:
    """Frames whose first packets are on their way; made by `begin_frames`, belongs to the process that made it."""

    def __init__(self, requests: Sequence[ReadRequest], pool: DecoderPool, *, ahead: bool) -> None:
        """Plans the reads and starts the first one."""
        self._pool = pool
        self._frames = sum(len(request.rows) for request in requests)
        targets = [target for target in targets_of(requests) if target.destinations]
        self._fed = [target for target in targets if target.source.addressing != "sequential"]
        self._sequential = [target for target in targets if target.source.addressing == "sequential"]
        self._batches = _Batches(self._fed, pool, ahead=ahead)

    def result(self) -> None:
        """Wait for the packets and decode them into the requests' memory. To be called once.

        Raises:
            StoreError: if an object cannot be read, or is no longer the one that was pinned.
            VideoError: if bytes are damaged, or a frame does not come out of the decoder.
            MemoryError: if this process has no memory left for it.
        """
        with blaming_memory_first(nbytes=self._pictures_nbytes):
            _read_packets(self._fed, self._batches, self._pool)
            for target in self._sequential:
                _read_sequentially(target)
        count(frames_returned=self._frames)

    def _pictures_nbytes(self) -> int:
        sources = [target.source for target in (*self._fed, *self._sequential)]
        return max((_PICTURES * 2 * source.width * source.height for source in sources), default=0)

    def cancel(self) -> None:
        """Give up what has not arrived."""
        self._batches.cancel()


def begin_frames(
    requests: Sequence[ReadRequest], *, pool: DecoderPool | None = None, ahead: bool = True
) -> PendingFrames:
    """Plan a read of frames and start fetching their packets; what goes wrong on the way comes out of `result`.

    Args:
        requests: One a clip.
        pool: Where decoder contexts come from; by default the process's own.
        ahead: Whether something else is done before `result` is called.

    Raises:
        CorruptIndexError: if an index makes no sense.
        LimitExceededError: if a frame takes more encoded bytes than `Limits.span_bytes`.
    """
    return PendingFrames(requests, pool or default_pool(), ahead=ahead)


def read_frames(requests: Sequence[ReadRequest], *, pool: DecoderPool | None = None) -> None:
    """Read the frames of all requests into their memory: `begin_frames` and its `result` at once.

    Raises:
        StoreError: if an object cannot be read, or is no longer the one that was pinned.
        VideoError: if bytes are damaged, or a frame does not come out of the decoder.
    """
    begin_frames(requests, pool=pool, ahead=False).result()


# -- fed by packets ---------------------------------------------------------------------------------------------------


class _Batches:
    """The runs of targets, fetched in batches: while the caller decodes one, the next one is on its way."""

    def __init__(
        self, targets: Sequence[Target], pool: DecoderPool, *, steps_back: int = 0, ahead: bool = False
    ) -> None:
        """Plans the runs and starts the first fetch."""
        jobs = [(target, job) for target in targets for job in _plan(target, pool, steps_back)]
        sizes = [job.nbytes for _, job in jobs] if len(jobs) > 1 else [0] * len(jobs)
        self._limit = min((target.files.limits.span_bytes for target in targets), default=_BATCH_BYTES)
        bound = min(_BATCH_BYTES, self._limit)
        self._left = deque(jobs[batch] for batch in in_batches(sizes, max_bytes=bound))
        self._pending = self._plan_next()
        if self._pending is not None:
            self._pending.begin(ahead=ahead)

    def _plan_next(self) -> packets.PendingPackets | None:
        """The next batch, held against the limit; a smaller one where what lies between its packets is too much."""
        while self._left:
            batch = self._left[0]
            planned = packets.plan([job for _, job in batch])
            if planned.nbytes <= self._limit:
                return planned
            pieces = [[one] for one in batch] if len(batch) > 1 else [[piece] for piece in _pieces(*batch[0])]
            if not pieces:
                raise _too_large(batch[0][1], planned.nbytes, self._limit)
            self._left.popleft()
            self._left.extendleft(reversed(pieces))
        return None

    def __iter__(self) -> Iterator[tuple[Target, Job, list[bytes]]]:
        """Each run with the payloads of its packets."""
        try:
            while self._pending is not None:
                payloads, held = self._pending.result(), self._pending.nbytes
                batch = self._left.popleft()
                self._pending = self._plan_next()
                if self._pending is not None and held + self._pending.nbytes <= self._limit:
                    self._pending.begin(ahead=True)  # else once this one has been decoded
                for (target, job), packet_bytes in zip(batch, payloads, strict=True):
                    yield target, job, packet_bytes
                del payloads, packet_bytes
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give up what has not arrived."""
        if self._pending is not None:
            self._pending.cancel()


def _read_packets(targets: Sequence[Target], batches: _Batches, pool: DecoderPool) -> None:
    """Give each target its pictures; those that do not come out are tried from ever earlier key packets."""
    steps_back = 0
    while True:
        for target, job, payloads in batches:
            decode_run(target, job, payloads, pool)
            del payloads  # the next ones are fetched before it would be overwritten
        targets = [target for target in targets if target.destinations]
        if not targets:
            return
        # Doubling reaches the first packet in few tries, also where every packet claims to be a key packet.
        steps_back = max(1, 2 * steps_back)
        count(decode_restarts=1)
        for target in targets:
            uri, rows = display_uri(target.files.uris[target.source_idx]), sorted(target.destinations)
            _log.debug("Frames %s of %s did not come out: %d key packets earlier.", rows[:8], uri, steps_back)
        batches = _Batches(targets, pool, steps_back=steps_back)


def _plan(target: Target, pool: DecoderPool, steps_back: int) -> list[Job]:
    files = target.files
    order = files.decode_order(target.source_idx)
    wanted = list(target.destinations)
    held_back = None if steps_back else pool.follow(target.stream, min(wanted), max(wanted))
    positions = files.index.packets.decode_position[wanted]
    positions.sort()
    runs = plan_runs(order, positions, steps_back=steps_back, held_back=held_back)
    return [Job(files, target.source_idx, order, run) for run in runs]


def _too_large(job: Job, nbytes: int, limit: int) -> LimitExceededError:
    again = " and did not come out of the decoder when it began nearer to them" if job.run.steps_back else ""
    return LimitExceededError(
        f"Expected at most Limits.span_bytes = {limit} bytes for a read, found {nbytes} that {job.describe()} need: "
        f"they are decoded from a key packet {job.run.needed_stop - job.run.start} packets before{again}. Raise the "
        "limit (limits=Limits(span_bytes=...)) if the file and its index are to be trusted, or encode it with key "
        "frames nearer to one another."
    )


def _pieces(target: Target, job: Job) -> list[tuple[Target, Job]]:
    """A run cut wherever decoding can start anew, without what only spares its drain; empty where nothing is to cut."""
    run = job.run
    runs = plan_runs(job.order, run.wanted, steps_back=run.steps_back, long_run=1)
    return [(target, replace(job, run=piece)) for piece in runs] if len(runs) > 1 or run.goes_on else []


# -- through the container --------------------------------------------------------------------------------------------


def _read_sequentially(target: Target) -> None:
    """Decode a file from its start and pick the wanted pictures by counting them."""
    files = target.files
    order = files.decode_order(target.source_idx)
    row_of_number = order.row.tolist()
    stop = 1 + max(int(files.index.packets.decode_position[row]) for row in target.destinations)
    uri = display_uri(files.uris[target.source_idx])
    with files.whole_file(target.source_idx) as file:
        pictures = container.decode_sequentially(file, order.source, uri=uri, stop=stop, limits=files.limits)
        decoded = 0
        for picture in pictures:
            picture.pts = row_of_number[decoded]
            decoded += 1
            target.deliver(picture)
    count(frames_decoded=decoded)
    if target.destinations:
        raise TruncatedVideoError(
            f"Expected {stop} or more frames in {uri}, found {decoded}. The file changed since it was "
            "indexed: index it again (lazyvid index --force)."
        )
