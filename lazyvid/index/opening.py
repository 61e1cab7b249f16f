"""Opening a video's index: read from its sidecar or built, checked against the files, shared on this machine.

Above `sidecar`, `foreign`, `probe` and `local`; below `LazyVideo`, which keeps what `open_index` gives, and in another
process calls `restore_index`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lazyvid.arguments import check_word
from lazyvid.errors import (
    CorruptIndexError,
    LimitExceededError,
    MissingIndexError,
    StaleIndexError,
    StoreError,
)
from lazyvid.frames import Limits
from lazyvid.index import foreign, local, sidecar
from lazyvid.index.finding import FoundVideo
from lazyvid.index.foreign import ForeignTable
from lazyvid.index.frame_index import FrameIndex, appended
from lazyvid.index.placing import distinct_files, located, portable, public
from lazyvid.storage import ObjectMeta, ObjectStore, UriLike, display_uri, parent_uri, relative_uri
from lazyvid.storage.objects import same_etag

OnMissingIndex = Literal["build", "raise"]
OnStaleIndex = Literal["raise", "rebuild", "scan"]
Origin = Literal["sidecar", "built", "given"]

_HEADS_AT_ONCE = 16
_warned_in: int | None = None  # the process (or the one it was forked from) that said that there was no sidecar


@dataclass(frozen=True, slots=True)
class OpenedIndex:
    """An index and the versions of the files that it was found to describe."""

    index: FrameIndex
    """Its sources' URIs are relative to the video, as stored; `uris` says where they lie."""
    pins: tuple[ObjectMeta, ...]
    """For each source, the version of its file that every read must come from; sources of one file share it."""
    uris: tuple[str, ...]
    """For each source, the absolute URI of its file."""
    content_hash: str
    """`index.content_hash()`, under which `local.load` finds it on this machine."""
    origin: Origin
    """Where the index came from."""


def open_index(
    uri: UriLike,
    *,
    store: ObjectStore | None = None,
    segment_uris: Sequence[UriLike] | None = None,
    index_root: UriLike | None = None,
    on_missing_index: OnMissingIndex = "build",
    on_stale_index: OnStaleIndex = "raise",
    stream: int | None = None,
    limits: Limits | None = None,
    frame_index: FrameIndex | None = None,
    listed: FoundVideo | None = None,
    share: bool = True,
    warn: bool = True,
) -> OpenedIndex:
    """Open the index of the video at `uri`: with a sidecar one HEAD a file and two GETs, and no video byte.

    An index is that of a file when size and etag are equal, or, as copies have other etags, size and fingerprint.
    Without a sidecar the index is built by a scan and not stored: several files give one segment each, and where their
    times do not increase from file to file each is shifted to begin where the one before it ends.

    Args:
        uri: The video.
        store: Where it lies; by default an `ObjectStore` without options.
        segment_uris: The video's further files, one for each segment after the first; a file may come again. None takes
            the files that the index names.
        index_root: Folder of the sidecars, where they do not lie beside their videos.
        on_missing_index: Without a sidecar, "build" scans the file's headers, with one warning a process; "raise".
        on_stale_index: When the sidecar describes another file, "raise", or "rebuild": then a damaged one is rebuilt
            too, and the sidecar is written anew where that is allowed; "scan" does the same and lets the sidecar be.
        stream: Position among the file's video streams; None takes the sidecar's, which is the first. For another
            stream than the sidecar's the index is built.
        limits: The largest video and index that are opened.
        frame_index: The index, when it is at hand: the sidecar is not read, the files are checked all the same.
        listed: What a listing told of the video, which is not asked again.
        share: Whether the index is laid where all processes of this machine find it.
        warn: Whether the warnings above are given.

    Returns:
        The index; with `share`, memory-mapped where this machine allows it.

    Raises:
        ObjectNotFoundError: if the video, or one of its files, is not there.
        MissingIndexError: if there is no index and it must not be built.
        StaleIndexError: if the index describes another file.
        CorruptIndexError: if the sidecar is damaged, or from a later format version.
        VideoError: if a file must be scanned and cannot be.
        ValueError: if a word is unknown, or `segment_uris` does not fit the index.
    """
    check_word("on_missing_index", on_missing_index, get_args(OnMissingIndex))
    check_word("on_stale_index", on_stale_index, get_args(OnStaleIndex))
    store = store or ObjectStore()
    opening = _Opening(
        store=store,
        video=store.resolve(uri),
        segments=None if segment_uris is None else [store.resolve(segment) for segment in segment_uris],
        index_root=None if index_root is None else os.fspath(index_root),
        stream=stream,
        limits=limits or Limits(),
        share=share,
        warn=warn,
    )
    opening.look(None if listed is None else listed.head)
    bare = listed is not None and listed.bare and index_root is None
    try:
        if frame_index is not None:
            return opening.opened(portable(frame_index, opening.video), "given")
        try:
            return opening.from_sidecar(bare=bare)
        except MissingIndexError:
            if on_missing_index == "raise":
                raise
        opening.say_missing()
        return opening.built()
    except (StaleIndexError, CorruptIndexError):
        if on_stale_index == "raise":
            raise
        return opening.rebuilt(write=frame_index is None and on_stale_index == "rebuild")


def restore_index(
    uri: UriLike,
    content_hash: str,
    *,
    store: ObjectStore | None = None,
    segment_uris: Sequence[UriLike] | None = None,
    index_root: UriLike | None = None,
    stream: int | None = None,
    limits: Limits | None = None,
) -> FrameIndex:
    """The index that was opened in another process: this machine's copy of it, else opened anew.

    Args:
        uri: The video.
        content_hash: `OpenedIndex.content_hash`.
        store: As in `open_index`.
        segment_uris: As in `open_index`.
        index_root: As in `open_index`.
        stream: As in `open_index`.
        limits: As in `open_index`.

    Raises:
        StaleIndexError: if the index that is there now is another one.
        LazyVidError: as `open_index`.
    """
    mapped = local.load(content_hash)
    if mapped is not None:
        return mapped
    opened = open_index(
        uri,
        store=store,
        segment_uris=segment_uris,
        index_root=index_root,
        stream=stream,
        limits=limits,
        warn=False,
    )
    if opened.content_hash != content_hash:
        raise StaleIndexError(
            f"Expected the index {content_hash} of {display_uri(uri)}, as it was when the video was pickled, found "
            f"{opened.content_hash} ({opened.origin}): the video or its sidecar was replaced. Open the video anew."
        )
    return opened.index


@dataclass(slots=True)
class _Opening:
    """One call of `open_index`."""

    store: ObjectStore
    video: str
    segments: list[str] | None
    index_root: str | None
    stream: int | None
    limits: Limits
    share: bool
    warn: bool
    _heads: dict[str, ObjectMeta] | None = None
    _files: list[str] | None = None  # the files that a stale index names

    @property
    def given_files(self) -> list[str]:
        """The file of each segment, as far as the caller named them."""
        return [self.video, *(self.segments or ())]

    def look(self, listed: ObjectMeta | None) -> None:
        """One HEAD for each file that the caller named and that was not listed."""
        if listed is not None:
            self._heads = {self.video: listed}
        self.heads(self.given_files)

    def heads(self, uris: Sequence[str]) -> list[ObjectMeta]:
        """What lies at each URI now; asked once for each."""
        known = {} if self._heads is None else self._heads
        new = [uri for uri in distinct_files(uris) if uri not in known]
        if len(new) > 1:
            with ThreadPoolExecutor(min(_HEADS_AT_ONCE, len(new))) as pool:
                known.update(zip(new, pool.map(self.store.head, new), strict=True))
        else:
            known.update((uri, self.store.head(uri)) for uri in new)
        self._heads = known
        return [known[uri] for uri in uris]

    # -- by the sidecar -----------------------------------------------------------------------------------------------

    def from_sidecar(self, *, bare: bool) -> OpenedIndex:
        if bare:
            raise MissingIndexError(
                f"No index of {display_uri(self.video)}: nothing was listed beside it. To write it: lazyvid index "
                f"{display_uri(self.video)}"
            )
        stored = sidecar.read_sidecar(self.video, store=self.store, index_root=self.index_root, limits=self.limits)
        if isinstance(stored, ForeignTable):
            return self.opened(self._joined(stored), "sidecar")
        if self.stream is not None and any(source.stream != self.stream for source in stored.sources):
            return self._of_other_stream(stored)
        return self.opened(stored, "sidecar")

    def _of_other_stream(self, stored: FrameIndex) -> OpenedIndex:
        self._files = list(located(stored, self.video))
        return self.built()

    def _joined(self, table: ForeignTable) -> FrameIndex:
        """The index of a sidecar that another tool wrote."""
        files = self.given_files if self.segments is not None else [self.video] * table.segment_count
        _check_segment_count(self.segments, table.segment_count)
        scanned = distinct_files(files)
        try:
            return foreign.join(table, [self._scan(file) for file in scanned], [scanned.index(f) for f in files])
        except (StaleIndexError, CorruptIndexError) as error:
            raise type(error)(
                f"The sidecar of {display_uri(self.video)} does not fit it: {error} Index the video anew with the tool "
                "that wrote the sidecar, or with: lazyvid index --force"
            ) from error

    # -- by a scan ----------------------------------------------------------------------------------------------------

    def say_missing(self) -> None:
        """Warn, once a process, that opening costs a scan."""
        global _warned_in
        if self.warn and _warned_in is None:
            _warned_in = os.getpid()
            warnings.warn(
                f"No frame index beside {display_uri(self.video)}: it is built from the file's headers at each "
                "opening. "
                f"To store it once: lazyvid index {display_uri(self.video)} (said once; more videos may lack theirs)",
                stacklevel=3,
            )

    def built(self) -> OpenedIndex:
        """The index by scans of the files."""
        files = self._files if self._files is not None and self.segments is None else self.given_files
        if self.segments is not None and len(distinct_files(files)) < len(files):
            raise ValueError(
                f"segment_uris names a file twice, and {display_uri(self.video)} has no sidecar that says which frames "
                "belong to which segment."
            )
        indexes = [self._scan(file) for file in distinct_files(files)]
        index = FrameIndex.join(indexes)
        if len(indexes) > 1 and np.any(np.diff(index.timestamp) <= 0):
            index = FrameIndex.join(appended(indexes))
        return self.opened(index, "built")

    def _scan(self, file: str) -> FrameIndex:
        from lazyvid.index.probe import scan_version  # FFmpeg is loaded only where a file is scanned

        (head,) = self.heads([file])
        index = scan_version(self.store, head, scan="header", stream=self.stream, limits=self.limits)
        name = "" if file == self.video else relative_uri(public(file), base=parent_uri(public(self.video)))
        return index.with_source_uris([name] * len(index.sources))

    def rebuilt(self, *, write: bool) -> OpenedIndex:
        """The index by scans, in place of a sidecar that is of no use."""
        opened = self.built()
        if write:
            try:
                sidecar.write_sidecar(opened.index, self.video, store=self.store, index_root=self.index_root)
            except (StoreError, OSError) as error:
                if self.warn:
                    warnings.warn(
                        f"The index of {display_uri(self.video)} was rebuilt, but its sidecar could not be written, "
                        "and "
                        f"it will be rebuilt again at each opening: {error}",
                        stacklevel=3,
                    )
        return opened

    # -- checked and shared -------------------------------------------------------------------------------------------

    def opened(self, index: FrameIndex, origin: Origin) -> OpenedIndex:
        """The index, once it was found to describe the files that lie there."""
        uris = located(index, self.video) if self.segments is None else self._assigned(index)
        self._files = list(uris) or None
        check_pixels(index, self.limits, self.video)
        pins = tuple(self.heads(uris))
        if origin != "built":
            self._check_files(index, pins)
        if not self.share:
            return OpenedIndex(index, pins, uris, index.content_hash(), origin)
        name = local.publish(index)
        return OpenedIndex(local.load(name) or index, pins, uris, name, origin)

    def _assigned(self, index: FrameIndex) -> tuple[str, ...]:
        """The file of each source, by the files that the caller named for the segments."""
        _check_segment_count(self.segments, len(index.segments))
        assigned: dict[int, str] = {}
        for number, file in enumerate(self.given_files):
            rows = index.packets.source_idx[index.segment_idx == number]
            for source in {index.segments[number].source_idx, *np.unique(rows).tolist()}:
                if assigned.setdefault(source, file) != file:
                    raise ValueError(
                        f"segment_uris gives two files for one: by the index of {display_uri(self.video)} segment "
                        f"{number} "
                        f"lies in {display_uri(assigned[source])}, not in {display_uri(file)}."
                    )
        places = dict(enumerate(located(index, self.video))) if len(assigned) < len(index.sources) else {}
        return tuple(assigned.get(k) or places[k] for k in range(len(index.sources)))

    def _check_files(self, index: FrameIndex, pins: Sequence[ObjectMeta]) -> None:
        """Raise StaleIndexError unless each source is the file that lies in its place."""
        from lazyvid.index.fingerprint import fingerprint  # reads the headers, only where an etag differs

        prints: dict[str, int] = {}
        for source, pin in zip(index.sources, pins, strict=True):
            if source.size == pin.size:
                if source.etag is not None and pin.etag is not None and same_etag(source.etag, pin.etag):
                    continue
                if pin.uri not in prints:
                    prints[pin.uri] = fingerprint(self.store, pin, limits=self.limits)
                if prints[pin.uri] == source.fingerprint:
                    continue
            raise StaleIndexError(
                f"The index of {display_uri(self.video)} describes another file than {display_uri(pin.uri)}: expected "
                f"{source.size} bytes, etag {source.etag}, fingerprint {source.fingerprint:08x}, found {pin.size} "
                "bytes, "
                f"etag {pin.etag}{_shown(prints.get(pin.uri))}. Index it anew: lazyvid index --force "
                f"{display_uri(self.video)}, or open it with on_stale_index='rebuild'."
            )


def check_pixels(index: FrameIndex, limits: Limits, video: str) -> None:
    """Raise LimitExceededError where a file of a video has larger pictures than the limits allow."""
    for source in index.sources:
        if source.width * source.height > limits.pixels:
            raise LimitExceededError(
                f"{display_uri(video)} has pictures of {source.width}x{source.height} pixels; Limits.pixels allows "
                f"{limits.pixels}."
            )


def _shown(print_: int | None) -> str:
    return "" if print_ is None else f", fingerprint {print_:08x}"


def _check_segment_count(segments: Sequence[str] | None, count: int) -> None:
    if segments is not None and len(segments) != count - 1:
        raise ValueError(
            f"Expected {count - 1} segment_uris, one for each segment after the first (the index has {count} "
            "segments), "
            f"got {len(segments)}."
        )
