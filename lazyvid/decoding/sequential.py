"""A file decoded from its first picture to its last through its container: what every other way of reading must equal.

Used by `verify` and by the demo. Kept apart from the packet-fed readers on purpose: it shares no code with them but the
opening of the container.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from lazyvid.index.frame_index import Source
from lazyvid.index.probe_demux import only, open_container, video_stream
from lazyvid.index.sparse import BytesFile, WindowedBytes, run_with_file
from lazyvid.storage import ObjectMeta, ObjectStore, display_uri

if TYPE_CHECKING:
    from lazyvid.frames import Limits

Picture = VideoFrame
"""A decoded picture, as FFmpeg gives it."""
Look = Callable[[int, Picture], None]
"""Is given each picture and its number, from 0, in the order in which they are shown."""


def decode_file(
    store: ObjectStore, meta: ObjectMeta, source: Source, *, limits: Limits, look: Look, stop: int | None = None
) -> None:
    """Decode one video stream of a file from its start, in memory that does not grow with the file.

    FFmpeg is given a file object and the format that the source names, never a path, a URL or a guess.

    Args:
        store: Where the file lies.
        meta: The version to read.
        source: Its container and stream.
        limits: FFmpeg refuses pictures with more pixels.
        look: Called with each picture, in another thread than the caller's, one after the other.
        stop: How many pictures to decode; None is all.

    Raises:
        VideoError: if FFmpeg fails; what came before was looked at.
        StoreError: if the store does not give the bytes.
    """
    uri = display_uri(meta.uri)

    def work(file: BytesFile) -> None:
        with open_container(file, source.container, uri=uri, limits=limits, table_only=False) as container:
            stream = video_stream(container, source.stream, uri=uri)
            only(container, stream)
            stream.thread_count = 1
            if source.codec == "h264":
                # Else FFmpeg drops pictures of streams that do not state how far they are reordered.
                stream.codec_context.options = {"strict": "1"}
            for number, picture in enumerate(itertools.islice(container.decode(stream), stop)):
                look(number, picture)

    run_with_file(WindowedBytes(store, meta), work)


def rgb_pixels(picture: Picture, source: Source) -> npt.NDArray[np.uint8]:
    """A decoded picture as it is shown: uint8 [H, W, 3], RGB, turned upright."""
    pixels = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    if source.hflip:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.rot90(pixels, source.rotation // 90))
