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

_TS_PACKET = 188
_TS_SYNC = 0x47


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
    return "mpegts" if _is_transport_stream(head) else None


def describe_bytes(head: bytes) -> str:
    """The first bytes of a file for an error message: as text where they are text, else in hexadecimal."""
    if not head:
        return "no bytes at all"
    start = head[:16]
    return repr(start) if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start) else start.hex(" ")


def stated_end(head: bytes, container: str) -> int | None:
    """One past the file's last byte as its own header states it.

    Args:
        head: The first `SNIFF_BYTES` of the file.
        container: What `sniff` called it.

    Returns:
        The end, None where the header leaves it open (live recordings) or the container states none.
    """
    if container == "avi":
        size = int.from_bytes(head[4:8], "little")
        return size + 8 if size else None
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


def _is_transport_stream(head: bytes) -> bool:
    """Three sync bytes, one packet apart; the first may lie up to one packet into the file (a cut recording)."""
    last_start = min(_TS_PACKET, len(head) - 2 * _TS_PACKET)
    return any(
        head[start] == head[start + _TS_PACKET] == head[start + 2 * _TS_PACKET] == _TS_SYNC
        for start in range(last_start)
    )
