"""How a video's sidecar stands to the video: what `index`, `info` and `verify` ask first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lazyvid.errors import CorruptIndexError, MissingIndexError, StaleIndexError
from lazyvid.index.finding import FoundVideo
from lazyvid.index.foreign import ForeignTable
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.opening import open_index
from lazyvid.index.sidecar import read_sidecar
from lazyvid.storage import ObjectStore

State = Literal["fresh", "foreign", "stale", "corrupt", "missing"]


@dataclass(frozen=True, slots=True)
class SidecarState:
    """What was found beside a video."""

    name: State
    """"fresh" describes the video; "foreign" does, too, and was written by another tool."""
    index: FrameIndex | None = None
    """The index; a stale one as far as it is this package's; None where none can be read."""
    reason: str = ""
    """Why it is of no use, where it is of none."""

    @property
    def usable(self) -> bool:
        """Whether the video can be opened by it."""
        return self.name in ("fresh", "foreign")


def sidecar_state(
    uri: str, *, store: ObjectStore, index_root: str | None, listed: FoundVideo | None = None
) -> SidecarState:
    """Look at the sidecar of a video.

    Args:
        uri: The video.
        store: Where it lies.
        index_root: Folder of the sidecars, where they do not lie beside their videos.
        listed: What a listing told of the video, which is not asked again.

    Raises:
        ObjectNotFoundError: if there is no such video.
        LazyVidError: if video or sidecar cannot be looked at.
    """
    if listed is not None and listed.bare and index_root is None:
        return SidecarState("missing", reason="nothing was listed beside the video")
    stored: FrameIndex | ForeignTable | None = None
    try:
        stored = read_sidecar(uri, store=store, index_root=index_root)
        own = stored if isinstance(stored, FrameIndex) else None
        opened = open_index(
            uri,
            store=store,
            index_root=index_root,
            frame_index=own,
            on_missing_index="raise",
            listed=listed,
            share=False,
            warn=False,
        )
    except MissingIndexError as error:
        store.head(uri)  # a missing video is another matter
        return SidecarState("missing", reason=str(error))
    except StaleIndexError as error:
        return SidecarState("stale", stored if isinstance(stored, FrameIndex) else None, str(error))
    except CorruptIndexError as error:
        store.head(uri)
        return SidecarState("corrupt", reason=str(error))
    return SidecarState("fresh" if own is not None else "foreign", opened.index)
