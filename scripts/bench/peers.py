"""The contenders of the decoding benchmark, each behind the same two calls: open a file, give a clip.

Every decoder is opened once a file and used again, which is the best case of those that scan the file at opening.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import av
import numpy as np
import torch
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from torch import Tensor

from lazyvid import FrameIndex, LazyVideo, build_index
from lazyvid.decoding.plan import DecodeOrder, plan_runs
from lazyvid.decoding.scaling import Scaler, Scaling

Size = tuple[int, int]


class Peer(Protocol):
    """A decoder of one file that is open."""

    def __init__(self, path: Path, resize: Size | None) -> None:
        """Open a file.

        Args:
            path: A local video.
            resize: (height, width) of the frames; None keeps the video's.
        """

    def clip(self, numbers: Sequence[int]) -> Tensor | None:
        """uint8 [N, H, W, 3] of these frames, or None where no picture is made of them."""


class LazyVid:
    """This package, default options; its index is beside the video."""

    def __init__(self, path: Path, resize: Size | None) -> None:
        self._video = LazyVideo(path, resize=resize, channel_format="NHWC", on_missing_index="raise")

    def clip(self, numbers: Sequence[int]) -> Tensor:
        """The frames, as this decoder makes them."""
        return self._video.get_frames_at(numbers).frames


class TorchCodec:
    """torchcodec with one thread; `seek_mode` "exact", its default."""

    seek_mode: Literal["exact", "approximate"] = "exact"

    def __init__(self, path: Path, resize: Size | None, *, custom_frame_mappings: str | None = None) -> None:
        decoders: Any = import_module("torchcodec.decoders")
        transforms: Any = import_module("torchcodec.transforms")
        self._decoder = decoders.VideoDecoder(
            str(path),
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode=self.seek_mode,
            transforms=[transforms.Resize(resize)] if resize else None,
            custom_frame_mappings=custom_frame_mappings,
        )

    def clip(self, numbers: Sequence[int]) -> Tensor:
        """The frames, as this decoder makes them."""
        frames: Tensor = self._decoder.get_frames_at(list(numbers)).data
        return frames


class TorchCodecApproximate(TorchCodec):
    """torchcodec that seeks by the average rate and does not scan the file."""

    seek_mode = "approximate"


class TorchCodecMappings(TorchCodec):
    """torchcodec that is given the frames' times and key frames, and neither scans nor guesses."""

    def __init__(self, path: Path, resize: Size | None) -> None:
        super().__init__(path, resize, custom_frame_mappings=frame_mappings(build_index(path)))


class PyAv:
    """PyAV as people write it: seek to the first frame, decode until the last one, convert those that are wanted."""

    def __init__(self, path: Path, resize: Size | None) -> None:
        self._container = av.open(str(path))
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count, self._stream.codec_context.thread_type = 1, "NONE"
        size: tuple[int | None, int | None] = resize or (None, None)
        self._height, self._width = size

    def clip(self, numbers: Sequence[int]) -> Tensor:
        """The frames, as this decoder makes them."""
        rate, time_base = self._stream.average_rate, self._stream.time_base
        if rate is None or time_base is None:
            raise TypeError("Expected a stream that states its rate.")
        self._container.seek(int(min(numbers) / rate / time_base), stream=self._stream)
        found: dict[int, np.ndarray] = {}
        wanted, last = set(numbers), max(numbers)
        for frame in self._container.decode(self._stream):
            number = round((frame.pts or 0) * time_base * rate)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24", height=self._height, width=self._width)
            if number >= last:
                break
        return torch.from_numpy(np.stack([found[number] for number in numbers]))


class Decord:
    """decord2 with one thread; its own background thread cannot be turned off."""

    def __init__(self, path: Path, resize: Size | None) -> None:
        decord: Any = import_module("decord")
        height, width = resize or (-1, -1)
        self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, width=width, height=height)

    def clip(self, numbers: Sequence[int]) -> Tensor:
        """The frames, as this decoder makes them."""
        return torch.from_numpy(self._reader.get_batch(list(numbers)).asnumpy())


class Spdl:
    """SPDL with one thread: packets of the whole file kept in memory, those of the groups that are needed decoded."""

    def __init__(self, path: Path, resize: Size | None) -> None:
        self._io: Any = import_module("spdl.io")
        height, width = resize or (None, None)
        self._filter = self._io.get_video_filter_desc(
            scale_width=width, scale_height=height, scale_algo="bilinear", scale_mode=None, pix_fmt="rgb24"
        )
        self._packets = self._io.demux_video(str(path))

    def clip(self, numbers: Sequence[int]) -> Tensor:
        """The frames, as this decoder makes them."""
        # The packets given are used up; a clone of them shares their bytes.
        frames = self._io.sample_decode_video(self._packets.clone(), list(numbers), filter_desc=self._filter)
        converted: Tensor = self._io.to_torch(self._io.convert_frames(frames))
        return converted


class Limit:
    """Just the needed packets through libavcodec: no reading, no planning, no conversion. Nobody can be faster.

    Packets are in memory, padded, planned from an index that knows which are disposable; one context is used again.
    """

    def __init__(self, path: Path, resize: Size | None) -> None:
        self._order = DecodeOrder.of(build_index(path, scan="full"), 0)
        self._height, self._width = resize or self._order.source.display_size
        self._position = {row: position for position, row in enumerate(self._order.row.tolist())}
        self._packets = _packets(path, self._order)
        self._context = _context(path)
        self._plans: dict[tuple[int, ...], list[tuple[list[Packet[Any]], set[int]]]] = {}

    def clip(self, numbers: Sequence[int]) -> Tensor | None:
        """Decode the frames and drop them."""
        for packets, wanted in self._planned(tuple(numbers)):
            left = set(wanted)
            for packet in packets:
                self._take(self._context.decode(packet), left, numbers)
            if left:
                self._take(self._context.decode(None), left, numbers)
            if left:
                raise RuntimeError(f"The limit's plan does not give frames {sorted(left)}.")
            self._context.flush_buffers()
        return None

    def _take(self, pictures: Sequence[VideoFrame], left: set[int], numbers: Sequence[int]) -> None:
        for picture in pictures:
            if picture.pts in left:
                left.discard(picture.pts)
                self._use(picture, numbers)

    def _use(self, picture: VideoFrame, numbers: Sequence[int]) -> None:
        """Do nothing with a wanted picture."""

    def _planned(self, numbers: tuple[int, ...]) -> list[tuple[list[Packet[Any]], set[int]]]:
        if numbers not in self._plans:
            positions = np.unique([self._position[number] for number in numbers])
            plan: list[tuple[list[Packet[Any]], set[int]]] = []
            stop = -1
            for run in plan_runs(self._order, positions):
                packets = [self._packets[p] for p in run.positions]
                wanted = set(self._order.row[run.wanted].tolist())
                if run.start == stop:  # feeding on costs no packet and saves a drain
                    plan[-1] = (plan[-1][0] + packets, plan[-1][1] | wanted)
                else:
                    plan.append((packets, wanted))
                stop = run.stop
            self._plans[numbers] = plan
        return self._plans[numbers]


class LimitConverted(Limit):
    """The limit, with one pass of libswscale to RGB and the size asked for, into warm memory.

    By `lazyvid`'s own scaler, which writes in place what PyAV would first put into a picture of its own: without it the
    limit would not be one.
    """

    def __init__(self, path: Path, resize: Size | None) -> None:
        super().__init__(path, resize)
        width, height = self._order.source.width, self._order.source.height
        self._scaler = Scaler(Scaling(width, height, self._width, self._height, "rgb24", 3, Interpolation.BILINEAR))
        self._memory: dict[int, Tensor] = {}

    def clip(self, numbers: Sequence[int]) -> Tensor:
        """The frames, in memory that the next clip of this length overwrites."""
        out = self._rows(len(numbers))
        super().clip(numbers)
        return out

    def _rows(self, count: int) -> Tensor:
        if count not in self._memory:
            self._memory[count] = torch.zeros((count, self._height, self._width, 3), dtype=torch.uint8)
        return self._memory[count]

    def _use(self, picture: VideoFrame, numbers: Sequence[int]) -> None:
        self._scaler.write(picture, self._rows(len(numbers))[numbers.index(picture.pts)].numpy())


def frame_mappings(index: FrameIndex) -> str:
    """What torchcodec takes as custom frame mappings, as `ffprobe -show_frames` would print it."""
    packets = index.packets
    columns = zip(packets.pts.tolist(), packets.duration.tolist(), packets.key.tolist(), strict=True)
    return json.dumps({"frames": [{"pts": p, "duration": d, "key_frame": int(k)} for p, d, k in columns]})


def _packets(path: Path, order: DecodeOrder) -> list[Packet[Any]]:
    """All packets of a file, each with its row as its pts."""
    data = path.read_bytes()
    packets = []
    for row, offset, size in zip(order.row.tolist(), order.offset.tolist(), order.size.tolist(), strict=True):
        packet = Packet(size)
        packet.update(data[offset : offset + size])
        packet.pts = row
        packets.append(packet)
    return packets


def _context(path: Path) -> av.VideoCodecContext:
    """A context as the container would open it, one thread."""
    with av.open(str(path)) as container:
        theirs = container.streams.video[0].codec_context
        context = av.VideoCodecContext.create(theirs.codec.name, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.extradata = theirs.extradata
        context.thread_count, context.thread_type = 1, "NONE"
        return context


PEERS: Mapping[str, type[Peer]] = MappingProxyType(
    {
        "lazyvid": LazyVid,
        "torchcodec": TorchCodec,
        "torchcodec-approximate": TorchCodecApproximate,
        "torchcodec-mappings": TorchCodecMappings,
        "pyav": PyAv,
        "decord2": Decord,
        "spdl": Spdl,
        "limit": Limit,
        "limit-converted": LimitConverted,
    }
)
_MODULES = {
    "torchcodec": "torchcodec",
    "torchcodec-approximate": "torchcodec",
    "torchcodec-mappings": "torchcodec",
    "decord2": "decord",
    "spdl": "spdl.io",
}


def installed(names: Sequence[str]) -> list[str]:
    """Those of `names` whose package is there and loads."""
    return [name for name in names if name not in _MODULES or _loads(_MODULES[name])]


def _loads(module: str) -> bool:
    try:
        import_module(module)
    except (ImportError, RuntimeError, OSError):  # torchcodec without FFmpeg's libraries raises RuntimeError
        return False
    return True
