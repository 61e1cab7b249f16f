"""Where every frame of a video is: built by a scan, kept as a sidecar, shared between processes.

Between `lazyvid.storage`, which it reads from, and `lazyvid.decoding`, which plans by it.
"""

from __future__ import annotations

from lazyvid.index.catalog import Catalog
from lazyvid.index.catalog_build import CatalogChanges
from lazyvid.index.frame_index import FrameIndex, PacketTable, Segment, Source
from lazyvid.index.probe import build_index

__all__ = ["Catalog", "CatalogChanges", "FrameIndex", "PacketTable", "Segment", "Source", "build_index"]
