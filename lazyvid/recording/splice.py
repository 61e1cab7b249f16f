"""Runs of frames of several files, one after the other in one MP4 on the grid of a rate, by copying their packets.

Beside `remux.py`, which joins whole files and keeps their times: for datasets that keep many episodes in a file and
look frames up as k / fps. Nothing is decoded; no frame moves against another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lazyvid import timing
from lazyvid.errors import CorruptVideoError, UncuttableVideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.recording.places import publish_file, temporary_beside
from lazyvid.recording.remux import copied_stream, decode_ticks, writing
from lazyvid.recording.remux_input import JoinInput, kept_streams, opened, reading

_MUXER_OPTIONS = {"movflags": "faststart+use_metadata_tags", "movie_timescale": "1000000"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames of one file."""

    path: Path
    """The file, local."""
    first: int = 0
    """The first frame, in the order in which they are shown."""
    stop: int | None = None
    """One past the last frame; None takes all from the first one on."""


def splice(pieces: Sequence[Piece], target: Path, rate: Fraction) -> FrameIndex:
    """Join pieces of videos: frame k of the outcome lies at k / rate, exactly.

    Args:
        pieces: In order, one or more; of one codec, size and set of codec parameters. Each begins at a key packet, and
            the packets of its frames follow each other in the file.
        target: The MP4; it appears when it is whole, and may be one of the files. A sidecar that it had is removed.
        rate: Frames per second.

    Returns:
        The outcome's index, every payload read; not stored.

    Raises:
        UncuttableVideoError: if a piece's packets are not those of its frames alone, so that it must be encoded anew.
        VideoError: if a file is damaged, or files do not fit together.
        RecordingDiskFullError: if the disk is full.
        EncoderFailedError: if FFmpeg cannot write the outcome.
    """
    if not pieces:
        raise ValueError("Expected a piece or more to splice, got none.")
    inputs = {piece.path: JoinInput.look_at(piece.path) for piece in pieces}
    first = inputs[pieces[0].path]
    for other in list(inputs.values())[1:]:
        first.check_joins(other, same_rate=False)
    cuts = [Cut.of(inputs[piece.path], piece) for piece in pieces]
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(target) as temporary:
        with writing(target):
            _copy(cuts, temporary, rate)
        index = _checked(cuts, temporary, rate)
        publish_file(temporary, target)
    return index


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The packets of a piece."""

    joined: JoinInput
    """The file."""
    start: int
    """Where they begin among the file's packets, in decode order."""
    ranks: np.ndarray[Any, np.dtype[np.int64]]
    """int64 [N], each packet's place among the piece's frames as they are shown, in decode order."""

    @classmethod
    def of(cls, joined: JoinInput, piece: Piece) -> Cut:
        """The packets of a piece of a file that was looked at.

        Raises:
            UncuttableVideoError: if they are not those of its frames alone.
            ValueError: if there are no such frames.
        """
        packets, count = joined.index.packets, len(joined.index)
        stop = count if piece.stop is None else piece.stop
        if not 0 <= piece.first < stop <= count:
            raise ValueError(f"Expected frames inside [0, {count}) of {piece.path}, got [{piece.first}, {stop}).")
        positions = packets.decode_position[piece.first : stop]
        start, end = int(positions.min()), int(positions.max()) + 1
        order = np.argsort(positions)
        if end - start != len(positions) or not packets.key[piece.first : stop][order[0]]:
            raise UncuttableVideoError(
                f"Cannot copy frames {piece.first} to {stop - 1} of {piece.path} alone: they do not begin at a key "
                "packet, or refer to frames outside. Encode them anew."
            )
        return cls(joined, start, order.astype(np.int64))

    def __len__(self) -> int:
        return len(self.ranks)


def _copy(cuts: Sequence[Cut], path: Path, rate: Fraction) -> None:
    base = 1 / rate
    offsets = np.cumsum([0, *(len(cut) for cut in cuts)])
    pts = np.concatenate([cut.ranks + offset for cut, offset in zip(cuts, offsets, strict=False)])
    ticks = zip(pts.tolist(), decode_ticks(pts, path).tolist(), strict=True)
    with av.open(str(path), "w", format="mp4", options=dict(_MUXER_OPTIONS)) as output:
        stream: Any = None
        for cut in cuts:
            with opened(cut.joined.path, cut.joined.index.sources[0].container) as container:
                if stream is None:
                    template = container.streams[cut.joined.videos[0].stream_index]
                    stream = copied_stream(output, template, cut.joined.path, base)
                for packet in _packets(container, cut):
                    packet.pts, packet.dts = next(ticks)
                    packet.time_base, packet.duration, packet.stream = base, 1, stream
                    output.mux_one(packet)


def _packets(container: Any, cut: Cut) -> Iterator[Any]:
    """The packets of a cut, in decode order."""
    wanted = cut.joined.videos[0].stream_index
    (stream,) = [stream for stream in kept_streams(container) if stream.index == wanted]
    with reading(cut.joined.path):
        for position, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if position >= cut.start + len(cut):
                return
            if position >= cut.start:
                yield packet


def _checked(cuts: Sequence[Cut], path: Path, rate: Fraction) -> FrameIndex:
    """The outcome's index, once it was found to hold every frame in its place."""
    index = build_index(path, scan="full")
    expected = timing.ticks_to_seconds(np.arange(sum(map(len, cuts))), 1 / rate)
    if len(index) != len(expected) or np.abs(index.timestamp - expected).max() > float(1 / rate) / 1000:
        raise CorruptVideoError(
            f"Expected the {len(expected)} frames of {len(cuts)} pieces on the grid of {rate} fps after copying them, "
            f"found {len(index)} frames or other times. Encode them anew instead."
        )
    return index
