"""Streams taken apart for the tests of this room: a source, its payloads and the pictures of a sequential decode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.video.frame import VideoFrame

from lazyvid.index.frame_index import FrameIndex, Source
from lazyvid.index.probe import build_index
from lazyvid.testing.traps import read_packets


def opened(path: Path) -> tuple[FrameIndex, Source, list[bytes]]:
    """A file's index, its first source and its payloads in decode order."""
    index = build_index(path)
    return index, index.sources[0], [packet.data for packet in read_packets(path)]


def pictures(path: Path, *, count: int | None = None) -> Iterator[VideoFrame]:
    """The first pictures of a file as a container decodes them, one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count, stream.thread_type = 1, "NONE"
        for number, picture in enumerate(container.decode(stream)):
            if number == count:
                return
            yield picture
