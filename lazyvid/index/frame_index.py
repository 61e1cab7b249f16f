"""`FrameIndex`: where every frame of a video is, as immutable columns; no I/O here but through `open` and `save`.

Made by `probe.build_index`, kept as a sidecar by `sidecar`, laid in mapped files by `local`, read by the decoding room.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lazyvid import timing
from lazyvid.errors import CorruptIndexError

if TYPE_CHECKING:
    import os

    from lazyvid.storage import ObjectStore

Addressing = Literal["packets", "container", "sequential"]

NO_PTS = np.iinfo(np.int64).min
"""Stands for a pts or dts that the container does not give."""
UNKNOWN = -1
"""In `disposable` and `crc32`: the payload was not read."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file with one set of codec parameters: all that a decoder needs before the first packet."""

    uri: str
    """Relative to the video's folder; "" is the video itself; absolute when it lies in another store."""
    size: int
    """Bytes of the file."""
    etag: str | None
    """The store's etag when the file was indexed; a copy of the file may have another one."""
    fingerprint: int
    """crc32 of all but mdat payload (MP4, MOV), else of the first and last 64 KiB."""
    container: str
    """FFmpeg's demuxer name as lazyvid chose it: "mp4", "matroska", "mpegts", "avi", ..."""
    codec: str
    """Canonical codec name: "h264", "hevc", "av1", "vp9", ..."""
    extradata: bytes
    """Codec configuration record, as the container keeps it."""
    width: int
    """Pixels of a decoded picture before rotation."""
    height: int
    """Pixels of a decoded picture before rotation."""
    pix_fmt: str
    """FFmpeg's name of the decoded pixel format."""
    time_base: Fraction
    """Seconds per tick of pts, dts and duration."""
    addressing: Addressing = "packets"
    """How packets are reached: "packets" by offset and size; "container" through a demuxer, known again by their decode
    position; "sequential" only by decoding the file from its start and counting pictures."""
    stream: int = 0
    """Position among the file's video streams."""
    stream_index: int = 0
    """FFmpeg's number of that stream among all of the file's streams."""
    codec_tag: str = ""
    """The container's four-character code, "" when it has none."""
    color_range: int = 0
    """AVColorRange that the container states; 0 unspecified."""
    color_primaries: int = 2
    """AVColorPrimaries that the container states; 2 unspecified."""
    color_trc: int = 2
    """AVColorTransferCharacteristic that the container states; 2 unspecified."""
    colorspace: int = 2
    """AVColorSpace that the container states; 2 unspecified."""
    rotation: int = 0
    """Degrees counter-clockwise to turn a decoded picture for display, after `hflip`: 0, 90, 180 or 270."""
    hflip: bool = False
    """Mirror a decoded picture left to right before turning it."""
    sample_aspect_ratio: Fraction = Fraction(1)
    """Width over height of a pixel; 1 when not stated."""

    @property
    def display_size(self) -> tuple[int, int]:
        """(height, width) of a picture as shown, after rotation."""
        size = (self.height, self.width)
        return (size[1], size[0]) if self.rotation % 180 else size


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of frames recorded together."""

    source_idx: int
    """The source of its first frame."""
    frame_count: int
    """Frames in it; may be 0."""


@dataclass(frozen=True, slots=True, eq=False)
class PacketTable:
    """Encoded samples, one a row."""

    source_idx: npt.NDArray[np.int32]
    """int32 [N], position in `FrameIndex.sources`."""
    offset: npt.NDArray[np.int64]
    """int64 [N], first byte of the payload in the source's file; -1 where not addressable."""
    size: npt.NDArray[np.int64]
    """int64 [N], bytes of payload."""
    pts: npt.NDArray[np.int64]
    """int64 [N], presentation time in the source's time base; `NO_PTS` when there is none."""
    dts: npt.NDArray[np.int64]
    """int64 [N], decoding time in the source's time base; `NO_PTS` when there is none."""
    duration: npt.NDArray[np.int64]
    """int64 [N], in the source's time base; 0 when not stated."""
    decode_position: npt.NDArray[np.int64]
    """int64 [N], place among all of the source's packets, hidden ones included, in decode order; from 0."""
    key: npt.NDArray[np.bool_]
    """bool [N], marked as a place where decoding can start."""
    disposable: npt.NDArray[np.int8]
    """int8 [N], 1 when no other packet refers to it, 0 when one may, -1 where the payload was not read."""
    crc32: npt.NDArray[np.int64]
    """int64 [N], crc32 of the payload; -1 where it was not read."""

    def __post_init__(self) -> None:
        for name, dtype in PACKET_DTYPES.items():
            object.__setattr__(self, name, _frozen(getattr(self, name), dtype))
        lengths = {len(getattr(self, name)) for name in PACKET_DTYPES}
        if len(lengths) > 1:
            raise CorruptIndexError(f"Expected packet columns of one length, found lengths {sorted(lengths)}.")

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: npt.NDArray[Any] | slice) -> PacketTable:
        """The table of these rows."""
        return PacketTable(*(getattr(self, name)[rows] for name in PACKET_DTYPES))

    @classmethod
    def empty(cls) -> PacketTable:
        """A table without rows."""
        return cls(*(np.empty(0, dtype) for dtype in PACKET_DTYPES.values()))

    @classmethod
    def concat(cls, tables: Sequence[PacketTable], *, source_shifts: Sequence[int]) -> PacketTable:
        """One table after the other, each one's `source_idx` shifted."""
        columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in PACKET_DTYPES}
        shifts = np.repeat(np.asarray(source_shifts, np.int32), [len(table) for table in tables])
        return cls(**{**columns, "source_idx": columns["source_idx"] + shifts})


PACKET_DTYPES: dict[str, type[np.generic]] = {
    "source_idx": np.int32,
    "offset": np.int64,
    "size": np.int64,
    "pts": np.int64,
    "dts": np.int64,
    "duration": np.int64,
    "decode_position": np.int64,
    "key": np.bool_,
    "disposable": np.int8,
    "crc32": np.int64,
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FrameIndex:
    """Where every frame of a video is: one row a frame, in presentation order.

    Rows are sorted by (segment_idx, local_frame_idx). All arrays are read-only.
    """

    segment_idx: npt.NDArray[np.int64]
    """int64 [N], the frame's segment."""
    local_frame_idx: npt.NDArray[np.int64]
    """int64 [N], the frame's number inside its segment, from 0."""
    timestamp: npt.NDArray[np.float64]
    """float64 [N], seconds; authoritative, may be irregular."""
    packets: PacketTable
    """N rows: the packet whose picture the frame is."""
    hidden: PacketTable
    """Packets that are fed to the decoder and never shown (edit lists, alternate references)."""
    sources: tuple[Source, ...]
    """The files."""
    segments: tuple[Segment, ...]
    """The runs of frames."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "segment_idx", _frozen(self.segment_idx, np.int64))
        object.__setattr__(self, "local_frame_idx", _frozen(self.local_frame_idx, np.int64))
        object.__setattr__(self, "timestamp", _frozen(self.timestamp, np.float64))
        self._check()

    def _check(self) -> None:
        """Raise CorruptIndexError unless the columns agree with one another."""
        counts = {len(self.segment_idx), len(self.local_frame_idx), len(self.timestamp), len(self.packets)}
        if len(counts) > 1:
            raise CorruptIndexError(f"Expected frame columns of one length, found lengths {sorted(counts)}.")
        segment_counts = np.array([segment.frame_count for segment in self.segments], np.int64)
        expected_segment = np.repeat(np.arange(len(self.segments)), segment_counts)
        expected_local = np.arange(len(expected_segment)) - np.repeat(
            np.cumsum(segment_counts) - segment_counts, segment_counts
        )
        if not (
            np.array_equal(self.segment_idx, expected_segment) and np.array_equal(self.local_frame_idx, expected_local)
        ):
            raise CorruptIndexError(
                "Expected rows sorted by (segment_idx, local_frame_idx), each segment numbered from 0 without gaps and "
                f"as long as its segment says, found {len(self)} rows that are not."
            )
        if not np.all(np.isfinite(self.timestamp)):
            raise CorruptIndexError("Expected finite timestamps, found NaN or infinity.")
        for table in (self.packets, self.hidden):
            if len(table) and not (table.source_idx.min() >= 0 and table.source_idx.max() < len(self.sources)):
                raise CorruptIndexError(f"Expected source numbers below {len(self.sources)}, found others.")

    def __len__(self) -> int:
        return len(self.timestamp)

    def __repr__(self) -> str:
        return (
            f"FrameIndex(frames={len(self)}, segments={len(self.segments)}, sources={len(self.sources)}, "
            f"hidden={len(self.hidden)})"
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def segment_frame_counts(self) -> npt.NDArray[np.int64]:
        """int64 [S], the number of frames of each segment."""
        return np.array([segment.frame_count for segment in self.segments], dtype=np.int64)

    def pts_table(self, segment_idx: int) -> npt.NDArray[np.int64]:
        """int64 [n], the pts of a segment's frames by local number, in their source's time base.

        Raises:
            IndexError: if there is no such segment.
        """
        if not 0 <= segment_idx < len(self.segments):
            raise IndexError(f"Segment {segment_idx} is out of range: the index has {len(self.segments)} segments.")
        pts: npt.NDArray[np.int64] = self.packets.pts[self.segment_idx == segment_idx]
        return pts

    def timestamps(self) -> npt.NDArray[np.float64]:
        """float64 [N], when each frame is shown, in seconds."""
        return self.timestamp

    def frame_duration(self, row: int) -> float:
        """The duration that the container states for a frame, in seconds; 0.0 when it states none."""
        source = self.sources[self.packets.source_idx[row]]
        return float(self.packets.duration[row] * source.time_base)

    @property
    def end_seconds(self) -> float:
        """When the last frame stops being shown."""
        return timing.last_frame_end(self.timestamp, self.frame_duration(-1)) if len(self) else 0.0

    def content_hash(self) -> str:
        """A name for this very content: equal indexes have equal names, in every process and on every machine."""
        digest = hashlib.blake2b(repr((self.sources, self.segments)).encode(), digest_size=20)
        for array in (self.segment_idx, self.local_frame_idx, self.timestamp):
            digest.update(np.ascontiguousarray(array).data)
        for table in (self.packets, self.hidden):
            for name in PACKET_DTYPES:
                digest.update(np.ascontiguousarray(getattr(table, name)).data)
        return digest.hexdigest()

    # -- making others ------------------------------------------------------------------------------------------------

    def with_source_uris(self, uris: Sequence[str]) -> FrameIndex:
        """The same index over files that lie elsewhere; one URI a source."""
        if len(uris) != len(self.sources):
            raise ValueError(f"Expected {len(self.sources)} URIs, one a source, got {len(uris)}.")
        sources = (dataclasses.replace(s, uri=uri) for s, uri in zip(self.sources, uris, strict=True))
        return dataclasses.replace(self, sources=tuple(sources))

    def shifted(self, seconds: float) -> FrameIndex:
        """The same index with `seconds` added to every timestamp."""
        return dataclasses.replace(self, timestamp=self.timestamp + seconds)

    @classmethod
    def join(cls, indexes: Sequence[FrameIndex]) -> FrameIndex:
        """Indexes one after the other, whatever their times: segments and sources follow in order."""
        if len(indexes) == 1:
            return indexes[0]
        source_shifts = np.cumsum([0, *(len(index.sources) for index in indexes)])[:-1].tolist()
        segment_shifts = np.cumsum([0, *(len(index.segments) for index in indexes)])[:-1].tolist()
        return cls(
            segment_idx=np.concatenate([i.segment_idx + s for i, s in zip(indexes, segment_shifts, strict=True)]),
            local_frame_idx=np.concatenate([index.local_frame_idx for index in indexes]),
            timestamp=np.concatenate([index.timestamp for index in indexes]),
            packets=PacketTable.concat([index.packets for index in indexes], source_shifts=source_shifts),
            hidden=PacketTable.concat([index.hidden for index in indexes], source_shifts=source_shifts),
            sources=tuple(source for index in indexes for source in index.sources),
            segments=tuple(
                dataclasses.replace(segment, source_idx=segment.source_idx + shift)
                for index, shift in zip(indexes, source_shifts, strict=True)
                for segment in index.segments
            ),
        )

    @classmethod
    def concat(cls, indexes: Sequence[FrameIndex], timestamps: Literal["keep", "append"] = "keep") -> FrameIndex:
        """One recording's indexes, in order, as one.

        Args:
            indexes: One or more.
            timestamps: "keep" leaves times as they are and wants each index to begin after the one before it;
                "append" shifts each to begin where the last one ends.

        Raises:
            ValueError: if `indexes` is empty, `timestamps` is another word, or kept times do not increase.
            TypeError: if something else than a FrameIndex is among them.
        """
        indexes = list(indexes)
        if not indexes:
            raise ValueError("FrameIndex.concat expects one index or more, got none.")
        for position, index in enumerate(indexes):
            if not isinstance(index, FrameIndex):
                raise TypeError(f"FrameIndex.concat expects FrameIndex objects, got {type(index)} at {position}.")
        if timestamps not in ("keep", "append"):
            raise ValueError(f"Invalid timestamps={timestamps!r}: expected 'keep' or 'append'.")
        if timestamps == "append":
            return cls.join(appended(indexes))
        joined = cls.join(indexes)
        check_increasing(joined.timestamp, "FrameIndex.concat(timestamps='keep')")
        return joined

    # -- storing ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        uri: str | os.PathLike[str],
        *,
        store: ObjectStore | None = None,
        index_root: str | os.PathLike[str] | None = None,
    ) -> FrameIndex:
        """Read the sidecar of the video at `uri` and check that it describes the file that lies there.

        Args:
            uri: The video's URI.
            store: Where it lies; by default an `ObjectStore` without options.
            index_root: Folder of the sidecars, where they do not lie beside their videos.

        Raises:
            MissingIndexError: if there is no sidecar.
            StaleIndexError: if it describes another file.
            CorruptIndexError: if it is damaged or from a later format version.
        """
        from lazyvid.index.opening import open_index  # above this module: it builds FrameIndexes

        return open_index(uri, store=store, index_root=index_root, on_missing_index="raise").index

    def save(
        self,
        uri: str | os.PathLike[str] | None = None,
        *,
        store: ObjectStore | None = None,
        index_root: str | os.PathLike[str] | None = None,
    ) -> str:
        """Write the sidecar of the video at `uri`.

        Args:
            uri: The video's URI; by default the absolute URI of the first source.
            store: Where it lies; by default an `ObjectStore` without options.
            index_root: Folder of the sidecars, where they do not lie beside their videos.

        Returns:
            The sidecar's URI.

        Raises:
            ValueError: if `uri` is None and the first source's URI is relative, or the index has no frame.
        """
        from lazyvid.index.sidecar import write_sidecar  # above this module: it reads FrameIndexes

        return write_sidecar(self, uri, store=store, index_root=index_root)


def appended(indexes: Sequence[FrameIndex]) -> list[FrameIndex]:
    """Each index shifted to begin where the one before it ends; the first stays."""
    shifted: list[FrameIndex] = []
    end: float | None = None
    for index in indexes:
        if len(index):
            index = index if end is None else index.shifted(end - float(index.timestamp[0]))
            end = index.end_seconds
        shifted.append(index)
    return shifted


def check_increasing(timestamps: npt.NDArray[np.float64], what: str) -> None:
    """Raise ValueError naming the first time that does not increase."""
    bad = np.flatnonzero(np.diff(timestamps) <= 0)
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"{what} expects increasing times, found {timestamps[i + 1]} s (frame {i + 1}) after {timestamps[i]} s "
            f"(frame {i}). Order the videos by time, or use timestamps='append'."
        )


def _frozen(array: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """`array` as a read-only array of `dtype`; a copy only where it was writable, so that no caller can change it."""
    result = np.asarray(array, dtype=dtype)
    if result.flags.writeable:
        result = result.copy() if result is array or result.base is not None else result
        result.flags.writeable = False
    return result
