"""`IndexRecipe`: how to get an index again in another process, in a few hundred bytes.

A video's pickle carries a recipe instead of the index: the receiver maps the node-local copy by its name, else it opens
the sidecars anew and joins them as the sender did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lazyvid.frames import Limits
from lazyvid.index import local
from lazyvid.index.catalog_files import CatalogRow
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.opening import OpenedIndex, restore_index
from lazyvid.index.placing import portable
from lazyvid.storage import ObjectMeta, ObjectStore


@dataclass(frozen=True, slots=True)
class IndexPart:
    """One opened video of a recipe."""

    uri: str
    """The video's URI."""
    content_hash: str
    """Name of its own index's content."""
    pins: tuple[ObjectMeta, ...]
    """The version of each of its sources."""
    store: ObjectStore
    """Where it lies."""
    frame_count: int
    """Frames of its index."""
    segment_uris: tuple[str, ...] | None = None
    """Its further files, where they were given."""
    index_root: str | None = None
    """Folder of its sidecar, where that is not beside it."""
    stream: int | None = None
    """Its video stream, where one was asked for."""
    shift: float = 0.0
    """Seconds added to its times."""
    catalog: CatalogRow | None = None
    """Where its index lies, where it came from a catalog."""

    def load(self, limits: Limits) -> FrameIndex:
        """Its own index, before any shift."""
        mapped = local.load(self.content_hash)
        if mapped is not None:
            return mapped
        if self.catalog is not None:
            return self.catalog.load()
        return restore_index(
            self.uri,
            self.content_hash,
            store=self.store,
            segment_uris=self.segment_uris,
            index_root=self.index_root,
            stream=self.stream,
            limits=limits,
        )


@dataclass(frozen=True, slots=True)
class IndexRecipe:
    """The parts of an index, in order."""

    parts: tuple[IndexPart, ...]
    content_hash: str
    """Name of the whole index's content."""

    @property
    def pins(self) -> tuple[ObjectMeta, ...]:
        """The version of each source of the whole index."""
        return tuple(pin for part in self.parts for pin in part.pins)

    @property
    def stores(self) -> tuple[ObjectStore, ...]:
        """Where each source of the whole index lies."""
        return tuple(part.store for part in self.parts for _ in part.pins)

    @property
    def frame_counts(self) -> tuple[int, ...]:
        """Frames of each part."""
        return tuple(part.frame_count for part in self.parts)

    def load(self, *, limits: Limits) -> FrameIndex:
        """The index, mapped from this node's copy or made anew.

        Raises:
            IndexStateError: if a part's sidecar is gone, or describes another file than the sender's did.
        """
        if self.parts[0].content_hash == self.content_hash:
            return self.parts[0].load(limits)
        mapped = local.load(self.content_hash)
        if mapped is not None:
            return mapped
        indexes = [part.load(limits) for part in self.parts]
        pins, shifts = [part.pins for part in self.parts], [part.shift for part in self.parts]
        joined = _joined(indexes, pins, shifts, uri=self.parts[0].uri)
        local.publish(joined)
        return joined

    @classmethod
    def of(
        cls,
        opened: OpenedIndex,
        *,
        uri: str,
        store: ObjectStore,
        segment_uris: Sequence[str] | None,
        index_root: str | None,
        stream: int | None,
    ) -> IndexRecipe:
        """The recipe of one opened video."""
        segments = None if segment_uris is None else tuple(segment_uris)
        part = IndexPart(uri, opened.content_hash, opened.pins, store, len(opened.index), segments, index_root, stream)
        return cls((part,), opened.content_hash)

    @classmethod
    def joined(
        cls, recipes: Sequence[IndexRecipe], indexes: Sequence[FrameIndex], shifts: Sequence[float]
    ) -> tuple[IndexRecipe, FrameIndex]:
        """The recipe and the index of several videos, one after the other, each shifted in time."""
        index = _joined(indexes, [recipe.pins for recipe in recipes], shifts, uri=recipes[0].parts[0].uri)
        parts = tuple(
            replace(part, shift=part.shift + shift)
            for recipe, shift in zip(recipes, shifts, strict=True)
            for part in recipe.parts
        )
        return cls(parts, local.publish(index)), index


def _joined(
    indexes: Sequence[FrameIndex], pins: Sequence[Sequence[ObjectMeta]], shifts: Sequence[float], *, uri: str
) -> FrameIndex:
    """Indexes one after the other, each shifted in time, their files named from the first video at `uri`."""
    moved = [
        index.with_source_uris([pin.uri for pin in own_pins]).shifted(shift)
        for index, own_pins, shift in zip(indexes, pins, shifts, strict=True)
    ]
    return portable(FrameIndex.join(moved), uri)
