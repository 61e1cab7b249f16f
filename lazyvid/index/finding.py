"""Which videos a folder or a glob names, and what its listing tells of them; for datasets, catalogs and commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lazyvid.errors import ObjectNotFoundError
from lazyvid.storage import ObjectMeta, ObjectStore, basename, display_uri, relative_uri, scheme
from lazyvid.storage.glob import matcher
from lazyvid.storage.layout import SIDECAR_SUFFIX

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
"""What a folder's videos are known by."""

_MAGIC = re.compile(r"[*?\[]")
_WITHIN_SIDECAR = f"{SIDECAR_SUFFIX}/"


@dataclass(frozen=True, slots=True)
class FoundVideo:
    """A video, and what a listing told of it, so that the store need not be asked again."""

    uri: str
    """Resolved."""
    head: ObjectMeta | None = None
    """The version that was listed, where a listing tells versions apart."""
    bare: bool = False
    """Whether it is known that no sidecar lies beside it."""


def find_videos(pattern: str, store: ObjectStore) -> list[str]:
    """The URIs of the videos in a folder and the folders below it, or that a glob names; one video is found itself.

    What lies inside sidecars is no video, though a glob such as `**` names it.

    Raises:
        ObjectNotFoundError: if there is none.
    """
    return [video.uri for video in list_videos(pattern, store)]


def list_videos(pattern: str, store: ObjectStore) -> list[FoundVideo]:
    """`find_videos` with what the listing told."""
    magic = _MAGIC.search(pattern)
    folder = pattern if magic is None else pattern[: magic.start()].rpartition("/")[0] or "."
    listed = store.list(folder)
    itself = len(listed) == 1 and store.resolve(folder) == listed[0].uri
    if magic is None:
        wanted = [meta for meta in listed if basename(meta.uri).lower().endswith(VIDEO_SUFFIXES)]
        if not wanted and itself:
            wanted = listed  # the very object, whatever its name
    else:
        matches, base = matcher(pattern.removeprefix(folder).lstrip("/")), store.resolve(folder)
        wanted = [meta for meta in listed if matches(relative_uri(meta.uri, base=base).removeprefix("./"))]
    root = len(store.resolve(folder))  # what lies above the folder says nothing of what is in it
    wanted = [meta for meta in wanted if _WITHIN_SIDECAR not in meta.uri[root:]]
    if not wanted:
        raise ObjectNotFoundError(
            f"Expected videos ({', '.join(VIDEO_SUFFIXES)}) at {display_uri(pattern)}, found none. Check the folder or "
            "glob."
        )
    # An object that was named itself was listed alone; a web server's pages need not show every folder.
    seen_all = not itself and not scheme(folder).startswith("http")
    return _with_facts(wanted, _sidecars(listed, root) if seen_all else None)


def _sidecars(listed: Sequence[ObjectMeta], root: int) -> set[str]:
    """The URIs of the videos beside which something of a sidecar lies; `root` characters name the folder."""
    ends = ((meta.uri, meta.uri.find(_WITHIN_SIDECAR, root)) for meta in listed)
    return {uri[:end] for uri, end in ends if end >= 0}


def _with_facts(wanted: Sequence[ObjectMeta], sidecars: set[str] | None) -> list[FoundVideo]:
    # Some stores list etags in another form than the one that `If-Match` takes.
    return [
        FoundVideo(
            meta.uri,
            meta if meta.etag and meta.etag.startswith('"') else None,
            sidecars is not None and meta.uri not in sidecars,
        )
        for meta in wanted
    ]
