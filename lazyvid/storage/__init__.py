"""Objects wherever they lie: reading byte ranges, writing, listing, caching, and what their URIs mean."""

from __future__ import annotations

from lazyvid.storage.cache import SegmentCache
from lazyvid.storage.layout import (
    basename,
    is_local,
    join_uri,
    local_path,
    normalise,
    parent_uri,
    relative_uri,
    scheme,
    sidecar_uri,
)
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta, Pinning, RangeRequest, UriLike
from lazyvid.storage.ranges import MergePlan, merge_ranges
from lazyvid.storage.store import ObjectStore

__all__ = [
    "MergePlan",
    "ObjectMeta",
    "ObjectStore",
    "Pinning",
    "RangeRequest",
    "SegmentCache",
    "UriLike",
    "basename",
    "display_uri",
    "is_local",
    "join_uri",
    "local_path",
    "merge_ranges",
    "normalise",
    "parent_uri",
    "relative_uri",
    "scheme",
    "sidecar_uri",
]
