"""The index as a value: what it refuses, what it joins, and that nobody can change it."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_samples import indexes, make_index, make_packets, make_source, same

from lazyvid.errors import CorruptIndexError
from lazyvid.index.frame_index import PACKET_DTYPES, FrameIndex, PacketTable, Segment


def changed(index: FrameIndex, **columns: Any) -> FrameIndex:
    return dataclasses.replace(index, **columns)


_DAMAGE: dict[str, Callable[[FrameIndex], dict[str, Any]]] = {
    "a time is missing": lambda i: {"timestamp": i.timestamp[:-1]},
    "a packet is missing": lambda i: {"packets": i.packets.take(slice(1, None))},
    "local numbers fall": lambda i: {"local_frame_idx": i.local_frame_idx[::-1]},
    "local numbers begin at 1": lambda i: {"local_frame_idx": i.local_frame_idx + 1},
    "segments fall": lambda i: {"segment_idx": i.segment_idx[::-1]},
    "a segment is missing": lambda i: {"segments": i.segments[:-1]},
    "a segment has another length": lambda i: {"segments": (Segment(0, 1), *i.segments[1:])},
    "a time is NaN": lambda i: {"timestamp": np.where(np.arange(len(i)) == 5, np.nan, i.timestamp)},
    "a time is infinite": lambda i: {"timestamp": np.where(np.arange(len(i)) == 5, np.inf, i.timestamp)},
    "a source is missing": lambda i: {"sources": i.sources[:1]},
    "a hidden packet is of no source": lambda i: {
        "hidden": dataclasses.replace(i.hidden, source_idx=np.full(len(i.hidden), len(i.sources)))
    },
}


class TestChecks:
    @pytest.mark.parametrize("what", sorted(_DAMAGE))
    def test_columns_that_contradict_one_another_are_refused(self, what: str) -> None:
        index = make_index(segments=3)
        with pytest.raises(CorruptIndexError, match="Expected"):
            changed(index, **_DAMAGE[what](index))

    @pytest.mark.parametrize("name", sorted(PACKET_DTYPES))
    def test_packet_columns_have_one_length(self, name: str) -> None:
        packets = make_packets(5)
        with pytest.raises(CorruptIndexError, match="one length"):
            dataclasses.replace(packets, **{name: getattr(packets, name)[:-1]})

    def test_segments_may_be_empty(self) -> None:
        index = make_index(10)
        index = changed(index, segments=(Segment(0, 0), Segment(0, 10), Segment(0, 0)), segment_idx=np.ones(10))
        assert index.segment_frame_counts().tolist() == [0, 10, 0]
        assert index.pts_table(0).tolist() == []
        assert len(index.pts_table(1)) == 10

    def test_an_index_without_frames_is_one(self) -> None:
        nothing = FrameIndex(
            segment_idx=np.empty(0),
            local_frame_idx=np.empty(0),
            timestamp=np.empty(0),
            packets=PacketTable.empty(),
            hidden=PacketTable.empty(),
            sources=(),
            segments=(),
        )
        assert len(nothing) == 0
        assert nothing.end_seconds == 0.0


class TestReadOnly:
    def test_every_array_is(self) -> None:
        index = make_index()
        arrays = [index.segment_idx, index.local_frame_idx, index.timestamp, index.timestamps()]
        arrays += [getattr(table, name) for table in (index.packets, index.hidden) for name in PACKET_DTYPES]
        for array in arrays:
            with pytest.raises(ValueError, match="read-only"):
                array[:1] = 0

    def test_the_arrays_it_was_made_of_can_be_changed_without_harm(self) -> None:
        times = np.arange(300, dtype=np.float64)
        index = changed(make_index(300), timestamp=times)
        view = changed(make_index(300), timestamp=times[:])
        times[:] = 99.0
        assert index.timestamp.tolist() == view.timestamp.tolist() == list(range(300))
        assert times.flags.writeable

    def test_a_read_only_column_is_not_copied(self) -> None:
        times = np.arange(300, dtype=np.float64)
        times.flags.writeable = False
        assert changed(make_index(300), timestamp=times).timestamp is times

    def test_columns_of_other_types_are_converted(self) -> None:
        index = changed(make_index(4), timestamp=[0, 1, 2, 3], segment_idx=np.zeros(4, np.int8))
        assert index.timestamp.dtype == np.float64
        assert index.segment_idx.dtype == np.int64
        assert {name: getattr(index.packets, name).dtype for name in PACKET_DTYPES} == PACKET_DTYPES


class TestReading:
    def test_a_segments_pts_are_those_of_its_frames(self) -> None:
        index = make_index(300, segments=3)
        tables = [index.pts_table(k) for k in range(3)]
        assert [len(table) for table in tables] == index.segment_frame_counts().tolist() == [100, 100, 100]
        assert np.concatenate(tables).tolist() == index.packets.pts.tolist()

    @pytest.mark.parametrize("segment", [-1, 3])
    def test_a_segment_that_is_not_there_is_an_index_error(self, segment: int) -> None:
        with pytest.raises(IndexError, match="3 segments"):
            make_index(segments=3).pts_table(segment)

    def test_the_last_frame_ends_after_its_own_duration(self) -> None:
        index = make_index(10)
        assert index.frame_duration(9) == pytest.approx(512 / 15360)
        assert index.end_seconds == pytest.approx(index.timestamp[-1] + 512 / 15360)

    def test_a_picture_turned_by_a_quarter_changes_its_size(self) -> None:
        assert make_source(width=16, height=9).display_size == (9, 16)
        assert make_source(width=16, height=9, rotation=180).display_size == (9, 16)
        assert make_source(width=16, height=9, rotation=90).display_size == (16, 9)
        assert make_source(width=16, height=9, rotation=270).display_size == (16, 9)


class TestContentHash:
    @given(index=indexes())
    def test_a_copy_has_the_same(self, index: FrameIndex) -> None:
        assert pickle.loads(pickle.dumps(index)).content_hash() == index.content_hash()

    def test_it_is_the_same_in_another_process(self) -> None:
        code = "from index_samples import make_index; print(make_index(50, segments=2).content_hash())"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": "123", "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )  # fmt: skip
        assert done.stdout.strip() == make_index(50, segments=2).content_hash()

    def test_every_field_counts(self) -> None:
        index = make_index(50, segments=2)
        source = index.sources[0]
        bumped_source = [
            dataclasses.replace(source, **{field.name: _other(getattr(source, field.name))})
            for field in dataclasses.fields(source)
        ]
        others = [changed(index, sources=(s, *index.sources[1:])) for s in bumped_source]
        others.append(changed(index, timestamp=index.timestamp + 1e-9))
        others.append(changed(index, segments=(Segment(1, 25), Segment(1, 25))))
        for table in ("packets", "hidden"):
            for name, dtype in PACKET_DTYPES.items():
                packets = getattr(index, table)
                column = getattr(packets, name).copy()
                column[0] = not column[0] if dtype is np.bool_ else (column[0] + 1) % 2
                others.append(changed(index, **{table: dataclasses.replace(packets, **{name: column})}))
        hashes = {other.content_hash() for other in others} | {index.content_hash()}
        assert len(hashes) == len(others) + 1


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, Fraction)):
        return value + 1
    return b"x" if isinstance(value, bytes) else "x"


class TestJoin:
    @given(many=st.lists(indexes(), min_size=1, max_size=4))
    def test_frames_segments_and_sources_follow_in_order(self, many: list[FrameIndex]) -> None:
        joined = FrameIndex.join(many)
        assert len(joined) == sum(map(len, many))
        assert joined.timestamp.tolist() == [t for index in many for t in index.timestamp.tolist()]
        assert joined.segment_frame_counts().tolist() == [n for i in many for n in i.segment_frame_counts().tolist()]
        frames = [(index, own) for index in many for own in range(len(index))]
        for row, (index, own) in enumerate(frames):
            assert joined.sources[joined.packets.source_idx[row]] is index.sources[index.packets.source_idx[own]]
            assert joined.local_frame_idx[row] == index.local_frame_idx[own]
            assert joined.packets.offset[row] == index.packets.offset[own]
        hidden = [index.sources[k] for index in many for k in index.hidden.source_idx.tolist()]
        assert [joined.sources[k] for k in joined.hidden.source_idx.tolist()] == hidden
        segments = [index.sources[segment.source_idx] for index in many for segment in index.segments]
        assert [joined.sources[segment.source_idx] for segment in joined.segments] == segments

    def test_one_is_itself(self) -> None:
        index = make_index()
        assert FrameIndex.join([index]) is index


class TestConcat:
    def test_keep_wants_each_to_begin_after_the_one_before(self) -> None:
        index = make_index(10)
        with pytest.raises(ValueError, match=r"increasing times, found .* \(frame 10\) after .* \(frame 9\)"):
            FrameIndex.concat([index, index])
        later = index.shifted(1000.0)
        joined = FrameIndex.concat([index, later])
        assert joined.timestamp.tolist() == [*index.timestamp.tolist(), *later.timestamp.tolist()]

    def test_keep_refuses_two_frames_at_one_time(self) -> None:
        index = make_index(10)
        touching = index.shifted(index.timestamp[-1] - index.timestamp[0])
        with pytest.raises(ValueError, match="increasing"):
            FrameIndex.concat(
                [index, changed(touching, timestamp=touching.timestamp - touching.timestamp[0] + index.timestamp[-1])]
            )

    def test_append_begins_each_where_the_last_one_ends(self) -> None:
        one, two, three = make_index(10, seed=1), make_index(20, seed=2), make_index(5, seed=3)
        joined = FrameIndex.concat([one, two, three], timestamps="append")
        assert joined.timestamp[:10].tolist() == one.timestamp.tolist()
        assert joined.timestamp[10] == pytest.approx(one.end_seconds, abs=1e-12)
        seconds = two.end_seconds - two.timestamp[0]
        assert joined.timestamp[30] == pytest.approx(one.end_seconds + seconds, abs=1e-9)
        np.testing.assert_allclose(np.diff(joined.timestamp[10:30]), np.diff(two.timestamp), atol=1e-9)
        assert np.all(np.diff(joined.timestamp) > 0)

    def test_one_is_fine(self) -> None:
        assert same(FrameIndex.concat([make_index()]), make_index())
        assert same(FrameIndex.concat([make_index()], timestamps="append"), make_index())

    def test_wrong_arguments_are_named(self) -> None:
        with pytest.raises(ValueError, match="got none"):
            FrameIndex.concat([])
        with pytest.raises(TypeError, match="at 1"):
            FrameIndex.concat([make_index(), "clip.mp4"])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="'keep' or 'append'"):
            FrameIndex.concat([make_index()], timestamps="shift")  # type: ignore[arg-type]


def test_with_source_uris_wants_one_a_source() -> None:
    index = make_index(segments=2)
    moved = index.with_source_uris(["a.mp4", "b.mp4"])
    assert [source.uri for source in moved.sources] == ["a.mp4", "b.mp4"]
    assert moved.packets is index.packets
    with pytest.raises(ValueError, match="Expected 2 URIs"):
        index.with_source_uris(["a.mp4"])
