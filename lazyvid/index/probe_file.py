"""One file under examination, and the steps that `probe_mp4` and `probe_other` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from lazyvid.errors import NoVideoStreamError
from lazyvid.index.frame_index import Source
from lazyvid.index.probe_demux import PacketRows, open_container
from lazyvid.index.probe_emerging import is_doubtful, silent_packets
from lazyvid.index.sparse import BytesFile, ByteSource, WindowedBytes, run_with_file
from lazyvid.storage import display_uri

if TYPE_CHECKING:
    from av.container import InputContainer

    from lazyvid.frames import Limits
    from lazyvid.index.fingerprint import ScannedHeaders
    from lazyvid.index.probe_parameters import CodecParameters
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

        def open_and_work(file: BytesFile) -> Result:
            opened = open_container(file, self.container, uri=self.uri, limits=self.limits, table_only=table_only)
            with opened as container:
                return work(container)

        return run_with_file(source, open_and_work)

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
