"""The index of an MP4 or MOV file: its packet table from the headers, payloads only where they were asked for.

FFmpeg is given the headers and zeros for the rest, with its parsers off: so its table is that of the whole file. A
second opening, with the first key packet's bytes in their place, gives the codec parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lazyvid.errors import CorruptVideoError, LimitExceededError, TruncatedVideoError
from lazyvid.index.fingerprint import fetch_into
from lazyvid.index.mp4_checks import IDENTITY_MATRIX, check_headers
from lazyvid.index.probe_demux import read_packets, video_stream
from lazyvid.index.probe_file import VideoFile, check_any_packets, hide_silent
from lazyvid.index.probe_frames import assemble, shown_packets
from lazyvid.index.probe_parameters import check_pixels, first_picture, orientation, product
from lazyvid.index.probe_payload import PayloadFacts, PayloadReader

if TYPE_CHECKING:
    from av.container import InputContainer

    from lazyvid.index.frame_index import FrameIndex, Source
    from lazyvid.index.mp4 import HeaderScan
    from lazyvid.index.probe_demux import PacketRows
    from lazyvid.index.sparse import ByteSource


def index_mp4(file: VideoFile, scan: HeaderScan, *, full: bool) -> FrameIndex:
    """The index of one video stream.

    Args:
        file: An MP4 or MOV file.
        scan: The finished walk over its boxes.
        full: Read every payload too.
    """
    movie = check_headers(scan, limits=file.limits)
    rows, track_id = file.with_container(scan.bytes, partial(_table, file), table_only=True)
    track = next((track for track in movie.tracks if track.track_id == track_id), None)
    _check_complete(file, rows, claimed=track.samples if track else 0)
    _fetch_first_packets(file, scan, rows)
    parameters = file.with_container(scan.bytes, partial(file.parameters, scan.bytes))
    rotation, hflip = orientation(product(track.matrix if track else IDENTITY_MATRIX, movie.matrix))
    first = file.source(parameters, rows, rotation=rotation, hflip=hflip)
    sources, source_idx = _split_sources(file, scan, rows, first)
    # A VP8 packet may hold a picture that is never shown, and only its payload says so.
    facts = _read_payloads(file, rows, sources, source_idx) if full or first.codec == "vp8" else None
    first_key = rows.key.index(True) if True in rows.key else 0
    shown = hide_silent(
        file,
        rows,
        shown_packets(rows, facts),
        first,
        lambda count: _payloads(file.payloads(), rows, count),
        first_key_payload=scan.bytes.read(rows.offset[first_key], rows.offset[first_key] + rows.size[first_key]),
    )
    return assemble(
        rows,
        sources=sources,
        source_idx=source_idx,
        shown=shown,
        facts=facts,
        offsets=rows.offset,
        uri=file.uri,
    )


def _table(file: VideoFile, container: InputContainer) -> tuple[PacketRows, int]:
    """The packets, and the id of their track."""
    stream = video_stream(container, file.stream, uri=file.uri)
    rows = read_packets(container, stream, uri=file.uri, limits=file.limits, file_size=file.meta.size)
    return rows, stream.id


def _check_complete(file: VideoFile, rows: PacketRows, *, claimed: int) -> None:
    """Raise unless every packet that the headers promise lies inside the file."""
    within = min(rows.within_file, len(rows))
    if within < rows.promised:
        raise TruncatedVideoError(
            f"Expected the {rows.promised} frames that the headers of {file.uri} promise, its {file.meta.size} bytes "
            f"end before that: it has {within} of {rows.promised} frames. Copy it again, or finish the recording with "
            "`lazyvid recover`."
        )
    if claimed and not len(rows):
        raise CorruptVideoError(
            f"Expected the {claimed} frames that the headers of {file.uri} claim, FFmpeg finds none: their sizes or "
            "places make no sense. The file's headers are damaged; make it anew or restore it."
        )
    check_any_packets(file, rows)


def _fetch_first_packets(file: VideoFile, scan: HeaderScan, rows: PacketRows) -> None:
    """Make known the payload of the first key packet, and of the first one after each change of codec parameters."""
    first_key = rows.key.index(True) if True in rows.key else 0
    missing: list[tuple[int, int]] = []
    for row in {first_key, *rows.new_extradata}:
        start, size = rows.offset[row], rows.size[row]
        if size > file.limits.span_bytes:
            raise LimitExceededError(
                f"Expected packets of at most Limits.span_bytes = {file.limits.span_bytes} bytes, found one of {size} "
                f"bytes in {file.uri}. Raise the limit if the file is to be trusted."
            )
        missing += scan.bytes.missing(start, start + size)
    fetch_into(scan.bytes, missing, store=file.store, meta=file.meta)


def _split_sources(
    file: VideoFile, scan: HeaderScan, rows: PacketRows, first: Source
) -> tuple[list[Source], npt.NDArray[np.int32]]:
    """A source for each set of codec parameters (several sample descriptions), and every packet's source."""
    sources, source_idx = [first], np.zeros(len(rows), np.int32)
    for row, extradata in sorted(rows.new_extradata.items()):
        known = next((i for i, source in enumerate(sources) if source.extradata == extradata), None)
        if known is None or not rows.key[row]:
            payload = scan.bytes.read(rows.offset[row], rows.offset[row] + rows.size[row])
            sources.append(_changed_source(file, first, extradata, payload))
            known = len(sources) - 1
        source_idx[row:] = known
    return sources, source_idx


def _changed_source(file: VideoFile, first: Source, extradata: bytes, payload: bytes) -> Source:
    """The source of packets after a change of codec parameters, whose picture tells what they are."""
    picture = first_picture(first.codec, extradata, payload, limits=file.limits)
    if picture is None:
        raise CorruptVideoError(
            f"Expected a picture from the first packet after a change of codec parameters, none came out, in "
            f"{file.uri}. Encode the video anew with one set of parameters."
        )
    check_pixels(picture.width, picture.height, uri=file.uri, limits=file.limits)
    return replace(first, extradata=extradata, width=picture.width, height=picture.height, pix_fmt=picture.format.name)


def _read_payloads(
    file: VideoFile, rows: PacketRows, sources: list[Source], source_idx: npt.NDArray[np.int32]
) -> PayloadFacts:
    """Read every packet once, in decode order, in large windows."""
    readers = [PayloadReader(source.codec, source.extradata, uri=file.uri) for source in sources]
    facts = PayloadFacts()
    for row, payload in enumerate(_payloads(file.payloads(), rows, len(rows))):
        readers[source_idx[row]].look(payload, row=row, facts=facts)
    return facts


def _payloads(source: ByteSource, rows: PacketRows, count: int) -> Iterator[bytes]:
    for start, size in zip(rows.offset[:count], rows.size[:count], strict=True):
        yield source.read(start, start + size)
