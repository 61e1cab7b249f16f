"""Lance datasets of one data file, in any store: written whole, the manifest last; read by two requests and verified.

`sidecar` and `catalog_files` say what is in them; `seal` vouches for the files, `lance_process` runs Lance over local
copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from lazyvid.errors import (
    AccessDeniedError,
    CorruptIndexError,
    IndexStateError,
    ObjectNotFoundError,
    StoreError,
)
from lazyvid.index import lance_process, seal
from lazyvid.index.scratch import scratch_folder
from lazyvid.index.seal import Seal
from lazyvid.storage import ObjectMeta, ObjectStore, display_uri
from lazyvid.storage.layout import append_suffix, split

T = TypeVar("T")

FIRST_MANIFEST = "_versions/18446744073709551614.manifest"
"""The manifest of a dataset's first version, which Lance names 2**64 - 1 - version."""
_TRIES = 3
_MOST_IN_ONE = 16 << 20
_LANCE_FOLDERS = ("_transactions/", "_indices/", "_deletions/")


class DatasetFiles:
    """The files of a dataset in a store.

    Args:
        store: Where it lies.
        uri: The dataset, resolved.
        check_size: Called with the size of what is read; raises if it is too large.
    """

    def __init__(self, store: ObjectStore, uri: str, *, check_size: Callable[[int], None]) -> None:
        self._store, self._uri, self.check_size = store, uri, check_size

    def get(self, name: str) -> bytes | None:
        """A file by its path in the dataset; None when there is none."""
        try:
            data = self._store.read(append_suffix(self._uri, "/" + name))
        except ObjectNotFoundError:
            return None
        self.check_size(len(data))
        return data

    def _downloaded(self, name: str) -> bytes | None:
        """A large file: over several connections, and with no limit to the time that all of it takes."""
        with scratch_folder() as temporary:
            path = temporary / "file"
            try:
                self._store.download(append_suffix(self._uri, "/" + name), path)
            except ObjectNotFoundError:
                return None
            return path.read_bytes()

    def first_manifest(self) -> bytes | None:
        """The manifest under its fixed name, None when there is none."""
        return self.get(FIRST_MANIFEST)

    def settled(self, read: Callable[[bytes | None], T]) -> T:
        """What `read` makes of the first manifest; once more where the dataset was replaced while it was read."""
        manifest = self.first_manifest()
        for _ in range(_TRIES - 1):
            try:
                return read(manifest)
            except CorruptIndexError:
                # Then the data file that our manifest names is gone for a good reason.
                now = self.first_manifest()
                if now == manifest:
                    raise
                manifest = now
        return read(manifest)

    def sealed_data(self, found: Seal) -> dict[str, bytes]:
        """The data file that a sealed manifest vouches for, by its path.

        Raises:
            CorruptIndexError: if the manifest or the data file is not what was written.
        """
        if not found.intact:
            raise CorruptIndexError(f"its manifest {FIRST_MANIFEST} does not fit its own digest.")
        self.check_size(found.data_size)
        name = f"data/{found.data_name}"
        data = self.get(name) if found.data_size <= _MOST_IN_ONE else self._downloaded(name)
        if data is None:
            raise CorruptIndexError(f"its data file {name} is missing.")
        if not found.fits(data):
            raise CorruptIndexError(
                f"its data file {name} does not fit the digest in the manifest ({found.data_size} bytes expected, "
                f"{len(data)} found)."
            )
        return {name: data}

    def listed(self) -> dict[str, ObjectMeta]:
        """What lies in the dataset, by path relative to it; nothing where the store does not list."""
        prefix = split(self._uri)[1].rstrip("/") + "/"
        try:
            found = self._store.list(append_suffix(self._uri, "/"))  # the folder: without it, also an object so named
        except (AccessDeniedError, ObjectNotFoundError, NotImplementedError):
            return {}
        return {
            split(meta.uri)[1].removeprefix(prefix): meta for meta in found if split(meta.uri)[1].startswith(prefix)
        }

    def outdated(self) -> list[str]:
        """What of the files that are there now nobody needs after a write, manifests first.

        Of the data files only those that a manifest names: others may belong to a writer whose manifest is still to
        come. Nothing that is no file of Lance's.
        """
        before = self.listed()
        manifests = [name for name in before if name.startswith("_versions/")]
        named: set[str] = set()
        for manifest in manifests:
            named |= seal.data_names(self.get(manifest) or b"")
        others = [name for name in before if name.startswith(_LANCE_FOLDERS)]
        data = [f"data/{name}" for name in named if f"data/{name}" in before]
        return [*sorted(name for name in manifests if name != FIRST_MANIFEST), *sorted(others), *sorted(data)]


def write_dataset(
    table: Any,
    uri: str,
    *,
    store: ObjectStore,
    what: str,
    replacing: bool = True,
    ready: Callable[[], None] = lambda: None,
) -> dict[str, bytes]:
    """Write a table as a sealed dataset, in place of the one that may lie there.

    The data file comes first and the manifest last, so that a reader sees the old dataset or the new one. What belonged
    to the old one alone is removed afterwards; when two write at once, the last manifest stands and both are whole.

    Args:
        table: A `pyarrow.Table` with one row or more.
        uri: The dataset, resolved.
        store: Where it lies.
        what: What it is, for messages.
        replacing: False where it is known that none lies there: then nothing is looked for that is to be removed.
        ready: Called when all but the manifest lies there; what it raises stops the write.

    Returns:
        The files that make it up now, by their paths in it.

    Raises:
        StoreError: if the store does not take it.
        IndexStateError: if Lance cannot write.
    """
    metadata = {**(table.schema.metadata or {}), seal.METADATA_KEY: seal.PLACEHOLDER}
    with scratch_folder() as temporary:
        folder = temporary / "dataset.lance"
        try:
            lance_process.write_dataset(table.replace_schema_metadata(metadata), folder)
        except (lance_process.LanceError, lance_process.LanceUnavailableError) as error:
            raise IndexStateError(f"Could not write the {what} {display_uri(uri)}: {error}") from error
        data = next((folder / "data").iterdir())
        body = data.read_bytes()
        manifest = seal.sealed((folder / FIRST_MANIFEST).read_bytes(), body)
        outdated = DatasetFiles(store, uri, check_size=lambda _size: None).outdated() if replacing else []
        place = append_suffix(uri, f"/data/{data.name}")
        if len(body) <= _MOST_IN_ONE:
            store.write(place, body)
        else:
            store.upload(data, place)
    try:
        ready()
        store.write(append_suffix(uri, "/" + FIRST_MANIFEST), manifest)
    except BaseException:
        _remove(store, [place])
        raise
    # The new dataset is complete; what cannot be removed is litter.
    _remove(store, [append_suffix(uri, "/" + old) for old in outdated])
    return {FIRST_MANIFEST: manifest, f"data/{data.name}": body}


def _remove(store: ObjectStore, uris: Iterable[str]) -> None:
    for uri in uris:
        with contextlib.suppress(StoreError):
            store.delete(uri)


def parse_dataset(
    files: Mapping[str, bytes], *, columns: Sequence[str] | None, max_rows: int | None, trusted: bool
) -> Any:
    """The table that the files of a dataset hold.

    Args:
        files: By their paths in the dataset.
        columns: Which columns to read, as far as they are there; None reads all.
        max_rows: One row more than these is read at most; None reads all.
        trusted: Whether the files' bytes were verified.

    Returns:
        A `pyarrow.Table` with its schema's metadata.

    Raises:
        CorruptIndexError: if Lance cannot read it.
        lance_process.LanceUnavailableError: if Lance cannot be run here.
    """
    with scratch_folder() as temporary:
        folder = temporary / "dataset.lance"
        for name, data in files.items():
            _write_below(folder, name, data)
        try:
            return lance_process.read_dataset(folder, columns=columns, max_rows=max_rows, trusted=trusted)
        except lance_process.LanceError as error:
            raise CorruptIndexError(f"Lance cannot read it: {error}") from error


def _write_below(folder: Path, name: str, data: bytes) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise CorruptIndexError(f"it holds an object of the unsafe name {name!r}.")
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
