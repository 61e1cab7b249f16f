"""Where the files of an index lie: URIs relative to the video in what is stored, absolute in what is open; pure.

Used by `sidecar` when it writes, and by `opening`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lazyvid.errors import CorruptIndexError, UnsafeKeyError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.storage import display_uri, is_local, join_uri, normalise, parent_uri, relative_uri, scheme
from lazyvid.storage.layout import split

_HTTP_USER = re.compile(r"^(https?://)[^/@]*@")


def is_absolute(uri: str) -> bool:
    """Whether a source's URI stands for itself."""
    return uri.startswith("/") or "://" in uri


def public(uri: str) -> str:
    """An absolute URI without what may sign a request: an index is written to files, and must carry no secret."""
    root, path, _query = split(uri)
    return _HTTP_USER.sub(r"\1", root) + path


def portable(index: FrameIndex, video_uri: str) -> FrameIndex:
    """The index as it is stored beside the video at `video_uri`: sources named relative to it, "" the video itself.

    An index of one file describes the video wherever it was made; of several files of which none is the video, the
    first one becomes the video, and the others keep their places around it.
    """
    uris = [public(source.uri) if is_absolute(source.uri) else source.uri for source in index.sources]
    distinct = list(dict.fromkeys(uris))
    if len(distinct) <= 1:
        return index.with_source_uris([""] * len(uris))
    video = public(video_uri)
    absolute = [uri for uri in distinct if is_absolute(uri)]
    origin = video if video in absolute or "" in distinct or not absolute else absolute[0]
    names = {uri: "" if uri == origin else _relative(uri, origin) for uri in distinct}
    return index.with_source_uris([names[uri] for uri in uris])


def _relative(uri: str, origin: str) -> str:
    return relative_uri(uri, base=parent_uri(origin)) if is_absolute(uri) else uri


def located(index: FrameIndex, video_uri: str) -> tuple[str, ...]:
    """The absolute URI of each source of a stored index.

    Args:
        index: With source URIs as `portable` makes them.
        video_uri: The video's absolute URI.

    Raises:
        CorruptIndexError: if a source of a remote video lies on this machine, or a URI leaves its store.
    """
    return tuple(_locate(source.uri, video_uri) for source in index.sources)


def _locate(uri: str, video_uri: str) -> str:
    if not uri:
        return video_uri
    try:
        full = normalise(uri) if is_absolute(uri) else join_uri(parent_uri(video_uri), uri)
    except UnsafeKeyError as error:
        raise CorruptIndexError(f"Expected a source beside {display_uri(video_uri)}: {error}") from error
    # A sidecar in a bucket must not make its reader open files of the reader's machine.
    if is_local(full) and not is_local(video_uri):
        raise CorruptIndexError(
            f"Expected the sources of {display_uri(video_uri)} in a {scheme(video_uri)} store, found the local path "
            f"{uri!r}."
        )
    return full


def distinct_files(uris: Sequence[str]) -> list[str]:
    """Each file once, in order."""
    return list(dict.fromkeys(uris))
