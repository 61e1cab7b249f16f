"""One file under examination, and the steps that `probe_mp4` and `probe_other` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from lazyvid.errors import CorruptVideoError, NoVideoStreamError
from lazyvid.index.frame_index import Source
from lazyvid.index.probe_demux import PacketRows, open_container, video_stream
from lazyvid.index.probe_emerging import is_doubtful, silent_packets
from lazyvid.index.probe_parameters import CodecParameters, check_pixels, codec_parameters
from lazyvid.index.sparse import BytesFile, ByteSource, WindowedBytes, run_with_file, with_file
from lazyvid.storage import display_uri

if TYPE_CHECKING:
    from av.container import InputContainer

    from lazyvid.frames import Limits
    from lazyvid.index.fingerprint import ScannedHeaders
    from lazyvid.storage import ObjectMeta, ObjectStore

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class VideoFile:
    """One file under examination."""

    store: ObjectStore
    meta: ObjectMeta
    headers: ScannedHeaders
    container: str
    """A key of `sniff.DEMUXERS`."""
    stream: int | None
    """Position among the video streams; None takes the first."""
    limits: Limits

    @property
    def uri(self) -> str:
        """Its name in errors."""
        return display_uri(self.meta.uri)

    def payloads(self) -> ByteSource:
        """All of its bytes: those already read where they are all, else fetched window by window."""
        if not self.headers.bytes.missing(0, self.meta.size):
            return self.headers.bytes
        return WindowedBytes(self.store, self.meta)

    def with_container(
        self, source: ByteSource, work: Callable[[InputContainer], Result], *, table_only: bool = False
    ) -> Result:
        """Let `work` look at the file, opened by FFmpeg over `source`.

        Args:
            source: Its bytes, or headers and zeros.
            work: Done in another thread.
            table_only: See `open_container`.
        """
        opened = partial(self._opened, work=work, limits=self.limits, table_only=table_only)
        return run_with_file(source, opened)

    def _opened(
        self,
        file: BytesFile,
        *,
        work: Callable[[InputContainer], Result],
        limits: Limits | None,
        table_only: bool = False,
    ) -> Result:
        opened = open_container(file, self.container, uri=self.uri, limits=limits, table_only=table_only)
        with opened as container:
            return work(container)

    def parameters(self, source: ByteSource, container: InputContainer) -> CodecParameters:
        """The codec parameters of the file's stream.

        Args:
            source: What `container` was opened over.
            container: Opened to look at payload.

        Raises:
            LimitExceededError: if its pictures are larger than the limits allow.
            CorruptVideoError: if nothing says how large they are.
        """
        stream = video_stream(container, self.stream, uri=self.uri)
        context = stream.codec_context
        if context is not None and not (context.width and context.height):
            width, height = with_file(BytesFile(source), partial(self._opened, work=self._stated_size, limits=None))
            check_pixels(width, height, uri=self.uri, limits=self.limits)
            raise CorruptVideoError(
                f"Expected a video stream that says how large its pictures are, found none of its parameter sets in "
                f"{self.uri}. It cannot be decoded; cut it at a key frame, or make it anew."
            )
        return codec_parameters(stream, uri=self.uri, limits=self.limits)

    def _stated_size(self, container: InputContainer) -> tuple[int, int]:
        stream = video_stream(container, self.stream, uri=self.uri)
        return stream.codec_context.width, stream.codec_context.height

    def source(self, parameters: CodecParameters, rows: PacketRows, *, rotation: int, hflip: bool) -> Source:
        """The source that the file is."""
        return Source(
            uri="",
            size=self.meta.size,
            etag=self.meta.etag,
            fingerprint=self.headers.fingerprint,
            container=self.container,
            time_base=rows.time_base,
            stream=self.stream or 0,
            rotation=rotation,
            hflip=hflip,
            **{field.name: getattr(parameters, field.name) for field in fields(parameters)},
        )


def check_any_packets(file: VideoFile, rows: PacketRows) -> None:
    """Raise NoVideoStreamError when a stream has no packet."""
    if not len(rows):
        raise NoVideoStreamError(f"Expected at least one frame, found a video stream without any in {file.uri}.")


def hide_silent(
    file: VideoFile,
    rows: PacketRows,
    shown: npt.NDArray[np.bool_],
    source: Source,
    payloads: Callable[[int], Iterable[bytes]],
    *,
    first_key_payload: bytes,
) -> npt.NDArray[np.bool_]:
    """Find the packets that give no picture of their own, in the rare files that may have such.

    Args:
        file: The file.
        rows: Its packets; the first one becomes a key packet when pictures come out of packets before the first key.
        shown: bool [N], those that are to be shown.
        source: Their codec parameters.
        payloads: The payloads of the first n packets, in decode order.
        first_key_payload: Of the first key packet.

    Returns:
        `shown` without them, bool [N].
    """
    if not is_doubtful(rows, shown, source, first_key_payload):
        return shown
    silent, before_key = silent_packets(rows, payloads, source, limits=file.limits)
    if before_key and len(rows):
        rows.key[0] = True  # nothing comes before it: whatever can be decoded here can be decoded from here
    return shown & ~silent
