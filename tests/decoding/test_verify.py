"""`verify_index` passes what is right, and finds each single thing that is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazyvid.decoding import verify_index
from lazyvid.errors import NoVideoStreamError, ObjectNotFoundError
from lazyvid.index import FrameIndex, build_index
from lazyvid.index.frame_index import PacketTable, Segment
from lazyvid.storage import ObjectStore
from lazyvid.testing import S3Server, VideoCorpus, flip_bit, truncate

# One file for each way of reaching packets, of leaving some out, and of turning pictures.
TELLING = (
    "h264_closed",
    "h264_edit_list",
    "h264_no_reorder_depth",
    "h264_inband_parameters",
    "h264_intra_refresh",
    "h264_rotated_90",
    "h264_444_odd",
    "h264_start",
    "h264_ts",
    "hevc_open_gop",
    "mpeg4_avi",
    "two_videos",
    "vp8_hidden",
    "vp9_hidden_webm",
)


def with_packets(index: FrameIndex, **changes: Callable[[np.ndarray[Any, Any]], None]) -> FrameIndex:
    """The index with columns of its packet table changed in place."""
    columns = {}
    for name, change in changes.items():
        columns[name] = getattr(index.packets, name).copy()
        change(columns[name])
    return dataclasses.replace(index, packets=dataclasses.replace(index.packets, **columns))


def assign(rows: Any, value: Any) -> Callable[[np.ndarray[Any, Any]], None]:
    def change(column: np.ndarray[Any, Any]) -> None:
        column[rows] = value

    return change


@pytest.mark.parametrize("scan", ["header", "full"])
@pytest.mark.parametrize("name", TELLING)
def test_a_true_index_is_found_true(corpus: VideoCorpus, name: str, scan: Any) -> None:
    index = build_index(corpus[name], scan=scan)
    report = verify_index(corpus[name], index)
    assert report.messages == ()
    assert report.ok
    assert report.frames == len(index)
    assert report.decoded


@pytest.mark.slow
def test_every_index_of_the_corpus_is_found_true(corpus: VideoCorpus, corpus_name: str) -> None:
    try:
        index = build_index(corpus[corpus_name], scan="full")
    except NoVideoStreamError:
        pytest.skip("no video in it")
    assert verify_index(corpus[corpus_name], index).messages == ()


def test_another_stream_than_the_first(corpus: VideoCorpus) -> None:
    index = build_index(corpus["two_videos"], stream=1)
    assert index.sources[0].width == 96
    assert verify_index(corpus["two_videos"], index).messages == ()


def test_a_true_index_on_s3(corpus: VideoCorpus, s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(s3_prefix, storage_options=s3_server.storage_options)
    store.upload(corpus["h264_closed"], "a.mp4")
    report = verify_index("a.mp4", build_index("a.mp4", store=store, scan="full"), store=store)
    assert report.messages == ()
    assert report.packets_read == 90


def test_pixels_are_compared_in_several_chunks(corpus: VideoCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lazyvid.decoding.verify_pixels._CHUNK_BYTES", 7 * 160 * 120 * 3)
    index = build_index(corpus["h264_closed"])
    assert verify_index(corpus["h264_closed"], index).messages == ()
    swapped = with_packets(index, decode_position=swap(40, 41), offset=swap(40, 41), size=swap(40, 41))
    report = verify_index(corpus["h264_closed"], swapped)
    assert {40, 41} <= set(report.wrong_frames)


def swap(a: int, b: int) -> Callable[[np.ndarray[Any, Any]], None]:
    def change(column: np.ndarray[Any, Any]) -> None:
        column[[a, b]] = column[[b, a]]

    return change


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("offset", lambda column: assign(33, column[33] + 1)),
        ("size", lambda column: assign(33, column[33] - 1)),
        ("pts", lambda column: assign(33, column[33] + 1)),
        ("key", lambda column: assign(33, not column[33])),
        ("crc32", lambda column: assign(33, column[33] ^ 1)),
        ("disposable", lambda column: assign(33, 1 - column[33])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_wrong_value_is_found(corpus: VideoCorpus, column: str, change: Any, decode: bool) -> None:
    index = build_index(corpus["h264_closed"], scan="full")
    wrong = with_packets(index, **{column: change(getattr(index.packets, column))})
    report = verify_index(corpus["h264_closed"], wrong, decode=decode)
    assert not report.ok
    assert 33 in report.wrong_frames
    assert report.decoded is decode


def test_frames_that_show_one_another_s_picture_are_found_by_their_pixels_alone(corpus: VideoCorpus) -> None:
    """Two frames whose packets are exchanged: rows, times and checksums all stay plausible."""
    index = build_index(corpus["h264_intra"], scan="full")
    columns = {f.name: getattr(index.packets, f.name).copy() for f in dataclasses.fields(PacketTable)}
    for name, values in columns.items():
        if name not in ("pts", "decode_position", "key"):
            values[[10, 20]] = values[[20, 10]]
    report = verify_index(corpus["h264_intra"], dataclasses.replace(index, packets=PacketTable(**columns)))
    assert report.wrong_frames == (10, 20)
    assert any("pixels" in message for message in report.messages)


def test_a_flipped_bit_of_payload_is_found(corpus: VideoCorpus, tmp_path: Path) -> None:
    """Size and headers stay, so that nothing but the packet's checksum tells."""
    index = build_index(corpus["h264_closed"], scan="full")
    row = 33
    offset = int(index.packets.offset[row] + index.packets.size[row] // 2)
    damaged = flip_bit(corpus["h264_closed"], tmp_path / "h264_closed.mp4", offset=offset)
    report = verify_index(damaged, index, decode=False)
    assert report.damaged_packets == ((0, int(index.packets.decode_position[row])),)
    assert report.wrong_frames == (row,)
    again = verify_index(damaged, index, decode=True)
    assert row in again.missing_frames  # random access refuses the packet


def test_a_shorter_file_and_another_file_are_findings_not_errors(corpus: VideoCorpus, tmp_path: Path) -> None:
    index = build_index(corpus["h264_closed"], scan="full")
    cut = truncate(corpus["h264_closed"], tmp_path / "cut.mp4", at=-100)
    for other in (cut, corpus["h264_gop2"]):
        report = verify_index(other, index)
        assert not report.ok
        assert "another file" in report.messages[0]


def test_a_missing_file_is_an_error(corpus: VideoCorpus, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError):
        verify_index(tmp_path / "none.mp4", build_index(corpus["h264_closed"]))


def test_frames_left_out_count_unless_they_may_be(corpus: VideoCorpus) -> None:
    index = build_index(corpus["h264_intra"], scan="full")
    kept, dropped = slice(0, 20), np.arange(20, 30)
    shorter = FrameIndex(
        segment_idx=index.segment_idx[kept],
        local_frame_idx=index.local_frame_idx[kept],
        timestamp=index.timestamp[kept],
        packets=index.packets.take(kept),
        hidden=index.packets.take(dropped),
        sources=index.sources,
        segments=(Segment(0, 20),),
    )
    report = verify_index(corpus["h264_intra"], shorter)
    assert (report.ok, report.left_out, report.wrong_frames) == (False, 10, ())
    assert verify_index(corpus["h264_intra"], shorter, partial=True).messages == ()


def test_times_out_of_order_are_found(corpus: VideoCorpus) -> None:
    index = build_index(corpus["h264_intra"])
    times = index.timestamp.copy()
    times[[5, 6]] = times[[6, 5]]
    report = verify_index(corpus["h264_intra"], dataclasses.replace(index, timestamp=times), decode=False)
    assert report.wrong_frames == (6,)


def test_wrong_codec_parameters_are_found(corpus: VideoCorpus) -> None:
    index = build_index(corpus["h264_rotated_90"])
    upright = dataclasses.replace(index, sources=(dataclasses.replace(index.sources[0], rotation=0),))
    report = verify_index(corpus["h264_rotated_90"], upright, decode=False)
    assert any("rotation" in message for message in report.messages)


def test_progress_reaches_its_end(corpus: VideoCorpus) -> None:
    seen: list[tuple[int, int]] = []
    index = build_index(corpus["h264_closed"], scan="full")
    verify_index(corpus["h264_closed"], index, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (270, 270)
