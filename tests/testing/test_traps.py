"""Each trap of the corpus still is one: the naive way of reading it goes wrong, the right way does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import pytest

from lazyvid.testing import VideoCorpus, read_frame_number
from lazyvid.testing._bits import BitReader, avcc_parameter_sets, states_reorder_depth
from lazyvid.testing.traps import CodedPacket, padded_packet, read_packets


@dataclass(frozen=True)
class Fed:
    """A file's packets, to be fed to decoders without its container."""

    codec: str
    extradata: bytes | None
    packets: list[CodedPacket]
    hidden: set[int]

    @classmethod
    def open(cls, path: Path) -> Fed:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            hidden = {i for i, p in enumerate(p for p in container.demux(stream) if p.size) if p.is_discard}
            context = stream.codec_context
            return cls(context.name, context.extradata, read_packets(path), hidden)

    @property
    def keys(self) -> list[int]:
        return [i for i, packet in enumerate(self.packets) if packet.key]

    def context(self, **options: str) -> av.VideoCodecContext:
        context = av.CodecContext.create(self.codec, "r")
        context.extradata = self.extradata
        context.thread_count, context.thread_type = 1, "NONE"
        context.options = options
        return context

    def start(self, target: int) -> int:
        """The nearest key packet that is before the target both in decode and in presentation order."""
        pts = self.packets[target].pts
        return max(key for key in self.keys if key <= target and self.packets[key].pts <= pts)

    def run(
        self, context: av.VideoCodecContext, positions: Iterable[int], make: Callable[[bytes], av.Packet] | None = None
    ) -> dict[int, int | str]:
        """Feeds packets and drains: what came out, as decode position -> number ("unreadable" for a broken picture)."""
        out: dict[int, int | str] = {}
        for position in [*positions, None]:
            packet = None
            if position is not None:
                packet = (make or padded_packet)(self.packets[position].data)
                packet.pts = position
            try:
                frames = context.decode(packet)
            except av.FFmpegError:
                continue
            for frame in frames:
                try:
                    out[frame.pts] = read_frame_number(frame.to_ndarray(format="rgb24"))
                except ValueError:
                    out[frame.pts] = "unreadable"
        return out

    def numbers(self) -> dict[int, int]:
        """The number of each packet's frame, taken from a decode of everything in order."""
        found = self.run(self.context(strict="1"), range(len(self.packets)))
        assert "unreadable" not in found.values()
        return {position: int(number) for position, number in found.items()}


def wrong_alone(
    fed: Fed, *, start: Callable[[int], int] | None = None, skip: Collection[int] = (), **options: str
) -> int:
    """How many of every second packet's frames are missing or wrong when each is decoded alone, in a new context."""
    numbers, wrong = fed.numbers(), 0
    for target in sorted(numbers)[::2]:
        positions = range((start or fed.start)(target), target + 1)
        came_out = fed.run(fed.context(**options), [p for p in positions if p == target or p not in skip])
        wrong += came_out.get(target) != numbers[target]
    return wrong


class TestLeadingPictures:
    @pytest.mark.parametrize("name", ["h264_open_gop", "hevc_open_gop"])
    def test_leading_pictures_need_the_key_packet_before(self, corpus: VideoCorpus, name: str) -> None:
        fed = Fed.open(corpus[name])

        def nearest(target: int) -> int:
            return max(key for key in fed.keys if key <= target)

        assert wrong_alone(fed, start=nearest, strict="1") > 0
        assert wrong_alone(fed, strict="1") == 0


class TestHiddenPackets:
    @pytest.mark.parametrize("name", ["h264_edit_list", "h264_edit_list_mov", "hevc_edit_list"])
    def test_an_edit_list_hides_packets_that_others_need(self, corpus: VideoCorpus, name: str) -> None:
        fed = Fed.open(corpus[name])
        assert len(fed.hidden) >= 10
        assert 0 in fed.hidden
        shown = set(range(len(fed.packets))) - fed.hidden
        came_out = fed.run(fed.context(strict="1"), sorted(shown)[:5])
        assert set(came_out.values()) <= {"unreadable"}

    def test_vp8_has_packets_that_never_come_out(self, corpus: VideoCorpus) -> None:
        fed = Fed.open(corpus["vp8_hidden"])
        assert (len(fed.packets), len(fed.numbers())) == (60, 54)
        invisible = {i for i in range(60) if i % 10 == 9}
        assert wrong_alone(fed) == 0
        assert wrong_alone(fed, skip=invisible) > 0

    @pytest.mark.parametrize("name", ["vp9_hidden", "vp9_hidden_webm"])
    def test_vp9_has_two_frames_in_its_key_packets(self, corpus: VideoCorpus, name: str) -> None:
        fed = Fed.open(corpus[name])
        superframes = [i for i, packet in enumerate(fed.packets) if packet.data[-1] & 0xE0 == 0xC0]
        assert superframes == fed.keys
        assert wrong_alone(fed) == 0

    @pytest.mark.parametrize("name", ["av1", "av1_mkv"])
    def test_av1_has_packets_of_several_frames(self, corpus: VideoCorpus, name: str) -> None:
        assert any(frames > 1 for frames in map(av1_frames, (p.data for p in read_packets(corpus[name]))))


def av1_frames(data: bytes) -> int:
    """The number of frames and frame headers in a temporal unit (AV1 specification, 5.3)."""
    count = position = 0
    while position < len(data):
        kind, extension = data[position] >> 3 & 15, data[position] >> 2 & 1
        position += 1 + extension
        size = shift = 0
        while True:
            byte = data[position]
            size |= (byte & 127) << shift
            position, shift = position + 1, shift + 7
            if not byte & 128:
                break
        count += kind in (3, 6)
        position += size
    return count


class TestParameterSets:
    def test_inband_ones_poison_a_context_that_is_used_again(self, corpus: VideoCorpus) -> None:
        fed = Fed.open(corpus["h264_inband_parameters"])
        numbers = fed.numbers()
        assert sorted(numbers.values()) == list(range(120))
        assert wrong_alone(fed, strict="1") == 0
        context, order = fed.context(strict="1"), random.Random(0).sample(sorted(numbers), len(numbers))
        wrong = 0
        for target in order:
            wrong += fed.run(context, range(fed.start(target), target + 1)).get(target) != numbers[target]
            context.flush_buffers()
        assert wrong > 0

    def test_a_silent_reorder_depth_loses_frames(self, corpus: VideoCorpus) -> None:
        fed = Fed.open(corpus["h264_no_reorder_depth"])
        sps, _ = avcc_parameter_sets(fed.extradata or b"")
        assert not any(map(states_reorder_depth, sps))
        everything = range(len(fed.packets))
        assert len(fed.run(fed.context(strict="1"), everything)) == len(fed.packets)
        assert len(fed.run(fed.context(), everything)) < len(fed.packets)

    def test_an_ordinary_file_states_it(self, corpus: VideoCorpus) -> None:
        sps, _ = avcc_parameter_sets(Fed.open(corpus["h264_closed"]).extradata or b"")
        assert all(map(states_reorder_depth, sps))


class TestKeyPacketsThatLie:
    def test_intra_refresh_needs_an_earlier_start(self, corpus: VideoCorpus) -> None:
        fed = Fed.open(corpus["h264_intra_refresh"])
        idr = [i for i, packet in enumerate(fed.packets) if 5 in h264_nal_types(packet.data)]
        assert idr == [0]
        assert len(fed.keys) > 2
        assert wrong_alone(fed, strict="1") > 10

        def one_earlier(target: int) -> int:
            return max((key for key in fed.keys if key < fed.start(target)), default=0)

        assert wrong_alone(fed, start=one_earlier, strict="1") == 0


def h264_nal_types(data: bytes) -> set[int]:
    types, position = set(), 0
    while position + 4 < len(data):
        types.add(data[position + 4] & 31)
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return types


class TestVp9Layers:
    def test_packets_that_refresh_no_frame_are_needed_all_the_same(self, corpus: VideoCorpus) -> None:
        fed = Fed.open(corpus["vp9_layers"])
        headers = [vp9_header(packet.data) for packet in fed.packets]
        unreferenced = {i for i, (refreshes, _) in enumerate(headers) if not refreshes}
        harmless = {i for i in unreferenced if not headers[i][1]}
        assert (len(fed.packets), len(unreferenced)) == (90, 45)
        assert 0 < len(harmless) < len(unreferenced)
        assert wrong_alone(fed) == 0
        assert wrong_alone(fed, skip=unreferenced) > 10


def vp9_header(data: bytes) -> tuple[int, int]:
    """(refresh_frame_flags, refresh_frame_context) of a profile 0 frame of constant size (VP9 specification, 7.2)."""
    reader = BitReader(data[:64])
    reader.read(5)
    is_inter, shown, resilient = reader.read(), reader.read(), reader.read()
    if not is_inter:
        return 0xFF, 1
    assert (shown, resilient) == (1, 0)
    reader.read(2)
    refreshes = reader.read(8)
    reader.read(12)
    assert any(reader.read() for _ in range(3)), "the frame has a size of its own"
    reader.read(1)
    if not reader.read():
        reader.read(2)
    return refreshes, reader.read()


class TestUnpaddedPackets:
    def test_mpeg4_reads_what_lies_behind_a_packet(self, corpus: VideoCorpus) -> None:
        fed = Fed.open(corpus["mpeg4_skipped"])

        def followed_by(filler: bytes) -> Callable[[bytes], av.Packet]:
            # `av.Packet` of a buffer points into it; what follows is whatever the heap holds there
            return lambda data: av.Packet(memoryview(data + filler * 64)[: len(data)])

        def pixels(make: Callable[[bytes], av.Packet]) -> list[bytes]:
            context = fed.context()
            packets = [make(packet.data) for packet in fed.packets]
            return [f.to_ndarray().tobytes() for packet in [*packets, None] for f in context.decode(packet)]

        expected = pixels(padded_packet)
        assert pixels(followed_by(b"\0")) == expected
        assert pixels(followed_by(b"\1")) != expected
