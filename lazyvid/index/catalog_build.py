"""Rows for a catalog: many videos at once, by the sidecars that are there and by scans where there is none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lazyvid.errors import LazyVidError, ObjectChangedError, ObjectNotFoundError
from lazyvid.frames import Limits
from lazyvid.index.catalog_table import Row, read_pins, video_row
from lazyvid.index.finding import FoundVideo, list_videos
from lazyvid.index.indexing import Scan, is_full, scan_again, with_known_times
from lazyvid.index.jobs import each_as_done
from lazyvid.index.opening import OpenedIndex, open_index
from lazyvid.index.placing import public
from lazyvid.storage import ObjectMeta, ObjectStore, UriLike, display_uri
from lazyvid.storage.objects import difference

OnError = Literal["raise", "skip"]
Progress = Callable[[int, int], object]
"""Called with (videos done, videos in all)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogChanges:
    """What the last `build`, `append` or `refresh` did, by the videos' URIs."""

    added: tuple[str, ...] = ()
    """Are in the catalog now, and were not before."""
    changed: tuple[str, ...] = ()
    """Had changed, and were indexed anew."""
    gone: tuple[str, ...] = ()
    """Are no longer there."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Could not be indexed, and why; they are not in the catalog, or in it as they were before."""


@dataclass(frozen=True, slots=True)
class RowMaker:
    """How videos are looked at."""

    store: ObjectStore
    index_root: str | None
    scan: Scan
    limits: Limits

    def __call__(self, video: FoundVideo) -> Row:
        """The row of a video.

        Raises:
            LazyVidError: if it cannot be indexed.
        """
        try:
            opened = self._opened(video)
        except ObjectChangedError:
            if video.head is None:
                raise
            opened = self._opened(FoundVideo(video.uri))  # it was written anew since it was listed
        index = opened.index
        if self.scan == "full" and not is_full(index):
            heads = dict(zip(opened.uris, opened.pins, strict=True))
            full = scan_again(video.uri, index, store=self.store, scan="full", heads=heads, limits=self.limits)
            index = with_known_times(full, index)
        return video_row(video.uri, index, opened.pins)

    def _opened(self, video: FoundVideo) -> OpenedIndex:
        return open_index(
            video.uri,
            store=self.store,
            index_root=self.index_root,
            on_stale_index="scan",
            limits=self.limits,
            listed=video,
            share=False,
            warn=False,
        )


def find(videos: UriLike | Sequence[UriLike | FoundVideo], store: ObjectStore) -> list[FoundVideo]:
    """The videos that a catalog is to hold, in order.

    Args:
        videos: Their URIs, as they are or as a listing found them; or one folder (with those below it) or glob.
        store: Where they lie.

    Raises:
        ValueError: if a URI is given twice, or carries what may be a signature or a password.
        ObjectNotFoundError: if a folder or glob finds no video.
    """
    if isinstance(videos, (str, os.PathLike)):
        found = list_videos(os.fspath(videos), store)
    else:
        found = [video if isinstance(video, FoundVideo) else FoundVideo(store.resolve(video)) for video in videos]
    seen: set[str] = set()
    for video in found:
        if video.uri in seen:
            raise ValueError(f"Expected each video once in a catalog, got {display_uri(video.uri)} twice.")
        if public(video.uri) != video.uri:
            raise ValueError(
                f"Cannot keep {display_uri(video.uri)} in a catalog: its URI carries a query string or a password, "
                "which may be a secret. Name the object itself, and give credentials to the store."
            )
        seen.add(video.uri)
    return found


def make_rows(
    videos: Sequence[FoundVideo], maker: RowMaker, *, jobs: int, on_error: OnError, on_progress: Progress | None
) -> tuple[list[Row], dict[str, str]]:
    """The rows of videos, in their order, and why there is none of some.

    Args:
        videos: What to look at.
        maker: How.
        jobs: Videos at a time.
        on_error: "raise" the first error; or "skip" such videos.
        on_progress: Called after each video.

    Raises:
        LazyVidError: if a video cannot be indexed and must not be skipped.
    """

    def work(video: FoundVideo) -> Row | str:
        try:
            return maker(video)
        except LazyVidError as error:
            if on_error == "raise":
                raise
            _log.warning("%s is left out of the catalog: %s", display_uri(video.uri), error)
            return f"{type(error).__name__}: {error}"

    results: dict[str, Row | str] = {}
    for done, (video, result) in enumerate(each_as_done(work, videos, jobs=jobs), 1):
        results[video.uri] = result
        if on_progress is not None:
            on_progress(done, len(videos))
    in_order = [(video.uri, results[video.uri]) for video in videos]
    rows = [result for _, result in in_order if not isinstance(result, str)]
    return rows, {uri: result for uri, result in in_order if isinstance(result, str)}


def look_for_changes(
    uris: Sequence[str], pins: Sequence[bytes], store: ObjectStore, *, jobs: int
) -> Mapping[str, Literal["same", "changed", "gone"]]:
    """Whether the files of videos are still those that they were; one request a file.

    Args:
        uris: The videos.
        pins: For each, the cell with the versions of its files.
        store: Where they lie.
        jobs: Videos at a time.
    """
    files = {uri: set(read_pins(cell)) for uri, cell in zip(uris, pins, strict=True)}

    def look(uri: str) -> Literal["same", "changed", "gone"]:
        try:
            return "changed" if any(map(_has_changed, files[uri])) else "same"
        except ObjectNotFoundError:
            return "gone"

    def _has_changed(pin: ObjectMeta) -> bool:
        return difference(pin, store.head(pin.uri)) is not None

    return dict(each_as_done(look, list(uris), jobs=jobs))
