"""`VideoFiles`: an index together with where its files' bytes are; what every reader is given."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from lazyvid.decoding.plan import DecodeOrder
from lazyvid.frames import Limits
from lazyvid.index.frame_index import FrameIndex
from lazyvid.lru import ProcessLRU
from lazyvid.storage import ObjectMeta, ObjectStore
from lazyvid.storage.cache import SegmentCache

Fetch = Literal["ranges", "file"]


@dataclass(frozen=True, slots=True, eq=False)
class VideoFiles:
    """A video as the decoding room sees it."""

    index: FrameIndex
    """Where every frame is."""
    stores: tuple[ObjectStore, ...]
    """Where each source of the index lies."""
    uris: tuple[str, ...]
    """Absolute URI of each source of the index."""
    pins: tuple[ObjectMeta, ...]
    """The version of each source that is read, and no other."""
    content_hash: str
    """Name of the index's content."""
    limits: Limits = field(default_factory=Limits)
    """What a request may hold at once."""
    fetch: Fetch = "ranges"
    """"ranges" reads the bytes that frames need; "file" copies each file into `cache` first."""
    cache: SegmentCache | None = None
    """Where whole files are kept; None is the default one."""

    def decode_order(self, source_idx: int) -> DecodeOrder:
        """The packets of a source in decode order; kept for the next call."""
        return _orders.get((self.content_hash, source_idx), lambda: DecodeOrder.of(self.index, source_idx))

    def identity(self, source_idx: int) -> Hashable:
        """Equal where the same packets of the same bytes are read in the same way."""
        where = (self.stores[source_idx], self.uris[source_idx], self.pins[source_idx], self.fetch, self.cache)
        return (self.content_hash, source_idx, self.limits, *where)

    @property
    def local_copies(self) -> SegmentCache | None:
        """Where byte ranges are read from whole copies; None where they are read from the store."""
        return (self.cache or SegmentCache()) if self.fetch == "file" else None

    def whole_file(self, source_idx: int) -> BinaryIO:
        """A source's file for a demuxer: a local one as it is, a remote one as a kept copy."""
        cache = self.cache or SegmentCache()
        return cache.open(self.stores[source_idx], self.uris[source_idx], pin=self.pins[source_idx])


# As many files as there may be mapped indexes: a dataset of many files is read from all of them in turn.
_orders: ProcessLRU[tuple[str, int], DecodeOrder] = ProcessLRU(
    capacity=512, nbytes=lambda order: order.nbytes, max_bytes=128 << 20
)
