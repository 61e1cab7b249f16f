from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.storage import merge_ranges
from lazyvid.storage.ranges import split_span

RANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)).map(lambda r: (r[0], r[0] + r[1])), max_size=30)
GAPS = st.integers(0, 50)


def union(ranges: list[tuple[int, int]]) -> set[int]:
    return {byte for start, stop in ranges for byte in range(start, stop)}


@given(RANGES, GAPS)
def test_every_range_lies_in_its_span(ranges: list[tuple[int, int]], max_gap: int) -> None:
    plan = merge_ranges(ranges, max_gap=max_gap)
    assert len(plan.placements) == len(plan.lengths) == len(ranges)
    for (start, stop), (span, offset), length in zip(ranges, plan.placements, plan.lengths, strict=True):
        assert length == stop - start
        if length:
            assert plan.spans[span][0] + offset == start
            assert stop <= plan.spans[span][1]
        else:
            assert (span, offset) == (-1, 0)


@given(RANGES, GAPS)
def test_spans_are_sorted_and_further_apart_than_the_gap(ranges: list[tuple[int, int]], max_gap: int) -> None:
    spans = merge_ranges(ranges, max_gap=max_gap).spans
    assert all(start < stop for start, stop in spans)
    assert all(after[0] - before[1] > max_gap for before, after in itertools.pairwise(spans))


@given(RANGES, GAPS)
def test_spans_hold_no_more_than_the_union_and_the_gaps_that_were_bridged(
    ranges: list[tuple[int, int]], max_gap: int
) -> None:
    plan = merge_ranges(ranges, max_gap=max_gap)
    pieces = merge_ranges(ranges, max_gap=0).spans
    assert union(ranges) <= union(list(plan.spans))
    assert plan.span_bytes <= len(union(ranges)) + max_gap * (len(pieces) - len(plan.spans))


@given(RANGES, GAPS, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(ranges: list[tuple[int, int]], max_gap: int, random: object) -> None:
    shuffled = list(ranges)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merge_ranges(shuffled, max_gap=max_gap).spans == merge_ranges(ranges, max_gap=max_gap).spans


@given(RANGES, GAPS)
def test_cutting_the_spans_gives_the_ranges(ranges: list[tuple[int, int]], max_gap: int) -> None:
    data = bytes(i * 7 % 251 for i in range(500))
    plan = merge_ranges(ranges, max_gap=max_gap)
    assert plan.cut([data[start:stop] for start, stop in plan.spans]) == [data[start:stop] for start, stop in ranges]


def test_numpy_rows_are_ranges() -> None:
    plan = merge_ranges(np.array([[10, 20], [0, 5]]), max_gap=0)  # type: ignore[arg-type]
    assert plan.spans == ((0, 5), (10, 20))
    assert all(type(value) is int for span in plan.spans for value in span)


@pytest.mark.parametrize("bad", [(-1, 3), (5, 4)])
def test_an_impossible_range_is_named(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=str(bad[0])):
        merge_ranges([(0, 1), bad], max_gap=0)


def test_a_negative_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="max_gap"):
        merge_ranges([], max_gap=-1)


@given(st.integers(0, 100), st.integers(0, 300), st.integers(1, 70))
def test_parts_are_the_span_again(start: int, length: int, part_bytes: int) -> None:
    parts = split_span(start, start + length, part_bytes=part_bytes)
    assert [byte for part in parts for byte in range(*part)] == list(range(start, start + length))
    assert all(stop - first <= part_bytes for first, stop in parts)
