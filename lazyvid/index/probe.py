"""`build_index`: looks at a video file and says where every frame is, with as few bytes read as the container allows.

First step of the read flow, between an object store and a `FrameIndex`. FFmpeg gets a demuxer of our choice and a file
object, never a name; `sniff`, `mp4` and the limits come before it. The parts: `fingerprint.scan_headers` fetches,
`probe_demux` demuxes, `probe_parameters` reads codec parameters, `probe_payload` looks at every packet, `probe_frames` turns
packets into frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from lazyvid import timing
from lazyvid.errors import (
    CorruptVideoError,
    LimitExceededError,
    NotAVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
)
from lazyvid.frames import Limits
from lazyvid.index.fingerprint import ScannedHeaders, fetch_into, scan_headers
from lazyvid.index.frame_index import FrameIndex, PacketTable, Source
from lazyvid.index.mp4 import FIRST_READ, HeaderScan, check_headers, movie_matrix
from lazyvid.index.probe_counting import count_frames
from lazyvid.index.probe_demux import PacketRows, open_container, read_packets, video_stream
from lazyvid.index.probe_frames import assemble, needs_counting, one_segment, shown_packets
from lazyvid.index.probe_parameters import (
    IDENTITY_MATRIX,
    CodecParameters,
    check_pixels,
    codec_parameters,
    display_matrix,
    first_frame,
    first_picture,
    orientation,
    product,
)
from lazyvid.index.probe_payload import PayloadFacts, PayloadLocator, PayloadReader
from lazyvid.index.sniff import describe_bytes, stated_end
from lazyvid.index.sparse import ByteSource, BytesFile, WindowedBytes, run_with_file
from lazyvid.storage import ObjectStore, display_uri

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

    from lazyvid.storage import ObjectMeta

Result = TypeVar("Result")
_CONTIGUOUS = frozenset({"matroska", "flv"})
"""Containers whose packets lie in one piece, besides MP4: those of MPEG-TS, MPEG-PS and Ogg are cut up."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One file under examination."""

    store: ObjectStore
    meta: ObjectMeta
    headers: ScannedHeaders
    stream: int | None
    limits: Limits

    @property
    def uri(self) -> str:
        """The file, for errors."""
        return display_uri(self.meta.uri)


def build_index(
    uri: str | os.PathLike[str],
    *,
    store: ObjectStore | None = None,
    storage_options: Mapping[str, Any] | None = None,
    scan: Literal["header", "full"] = "header",
    stream: int | None = None,
    limits: Limits | None = None,
) -> FrameIndex:
    """Find every frame of a video file; nothing is decoded but where the container leaves no other way (AVI).

    Args:
        uri: The file.
        store: Where it lies; by default an `ObjectStore` with `storage_options`.
        storage_options: For the store, when none is given.
        scan: "header" reads the headers and the first key packet, for MP4 and MOV; "full" reads every packet once and fills in
            checksums and which packets are disposable. Other containers are always read in full.
        stream: Position among the file's video streams, cover art not counted; by default the first.
        limits: The largest video that is accepted.

    Returns:
        The index: one segment, one source (more where codec parameters change inside the file), the source's uri "".

    Raises:
        ValueError: if `scan` is another word.
        NotAVideoError: if the first bytes are of no container that lazyvid reads.
        NoVideoStreamError: if there is no (such) video stream, or it has no frame.
        TruncatedVideoError: if the file ends before what its headers promise.
        CorruptVideoError: if its bytes contradict one another.
        LimitExceededError: if it is larger than `limits`.
        UnsupportedCodecError: if FFmpeg has no decoder for it here.
        StoreError: if the store does not give the bytes.
    """
    if scan not in ("header", "full"):
        raise ValueError(f"Invalid scan {scan!r}: expected 'header' or 'full'.")
    store = store if store is not None else ObjectStore(storage_options=storage_options)
    limits = limits or Limits()
    meta = store.head(uri)
    headers = scan_headers(store, meta, limits=limits)
    if headers.container is None:
        raise NotAVideoError(
            f"Expected an MP4, MOV, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, FLV or Ogg file, found {meta.size} bytes that begin "
            f"with {describe_bytes(headers.bytes.read(0, FIRST_READ))} at {display_uri(meta.uri)}. Check the URI and how the object was made."
        )
    probe = Probe(store, meta, headers, stream, limits)
    if headers.mp4 is not None:
        return _index_mp4(probe, headers.mp4, full=scan == "full")
    return _index_other(probe)


# -- MP4 and MOV: the table from the headers --------------------------------------------------------------------------


def _index_mp4(probe: Probe, scan: HeaderScan, *, full: bool) -> FrameIndex:
    tracks = check_headers(scan, limits=probe.limits)
    rows, track_id = _with_container(probe, scan.bytes, table_only=True, work=partial(_table, probe))
    _check_complete(probe, rows)
    _fetch_first_packets(probe, scan, rows)
    parameters = _with_container(probe, scan.bytes, table_only=False, work=partial(_parameters, probe))
    matrix = next((track.matrix for track in tracks if track.track_id == track_id), IDENTITY_MATRIX)
    first = _source(probe, parameters, rows, orientation(product(matrix, movie_matrix(scan))))
    sources, source_idx = _split_sources(probe, scan, rows, first)
    # A VP8 packet may hold a picture that is never shown, and only its payload says so.
    facts = _read_payloads(probe, rows, sources, source_idx) if full or first.codec == "vp8" else None
    return assemble(
        rows,
        sources=sources,
        source_idx=source_idx,
        shown=shown_packets(rows, facts),
        facts=facts,
        offsets=rows.offset,
        uri=probe.uri,
    )


def _table(probe: Probe, container: InputContainer) -> tuple[PacketRows, int]:
    """The packets, and the id of their track."""
    stream = video_stream(container, probe.stream, uri=probe.uri)
    rows = read_packets(container, stream, uri=probe.uri, limits=probe.limits, file_size=probe.meta.size)
    return rows, stream.id


def _parameters(probe: Probe, container: InputContainer) -> CodecParameters:
    stream = video_stream(container, probe.stream, uri=probe.uri)
    return codec_parameters(stream, uri=probe.uri, limits=probe.limits)


def _check_complete(probe: Probe, rows: PacketRows) -> None:
    """Raise unless every packet that the headers promise lies inside the file."""
    if rows.within_file < rows.promised or len(rows) < rows.promised:
        raise TruncatedVideoError(
            f"Expected the {rows.promised} frames that the headers of {probe.uri} promise, its {probe.meta.size} bytes end "
            f"before that: it has {min(rows.within_file, len(rows))} of {rows.promised} frames. Copy it again, or finish the "
            "recording with `lazyvid recover`."
        )
    if not len(rows):
        raise NoVideoStreamError(
            f"Expected at least one frame, found a video stream without any in {probe.uri}. It cannot be read as a video."
        )


def _fetch_first_packets(probe: Probe, scan: HeaderScan, rows: PacketRows) -> None:
    """Make known the payload of the first key packet, and of the first one after each change of codec parameters."""
    first_key = rows.key.index(True) if True in rows.key else 0
    missing: list[tuple[int, int]] = []
    for row in {first_key, *rows.new_extradata}:
        start, size = rows.offset[row], rows.size[row]
        if size > probe.limits.span_bytes:
            raise LimitExceededError(
                f"Expected packets of at most Limits.span_bytes = {probe.limits.span_bytes} bytes, found one of {size} bytes in "
                f"{probe.uri}. Raise the limit if the file is to be trusted."
            )
        missing += scan.bytes.missing(start, start + size)
    fetch_into(scan.bytes, missing, store=probe.store, meta=probe.meta)


def _split_sources(
    probe: Probe, scan: HeaderScan, rows: PacketRows, first: Source
) -> tuple[list[Source], npt.NDArray[np.int32]]:
    """A source for each set of codec parameters (several sample descriptions), and every packet's source."""
    sources, source_idx = [first], np.zeros(len(rows), np.int32)
    for row, extradata in sorted(rows.new_extradata.items()):
        known = next((i for i, source in enumerate(sources) if source.extradata == extradata), None)
        if known is None or not rows.key[row]:
            payload = scan.bytes.read(rows.offset[row], rows.offset[row] + rows.size[row])
            sources.append(_changed_source(probe, first, extradata, payload))
            known = len(sources) - 1
        source_idx[row:] = known
    return sources, source_idx


def _changed_source(probe: Probe, first: Source, extradata: bytes, payload: bytes) -> Source:
    """The source of packets after a change of codec parameters, whose picture tells what they are."""
    picture = first_picture(first.codec, extradata, payload, limits=probe.limits)
    if picture is None:
        raise CorruptVideoError(
            f"Expected a picture from the first packet after a change of codec parameters, none came out, in {probe.uri}. "
            "Encode the video anew with one set of parameters."
        )
    check_pixels(picture.width, picture.height, uri=probe.uri, limits=probe.limits)
    return replace(first, extradata=extradata, width=picture.width, height=picture.height, pix_fmt=picture.format.name)


def _read_payloads(
    probe: Probe, rows: PacketRows, sources: list[Source], source_idx: npt.NDArray[np.int32]
) -> PayloadFacts:
    """Read every packet once, in decode order, in large windows."""
    readers = [PayloadReader(source.codec, source.extradata, uri=probe.uri) for source in sources]
    payloads, facts = WindowedBytes(probe.store, probe.meta), PayloadFacts()
    for row, (start, size) in enumerate(zip(rows.offset, rows.size, strict=True)):
        readers[source_idx[row]].look(payloads.read(start, start + size), row=row, facts=facts)
    return facts


# -- other containers: every packet -----------------------------------------------------------------------------------


def _index_other(probe: Probe) -> FrameIndex:
    _check_not_cut(probe)
    payloads = WindowedBytes(probe.store, probe.meta)
    found = _with_container(probe, payloads, table_only=False, work=partial(_look_at_all, probe, payloads))
    shown = shown_packets(found.rows, found.facts)
    source = _source(probe, found.parameters, found.rows, orientation(found.matrix))
    if needs_counting(found.rows, shown):
        table, time_base = _with_container(probe, payloads, table_only=False, work=partial(_count, probe))
        source = replace(source, addressing="sequential", time_base=time_base)
        return one_segment(table, PacketTable.empty(), timing.ticks_to_seconds(table.pts, time_base), [source])
    offsets = found.offsets
    return assemble(
        found.rows,
        sources=[source if offsets is not None else replace(source, addressing="container")],
        source_idx=np.zeros(len(found.rows), np.int32),
        shown=shown,
        facts=found.facts,
        offsets=offsets,
        uri=probe.uri,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What one pass over a file gave."""

    rows: PacketRows
    facts: PayloadFacts
    parameters: CodecParameters
    offsets: list[int] | None
    matrix: Sequence[int]


def _look_at_all(probe: Probe, payloads: WindowedBytes, container: InputContainer) -> _Found:
    stream = video_stream(container, probe.stream, uri=probe.uri)
    parameters = codec_parameters(stream, uri=probe.uri, limits=probe.limits)
    reader, facts = PayloadReader(parameters.codec, parameters.extradata, uri=probe.uri), PayloadFacts()
    locator = PayloadLocator(payloads) if probe.headers.container in _CONTIGUOUS else None
    matrix: Sequence[int] | None = None

    def look(packet: Packet[Any]) -> None:
        nonlocal matrix
        payload = bytes(packet)
        reader.look(payload, row=len(facts.crc32), facts=facts)
        if locator is not None:
            locator.look(payload, packet.pos)
        if matrix is None and packet.is_keyframe:
            matrix = display_matrix(first_frame(stream, packet))

    rows = read_packets(container, stream, uri=probe.uri, limits=probe.limits, file_size=probe.meta.size, look=look)
    return _Found(rows, facts, parameters, locator.offsets if locator else None, matrix or IDENTITY_MATRIX)


def _count(probe: Probe, container: InputContainer) -> tuple[PacketTable, Fraction]:
    stream = video_stream(container, probe.stream, uri=probe.uri)
    return count_frames(container, stream, uri=probe.uri, limits=probe.limits)


def _check_not_cut(probe: Probe) -> None:
    """Raise when a Matroska or AVI file ends before the size that its own header states."""
    end = stated_end(probe.headers.bytes.read(0, FIRST_READ), probe.headers.container or "")
    if end is not None and end > probe.meta.size:
        raise TruncatedVideoError(
            f"Expected the {end} bytes that the header of {probe.uri} states, it has {probe.meta.size}. Copy it again."
        )


# -- shared -----------------------------------------------------------------------------------------------------------


def _with_container(
    probe: Probe, source: ByteSource, *, table_only: bool, work: Callable[[InputContainer], Result]
) -> Result:
    """Let `work` look at the file, opened by FFmpeg."""
    container = probe.headers.container or ""

    def open_and_work(file: BytesFile) -> Result:
        with open_container(file, container, uri=probe.uri, limits=probe.limits, table_only=table_only) as opened:
            return work(opened)

    return run_with_file(source, open_and_work)


def _source(probe: Probe, parameters: CodecParameters, rows: PacketRows, turn: tuple[int, bool]) -> Source:
    return Source(
        uri="",
        size=probe.meta.size,
        etag=probe.meta.etag,
        fingerprint=probe.headers.fingerprint,
        container=probe.headers.container or "",
        time_base=rows.time_base,
        stream=probe.stream or 0,
        rotation=turn[0],
        hflip=turn[1],
        **{field.name: getattr(parameters, field.name) for field in fields(parameters)},
    )
