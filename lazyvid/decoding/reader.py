"""Frames of a batch of videos, read together: plan all, fetch all, verify, then decode each into its rows.

    ReadRequests ─▶ plan ─▶ jobs ─▶ packets.begin ─▶ PacketDecoder ─▶ PictureConverter ─▶ rows of the caller's tensors

Every frame delivered is the one planned; a frame that does not come out is tried again from earlier key packets, and in
the end is an error. Nothing is filled with zeros, repeated or shifted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from lazyvid.decoding import container, packets
from lazyvid.decoding.feeding import decode_run
from lazyvid.decoding.packets import Job
from lazyvid.decoding.plan import in_batches, plan_runs
from lazyvid.decoding.pool import DecoderPool, default_pool
from lazyvid.decoding.targets import ReadRequest, Target, targets_of
from lazyvid.errors import TruncatedVideoError
from lazyvid.memory import blaming_memory_first
from lazyvid.stats import count
from lazyvid.storage import display_uri

_BATCH_BYTES = 128 << 20
"""Encoded bytes fetched at once; a larger request is read and decoded in several batches, of which two are held."""

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
        sources = [target.source for target in (*self._fed, *self._sequential)]
        with blaming_memory_first(nbytes=max((_PICTURES * 2 * s.width * s.height for s in sources), default=0)):
            _read_packets(self._fed, self._batches, self._pool)
            for target in self._sequential:
                _read_sequentially(target)
        count(frames_returned=self._frames)

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
        self._left = deque(jobs[batch] for batch in in_batches(sizes, max_bytes=_BATCH_BYTES))
        self._pending: packets.PendingPackets | None = None
        self._begin_next(ahead=ahead)

    def _begin_next(self, *, ahead: bool) -> None:
        self._pending = packets.begin([job for _, job in self._left[0]], ahead=ahead) if self._left else None

    def __iter__(self) -> Iterator[tuple[Target, Job, list[bytes]]]:
        """Each run with the payloads of its packets."""
        try:
            while self._pending is not None:
                payloads = self._pending.result()
                batch = self._left.popleft()
                self._begin_next(ahead=True)
                for (target, job), packet_bytes in zip(batch, payloads, strict=True):
                    yield target, job, packet_bytes
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
        targets = [target for target in targets if target.destinations]
        if not targets:
            return
        # Doubling reaches the first packet in few tries, also where every packet claims to be a key packet.
        steps_back = max(1, 2 * steps_back)
        count(decode_restarts=1)
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
