"""`PacketDecoder`: pictures carry the number of their packet, and a context forgets what it was fed."""

from __future__ import annotations

import dataclasses
import random

import av
import pytest
from decoding_samples import opened

from lazyvid.decoding.decoder import PacketDecoder, decoder_names
from lazyvid.decoding.plan import HIDDEN_ROW, DecodeOrder, plan_runs
from lazyvid.errors import UnsupportedCodecError
from lazyvid.testing import CORPUS, VideoCorpus, read_frame_number

CODECS = ["h264_closed", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2", "h264_10bit", "h264_start", "h264_vfr"]


def _number(picture: av.VideoFrame) -> int:
    return read_frame_number(picture.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("name", [*CODECS, "h264_edit_list", "vp9_hidden", "h264_no_reorder_depth"])
def test_each_picture_carries_the_number_of_its_packet(corpus: VideoCorpus, name: str) -> None:
    index, source, payloads = opened(corpus[name])
    order = DecodeOrder.of(index, 0)
    decoder = PacketDecoder(source)
    out = [
        picture for row, data in zip(order.row.tolist(), payloads, strict=True) for picture in decoder.feed(data, row)
    ]
    out += decoder.drain()
    shown = {picture.pts: _number(picture) for picture in out if picture.pts != HIDDEN_ROW}
    assert shown == dict(enumerate(CORPUS[name].numbers))


@pytest.mark.parametrize("name", CODECS)
def test_a_restarted_context_gives_what_a_new_one_does(corpus: VideoCorpus, name: str) -> None:
    index, source, payloads = opened(corpus[name])
    order = DecodeOrder.of(index, 0)
    decoder = PacketDecoder(source)
    for row in random.Random(0).choices(range(len(index)), k=12):
        position = index.packets.decode_position[row : row + 1]
        (run,) = plan_runs(order, position)
        decoder.restart()
        pictures = [p for at in run.positions.tolist() for p in decoder.feed(payloads[at], int(order.row[at]))]
        (picture,) = [p for p in [*pictures, *decoder.drain()] if p.pts == row]
        assert _number(picture) == CORPUS[name].numbers[row]
    # SVT-AV1 states another sequence header in its packets than in its extradata.
    assert not decoder.tainted or name == "av1"


def test_parameter_sets_inside_the_stream_taint_it(corpus: VideoCorpus) -> None:
    index, source, payloads = opened(corpus["h264_inband_parameters"])
    assert len(index) == 120
    decoder = PacketDecoder(source)
    seen = []
    for payload in payloads:
        decoder.feed(payload, 0)
        seen.append(decoder.tainted)
    assert seen == [False] * 60 + [True] * 60
    decoder.restart()
    assert decoder.tainted


def test_disposable_packets_can_be_left_out(corpus: VideoCorpus) -> None:
    _, source, payloads = opened(corpus["h264_closed"])
    decoder = PacketDecoder(source)
    kept = [(i, payload) for i, payload in enumerate(payloads) if not decoder.is_disposable(payload)]
    assert 0 < len(kept) < len(payloads)
    out = [_number(picture) for i, payload in kept for picture in decoder.feed(payload, i)]
    out += [_number(picture) for picture in decoder.drain()]
    assert len(out) == len(kept)
    assert out == sorted(set(out))


def test_a_memoryview_is_as_good_as_bytes(corpus: VideoCorpus) -> None:
    _, source, payloads = opened(corpus["h264_gop2"])
    decoder = PacketDecoder(source)
    decoder.feed(memoryview(bytearray(payloads[0])), 7)
    (picture,) = decoder.drain()
    assert picture.pts == 7
    assert _number(picture) == 0


def test_bytes_that_are_no_packet_are_an_error_of_ffmpeg(corpus: VideoCorpus) -> None:
    _, source, _ = opened(corpus["h264_gop2"])
    with pytest.raises(av.FFmpegError):
        PacketDecoder(source).feed(b"\0\0\0\x04\xff\xff\xff\xff" * 10, 0)


def test_it_starts_no_threads(corpus: VideoCorpus) -> None:
    _, source, _ = opened(corpus["h264_closed"])
    context = PacketDecoder(source)._context
    assert context.thread_count == 1
    assert "FRAME" not in str(context.thread_type)


def test_a_codec_without_a_decoder_is_named(corpus: VideoCorpus) -> None:
    _, source, _ = opened(corpus["h264_gop2"])
    with pytest.raises(UnsupportedCodecError, match="'invented'"):
        PacketDecoder(dataclasses.replace(source, codec="invented"))


def test_av1_goes_to_a_decoder_in_software_first() -> None:
    assert next(decoder_names("av1")) == "libdav1d"
    assert list(decoder_names("vp9")) == ["vp9"]
