"""What a video file says of itself, under the names that LeRobot's `info.json` has for it; re-exported by `probe`.

Beside the read flow: no index is made, and of the packets the first key one at most is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import av
from av.video.format import VideoFormat

from lazyvid.errors import CorruptVideoError, NotAVideoError, NoVideoStreamError
from lazyvid.frames import Limits
from lazyvid.index.fingerprint import ScannedHeaders, scan_headers
from lazyvid.index.mp4 import FIRST_READ
from lazyvid.index.mp4_checks import IDENTITY_MATRIX, check_headers
from lazyvid.index.probe_demux import converted_errors, stream_packets, video_stream
from lazyvid.index.probe_parameters import check_pixels, display_matrix, first_frame, orientation, product
from lazyvid.index.sniff import DEMUXERS, describe_bytes
from lazyvid.index.sparse import BytesFile, ByteSource, WindowedBytes, run_with_file
from lazyvid.storage import ObjectStore, display_uri

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

Result = TypeVar("Result")
Work = Callable[["InputContainer", ScannedHeaders, str], Result]

_ONE_CHANNEL = ("gray", "depth", "mono")
_SECONDS = 1_000_000  # ticks of a container's duration


def get_video_info(
    path: str | os.PathLike[str],
    *,
    is_depth_map: bool = False,
    store: ObjectStore | None = None,
    storage_options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """What LeRobot's `info.json` keeps of a video file.

    Args:
        path: The file: a path or a URI.
        is_depth_map: Whether its pictures are depths, which no file says of itself.
        store: Where it lies; by default an `ObjectStore` with `storage_options`.
        storage_options: For the store, when none is given.
        limits: The largest video that is accepted.

    Returns:
        `video.height` and `video.width` (pixels, as shown, after rotation), `video.codec` (canonical name),
        `video.pix_fmt`, `video.fps` (int when whole, else an exact `Fraction`; nominal where frames come irregularly),
        `video.channels`, `video.is_depth_map`, and all that `get_audio_info` says. Empty where there is no video.

    Raises:
        NotAVideoError: if the file is of no format that lazyvid reads.
        CorruptVideoError: if FFmpeg cannot make sense of it.
        StoreError: if the store does not give its bytes.
    """
    work = partial(_video_info, is_depth_map=is_depth_map, limits=limits or Limits())
    return _with_container(path, work, store=store, storage_options=storage_options, limits=limits)


def get_audio_info(
    path: str | os.PathLike[str],
    *,
    store: ObjectStore | None = None,
    storage_options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """What LeRobot's `info.json` keeps of the first audio stream of a file.

    Args:
        path: The file: a path or a URI; of a video, or WAV, FLAC or MP3.
        store: Where it lies; by default an `ObjectStore` with `storage_options`.
        storage_options: For the store, when none is given.
        limits: The largest file headers that are accepted.

    Returns:
        `has_audio`, and where that is True `audio.channels`, `audio.codec` (canonical name), `audio.bit_rate` (bits
        per second, None where the file does not state it), `audio.sample_rate` (Hz), `audio.bit_depth` (of decoded
        samples) and `audio.channel_layout`.

    Raises:
        NotAVideoError: if the file is of no format that lazyvid reads.
        CorruptVideoError: if FFmpeg cannot make sense of it.
        StoreError: if the store does not give its bytes.
    """
    return _with_container(path, _audio_info, store=store, storage_options=storage_options, limits=limits)


def get_video_duration_in_s(
    path: str | os.PathLike[str],
    *,
    store: ObjectStore | None = None,
    storage_options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> float:
    """How long the first video stream of a file lasts, in seconds; how long the file does where the stream is silent.

    Args:
        path: The file: a path or a URI.
        store: Where it lies; by default an `ObjectStore` with `storage_options`.
        storage_options: For the store, when none is given.
        limits: The largest file headers that are accepted.

    Raises:
        NoVideoStreamError: if there is no video stream.
        NotAVideoError: if the file is of no format that lazyvid reads.
        CorruptVideoError: if FFmpeg cannot make sense of it, or the file states no duration.
        StoreError: if the store does not give its bytes.
    """
    return _with_container(path, _duration, store=store, storage_options=storage_options, limits=limits)


def get_video_pixel_channels(pix_fmt: str) -> int:
    """How many channels the pictures of a pixel format have.

    Args:
        pix_fmt: FFmpeg's name; "depth" and "monochrome" count as names too.

    Returns:
        1 gray, depth and monochrome; 3 colour; 4 colour with alpha; 2 gray with alpha.

    Raises:
        ValueError: if no such format is known, or it stands for pictures in a device's memory.
    """
    try:
        known = VideoFormat(pix_fmt)
    except (ValueError, TypeError) as error:
        if isinstance(pix_fmt, str) and pix_fmt.startswith(_ONE_CHANNEL):
            return 1
        raise ValueError(f"Unknown format {pix_fmt!r}: expected FFmpeg's name of a pixel format.") from error
    if known.has_palette:
        return 4
    if not known.components:
        raise ValueError(f"Unknown format {pix_fmt!r}: it says where pictures lie, not what they are.")
    return len(known.components)


# -- one file ---------------------------------------------------------------------------------------------------------


def _with_container(
    path: str | os.PathLike[str],
    work: Work[Result],
    *,
    store: ObjectStore | None,
    storage_options: Mapping[str, Any] | None,
    limits: Limits | None,
) -> Result:
    """Let `work` look at a file that FFmpeg has opened, with a demuxer of our choice and no name to open others by."""
    store = store if store is not None else ObjectStore(storage_options=storage_options)
    limits = limits or Limits()
    meta = store.head(path)
    headers = scan_headers(store, meta, limits=limits)
    head = headers.bytes.read(0, FIRST_READ)
    demuxer = DEMUXERS[headers.container] if headers.container else _audio_demuxer(head)
    uri = display_uri(meta.uri)
    if demuxer is None:
        raise NotAVideoError(
            f"Expected a video file, found {meta.size} bytes that begin with {describe_bytes(head)} at {uri}. Check "
            "the path and how the file was made."
        )
    whole = not headers.bytes.missing(0, meta.size)
    source: ByteSource = headers.bytes if whole else WindowedBytes(store, meta)

    def open_and_work(file: BytesFile) -> Result:
        options = {"max_pixels": str(limits.pixels)}
        with converted_errors(uri):
            opened: Any = av.open(file, format=demuxer, options=options, metadata_errors="replace")
            with opened as container:
                return work(container, headers, uri)

    return run_with_file(source, open_and_work)


def _audio_demuxer(head: bytes) -> str | None:
    """FFmpeg's demuxer for a file that holds audio alone; None for anything else."""
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"fLaC"):
        return "flac"
    is_mpeg_audio = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2  # sync, layer III
    return "mp3" if head.startswith(b"ID3") or is_mpeg_audio else None


def _video_info(
    container: InputContainer, headers: ScannedHeaders, uri: str, *, is_depth_map: bool, limits: Limits
) -> dict[str, Any]:
    try:
        stream = video_stream(container, None, uri=uri)
    except NoVideoStreamError:
        return {}
    context = stream.codec_context
    check_pixels(context.width, context.height, uri=uri, limits=limits)
    audio = _audio_info(container, headers, uri)
    fps = stream.guessed_rate or stream.average_rate or stream.base_rate
    size = (context.height, context.width)
    height, width = size[::-1] if _rotation(container, stream, headers, limits) % 180 else size
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": context.codec.canonical_name,
        "video.pix_fmt": context.pix_fmt,
        "video.fps": _int_when_whole(fps),
        "video.channels": get_video_pixel_channels(context.pix_fmt or ""),
        "video.is_depth_map": is_depth_map,
        **audio,
    }


def _int_when_whole(rate: Fraction | None) -> int | Fraction | None:
    return rate.numerator if rate is not None and rate.denominator == 1 else rate


def _rotation(container: InputContainer, stream: VideoStream, headers: ScannedHeaders, limits: Limits) -> int:
    """Degrees by which players turn the pictures, as the index says."""
    if headers.mp4 is not None:
        movie = check_headers(headers.mp4, limits=limits)
        track = next((track.matrix for track in movie.tracks if track.track_id == stream.id), IDENTITY_MATRIX)
        return orientation(product(track, movie.matrix))[0]
    key = next((packet for packet in stream_packets(container, stream) if packet.is_keyframe), None)
    return 0 if key is None else orientation(display_matrix(first_frame(stream, key)))[0]


def _audio_info(container: InputContainer, headers: ScannedHeaders, uri: str) -> dict[str, Any]:
    del headers, uri
    if not container.streams.audio:
        return {"has_audio": False}
    context = container.streams.audio[0].codec_context
    return {
        "has_audio": True,
        "audio.channels": context.channels,
        "audio.codec": context.codec.canonical_name,
        "audio.bit_rate": context.bit_rate,
        "audio.sample_rate": context.sample_rate,
        "audio.bit_depth": context.format.bits if context.format else None,
        "audio.channel_layout": context.layout.name,
    }


def _duration(container: InputContainer, headers: ScannedHeaders, uri: str) -> float:
    del headers
    stream = video_stream(container, None, uri=uri)
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is None:
        raise CorruptVideoError(
            f"Expected a duration, found none in {uri}: it was cut, or is still being written. Index it, which reads "
            "its packets: lazyvid index"
        )
    return container.duration / _SECONDS
