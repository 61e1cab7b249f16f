"""Datasets that were made in a local folder, sent into a store: `info.json` last, so that whoever sees it finds all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lazyvid.errors import RecordingError
from lazyvid.lerobot.schema import INFO_PATH
from lazyvid.storage import ObjectStore, display_uri, is_local, join_uri

Advance = Callable[[str, int, int], None]
"""Called with what is done, how many of it are, and how many there are."""


@contextlib.contextmanager
def local_folder(uri: str, store: ObjectStore, advance: Advance) -> Iterator[Path]:
    """A local folder for what is to lie at `uri`: that one, or a temporary one that is sent there at the block's end.

    Raises:
        RecordingError: if there is something at a remote `uri` already.
        StoreError: if it cannot be sent.
    """
    full = store.resolve(uri).rstrip("/")
    if is_local(full):
        yield Path(full)
        return
    if store.exists(full):
        raise RecordingError(f"Expected nothing at {display_uri(full)}, found objects there. Choose another place.")
    with tempfile.TemporaryDirectory(prefix="lazyvid-dataset-") as folder:
        yield Path(folder)
        upload_folder(Path(folder), full, store, advance)


def upload_folder(folder: Path, uri: str, store: ObjectStore, advance: Advance) -> None:
    """Send all files of a folder; a sidecar's manifest after its data, `info.json` last."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    paths.sort(key=lambda path: (names[path] == INFO_PATH, path.suffix == ".manifest", names[path]))
    for done, path in enumerate(paths):
        advance("sending", done, len(paths))
        store.upload(path, join_uri(uri, names[path]))
    advance("sending", len(paths), len(paths))


@contextlib.contextmanager
def local_copy(uri: str, store: ObjectStore, advance: Advance) -> Iterator[Path]:
    """A local folder with what lies at `uri`: that one, or a copy that goes at the block's end.

    Raises:
        StoreError: if it cannot be fetched.
    """
    full = store.resolve(uri).rstrip("/")
    if is_local(full):
        yield Path(full)
        return
    with tempfile.TemporaryDirectory(prefix="lazyvid-dataset-") as folder:
        found = store.list(full)
        for done, meta in enumerate(found):
            advance("fetching", done, len(found))
            store.download(meta.uri, Path(folder) / meta.uri.removeprefix(f"{full}/"))
        advance("fetching", len(found), len(found))
        yield Path(folder)
