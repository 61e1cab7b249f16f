"""Which packets of a stream give a picture, where the packet table alone does not tell: found out by decoding them.

Asked by `probe` in three cases only: the stream begins in the middle of a group of pictures, its first key packet has
leading pictures (cut open GOPs), or pictures may be coded as two fields.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt

from lazyvid.index.bitstream import BitstreamReader
from lazyvid.index.probe_parameters import bare_decoder, padded_packet

if TYPE_CHECKING:
    from lazyvid.frames import Limits
    from lazyvid.index.frame_index import Source
    from lazyvid.index.probe_demux import PacketRows


def doubtful_packets(rows: PacketRows, shown: npt.NDArray[np.bool_], source: Source) -> int:
    """How many packets, from the first on in decode order, may fail to give their picture; 0 nearly always."""
    if BitstreamReader.for_source(source.codec, source.extradata).may_split_pictures():
        return len(rows)
    keys = np.flatnonzero(rows.column("key"))
    if not len(keys):
        return len(rows)
    stop = int(keys[1]) if len(keys) > 1 else len(rows)
    pts, first = rows.column("pts"), int(keys[0])
    starts_late = bool(np.any(shown[:first]))
    has_leading = bool(np.any(shown[first:stop] & (pts[first:stop] < pts[first])))
    return stop if starts_late or has_leading else 0


def emerging(payloads: Iterable[bytes], source: Source, *, limits: Limits) -> set[int]:
    """Decode packets from the first one on, as a player does.

    Args:
        payloads: In decode order.
        source: Their codec parameters.
        limits: Larger pictures are refused.

    Returns:
        The numbers of the packets whose picture came out.
    """
    decoder = bare_decoder(source.codec, source.extradata, limits=limits)
    numbers: set[int] = set()

    def feed(packet: Any) -> None:
        with contextlib.suppress(av.error.FFmpegError):  # a packet without its references is what is looked for
            numbers.update(frame.pts for frame in decoder.decode(packet) if frame.pts is not None)

    for number, payload in enumerate(payloads):
        feed(padded_packet(payload, number))
    feed(None)
    return numbers
