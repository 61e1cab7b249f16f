"""`Catalog`: one table for a collection of videos, one row a video with its index, for 10^5 videos and more.

`catalog_build` makes the rows, `catalog_files` stores the table and maps it on each node; `training.sources` makes
videos of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lazyvid.arguments import check_word
from lazyvid.errors import ObjectNotFoundError
from lazyvid.frames import Limits
from lazyvid.index import catalog_build, catalog_files
from lazyvid.index.catalog_build import CatalogChanges, OnError, Progress, RowMaker
from lazyvid.index.catalog_columns import Columns, user_columns
from lazyvid.index.catalog_files import CatalogPlace, CatalogRow
from lazyvid.index.catalog_table import FACTS, CatalogTable, make_table, read_pins, rows_where, with_changes, with_rows
from lazyvid.index.finding import FoundVideo
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.indexing import Scan
from lazyvid.index.recipe import IndexPart, IndexRecipe
from lazyvid.storage import ObjectStore, UriLike, display_uri

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
WhenGone = Literal["drop", "keep"]

JOBS = 16
"""Videos that are looked at at a time, by default."""


class Catalog:
    """A table of videos: one row each, with the video's whole index and with columns of the user's.

    It is kept as one Lance table at a URI, and as one memory-mapped file on every node that opens it, whose pages all
    processes of the node share. A pickle holds neither, but the URI and the version: well under a kilobyte. Give it to
    `ClipDataset` in place of videos. Videos are known by the version that was indexed: one that was replaced since is
    an `ObjectChangedError` when it is first read, until `refresh`.

    Made by `build` or `open`. `filter` gives a view of some of the rows.
    """

    def __init__(self, place: CatalogPlace, filters: Sequence[Any] = (), table: CatalogTable | None = None) -> None:
        self._place, self._filters = place, tuple(filters)
        self._loaded = table
        self._chosen: IntArray | None = None
        self.changes = CatalogChanges()
        """What the last `build`, `append` or `refresh` of this object did."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._place, self._filters)

    @classmethod
    def build(
        cls,
        videos: UriLike | Sequence[UriLike | FoundVideo],
        uri: UriLike,
        *,
        store: ObjectStore | None = None,
        storage_options: Mapping[str, Any] | None = None,
        columns: Columns | None = None,
        index_root: UriLike | None = None,
        jobs: int = JOBS,
        scan: Scan = "header",
        on_error: OnError = "raise",
        limits: Limits | None = None,
        on_progress: Progress | None = None,
    ) -> Catalog:
        """Make a catalog of videos, in place of the one that may lie at `uri`.

        Sidecars that fit their videos are used; what has none is scanned, and no sidecar is written. Readers see the
        old catalog or the new one; when two write at once, one of them gets an error, or the last one stands.

        Args:
            videos: Their URIs, or one folder (with those below it) or glob; in this order, those that are found sorted
                by URI.
            uri: Where the catalog is to lie, such as "s3://bucket/catalog.lance".
            store: Where catalog and videos lie; by default an `ObjectStore` made from `storage_options`.
            storage_options: Options for fsspec, when no `store` is given.
            columns: The user's own (labels, splits, ...): a `pyarrow.Table` with a column `uri`; or
                `{uri: {column: value}}`; or `{column: values}` with one value a video, in order. Null where nothing is
                said of a video.
            index_root: Folder of the sidecars, where they do not lie beside their videos.
            jobs: Videos looked at at a time.
            scan: "header", or "full": every packet is read once, its checksum kept.
            on_error: "raise", or "skip": what cannot be indexed is left out, logged, and named in `changes.failed`.
            limits: The largest video that is accepted.
            on_progress: Called with (videos done, videos in all).

        Raises:
            ValueError: if a URI is given twice or carries a secret, or columns do not fit.
            ObjectNotFoundError: if there is no video, or none that could be indexed.
            CorruptIndexError: if something else lies at `uri`.
            ObjectChangedError: if another one wrote the catalog meanwhile.
            LazyVidError: if a video cannot be indexed, or the store does not take the catalog.
        """
        store = _store(store, storage_options)
        place = store.resolve(uri)
        before = catalog_files.version_at(place, store)
        found = catalog_build.find(videos, store)
        user = user_columns(columns, [video.uri for video in found], store)
        maker = _maker(store, index_root, scan, limits, on_error)
        rows, failed = catalog_build.make_rows(found, maker, jobs=jobs, on_error=on_error, on_progress=on_progress)
        if not rows:
            raise ObjectNotFoundError(
                f"Expected one video or more for the catalog {display_uri(place)}, found none that can be indexed"
                f"{': ' + next(iter(failed.values())) if failed else ''}."
            )
        table = make_table(rows, _without(user, found, failed))
        written = catalog_files.write_catalog(table, place, store, replacing=before)
        catalog = cls(CatalogPlace(place, store, written.content_hash), table=written)
        catalog.changes = CatalogChanges(added=tuple(row["uri"] for row in rows), failed=failed)
        return catalog

    @classmethod
    def open(
        cls, uri: UriLike, *, store: ObjectStore | None = None, storage_options: Mapping[str, Any] | None = None
    ) -> Catalog:
        """Open a catalog: by one request where this node has it, by two where it is brought here.

        Args:
            uri: Where it lies.
            store: Where catalog and videos lie; by default an `ObjectStore` made from `storage_options`.
            storage_options: Options for fsspec, when no `store` is given.

        Raises:
            MissingIndexError: if there is none.
            CorruptIndexError: if it is damaged, no catalog, or from a later format version.
            StoreError: if the store does not give it.
        """
        store = _store(store, storage_options)
        place = store.resolve(uri)
        table = catalog_files.read_catalog(place, store)
        return cls(CatalogPlace(place, store, table.content_hash), table=table)

    # -- changing -----------------------------------------------------------------------------------------------------

    def append(
        self,
        videos: UriLike | Sequence[UriLike | FoundVideo],
        *,
        columns: Columns | None = None,
        index_root: UriLike | None = None,
        jobs: int = JOBS,
        scan: Scan = "header",
        on_error: OnError = "raise",
        limits: Limits | None = None,
        on_progress: Progress | None = None,
    ) -> Catalog:
        """Add videos after those that are there; those that are there already stay as they are.

        Args:
            videos: As for `build`.
            columns: As for `build`, for the videos that are new. Columns that are new are null for the old ones.
            index_root: As for `build`.
            jobs: As for `build`.
            scan: As for `build`.
            on_error: As for `build`.
            limits: As for `build`.
            on_progress: As for `build`.

        Returns:
            This catalog, now as it was written; `changes` says what was done.

        Raises:
            ValueError: if this is a view, or columns do not fit.
            ObjectChangedError: if another one wrote the catalog since it was opened.
            LazyVidError: as `build`.
        """
        table, store = self._whole(), self._place.store
        there = set(self.uris)
        found = [video for video in catalog_build.find(videos, store) if video.uri not in there]
        user = user_columns(columns, [video.uri for video in found], store)
        maker = _maker(store, index_root, scan, limits, on_error)
        rows, failed = catalog_build.make_rows(found, maker, jobs=jobs, on_error=on_error, on_progress=on_progress)
        if rows:
            self._write(with_rows(table, rows, _without(user, found, failed)))
        self.changes = CatalogChanges(added=tuple(row["uri"] for row in rows), failed=failed)
        return self

    def refresh(
        self,
        *,
        when_gone: WhenGone = "drop",
        index_root: UriLike | None = None,
        jobs: int = JOBS,
        scan: Scan = "header",
        on_error: OnError = "raise",
        limits: Limits | None = None,
        on_progress: Progress | None = None,
    ) -> Catalog:
        """Ask the store for every video once, and index those that changed anew. Nothing is written if none did.

        Args:
            when_gone: "drop" the videos that are no longer there, or "keep" their rows; `changes.gone` names them.
            index_root: As for `build`.
            jobs: As for `build`.
            scan: As for `build`; for videos that changed.
            on_error: "raise", or "skip": a changed video that cannot be indexed keeps its old row.
            limits: As for `build`.
            on_progress: Called with (changed videos done, changed videos in all).

        Returns:
            This catalog, now as it was written; `changes` says what was done.

        Raises:
            ValueError: if this is a view.
            ObjectNotFoundError: if every video is gone; then nothing is changed.
            ObjectChangedError: if another one wrote the catalog since it was opened.
            LazyVidError: if a video cannot be asked for or indexed.
        """
        check_word("when_gone", when_gone, get_args(WhenGone))
        table, store = self._whole(), self._place.store
        pins = table.cells.column("pins").to_pylist()
        states = catalog_build.look_for_changes(self.uris, pins, store, jobs=jobs)
        gone = tuple(uri for uri in self.uris if states[uri] == "gone")
        if len(gone) == len(self):
            raise ObjectNotFoundError(
                f"Every video of the catalog {display_uri(self.uri)} is gone, the first one from "
                f"{display_uri(gone[0])}: is it the right store? The catalog is left as it is."
            )
        changed = [FoundVideo(uri) for uri in self.uris if states[uri] == "changed"]
        maker = _maker(store, index_root, scan, limits, on_error)
        rows, failed = catalog_build.make_rows(changed, maker, jobs=jobs, on_error=on_error, on_progress=on_progress)
        dropped = gone if when_gone == "drop" else ()
        if rows or dropped:
            self._write(with_changes(table, rows, dropped))
        self.changes = CatalogChanges(changed=tuple(row["uri"] for row in rows), gone=gone, failed=failed)
        return self

    def _whole(self) -> CatalogTable:
        if self._filters:
            raise ValueError("This is a view of some rows of a catalog: open the catalog itself to change it.")
        return self._table

    def _write(self, table: pa.Table) -> None:
        place = self._place
        written = catalog_files.write_catalog(table, place.uri, place.store, replacing=place.content_hash)
        self._place = dataclasses.replace(place, content_hash=written.content_hash)
        self._loaded, self._chosen = written, None

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """Where the catalog lies."""
        return self._place.uri

    @property
    def store(self) -> ObjectStore:
        """Where catalog and videos lie."""
        return self._place.store

    @property
    def content_hash(self) -> str:
        """Names the version that is open, whatever lies at the URI by now."""
        return self._place.content_hash

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `to_table` gives: what is known of every video, then the user's own."""
        return tuple(self._table.columns.schema.names)

    @property
    def uris(self) -> list[str]:
        """The videos' URIs, in order."""
        uris: list[str] = self._column("uri").to_pylist()
        return uris

    @property
    def frame_counts(self) -> IntArray:
        """int64 [V], frames of each video."""
        return self.numbers("frames").astype(np.int64)

    @property
    def nbytes(self) -> IntArray:
        """int64 [V], bytes of the packets that each video's frames are coded in."""
        return self.numbers("packet_bytes").astype(np.int64)

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        filters = "".join(f", filter={expression}" for expression in self._filters)
        return f"Catalog({display_uri(self.uri)!r}, videos={len(self)}{filters})"

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The cheap columns as a `pyarrow.Table`, one row a video; without the indexes.

        Args:
            columns: Which of `columns`; None gives all.
        """
        table = pa.Table.from_batches([self._table.columns])
        table = table if columns is None else table.select(list(columns))
        return table if self._rows is None else table.take(self._rows)

    def numbers(self, column: str) -> npt.NDArray[Any]:
        """A column of numbers as an array [V]."""
        array: npt.NDArray[Any] = self._column(column).to_numpy(zero_copy_only=False)
        return array

    def _column(self, name: str) -> pa.Array:
        column = self._table.columns.column(name)
        return column if self._rows is None else column.take(pa.array(self._rows))

    def filter(self, expression: Any) -> Catalog:
        """A view of the rows for which an expression is true; rows keep their order.

        Args:
            expression: A `pyarrow.compute.Expression` over `columns`, such as `pc.field("split") == "train"`.

        Raises:
            ValueError: if it names a column that is not there, or is no condition.
        """
        view = type(self)(self._place, (*self._filters, expression), self._loaded)
        _ = view._rows  # so that a wrong expression is known here
        return view

    def snapshot(self) -> Catalog:
        """The same version and rows as another object, which stays so when this one is changed."""
        return type(self)(self._place, self._filters, self._loaded)

    # -- videos -------------------------------------------------------------------------------------------------------

    def uri_of(self, number: int) -> str:
        """The URI of a video.

        Raises:
            IndexError: if there is no such video.
        """
        uri: str = self._table.columns.column("uri")[self._row(number)].as_py()
        return uri

    def index(self, number: int) -> FrameIndex:
        """The index of a video, unpacked from this node's mapped file.

        Raises:
            IndexError: if there is no such video.
            CorruptIndexError: if it is damaged.
        """
        return self._place.index(self._table, self._row(number))

    def recipe(self, number: int, *, store: ObjectStore | None = None) -> IndexRecipe:
        """How a video opens its index again, and which version of its files it reads.

        Args:
            number: The video.
            store: Where the video lies, if not where the catalog lies.
        """
        row = self._row(number)
        uri, frames, name = (
            self._table.columns.column(column)[row].as_py() for column in ("uri", "frames", "content_hash")
        )
        pins = read_pins(self._table.cells.column("pins")[row].as_py())
        part = IndexPart(uri, name, pins, store or self.store, frames, catalog=CatalogRow(self._place, row))
        return IndexRecipe((part,), name)

    def metadata(self, number: int) -> dict[str, Any] | None:
        """The user's columns of a video by name; None where the catalog has none."""
        names = self.columns[len(FACTS) :]
        row = self._row(number)
        return {name: self._table.columns.column(name)[row].as_py() for name in names} if names else None

    def _row(self, number: int) -> int:
        count = len(self)
        if not -count <= number < count:
            raise IndexError(f"Video {number} is out of range: {self!r}.")
        at = number % count
        return at if self._rows is None else int(self._rows[at])

    @property
    def _table(self) -> CatalogTable:
        if self._loaded is None:
            self._loaded = self._place.load()
        return self._loaded

    @property
    def _rows(self) -> IntArray | None:
        """int64 [V], the rows of the table that this view shows; None shows all."""
        if self._chosen is None and self._filters:
            self._chosen = rows_where(self._table, self._filters)
        return self._chosen


def _store(store: ObjectStore | None, storage_options: Mapping[str, Any] | None) -> ObjectStore:
    if store is not None and storage_options is not None:
        raise ValueError("Expected store or storage_options, got both: options belong to the store.")
    return store or ObjectStore(storage_options=storage_options)


def _maker(
    store: ObjectStore, index_root: UriLike | None, scan: Scan, limits: Limits | None, on_error: OnError
) -> RowMaker:
    check_word("scan", scan, get_args(Scan))
    check_word("on_error", on_error, get_args(OnError))
    return RowMaker(store, None if index_root is None else store.resolve(index_root), scan, limits or Limits())


def _without(user: pa.Table | None, videos: Sequence[FoundVideo], failed: Mapping[str, str]) -> pa.Table | None:
    return user if user is None or not failed else user.filter(pa.array([video.uri not in failed for video in videos]))
