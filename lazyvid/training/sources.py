"""A dataset's videos as users name them, made into `LazyVideo`s: objects, URIs, a folder, a glob; for each camera."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lazyvid.errors import ObjectNotFoundError
from lazyvid.storage import ObjectStore, basename, display_uri
from lazyvid.video import LazyVideo

VideosLike = str | os.PathLike[str] | Sequence[LazyVideo | str | os.PathLike[str]]
"""Videos, their URIs, or one folder or glob that finds them."""

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
"""What a folder's videos are known by."""

_MAGIC = re.compile(r"[*?\[]")


def open_cameras(
    videos: VideosLike | Mapping[str, VideosLike], options: Mapping[str, Any]
) -> dict[str, list[LazyVideo]]:
    """The videos of each camera; of a single one without a name under "".

    Args:
        videos: Videos, or a mapping from the camera's name to its videos.
        options: For those that must be opened, as `LazyVideo` takes them.

    Raises:
        ValueError: if there is no camera, or the cameras have different numbers of videos.
        ObjectNotFoundError: if a folder or glob finds no video.
        LazyVidError: if a video cannot be opened.
    """
    if not isinstance(videos, Mapping):
        return {"": open_videos(videos, options)}
    cameras = {str(name): open_videos(each, options) for name, each in videos.items()}
    counts = {name: len(each) for name, each in cameras.items()}
    if not counts:
        raise ValueError("Expected one camera or more, got an empty mapping.")
    if len(set(counts.values())) > 1:
        raise ValueError(f"Expected as many videos for each camera, one a recording, got {counts}.")
    return cameras


def open_videos(videos: VideosLike, options: Mapping[str, Any]) -> list[LazyVideo]:
    """The videos of one camera, in order; those that a folder or glob finds are sorted by URI."""
    store = options.get("store") or ObjectStore(storage_options=options.get("storage_options"))
    if isinstance(videos, (str, os.PathLike)):
        videos = find_videos(os.fspath(videos), store)
    elif not isinstance(videos, Sequence):  # a LazyVideo is none
        raise TypeError(f"Expected a sequence of videos or URIs, a folder or a glob, got {type(videos).__name__}.")
    opened = {number: video for number, video in enumerate(videos) if isinstance(video, LazyVideo)}
    unopened = [(number, uri) for number, uri in enumerate(videos) if not isinstance(uri, LazyVideo)]
    if unopened:
        rest = {name: value for name, value in options.items() if name != "storage_options"} | {"store": store}
        found = LazyVideo.open_many([uri for _, uri in unopened], **rest)
        opened |= {number: video for (number, _), video in zip(unopened, found, strict=True)}
    return [opened[number] for number in range(len(opened))]


def find_videos(pattern: str, store: ObjectStore) -> list[str]:
    """The URIs of the videos in a folder and the folders below it, or that a glob names; one video is found itself.

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
    if not wanted:
        raise ObjectNotFoundError(
            f"Expected videos ({', '.join(VIDEO_SUFFIXES)}) at {display_uri(pattern)}, found none. Check the folder or "
            "glob."
        )
    return wanted
