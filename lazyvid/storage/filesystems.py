"""Opens fsspec file systems for one process: uncached, without listings, driven from the package's own event loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazyvid.errors import StoreError

_INSTALL = {"s3": "lazyvid[s3]", "http": "lazyvid[http]", "gs": "gcsfs", "gcs": "gcsfs"}
_OURS = ("asynchronous", "loop", "skip_instance_cache", "use_listings_cache")


def make_filesystem(scheme: str, options: Mapping[str, Any]) -> Any:
    """Open a file system.

    Args:
        scheme: its name in URIs.
        options: its keyword arguments.

    Returns:
        A new fsspec file system, asynchronous where its kind can be.

    Raises:
        StoreError: if there is no such kind, its package is missing, or it does not take these options.
    """
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        needed = _INSTALL.get(scheme, f"fsspec[{scheme}]")
        raise StoreError(
            f"Cannot open {scheme}:// URIs: {error}. Install what is missing: pip install {needed}"
        ) from error
    except ValueError as error:
        raise StoreError(f"Cannot open {scheme}:// URIs: fsspec knows no such scheme. Check the URI.") from error
    given = {name: value for name, value in options.items() if name not in _OURS}
    if kind.async_impl:
        given["asynchronous"] = True
    try:
        return kind(skip_instance_cache=True, use_listings_cache=False, **given)
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError(
            f"Cannot open {scheme}:// URIs with the options {sorted(options)}: {type(error).__name__}. Expected the "
            f"arguments of {kind.__module__}.{kind.__qualname__}."
        ) from None
