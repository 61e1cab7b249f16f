"""Files that no encoder writes by itself: streams trimmed, joined and edited packet by packet.

`corpus.py` lists them; `videos.py` encodes what they are made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import av

from lazyvid.index.sniff import DEMUXERS, SNIFF_BYTES, sniff
from lazyvid.testing._bits import avcc_parameter_sets, avcc_with_parameter_sets, without_reorder_depth
from lazyvid.testing.videos import VideoSpec, write_video

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream


@dataclass(frozen=True, slots=True)
class CodedPacket:
    """One packet of a video stream, free of any container."""

    data: bytes
    pts: int
    dts: int
    duration: int
    key: bool


def read_packets(path: str | Path) -> list[CodedPacket]:
    """The packets of a file's first video stream, in decode order.

    Args:
        path: a file whose packets all have times.

    Returns:
        The packets, with times in the stream's time base.
    """
    with _opened(path) as container:
        return [
            CodedPacket(
                bytes(packet), cast(int, packet.pts), cast(int, packet.dts), packet.duration or 0, packet.is_keyframe
            )
            for packet in container.demux(container.streams.video[0])
            if packet.size
        ]


@contextmanager
def _opened(path: str | Path) -> Iterator[av.container.InputContainer]:
    """A file for reading, by a demuxer of our choice, as everywhere in the package."""
    with Path(path).open("rb") as file:
        container = sniff(file.read(SNIFF_BYTES))
        file.seek(0)
        with av.open(file, "r", format=DEMUXERS[container or "mp4"]) as opened:
            yield opened


def write_packets(
    path: str | Path,
    packets: Iterable[CodedPacket],
    *,
    like: str | Path,
    extradata: bytes | None = None,
    muxer_options: Mapping[str, str] | None = None,
) -> Path:
    """Writes packets as the only stream of a file, by stream copy.

    Args:
        path: the file; its suffix chooses the container.
        packets: in decode order, with times in the time base of `like`.
        like: the file whose first video stream describes them.
        extradata: codec configuration to be written instead of that of `like`.
        muxer_options: the muxer's options.

    Returns:
        The path.
    """
    with (
        _opened(like) as source,
        av.open(str(path), "w", options=dict(muxer_options or {})) as target,
    ):
        template = source.streams.video[0]
        stream = target.add_stream_from_template(template)
        if extradata is not None:
            stream.codec_context.extradata = extradata
        time_base = cast(Fraction, template.time_base)
        for coded in packets:
            packet = padded_packet(coded.data)
            packet.pts, packet.dts, packet.duration = coded.pts, coded.dts, coded.duration
            packet.time_base, packet.is_keyframe, packet.stream = time_base, coded.key, stream
            target.mux(packet)
    return Path(path)


def padded_packet(data: bytes) -> Packet[Stream]:
    """A packet with the zeros behind it that FFmpeg's readers count on; `av.Packet(data)` has none.

    Args:
        data: the payload.

    Returns:
        The packet, without times.
    """
    packet = av.Packet(len(data))
    packet.update(data)
    return packet


def write_trimmed(path: Path, spec: VideoSpec, *, first: int) -> None:
    """A video that starts at frame `first` though that is no key frame: an edit list hides the packets before it.

    So do tools that trim by stream copy; the packets from the last key frame before `first` must be decoded, not shown.
    """
    with _encoded(spec, path.suffix) as source:
        packets = read_packets(source)
        origin = sorted(packet.pts for packet in packets)[first]
        start = max(i for i, packet in enumerate(packets) if packet.key and packet.pts <= origin)
        shifted = [replace(p, pts=p.pts - origin, dts=p.dts - origin) for p in packets[start:]]
        write_packets(path, shifted, like=source, muxer_options={"avoid_negative_ts": "disabled", "use_editlist": "1"})


def write_with_inband_parameters(path: Path, first: VideoSpec, second: VideoSpec) -> None:
    """Two H.264 encodes in one track, the second one's parameter sets in its key packets, with the first one's ids."""
    with _encoded(first, ".mp4") as one, _encoded(second, ".mp4") as two:
        head, tail = read_packets(one), read_packets(two)
        with _opened(two) as container:
            units = [unit for units in avcc_parameter_sets(_extradata(container)) for unit in units]
        prefix = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
        shift = max(p.pts + p.duration for p in head) - min(p.pts for p in tail)
        # Decode times must go on increasing; the second encode's begin before its first picture's time.
        shifted = [
            replace(p, data=prefix + p.data if p.key else p.data, pts=p.pts + shift, dts=p.dts + shift) for p in tail
        ]
        write_packets(path, head + shifted, like=one)


def write_without_reorder_depth(path: Path, spec: VideoSpec) -> None:
    """An H.264 video whose parameter set does not say how many frames are reordered."""
    with _encoded(spec, ".mp4") as source:
        with _opened(source) as container:
            extradata = _extradata(container)
        sps, pps = avcc_parameter_sets(extradata)
        silent = avcc_with_parameter_sets(extradata, [without_reorder_depth(unit) for unit in sps], pps)
        write_packets(path, read_packets(source), like=source, extradata=silent)


def write_vp8_hidden(path: Path, spec: VideoSpec, *, every: int) -> None:
    """A VP8 video in which every so-many-th packet is not shown, as alternate references are not, but referred to."""
    with _encoded(spec, path.suffix) as source:
        packets = read_packets(source)
        hidden = [
            replace(p, data=bytes([p.data[0] & ~0x10]) + p.data[1:]) if i % every == every - 1 else p  # show_frame
            for i, p in enumerate(packets)
        ]
        write_packets(path, hidden, like=source)


def write_vp9_hidden(path: Path, spec: VideoSpec) -> None:
    """A VP9 video whose key frames are not shown but share a packet with the next frame, as alternate references do."""
    with _encoded(spec, path.suffix) as source:
        packets = read_packets(source)
        merged = []
        for packet, following in zip(packets, [*packets[1:], None], strict=True):
            if packet.key and following is not None:
                hidden = bytes([packet.data[0] & ~0x02]) + packet.data[1:]  # show_frame; nothing else depends on it
                merged.append(replace(following, data=_superframe(hidden, following.data), key=True))
            elif not (merged and merged[-1].pts == packet.pts):
                merged.append(packet)
        write_packets(path, merged, like=source)


def _superframe(*frames: bytes) -> bytes:
    """VP9 frames in one packet, with the index that tells their sizes (VP9 specification, annex B)."""
    marker = bytes([0b110_11_000 | (len(frames) - 1)])  # sizes of 4 bytes
    return b"".join(frames) + marker + b"".join(len(f).to_bytes(4, "little") for f in frames) + marker


def _extradata(container: av.container.InputContainer) -> bytes:
    return container.streams.video[0].codec_context.extradata or b""


@contextmanager
def _encoded(spec: VideoSpec, suffix: str) -> Iterator[Path]:
    """A temporary file with the spec's video."""
    with TemporaryDirectory(prefix="lazyvid-video-") as folder:
        yield write_video(Path(folder, "source" + suffix), spec)
