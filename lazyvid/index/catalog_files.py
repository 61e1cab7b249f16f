"""Where catalogs lie: a sealed Lance table in a store, and one mapped file for all processes of a node.

`Catalog` reads and writes through it; `recipe` finds the index of a single video again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from lazyvid.errors import (
    CorruptIndexError,
    IndexStateError,
    MissingIndexError,
    ObjectChangedError,
    StaleIndexError,
)
from lazyvid.index import catalog_table, lance_process, node_files, seal, sealed
from lazyvid.index.catalog_table import CatalogTable
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.packing import unpack_index
from lazyvid.index.sealed import FIRST_MANIFEST, DatasetFiles
from lazyvid.storage import ObjectStore, display_uri


@dataclass(frozen=True, slots=True)
class CatalogPlace:
    """A version of a catalog, and where it lies; small, and whole in any process."""

    uri: str
    """The table's URI, resolved."""
    store: ObjectStore
    """Where the table lies."""
    content_hash: str
    """Names the version."""

    def load(self) -> CatalogTable:
        """The table, mapped from this node's copy, or fetched once more.

        Raises:
            StaleIndexError: if neither this node nor the store has this version any more.
            MissingIndexError: if there is no catalog any more.
            CorruptIndexError: if it is damaged.
            StoreError: if the store does not give it.
        """
        file = node_files.find(_name(self.content_hash))
        if file is not None:
            return CatalogTable(self.content_hash, file.rows, file.directory)
        found = read_catalog(self.uri, self.store)
        if found.content_hash != self.content_hash:
            raise StaleIndexError(
                f"Expected version {self.content_hash} of the catalog {display_uri(self.uri)}, as it was when it was "
                f"opened, found version {found.content_hash}: it was written anew, and this machine has no copy of the "
                "old version. Open it anew."
            )
        return found

    def index(self, table: CatalogTable, row: int) -> FrameIndex:
        """The index of a video.

        Args:
            table: What `load` gave.
            row: The video's row in it.

        Raises:
            CorruptIndexError: if it is damaged here and in the store.
        """
        try:
            return unpack_index(table.cells.column("index")[row].as_buffer())
        except CorruptIndexError:
            node_files.discard(_name(self.content_hash))
            return unpack_index(self.load().cells.column("index")[row].as_buffer())


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """A video of a catalog: how to get its index again in another process."""

    place: CatalogPlace
    row: int

    def load(self) -> FrameIndex:
        """The index; errors as those of `CatalogPlace`."""
        return self.place.index(self.place.load(), self.row)


def read_catalog(uri: str, store: ObjectStore) -> CatalogTable:
    """The newest version of a catalog: by one request where this node has it, by two where it does not.

    Args:
        uri: The table's URI, resolved.
        store: Where it lies.

    Raises:
        MissingIndexError: if there is none.
        CorruptIndexError: if it is damaged, of another tool, or from a later format version.
        StoreError: if the store does not give it.
    """
    files = _files(uri, store)

    def read(manifest: bytes | None) -> CatalogTable:
        found = None if manifest is None else seal.read_seal(manifest)
        if manifest is None:
            raise MissingIndexError(
                f"No catalog at {display_uri(uri)}: expected {FIRST_MANIFEST} in it, found none. To build one: "
                f"lazyvid catalog build {display_uri(uri)} VIDEOS"
            )
        if found is None:
            raise CorruptIndexError("its manifest carries no seal of lazyvid's: it is damaged, or of another tool.")
        if not found.intact:
            raise CorruptIndexError(f"its manifest {FIRST_MANIFEST} does not fit its own digest.")
        name = _name(content_hash(manifest))
        file = node_files.find(name)
        if file is not None:
            return CatalogTable(content_hash(manifest), file.rows, file.directory)
        return _laid({FIRST_MANIFEST: manifest, **files.sealed_data(found)})

    try:
        return files.settled(read)
    except CorruptIndexError as error:
        raise CorruptIndexError(
            f"Cannot use the catalog {display_uri(uri)}: {error} To build it anew: lazyvid catalog build "
            f"{display_uri(uri)} VIDEOS"
        ) from error
    except lance_process.LanceUnavailableError as error:
        raise IndexStateError(f"Could not read the catalog {display_uri(uri)}: {error}") from error


def version_at(uri: str, store: ObjectStore) -> str | None:
    """The content hash of the catalog that lies at `uri`, None when nothing lies there.

    Raises:
        CorruptIndexError: if a dataset lies there that is no catalog: it must not be written over.
    """
    manifest = _files(uri, store).first_manifest()
    if manifest is not None and catalog_table.VERSION_KEY not in manifest:
        raise CorruptIndexError(
            f"Expected a catalog or nothing at {display_uri(uri)}, found another dataset: choose another URI."
        )
    return None if manifest is None else content_hash(manifest)


def write_catalog(table: pa.Table, uri: str, store: ObjectStore, *, replacing: str | None) -> CatalogTable:
    """Write a catalog, in place of the version that it was made from; readers see the old one or the new one.

    Args:
        table: As `catalog_table.make_table` gave it.
        uri: The table's URI, resolved.
        store: Where it is to lie.
        replacing: What `version_at` said before.

    Returns:
        What lies there now.

    Raises:
        ObjectChangedError: if another one wrote it meanwhile.
        StoreError: if the store does not take it.
    """

    def ready() -> None:
        if version_at(uri, store) != replacing:
            raise ObjectChangedError(
                f"The catalog {display_uri(uri)} was changed by another writer meanwhile, and is left as that one "
                "wrote it. Open it anew and repeat what you did."
            )

    return _laid(sealed.write_dataset(table, uri, store=store, what="catalog", ready=ready))


def content_hash(manifest: bytes) -> str:
    """What names a version: a digest of its manifest, which holds one of its data file."""
    return hashlib.blake2b(manifest, digest_size=16).hexdigest()


def _laid(files: Mapping[str, bytes]) -> CatalogTable:
    """The table that verified files hold, laid in this node's mapped file."""
    version = content_hash(files[FIRST_MANIFEST])
    table = sealed.parse_dataset(files, columns=None, max_rows=None, trusted=True)
    cells, columns = catalog_table.split_table(table)
    file = node_files.lay(_name(version), lambda: (cells, columns))
    return CatalogTable(version, file.rows, file.directory)


def _files(uri: str, store: ObjectStore) -> DatasetFiles:
    return DatasetFiles(store, uri, check_size=lambda _size: None)


def _name(version: str) -> str:
    return f"catalog-{version}"
