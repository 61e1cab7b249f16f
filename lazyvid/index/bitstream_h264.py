"""As much of an H.264 sequence parameter set as it takes to see whether pictures may be coded as two fields. Pure."""

from __future__ import annotations

_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_MOST_CODE_BITS = 32


class _GolombBits:
    """Bits from the highest of the first byte, and the codes made of them; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self.left -= count
        return self._value >> self.left & ((1 << count) - 1) if self.left >= 0 else 0

    def unsigned(self) -> int:
        zeros = 0
        while self.left > 0 and zeros < _MOST_CODE_BITS and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        code = self.unsigned()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def allows_fields(sequence: bytes) -> bool:
    """Whether a sequence parameter set lets a picture be coded as two fields, each maybe in a packet of its own.

    Args:
        sequence: The NAL unit with its one-byte header.

    Returns:
        True, also when the bytes cannot be read to that point.
    """
    bits = _GolombBits(sequence[1:].replace(b"\0\0\3", b"\0\0"))
    profile = bits.take(8)
    bits.take(16)  # constraint flags, level
    bits.unsigned()
    if profile in _HIGH_PROFILES:
        _skip_chroma_and_scaling(bits)
    bits.unsigned()  # log2_max_frame_num
    order_type = bits.unsigned()
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.unsigned(), 255)):
            bits.signed()
    bits.unsigned()  # max_num_ref_frames
    bits.take(1)
    bits.unsigned()  # width and height in macroblocks
    bits.unsigned()
    frames_only = bits.take(1)
    return not frames_only


def _skip_chroma_and_scaling(bits: _GolombBits) -> None:
    chroma_format = bits.unsigned()
    if chroma_format == 3:
        bits.take(1)
    bits.unsigned()  # bit depths
    bits.unsigned()
    bits.take(1)
    if not bits.take(1):
        return
    for i in range(12 if chroma_format == 3 else 8):
        if bits.take(1):
            _skip_scaling_list(bits, 16 if i < 6 else 64)


def _skip_scaling_list(bits: _GolombBits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
