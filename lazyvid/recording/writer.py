"""`VideoWriter`: frames in, MP4 and sidecar out, to any store; the write flow from end to end for one video."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lazyvid import timing
from lazyvid.errors import CorruptVideoError, EncoderFailedError, RecordingDiskFullError, RecordingError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.index.sidecar import write_sidecar as write_index
from lazyvid.recording.codecs import check_pix_fmt, codec_options, encoder_name
from lazyvid.recording.mp4 import ORIGIN_TAG, Mp4File, StreamSpec
from lazyvid.recording.pictures import FrameLike, PictureMaker
from lazyvid.recording.spool import own_spool_folder
from lazyvid.recording.times import CaptureTimes, GridTimes, exact_rate
from lazyvid.storage import ObjectMeta, ObjectStore, basename, display_uri, is_local, parent_uri
from lazyvid.storage.local import TEMPORARY_PREFIX, make_folders, sync_folder

_OTHER_CONTAINERS = (".avi", ".m2ts", ".mkv", ".ts", ".webm")


class VideoWriter:
    """Encodes frames into an MP4 that is published, with its sidecar, when the writer is closed.

    The video is written to a local file that can be played up to its last whole group of pictures if the process dies,
    and appears at `uri` only when it is complete: first the MP4, then the sidecar. An object that lies there already is
    replaced. As a context manager it closes at the end of the block; after an exception inside the block nothing is
    published, and the local file is removed. Belongs to one thread.

    Example:
        >>> with VideoWriter("s3://bucket/run.mp4", fps=30) as writer:      # doctest: +SKIP
        ...     for frame, seconds in camera:
        ...         writer.add_frame(frame, timestamp=seconds)

    Args:
        uri: Where the video goes: a local path, or a URL of any scheme that fsspec can write to.
        fps: Frames per second, exact for a `Fraction` and for decimal rates such as 29.97. The times of frames without
            timestamps; nominal for those with.
        vcodec: "h264", "hevc", "libsvtav1", or FFmpeg's name of a video encoder.
        pix_fmt: FFmpeg's name of the pixel format in the file.
        g: Largest distance between key frames, in frames: the smaller, the cheaper is a random access, the larger the
            file, and the less is lost in a crash. None leaves it to the encoder.
        crf: Quality, the smaller the better; None leaves it to the encoder.
        preset: Speed, by the encoder's own name or number; None leaves it to the encoder (12 for libsvtav1).
        options: Further options of the encoder, by FFmpeg's names.
        store: Where `uri` lies; by default an `ObjectStore` made from `storage_options`.
        storage_options: Options for fsspec, when no `store` is given.
        spool_dir: Folder of the local file while it is written; by default the target's own folder, or the system's
            folder of this user's in the temporary one when the target is remote.
        origin: Seconds; the capture time that lies at 0 in the MP4, for videos that shall share one clock. By default
            the first frame's. The sidecar keeps the times as they were given in any case.
        write_sidecar: False publishes the MP4 alone; capture times then remain as the MP4 says them, in microseconds
            after the origin.

    Raises:
        ValueError: if an argument is invalid.
        EncoderUnavailableError: if FFmpeg was built without the encoder.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        fps: float | Fraction,
        *,
        vcodec: str = "h264",
        pix_fmt: str = "yuv420p",
        g: int | None = 30,
        crf: float | None = None,
        preset: str | int | None = None,
        options: Mapping[str, Any] | None = None,
        store: ObjectStore | None = None,
        storage_options: Mapping[str, Any] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        origin: float | None = None,
        write_sidecar: bool = True,
    ) -> None:
        if store is not None and storage_options is not None:
            raise ValueError("Give store or storage_options, not both: a store has its own options.")
        self._store = store or ObjectStore(storage_options=storage_options)
        self._uri = self._store.resolve(uri)
        if basename(self._uri).lower().endswith(_OTHER_CONTAINERS):
            raise ValueError(f"Invalid uri {display_uri(self._uri)!r}: expected a name that ends in '.mp4'.")
        self._rate = exact_rate(fps)
        self._encoder = encoder_name(vcodec)
        given = {str(name): str(value) for name, value in (options or {}).items()}
        self._options = codec_options(vcodec, g=g, crf=crf, preset=preset) | given
        self._pictures = PictureMaker(pix_fmt)
        check_pix_fmt(self._encoder, pix_fmt)
        self._origin = CaptureTimes(origin).origin
        self._spool_dir = None if spool_dir is None else os.fspath(spool_dir)
        self._write_sidecar = write_sidecar
        self._times: GridTimes | CaptureTimes | None = None
        self._file: Mp4File | None = None
        self._state = "open"

    @property
    def uri(self) -> str:
        """Where the video goes, in full."""
        return self._uri

    @property
    def frame_count(self) -> int:
        """Frames added so far."""
        return 0 if self._times is None else len(self._times)

    def __repr__(self) -> str:
        return f"VideoWriter({display_uri(self._uri)!r}, frames={self.frame_count}, {self._state})"

    def add_frame(self, frame: FrameLike, timestamp: float | None = None) -> None:
        """Encode a frame.

        Args:
            frame: A numpy array or tensor, uint8 or floats in [0, 1]: RGB [H, W, 3] or [3, H, W], gray [H, W] or with
                one channel, RGBA where the pixel format has alpha. The first frame fixes size and format.
            timestamp: Seconds, when it was taken, on any clock; for all frames or for none. Times increase.

        Raises:
            ValueError: if the frame is no picture that the pixel format can hold, or its time does not increase, or
                only some frames have one. The frame is not added; the recording may go on.
            CameraFormatChangedError: if it has another size or format than the first frame; the recording may go on.
            EncoderUnavailableError: if the encoder does not open.
            EncoderFailedError: if the encoder fails.
            RecordingDiskFullError: if the disk is full; what was recorded so far is kept in the local file.
            RecordingError: if the writer is closed, or the local file cannot be made.
        """
        self._check_open("add a frame to")
        seconds = None if timestamp is None else float(timestamp)
        times = self._times or self._new_times(seconds)
        tick = times.tick(seconds)
        picture = self._pictures.make(frame)
        try:
            if self._file is None:
                self._file = self._open_file(picture.width, picture.height, times, seconds)
            self._file.write(picture, tick)
        except BaseException as error:
            self._fail(error)
            raise
        times.add(seconds)
        self._times = times

    def close(self) -> None:
        """Finish the file and publish it: the MP4 first, then its sidecar. Closing twice does nothing.

        Raises:
            RecordingError: if no frame was added, or the recording failed before; nothing is published then.
            EncoderFailedError: if the encoder fails, or the file does not hold the frames that were added.
            StoreError: if the store does not take the video; it is kept in the local file that the message names.
        """
        if self._state == "closed":
            return
        self._check_open("close")
        if self._file is None or self._times is None:
            self._state = "closed"
            raise RecordingError(
                f"Expected a frame or more for {display_uri(self._uri)}, got none: nothing was written. Use abort() to "
                "close a writer without a video."
            )
        try:
            self._file.finish()
            index = self._index_of(self._file.path, self._times)
        except BaseException as error:
            self._fail(error)
            raise
        self._state = "closed"
        self._publish(self._file.path, index)

    def abort(self) -> None:
        """Give the recording up: nothing is published and the local file is removed. Harmless once closed."""
        if self._state != "open":
            return
        self._state = "aborted"
        if self._file is not None:
            self._file.abandon()
            _remove(self._file.path)

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close after a block that ended well, abort after an exception."""
        if kind is None:
            self.close()
        else:
            self.abort()

    # -- writing ------------------------------------------------------------------------------------------------------

    def _check_open(self, action: str) -> None:
        if self._state != "open":
            raise RecordingError(f"Cannot {action} the writer of {display_uri(self._uri)}: it is {self._state}.")

    def _new_times(self, first: float | None) -> GridTimes | CaptureTimes:
        if first is not None:
            return CaptureTimes(self._origin)
        if self._origin is not None:
            raise ValueError(f"Expected a timestamp for frame 0, because an origin of {self._origin} s was given.")
        return GridTimes(self._rate)

    def _open_file(self, width: int, height: int, times: GridTimes | CaptureTimes, first: float | None) -> Mp4File:
        spec = StreamSpec(
            encoder=self._encoder,
            width=width,
            height=height,
            pix_fmt=self._pictures.pix_fmt,
            rate=self._rate,
            time_base=times.time_base,
            options=self._options,
            is_yuv=self._pictures.is_yuv,
            is_full_range=self._pictures.is_full_range,
        )
        origin = first if self._origin is None else self._origin
        path = self._spool_path()
        try:
            return Mp4File(path, spec, metadata={} if origin is None else {ORIGIN_TAG: repr(origin)})
        except BaseException:
            _remove(path)
            raise

    def _spool_path(self) -> str:
        """A name that listings leave out and that tells a later repair what it was to become."""
        folder = self._spool_dir
        if folder is None:
            folder = parent_uri(self._uri) if is_local(self._uri) else str(own_spool_folder())
        try:
            for changed in make_folders(folder):
                sync_folder(changed)
        except OSError as error:
            raise RecordingError(f"Cannot make the folder {folder} of the recording: {error}.") from error
        name = basename(self._uri)[-100:]
        return str(Path(folder).absolute() / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{name}")

    def _fail(self, error: BaseException) -> None:
        """No more frames after an error of the encoder or disk; the finished part outlives a full disk only."""
        self._state = f"failed ({type(error).__name__})"
        if self._file is not None:
            self._file.abandon()
            if not isinstance(error, RecordingDiskFullError):
                _remove(self._file.path)

    # -- publishing ---------------------------------------------------------------------------------------------------

    def _index_of(self, path: str, times: GridTimes | CaptureTimes) -> FrameIndex:
        """The index of the finished file, with the times that its frames were given; proves that none is missing."""
        index = build_index(path, scan="full")
        expected = times.expected_seconds()
        if len(index) != len(expected) or np.any(np.abs(index.timestamp - expected) > 1e-6):
            raise EncoderFailedError(
                f"Expected {len(expected)} frames at the times they were given in {path}, found {len(index)} frames, "
                f"{_first_difference(index.timestamp, expected)}: the encoder {self._encoder} drops or moves frames."
            )
        return dataclasses.replace(index, timestamp=times.seconds()) if isinstance(times, CaptureTimes) else index

    def _publish(self, path: str, index: FrameIndex) -> None:
        meta = self._put(path)
        if not self._write_sidecar:
            return
        (source,) = index.sources
        if source.size != meta.size:
            raise CorruptVideoError(
                f"Expected {source.size} bytes at {display_uri(self._uri)}, found {meta.size}: another writer uses the "
                "name. Choose another uri."
            )
        index = dataclasses.replace(index, sources=(dataclasses.replace(source, etag=meta.etag),))
        write_index(index, self._uri, store=self._store)

    def _put(self, path: str) -> ObjectMeta:
        """Bring the finished file to its place."""
        if is_local(self._uri) and _moved(path, self._uri):
            return self._store.head(self._uri)
        try:
            meta = self._store.upload(path, self._uri)
        except Exception as error:
            error.add_note(f"The finished video is kept in {path}.")
            raise
        _remove(path)
        return meta


def _moved(path: str, target: str) -> bool:
    """Whether the file could be renamed to its target, which another disk or a folder of that name forbids."""
    try:
        os.replace(path, target)
        sync_folder(Path(target).parent)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EISDIR, errno.ENOENT):
            return False
        raise RecordingError(f"Cannot move the finished video {path} to {target}: {error}.") from error
    return True


def _first_difference(found: timing.FloatArray, expected: timing.FloatArray) -> str:
    shared = min(len(found), len(expected))
    differs = np.flatnonzero(np.abs(found[:shared] - expected[:shared]) > 1e-6)
    if not len(differs):
        return f"the first {shared} of them in place"
    first = int(differs[0])
    return f"frame {first} at {found[first]} s instead of {expected[first]} s"


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
