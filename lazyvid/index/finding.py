"""Which videos a folder or a glob names; used by datasets, by catalogs and by the command line."""

from __future__ import annotations

import re

from lazyvid.errors import ObjectNotFoundError
from lazyvid.storage import ObjectStore, basename, display_uri
from lazyvid.storage.layout import SIDECAR_SUFFIX

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
"""What a folder's videos are known by."""

_MAGIC = re.compile(r"[*?\[]")


def find_videos(pattern: str, store: ObjectStore) -> list[str]:
    """The URIs of the videos in a folder and the folders below it, or that a glob names; one video is found itself.

    What lies inside sidecars is no video, though a glob such as `**` names it.

    Raises:
        ObjectNotFoundError: if there is none.
    """
    magic = _MAGIC.search(pattern)
    if magic is None:
        found = [meta.uri for meta in store.list(pattern)]
        wanted = [uri for uri in found if basename(uri).lower().endswith(VIDEO_SUFFIXES)]
        if not wanted and len(found) == 1 and store.resolve(pattern) == found[0]:
            wanted = found  # the very object, whatever its name
    else:
        folder = pattern[: magic.start()].rpartition("/")[0]
        glob = pattern[len(folder) :].lstrip("/")
        wanted = [meta.uri for meta in store.list(folder or ".", glob=glob)]
    wanted = [uri for uri in wanted if f"{SIDECAR_SUFFIX}/" not in uri]
    if not wanted:
        raise ObjectNotFoundError(
            f"Expected videos ({', '.join(VIDEO_SUFFIXES)}) at {display_uri(pattern)}, found none. Check the folder or "
            "glob."
        )
    return wanted
