"""What packets tell of themselves, proven by decoding: never taken from another parser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyvid.index.bitstream import BitstreamReader
from lazyvid.index.bitstream_h264 import allows_fields
from lazyvid.testing import CORPUS, VideoCorpus, VideoSpec, write_video

DECODERS = {"av1": "libdav1d"}
CODECS = ("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "mjpeg")
HAS_DISPOSABLE = ("h264_closed", "h264_gop250", "h264_open_gop", "h264_ts", "hevc", "hevc_open_gop", "av1", "av1_mkv")
WITHOUT_VIDEO = ("audio_only",)


@dataclass(frozen=True)
class Stream:
    codec: str
    extradata: bytes
    packets: tuple[bytes, ...]

    @property
    def reader(self) -> BitstreamReader:
        return BitstreamReader.for_source(self.codec, self.extradata)


@cache
def stream_of(path: Path) -> Stream:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        packets = tuple(bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size)
        return Stream(context.codec.canonical_name, context.extradata or b"", packets)


def pixels(frame: av.VideoFrame) -> bytes:
    """The planes without the bytes that only fill up their lines."""
    sample_bytes = 2 if frame.format.components[0].bits > 8 else 1
    lines = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]
    return b"".join(
        array[: plane.height, : plane.width * sample_bytes].tobytes()
        for plane, array in zip(frame.planes, lines, strict=True)
    )


def decode(stream: Stream, *, without: Iterable[int] = ()) -> Mapping[int, bytes]:
    """Every picture, by the number of the packet that it came from."""
    context = av.CodecContext.create(DECODERS.get(stream.codec, stream.codec), "r")
    if stream.extradata:
        context.extradata = stream.extradata
    context.thread_count, context.thread_type = 1, "NONE"
    if stream.codec == "h264":
        context.options = {"strict": "1"}
    left_out, pictures = set(without), {}
    for number, payload in enumerate(stream.packets):
        if number not in left_out:
            packet = av.Packet(len(payload))
            packet.update(payload)
            packet.pts = number
            pictures.update({frame.pts: pixels(frame) for frame in context.decode(packet)})
    pictures.update({frame.pts: pixels(frame) for frame in context.decode(None)})
    return pictures


def disposable(stream: Stream) -> list[int]:
    return [number for number, payload in enumerate(stream.packets) if stream.reader.is_disposable(payload)]


def assert_nothing_refers_to_disposable_packets(stream: Stream) -> None:
    dropped = disposable(stream)
    whole, rest = decode(stream), decode(stream, without=dropped)
    assert rest == {number: picture for number, picture in whole.items() if number not in set(dropped)}


def test_pictures_stay_the_same_without_the_disposable_packets(corpus: VideoCorpus, corpus_name: str) -> None:
    if corpus_name in WITHOUT_VIDEO:
        pytest.skip("holds no video")
    stream = stream_of(corpus[corpus_name])
    assert_nothing_refers_to_disposable_packets(stream)
    assert bool(disposable(stream)) or corpus_name not in HAS_DISPOSABLE


def test_pictures_of_real_files_stay_the_same_without_the_disposable_packets(shared_videos: Path) -> None:
    for path in sorted(shared_videos.iterdir()):
        if path.name != "corrupted.mp4":
            assert_nothing_refers_to_disposable_packets(stream_of(path))


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"x265-params": "temporal-layers=3:bframes=3:b-adapt=0"}),
        ("libx264", {"x264-params": "slices=4:b-pyramid=strict:b-adapt=0"}),
        ("libx264", {"x264-params": "tff=1:b-adapt=0"}),
    ],
    ids=["layers", "slices", "interlaced"],
)
def test_layers_slices_and_interlacing_are_seen_through(codec: str, options: dict[str, str], tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", VideoSpec(codec=codec, options=options, b_frames=3, frames=40))
    stream = stream_of(path)
    assert disposable(stream)
    assert_nothing_refers_to_disposable_packets(stream)


@pytest.mark.parametrize("name", ["vp8_hidden", "vp9_hidden_webm", "vp9_layers", "vp8", "vp9", "vp9_odd"])
def test_a_packet_is_shown_when_a_picture_comes_out_of_it(name: str, corpus: VideoCorpus) -> None:
    stream = stream_of(corpus[name])
    shown = {number for number, payload in enumerate(stream.packets) if stream.reader.is_shown(payload)}
    assert shown == set(decode(stream))
    assert (len(shown) < len(stream.packets)) == (name == "vp8_hidden")


def test_only_packets_with_other_parameter_sets_are_foreign(corpus: VideoCorpus, corpus_name: str) -> None:
    if corpus_name in WITHOUT_VIDEO:
        pytest.skip("holds no video")
    stream = stream_of(corpus[corpus_name])
    foreign = [stream.reader.has_foreign_parameter_sets(payload) for payload in stream.packets]
    assert any(foreign) == (corpus_name == "h264_inband_parameters")


@pytest.mark.parametrize("name", ["h264_closed", "hevc", "mpeg4", "mpeg2"])
def test_parameter_sets_of_another_stream_are_foreign(name: str, corpus: VideoCorpus, tmp_path: Path) -> None:
    """A packet that brings its parameter sets, read with the extradata of a stream of another size."""
    stream = stream_of(corpus[name])
    other = stream_of(write_video(tmp_path / "other.mp4", _spec_of(name), width=96, height=80, frames=3))
    own = _with_parameter_sets(other)
    assert BitstreamReader.for_source(stream.codec, stream.extradata).has_foreign_parameter_sets(own)
    assert not other.reader.has_foreign_parameter_sets(own)


def _spec_of(name: str) -> VideoSpec:
    codecs = {"h264_closed": "libx264", "hevc": "libx265", "mpeg4": "mpeg4", "mpeg2": "mpeg2video"}
    return VideoSpec(codec=codecs[name])


def _with_parameter_sets(stream: Stream) -> bytes:
    """The stream's first packet with the extradata's parameter sets before it."""
    first, extradata = stream.packets[0], stream.extradata
    if stream.codec == "h264":
        size = int.from_bytes(extradata[6:8], "big")
        return (size).to_bytes(4, "big") + extradata[8 : 8 + size] + first
    if stream.codec == "hevc":
        size = int.from_bytes(extradata[26:28], "big")
        return size.to_bytes(4, "big") + extradata[28 : 28 + size] + first
    return extradata + first


def test_a_flushed_av1_decoder_keeps_nothing_of_another_streams_headers(corpus: VideoCorpus, tmp_path: Path) -> None:
    """Why AV1 sequence headers are never called foreign: whatever was fed before, pictures after a flush are right."""
    spec = VideoSpec(codec="libsvtav1", gop=8, frames=8)
    first = stream_of(write_video(tmp_path / "first.mp4", spec))
    second = stream_of(write_video(tmp_path / "second.mp4", spec, width=96, height=80, first_number=50))
    context = av.CodecContext.create("libdav1d", "r")
    context.extradata, context.thread_count, context.thread_type = first.extradata, 1, "NONE"
    for stream in (first, second, first, second, second, first):
        context.flush_buffers()
        pictures = {}
        for number, payload in enumerate(stream.packets):
            packet = av.Packet(len(payload))
            packet.update(payload)
            packet.pts = number
            pictures.update({frame.pts: pixels(frame) for frame in context.decode(packet)})
        pictures.update({frame.pts: pixels(frame) for frame in context.decode(None)})
        assert pictures == decode(stream)


def _annex_b(packet: bytes) -> bytes:
    out, position = b"", 0
    while position < len(packet):
        size = int.from_bytes(packet[position : position + 4], "big")
        out += b"\0\0\0\1" + packet[position + 4 : position + 4 + size]
        position += 4 + size
    return out


@pytest.mark.parametrize("name", ["h264_closed", "h264_open_gop", "hevc_open_gop"])
def test_start_codes_and_lengths_give_the_same_answers(name: str, corpus: VideoCorpus) -> None:
    stream = stream_of(corpus[name])
    behind_lengths = stream.reader
    assert isinstance(behind_lengths, BitstreamReader)
    sets = b"".join(b"\0\0\0\1" + unit for unit in sorted(behind_lengths._known, reverse=True))  # type: ignore[attr-defined]
    behind_codes = BitstreamReader.for_source(stream.codec, sets)
    for payload in stream.packets:
        converted = _annex_b(payload)
        assert behind_codes.is_disposable(converted) == behind_lengths.is_disposable(payload)
        assert behind_codes.has_foreign_parameter_sets(converted) == behind_lengths.has_foreign_parameter_sets(payload)


@pytest.mark.parametrize("name", ["h264_closed", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2", "h264_ts"])
def test_a_view_is_as_good_as_bytes(name: str, corpus: VideoCorpus) -> None:
    stream = stream_of(corpus[name])
    for payload in stream.packets:
        view = memoryview(payload)
        assert stream.reader.is_disposable(view) == stream.reader.is_disposable(payload)
        assert stream.reader.is_shown(view) == stream.reader.is_shown(payload)
        assert stream.reader.has_foreign_parameter_sets(view) == stream.reader.has_foreign_parameter_sets(payload)
        assert stream.reader.is_damaged(view) == stream.reader.is_damaged(payload)


@pytest.mark.parametrize("name", ["h264_closed", "hevc"])
def test_a_packet_is_damaged_when_its_lengths_do_not_add_up(name: str, corpus: VideoCorpus) -> None:
    stream = stream_of(corpus[name])
    assert not any(stream.reader.is_damaged(payload) for payload in stream.packets)
    assert all(stream.reader.is_damaged(payload[:-1]) for payload in stream.packets)
    assert all(stream.reader.is_damaged(b"\xff" + payload[1:]) for payload in stream.packets)


def test_fields_are_foreseen_from_the_sequence_parameters(corpus: VideoCorpus, tmp_path: Path) -> None:
    interlaced = write_video(tmp_path / "i.mp4", VideoSpec(options={"x264-params": "tff=1"}, frames=5))
    assert stream_of(interlaced).reader.may_split_pictures()
    for name in ("h264_closed", "h264_10bit", "h264_444_odd", "h264_ts", "h264_no_reorder_depth", "h264_full_range"):
        assert not stream_of(corpus[name]).reader.may_split_pictures()


@settings(deadline=None)
@given(data=st.binary(max_size=64))
def test_any_sequence_parameters_have_an_answer(data: bytes) -> None:
    assert isinstance(allows_fields(data), bool)


@pytest.mark.parametrize("codec", CODECS)
@settings(deadline=None)
@given(extradata=st.binary(max_size=80), payload=st.binary(max_size=80))
def test_any_bytes_have_an_answer(codec: str, extradata: bytes, payload: bytes) -> None:
    assert_answers(BitstreamReader.for_source(codec, extradata), payload)


@pytest.mark.parametrize("name", ["h264_closed", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2", "h264_ts"])
@settings(deadline=None)
@given(data=st.data())
def test_damaged_packets_have_an_answer(name: str, corpus: VideoCorpus, data: st.DataObject) -> None:
    stream = stream_of(corpus[name])
    payload = bytearray(stream.packets[data.draw(st.integers(0, len(stream.packets) - 1))])
    for _ in range(data.draw(st.integers(0, 4))):
        payload[data.draw(st.integers(0, min(len(payload), 64) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    extradata = bytearray(stream.extradata)
    if extradata:
        extradata[data.draw(st.integers(0, len(extradata) - 1))] = data.draw(st.integers(0, 255))
    assert_answers(BitstreamReader.for_source(stream.codec, bytes(extradata)), bytes(payload[:cut]))


def assert_answers(reader: BitstreamReader, payload: bytes) -> None:
    assert isinstance(reader.is_disposable(payload), bool)
    assert isinstance(reader.is_shown(payload), bool)
    assert isinstance(reader.has_foreign_parameter_sets(payload), bool)
    assert isinstance(reader.is_damaged(payload), bool)
    assert isinstance(reader.may_split_pictures(), bool)


def test_every_codec_of_the_corpus_is_known(corpus: VideoCorpus) -> None:
    """A codec that nobody thought of gets the safe answers; none of ours may fall among those by a misspelt name."""
    for name in CORPUS:
        if name not in WITHOUT_VIDEO:
            assert type(stream_of(corpus[name]).reader) is not BitstreamReader, name
