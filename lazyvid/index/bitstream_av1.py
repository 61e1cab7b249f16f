"""As much of AV1's open bitstream units as it takes to see whether a packet's frames are kept as references. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SEQUENCE_HEADER, _TEMPORAL_DELIMITER, _FRAME_HEADER, _TILE_GROUP, _METADATA, _FRAME = 1, 2, 3, 4, 5, 6
_REDUNDANT_FRAME_HEADER, _TILE_LIST, _PADDING = 7, 8, 15
_KEY_FRAME, _INTRA_ONLY, _SWITCH_FRAME = 0, 2, 3
_SELECT = 2
_LONGEST_REST = 2 + 2 + 16 + 1 + 8 + 3 + 1 + 8
"""Bits of a frame header from error_resilient_mode to refresh_frame_flags, at most."""


@dataclass(frozen=True, slots=True)
class SequenceHeader:
    """The fields of a sequence header that frame headers depend on."""

    reduced_still_picture: bool = False
    decoder_model_info: bool = False
    frame_time_bits: int = 0
    """Bits of the presentation time in each shown frame; 0 when there is none."""
    frame_id_bits: int = 0
    """0 when frames carry no number."""
    order_hint_bits: int = 0
    screen_content_tools: int = 0
    """0, 1, or 2 when each frame says."""
    integer_mv: int = 0
    """0, 1, or 2 when each frame says."""


class _Bits:
    """Bits from the highest of the first byte; zeros after the end, which `exhausted` tells."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    @property
    def exhausted(self) -> bool:
        return self._left < 0

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1) if self._left >= 0 else 0

    def uvlc(self) -> int:
        zeros = 0
        while not self.exhausted and not self.take(1):
            zeros += 1
        return self.take(zeros) + (1 << zeros) - 1 if zeros < 32 else (1 << 32) - 1


def units(payload: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """(type, first byte, one past the last byte) of each unit's payload; ends where the bytes are no units."""
    position, end = 0, len(payload)
    while position < end:
        header = payload[position]
        if header & 0x80:
            return
        position += 2 if header & 4 else 1
        size = end - position
        if header & 2:
            size, position = _leb128(payload, position)
        if size < 0 or position + size > end:
            return
        yield header >> 3 & 15, position, position + size
        position += size


def _leb128(payload: bytes | memoryview, position: int) -> tuple[int, int]:
    """(value, position after it); the value is -1 when there is none."""
    value = 0
    for i in range(8):
        if position + i >= len(payload):
            break
        byte = payload[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if not byte & 0x80:
            return value, position + i + 1
    return -1, position


def sequence_headers(payload: bytes | memoryview) -> Iterator[bytes]:
    """The sequence headers before a packet's first frame."""
    for kind, start, stop in units(payload):
        if kind == _SEQUENCE_HEADER:
            yield bytes(payload[start:stop])
        elif kind in (_FRAME, _FRAME_HEADER):
            return


def frames_refresh_nothing(payload: bytes | memoryview, sequence: SequenceHeader) -> bool:
    """Whether a packet holds frames, and none of them is kept as a reference; False when in doubt."""
    frames, consumed = 0, 0
    for kind, start, stop in units(payload):
        consumed = stop
        if kind in (_FRAME, _FRAME_HEADER):
            if _refresh_flags(bytes(payload[start : min(stop, start + 16)]), sequence) != 0:
                return False
            frames += 1
        elif kind not in (_TEMPORAL_DELIMITER, _TILE_GROUP, _METADATA, _REDUNDANT_FRAME_HEADER, _PADDING):
            return False
    return frames > 0 and consumed == len(payload)


def _refresh_flags(header: bytes, sequence: SequenceHeader) -> int:
    """refresh_frame_flags of a frame header; 255 where they are not known."""
    value, last = (
        int.from_bytes(header, "big"),
        8 * len(header) - 1,
    )  # bit i of the header is bit `last - i` of the value
    if last < 7 or sequence.reduced_still_picture or value >> last & 1:
        return 255  # a shown existing frame may be a key frame, which refreshes all
    frame_type, show_frame = value >> last - 2 & 3, value >> last - 3 & 1
    if frame_type == _SWITCH_FRAME or (frame_type == _KEY_FRAME and show_frame):
        return 255
    at = 4 + (sequence.frame_time_bits if show_frame else 1)  # the one is showable_frame
    if at + _LONGEST_REST > last:
        return 255
    error_resilient = value >> last - at & 1
    at += 2  # and disable_cdf_update
    screen_content = sequence.screen_content_tools
    if screen_content == _SELECT:
        screen_content, at = value >> last - at & 1, at + 1
    if screen_content and sequence.integer_mv == _SELECT:
        at += 1
    at += sequence.frame_id_bits + 1 + sequence.order_hint_bits  # the one is frame_size_override_flag
    if frame_type != _KEY_FRAME and frame_type != _INTRA_ONLY and not error_resilient:
        at += 3  # primary_ref_frame
    if sequence.decoder_model_info:
        if value >> last - at & 1:
            return 255  # buffer removal times of each operating point follow
        at += 1
    return value >> last - at - 7 & 255


def parse_sequence_header(data: bytes) -> SequenceHeader | None:
    """The fields that frame headers depend on; None when the bytes are too short."""
    bits = _Bits(data)
    bits.take(4)  # seq_profile, still_picture
    reduced = bool(bits.take(1))
    model, equal_interval, presentation_bits = False, False, 0
    if reduced:
        bits.take(5)
    else:
        if bits.take(1):
            bits.take(64)
            equal_interval = bool(bits.take(1))
            if equal_interval:
                bits.uvlc()
            model = bool(bits.take(1))
            if model:
                delay_bits = bits.take(5) + 1
                bits.take(32)
                bits.take(5)
                presentation_bits = bits.take(5) + 1
        _skip_operating_points(bits, delay_bits=delay_bits if model else 0)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width_bits + height_bits)
    if reduced:
        return None if bits.exhausted else SequenceHeader(reduced_still_picture=True)
    frame_id_bits = 0
    if bits.take(1):
        delta = bits.take(4) + 2
        frame_id_bits = bits.take(3) + delta + 1
    bits.take(3 + 4)  # superblock size, filter intra, intra edge; interintra, masked, warped, dual filter
    order_hint = bits.take(1)
    if order_hint:
        bits.take(2)
    screen_content = _SELECT if bits.take(1) else bits.take(1)
    integer_mv = _SELECT
    if screen_content:
        integer_mv = _SELECT if bits.take(1) else bits.take(1)
    order_hint_bits = bits.take(3) + 1 if order_hint else 0
    if bits.exhausted:
        return None
    return SequenceHeader(
        decoder_model_info=model,
        frame_time_bits=0 if equal_interval else presentation_bits,
        frame_id_bits=frame_id_bits,
        order_hint_bits=order_hint_bits,
        screen_content_tools=screen_content,
        integer_mv=integer_mv,
    )


def _skip_operating_points(bits: _Bits, *, delay_bits: int) -> None:
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take(1):
            bits.take(4)
