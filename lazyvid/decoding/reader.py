"""Frames of a batch of videos, read together: plan all, fetch all, verify, then decode each into its rows.

    ReadRequests ─▶ plan ─▶ jobs ─▶ packets.begin ─▶ PacketDecoder ─▶ PictureConverter ─▶ rows of the caller's tensors

Every frame delivered is the one planned; a frame that does not come out is tried again from earlier key packets, and in
the end is an error. Nothing is filled with zeros, repeated or shifted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

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
from lazyvid.index.frame_index import Source
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


class _Sink:
    """Where the pictures of one source go for one request."""

    def __init__(self, request: ReadRequest, source: Source) -> None:
        self.out = request.out
        self.picture_format = request.picture_format
        self._source = source
        self._converter: PictureConverter | None = None

    def write(self, picture: VideoFrame, place: int) -> None:
        """Convert a picture into row `place`."""
        if self._converter is None:
            self._converter = PictureConverter(self._source, self.picture_format)
        self._converter.write(picture, self.out[place])


class _Target:
    """The frames of one source that requests want: a frame that several want is decoded once."""

    def __init__(self, files: VideoFiles, source_idx: int) -> None:
        self.files = files
        self.source_idx = source_idx
        self.source = files.index.sources[source_idx]
        self.destinations: dict[int, list[tuple[_Sink, int]]] = {}
        """Row of the index -> rows of memory; a row leaves when its picture has arrived."""

    def add(self, request: ReadRequest, places: Iterable[int]) -> None:
        """Want the frames at these places of the request, too."""
        sink = _Sink(request, self.source)
        rows = request.rows.tolist()
        for place in places:
            self.destinations.setdefault(rows[place], []).append((sink, place))

    def deliver(self, picture: VideoFrame) -> bool:
        """Write a decoded picture to its rows, if it is wanted and whole."""
        if picture.is_corrupt:  # damaged parts were painted over by guesses; what was guessed depends on the start
            return False
        places = self.destinations.pop(picture.pts, None) if picture.pts is not None else None
        if places is None:
            return False
        written: dict[PictureFormat, npt.NDArray[np.uint8]] = {}
        for sink, place in places:
            known = written.get(sink.picture_format) if written else None
            if known is None:
                sink.write(picture, place)
                written[sink.picture_format] = sink.out[place]
            else:
                sink.out[place] = known
        return True


class PendingFrames:
    """Frames whose first packets are on their way; made by `begin_frames`, belongs to the process that made it."""

    def __init__(self, requests: Sequence[ReadRequest], pool: DecoderPool, *, ahead: bool) -> None:
        """Plans the reads and starts the first one."""
        self._pool = pool
        self._frames = sum(len(request.rows) for request in requests)
        targets = _targets(requests)
        self._fed = [target for target in targets if target.source.addressing != "sequential"]
        self._sequential = [target for target in targets if target.source.addressing == "sequential"]
        self._batches = _Batches(self._fed, ahead=ahead)

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


def _targets(requests: Sequence[ReadRequest]) -> list[_Target]:
    """One target for each source that frames lie in; what several requests want of one source comes together."""
    targets: dict[Hashable, _Target] = {}
    for request in requests:
        for source_idx, places in _places_by_source(request).items():
            key = request.files.identity(source_idx) if len(requests) > 1 else source_idx
            target = targets.get(key)
            if target is None:
                target = targets[key] = _Target(request.files, source_idx)
            target.add(request, places)
    return list(targets.values())


def _places_by_source(request: ReadRequest) -> dict[int, Sequence[int]]:
    """The places in a request's rows and memory, by the source that the frames lie in."""
    if len(request.files.index.sources) == 1:
        return {0: range(len(request.rows))}
    source_of = request.files.index.packets.source_idx[request.rows]
    return {
        source_idx: np.flatnonzero(source_of == source_idx).tolist() for source_idx in np.unique(source_of).tolist()
    }


# -- fed by packets ---------------------------------------------------------------------------------------------------


class _Batches:
    """The runs of targets, fetched in batches: while the caller decodes one, the next one is on its way."""

    def __init__(self, targets: Sequence[_Target], *, steps_back: int = 0, ahead: bool = False) -> None:
        """Plans the runs and starts the first fetch."""
        jobs = [(target, job) for target in targets for job in _plan(target, steps_back)]
        sizes = [job.nbytes for _, job in jobs] if len(jobs) > 1 else [0] * len(jobs)
        self._left = deque(jobs[batch] for batch in in_batches(sizes, max_bytes=_BATCH_BYTES))
        self._pending: packets.PendingPackets | None = None
        self._begin_next(ahead=ahead)

    def _begin_next(self, *, ahead: bool) -> None:
        self._pending = packets.begin([job for _, job in self._left[0]], ahead=ahead) if self._left else None

    def __iter__(self) -> Iterator[tuple[_Target, Job, list[bytes]]]:
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
    files = target.files
    order = files.decode_order(target.source_idx)
    positions = files.index.packets.decode_position[list(target.destinations)]
    positions.sort()
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
    unknown = (order.disposable[run.positions] < 0).tolist()
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
