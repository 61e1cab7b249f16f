"""Frames of a batch of videos, read together: plan all, fetch all, verify, then decode each into its rows.

    ReadRequests ─▶ plan ─▶ jobs ─▶ packets.begin ─▶ PacketDecoder ─▶ PictureConverter ─▶ rows of the caller's tensors

Every frame delivered is the one planned; a frame that does not come out is tried again from earlier key packets, and in
the end is an error. Nothing is filled with zeros, repeated or shifted.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from lazyvid.decoding import container, packets
from lazyvid.decoding.convert import PictureConverter, PictureFormat
from lazyvid.decoding.decoder import PacketDecoder
from lazyvid.decoding.files import VideoFiles
from lazyvid.decoding.packets import Job
from lazyvid.decoding.plan import in_batches, plan_runs
from lazyvid.decoding.pool import DecoderPool, default_pool
from lazyvid.errors import DecodeError, TruncatedVideoError
from lazyvid.stats import count
from lazyvid.storage import display_uri

_BATCH_BYTES = 128 << 20
"""Encoded bytes fetched at once; a larger request is read and decoded in several batches, of which two are held."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadRequest:
    """Frames of one video and the memory that they go to."""

    files: VideoFiles
    rows: npt.NDArray[np.int64]
    """int64 [N], rows of the index, in any order and as often as wanted."""
    picture_format: PictureFormat
    out: npt.NDArray[np.uint8]
    """uint8 [N, H, W, C], channels last, written whole."""


@dataclass(slots=True)
class _Target:
    """Where the pictures of one source of one request go."""

    request: ReadRequest
    source_idx: int
    destinations: dict[int, list[int]]
    """Row of the index -> rows of `out`; a row leaves when its picture has arrived."""
    _converter: PictureConverter | None = field(default=None)

    def deliver(self, picture: VideoFrame) -> bool:
        """Write a decoded picture to its rows, if it is wanted and whole."""
        if picture.is_corrupt:  # damaged parts were painted over by guesses; what was guessed depends on the start
            return False
        places = self.destinations.pop(picture.pts, None) if picture.pts is not None else None
        if places is None:
            return False
        if self._converter is None:
            source = self.request.files.index.sources[self.source_idx]
            self._converter = PictureConverter(source, self.request.picture_format)
        out = self.request.out
        self._converter.write(picture, out[places[0]])
        for place in places[1:]:
            out[place] = out[places[0]]
        return True


class PendingFrames:
    """Frames whose first packets are on their way; made by `begin_frames`, belongs to the process that made it."""

    def __init__(self, requests: Sequence[ReadRequest], pool: DecoderPool) -> None:
        """Plans the reads and starts the first one."""
        self._pool = pool
        self._frames = sum(len(request.rows) for request in requests)
        targets = [target for request in requests for target in _targets(request)]
        self._fed = [target for target in targets if _addressing(target) != "sequential"]
        self._sequential = [target for target in targets if _addressing(target) == "sequential"]
        self._batches = _Batches(self._fed)

    def result(self) -> None:
        """Wait for the packets and decode them into the requests' memory. To be called once.

        Raises:
            StoreError: if an object cannot be read, or is no longer the one that was pinned.
            VideoError: if bytes are damaged, or a frame does not come out of the decoder.
        """
        _read_packets(self._fed, self._batches, self._pool)
        for target in self._sequential:
            _read_sequentially(target)
        count(frames_returned=self._frames)

    def cancel(self) -> None:
        """Give up what has not arrived."""
        self._batches.cancel()


def begin_frames(requests: Sequence[ReadRequest], *, pool: DecoderPool | None = None) -> PendingFrames:
    """Plan a read of frames and start fetching their packets; what goes wrong on the way comes out of `result`.

    Args:
        requests: One a clip.
        pool: Where decoder contexts come from; by default the process's own.

    Raises:
        CorruptIndexError: if an index makes no sense.
    """
    return PendingFrames(requests, pool or default_pool())


def read_frames(requests: Sequence[ReadRequest], *, pool: DecoderPool | None = None) -> None:
    """Read the frames of all requests into their memory: `begin_frames` and its `result` at once.

    Raises:
        StoreError: if an object cannot be read, or is no longer the one that was pinned.
        VideoError: if bytes are damaged, or a frame does not come out of the decoder.
    """
    begin_frames(requests, pool=pool).result()


def _targets(request: ReadRequest) -> Iterable[_Target]:
    """One target for each source that a request's frames lie in."""
    source_of = request.files.index.packets.source_idx[request.rows].tolist()
    destinations: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)
    for place, (row, source_idx) in enumerate(zip(request.rows.tolist(), source_of, strict=True)):
        destinations[source_idx].setdefault(row, []).append(place)
    return [_Target(request, source_idx, rows) for source_idx, rows in destinations.items()]


def _addressing(target: _Target) -> str:
    return target.request.files.index.sources[target.source_idx].addressing


# -- fed by packets ---------------------------------------------------------------------------------------------------


class _Batches:
    """The runs of targets, fetched in batches: while the caller decodes one, the next one is on its way."""

    def __init__(self, targets: Sequence[_Target], *, steps_back: int = 0) -> None:
        """Plans the runs and starts the first fetch."""
        jobs = [(target, job) for target in targets for job in _plan(target, steps_back)]
        sizes = [job.nbytes for _, job in jobs]
        self._left = deque(jobs[batch] for batch in in_batches(sizes, max_bytes=_BATCH_BYTES))
        self._pending: packets.PendingPackets | None = None
        self._begin_next()

    def _begin_next(self) -> None:
        self._pending = packets.begin([job for _, job in self._left[0]]) if self._left else None

    def __iter__(self) -> Iterator[tuple[_Target, Job, list[bytes]]]:
        """Each run with the payloads of its packets."""
        try:
            while self._pending is not None:
                payloads = self._pending.result()
                batch = self._left.popleft()
                self._begin_next()
                for (target, job), packet_bytes in zip(batch, payloads, strict=True):
                    yield target, job, packet_bytes
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give up what has not arrived."""
        if self._pending is not None:
            self._pending.cancel()


def _read_packets(targets: Sequence[_Target], batches: _Batches, pool: DecoderPool) -> None:
    """Give each target its pictures; those that do not come out are tried from ever earlier key packets."""
    steps_back = 0
    while True:
        for target, job, payloads in batches:
            _decode(target, job, payloads, pool)
        targets = [target for target in targets if target.destinations]
        if not targets:
            return
        # Doubling reaches the first packet in few tries, also where every packet claims to be a key packet.
        steps_back = max(1, 2 * steps_back)
        count(decode_restarts=1)
        batches = _Batches(targets, steps_back=steps_back)


def _plan(target: _Target, steps_back: int) -> list[Job]:
    files = target.request.files
    order = files.decode_order(target.source_idx)
    rows = np.fromiter(target.destinations, np.int64, len(target.destinations))
    positions = np.sort(files.index.packets.decode_position[rows])
    runs = plan_runs(order, positions, steps_back=steps_back)
    return [Job(files, target.source_idx, order, run) for run in runs]


def _decode(target: _Target, job: Job, payloads: Sequence[bytes], pool: DecoderPool) -> None:
    """Feed one run; raise only when its pictures cannot come from an earlier start either."""
    cause: Exception | None = None
    try:
        with pool.checkout(job.order.source) as decoder:
            _feed(target, job, payloads, decoder)
    except av.FFmpegError as error:
        cause = error
    missing = [row for row in job.order.row[job.run.wanted].tolist() if row in target.destinations]
    if missing and job.run.start == 0:
        raise DecodeError(
            f"Expected {len(job.run.wanted)} frames from the decoder for {job.describe()}, {len(missing)} did not come "
            f"out (frames {missing[:8]}), also when decoding from the file's first packet"
            f"{f': {cause}' if cause else ''}. The video is damaged there, or its index describes another file "
            "(lazyvid verify)."
        ) from cause


def _feed(target: _Target, job: Job, payloads: Sequence[bytes], decoder: PacketDecoder) -> None:
    order, run = job.order, job.run
    wanted = set(order.row[run.wanted].tolist())
    unknown = order.disposable[run.positions] < 0
    rows = order.row[run.positions].tolist()
    fed = decoded = 0
    for i, (row, payload) in enumerate(zip(rows, payloads, strict=True)):
        if unknown[i] and i and row not in wanted and decoder.is_disposable(payload):
            continue
        pictures = decoder.feed(payload, row)
        fed += 1
        for picture in pictures:
            decoded += 1
            if target.deliver(picture):
                wanted.discard(picture.pts)
    if wanted:
        for picture in decoder.drain():
            decoded += 1
            target.deliver(picture)
    count(packets_fed=fed, packets_skipped=run.stop - run.start - fed, frames_decoded=decoded)


# -- through the container --------------------------------------------------------------------------------------------


def _read_sequentially(target: _Target) -> None:
    """Decode a file from its start and pick the wanted pictures by counting them."""
    files = target.request.files
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
