"""The index says what an ordinary demux and a sequential decode of the whole file say, whatever was read to make it."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from mp4_builder import IDENTITY, Mp4, mp4_from

from lazyvid import timing
from lazyvid.errors import NoVideoStreamError
from lazyvid.index.frame_index import NO_PTS, FrameIndex, PacketTable
from lazyvid.index.probe import build_index
from lazyvid.index.probe_parameters import orientation
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore
from lazyvid.testing import VideoCorpus, VideoSpec, write_video
from lazyvid.testing.traps import read_packets, write_packets

ROW = ("offset", "size", "pts", "dts", "duration", "key")
WITHOUT_VIDEO = ("audio_only",)
NOT_READ = -1
Index = Callable[..., FrameIndex]


@cache
def index_of(path: Path, scan: str = "header", stream: int | None = None) -> FrameIndex:
    return build_index(path, scan=scan, stream=stream)  # type: ignore[arg-type]


def in_decode_order(index: FrameIndex) -> PacketTable:
    """Shown and hidden packets of an index with one source."""
    table = PacketTable.concat([index.packets, index.hidden], source_shifts=[0, 0])
    return table.take(np.argsort(table.decode_position))


def demuxed(path: Path, stream: int = 0) -> list[tuple[Any, ...]]:
    """(position, size, pts, dts, duration, key) of each packet, by an ordinary demux of the whole file."""
    with av.open(str(path)) as container:
        return [
            (
                packet.pos,
                packet.size,
                NO_PTS if packet.pts is None else packet.pts,
                NO_PTS if packet.dts is None else packet.dts,
                packet.duration or 0,
                packet.is_keyframe,
            )
            for packet in container.demux(container.streams.video[stream])
            if packet.size
        ]


def decoded(path: Path, stream: int = 0) -> list[av.VideoFrame]:
    """What a player shows; packets that cannot be decoded are passed over."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[stream]):
            with contextlib.suppress(av.error.FFmpegError):
                frames += packet.decode()  # type: ignore[arg-type]
    return frames


def assert_frames_are_those_of_a_sequential_decode(index: FrameIndex, path: Path, stream: int = 0) -> None:
    frames = decoded(path, stream)
    source = index.sources[0]
    assert index.packets.pts.tolist() == [frame.pts for frame in frames]
    assert index.timestamp.tolist() == timing.ticks_to_seconds(index.packets.pts, source.time_base).tolist()
    assert np.all(np.diff(index.timestamp) > 0)
    sizes = [(index.sources[i].width, index.sources[i].height) for i in index.packets.source_idx]
    assert sizes == [(frame.width, frame.height) for frame in frames]
    formats = [index.sources[i].pix_fmt for i in index.packets.source_idx]
    assert formats == [frame.format.name for frame in frames]


def assert_rows_are_those_of_a_demux(index: FrameIndex, path: Path, stream: int = 0) -> None:
    table = in_decode_order(index)
    rows = list(zip(*(getattr(table, name).tolist() for name in ROW), strict=True))
    expected = demuxed(path, stream)
    if path.stem == "vp9_hidden":  # FFmpeg's parser puts the frame rate's duration over the one that the table states
        expected = [
            (*row[:4], duration, row[5]) for row, duration in zip(expected, table.duration.tolist(), strict=True)
        ]
    if index.sources[0].container != "mp4":  # there, positions are those of blocks, and told apart below
        rows, expected = [row[1:] for row in rows], [row[1:] for row in expected]
    assert rows == expected
    assert table.decode_position.tolist() == list(range(len(table)))


def assert_payloads_are_where_they_are_said_to_be(index: FrameIndex, path: Path, stream: int = 0) -> None:
    data, table = path.read_bytes(), in_decode_order(index)
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(container.streams.video[stream]) if p.size]
    for offset, size, crc, packet in zip(table.offset, table.size, table.crc32, packets, strict=True):
        assert crc in (zlib.crc32(packet), NOT_READ)
        assert index.sources[0].addressing == "container" or data[offset : offset + size] == packet


def assert_right(index: FrameIndex, path: Path, stream: int = 0) -> None:
    assert_frames_are_those_of_a_sequential_decode(index, path, stream)
    assert_rows_are_those_of_a_demux(index, path, stream)
    assert_payloads_are_where_they_are_said_to_be(index, path, stream)


def assert_equal_but_for_payload_facts(one: FrameIndex, other: FrameIndex) -> None:
    for name in (*ROW, "source_idx", "decode_position"):
        assert getattr(one.packets, name).tolist() == getattr(other.packets, name).tolist(), name
        assert getattr(one.hidden, name).tolist() == getattr(other.hidden, name).tolist(), name
    assert one.sources == other.sources
    assert one.timestamp.tolist() == other.timestamp.tolist()


@pytest.mark.parametrize("scan", ["header", "full"])
def test_every_corpus_file(corpus: VideoCorpus, corpus_name: str, scan: str) -> None:
    if corpus_name in WITHOUT_VIDEO:
        pytest.skip("holds no video")
    path = corpus[corpus_name]
    index = index_of(path, scan)
    assert_right(index, path)
    assert_equal_but_for_payload_facts(index, index_of(path, "header"))
    read_in_full = scan == "full" or index.sources[0].container != "mp4"
    assert np.all(in_decode_order(index).crc32 != NOT_READ) == read_in_full
    assert np.all(in_decode_order(index).disposable != NOT_READ) == read_in_full


def test_every_real_file(shared_videos: Path) -> None:
    for path in sorted(shared_videos.iterdir()):
        if path.name != "corrupted.mp4":
            assert_right(index_of(path), path)
            assert_equal_but_for_payload_facts(index_of(path, "full"), index_of(path))


def test_a_real_file_has_two_streams(shared_videos: Path) -> None:
    path = shared_videos / "nasa_13013.mp4"
    assert_right(index_of(path, "header", 1), path, stream=1)
    assert index_of(path, "header", 1).sources[0].stream == 1
    assert index_of(path, "header", 0).sources == index_of(path).sources


def test_source_fields_of_a_recording(corpus: VideoCorpus) -> None:
    source = index_of(corpus["h264_full_range"]).sources[0]
    assert (source.uri, source.size) == ("", corpus["h264_full_range"].stat().st_size)
    assert (source.codec, source.codec_tag, source.container) == ("h264", "avc1", "mp4")
    assert (source.color_range, source.color_primaries, source.color_trc, source.colorspace) == (2, 1, 1, 1)
    assert source.sample_aspect_ratio == 1
    assert source.time_base == Fraction(1, 15360)
    assert source.addressing == "packets"
    assert source.extradata.startswith(b"\1")


def test_addressing_is_what_the_container_allows(corpus: VideoCorpus) -> None:
    names = {"h264_mkv": "packets", "vp9": "packets", "h264_ts": "container", "mpeg2_ps": "container"}
    assert {name: index_of(corpus[name]).sources[0].addressing for name in names} == names


@pytest.mark.parametrize("name", ["h264_full_range", "h264_closed", "hevc", "vp9_odd", "mpeg2", "mpeg4", "av1"])
def test_a_bare_decoder_given_the_sources_tags_gives_the_containers(name: str, corpus: VideoCorpus) -> None:
    path = corpus[name]
    index, data = index_of(path), path.read_bytes()
    source, first = index.sources[0], in_decode_order(index).take(slice(0, 1))
    context: Any = av.CodecContext.create({"av1": "libdav1d"}.get(source.codec, source.codec), "r")
    context.extradata = source.extradata or None
    for tag in ("color_range", "color_primaries", "color_trc", "colorspace"):
        setattr(context, tag, getattr(source, tag))
    packet = av.Packet(int(first.size[0]))
    packet.update(data[first.offset[0] : first.offset[0] + first.size[0]])
    frame = [*context.decode(packet), *context.decode(None)][0]
    shown = decoded(path)[0]
    for tag in ("color_range", "color_primaries", "color_trc", "colorspace"):
        assert getattr(frame, tag) == getattr(shown, tag), tag


# -- how a picture is to be turned ------------------------------------------------------------------------------------

ONE = 1 << 16
ORIENTATIONS = {
    "upright": (IDENTITY, 0, False),
    "quarter": ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), 270, False),
    "half": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), 180, False),
    "three quarters": ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), 90, False),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), 0, True),
    "upside down mirrored": ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), 180, True),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), 90, True),
    "nothing": ((0,) * 9, 0, False),
    "scaled": ((2 * ONE, 0, 0, 0, 2 * ONE, 0, 0, 0, 1 << 30), 0, False),
}


def moved_by(matrix: tuple[int, ...], picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The picture with each pixel taken to where the matrix sends it: (x, y) times ((a, b), (c, d)), y downwards."""
    a, b, c, d = (int(np.sign(matrix[i])) for i in (0, 1, 3, 4))
    height, width = picture.shape
    moved = {(b * x + d * y, a * x + c * y): picture[y, x] for y in range(height) for x in range(width)}
    top, left = min(y for y, _ in moved), min(x for _, x in moved)
    out = np.zeros((width, height) if b else (height, width), picture.dtype)
    for (y, x), value in moved.items():
        out[y - top, x - left] = value
    return out


def shown_as(picture: np.ndarray[Any, Any], rotation: int, hflip: bool) -> np.ndarray[Any, Any]:
    return np.rot90(np.fliplr(picture) if hflip else picture, k=rotation // 90)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_matrix_is_a_mirroring_and_a_turn(name: str) -> None:
    matrix, rotation, hflip = ORIENTATIONS[name]
    assert orientation(matrix) == (rotation, hflip)
    if name not in ("nothing", "scaled"):
        picture = np.arange(1, 13).reshape(3, 4)
        assert np.array_equal(moved_by(matrix, picture), shown_as(picture, rotation, hflip))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Mp4:
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    return mp4_from(write_video(path, VideoSpec(frames=20, b_frames=0, gop=10)))


@pytest.mark.parametrize("where", ["matrix", "movie_matrix"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_headers_matrices_are_read(name: str, where: str, plain: Mp4, tmp_path: Path) -> None:
    if name == "nothing" and where == "movie_matrix":
        pytest.skip("a movie matrix of zeros leaves nothing of any track's")
    matrix, rotation, hflip = ORIENTATIONS[name]
    path = tmp_path / "turned.mp4"
    path.write_bytes(dataclasses.replace(plain, **{where: matrix}).bytes())
    source = build_index(path).sources[0]
    assert (source.rotation, source.hflip) == (rotation, hflip)
    if not hflip and name != "nothing":
        assert decoded(path)[0].rotation % 360 == rotation


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_rotated_recordings(clockwise: int, corpus: VideoCorpus) -> None:
    index = index_of(corpus[f"h264_rotated_{clockwise}"])
    assert index.sources[0].rotation == 360 - clockwise
    assert index.sources[0].display_size == ((120, 160) if clockwise == 180 else (160, 120))


def test_rotated_real_files(shared_videos: Path) -> None:
    assert index_of(shared_videos / "nasa_13013_rotated.mp4").sources[0].rotation == 90
    assert index_of(shared_videos / "rotated_90.mov").sources[0].rotation == 270


def test_matroska_states_rotation_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "turned.mkv", VideoSpec(frames=5, rotation=90))
    assert build_index(path).sources[0].rotation == decoded(path)[0].rotation % 360


# -- what no plain encoder writes -------------------------------------------------------------------------------------


def test_codec_parameters_that_change_make_sources(plain: Mp4, tmp_path: Path) -> None:
    small = mp4_from(write_video(tmp_path / "small.mp4", VideoSpec(frames=20, b_frames=0, gop=10, width=96, height=80)))
    path = tmp_path / "both.mp4"
    mixed = dataclasses.replace(
        plain,
        samples=plain.samples + small.samples + plain.samples[:10],
        descriptions=plain.descriptions + small.descriptions,
        description_of=[1] * 20 + [2] * 20 + [1] * 10,
        keys=[0, 10, 20, 30, 40],
    )
    path.write_bytes(mixed.bytes())
    for scan in ("header", "full"):
        index = build_index(path, scan=scan)  # type: ignore[arg-type]
        assert_frames_are_those_of_a_sequential_decode(index, path)
        assert [(s.width, s.height) for s in index.sources] == [(160, 120), (96, 80)]
        assert index.sources[0].extradata != index.sources[1].extradata
        assert index.packets.source_idx.tolist() == [0] * 20 + [1] * 20 + [0] * 10
        assert index.packets.decode_position.tolist() == [*range(20), *range(20), *range(20, 30)]


OPEN = {"libx264": {"x264-params": "open-gop=1:b-adapt=0"}, "libx265": {"x265-params": "open-gop=1:b-adapt=0"}}
CUTS = [
    (codec, options, suffix, first)
    for codec, options in [
        ("libx264", OPEN["libx264"]),
        ("libx265", OPEN["libx265"]),
        ("mpeg2video", {}),
        ("libx264", {"x264-params": "intra-refresh=1"}),
    ]
    for suffix in (".mp4", ".mkv", ".ts")
    for first in ("key", "middle")
    if not (codec == "libx264" and suffix == ".ts")  # the muxer leaves its parameter sets out: nobody can decode it
]


@pytest.mark.parametrize(("codec", "options", "suffix", "first"), CUTS)
def test_pictures_that_never_come_out_of_a_cut_stream_are_no_frames(
    codec: str, options: dict[str, str], suffix: str, first: str, tmp_path: Path
) -> None:
    spec = VideoSpec(codec=codec, frames=60, gop=12, b_frames=2, options=options)
    source = write_video(tmp_path / "whole.mp4", spec)
    packets = read_packets(source)
    start = [i for i, packet in enumerate(packets) if packet.key][1] + (5 if first == "middle" else 0)
    path = tmp_path / f"cut{suffix}"
    write_packets(path, packets[start:], like=source, muxer_options={"use_editlist": "0"} if suffix == ".mp4" else None)
    for scan in ("header", "full"):
        index = build_index(path, scan=scan)  # type: ignore[arg-type]
        assert_frames_are_those_of_a_sequential_decode(index, path)
        assert len(index.hidden) > 0


def test_interlaced_h264_is_indexed_by_what_comes_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "interlaced.mp4", VideoSpec(options={"x264-params": "tff=1"}, frames=30, b_frames=2))
    assert_right(build_index(path), path)


def test_avi_with_reordered_pictures_is_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "reordered.avi", VideoSpec(b_frames=2))
    index = build_index(path)
    source, frames = index.sources[0], decoded(path)
    assert source.addressing == "sequential"
    assert len(index) == len(frames) == 60
    assert np.allclose(np.diff(index.timestamp), 1 / 30)
    assert index.packets.decode_position.tolist() == list(range(60))
    assert set(index.packets.offset.tolist()) == {-1}
    assert len(index.hidden) == 0


@pytest.mark.parametrize("b_frames", [0, 2])
def test_avi_whose_times_ffmpeg_guesses_right_is_read_by_packets(b_frames: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "guessed.avi", VideoSpec(codec="mpeg4", b_frames=b_frames))
    index = build_index(path)
    assert index.sources[0].addressing == "container"
    assert_frames_are_those_of_a_sequential_decode(index, path)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix", "addressing"),
    [
        ("libx264", "yuv420p", ".flv", "packets"),
        ("libvpx", "yuv420p", ".ogg", "container"),
        ("mjpeg", "yuvj420p", ".mov", "packets"),
        ("mjpeg", "yuvj420p", ".mkv", "packets"),
        ("mjpeg", "yuvj420p", ".avi", "container"),
        ("prores_ks", "yuv422p10le", ".mov", "packets"),
        ("ffv1", "yuv420p", ".mkv", "packets"),
    ],
)
def test_rarer_containers_and_codecs(codec: str, pix_fmt: str, suffix: str, addressing: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"rare{suffix}", VideoSpec(codec=codec, pix_fmt=pix_fmt, frames=20))
    index = build_index(path)
    assert index.sources[0].addressing == addressing
    assert_frames_are_those_of_a_sequential_decode(index, path)
    assert_payloads_are_where_they_are_said_to_be(index, path)


def test_cover_art_is_no_video(tmp_path: Path, corpus: VideoCorpus) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(corpus["h264_closed"])) as source, av.open(str(path), "w") as target:
        cover = target.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        video = target.add_stream_from_template(source.streams.video[0])
        target.mux(cover.encode(av.VideoFrame(64, 48, "yuvj420p")))
        target.mux(cover.encode(None))
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                target.mux(packet)
    index = build_index(path)
    assert index.sources[0].codec == "h264"
    assert len(index) == 90
    with pytest.raises(NoVideoStreamError, match=r"stream=1 .*mjpeg \(attached picture\)"):
        build_index(path, stream=1)


def test_a_stream_that_is_not_there_is_named(corpus: VideoCorpus) -> None:
    assert index_of(corpus["two_videos"], "header", 1).sources[0].width == 96
    for stream in (2, -1):
        with pytest.raises(NoVideoStreamError, match=f"stream={stream} .*found 2 video streams"):
            build_index(corpus["two_videos"], stream=stream)
    with pytest.raises(NoVideoStreamError, match="it holds: audio aac"):
        build_index(corpus["audio_only"])


def test_another_word_for_scan_is_an_error(corpus: VideoCorpus) -> None:
    with pytest.raises(ValueError, match="Invalid scan 'quick'"):
        build_index(corpus["h264_closed"], scan="quick")  # type: ignore[arg-type]


# -- what it costs ----------------------------------------------------------------------------------------------------


def cost_of(path: Path, **options: Any) -> tuple[int, int]:
    """(requests, bytes) of one `build_index`."""
    before = read_stats()
    build_index(path, **options)
    spent = read_stats() - before
    return spent.requests, spent.bytes_fetched


def long_video(path: Path, *, frames: int, packet_bytes: int, options: dict[str, str] | None = None) -> Path:
    """Many frames of chosen size, soon written: one intra picture again and again, filled up with filler data."""
    source = write_video(path.with_name("one.mp4"), VideoSpec(frames=2, gop=1))
    first = read_packets(source)[0]
    filler_bytes = max(0, packet_bytes - len(first.data) - 4)
    filler = filler_bytes.to_bytes(4, "big") + b"\x0c" + b"\xff" * (filler_bytes - 1) if filler_bytes > 1 else b""
    step = first.duration
    packets = [dataclasses.replace(first, data=first.data + filler, pts=i * step, dts=i * step) for i in range(frames)]
    return write_packets(path, packets, like=source, muxer_options=options)


@pytest.mark.parametrize(
    ("options", "frames", "packet_bytes"),
    [
        ({}, 3_000, 3_000),
        ({"movflags": "faststart"}, 3_000, 3_000),
        ({}, 30_000, 0),
        ({"movflags": "faststart"}, 30_000, 0),
        ({}, 20, 400_000),
        ({"movflags": "hybrid_fragmented", "frag_duration": "1000000"}, 3_000, 1_000),
    ],
    ids=["moov last", "moov first", "long moov last", "long moov first", "large packets", "hybrid"],
)
def test_a_header_scan_takes_three_requests_and_few_bytes(
    options: dict[str, str], frames: int, packet_bytes: int, tmp_path: Path
) -> None:
    path = long_video(tmp_path / "long.mp4", frames=frames, packet_bytes=packet_bytes, options=options)
    requests, fetched = cost_of(path)
    index = build_index(path)
    data = path.read_bytes()
    moov = data.rindex(b"moov") - 4
    moov_bytes = int.from_bytes(data[moov : moov + 4], "big")
    assert len(index) == frames
    assert requests <= 3
    assert fetched <= moov_bytes + int(index.packets.size[0]) + 4 * 64 * 1024


def test_a_full_scan_reads_the_file_once(tmp_path: Path) -> None:
    path = long_video(tmp_path / "long.mp4", frames=3_000, packet_bytes=3_000)
    size = path.stat().st_size
    requests, fetched = cost_of(path, scan="full")
    assert size <= fetched <= size * 1.1 + 256 * 1024
    assert requests <= 3 + size // (8 * 1024 * 1024) + 1


@pytest.mark.parametrize("name", ["h264_mkv", "vp9", "h264_ts", "mpeg2_ps"])
def test_other_containers_are_read_once(name: str, corpus: VideoCorpus) -> None:
    assert cost_of(corpus[name]) == (1, corpus[name].stat().st_size)


def test_fragments_of_a_large_file_are_reached_in_few_requests(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = long_video(tmp_path / "fragments.mp4", frames=30, packet_bytes=700_000, options=options)
    before = read_stats()
    index = build_index(path)
    assert_rows_are_those_of_a_demux(index, path)
    assert (read_stats() - before).requests <= 40  # one a fragment, in one batch, and four round trips


@pytest.mark.s3
def test_a_video_on_s3_is_indexed_as_a_local_one(s3_server: Any, s3_prefix: str, corpus: VideoCorpus) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    for name in ("h264_closed", "h264_mkv", "h264_fragmented"):
        uri = f"{s3_prefix}/{corpus[name].name}"
        store.upload(corpus[name], uri)
        there, here = build_index(uri, store=store), index_of(corpus[name])
        assert there.timestamp.tolist() == here.timestamp.tolist()
        assert there.packets.offset.tolist() == here.packets.offset.tolist()
        assert there.sources[0].etag == store.head(uri).etag
        assert dataclasses.replace(there.sources[0], etag=None) == dataclasses.replace(here.sources[0], etag=None)
