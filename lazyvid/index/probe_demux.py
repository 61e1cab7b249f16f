"""The packet table of one video stream as FFmpeg's demuxer gives it, from a file object whose format is already known.

`probe` decides what the file object holds: headers and zeros, or the whole object. Nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt

from lazyvid.errors import (
    CorruptVideoError,
    LazyVidError,
    LimitExceededError,
    NoVideoStreamError,
    UnsupportedCodecError,
)
from lazyvid.index.frame_index import NO_PTS
from lazyvid.index.sniff import DEMUXERS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from lazyvid.frames import Limits
    from lazyvid.index.sparse import BytesFile

_TABLE_ONLY = {"fflags": "+noparse+nofillin"}
_UNDECODED = {"skip_frame": "all", "max_pixels": str((1 << 31) - 1)}
_IO_BUFFER = 64 * 1024

Look = Callable[["av.Packet[Any]"], None]


@dataclass(slots=True)
class PacketRows:
    """Packets in decode order; one entry a packet in each list."""

    time_base: Fraction = Fraction(1)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    key: list[bool] = field(default_factory=list)
    discard: list[bool] = field(default_factory=list)
    corrupt: list[bool] = field(default_factory=list)
    """Whether the demuxer found the packet incomplete."""
    new_extradata: dict[int, bytes] = field(default_factory=dict)
    """Codec configuration records that begin at a row."""
    promised: int = 0
    """Packets that the container's own table lists, 0 where it has none."""
    within_file: int = 0
    """How many of those lie wholly inside the file."""

    def __len__(self) -> int:
        return len(self.offset)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One of the lists as an array: int64, or bool for flags."""
        return np.asarray(getattr(self, name), dtype=np.bool_ if name in ("key", "discard", "corrupt") else np.int64)


@contextmanager
def open_container(
    file: BytesFile, container: str, *, uri: str, limits: Limits | None, table_only: bool
) -> Iterator[InputContainer]:
    """Open a file object with the demuxer of `container`; what FFmpeg raises becomes a VideoError.

    Args:
        file: The bytes.
        container: A key of `DEMUXERS`.
        uri: Named in errors.
        limits: FFmpeg's decoders, which it may run to find parameters out, refuse larger pictures; None lets them
            decode nothing, and tells sizes that are beyond any limit.
        table_only: Look at no payload; else let FFmpeg find the codec parameters out.

    Raises:
        CorruptVideoError: if FFmpeg fails, here or later inside the context.
    """
    options = dict(_TABLE_ONLY) if table_only else {}
    options |= {"max_pixels": str(limits.pixels)} if limits is not None else _UNDECODED
    with converted_errors(uri):
        opened: Any = av.open(
            file,
            format=DEMUXERS[container],
            options=options,
            buffer_size=_IO_BUFFER,
            metadata_errors="replace",
        )
        with opened as input_container:
            yield input_container


@contextmanager
def converted_errors(uri: str) -> Iterator[None]:
    """Turn whatever FFmpeg and PyAV raise into a VideoError that names `uri`."""
    try:
        yield
    except LazyVidError:
        raise
    except av.error.DecoderNotFoundError as error:
        raise UnsupportedCodecError(
            f"Expected a codec that FFmpeg decodes here, found none for {uri} ({error}). Encode it with another one."
        ) from error
    except MemoryError as error:
        raise LimitExceededError(
            f"Expected headers that fit into memory, FFmpeg ran out of it for {uri} ({error})."
        ) from error
    except Exception as error:  # PyAV raises FFmpegError, IndexError, ValueError, ... for one and the same cause
        raise CorruptVideoError(
            f"Expected a readable video, FFmpeg failed on {uri}: {type(error).__name__}: {error}. The file is damaged; "
            "copy or make it anew."
        ) from error


def video_stream(container: InputContainer, stream: int | None, *, uri: str) -> VideoStream:
    """The stream at a position among the video streams; attached pictures (cover art) are not counted.

    Raises:
        NoVideoStreamError: if there is none at that position.
    """
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    position = 0 if stream is None else stream
    if 0 <= position < len(videos):
        return videos[position]
    there = ", ".join(describe_stream(s) for s in container.streams) or "nothing"
    asked = "a video stream" if stream is None else f"stream={stream} among the video streams"
    raise NoVideoStreamError(
        f"Expected {asked}, found {len(videos)} video streams in {uri} (it holds: {there}). "
        + (f"Ask for stream=0 to {len(videos) - 1}." if videos else "It cannot be read as a video.")
    )


def describe_stream(stream: Any) -> str:
    """One stream for an error message."""
    context = stream.codec_context
    name = context.name if context is not None else "unknown codec"
    cover = " (attached picture)" if stream.disposition & av.stream.Disposition.attached_pic else ""
    return f"{stream.type} {name}{cover}"


def stream_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[Any]]:
    """The packets of one stream, without the empty ones."""
    only(container, stream)
    return (packet for packet in container.demux(stream) if packet.size)


def only(container: InputContainer, stream: VideoStream) -> None:
    """Let the demuxer skip the payload of every other stream."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all


def read_packets(
    container: InputContainer,
    stream: VideoStream,
    *,
    uri: str,
    limits: Limits,
    file_size: int,
    look: Look | None = None,
) -> PacketRows:
    """Demux one stream to its end.

    Args:
        container: Open.
        stream: One of its streams.
        uri: Named in errors.
        limits: How many packets there may be.
        file_size: Bytes of the file.
        look: Called with each packet, in order.

    Returns:
        Its packets in decode order; empty ones are left out.

    Raises:
        LimitExceededError: if there are more than `limits.frames`.
    """
    rows = PacketRows(time_base=stream.time_base or Fraction(1))
    for packet in stream_packets(container, stream):
        if len(rows) >= limits.frames:
            raise LimitExceededError(
                f"Expected at most Limits.frames = {limits.frames} packets, found more in {uri}. Raise the limit if "
                "the file is to be trusted."
            )
        if packet.has_sidedata("new_extradata"):
            rows.new_extradata[len(rows)] = bytes(packet.get_sidedata("new_extradata"))
        rows.offset.append(-1 if packet.pos is None else packet.pos)
        rows.size.append(packet.size)
        rows.pts.append(NO_PTS if packet.pts is None else packet.pts)
        rows.dts.append(NO_PTS if packet.dts is None else packet.dts)
        rows.duration.append(packet.duration or 0)
        rows.key.append(packet.is_keyframe)
        rows.discard.append(packet.is_discard)
        rows.corrupt.append(packet.is_corrupt)
        if look is not None:
            look(packet)
    entries = [(entry.pos, entry.size) for entry in stream.index_entries]
    rows.promised = sum(size > 0 for _, size in entries)
    rows.within_file = sum(size > 0 and pos + size <= file_size for pos, size in entries)
    return rows
