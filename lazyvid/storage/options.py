"""Storage options as values: which of them belong to a scheme, and a form that can be compared and hashed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

_ONLY_S3 = frozenset({"key", "secret", "token", "anon", "profile", "endpoint_url", "config_kwargs", "requester_pays"})
_ALIASES = {"s3": ("s3", "s3a"), "http": ("http", "https"), "gs": ("gs", "gcs"), "az": ("az", "abfs", "abfss", "adl")}
_OTHER_SCHEMES = (
    "file",
    "local",
    "memory",
    "hf",
    "oss",
    "cos",
    "tos",
    "ftp",
    "sftp",
    "smb",
    "webdav",
    "webhdfs",
    "hdfs",
)
_SCHEMES = frozenset([*_OTHER_SCHEMES, *(alias for aliases in _ALIASES.values() for alias in aliases)])


def options_for(name: str, options: Mapping[str, Any], *, root_scheme: str | None) -> dict[str, Any]:
    """The options that one kind of store is opened with.

    Args:
        name: the kind: "s3", "http", or another scheme of fsspec.
        options: the store's options: either one mapping per scheme, or one for the scheme of the store's root (without
            a root, for whichever remote scheme is read).
        root_scheme: the kind of the store's root; None without one.

    Returns:
        The options for `name`; none of another store's, so that no key is sent where it does not belong.
    """
    if options and all(key in _SCHEMES and isinstance(value, Mapping) for key, value in options.items()):
        found: Mapping[str, Any] = next(
            (options[alias] for alias in _ALIASES.get(name, (name,)) if alias in options), {}
        )
        return dict(found)
    if root_scheme not in (None, "file", name):
        return {}
    if name in ("http", "memory") and root_scheme != name and (_ONLY_S3 & set(options) or _is_s3_client(options)):
        return {}
    return dict(options)


def _is_s3_client(options: Mapping[str, Any]) -> bool:
    client = options.get("client_kwargs")
    return isinstance(client, Mapping) and bool({"endpoint_url", "region_name", "aws_access_key_id"} & set(client))


def frozen(value: Any) -> Hashable:
    """A hashable value that is equal for equal options."""
    if isinstance(value, Mapping):
        return ("mapping", frozenset((str(key), frozen(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return ("sequence", tuple(frozen(item) for item in value))
    if isinstance(value, (set, frozenset)):
        return ("set", frozenset(frozen(item) for item in value))
    try:
        hash(value)
    except TypeError:
        return ("object", type(value).__qualname__, id(value))
    return (type(value).__qualname__, value)
