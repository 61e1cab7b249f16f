"""Reading through a demuxer, for containers whose packets lie in pieces (MPEG-TS) or carry no times (AVI).

Slow and exact: the file is demuxed, or decoded, from its start. FFmpeg is given bytes in memory and the format that the
index names, never a path, a URL or a guess.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lazyvid.decoding.plan import DecodeOrder, Run
from lazyvid.errors import CorruptVideoError, LimitExceededError, TruncatedVideoError
from lazyvid.frames import Limits
from lazyvid.index.frame_index import Source
from lazyvid.index.probe_demux import open_container, video_stream


def read_packets(file: BinaryIO, order: DecodeOrder, run: Run, *, uri: str, limits: Limits) -> list[bytes]:
    """The payloads of a run's packets, known again by their place among the stream's packets.

    Raises:
        TruncatedVideoError: if the file ends before the run does.
        CorruptVideoError: if a packet is not as long as the index says, or the demuxer fails.
        LimitExceededError: if the file is larger than `limits.span_bytes`.
    """
    wanted = set(run.positions.tolist())
    payloads: list[bytes] = []
    with _opened(file, order.source, uri=uri, limits=limits) as (demuxer, stream):
        for position, packet in enumerate(_packets(demuxer, stream)):
            if position >= run.stop:
                break
            if position in wanted:
                if packet.size != order.size[position]:
                    raise CorruptVideoError(
                        f"Expected packet {position} of {uri} to have {order.size[position]} bytes, found "
                        f"{packet.size}. Index the video again (lazyvid index --force)."
                    )
                payloads.append(bytes(packet))
    if len(payloads) < len(run.positions):
        raise TruncatedVideoError(
            f"Expected {len(run.positions)} packets up to number {run.stop} of {uri}, found {len(payloads)}. The file "
            "changed since it was indexed: index it again (lazyvid index --force)."
        )
    return payloads


def decode_sequentially(file: BinaryIO, source: Source, *, uri: str, stop: int, limits: Limits) -> Iterator[VideoFrame]:
    """The pictures 0 .. stop - 1 of a file, decoded from its start.

    Raises:
        CorruptVideoError: if the demuxer or the decoder fails.
        LimitExceededError: if the file is larger than `limits.span_bytes`.
    """
    with _opened(file, source, uri=uri, limits=limits) as (demuxer, stream):
        stream.thread_count = 1
        for number, picture in enumerate(demuxer.decode(stream)):
            if number >= stop:
                return
            yield picture


def _packets(demuxer: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets as the index counts them: FFmpeg's closing empty one is none."""
    return (packet for packet in demuxer.demux(stream) if packet.size)


@contextmanager
def _opened(
    file: BinaryIO, source: Source, *, uri: str, limits: Limits
) -> Iterator[tuple[InputContainer, VideoStream]]:
    if source.size > limits.span_bytes:
        raise LimitExceededError(
            f"Expected at most {limits.span_bytes} bytes (Limits.span_bytes) in {uri}, whose packets can only be "
            f"reached through the whole file, found {source.size}. Put it into MP4 (ffmpeg -i in -c copy out.mp4)."
        )
    data = io.BytesIO(file.read())
    with open_container(data, source.container, uri=uri, limits=limits, table_only=False) as demuxer:  # type: ignore[arg-type]
        yield demuxer, video_stream(demuxer, source.stream, uri=uri)
