"""What a full scan learns from every packet's bytes: checksum, disposable, shown, and where the payload truly lies.

Fed by `probe` packet by packet in decode order; no FFmpeg here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lazyvid.errors import CorruptVideoError
from lazyvid.index.bitstream import BitstreamReader

if TYPE_CHECKING:
    from lazyvid.index.sparse import ByteSource

_FARTHEST_PAYLOAD = 24
"""Bytes by which a payload may lie behind the position that the container names: the largest block header."""


@dataclass(slots=True)
class PayloadFacts:
    """One entry a packet in each list, in decode order."""

    crc32: list[int] = field(default_factory=list)
    disposable: list[int] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)


class PayloadReader:
    """Looks at packets of one source."""

    def __init__(self, codec: str, extradata: bytes, *, uri: str) -> None:
        self._reader = BitstreamReader.for_source(codec, extradata)
        self._uri = uri

    def look(self, payload: bytes, *, row: int, facts: PayloadFacts) -> None:
        """Add what a packet's bytes tell to `facts`.

        Raises:
            CorruptVideoError: if the lengths inside the packet contradict its size.
        """
        if self._reader.is_damaged(payload):
            raise CorruptVideoError(
                f"Expected packet {row} (decode order, {len(payload)} bytes) to consist of whole NAL units, found "
                f"lengths that do not add up in {self._uri}. The file is damaged there; restore it. scan='header' does "
                "not look at payloads and indexes it all the same."
            )
        facts.crc32.append(zlib.crc32(payload))
        facts.disposable.append(int(self._reader.is_disposable(payload)))
        facts.shown.append(self._reader.is_shown(payload))


class PayloadLocator:
    """Finds each packet's payload in the file, near where the container says that its block begins.

    Lacing and header stripping give payloads that do not lie in the file as they are: then nothing is addressable.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._distance = 4  # a Matroska block's track number, time and flags
        self.offsets: list[int] | None = []
        """First byte of each payload; None once one was not found."""

    def look(self, payload: bytes, position: int | None) -> None:
        """Find one packet."""
        if self.offsets is None:
            return
        if position is None or position < 0:
            self.offsets = None
            return
        around = self._source.read(position, position + _FARTHEST_PAYLOAD + len(payload))
        if not around.startswith(payload, self._distance):
            found = around.find(payload)
            if found < 0:
                self.offsets = None
                return
            self._distance = found
        self.offsets.append(position + self._distance)
