"""The sidecar of a video, `<video>.lance`: written whole by `ObjectStore`, read back by two requests and verified.

`arrow` makes the table, `seal` vouches for the files, `lance_process` runs Lance over local copies; `opening` asks
whose index it is.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from lazyvid.errors import (
    AccessDeniedError,
    CorruptIndexError,
    IndexStateError,
    LimitExceededError,
    MissingIndexError,
    ObjectNotFoundError,
    StoreError,
)
from lazyvid.frames import Limits
from lazyvid.index import arrow, lance_process, seal
from lazyvid.index.foreign import ForeignTable
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.placing import is_absolute, portable
from lazyvid.storage import ObjectMeta, ObjectStore, display_uri, sidecar_uri
from lazyvid.storage.layout import append_suffix, split

FIRST_MANIFEST = "_versions/18446744073709551614.manifest"
"""The manifest of a dataset's first version, which Lance names 2**64 - 1 - version."""
_V2_DIGITS = 20
_TRIES = 3


def write_sidecar(
    index: FrameIndex,
    uri: str | os.PathLike[str] | None = None,
    *,
    store: ObjectStore | None = None,
    index_root: str | os.PathLike[str] | None = None,
) -> str:
    """Write the sidecar of the video at `uri`, in place of the one that may lie there.

    The data file comes first and the manifest last, so that a reader sees the old sidecar or the new one. What belonged
    to the old one alone is removed afterwards; when two write at once, the last manifest stands and both are whole.

    Args:
        index: What to write; an index of a single file is taken to describe the video at `uri`.
        uri: The video's URI; by default the absolute URI of the first source.
        store: Where it lies; by default an `ObjectStore` without options.
        index_root: Folder of the sidecars, where they do not lie beside their videos.

    Returns:
        The sidecar's URI.

    Raises:
        ValueError: if `uri` is None and the first source's URI is relative, or the index has no frame.
        StoreError: if the store does not take it.
    """
    store = store or ObjectStore()
    video = store.resolve(_video_uri(index, uri))
    sidecar = sidecar_uri(video, index_root=_root(store, index_root))
    table = arrow.to_sidecar_table(portable(index, video))
    table = table.replace_schema_metadata({**table.schema.metadata, seal.METADATA_KEY: seal.PLACEHOLDER})
    with tempfile.TemporaryDirectory(prefix="lazyvid-") as temporary:
        folder = Path(temporary) / "sidecar.lance"
        try:
            lance_process.write_dataset(table, folder)
        except (lance_process.LanceError, lance_process.LanceUnavailableError) as error:
            raise IndexStateError(f"Could not write the sidecar {display_uri(sidecar)}: {error}") from error
        data = next((folder / "data").iterdir())
        manifest = seal.sealed((folder / FIRST_MANIFEST).read_bytes(), data.read_bytes())
        before = _listed(store, sidecar)
        outdated = _outdated(store, sidecar, before)
        store.upload(data, append_suffix(sidecar, f"/data/{data.name}"))
        store.write(append_suffix(sidecar, "/" + FIRST_MANIFEST), manifest)
    for old in outdated:
        # The new sidecar is complete; what cannot be removed is litter.
        with contextlib.suppress(StoreError):
            store.delete(append_suffix(sidecar, "/" + old))
    return sidecar


def _video_uri(index: FrameIndex, uri: str | os.PathLike[str] | None) -> str:
    if uri is not None:
        return os.fspath(uri)
    if not index.sources or not is_absolute(index.sources[0].uri):
        raise ValueError("Expected the video's `uri`: the index names its first source relative to a video unknown.")
    return index.sources[0].uri


def _root(store: ObjectStore, index_root: str | os.PathLike[str] | None) -> str | None:
    return None if index_root is None else store.resolve(index_root)


def _listed(store: ObjectStore, sidecar: str) -> dict[str, ObjectMeta]:
    """What lies in a sidecar, by path relative to it; nothing where the store does not list."""
    prefix = split(sidecar)[1].rstrip("/") + "/"
    try:
        found = store.list(append_suffix(sidecar, "/"))  # the folder: without it, also an object of this name
    except (AccessDeniedError, ObjectNotFoundError, NotImplementedError):
        return {}
    return {split(meta.uri)[1].removeprefix(prefix): meta for meta in found if split(meta.uri)[1].startswith(prefix)}


def _outdated(store: ObjectStore, sidecar: str, before: Iterable[str]) -> list[str]:
    """What of the files seen before a write nobody needs after it, manifests first.

    Of the data files only those that a manifest names: others may belong to an indexer whose manifest is still to come.
    """
    before = set(before)
    manifests = [name for name in before if name.startswith("_versions/")]
    named: set[str] = set()
    for manifest in manifests:
        with contextlib.suppress(ObjectNotFoundError):
            named |= seal.data_names(store.read(append_suffix(sidecar, "/" + manifest)))
    others = [name for name in before if not name.startswith(("_versions/", "data/"))]
    manifests = [name for name in manifests if name != FIRST_MANIFEST]
    return [*sorted(manifests), *sorted(others), *sorted(f"data/{name}" for name in named if f"data/{name}" in before)]


# -- reading ----------------------------------------------------------------------------------------------------------


def read_sidecar(
    uri: str | os.PathLike[str],
    *,
    store: ObjectStore,
    index_root: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> FrameIndex | ForeignTable:
    """Read the sidecar of the video at `uri`; whether it describes the file that lies there is not asked.

    Args:
        uri: The video's URI.
        store: Where it lies.
        index_root: Folder of the sidecars, where they do not lie beside their videos.
        limits: How large it may be.

    Returns:
        The index, its sources' URIs relative to the video; or the four columns that another tool wrote.

    Raises:
        MissingIndexError: if there is none.
        CorruptIndexError: if it is damaged, incomplete or from a later format version.
        LimitExceededError: if it is larger than `limits.index_bytes` or has more rows than `limits.frames`.
        StoreError: if the store does not give it.
    """
    video = store.resolve(uri)
    reader = _Reader(store, video, sidecar_uri(video, index_root=_root(store, index_root)), limits or Limits())
    manifest = reader.first_manifest()
    for attempt in range(_TRIES):
        try:
            return reader.read(manifest)
        except CorruptIndexError as error:
            # Replaced while we read? Then the data file that our manifest names is gone for a good reason.
            now = reader.first_manifest()
            if now == manifest or attempt == _TRIES - 1:
                raise CorruptIndexError(
                    f"Cannot use the sidecar {display_uri(reader.sidecar)} of {display_uri(video)}: {error} "
                    f"To write it anew: lazyvid index --force {display_uri(video)}"
                ) from error
            manifest = now
    raise RuntimeError("unreachable: the last attempt returns or raises")


class _Reader:
    """One sidecar as it is read."""

    def __init__(self, store: ObjectStore, video: str, sidecar: str, limits: Limits) -> None:
        self.store, self.video, self.sidecar, self.limits = store, video, sidecar, limits

    def first_manifest(self) -> bytes | None:
        """The manifest under its fixed name, None when there is none."""
        return self._get(FIRST_MANIFEST)

    def read(self, manifest: bytes | None) -> FrameIndex | ForeignTable:
        """The index; CorruptIndexError without the names of video and sidecar."""
        found = None if manifest is None else seal.read_seal(manifest)
        if manifest is None or found is None:
            return self._read_unsealed(manifest)
        if not found.intact:
            raise CorruptIndexError(f"its manifest {FIRST_MANIFEST} does not fit its own digest.")
        self._check_size(found.data_size)
        name = f"data/{found.data_name}"
        data = self._get(name)
        if data is None:
            raise CorruptIndexError(f"its data file {name} is missing.")
        if not found.fits(data):
            raise CorruptIndexError(
                f"its data file {name} does not fit the digest in the manifest ({found.data_size} bytes expected, "
                f"{len(data)} found)."
            )
        return self._parse({FIRST_MANIFEST: manifest, name: data}, trusted=True)

    def _read_unsealed(self, manifest: bytes | None) -> FrameIndex | ForeignTable:
        """A dataset that another tool wrote or changed: the newest version, which takes a listing."""
        listed = _listed(self.store, self.sidecar)
        newest = _newest_manifest(listed)
        if newest is None and manifest is None:
            raise MissingIndexError(
                f"No index of {display_uri(self.video)}: expected the sidecar {display_uri(self.sidecar)}, found no "
                f"manifest in it. To write it: lazyvid index {display_uri(self.video)}"
            )
        self._check_size(sum(meta.size for meta in listed.values()))
        if newest is None and manifest is not None:  # a server without listings
            wanted = [FIRST_MANIFEST, *(f"data/{name}" for name in sorted(seal.data_names(manifest)))]
        else:
            wanted = [name for name in listed if not name.startswith(("_versions/", "_transactions/", "_indices/"))]
            wanted.append(newest or FIRST_MANIFEST)
        files = {name: data for name in wanted if (data := self._get(name)) is not None}
        return self._parse(files, trusted=False)

    def _parse(self, files: dict[str, bytes], *, trusted: bool) -> FrameIndex | ForeignTable:
        with tempfile.TemporaryDirectory(prefix="lazyvid-") as temporary:
            folder = Path(temporary) / "sidecar.lance"
            for name, data in files.items():
                _write_below(folder, name, data)
            table = self._table(folder, trusted=trusted)
        if table.num_rows > self.limits.frames:
            raise LimitExceededError(
                f"The sidecar {display_uri(self.sidecar)} has more rows than Limits.frames={self.limits.frames}."
            )
        return arrow.from_sidecar_table(table) if arrow.is_own(table) else ForeignTable.from_arrow(table)

    def _table(self, folder: Path, *, trusted: bool) -> Any:
        try:
            return lance_process.read_dataset(
                folder, columns=arrow.SIDECAR_COLUMNS, max_rows=self.limits.frames, trusted=trusted
            )
        except lance_process.LanceError as error:
            raise CorruptIndexError(f"Lance cannot read it: {error}") from error
        except lance_process.LanceUnavailableError as error:
            raise IndexStateError(f"Could not read the sidecar {display_uri(self.sidecar)}: {error}") from error

    def _get(self, name: str) -> bytes | None:
        try:
            data = self.store.read(append_suffix(self.sidecar, "/" + name))
        except ObjectNotFoundError:
            return None
        self._check_size(len(data))
        return data

    def _check_size(self, size: int) -> None:
        if size > self.limits.index_bytes:
            raise LimitExceededError(
                f"The sidecar {display_uri(self.sidecar)} has {size} bytes; Limits.index_bytes allows "
                f"{self.limits.index_bytes}."
            )


def _newest_manifest(names: Iterable[str]) -> str | None:
    """The manifest of the newest version; Lance counts versions up in short names, down in names of 20 digits."""
    stems = [PurePosixPath(n).stem for n in names if n.startswith("_versions/") and n.endswith(".manifest")]
    stems = [stem for stem in stems if stem.isascii() and stem.isdigit()]
    if not stems:
        return None
    down = [stem for stem in stems if len(stem) == _V2_DIGITS]
    return f"_versions/{min(down) if down else max(stems, key=int)}.manifest"


def _write_below(folder: Path, name: str, data: bytes) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise CorruptIndexError(f"it holds an object of the unsafe name {name!r}.")
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
