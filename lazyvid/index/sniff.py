"""Which container the first bytes of a file are; looked at before FFmpeg, which is never left to guess.

First step of `probe.build_index` and of `fingerprint`. Pure.
"""

from __future__ import annotations

SNIFF_BYTES = 64 * 1024
"""How much of a file's beginning `sniff` wants to see."""

MP4_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx", b"uuid"}
)
"""Kinds of the box that an MP4 or MOV file may begin with."""

DEMUXERS = {
    "mp4": "mp4",
    "matroska": "matroska",
    "avi": "avi",
    "mpegts": "mpegts",
    "mpeg": "mpeg",
    "flv": "flv",
    "ogg": "ogg",
}
"""FFmpeg's demuxer for each container that `sniff` names."""

_TS_SIZES = (188, 192, 204)
_TS_SYNC = 0x47
_TS_FEWEST, _TS_PACKETS = 3, 8  # sync bytes that must follow one another, and how many are looked at


def sniff(head: bytes) -> str | None:
    """The container that a file with these first bytes is.

    Args:
        head: The first `SNIFF_BYTES` of the file, or all of it.

    Returns:
        A key of `DEMUXERS`; None for anything else: text, pictures, playlists, nothing at all.
    """
    if head[4:8] in MP4_BOXES and _plausible_box_size(head):
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"AVIX"):
        return "avi"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"OggS"):
        return "ogg"
    return "mpegts" if _transport_layout(head) else None


def describe_bytes(head: bytes) -> str:
    """The first bytes of a file for an error message: as text where they are text, else in hexadecimal."""
    if not head:
        return "no bytes at all"
    start = head[:16]
    return repr(start) if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start) else start.hex(" ")


def stated_end(head: bytes, container: str, size: int) -> int | None:
    """One past the file's last byte as its own header states it; for a transport stream, the end of its last packet.

    Args:
        head: The first `SNIFF_BYTES` of the file.
        container: What `sniff` called it.
        size: Bytes of the file.

    Returns:
        The end, None where the header leaves it open (live recordings) or the container states none.
    """
    if container == "mpegts" and (layout := _transport_layout(head)):
        start, packet = layout
        return size + (start - size) % packet
    if container == "avi":
        riff_size = int.from_bytes(head[4:8], "little")
        return riff_size + 8 if riff_size else None
    if container != "matroska":
        return None
    header_size, position = _ebml_number(head, 4)
    if header_size is None or head[position + header_size : position + header_size + 4] != b"\x18\x53\x80\x67":
        return None
    segment_size, start = _ebml_number(head, position + header_size + 4)
    return None if segment_size is None else start + segment_size


def _ebml_number(data: bytes, at: int) -> tuple[int | None, int]:
    """(variable-length number, position after it); None when it says "unknown" or is cut."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    if length > 8 or at + length > len(data):
        return None, at
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _plausible_box_size(head: bytes) -> bool:
    size = int.from_bytes(head[:4], "big")
    return size in (0, 1) or size >= 8


def _transport_layout(head: bytes) -> tuple[int, int] | None:
    """(where the first whole packet lies, bytes a packet) of an MPEG transport stream; None when it is none.

    A recording may begin inside a packet, and packets may carry 4 bytes of time before or 16 of checksum after them.
    """
    for size in _TS_SIZES:
        packets = min(len(head) // size - 1, _TS_PACKETS)
        if packets < _TS_FEWEST:
            continue
        for start in range(size):
            if head[start : start + packets * size : size].count(_TS_SYNC) == packets:
                return start, size
    return None
