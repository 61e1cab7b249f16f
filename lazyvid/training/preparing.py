"""What is done once, before training, on one process a node: sidecars for the videos that lack one."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lazyvid.errors import AccessDeniedError, MissingIndexError, StaleIndexError
from lazyvid.index.finding import find_videos
from lazyvid.index.probe import build_index
from lazyvid.storage import ObjectStore, display_uri
from lazyvid.video import LazyVideo

_log = logging.getLogger(__name__)
_JOBS = 8


def write_missing_sidecars(
    uris: Sequence[str], *, store: ObjectStore, index_root: str | None = None, jobs: int = _JOBS
) -> int:
    """Index the videos whose sidecar is missing or describes another file.

    Args:
        uris: Videos.
        store: Where they lie.
        index_root: Folder of the sidecars, where they do not lie beside their videos.
        jobs: Videos at a time.

    Returns:
        How many sidecars were written. Where the store does not let us write, there is one warning, and each process
        builds what it lacks in memory.

    Raises:
        LazyVidError: if a video cannot be read.
    """
    if not uris:
        return 0
    with ThreadPoolExecutor(min(jobs, len(uris))) as executor:
        written = list(executor.map(lambda uri: _write_if_missing(uri, store, index_root), uris))
    refused = [uri for uri, done in zip(uris, written, strict=True) if done is None]
    if refused:
        _log.warning(
            "%d of %d videos, %s among them, have no sidecar and none may be written: their indexes are built in each "
            "process. Give index_root a folder that may be written to.",
            *(len(refused), len(uris), display_uri(refused[0])),
        )
    return sum(done or 0 for done in written)


def _write_if_missing(uri: str, store: ObjectStore, index_root: str | None) -> int | None:
    """1 if a sidecar was written, 0 if it was there, None if none may be written."""
    try:
        LazyVideo(uri, store=store, index_root=index_root, on_missing_index="raise")
    except (MissingIndexError, StaleIndexError):
        try:
            build_index(uri, store=store).save(uri, store=store, index_root=index_root)
        except AccessDeniedError:
            return None
        return 1
    return 0


def uris_of(videos: Any, store: ObjectStore) -> list[str]:
    """The videos that URIs, folders, globs, or mappings of these name; those that are open already are left out."""
    if isinstance(videos, Mapping):
        return [uri for each in videos.values() for uri in uris_of(each, store)]
    if isinstance(videos, (str, os.PathLike)):
        return find_videos(os.fspath(videos), store)
    return [os.fspath(each) for each in videos if isinstance(each, (str, os.PathLike))]
