"""What is done once, before training, by one process a node: sidecars for videos that lack one, or a catalog of all."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lazyvid.errors import AccessDeniedError, MissingIndexError, StaleIndexError
from lazyvid.index.catalog import Catalog
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


SPLIT = "split"
"""The catalog's column that says for which stage a video is."""


def write_catalog(uri: str, splits: Mapping[str, Sequence[str]], *, store: ObjectStore, index_root: str | None) -> None:
    """Bring a catalog up to date with the videos of each split: what changed, what is new, what is gone.

    Args:
        uri: Where the catalog lies, or is to lie.
        splits: Videos by split; the column `split` says which.
        store: Where catalog and videos lie.
        index_root: Folder of the sidecars, where they do not lie beside their videos.

    Raises:
        ValueError: if a video is in two splits, or in another one than the catalog says.
        LazyVidError: if a video cannot be indexed, or the catalog cannot be written.
    """
    split_of: dict[str, str] = {}
    for split, uris in splits.items():
        for each in uris:
            resolved = store.resolve(each)
            if split_of.setdefault(resolved, split) != split:
                raise ValueError(
                    f"Expected each video in one split, got {display_uri(resolved)} in {split_of[resolved]!r} and "
                    f"{split!r}: a catalog has one row for it. Leave the catalog out, or the video."
                )
    columns = {each: {SPLIT: split} for each, split in split_of.items()}
    try:
        catalog = Catalog.open(uri, store=store)
    except MissingIndexError:
        Catalog.build(list(split_of), uri, store=store, columns=columns, index_root=index_root)
        return
    known = catalog.to_table(["uri", SPLIT]).to_pylist() if SPLIT in catalog.columns else []
    for row in known:
        expected = split_of.get(row["uri"], row[SPLIT])
        if row[SPLIT] != expected:
            raise ValueError(
                f"Expected {display_uri(row['uri'])} in the split {expected!r}, found {row[SPLIT]!r} in the catalog "
                f"{display_uri(uri)}: build it anew, or name the videos as they were named then."
            )
    catalog.refresh(index_root=index_root)
    new = [each for each in split_of if each not in set(catalog.uris)]
    if new:
        catalog.append(new, columns={each: columns[each] for each in new}, index_root=index_root)
