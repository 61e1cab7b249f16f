"""The values that `ObjectStore` takes and gives: what is known of an object, and which of its bytes are wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

UriLike = str | os.PathLike[str]
"""A URI, a local path, or anything that `os.fspath` takes."""

Pinning = Literal["if-match", "version", "generation", "stat-after", "none"]
"""How reads are tied to one version of an object.

`if-match`: each request is refused by the server when the etag has changed. `version`, `generation`: each request names
the stored version. `stat-after`: the object's facts are compared after its bytes were read. `none`: only its size is.
"""


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a store says of one version of an object; given back as `pin`, it ties reads to this version."""

    uri: str
    """Resolved URI: a local path, or a URL with its scheme."""
    size: int
    """Bytes."""
    etag: str | None = None
    """The strong entity tag, as the store writes it (quotes included); None where there is none, or a weak one."""
    version: str | None = None
    """The version id or generation, where the store keeps versions."""
    modified_ns: int | None = None
    """Time of the last change, nanoseconds since the epoch; S3 and HTTP give whole seconds."""


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """Byte ranges wanted from one object."""

    uri: UriLike
    ranges: Sequence[tuple[int, int]]
    """Half-open (start, stop) byte ranges, in any order."""
    pin: ObjectMeta | None = None
    """The version they must come from; None takes what lies there now."""


def same_etag(one: str, other: str) -> bool:
    """Whether two entity tags are equal, whether or not they were written with their quotes."""
    return one.strip('"') == other.strip('"')


def difference(pin: ObjectMeta, now: ObjectMeta) -> str | None:
    """What shows that `now` is another version than `pin`; None when nothing does."""
    if pin.size != now.size:
        return f"{pin.size} bytes then, {now.size} bytes now"
    if pin.etag and now.etag:
        return None if same_etag(pin.etag, now.etag) else f"etag {pin.etag} then, {now.etag} now"
    if pin.version and now.version and pin.version != now.version:
        return f"version {pin.version} then, {now.version} now"
    if pin.modified_ns and now.modified_ns and pin.modified_ns != now.modified_ns:
        return f"changed at {pin.modified_ns} ns then, at {now.modified_ns} ns now"
    return None
