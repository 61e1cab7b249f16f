from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_samples import make_index

from lazyvid.errors import CorruptIndexError, StaleIndexError
from lazyvid.index.foreign import ForeignTable, join
from lazyvid.index.frame_index import FrameIndex


def scan(count: int, *, hidden: int = 0, seed: int = 0) -> FrameIndex:
    """A file's scan whose frame i has pts 512 * i; hidden packets follow."""
    index = make_index(count, hidden=hidden, seed=seed)
    packets = dataclasses.replace(index.packets, pts=np.arange(count) * 512)
    hidden_packets = dataclasses.replace(index.hidden, pts=-512 * (1 + np.arange(hidden)))
    return dataclasses.replace(index, packets=packets, hidden=hidden_packets)


def table(*segments: Sequence[int]) -> ForeignTable:
    """Segments that list these frames of their files."""
    rows = [(k, local, number) for k, numbers in enumerate(segments) for local, number in enumerate(numbers)]
    return ForeignTable.from_arrow(arrow_table(rows))


def arrow_table(rows: Sequence[tuple[int, int, int]]) -> pa.Table:
    numbers = [number for _, _, number in rows]
    return pa.table(
        {
            "timestamp": pa.array([number / 30 + 100 for number in numbers], pa.float64()),
            "pts": pa.array([number * 512 for number in numbers], pa.int64()),
            "local_frame_idx": pa.array([local for _, local, _ in rows], pa.int32()),
            "segment_idx": pa.array([segment for segment, _, _ in rows], pa.int32()),
        }
    )


def every_packet(index: FrameIndex) -> set[tuple[int, int]]:
    pairs = [(t.source_idx.tolist(), t.decode_position.tolist()) for t in (index.packets, index.hidden)]
    flat = [pair for sources, positions in pairs for pair in zip(sources, positions, strict=True)]
    assert len(flat) == len(set(flat))
    return set(flat)


@settings(max_examples=60)
@given(data=st.data())
def test_rows_in_any_order_join_with_their_packets(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    listed = [sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))) for n in lengths]
    rows = [(k, local, number) for k, numbers in enumerate(listed) for local, number in enumerate(numbers)]
    shuffled = data.draw(st.permutations(rows))
    scans = [scan(n, hidden=2, seed=n) for n in lengths]
    index = join(ForeignTable.from_arrow(arrow_table(shuffled)), scans, range(len(scans)))
    for k, numbers in enumerate(listed):
        assert index.pts_table(k).tolist() == [512 * number for number in numbers]
        shown = index.segment_idx == k
        np.testing.assert_array_equal(index.packets.offset[shown], scans[k].packets.offset[numbers])
        np.testing.assert_array_equal(index.timestamp[shown], [number / 30 + 100 for number in numbers])
    assert len(every_packet(index)) == sum(lengths) + 2 * len(lengths)


def test_frames_at_the_end_that_are_not_listed_stay_for_the_decoder() -> None:
    index = join(table(range(10)), [scan(15)], [0])
    assert len(index) == 10
    assert index.hidden.decode_position.tolist() == [10, 11, 12, 13, 14]


def test_segments_of_one_file_share_a_source() -> None:
    index = join(table(range(10), range(10, 15), range(15, 20)), [scan(20)], [0, 0, 0])
    assert len(index.sources) == 1
    assert len(index.hidden) == 0


def test_segments_that_show_the_same_frames_have_a_source_each() -> None:
    index = join(table(range(10), range(5, 15)), [scan(15)], [0, 0])
    assert len(index.sources) == 2
    assert [segment.source_idx for segment in index.segments] == [0, 1]
    assert len(every_packet(index)) == 30


def test_a_frame_of_the_hidden_packets_can_be_listed() -> None:
    index = join(table([-2, -1, 0, 1]), [scan(5, hidden=4)], [0])
    assert index.packets.pts.tolist() == [-1024, -512, 0, 512]
    assert len(index.hidden) == 5


def test_an_empty_segment_in_between_is_kept() -> None:
    foreign = ForeignTable.from_arrow(arrow_table([(0, 0, 0), (2, 0, 1)]))
    index = join(foreign, [scan(3)], [0, 0, 0])
    assert index.segment_frame_counts().tolist() == [1, 0, 1]


def test_times_out_of_order_are_kept() -> None:
    foreign = table(range(4))
    moved = dataclasses.replace(foreign, timestamp=np.array([3.0, 1.0, 2.0, 0.0]))
    assert join(moved, [scan(4)], [0]).timestamp.tolist() == [3.0, 1.0, 2.0, 0.0]


def test_missing_frames_are_counted_and_the_first_is_named() -> None:
    with pytest.raises(StaleIndexError, match=r"2 are missing, the first with pts 5120 \(frame 10 of segment 0\)"):
        join(table(range(12)), [scan(10)], [0])
    with pytest.raises(StaleIndexError, match="3 are missing"):
        join(table(range(3)), [scan(0)], [0])


def test_a_pts_listed_twice_in_a_segment_is_an_error() -> None:
    with pytest.raises(CorruptIndexError, match="pts 512 several times"):
        join(table([0, 1, 1, 2]), [scan(5)], [0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 0, 0), (0, 0, 1)], "each frame once"),
        ([(0, 0, 0), (0, 2, 1)], "without gaps"),
        ([(0, 1, 0)], "without gaps"),
        ([(-1, 0, 0)], "numbered from 0"),
        ([(10**9, 0, 0)], "numbered from 0"),
        ([], "no row"),
    ],
)
def test_rows_that_number_nothing_are_an_error(rows: list[tuple[int, int, int]], message: str) -> None:
    with pytest.raises(CorruptIndexError, match=message):
        ForeignTable.from_arrow(arrow_table(rows))


def test_columns_of_another_kind_are_an_error() -> None:
    good = arrow_table([(0, 0, 0), (0, 1, 1)])
    with pytest.raises(CorruptIndexError, match="found no pts"):
        ForeignTable.from_arrow(good.drop_columns(["pts"]))
    with pytest.raises(CorruptIndexError, match="nulls"):
        ForeignTable.from_arrow(good.set_column(0, "timestamp", [pa.array([0.0, None])]))
    with pytest.raises(CorruptIndexError, match="int64"):
        ForeignTable.from_arrow(good.set_column(1, "pts", [pa.array(["a", "b"])]))
