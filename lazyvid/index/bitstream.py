"""What a packet's own bytes tell: whether others refer to it, whether it is shown, whether it brings parameter sets.

Pure. `probe` asks it about every packet of a full scan, the decoder about every packet that it feeds; the common case
costs about a microsecond. Whatever the bytes are, nothing raises, and what cannot be told gets the safe answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

from lazyvid.index.bitstream_av1 import SequenceHeader, frames_refresh_nothing, parse_sequence_header, sequence_headers
from lazyvid.index.bitstream_h264 import allows_fields

Payload: TypeAlias = bytes | memoryview

_START_CODE = b"\0\0\1"


class BitstreamReader:
    """Questions about packets of one codec; this class knows nothing of any and gives the safe answers.

    Make one with `BitstreamReader.for_source`.
    """

    def __init__(self, extradata: bytes = b"") -> None:
        self.extradata = extradata

    @staticmethod
    def for_source(codec: str, extradata: bytes) -> BitstreamReader:
        """The reader for packets of a codec.

        Args:
            codec: Canonical codec name, as in `Source.codec`.
            extradata: Codec configuration record, as in `Source.extradata`.
        """
        return _READERS.get(codec, BitstreamReader)(extradata)

    def is_disposable(self, payload: Payload) -> bool:
        """Whether decoding all other packets gives the same pictures without this one; False when in doubt."""
        del payload
        return False

    def is_shown(self, payload: Payload) -> bool:
        """Whether a picture comes out of this packet; True when in doubt. Only VP8 and VP9 have packets without."""
        del payload
        return True

    def has_foreign_parameter_sets(self, payload: Payload) -> bool:
        """Whether the packet holds parameter sets other than the extradata's: a decoder that saw them keeps them."""
        del payload
        return False

    def is_damaged(self, payload: Payload) -> bool:
        """Whether the packet's inner lengths do not add up to its size. False for codecs that have none."""
        del payload
        return False

    def may_split_pictures(self) -> bool:
        """Whether one picture may take two packets, a field each, by what the extradata say."""
        return False

    def is_clean_start(self, payload: Payload) -> bool:
        """Whether this key packet's own picture comes out when decoding starts here; False when in doubt.

        H.264 marks recovery points as keys too: from some, the first pictures never come out (intra-refresh).
        """
        del payload
        return True


class _NalReader(BitstreamReader, ABC):
    """H.264 and HEVC: packets are NAL units, each behind its length (extradata is a record) or a start code."""

    _parameter_set_types: frozenset[int]

    def __init__(self, extradata: bytes) -> None:
        super().__init__(extradata)
        self.length_bytes = self._length_bytes(extradata)
        """Bytes of each length, 0 where NAL units are behind start codes."""
        self._known = frozenset(self._extradata_units(extradata))

    def has_foreign_parameter_sets(self, payload: Payload) -> bool:
        for start, stop in self.units(payload):
            kind = self._type(payload[start])
            if self._is_picture(kind):
                return False
            if kind in self._parameter_set_types and bytes(payload[start:stop]).rstrip(b"\0") not in self._known:
                return True
        return False

    def is_damaged(self, payload: Payload) -> bool:
        if not self.length_bytes:
            return False
        end = 0
        for start, stop in self.units(payload):
            if stop > len(payload) or stop == start:
                return True
            end = stop
        # Encoders may pad a packet's end with zeros, which read as empty units.
        return end != len(payload) and any(payload[end:])

    def units(self, payload: Payload) -> Iterator[tuple[int, int]]:
        """Half-open byte ranges of the packet's NAL units; the last may claim to end behind the packet."""
        if not self.length_bytes:
            return _annex_b_units(payload)
        return self._length_prefixed_units(payload)

    def _length_prefixed_units(self, payload: Payload) -> Iterator[tuple[int, int]]:
        length_bytes, position, end = self.length_bytes, 0, len(payload)
        while position + length_bytes < end:
            start = position + length_bytes
            position = start + int.from_bytes(payload[position:start], "big")
            if position == start:
                return
            yield start, position

    def _extradata_units(self, extradata: bytes) -> Iterator[bytes]:
        if self.length_bytes:
            yield from self._record_units(extradata)
        else:
            yield from (extradata[start:stop].rstrip(b"\0") for start, stop in _annex_b_units(extradata))

    @abstractmethod
    def _length_bytes(self, extradata: bytes) -> int:
        """Bytes of the length before each unit; 0 where start codes stand between them."""

    @abstractmethod
    def _record_units(self, extradata: bytes) -> Iterator[bytes]:
        """The parameter sets in a configuration record."""

    @abstractmethod
    def _type(self, first_byte: int) -> int:
        """A unit's type."""

    @abstractmethod
    def _is_picture(self, kind: int) -> bool:
        """Whether units of a type hold coded pictures."""


class _H264Reader(_NalReader):
    _parameter_set_types = frozenset({7, 8, 13, 15})
    _harmless = frozenset({6, 9, 12})  # SEI, delimiter, filler

    def is_disposable(self, payload: Payload) -> bool:
        pictures = 0
        for start, stop in self.units(payload):
            if stop > len(payload):
                return False
            first = payload[start]
            kind = first & 31
            if 1 <= kind <= 5:
                if first & 0x60:
                    return False
                pictures += 1
            elif kind not in self._harmless:
                return False
        return pictures > 0

    def is_clean_start(self, payload: Payload) -> bool:
        kinds = (payload[start] & 31 for start, _ in self.units(payload))
        return next((kind for kind in kinds if 1 <= kind <= 5), 0) == 5

    def may_split_pictures(self) -> bool:
        return any(allows_fields(unit) for unit in self._known if unit and unit[0] & 31 == 7)

    def _length_bytes(self, extradata: bytes) -> int:
        return (extradata[4] & 3) + 1 if len(extradata) >= 7 and extradata[0] == 1 else 0

    def _record_units(self, extradata: bytes) -> Iterator[bytes]:
        position = 5
        for mask in (31, 255):  # the number of SPS has five bits, that of PPS eight
            if position >= len(extradata):
                return
            count, position = extradata[position] & mask, position + 1
            for _ in range(count):
                start = position + 2
                position = start + int.from_bytes(extradata[position:start], "big")
                if position > len(extradata):
                    return
                yield extradata[start:position].rstrip(b"\0")

    def _type(self, first_byte: int) -> int:
        return first_byte & 31

    def _is_picture(self, kind: int) -> bool:
        return 1 <= kind <= 5


class _HevcReader(_NalReader):
    _parameter_set_types = frozenset({32, 33, 34})
    _harmless = frozenset({35, 38, 39, 40})  # delimiter, filler, SEI

    def __init__(self, extradata: bytes) -> None:
        super().__init__(extradata)
        self._highest_layer = self._declared_layers() - 1

    def is_disposable(self, payload: Payload) -> bool:
        pictures = 0
        for start, stop in self.units(payload):
            if stop > len(payload) or stop < start + 2:
                return False
            first, second = payload[start], payload[start + 1]
            kind = first >> 1 & 63
            if kind < 32:
                # Odd types are referred to in their own layer; a lower layer's may be, from the layers above.
                if kind & 1 or kind > 14 or first & 1 or second & 0xF8 or (second & 7) - 1 != self._highest_layer:
                    return False
                pictures += 1
            elif kind not in self._harmless:
                return False
        return pictures > 0

    def _declared_layers(self) -> int:
        """Temporal layers that the extradata announces; 0, which no packet matches, when it announces none."""
        announced = [((unit[3] >> 1) & 7) + 1 for unit in self._known if len(unit) > 3 and unit[0] >> 1 == 32]
        if self.length_bytes and self.extradata[21] >> 3 & 7:
            announced.append(self.extradata[21] >> 3 & 7)
        return max(announced, default=0)

    def _length_bytes(self, extradata: bytes) -> int:
        is_record = len(extradata) >= 23 and not extradata.startswith((b"\0\0\0\1", _START_CODE))
        return (extradata[21] & 3) + 1 if is_record else 0

    def _record_units(self, extradata: bytes) -> Iterator[bytes]:
        position = 23
        for _ in range(extradata[22]):
            count = int.from_bytes(extradata[position + 1 : position + 3], "big")
            position += 3
            for _ in range(count):
                start = position + 2
                position = start + int.from_bytes(extradata[position:start], "big")
                if position > len(extradata):
                    return
                yield extradata[start:position].rstrip(b"\0")

    def _type(self, first_byte: int) -> int:
        return first_byte >> 1 & 63

    def _is_picture(self, kind: int) -> bool:
        return kind < 32


class _Av1Reader(BitstreamReader):
    """AV1 has no foreign parameter sets: dav1d forgets sequence headers when flushed, and takes none from extradata.

    (SVT-AV1 states one header in the container and another, with other tools, in every key packet.)
    """

    def __init__(self, extradata: bytes) -> None:
        super().__init__(extradata)
        known = list(sequence_headers(extradata[4:])) if extradata[:1] == b"\x81" else list(sequence_headers(extradata))
        self._sequence: SequenceHeader | None = parse_sequence_header(known[0]) if known else None

    def is_disposable(self, payload: Payload) -> bool:
        return self._sequence is not None and frames_refresh_nothing(payload, self._sequence)


class _Vp8Reader(BitstreamReader):
    """VP8 packets are never called disposable: they leave probabilities, segment maps and filter strengths behind."""

    def is_shown(self, payload: Payload) -> bool:
        return not len(payload) or bool(payload[0] & 0x10)


class _Vp9Reader(BitstreamReader):
    """VP9 packets are never called disposable: the next frame may take motion vectors from any frame before it."""

    def is_shown(self, payload: Payload) -> bool:
        return any(map(_vp9_frame_is_shown, _vp9_frames(payload)))


class _Mpeg4Reader(BitstreamReader):
    """MPEG-4 part 2: headers are everything from the first sequence or layer start code to the first picture's."""

    _picture = b"\0\0\1\xb6"
    _headers = (b"\0\0\1\xb0", b"\0\0\1\xb5", *(b"\0\0\1" + bytes([code]) for code in range(0x00, 0x30)))
    _others = (b"\0\0\1\xb2", b"\0\0\1\xb3")  # user data, group of pictures: decoders keep nothing of them

    def has_foreign_parameter_sets(self, payload: Payload) -> bool:
        if bytes(payload[:4]) == self._picture:
            return False
        data = bytes(payload)
        picture = data.find(self._picture)
        units = _start_code_units(data[: picture if picture >= 0 else len(data)])
        return any(unit.startswith(self._headers) and unit not in self.extradata for unit in units)


class _Mpeg2Reader(_Mpeg4Reader):
    _picture = b"\0\0\1\0"
    _headers = (b"\0\0\1\xb3", b"\0\0\1\xb5")


_READERS: dict[str, type[BitstreamReader]] = {
    "h264": _H264Reader,
    "hevc": _HevcReader,
    "av1": _Av1Reader,
    "vp8": _Vp8Reader,
    "vp9": _Vp9Reader,
    "mpeg4": _Mpeg4Reader,
    "mpeg2video": _Mpeg2Reader,
    "mpeg1video": _Mpeg2Reader,
}


def _annex_b_units(payload: Payload) -> Iterator[tuple[int, int]]:
    """Half-open ranges of the NAL units behind start codes; zeros before a start code count to the unit before it."""
    # The first units are small (delimiter, SEI), so most callers stop before the whole packet would have been copied.
    head = bytes(payload[:256])
    data = head
    start = head.find(_START_CODE)
    while start >= 0:
        start += 3
        if start >= len(data):
            return
        following = data.find(_START_CODE, start)
        if following < 0 and data is head and len(payload) > len(head):
            data = bytes(payload)
            following = data.find(_START_CODE, start)
        yield start, following if following >= 0 else len(data)
        start = following


def _start_code_units(data: bytes) -> Iterator[bytes]:
    """Each start code with what follows it."""
    start = data.find(_START_CODE)
    while start >= 0:
        following = data.find(_START_CODE, start + 3)
        yield data[start : following if following >= 0 else len(data)]
        start = following


def _vp9_frames(payload: Payload) -> Iterator[Payload]:
    """The frames of a packet, which is one frame or a superframe: several, and an index of their sizes at its end."""
    size = len(payload)
    marker = payload[-1] if size else 0
    if marker & 0xE0 == 0xC0:
        count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
        index = size - 2 - count * width
        if index >= 0 and payload[index] == marker:
            start = 0
            for at in range(index + 1, size - 1, width):
                stop = start + int.from_bytes(payload[at : at + width], "little")
                yield payload[start:stop]
                start = stop
            return
    yield payload


def _vp9_frame_is_shown(frame: Payload) -> bool:
    """show_existing_frame or show_frame of the uncompressed header."""
    if not len(frame):
        return False
    bits = int.from_bytes(bytes(frame[:2]).ljust(2, b"\0"), "big")
    profile = (bits >> 13 & 1) | (bits >> 12 & 1) << 1
    at = 11 - (profile == 3)  # bit of show_existing_frame, counted from the lowest
    return bool(bits >> at & 1) or bool(bits >> (at - 2) & 1)
