"""The videos that benchmarks decode: one real content, encoded as cameras, web sites and robots do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import cast

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lazyvid.recording.scheduling import kept_scheduling
from lazyvid.testing import painted_frame

FPS = 30


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a content is encoded."""

    codec: str
    gop: int
    options: Mapping[str, str] = field(default_factory=dict)


_X264 = {"preset": "medium", "crf": "23", "sc_threshold": "0"}  # no key packets but those of the GOP

ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "h264-gop2": Encoding("libx264", 2, _X264),
        "h264-gop30": Encoding("libx264", 30, {**_X264, "bf": "3"}),
        "h264-gop250": Encoding("libx264", 250, {**_X264, "bf": "3"}),
        # As LeRobot records.
        "av1-gop2": Encoding("libsvtav1", 2, {"preset": "8", "crf": "30"}),
    }
)


@dataclass(frozen=True, slots=True)
class Content:
    """Pictures to encode, at 30 frames per second."""

    video: Path | None = None
    """A real video, scaled, and repeated until there are enough frames; None paints a moving texture."""
    width: int = 640
    height: int = 360
    frames: int = 600

    def pictures(self) -> Iterator[VideoFrame]:
        """`frames` pictures in YUV 4:2:0, timed."""
        source = self._painted() if self.video is None else self._repeated(self.video)
        for number, picture in enumerate(islice(source, self.frames)):
            scaled = picture.reformat(self.width, self.height, "yuv420p")
            scaled.pts, scaled.time_base = number, Fraction(1, FPS)
            # The source's picture types would otherwise become key frames of ours.
            scaled.pict_type = 0
            yield scaled

    def _painted(self) -> Iterator[VideoFrame]:
        for number in range(self.frames):
            yield VideoFrame.from_ndarray(painted_frame(number, width=self.width, height=self.height), format="rgb24")

    def _repeated(self, video: Path) -> Iterator[VideoFrame]:
        return chain.from_iterable(_decoded(video) for _ in range(self.frames))

    def write(self, folder: Path, name: str) -> Path:
        """The content in one of `ENCODINGS`; taken as it is when an earlier run wrote it."""
        encoding = ENCODINGS[name]
        digest = hashlib.blake2b(repr((self, self._source_size(), encoding)).encode(), digest_size=6).hexdigest()
        path = folder / f"{name}-{digest}.mp4"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{os.getpid()}-{path.name}")
            self._encode(unfinished, encoding)
            unfinished.replace(path)
        return path

    def _source_size(self) -> int | None:
        return None if self.video is None else self.video.stat().st_size

    def _encode(self, path: Path, encoding: Encoding) -> None:
        with av.open(str(path), "w") as container:
            stream = cast("VideoStream", container.add_stream(encoding.codec, rate=FPS, options=dict(encoding.options)))
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            stream.codec_context.gop_size = encoding.gop
            with kept_scheduling():
                stream.codec_context.open(strict=False)
            for picture in self.pictures():
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))


def _decoded(video: Path) -> Iterator[VideoFrame]:
    with av.open(str(video)) as container:
        yield from container.decode(container.streams.video[0])
