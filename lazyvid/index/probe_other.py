"""The index of a file that is neither MP4 nor MOV: its headers do not list its packets, so each is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from lazyvid import timing
from lazyvid.errors import TruncatedVideoError
from lazyvid.index.frame_index import FrameIndex, PacketTable, Source
from lazyvid.index.mp4_checks import IDENTITY_MATRIX
from lazyvid.index.probe_counting import count_frames
from lazyvid.index.probe_demux import PacketRows, read_packets, stream_packets, video_stream
from lazyvid.index.probe_file import VideoFile, check_any_packets, hide_silent
from lazyvid.index.probe_frames import assemble, needs_counting, one_segment, shown_packets
from lazyvid.index.probe_parameters import CodecParameters, display_matrix, first_frame, orientation
from lazyvid.index.probe_payload import PayloadFacts, PayloadLocator, PayloadReader
from lazyvid.index.sniff import SNIFF_BYTES, stated_end

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

    from lazyvid.index.sparse import ByteSource

_CONTIGUOUS = frozenset({"matroska", "flv"})
"""Containers whose packets lie in one piece, besides MP4: those of MPEG-TS, MPEG-PS and Ogg are cut up."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one pass over a file gave."""

    rows: PacketRows
    facts: PayloadFacts
    parameters: CodecParameters
    offsets: list[int] | None
    """First byte of each payload; None where payloads do not lie in the file as they are."""
    first_key_payload: bytes
    matrix: Sequence[int]


def index_other(file: VideoFile) -> FrameIndex:
    """The index of one video stream."""
    _check_not_cut(file)
    payloads = file.payloads()
    found = file.with_container(payloads, partial(_look_at_all, file, payloads))
    check_any_packets(file, found.rows)
    if True in found.rows.corrupt[-2:]:
        raise TruncatedVideoError(
            f"Expected whole packets, found that the end of {file.uri} cuts the last of {len(found.rows)} packets. "
            "Copy it again, or remux what is there."
        )
    rotation, hflip = orientation(found.matrix)
    source = file.source(found.parameters, found.rows, rotation=rotation, hflip=hflip)
    shown = shown_packets(found.rows, found.facts)
    if file.container == "avi" or needs_counting(found.rows, shown):
        table, time_base = file.with_container(payloads, partial(_count, file))
        if not _times_agree(found.rows.column("pts")[shown], table):
            return _counted(source, table, time_base)
    first_payloads = partial(_first_payloads, file, payloads)
    shown = hide_silent(file, found.rows, shown, source, first_payloads, first_key_payload=found.first_key_payload)
    return assemble(
        found.rows,
        sources=[source if found.offsets is not None else replace(source, addressing="container")],
        source_idx=np.zeros(len(found.rows), np.int32),
        shown=shown,
        facts=found.facts,
        offsets=found.offsets,
        uri=file.uri,
    )


def _look_at_all(file: VideoFile, payloads: ByteSource, container: InputContainer) -> _Found:
    stream = video_stream(container, file.stream, uri=file.uri)
    parameters = file.parameters(payloads, container)
    reader, facts = PayloadReader(parameters.codec, parameters.extradata, uri=file.uri), PayloadFacts()
    locator = PayloadLocator(payloads) if file.container in _CONTIGUOUS else None
    first_key_payload = b""
    matrix: Sequence[int] = IDENTITY_MATRIX

    def look(packet: av.Packet[Any]) -> None:
        nonlocal first_key_payload, matrix
        payload = bytes(packet)
        reader.look(payload, row=len(facts.crc32), facts=facts)
        if locator is not None:
            locator.look(payload, packet.pos)
        if not first_key_payload and packet.is_keyframe:
            first_key_payload = payload
            matrix = display_matrix(first_frame(stream, packet))

    rows = read_packets(container, stream, uri=file.uri, limits=file.limits, file_size=file.meta.size, look=look)
    offsets = locator.offsets if locator else None
    return _Found(rows, facts, parameters, offsets, first_key_payload, matrix)


def _first_payloads(file: VideoFile, payloads: ByteSource, count: int) -> list[bytes]:
    """The payloads of the first packets, through the demuxer again."""

    def work(container: InputContainer) -> list[bytes]:
        stream = video_stream(container, file.stream, uri=file.uri)
        return [bytes(packet) for packet in islice(stream_packets(container, stream), count)]

    return file.with_container(payloads, work)


def _count(file: VideoFile, container: InputContainer) -> tuple[PacketTable, Fraction]:
    stream = video_stream(container, file.stream, uri=file.uri)
    return count_frames(container, stream, uri=file.uri, limits=file.limits)


def _times_agree(pts: np.ndarray[Any, Any], counted: PacketTable) -> bool:
    """Whether packets have the times of the pictures that come out: AVI states none, and FFmpeg's guesses may fail."""
    return np.array_equal(np.sort(pts), counted.pts)


def _counted(source: Source, table: PacketTable, time_base: Fraction) -> FrameIndex:
    """An index of pictures that are told apart by counting them."""
    source = replace(source, addressing="sequential", time_base=time_base)
    return one_segment(table, PacketTable.empty(), timing.ticks_to_seconds(table.pts, time_base), [source])


def _check_not_cut(file: VideoFile) -> None:
    """Raise when the file ends before the size that its own header states."""
    end = stated_end(file.headers.bytes.read(0, SNIFF_BYTES), file.container, file.meta.size)
    if end is not None and end > file.meta.size:
        raise TruncatedVideoError(
            f"Expected {end} bytes, as the headers of {file.uri} state, it has {file.meta.size}. Copy it again, or "
            "remux what is there."
        )
