"""The plan's laws, over streams that no encoder would make and over those that encoders do."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lazyvid.decoding.plan import HIDDEN_ROW, DecodeOrder, Run, Standing, byte_ranges, in_batches, plan_runs
from lazyvid.errors import CorruptIndexError
from lazyvid.index.frame_index import FrameIndex, PacketTable, Segment, Source
from lazyvid.index.probe import build_index
from lazyvid.testing import CORPUS, VideoCorpus


@dataclass(frozen=True)
class Stream:
    """Packets in decode order: presentation time, key, disposable (-1 unknown), shown."""

    pts: tuple[int, ...]
    key: tuple[bool, ...]
    disposable: tuple[int, ...]
    shown: tuple[bool, ...]

    def index(self) -> FrameIndex:
        shown = [p for p in range(len(self.pts)) if self.shown[p]]
        rows = sorted(shown, key=lambda p: self.pts[p])
        hidden = [p for p in range(len(self.pts)) if not self.shown[p]]
        source = Source(
            uri="", size=1_000_000, etag=None, fingerprint=0, container="mp4", codec="h264", extradata=b"", width=16,
            height=16, pix_fmt="yuv420p", time_base=Fraction(1, 30),
        )  # fmt: skip
        return FrameIndex(
            segment_idx=np.zeros(len(rows)),
            local_frame_idx=np.arange(len(rows)),
            timestamp=np.array([self.pts[p] for p in rows], np.float64),
            packets=self._table(rows),
            hidden=self._table(hidden),
            sources=(source,),
            segments=(Segment(0, len(rows)),),
        )

    def _table(self, positions: list[int]) -> PacketTable:
        at = np.array(positions, np.int64)
        pick = lambda column: np.array(column)[at] if len(at) else np.empty(0)  # noqa: E731
        return PacketTable(
            source_idx=np.zeros(len(at)),
            offset=100 + 10 * at,
            size=1 + at % 7,
            pts=pick(self.pts),
            dts=at,
            duration=np.ones(len(at)),
            decode_position=at,
            key=pick(self.key),
            disposable=pick(self.disposable),
            crc32=np.full(len(at), -1),
        )


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Any order of presentation, key packets anywhere, some packets hidden."""
    count = draw(st.integers(1, 24))
    pts = draw(st.permutations(range(count)) if draw(st.booleans()) else st.just(range(count)))
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    disposable = draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=count, max_size=count))
    shown = draw(st.one_of(st.just([True] * count), flags.filter(any)))
    return Stream(tuple(pts), tuple(draw(flags)), tuple(disposable), tuple(shown))


@st.composite
def plans(draw: st.DrawFn) -> tuple[Stream, DecodeOrder, np.ndarray]:
    stream = draw(streams())
    shown = [p for p in range(len(stream.pts)) if stream.shown[p]]
    wanted = sorted(draw(st.sets(st.sampled_from(shown), min_size=1)))
    return stream, DecodeOrder.of(stream.index(), 0), np.array(wanted, np.int64)


def _best_start(order: DecodeOrder, position: int) -> int:
    """The last key packet that comes before a packet in both orders; 0 without one."""
    return max((k for k in order.keys.tolist() if k <= position and order.pts[k] <= order.pts[position]), default=0)


def _starts_well(order: DecodeOrder, run: Run) -> bool:
    """Whether a run begins at a key packet, and the best start of everything that it wants lies in it."""
    return run.start in order.keys.tolist() and all(
        run.start <= _best_start(order, position) for position in run.wanted.tolist()
    )


def _check_laws(order: DecodeOrder, wanted: np.ndarray, runs: list[Run]) -> None:
    assert np.concatenate([run.wanted for run in runs]).tolist() == sorted(wanted.tolist())
    for run in runs:
        assert run.positions.tolist() == sorted(set(run.positions.tolist()))
        assert (run.positions[0], run.positions[-1]) == (run.start, run.stop - 1)
        assert run.stop - 1 == run.wanted[-1]
        assert set(run.wanted.tolist()) <= set(run.positions.tolist())
        left_out = sorted(set(range(run.start, run.stop)) - set(run.positions.tolist()))
        assert all(order.disposable[p] == 1 for p in left_out)
        unwanted = set(run.positions.tolist()) - set(run.wanted.tolist()) - {run.start}
        assert all(order.disposable[p] != 1 for p in unwanted)
    for one, other in itertools.pairwise(runs):
        assert one.stop <= other.start


@given(case=plans())
@example(
    case=(
        s := Stream((5, 0, 6), (True, True, False), (0, 0, 0), (True,) * 3),
        DecodeOrder.of(s.index(), 0),
        np.array([2]),
    )
)
def test_runs_cover_what_is_wanted_once_from_a_place_before_it(
    case: tuple[Stream, DecodeOrder, np.ndarray],
) -> None:
    _, order, wanted = case
    runs = plan_runs(order, wanted)
    _check_laws(order, wanted, runs)
    assert all(run.start == 0 or _starts_well(order, run) for run in runs)


@given(case=plans())
def test_no_later_start_would_do(case: tuple[Stream, DecodeOrder, np.ndarray]) -> None:
    """A frame wanted alone is started for at the last key packet that comes before it in both orders."""
    _, order, wanted = case
    for position in wanted.tolist():
        (run,) = plan_runs(order, np.array([position]))
        before = [k for k in order.keys.tolist() if k <= position and order.pts[k] <= order.pts[position]]
        assert run.start == max(before, default=0)


@given(case=plans(), steps_back=st.integers(0, 40))
def test_stepping_back_never_starts_later(case: tuple[Stream, DecodeOrder, np.ndarray], steps_back: int) -> None:
    _, order, wanted = case
    runs = plan_runs(order, wanted, steps_back=steps_back)
    _check_laws(order, wanted, runs)
    assert all(run.start == 0 or run.start in order.keys.tolist() for run in runs)
    earlier = order.starts_for(wanted, steps_back=steps_back)
    assert np.all(earlier <= order.starts_for(wanted))
    assert np.all(order.starts_for(wanted, steps_back=steps_back + 1) <= earlier)


@given(case=plans())
def test_doubling_the_steps_back_reaches_the_first_packet(case: tuple[Stream, DecodeOrder, np.ndarray]) -> None:
    _, order, wanted = case
    steps_back, tries = 0, 0
    while any(run.start for run in plan_runs(order, wanted, steps_back=steps_back)):
        steps_back, tries = max(1, 2 * steps_back), tries + 1
        assert tries <= 2 + len(order.keys).bit_length()


def test_nothing_wanted_is_no_run() -> None:
    order = DecodeOrder.of(Stream((0,), (True,), (0,), (True,)).index(), 0)
    assert plan_runs(order, np.empty(0, np.int64)) == []


def test_a_run_goes_on_where_that_costs_no_more_than_starting_again() -> None:
    count = 40
    stream = Stream(tuple(range(count)), tuple(p % 10 == 0 for p in range(count)), (0,) * count, (True,) * count)
    order = DecodeOrder.of(stream.index(), 0)
    spans = [(run.start, run.stop) for run in plan_runs(order, np.array([3, 8, 12, 39]))]
    assert spans == [(0, 9), (10, 13), (30, 40)]
    touching = [(run.start, run.stop) for run in plan_runs(order, np.arange(5, 25))]
    assert touching == [(0, 25)]


def test_a_long_run_ends_at_a_key_packet() -> None:
    count = 1000
    stream = Stream(tuple(range(count)), tuple(p % 60 == 0 for p in range(count)), (0,) * count, (True,) * count)
    spans = [(run.start, run.stop) for run in plan_runs(DecodeOrder.of(stream.index(), 0), np.arange(count))]
    assert spans == [(0, 300), (300, 600), (600, 900), (900, 1000)]


class TestDecodeOrder:
    @given(stream=streams())
    def test_it_has_every_packet_at_its_decode_position(self, stream: Stream) -> None:
        index = stream.index()
        order = DecodeOrder.of(index, 0)
        assert order.pts.tolist() == list(stream.pts)
        assert order.offset.tolist() == [100 + 10 * p for p in range(len(stream.pts))]
        for position, row in enumerate(order.row.tolist()):
            assert (row != HIDDEN_ROW) == stream.shown[position]
            assert row == HIDDEN_ROW or index.packets.decode_position[row] == position

    def test_packets_that_lie_in_order_are_not_copied(self) -> None:
        count = 12
        index = Stream(tuple(range(count)), (True, False) * 6, (0,) * count, (True,) * count).index()
        order = DecodeOrder.of(index, 0)
        for name in ("offset", "size", "pts", "disposable", "crc32"):
            assert np.shares_memory(getattr(order, name), getattr(index.packets, name))
        assert (order.row.tolist(), order.keys.tolist()) == (list(range(count)), list(range(0, count, 2)))
        lent = sum(getattr(index.packets, name).nbytes for name in ("offset", "size", "pts", "disposable", "crc32"))
        assert order.nbytes <= lent + order.row.nbytes + order.keys.nbytes

    def test_a_stream_without_key_packets_starts_at_its_first_one(self) -> None:
        order = DecodeOrder.of(Stream((0, 1, 2), (False,) * 3, (0,) * 3, (True,) * 3).index(), 0)
        assert [run.start for run in plan_runs(order, np.array([2]))] == [0]

    def test_decode_positions_with_a_gap_are_damage(self) -> None:
        index = Stream((0, 1, 2), (True,) * 3, (0,) * 3, (True,) * 3).index()
        packets = dataclasses.replace(index.packets, decode_position=np.array([0, 1, 3]))
        with pytest.raises(CorruptIndexError, match="count 0, 1, 2"):
            DecodeOrder.of(dataclasses.replace(index, packets=packets), 0)

    @pytest.mark.parametrize(
        ("name", "value"), [("offset", -5), ("size", -1), ("size", 2**62), ("offset", 2**63 - 1), ("offset", 1_000_000)]
    )
    def test_packets_outside_of_their_file_are_damage(self, name: str, value: int) -> None:
        index = Stream((0, 1, 2), (True,) * 3, (0,) * 3, (True,) * 3).index()
        column = getattr(index.packets, name).copy()
        column[1] = value
        damaged = dataclasses.replace(index, packets=dataclasses.replace(index.packets, **{name: column}))
        with pytest.raises(CorruptIndexError, match="outside"):
            DecodeOrder.of(damaged, 0)
        elsewhere = dataclasses.replace(index.sources[0], addressing="container")
        DecodeOrder.of(dataclasses.replace(damaged, sources=(elsewhere,)), 0)  # where no place is known

    def test_packets_of_other_sources_are_left_out(self) -> None:
        one = Stream((0, 1, 2), (True, False, False), (0,) * 3, (True, False, True)).index()
        two = Stream((0, 1), (True, True), (0,) * 2, (True, True)).index()
        joined = FrameIndex.join([one, two])
        assert DecodeOrder.of(joined, 0).row.tolist() == [0, HIDDEN_ROW, 1]
        assert DecodeOrder.of(joined, 1).row.tolist() == [2, 3]


@given(case=plans())
def test_byte_ranges_are_those_of_the_packets_fed(case: tuple[Stream, DecodeOrder, np.ndarray]) -> None:
    _, order, wanted = case
    for run in plan_runs(order, wanted):
        assert byte_ranges(order, run) == [(100 + 10 * p, 101 + 10 * p + p % 7) for p in run.positions.tolist()]


@given(sizes=st.lists(st.integers(0, 50), max_size=30), max_bytes=st.integers(1, 60))
def test_batches_hold_everything_in_order_within_the_bound(sizes: list[int], max_bytes: int) -> None:
    batches = list(in_batches(sizes, max_bytes=max_bytes))
    assert [i for batch in batches for i in range(len(sizes))[batch]] == list(range(len(sizes)))
    for batch in batches:
        assert len(sizes[batch]) == 1 or sum(sizes[batch]) <= max_bytes
        assert len(sizes[batch]) >= 1
    for one, other in itertools.pairwise(batches):
        assert sum(sizes[one]) + sizes[other.start] > max_bytes  # no batch is cut sooner than it must be


@pytest.mark.parametrize("name", ["h264_open_gop", "h264_edit_list", "h264_gop250", "hevc_open_gop", "vp9_hidden"])
def test_the_laws_hold_for_real_streams(corpus: VideoCorpus, name: str) -> None:
    order = DecodeOrder.of(build_index(corpus[name]), 0)
    shown = np.flatnonzero(order.row != HIDDEN_ROW)
    assert len(shown) == len(CORPUS[name].numbers)
    rng = np.random.default_rng(0)
    for size in (1, 1, 1, 3, 10, len(shown)):
        wanted = np.sort(rng.choice(shown, size, replace=False))
        runs = plan_runs(order, wanted)
        _check_laws(order, wanted, runs)
        assert all(run.start == 0 or _starts_well(order, run) for run in runs)


def _depth(ranks: list[int]) -> int:
    return max(
        (sum(earlier > rank for earlier in ranks[max(0, i - 16) : i]) for i, rank in enumerate(ranks)), default=0
    )


@given(case=plans(), held_back=st.integers(0, 5))
def test_a_run_that_goes_on_feeds_what_pushes_its_pictures_out(
    case: tuple[Stream, DecodeOrder, np.ndarray], held_back: int
) -> None:
    _, order, wanted = case
    depth = _depth([row for row in order.row.tolist() if row != HIDDEN_ROW])
    assert order.reorder_depth == depth
    plain, going_on = plan_runs(order, wanted), plan_runs(order, wanted, held_back=held_back)
    for one, other in zip(plain[:-1], going_on[:-1], strict=True):
        assert (one.start, one.stop, one.positions.tolist()) == (other.start, other.stop, other.positions.tolist())
        assert not other.goes_on
    last, extended = plain[-1], going_on[-1]
    assert extended.goes_on
    assert extended.needed_stop == last.stop
    assert extended.positions.tolist() == [*last.positions.tolist(), *range(last.stop, extended.stop)]
    shortened = extended.without_going_on()
    assert (shortened.stop, shortened.positions.tolist()) == (last.stop, last.positions.tolist())
    assert not shortened.goes_on
    later = sum(order.row[last.stop : extended.stop] > order.row[last.wanted].max())
    assert later == max(depth, held_back) or extended.stop == len(order)


@given(case=plans(), start=st.integers(0, 20), ahead=st.integers(0, 20), inside=st.sets(st.integers(0, 23)))
def test_a_decoder_serves_what_lies_ahead_or_inside(
    case: tuple[Stream, DecodeOrder, np.ndarray], start: int, ahead: int, inside: set[int]
) -> None:
    _, order, wanted = case
    standing = Standing("stream", start, start + ahead, inside)
    for run in plan_runs(order, wanted):
        expected = start <= run.start <= start + ahead and all(
            p >= start + ahead or int(order.row[p]) in inside for p in run.wanted.tolist()
        )
        assert standing.serves("stream", order, run) == expected
        assert not standing.serves("another", order, run)
