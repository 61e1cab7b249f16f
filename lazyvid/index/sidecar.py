"""The sidecar of a video, `<video>.lance`: written whole by `ObjectStore`, read back by two requests and verified.

`arrow` makes the table, `sealed` writes and reads the dataset; `opening` asks whose index it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePosixPath

from lazyvid.errors import CorruptIndexError, IndexStateError, LimitExceededError, MissingIndexError
from lazyvid.frames import Limits
from lazyvid.index import arrow, lance_process, local, seal, sealed
from lazyvid.index.foreign import ForeignTable
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.placing import is_absolute, portable
from lazyvid.index.seal import Seal
from lazyvid.index.sealed import FIRST_MANIFEST, DatasetFiles
from lazyvid.lru import ProcessLRU
from lazyvid.storage import ObjectStore, display_uri, sidecar_uri

_V2_DIGITS = 20
_parsed: ProcessLRU[str, str] = ProcessLRU(capacity=4096)
"""Content hashes of indexes, by the digests of the sidecars that they were parsed from: to ask Lance takes 5 ms."""


def write_sidecar(
    index: FrameIndex,
    uri: str | os.PathLike[str] | None = None,
    *,
    store: ObjectStore | None = None,
    index_root: str | os.PathLike[str] | None = None,
    replacing: bool = True,
) -> str:
    """Write the sidecar of the video at `uri`, in place of the one that may lie there.

    The data file comes first and the manifest last, so that a reader sees the old sidecar or the new one. What belonged
    to the old one alone is removed afterwards; when two write at once, the last manifest stands and both are whole.

    Args:
        index: What to write; an index of a single file is taken to describe the video at `uri`.
        uri: The video's URI; by default the absolute URI of the first source.
        store: Where it lies; by default an `ObjectStore` without options.
        index_root: Folder of the sidecars, where they do not lie beside their videos.
        replacing: False where it is known that there is none: then nothing is looked for that is to be removed.

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
    sealed.write_dataset(table, sidecar, store=store, what="sidecar", replacing=replacing)
    return sidecar


def _video_uri(index: FrameIndex, uri: str | os.PathLike[str] | None) -> str:
    if uri is not None:
        return os.fspath(uri)
    if not index.sources or not is_absolute(index.sources[0].uri):
        raise ValueError("Expected the video's `uri`: the index names its first source relative to a video unknown.")
    return index.sources[0].uri


def _root(store: ObjectStore, index_root: str | os.PathLike[str] | None) -> str | None:
    return None if index_root is None else store.resolve(index_root)


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
    try:
        return reader.files.settled(reader.read)
    except CorruptIndexError as error:
        raise CorruptIndexError(
            f"Cannot use the sidecar {display_uri(reader.sidecar)} of {display_uri(video)}: {error} "
            f"To write it anew: lazyvid index --force {display_uri(video)}"
        ) from error


class _Reader:
    """One sidecar as it is read."""

    def __init__(self, store: ObjectStore, video: str, sidecar: str, limits: Limits) -> None:
        self.video, self.sidecar, self.limits = video, sidecar, limits
        self.files = DatasetFiles(store, sidecar, check_size=self._check_size)

    def read(self, manifest: bytes | None) -> FrameIndex | ForeignTable:
        """The index; CorruptIndexError without the names of video and sidecar."""
        found = None if manifest is None else seal.read_seal(manifest)
        if manifest is None or found is None:
            return self._read_unsealed(manifest)
        files = {FIRST_MANIFEST: manifest, **self.files.sealed_data(found)}
        known = _known(found)
        if known is None:
            return self._parse(files, seal_digest=found.digest)
        self._check_rows(len(known))
        return known

    def _read_unsealed(self, manifest: bytes | None) -> FrameIndex | ForeignTable:
        """A dataset that another tool wrote or changed: the newest version, which takes a listing."""
        listed = self.files.listed()
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
        files = {name: data for name in wanted if (data := self.files.get(name)) is not None}
        return self._parse(files, seal_digest=None)

    def _parse(self, files: dict[str, bytes], *, seal_digest: str | None) -> FrameIndex | ForeignTable:
        """The table in these files; they were verified if there is a digest of their seal."""
        columns, max_rows, trusted = arrow.SIDECAR_COLUMNS, self.limits.frames, seal_digest is not None
        try:
            table = sealed.parse_dataset(files, columns=columns, max_rows=max_rows, trusted=trusted)
        except lance_process.LanceUnavailableError as error:
            raise IndexStateError(f"Could not read the sidecar {display_uri(self.sidecar)}: {error}") from error
        self._check_rows(table.num_rows)
        if not arrow.is_own(table):
            return ForeignTable.from_arrow(table)
        index = arrow.from_sidecar_table(table)
        if seal_digest is not None:
            _parsed.get(seal_digest, index.content_hash)
        return index

    def _check_rows(self, rows: int) -> None:
        if rows > self.limits.frames:
            raise LimitExceededError(
                f"The sidecar {display_uri(self.sidecar)} has more rows than Limits.frames={self.limits.frames}."
            )

    def _check_size(self, size: int) -> None:
        if size > self.limits.index_bytes:
            raise LimitExceededError(
                f"The sidecar {display_uri(self.sidecar)} has {size} bytes; Limits.index_bytes allows "
                f"{self.limits.index_bytes}."
            )


def _known(found: Seal) -> FrameIndex | None:
    """What sealed files were parsed to before in this process, as far as this machine still has it."""
    content_hash = _parsed.peek(found.digest)
    return None if content_hash is None else local.load(content_hash)


def _newest_manifest(names: Iterable[str]) -> str | None:
    """The manifest of the newest version; Lance counts versions up in short names, down in names of 20 digits."""
    stems = [PurePosixPath(n).stem for n in names if n.startswith("_versions/") and n.endswith(".manifest")]
    stems = [stem for stem in stems if stem.isascii() and stem.isdigit()]
    if not stems:
        return None
    down = [stem for stem in stems if len(stem) == _V2_DIGITS]
    return f"_versions/{min(down) if down else max(stems, key=int)}.manifest"
