"""The second backend: torchcodec, handed our index as its frame mappings; and a dress for code written against it.

Optional: nothing here is imported from torchcodec until it is asked for, and a machine where it does not load gets one
line that says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lazyvid.errors import BackendUnavailableError, DecodeError, LazyVidError, NotAVideoError, ObjectChangedError
from lazyvid.frames import Clip, Frame
from lazyvid.index.sniff import SNIFF_BYTES, describe_bytes, sniff
from lazyvid.lru import ProcessLRU
from lazyvid.stats import count
from lazyvid.storage import ObjectMeta, display_uri, layout
from lazyvid.storage.objects import difference

if TYPE_CHECKING:
    from lazyvid.decoding.files import VideoFiles
    from lazyvid.decoding.targets import ReadRequest


def load_torchcodec() -> ModuleType:
    """Import torchcodec with the parts that are used here.

    Raises:
        BackendUnavailableError: if it is not installed, or its libraries do not load.
    """
    try:
        import torchcodec
        import torchcodec.decoders
        import torchcodec.transforms
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BackendUnavailableError(
            f"Expected torchcodec to load, found: {reason[0]} Install it with `pip install lazyvid[torchcodec]` and "
            "FFmpeg's shared libraries (Debian: apt-get install ffmpeg), or use backend='pyav'."
        ) from error
    module: ModuleType = torchcodec
    return module


def read_with_torchcodec(request: ReadRequest) -> None:
    """Read the frames of one request into its memory.

    Raises:
        BackendUnavailableError: if torchcodec does not load.
        NotAVideoError: if the file is not of the container that the index names.
        DecodeError: if it fails, or gives another frame than the one planned.
        ObjectChangedError: if the file is no longer the one that was pinned.
    """
    torchcodec = load_torchcodec()
    index = request.files.index
    source_of = index.packets.source_idx[request.rows]
    for source_idx in np.unique(source_of).tolist():
        places = np.flatnonzero(source_of == source_idx)
        try:
            _read_source(torchcodec, request, source_idx, places)
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, LazyVidError):
                raise
            _check_unchanged(request.files, source_idx)  # what fails may fail because the file is another one
            raise DecodeError(
                f"torchcodec cannot read frames {request.rows[places][:8].tolist()} of "
                f"{display_uri(request.files.uris[source_idx])}: {error}. Try backend='pyav'."
            ) from error
    count(frames_returned=len(request.rows))


def _read_source(torchcodec: ModuleType, request: ReadRequest, source_idx: int, places: npt.NDArray[np.int64]) -> None:
    files, index = request.files, request.files.index
    rows = np.flatnonzero(index.packets.source_idx == source_idx)
    rows = rows[np.argsort(index.packets.pts[rows], kind="stable")]
    resize = request.picture_format.resize
    source = index.sources[source_idx]
    numbers = np.searchsorted(index.packets.pts[rows], index.packets.pts[request.rows[places]])
    _check_container(files, source_idx)
    with _opened(files, source_idx) as file:
        decoder = torchcodec.decoders.VideoDecoder(
            file,
            stream_index=source.stream_index,
            dimension_order="NHWC",
            custom_frame_mappings=_frame_mappings(files, rows),
            transforms=[torchcodec.transforms.Resize(resize)] if resize else None,
        )
        batch = decoder.get_frames_at(numbers.tolist())
    expected = index.packets.pts[request.rows[places]] * float(source.time_base)
    if not np.allclose(batch.pts_seconds.numpy(), expected, atol=float(source.time_base) / 2, rtol=0):
        raise DecodeError(
            f"Expected frames at {expected[:8].tolist()} s of {display_uri(files.uris[source_idx])}, torchcodec gave "
            f"those at {batch.pts_seconds[:8].tolist()} s. Use backend='pyav' for this file."
        )
    request.out[places] = batch.data.numpy()
    _check_unchanged(files, source_idx)


_containers: ProcessLRU[ObjectMeta, str | None] = ProcessLRU(capacity=4096)
"""What the first bytes of a version of a file are."""
_TS_SYNC = 0x47


def _check_container(files: VideoFiles, source_idx: int) -> None:
    """See that a file is a video before FFmpeg does: torchcodec lets it guess, and a playlist opens other files.

    Raises:
        NotAVideoError: if it is of another container than the index says, or of none.
    """
    uri, pin, expected = files.uris[source_idx], files.pins[source_idx], files.index.sources[source_idx].container

    def look() -> str | None:
        if files.fetch == "file" and not layout.is_local(uri):
            with files.whole_file(source_idx) as copy:
                head = copy.read(SNIFF_BYTES)
        else:
            (head,) = files.stores[source_idx].read_ranges(uri, [(0, min(pin.size, SNIFF_BYTES))], pin=pin)
        found = sniff(head)
        # Of these alone, what goes before the first packet may be text that is a playlist.
        starts = found != "mpegts" or _TS_SYNC in head[:5:4]
        return found if starts else describe_bytes(head)

    found = _containers.get(pin, look)
    if found != expected:
        raise NotAVideoError(
            f"Expected {expected} in {display_uri(uri)}, as its index says, found {found or 'no video'}. Index it "
            "again (lazyvid index --force), or use backend='pyav'."
        )


@contextmanager
def _opened(files: VideoFiles, source_idx: int) -> Iterator[Any]:
    """The file as torchcodec takes it: a path, or a file object that stays at the pinned version."""
    uri = files.uris[source_idx]
    if layout.is_local(uri):
        yield layout.local_path(uri)
    elif files.fetch == "file":
        with files.whole_file(source_idx) as copy:
            yield copy
    else:
        with files.stores[source_idx].open(uri, pin=files.pins[source_idx]) as remote:
            yield remote


def _frame_mappings(files: VideoFiles, rows: npt.NDArray[np.int64]) -> str:
    packets = files.index.packets.take(rows)
    columns = zip(packets.pts.tolist(), packets.duration.tolist(), packets.key.tolist(), strict=True)
    return json.dumps({"frames": [{"pts": p, "duration": d, "key_frame": int(k)} for p, d, k in columns]})


def _check_unchanged(files: VideoFiles, source_idx: int) -> None:
    """See that the file, which torchcodec reads on its own, was the pinned version; a kept copy always is."""
    if files.fetch == "file" and not layout.is_local(files.uris[source_idx]):
        return
    pin = files.pins[source_idx]
    if changed := difference(pin, files.stores[source_idx].head(files.uris[source_idx])):
        raise ObjectChangedError(f"{display_uri(pin.uri)} changed since it was opened: {changed}. Open it again.")


class _Video(Protocol):
    """What the adapter needs of a LazyVideo."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: int | slice) -> Tensor: ...
    def get_frame_at(self, index: int) -> Frame: ...
    def get_frames_at(self, indices: Any) -> Clip: ...
    def get_frames_in_range(self, start: int, stop: int, step: int = 1) -> Clip: ...
    def get_frame_played_at(self, seconds: float) -> Frame: ...
    def get_frames_played_at(self, seconds: Any) -> Clip: ...
    def get_frames_played_in_range(
        self, start_seconds: float, stop_seconds: float, fps: float | None = None
    ) -> Clip: ...


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """The fields of torchcodec's `VideoStreamMetadata` that samplers and training code read."""

    num_frames: int
    average_fps: float
    begin_stream_seconds: float
    end_stream_seconds: float
    duration_seconds: float
    height: int
    width: int


class TorchcodecAdapter:
    """A `LazyVideo` with the methods and return types of `torchcodec.decoders.VideoDecoder`."""

    def __init__(self, video: Any) -> None:
        self._video: _Video = video
        self._torchcodec = load_torchcodec()
        begin, end = video.begin_seconds, video.end_seconds
        self.metadata = AdapterMetadata(
            len(video), video.average_fps, begin, end, end - begin, video.height, video.width
        )

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, key: int | slice) -> Tensor:
        """Frames by number, as the video gives them."""
        return self._video[key]

    def get_frame_at(self, index: int) -> Any:
        """A `torchcodec.Frame`."""
        return self._frame(self._video.get_frame_at(index))

    def get_frame_played_at(self, seconds: float) -> Any:
        """A `torchcodec.Frame`."""
        return self._frame(self._video.get_frame_played_at(seconds))

    def get_frames_at(self, indices: Sequence[int] | Tensor) -> Any:
        """A `torchcodec.FrameBatch`."""
        return self._batch(self._video.get_frames_at(indices))

    def get_frames_in_range(self, start: int, stop: int, step: int = 1) -> Any:
        """A `torchcodec.FrameBatch`."""
        return self._batch(self._video.get_frames_in_range(start, stop, step))

    def get_frames_played_at(self, seconds: Sequence[float] | Tensor) -> Any:
        """A `torchcodec.FrameBatch`."""
        return self._batch(self._video.get_frames_played_at(seconds))

    def get_frames_played_in_range(self, start_seconds: float, stop_seconds: float, fps: float | None = None) -> Any:
        """A `torchcodec.FrameBatch`."""
        return self._batch(self._video.get_frames_played_in_range(start_seconds, stop_seconds, fps))

    def get_all_frames(self, fps: float | None = None) -> Any:
        """A `torchcodec.FrameBatch`."""
        if fps is None:
            return self.get_frames_in_range(0, len(self))
        begin, end = self.metadata.begin_stream_seconds, self.metadata.end_stream_seconds
        return self.get_frames_played_in_range(begin, end, fps)

    def _frame(self, frame: Frame) -> Any:
        return self._torchcodec.Frame(frame.data, frame.timestamp, frame.duration)

    def _batch(self, clip: Clip) -> Any:
        return self._torchcodec.FrameBatch(
            clip.frames,
            clip.timestamps,
            clip.durations if clip.durations is not None else torch.zeros(len(clip), dtype=torch.float64),
        )
