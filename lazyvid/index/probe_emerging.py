"""Which packets of a stream give a picture, where the packet table alone does not tell: found out by decoding them.

Asked by `probe` in few cases only: the stream begins in the middle of a group of pictures, its first key packet has
leading pictures (cut open GOPs) or is a mere recovery point, or pictures may be coded as two fields.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt

from lazyvid.index.bitstream import BitstreamReader
from lazyvid.index.probe_parameters import bare_decoder, padded_packet
from lazyvid.out_of_memory import check_left

if TYPE_CHECKING:
    from lazyvid.frames import Limits
    from lazyvid.index.frame_index import Source
    from lazyvid.index.probe_demux import PacketRows


def is_doubtful(rows: PacketRows, shown: npt.NDArray[np.bool_], source: Source, first_key_payload: bytes) -> bool:
    """Whether some packet may fail to give a picture of its own; False for nearly every file.

    Args:
        rows: The packets.
        shown: bool [N], those that are to be shown.
        source: Their codec parameters.
        first_key_payload: Of the first key packet.
    """
    reader = BitstreamReader.for_source(source.codec, source.extradata)
    if True not in rows.key or reader.may_split_pictures():
        return True
    first, pts = rows.key.index(True), rows.column("pts")
    stop = next((row for row in range(first + 1, len(rows)) if rows.key[row]), len(rows))
    starts_late = bool(np.any(shown[:first]))
    has_leading = bool(np.any(shown[first:stop] & (pts[first:stop] < pts[first])))
    return starts_late or has_leading or not reader.is_clean_start(first_key_payload)


def silent_packets(
    rows: PacketRows, payloads: Callable[[int], Iterable[bytes]], source: Source, *, limits: Limits
) -> tuple[npt.NDArray[np.bool_], bool]:
    """Decode from the first packet on, as a player does, until all packets between two keys gave their pictures.

    Args:
        rows: The packets.
        payloads: The payloads of the first n packets, in decode order.
        source: Their codec parameters.
        limits: Larger pictures are refused.

    Returns:
        Which packets gave no picture, bool [N]; and whether one before the first key packet gave one.
    """
    everything = BitstreamReader.for_source(source.codec, source.extradata).may_split_pictures()
    keys = np.flatnonzero(rows.column("key"))
    silent = np.zeros(len(rows), np.bool_)
    count = 0
    while count < len(rows):
        later = keys[keys >= max(2 * count, 1)]
        count = len(rows) if everything or len(later) < 2 else int(later[1])
        last_key = int(keys[keys < count][-1]) if np.any(keys < count) else 0
        came_out = emerging(payloads(count), source, limits=limits)
        silent[:count] = [number not in came_out for number in range(count)]
        if not silent[last_key:count].any():
            break
    if silent.any():  # then they would be left out of the index
        check_left(f"{int(silent.sum())} packets gave no picture.")
    first_key = int(keys[0]) if len(keys) else len(rows)
    return silent, not silent[:first_key].all()


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
