"""Reads and rewrites H.264 parameter sets and VP9 frame headers bit by bit, as far as the trap files need it."""

from __future__ import annotations

from collections.abc import Sequence

_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


class BitReader:
    """Reads bits and Exp-Golomb numbers from bytes, first bit first."""

    def __init__(self, data: bytes) -> None:
        """Starts at the first bit of `data`."""
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self.position = 0

    def read(self, count: int = 1) -> int:
        """The next `count` bits as an unsigned number."""
        value = int(self._bits[self.position : self.position + count] or "0", 2)
        self.position += count
        return value

    def read_ue(self) -> int:
        """The next unsigned Exp-Golomb number; as a signed one it has the same length."""
        zeros = 0
        while not self.read():
            zeros += 1
        return (1 << zeros) - 1 + (self.read(zeros) if zeros else 0)

    def before(self) -> str:
        """All bits read so far, as "0" and "1"."""
        return self._bits[: self.position]


def avcc_parameter_sets(extradata: bytes) -> tuple[list[bytes], list[bytes]]:
    """The parameter sets in an MP4's H.264 configuration (avcC).

    Args:
        extradata: the configuration record.

    Returns:
        The sequence and the picture parameter sets, each a NAL unit.
    """
    position = 5
    found: list[list[bytes]] = []
    for mask in (0x1F, 0xFF):
        units = []
        count = extradata[position] & mask
        position += 1
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2], "big")
            units.append(extradata[position + 2 : position + 2 + size])
            position += 2 + size
        found.append(units)
    return found[0], found[1]


def avcc_with_parameter_sets(extradata: bytes, sps: Sequence[bytes], pps: Sequence[bytes]) -> bytes:
    """An MP4's H.264 configuration with other parameter sets; what follows them (chroma format) is kept.

    Args:
        extradata: the configuration record.
        sps: sequence parameter sets, each a NAL unit.
        pps: picture parameter sets, each a NAL unit.

    Returns:
        The new configuration record.
    """
    old_sps, old_pps = avcc_parameter_sets(extradata)
    tail = extradata[7 + sum(2 + len(unit) for unit in (*old_sps, *old_pps)) :]

    def packed(units: Sequence[bytes]) -> bytes:
        return b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)

    return extradata[:5] + bytes([0xE0 | len(sps)]) + packed(sps) + bytes([len(pps)]) + packed(pps) + tail


def states_reorder_depth(sps: bytes) -> bool:
    """Whether an H.264 sequence parameter set says how many frames are reordered (bitstream_restriction_flag).

    Args:
        sps: the NAL unit.
    """
    reader = _at_bitstream_restriction(sps)
    return reader is not None and reader.read() == 1


def without_reorder_depth(sps: bytes) -> bytes:
    """The same H.264 sequence parameter set, but silent about how many frames are reordered.

    Args:
        sps: the NAL unit.

    Returns:
        The NAL unit without bitstream restrictions; as it was if it had none.
    """
    reader = _at_bitstream_restriction(sps)
    if reader is None or not reader.read():
        return sps
    bits = reader.before()[:-1] + "0" + "1"  # the flag, and the bit that ends every parameter set
    bits += "0" * (-len(bits) % 8)
    return _escape(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))


def _at_bitstream_restriction(sps: bytes) -> BitReader | None:
    """A reader that stands before bitstream_restriction_flag; None without a VUI (ITU-T H.264, 7.3.2.1.1 and E.1.1)."""
    reader = BitReader(sps.replace(b"\0\0\3", b"\0\0"))
    reader.read(8)  # NAL header
    profile = reader.read(8)
    reader.read(16)
    reader.read_ue()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        _skip_chroma(reader)
    reader.read_ue()  # log2_max_frame_num
    if (order := reader.read_ue()) == 0:
        reader.read_ue()
    elif order == 1:
        raise ValueError("picture order count type 1 is not supported; x264 writes types 0 and 2")
    reader.read_ue()  # max_num_ref_frames
    reader.read(1)
    reader.read_ue()
    reader.read_ue()
    if not reader.read():  # frame_mbs_only_flag
        reader.read(1)
    reader.read(1)
    if reader.read():  # cropping
        for _ in range(4):
            reader.read_ue()
    if not reader.read():  # vui_parameters_present_flag
        return None
    _skip_vui(reader)
    return reader


def _skip_chroma(reader: BitReader) -> None:
    if reader.read_ue() == 3:
        reader.read(1)
    reader.read_ue()
    reader.read_ue()
    reader.read(1)
    if reader.read():
        raise ValueError("scaling matrices are not supported; x264 writes none unless asked to")


def _skip_vui(reader: BitReader) -> None:
    """Everything before bitstream_restriction_flag."""
    if reader.read() and reader.read(8) == 255:  # aspect_ratio_idc
        reader.read(32)
    if reader.read():  # overscan
        reader.read(1)
    if reader.read():  # video signal type
        reader.read(4)
        if reader.read():
            reader.read(24)
    if reader.read():  # chroma location
        reader.read_ue()
        reader.read_ue()
    if reader.read():  # timing
        reader.read(65)
    buffering = [_skip_hrd(reader) for _ in ("nal", "vcl")]
    if any(buffering):
        reader.read(1)
    reader.read(1)  # pic_struct_present_flag


def _skip_hrd(reader: BitReader) -> bool:
    """Skips buffering parameters; whether there were any."""
    if not reader.read():
        return False
    count = reader.read_ue() + 1
    reader.read(8)
    for _ in range(count):
        reader.read_ue()
        reader.read_ue()
        reader.read(1)
    reader.read(20)
    return True


def _escape(unit: bytes) -> bytes:
    """With emulation prevention bytes, so that no start code appears inside."""
    out = bytearray()
    for byte in unit:
        if byte <= 3 and out[-2:] == b"\0\0":
            out.append(3)
        out.append(byte)
    return bytes(out)
