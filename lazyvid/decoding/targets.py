"""What a read of frames wants: requests, and for each source the rows of memory that its pictures go to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from lazyvid.decoding.convert import PictureConverter, PictureFormat
from lazyvid.decoding.files import VideoFiles
from lazyvid.index.frame_index import Source


@dataclass(frozen=True, slots=True, eq=False)
class ReadRequest:
    """Frames of one video and the memory that they go to."""

    files: VideoFiles
    rows: npt.NDArray[np.int64]
    """int64 [N], rows of the index, in any order and as often as wanted."""
    picture_format: PictureFormat
    out: npt.NDArray[np.uint8]
    """uint8 [N, H, W, C], channels last, written whole."""


class _Sink:
    """Where the pictures of one source go for one request."""

    def __init__(self, request: ReadRequest, source: Source) -> None:
        self.out = request.out
        self.picture_format = request.picture_format
        self._source = source
        self._converter: PictureConverter | None = None

    def write(self, picture: VideoFrame, place: int) -> None:
        """Convert a picture into row `place`."""
        if self._converter is None:
            self._converter = PictureConverter(self._source, self.picture_format)
        self._converter.write(picture, self.out[place])


class Target:
    """The frames of one source that requests want: a frame that several want is decoded once."""

    def __init__(self, files: VideoFiles, source_idx: int) -> None:
        self.files = files
        self.source_idx = source_idx
        self.source = files.index.sources[source_idx]
        self.stream = files.identity(source_idx)
        self.destinations: dict[int, list[tuple[_Sink, int]]] = {}
        """Row of the index -> rows of memory; a row leaves when its picture has arrived."""

    def add(self, request: ReadRequest, places: Iterable[int]) -> None:
        """Want the frames at these places of the request, too."""
        sink = _Sink(request, self.source)
        rows = request.rows.tolist()
        for place in places:
            self.destinations.setdefault(rows[place], []).append((sink, place))

    def deliver(self, picture: VideoFrame) -> bool:
        """Write a decoded picture to its rows, if it is wanted and whole."""
        if picture.is_corrupt:  # damaged parts were painted over by guesses; what was guessed depends on the start
            return False
        places = self.destinations.pop(picture.pts, None) if picture.pts is not None else None
        if places is None:
            return False
        written: dict[PictureFormat, npt.NDArray[np.uint8]] = {}
        for sink, place in places:
            known = written.get(sink.picture_format) if written else None
            if known is None:
                sink.write(picture, place)
                written[sink.picture_format] = sink.out[place]
            else:
                sink.out[place] = known
        return True


def targets_of(requests: Sequence[ReadRequest]) -> list[Target]:
    """One target for each source that frames lie in; what several requests want of one source comes together."""
    targets: dict[Hashable, Target] = {}
    for request in requests:
        for source_idx, places in _places_by_source(request).items():
            target = Target(request.files, source_idx)
            targets.setdefault(target.stream, target).add(request, places)
    return list(targets.values())


def _places_by_source(request: ReadRequest) -> dict[int, Sequence[int]]:
    """The places in a request's rows and memory, by the source that the frames lie in."""
    if len(request.files.index.sources) == 1:
        return {0: range(len(request.rows))}
    source_of = request.files.index.packets.source_idx[request.rows]
    return {
        source_idx: np.flatnonzero(source_of == source_idx).tolist() for source_idx in np.unique(source_of).tolist()
    }
