"""Every URI convention of lazyvid: pure string work, no store is asked; used by the storage, index and recording rooms.

A *local* URI is a path (`file://` is turned into one). Of `http(s)` URLs the query string is no part of the path: it
may sign the request, so it stays at the end when a name is added, and is never written into a file.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from lazyvid.errors import UnsafeKeyError
from lazyvid.storage.objects import UriLike

SIDECAR_SUFFIX = ".lance"

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_LOCAL = ("file", "local")
_WITH_QUERY = ("http", "https")


def scheme(uri: UriLike) -> str:
    """The URI's scheme in lower case; "file" for a local path."""
    match = _SCHEME.match(os.fspath(uri))
    name = match.group(1).lower() if match else "file"
    return "file" if name in _LOCAL else name


def is_local(uri: UriLike) -> bool:
    """Whether the URI is a path of this machine."""
    return scheme(uri) == "file"


def normalise(uri: UriLike) -> str:
    """Bring a URI into the one form that the package uses.

    Args:
        uri: a URL, a local path (`~` is not expanded), a `file://` URL (percent-decoded) or an `os.PathLike`.

    Returns:
        An absolute local path, or the URL with its scheme in lower case.

    Raises:
        UnsafeKeyError: if it is empty, holds a NUL, or is a `file://` URL of another machine.
    """
    text = os.fspath(uri)
    if not isinstance(text, str):
        raise TypeError(f"Invalid URI {uri!r}: expected str or os.PathLike[str], found a path of bytes.")
    if not text or "\0" in text:
        raise UnsafeKeyError(f"Invalid URI {text!r}: expected a path or URL that is not empty and has no NUL in it.")
    match = _SCHEME.match(text)
    if match is None:
        return text if text.startswith("/") else os.path.abspath(text)
    name, rest = match.group(1).lower(), text[match.end() :]
    if name not in _LOCAL:
        return f"{name}://{rest}"
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UnsafeKeyError(f"Invalid URI {text!r}: expected file:///absolute/path, found the host {host!r}.")
    return "/" + unquote(path)


def local_path(uri: UriLike) -> str:
    """The absolute path of a local URI.

    Raises:
        UnsafeKeyError: if the URI is not local.
    """
    if not is_local(uri):
        raise UnsafeKeyError(f"Invalid URI with scheme {scheme(uri)!r}: expected a local path or file:// URL.")
    return normalise(uri)


def split(uri: UriLike) -> tuple[str, str, str]:
    """Cut a normalised URI into (root, path, query).

    The root is `/` for local paths and `scheme://netloc/` for URLs; the query is empty or begins with `?`. Put together
    again they give the URI.
    """
    text = normalise(uri)
    match = _SCHEME.match(text)
    if match is None:
        return "/", text[1:], ""
    rest, query = text[match.end() :], ""
    if match.group(1) in _WITH_QUERY:
        rest, mark, query = rest.partition("?")
        query = mark + query
    netloc, slash, path = rest.partition("/")
    return f"{match.group(0)}{netloc}{slash}", path, query


def basename(uri: UriLike) -> str:
    """The last component of the path, without a query string."""
    return split(uri)[1].rstrip("/").rpartition("/")[2]


def parent_uri(uri: UriLike) -> str:
    """The folder that an object lies in, without a slash at its end; an HTTP query string is kept."""
    root, path, query = split(uri)
    folder = path.rstrip("/").rpartition("/")[0]
    return (root + folder if folder else root.rstrip("/") or "/") + query


def append_suffix(uri: UriLike, suffix: str) -> str:
    """The URI with `suffix` added to its path; an HTTP query string stays at the end."""
    root, path, query = split(uri)
    return root + path.rstrip("/") + suffix + query


def sidecar_uri(video_uri: UriLike, *, index_root: UriLike | None = None) -> str:
    """Where the sidecar of a video lies.

    Args:
        video_uri: the video's URI.
        index_root: a folder that holds the sidecars of all videos, for those who may only read the bucket; None puts
            the sidecar beside the video.

    Returns:
        `<video uri>.lance`, or `<index_root>/<host or bucket>/<path of the video>.lance`.

    Raises:
        UnsafeKeyError: if a URI is empty or holds a NUL.
    """
    if index_root is None:
        return append_suffix(video_uri, SIDECAR_SUFFIX)
    root, path, _query = split(video_uri)
    if root == "/":
        path, netloc = os.path.normpath("/" + path)[1:], ""
    else:
        netloc = root.split("://", 1)[1].rstrip("/").rpartition("@")[2]  # a user's password is no part of a name
    components = ([netloc] if netloc else []) + [_plain(part) for part in path.rstrip("/").split("/")]
    return join_uri(index_root, "./" + "/".join(components) + SIDECAR_SUFFIX)


def _plain(component: str) -> str:
    """A key's component as a name that means nothing else in a file system."""
    return {"": "%2F", ".": "%2E", "..": "%2E%2E"}.get(component, component)


def relative_uri(uri: UriLike, *, base: UriLike) -> str:
    """Say where an object lies, seen from a folder; the inverse of `join_uri`.

    Args:
        uri: the object.
        base: the folder, such as `parent_uri(video)`.

    Returns:
        A relative POSIX path, which may climb with `..`; on another store, the URI itself. An HTTP query string is left
        out, because it may be a signature.
    """
    root, path, _query = split(uri)
    base_root, base_path, _base_query = split(base)
    if root != base_root and root.rstrip("/") != base_root.rstrip("/"):
        return root + path
    folder = base_path.rstrip("/").split("/") if base_path.rstrip("/") else []
    parts = path.split("/")
    common = 0
    while common < min(len(folder), len(parts) - 1) and folder[common] == parts[common]:
        common += 1
    relative = "/".join([".."] * (len(folder) - common) + parts[common:])
    # A component that is empty or looks like a scheme would make the text absolute.
    return "./" + relative if relative.startswith("/") or _SCHEME.match(relative) else relative


def join_uri(base: UriLike, relative: str) -> str:
    """The URI of an object that lies at `relative`, seen from the folder `base`.

    Args:
        base: a folder; its HTTP query string is kept at the end.
        relative: a relative POSIX path, which may climb with `..`, or an absolute URI, which is returned as it is.

    Returns:
        The normalised URI.

    Raises:
        UnsafeKeyError: if `relative` climbs above the store's root, or holds a NUL.
    """
    if _SCHEME.match(relative) or relative.startswith("/"):
        return normalise(relative)
    if "\0" in relative:
        raise UnsafeKeyError(f"Invalid relative URI {relative!r}: expected no NUL in it.")
    root, path, query = split(base)
    parts = path.rstrip("/").split("/") if path.rstrip("/") else []
    for part in relative.split("/"):
        if part == "..":
            if not parts:
                raise UnsafeKeyError(f"Invalid relative URI {relative!r}: expected one that stays in its store.")
            parts.pop()
        elif part != ".":
            parts.append(part)
    return (root if root.endswith("/") else root + "/") + "/".join(parts) + query
