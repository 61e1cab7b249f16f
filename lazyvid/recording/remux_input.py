"""One of the videos that `remux.py` joins: its tracks, their times, and whether another one can follow it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from lazyvid.errors import CorruptVideoError, VideoError
from lazyvid.index.bitstream import BitstreamReader
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.index.sniff import DEMUXERS
from lazyvid.recording.mp4 import ORIGIN_TAG

Ticks = npt.NDArray[np.int64]

_KINDS = ("video", "audio", "subtitle")


@dataclass(frozen=True, slots=True)
class Track:
    """One stream that is copied."""

    stream_index: int
    """Its number in the file."""
    kind: str
    """"video", "audio" or "subtitle"."""
    looks: dict[str, str]
    """What must be the same in all files that are joined, by name."""
    extradata: bytes = field(repr=False)
    """The codec's parameters; the same in all files too."""
    time_base: Fraction
    """Seconds per tick."""
    pts: Ticks = field(repr=False)
    """int64 [N], presentation times in decode order; of video only."""
    last_duration: int
    """Ticks that the last picture shown lasts; 0 for other tracks."""

    @property
    def start(self) -> Fraction:
        """When the first picture is shown, in seconds."""
        return int(self.pts.min()) * self.time_base

    @property
    def end(self) -> Fraction:
        """When the last picture stops being shown, in seconds."""
        return (int(self.pts.max()) + self.last_duration) * self.time_base


@dataclass(frozen=True, slots=True)
class JoinInput:
    """One file that is joined with others."""

    path: Path
    index: FrameIndex
    """Of its first video track, as the file itself gives it."""
    tracks: tuple[Track, ...]
    """Those that are copied, in the order of the file."""
    metadata: dict[str, str]
    """The file's own tags."""
    rate: Fraction | None
    """Frames per second; None where frames come irregularly."""

    @classmethod
    def look_at(cls, path: Path) -> Self:
        """Read a file's packets once.

        Raises:
            FileNotFoundError: if there is none.
            VideoError: if it is damaged, or of a kind that cannot be joined.
        """
        if not path.is_file():
            raise FileNotFoundError(f"Expected a video to join, found no file {path}.")
        index = build_index(path)
        if len(index.sources) > 1:
            raise VideoError(f"Cannot join {path}: its codec parameters change inside it. Encode it anew.")
        with opened(path, index.sources[0].container) as container, reading(path):
            tracks = _tracks(container, path, index)
            metadata = dict(container.metadata)
            rate = _rate(container, tracks, metadata)
        return cls(path, index, tracks, metadata, rate)

    @property
    def videos(self) -> tuple[Track, ...]:
        """The video tracks."""
        return tuple(track for track in self.tracks if track.kind == "video")

    @property
    def start(self) -> Fraction:
        """When the first picture is shown, in seconds."""
        return min(track.start for track in self.videos)

    @property
    def end(self) -> Fraction:
        """When the last picture stops being shown, in seconds."""
        return max(track.end for track in self.videos)

    def check_joins(self, other: JoinInput, *, same_rate: bool = True) -> None:
        """Raise VideoError, with what differs, unless the other one's packets can follow this one's.

        Args:
            other: What is to follow.
            same_rate: Whether frames keep their times, so that both need one rate.
        """
        mine, theirs = [track.kind for track in self.tracks], [track.kind for track in other.tracks]
        if mine != theirs:
            raise _unlike(self, other, "streams", ", ".join(mine), ", ".join(theirs))
        for a, b in zip(self.tracks, other.tracks, strict=True):
            for name in a.looks | b.looks:
                if a.looks.get(name) != b.looks.get(name):
                    raise _unlike(self, other, f"{a.kind} {name}", a.looks.get(name), b.looks.get(name))
        is_short = min(len(self.index), len(other.index)) < 2
        if same_rate and self.rate != other.rate and not is_short:
            raise _unlike(self, other, "frame rate", _rate_name(self.rate), _rate_name(other.rate))
        for a, b in zip(self.tracks, other.tracks, strict=True):
            # Those of text hold its bit rate and default style, without which it can be read.
            if a.kind != "subtitle" and a.extradata != b.extradata:
                shown = [f"{len(data)} bytes {data.hex()[:120]}" for data in (a.extradata, b.extradata)]
                raise _unlike(self, other, f"{a.kind} codec parameters (extradata)", *shown)


def _unlike(first: JoinInput, other: JoinInput, what: str, expected: object, found: object) -> VideoError:
    return VideoError(
        f"Cannot join {other.path} to {first.path}: expected the same {what}, {expected}, found {found}. Encode one of "
        "them anew with the settings of the other."
    )


def _rate_name(rate: Fraction | None) -> str:
    return "a varying one" if rate is None else f"{rate} per second"


@contextlib.contextmanager
def opened(path: Path, container: str) -> Iterator[InputContainer]:
    """A file opened by a demuxer of our choice, over a file object: FFmpeg neither guesses nor opens others by name.

    Args:
        path: The file.
        container: A key of `sniff.DEMUXERS`.

    Raises:
        CorruptVideoError: if FFmpeg cannot open it.
    """
    with path.open("rb") as file:
        with reading(path):
            demuxed: Any = av.open(file, format=DEMUXERS[container], metadata_errors="replace")
        with demuxed as opened_container:
            yield opened_container


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What FFmpeg raises about an input as a CorruptVideoError that names it."""
    try:
        yield
    except av.FFmpegError as error:
        raise CorruptVideoError(f"Cannot read {path}: {error}. The file is damaged; make or copy it anew.") from error


def kept_streams(container: InputContainer) -> list[Any]:
    """The streams that are copied: no cover art, data or attachments."""
    cover = av.stream.Disposition.attached_pic
    return [s for s in container.streams if s.type in _KINDS and s.codec_context and not s.disposition & cover]


def _tracks(container: InputContainer, path: Path, index: FrameIndex) -> tuple[Track, ...]:
    streams = kept_streams(container)
    times: dict[int, list[tuple[int, int]]] = {stream.index: [] for stream in streams}
    videos = {
        stream.index: BitstreamReader.for_source(
            stream.codec_context.codec.canonical_name, bytes(stream.codec_context.extradata or b"")
        )
        for stream in streams
        if stream.type == "video"
    }
    for packet in container.demux(streams):
        if not packet.size or packet.stream.index not in videos:
            continue
        if packet.is_discard:
            raise VideoError(
                f"Cannot join {path}: an edit list hides some of its packets, which would be shown in the joined "
                "video. Encode it anew."
            )
        if videos[packet.stream.index].has_foreign_parameter_sets(bytes(packet)):
            raise VideoError(
                f"Cannot join {path}: its codec parameters change inside it, so that what follows it could not be "
                "decoded. Encode it anew."
            )
        if packet.pts is None:
            raise VideoError(f"Cannot join {path}: its packets have no presentation times. Remux it as MP4 first.")
        times[packet.stream.index].append((packet.pts, packet.duration or 0))
    first = min(videos)
    turn = f"{index.sources[0].rotation} degrees" + (" and mirrored" if index.sources[0].hflip else "")
    return tuple(
        _track(stream, times[stream.index], {"orientation": turn} if stream.index == first else {})
        for stream in streams
        if stream.type != "video" or times[stream.index]
    )


def _track(stream: Any, times: list[tuple[int, int]], looks: dict[str, str]) -> Track:
    context = stream.codec_context
    looks = {"codec": context.codec.canonical_name, **looks}
    if stream.type == "video":
        looks |= {"size": f"{context.width}x{context.height}", "pixel format": str(context.pix_fmt)}
    elif stream.type == "audio":
        looks |= {"format": f"{context.sample_rate} Hz {context.layout.name}"}
    pts = np.array([tick for tick, _ in times], np.int64)
    duration = max(times)[1] if times else 0
    if times and duration <= 0:
        steps = np.diff(np.sort(pts))
        duration = int(np.median(steps)) if len(steps) else 0
    return Track(
        stream.index,
        stream.type,
        looks,
        bytes(context.extradata or b""),
        stream.time_base or Fraction(1),
        pts,
        duration,
    )


def _rate(container: InputContainer, tracks: tuple[Track, ...], metadata: dict[str, str]) -> Fraction | None:
    """The frame rate of the first video track, where its frames lie on a grid."""
    track = next(track for track in tracks if track.kind == "video")
    steps = np.diff(np.sort(track.pts))
    if ORIGIN_TAG in metadata or (len(steps) and np.ptp(steps) > 1):  # 1 is what a coarse time base rounds
        return None
    stream: Any = container.streams[track.stream_index]
    if len(steps) and not np.ptp(steps) and steps[0] > 0:
        exact: Fraction = 1 / (int(steps[0]) * track.time_base)
        return exact if stream.time_base != Fraction(1, 1000) else stream.guessed_rate
    return Fraction(stream.guessed_rate) if stream.guessed_rate else None
