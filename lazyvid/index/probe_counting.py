"""Frames of a stream whose packets carry no times (AVI): counted by decoding the file once, from its start to its end.

The last resort of `probe`; `lazyvid.decoding` reaches such frames in the same way.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lazyvid.errors import LimitExceededError, NoVideoStreamError, UnsupportedCodecError
from lazyvid.index.frame_index import NO_PTS, UNKNOWN, PacketTable
from lazyvid.index.probe_demux import only

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from lazyvid.frames import Limits


def count_frames(
    container: InputContainer, stream: VideoStream, *, uri: str, limits: Limits
) -> tuple[PacketTable, Fraction]:
    """Decode a stream from its start to its end.

    Args:
        container: Just opened.
        stream: One of its streams.
        uri: Named in errors.
        limits: How many frames there may be.

    Returns:
        One row a picture that comes out, in that order: pts, key; no offset, no size. And the time base of pts: the
        stream's where the decoder gives increasing times, else one frame at the average rate.

    Raises:
        NoVideoStreamError: if no picture comes out.
        UnsupportedCodecError: if neither times nor a rate are known.
    """
    only(container, stream)
    context: Any = stream.codec_context
    context.thread_count, context.thread_type = 1, "NONE"
    pts: list[int] = []
    keys: list[bool] = []
    for packet in container.demux(stream):
        for frame in context.decode(packet):
            pts.append(NO_PTS if frame.pts is None else frame.pts)
            keys.append(bool(frame.key_frame))
        if len(pts) > limits.frames:
            raise LimitExceededError(
                f"Expected at most Limits.frames = {limits.frames} frames, found more in {uri}. Raise the limit if the "
                "file is to be trusted."
            )
    if not pts:
        raise NoVideoStreamError(f"Expected at least one frame, none came out of the decoder for {uri}.")
    times, time_base = _times(np.asarray(pts, np.int64), stream, uri=uri)
    return _counted(times, np.asarray(keys, np.bool_)), time_base


def _times(pts: npt.NDArray[np.int64], stream: VideoStream, *, uri: str) -> tuple[npt.NDArray[np.int64], Fraction]:
    if stream.time_base and np.all(pts != NO_PTS) and np.all(np.diff(pts) > 0):
        return pts, stream.time_base
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise UnsupportedCodecError(
            f"Expected packets with times or a stated frame rate, found neither in {uri}. Remux the video into MP4."
        )
    return np.arange(len(pts)), 1 / Fraction(rate)


def _counted(pts: npt.NDArray[np.int64], key: npt.NDArray[np.bool_]) -> PacketTable:
    count = len(pts)
    return PacketTable(
        source_idx=np.zeros(count, np.int32),
        offset=np.full(count, -1),
        size=np.zeros(count, np.int64),
        pts=pts,
        dts=np.full(count, NO_PTS),
        duration=np.zeros(count, np.int64),
        decode_position=np.arange(count),
        key=key,
        disposable=np.zeros(count, np.int8),
        crc32=np.full(count, UNKNOWN),
    )
