"""Videos of one kind joined into one by copying their packets: nothing is decoded, no frame moves against another.

After the write flow, where a data set keeps several episodes in a file; `remux_input.py` looks at each of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lazyvid import timing
from lazyvid.errors import CorruptVideoError, EncoderFailedError, MissingIndexError, RecordingDiskFullError, VideoError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.recording.disk import is_full
from lazyvid.recording.places import publish_file, temporary_beside
from lazyvid.recording.remux_input import JoinInput, Ticks, Track, kept_streams, opened, reading
from lazyvid.storage import ObjectStore

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}
_MUXER_OPTIONS = {
    "movflags": "faststart+use_metadata_tags",
    # The edit list that holds a late first frame counts in these; the default of 1/1000 s would round its time.
    "movie_timescale": "1000000",
}
_MUXERS_OWN = ("major_brand", "minor_version", "compatible_brands", "encoder", "creation_time")
_HIGHEST_TIMESCALE = (1 << 31) - 1


def concatenate_video_files(
    input_video_paths: Sequence[str | os.PathLike[str]],
    output_video_path: str | os.PathLike[str],
    overwrite: bool = True,  # noqa: FBT001, FBT002 - the signature that users of LeRobot know
) -> None:
    """Join videos, one after the other, into an MP4 whose header comes first; video, audio and subtitles are copied.

    The first frame of each video comes exactly when the last one of the video before it ends. Sound and subtitles go
    with their frames; what of them lies before a video's first frame or after its last one is left out at the joins.
    The output appears when it is whole, so it may be one of the inputs. When all inputs have sidecars, so has the
    output: with a segment for each of theirs, and their times, each moved to begin where the one before it ends.

    Args:
        input_video_paths: Local files, in order; of one codec, size, rate and set of codec parameters, with the same
            streams.
        output_video_path: The video (.mp4, .m4v or .mov); folders above it are made.
        overwrite: Whether a video that is there is replaced; else it is left, with a warning.

    Raises:
        FileNotFoundError: if no input was given, or one is not there.
        ValueError: if the output's name is of another container.
        VideoError: if an input is damaged, or the inputs cannot be joined; the message says by what they differ.
        StaleIndexError: if an input's sidecar describes another file.
        RecordingDiskFullError: if the disk is full.
        EncoderFailedError: if FFmpeg cannot write the output.
    """
    paths, target = [Path(path) for path in input_video_paths], Path(output_video_path)
    if not paths:
        raise FileNotFoundError("Expected one video or more to join, got no input_video_paths.")
    if target.suffix.lower() not in _FORMATS:
        raise ValueError(f"Invalid output_video_path {str(target)!r}: expected a name that ends in .mp4, .m4v or .mov.")
    if target.exists() and not overwrite:
        warnings.warn(f"{target} is there already: left as it is. Set overwrite=True to replace it.", stacklevel=2)
        return
    inputs = [JoinInput.look_at(path) for path in paths]
    for other in inputs[1:]:
        inputs[0].check_joins(other)
    sidecars = [_sidecar(path) for path in paths]
    plan = _Plan.of(inputs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(target) as temporary:
        with writing(target):
            _copy(inputs, plan, temporary, _FORMATS[target.suffix.lower()])
        index = _checked_index(inputs, plan, temporary)
        publish_file(temporary, target)
    known = [sidecar for sidecar in sidecars if sidecar is not None]
    if len(known) == len(inputs):
        _write_sidecar(known, index, target)


# -- times ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """When everything comes in the output."""

    offsets: tuple[Fraction, ...]
    """Seconds added to the times of each input."""
    time_bases: tuple[Fraction, ...]
    """Seconds per tick of each track, in the output."""
    pts: tuple[tuple[Ticks, ...], ...]
    """Of each track, for each input, in decode order and in the output's ticks; empty for other tracks than video."""
    dts: tuple[tuple[Ticks, ...], ...]
    """The same for decoding times."""

    @classmethod
    def of(cls, inputs: Sequence[JoinInput]) -> _Plan:
        offsets, position = [Fraction(0)], inputs[0].end
        for following in inputs[1:]:
            offsets.append(position - following.start)
            position += following.end - following.start
        video_bases = [track.time_base for joined in inputs for track in joined.videos]
        tracks = list(zip(*(joined.tracks for joined in inputs), strict=True))
        bases, pts, dts = [], [], []
        for same in tracks:
            is_video = same[0].kind == "video"
            base = _common([track.time_base for track in same] + (video_bases if is_video else []))
            if base.denominator > _HIGHEST_TIMESCALE:
                found = ", ".join(sorted({str(track.time_base) for track in same}))
                raise VideoError(
                    f"Cannot join {inputs[0].path} and others: their time bases, {found} s, have no common one that "
                    "MP4 can hold. Encode them anew."
                )
            moved = [_moved(t, base, offset) for t, offset in zip(same, offsets, strict=True)] if is_video else []
            bases.append(base)
            pts.append(tuple(moved))
            dts.append(_split_like(decode_ticks(np.concatenate(moved), inputs[0].path), moved) if is_video else ())
        return cls(tuple(offsets), tuple(bases), tuple(pts), tuple(dts))


def _common(bases: Sequence[Fraction]) -> Fraction:
    """The longest tick of which all of these are multiples."""
    denominator = math.lcm(*(base.denominator for base in bases))
    return Fraction(math.gcd(*(int(base * denominator) for base in bases)), denominator)


def _moved(track: Track, base: Fraction, offset: Fraction) -> Ticks:
    """The track's times in the output's ticks; exact, as its own and the offset are multiples of them."""
    return track.pts * int(track.time_base / base) + int(offset / base)


def _split_like(ticks: Ticks, parts: Sequence[Ticks]) -> tuple[Ticks, ...]:
    return tuple(np.split(ticks, np.cumsum([len(part) for part in parts])[:-1]))


def decode_ticks(pts: Ticks, path: Path) -> Ticks:
    """Decoding times that increase and lie not after presentation times, by the smallest delay that does so.

    The inputs' own may overlap where one reorders frames over a longer distance than the one before it.

    Args:
        pts: int64 [N], in decode order.
        path: Named in errors.
    """
    shown = np.sort(pts)
    steps = np.diff(shown)
    if len(steps) and steps.min() <= 0:
        raise VideoError(f"Cannot join {path} and others: two of their frames have the same time. Encode them anew.")
    delay = int((np.arange(len(pts)) - np.searchsorted(shown, pts)).max())
    step = int(np.median(steps)) if len(steps) else 1
    before = shown[0] - step * np.arange(delay, 0, -1)
    return np.concatenate([before, shown])[: len(pts)]


# -- copying ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """FFmpeg's errors about the output as lazyvid's."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        if is_full(error):
            raise RecordingDiskFullError(
                f"Cannot write {target}: the disk is full. The inputs are untouched."
            ) from error
        raise EncoderFailedError(f"Cannot write {target}: {error}. The inputs are untouched.") from error


def _copy(inputs: Sequence[JoinInput], plan: _Plan, path: Path, muxer: str) -> None:
    with av.open(str(path), "w", format=muxer, options=dict(_MUXER_OPTIONS)) as output:
        tags = {name: value for name, value in inputs[0].metadata.items() if name not in _MUXERS_OWN}
        output.metadata.update(tags)
        streams = _add_streams(output, inputs[0], plan)
        last_dts: dict[int, int] = {}
        for number, joined in enumerate(inputs):
            with opened(joined.path, joined.index.sources[0].container) as container:
                for position, packet in _timed_packets(container, joined, plan, number, len(inputs)):
                    if packet.dts is None or packet.dts <= last_dts.get(position, packet.dts - 1):
                        continue  # sound that overlaps at a join
                    last_dts[position] = packet.dts
                    packet.stream = streams[position]
                    output.mux_one(packet)


def _add_streams(output: Any, first: JoinInput, plan: _Plan) -> list[Any]:
    """The output's streams, as those of the first input."""
    added = []
    with opened(first.path, first.index.sources[0].container) as container:
        for track, base in zip(first.tracks, plan.time_bases, strict=True):
            template = container.streams[track.stream_index]
            stream = copied_stream(output, template, first.path, base)
            stream.metadata.update({k: v for k, v in template.metadata.items() if k not in ("encoder", "duration")})
            added.append(stream)
    return added


def copied_stream(output: Any, template: Any, path: Path, base: Fraction) -> Any:
    """A stream of an MP4 that takes the packets of another file's stream.

    Raises:
        VideoError: if MP4 cannot hold them.
    """
    codec = template.codec_context.codec.canonical_name
    try:
        stream = output.add_stream_from_template(template, opaque=True)
    except ValueError as error:
        raise VideoError(f"Cannot copy the packets of {path}: MP4 cannot hold {codec} ({error}).") from error
    stream.time_base = base
    if codec == "hevc":
        # "hvc1" is the only name of HEVC that Apple's players know; but another name has other extradata.
        stream.codec_context.codec_tag = "hev1" if template.codec_context.codec_tag == "hev1" else "hvc1"
    return stream


def _timed_packets(
    container: Any, joined: JoinInput, plan: _Plan, number: int, count: int
) -> Iterator[tuple[int, av.Packet[Any]]]:
    """The packets of one input with the output's times, each with the position of its track."""
    positions = {track.stream_index: position for position, track in enumerate(joined.tracks)}
    streams = [stream for stream in kept_streams(container) if stream.index in positions]
    seen = dict.fromkeys(range(len(joined.tracks)), 0)
    for packet in _read_packets(container, streams, joined.path):
        position = positions[packet.stream.index]
        track, base = joined.tracks[position], plan.time_bases[position]
        packet.duration = round((packet.duration or 0) * track.time_base / base)
        if track.kind == "video":
            row = seen[position]
            seen[position] += 1
            packet.pts, packet.dts = int(plan.pts[position][number][row]), int(plan.dts[position][number][row])
        else:
            if packet.pts is None or not _belongs(packet.pts * track.time_base, joined, number, count):
                continue
            packet.pts = packet.dts = round((packet.pts * track.time_base + plan.offsets[number]) / base)
        packet.time_base = base
        yield position, packet


def _read_packets(container: Any, streams: Sequence[Any], path: Path) -> Iterator[av.Packet[Any]]:
    """The packets with payload; only what goes wrong with reading them is the input's fault."""
    with reading(path):
        for packet in container.demux(streams):
            if packet.size:
                yield packet


def _belongs(seconds: Fraction, joined: JoinInput, number: int, count: int) -> bool:
    """Whether sound or text of this time goes with frames of its own input, and not with those beyond a join."""
    return (number == 0 or seconds >= joined.start) and (number == count - 1 or seconds < joined.end)


# -- the index --------------------------------------------------------------------------------------------------------


def _sidecar(path: Path) -> FrameIndex | None:
    try:
        return FrameIndex.open(path)
    except MissingIndexError:
        return None


def _checked_index(inputs: Sequence[JoinInput], plan: _Plan, path: Path) -> FrameIndex:
    """The output's index, once it was found to hold every frame of the inputs at its time."""
    index = build_index(path, scan="full")
    position = next(k for k, track in enumerate(inputs[0].tracks) if track.kind == "video")
    expected = timing.ticks_to_seconds(np.sort(np.concatenate(plan.pts[position])), plan.time_bases[position])
    if len(index) != len(expected) or np.abs(index.timestamp - expected).max() > float(plan.time_bases[position]) / 2:
        raise CorruptVideoError(
            f"Expected the {len(expected)} frames of {len(inputs)} videos at their times after joining them, found "
            f"{len(index)} frames or other times. Encode the videos anew instead."
        )
    return index


def _write_sidecar(sidecars: Sequence[FrameIndex], index: FrameIndex, target: Path) -> None:
    """Keep the segments and times that the inputs' sidecars say."""
    merged = FrameIndex.concat(sidecars, timestamps="append")
    if len(merged) != len(index):
        raise CorruptVideoError(
            f"Expected sidecars that describe the {len(index)} frames of the joined video {target}, found "
            f"{len(merged)} frames in them. The video is whole; index it anew: lazyvid index"
        )
    source = dataclasses.replace(index.sources[0], etag=ObjectStore().head(target).etag)
    dataclasses.replace(
        index,
        segment_idx=merged.segment_idx,
        local_frame_idx=merged.local_frame_idx,
        timestamp=merged.timestamp,
        segments=tuple(dataclasses.replace(segment, source_idx=0) for segment in merged.segments),
        sources=(source,),
    ).save(target)
