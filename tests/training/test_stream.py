"""Streams: every clip once over ranks and workers, the same batches for any number of these, exact states."""

from __future__ import annotations

import gc
import itertools
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from dataset_samples import COUNTS, PER_VIDEO, blank, equal, jitter, numbers, upload
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import DataLoader

from lazyvid.errors import CorruptVideoError
from lazyvid.frames import ClipSpec, Window
from lazyvid.stats import read_stats
from lazyvid.testing import S3Server
from lazyvid.training import (
    BlockShuffleSampler,
    ClipDataset,
    ClipStream,
    DistributedClipSampler,
    EpisodeSampler,
    Extents,
    RandomClipSampler,
    collate_clips,
)
from lazyvid.training.samplers import SequentialClipSampler
from lazyvid.training.stream import _read_ahead
from lazyvid.training.stream_plan import StreamPlan

# Of what more workers than cores would cost.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

CLIP = ClipSpec(4)
TOTAL = sum(count // 4 for count in COUNTS)  # 17


def stream_of(folder: Path, **options: Any) -> ClipStream:
    return ClipStream(folder, CLIP, **{"batch_size": 3, "seed": 2, "transform": jitter, **options})


def loaded(stream: ClipStream, workers: int, **options: Any) -> list[Any]:
    """What a plain loader gives."""
    context = {"multiprocessing_context": "fork", "timeout": 240} if workers else {}
    return list(DataLoader(stream, **{"batch_size": None, "num_workers": workers, **context, **options}))


def shown(batches: list[Any]) -> list[int]:
    return [number for batch in batches for number in numbers(batch["frames"])[::4]]


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_window_of_the_plan_once_over_all_ranks(folder: Path, ranks: int, drop_last: bool) -> None:
    dataset = ClipDataset(folder, CLIP)
    plan = BlockShuffleSampler(dataset, seed=2)
    plan.set_epoch(1)
    given = []
    for rank in range(ranks):
        stream = stream_of(folder, num_replicas=ranks, rank=rank, drop_last=drop_last)
        stream.set_epoch(1)
        batches = list(stream)
        sizes = [len(batch["video_id"]) for batch in batches]
        own = TOTAL // ranks
        assert sizes == [3] * (own // 3) + [own % 3] * (own % 3 > 0 and not drop_last)
        assert len(stream) == len(batches)
        given.append(shown(batches))
    dealt = [number for step in itertools.zip_longest(*given) for number in step if number is not None]
    expected = [w.video * PER_VIDEO + w.start for w in plan]
    assert dealt == expected[: len(dealt)]
    assert len(dealt) >= TOTAL - (3 * ranks if drop_last else ranks - 1)


def test_padding_repeats_what_ranks_lack(folder: Path) -> None:
    given = [shown(list(stream_of(folder, num_replicas=3, rank=rank, uneven="pad"))) for rank in range(3)]
    assert [len(own) for own in given] == [6, 6, 6]
    assert len(set(itertools.chain(*given))) == TOTAL


def test_in_order_without_shuffling(folder: Path) -> None:
    stream = ClipStream(folder, CLIP, shuffle=False)
    samples = list(stream)
    assert len(stream) == len(samples) == TOTAL
    assert equal(samples, ClipDataset(folder, CLIP).__getitems__(range(TOTAL)))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("clip", [ClipSpec(5, fps=10), ClipSpec(4, pad="repeat"), ClipSpec(3, fps=7, pad="repeat")])
def test_clips_by_time_and_padded_ones(folder: Path, clip: ClipSpec, shuffle: bool) -> None:
    samples = list(ClipStream(folder, clip, shuffle=shuffle))
    assert samples
    assert all(sample["frames"].shape[0] == clip.num_frames for sample in samples)
    if clip.pad == "error":
        assert not any(sample["is_pad"].any() for sample in samples)
    elif not shuffle:  # to the last frame of each video
        assert {int(s["frame_indices"][-1]) for s in samples} >= {count - 1 for count in COUNTS}


@pytest.mark.parametrize("epochs", [1, None])
def test_epochs_differ_and_are_drawn_again(folder: Path, epochs: Any) -> None:
    stream = stream_of(folder, epochs=epochs)
    if epochs is None:
        batches = list(itertools.islice(stream, 18))
        orders = [shown(batches[6 * epoch : 6 * epoch + 6]) for epoch in range(3)]
        with pytest.raises(TypeError, match="endless"):
            len(stream)
    else:
        orders = []
        for epoch in range(3):
            stream.set_epoch(epoch)
            orders.append(shown(list(stream)))
        stream.set_epoch(1)
        assert shown(list(stream)) == orders[1] == shown(list(stream))
    assert [len(set(order)) for order in orders] == [TOTAL] * 3
    assert orders[0] != orders[1] != orders[2]


# -- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_same_batches_for_any_number_of_workers(folder: Path, drop_last: bool) -> None:
    stream = stream_of(folder, drop_last=drop_last)
    expected = list(stream)
    for workers in (0, 1, 2, 7) if drop_last else (3,):
        assert equal(loaded(stream, workers), expected)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_the_same_batches_for_every_start_method(folder: Path, context: str) -> None:
    stream = stream_of(folder, num_replicas=2, rank=1)
    assert equal(loaded(stream, 2, multiprocessing_context=context), list(stream))


def test_single_clips_in_the_plans_order_or_in_batches_of_the_loader(folder: Path) -> None:
    stream = stream_of(folder, batch_size=None)
    expected = list(stream)
    assert equal(loaded(stream, 3), expected)
    batches = loaded(stream, 2, batch_size=4, collate_fn=collate_clips)
    assert sorted(shown(batches)) == sorted(
        int(s["video_id"]) * PER_VIDEO + int(s["frame_indices"][0]) for s in expected
    )


def test_endless_streams_in_workers(folder: Path) -> None:
    stream = stream_of(folder, epochs=None)
    expected = list(itertools.islice(stream, 20))
    loader = DataLoader(stream, batch_size=None, num_workers=3, multiprocessing_context="fork", timeout=240)
    assert equal(list(itertools.islice(loader, 20)), expected)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_persistent_workers_hear_of_epochs_and_states(folder: Path, context: str) -> None:
    stream, twin = stream_of(folder), stream_of(folder)
    loader = DataLoader(
        stream, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context=context, timeout=240
    )
    for epoch in (0, 1, 5):
        stream.set_epoch(epoch)
        twin.set_epoch(epoch)
        assert equal(list(loader), list(twin))
    state = stream.state_at(4)
    assert (state["epoch"], state["position"]) == (5, 12)
    stream.load_state_dict(state)
    twin.load_state_dict(state)
    rest = list(loader)
    assert len(rest) == 2
    assert equal(rest, list(twin))
    assert len(list(loader)) == 6  # a place that was loaded is used once


def test_ranks_that_a_process_group_knows_reach_workers_that_know_of_none(folder: Path) -> None:
    stream = stream_of(folder)
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        expected = list(stream)
        found = loaded(stream, 1, multiprocessing_context="spawn")
        received = pickle.loads(pickle.dumps(stream))
    finally:
        torch.distributed.destroy_process_group()
    assert len(expected) == 3
    assert equal(found, expected)
    assert equal(list(received), expected)
    assert equal(list(stream_of(folder, num_replicas=2, rank=1)), expected)


# -- states -----------------------------------------------------------------------------------------------------------


def test_resumed_at_every_batch(folder: Path) -> None:
    stream = stream_of(folder)
    stream.set_epoch(3)
    whole = list(stream)
    states = [stream.state_at(consumed) for consumed in range(len(whole) + 1)]
    iterator = iter(stream)
    for consumed, state in enumerate(states[:-1]):
        assert state["position"] == 3 * consumed
        next(iterator)
        assert stream.state_dict() == states[consumed + 1]
        resumed = stream_of(folder)
        resumed.load_state_dict(state)
        assert len(resumed) == len(whole)
        assert resumed.state_dict() == state
        assert equal(list(resumed), whole[consumed:])
        assert equal(list(resumed), whole)  # then the epoch from its begin
    over = stream_of(folder)
    over.load_state_dict(states[-1])
    assert over.epoch == 4
    stream.set_epoch(4)
    assert equal(list(over), list(stream))
    with pytest.raises(ValueError, match="0 to 6"):
        stream.state_at(7)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 3)])
def test_resumed_with_another_number_of_workers(folder: Path, before: int, after: int) -> None:
    whole = list(stream_of(folder))
    for consumed in (1, 5):
        stream = stream_of(folder)
        batches = iter(DataLoader(stream, batch_size=None, num_workers=before))
        assert equal(list(itertools.islice(batches, consumed)), whole[:consumed])
        state = stream.state_at(consumed)
        del batches
        resumed = stream_of(folder)
        resumed.load_state_dict(state)
        assert equal(loaded(resumed, after), whole[consumed:])


def test_endless_streams_resume_in_any_epoch(folder: Path) -> None:
    stream = stream_of(folder, epochs=None, num_replicas=2, rank=0)
    whole = list(itertools.islice(stream, 14))
    iterator = iter(stream_of(folder, epochs=None, num_replicas=2, rank=0))
    for consumed in (0, 1, 2, 3, 4, 7, 9, 11):
        state = stream.state_at(consumed)
        resumed = stream_of(folder, epochs=None, num_replicas=2, rank=0)
        resumed.load_state_dict(state)
        assert equal(list(itertools.islice(resumed, 14 - consumed)), whole[consumed:])
        again = resumed.state_at(0)
        assert (again["epoch"], again["position"]) == (consumed // 3, 6 * (consumed % 3))
    assert equal(next(iterator), whole[0])


def test_the_rest_of_an_epoch_is_dealt_to_other_ranks(folder: Path) -> None:
    first = [stream_of(folder, num_replicas=2, rank=rank) for rank in range(2)]
    seen = [shown(list(itertools.islice(stream, 2))) for stream in first]
    states = [stream.state_at(2) for stream in first]
    assert states[0] == states[1]
    rest = []
    for rank in range(3):
        stream = stream_of(folder, num_replicas=3, rank=rank, uneven="pad")
        stream.load_state_dict(states[0])
        rest.append(shown(list(stream)))
    left = set(shown(list(stream_of(folder)))) - set(itertools.chain(*seen))
    assert [len(own) for own in rest] == [2, 2, 2]
    assert len(left) == 5  # and one is given again
    assert left < set(itertools.chain(*rest))


def test_where_less_than_a_batch_is_left_the_next_epoch_begins(folder: Path) -> None:
    sampler = DistributedClipSampler(RandomClipSampler([40], 4))
    plan = StreamPlan(sampler, size=4, drop_last=True, endless=False)
    assert (plan.at(0, 8).epoch, len(list(plan.at(0, 8).groups()))) == (1, 2)
    assert (plan.at(0, 6).epoch, len(list(plan.at(0, 6).groups()))) == (0, 1)


def test_states_of_other_plans_are_refused(folder: Path) -> None:
    state = stream_of(folder).state_dict()
    for other in (stream_of(folder, seed=3), stream_of(folder, shuffle=False)):
        with pytest.raises(ValueError, match="another sampler"):
            other.load_state_dict(state)
    stream_of(folder, batch_size=5, num_replicas=4, rank=3, epochs=None).load_state_dict(state)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'set_vital'")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_that_keep_their_own_states_go_on_from_them(folder: Path, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="the loader that saves workers' states")
    options = {"batch_size": None, "num_workers": workers, "multiprocessing_context": "fork"}
    whole = list(stream_of(folder))
    for consumed in range(len(whole)):
        loader = stateful.StatefulDataLoader(stream_of(folder), **options)
        batches = iter(loader)
        assert equal(list(itertools.islice(batches, consumed)), whole[:consumed])
        state = loader.state_dict()
        del batches
        resumed = stateful.StatefulDataLoader(stream_of(folder), **options)
        resumed.load_state_dict(state)
        assert equal(list(resumed), whole[consumed:])


# -- fetching ahead ---------------------------------------------------------------------------------------------------


class Batch:
    """Stands for a batch that is on its way."""

    def __init__(self, group: list[Window], log: list[tuple[str, int]]) -> None:
        self.number, self.log = group[0].start, log
        log.append(("begin", self.number))

    def result(self) -> list[int]:
        self.log.append(("result", self.number))
        if self.number == 99:
            raise CorruptVideoError("damaged")
        return [self.number]

    def cancel(self) -> None:
        self.log.append(("cancel", self.number))


def ahead(numbers: list[int], count: int, log: list[tuple[str, int]]) -> Iterator[list[int]]:
    groups = ([Window(0, number, number)] for number in numbers)
    return _read_ahead(lambda group: Batch(group, log), groups, count)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_so_many_batches_are_begun_before_they_are_asked_for(count: int) -> None:
    log: list[tuple[str, int]] = []
    for number, (given,) in enumerate(ahead(list(range(8)), count, log)):
        assert given == number
        assert sum(what == "begin" for what, _ in log) == min(number + 1 + count, 8)
    assert not [entry for entry in log if entry[0] == "cancel"]


def test_what_was_begun_is_given_up_with_the_iterator() -> None:
    log: list[tuple[str, int]] = []
    iterator = ahead(list(range(8)), 2, log)
    next(iterator)
    del iterator
    assert log[-2:] == [("cancel", 1), ("cancel", 2)]


def test_an_error_comes_in_its_place_and_ends_the_stream() -> None:
    log: list[tuple[str, int]] = []
    iterator = ahead([0, 99, 2, 3], 2, log)
    assert next(iterator) == [0]
    with pytest.raises(CorruptVideoError):
        next(iterator)
    assert log[-2:] == [("cancel", 2), ("cancel", 3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_after_the_batches_before_them(broken: Path, workers: int) -> None:
    blank(broken / "1.mp4")
    (broken / "0.mp4").rename(broken / "3.mp4")
    (broken / "0.mp4.lance").rename(broken / "3.mp4.lance")
    stream = ClipStream([broken / "2.mp4", broken / "1.mp4"], CLIP, shuffle=False, batch_size=2)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=None))
    assert len(list(itertools.islice(batches, 5))) == 5
    with pytest.raises(CorruptVideoError, match=r"1\.mp4"):
        next(batches)


def test_bytes_are_fetched_before_they_are_asked_for(folder: Path, s3_server: S3Server, s3_prefix: str) -> None:
    store = upload(folder, s3_server, s3_prefix)
    requests = []
    for count in (0, 2):
        stream = ClipStream(s3_prefix, CLIP, store=store, batch_size=2, ahead=count)
        before = read_stats().requests
        iterator = iter(stream)
        next(iterator)
        requests.append(read_stats().requests - before)
        assert len(list(iterator)) == 8
    assert requests[1] > requests[0]


def test_dropped_iterators_leave_nothing_behind(folder: Path, s3_server: S3Server, s3_prefix: str) -> None:
    stream = ClipStream(s3_prefix, CLIP, store=upload(folder, s3_server, s3_prefix), batch_size=2, epochs=None)
    begun = []
    begin = stream.dataset.begin
    stream.dataset.begin = lambda items: begun.append(begin(items)) or begun[-1]  # type: ignore[method-assign]
    threads = set(threading.enumerate())
    for _ in range(3):
        begun.clear()
        iterator = iter(stream)
        next(iterator)
        del iterator
        assert len(begun) == 3
        for batch in begun[1:]:
            with pytest.raises(CancelledError):
                batch.result()
    gc.collect()
    assert {t.name for t in set(threading.enumerate()) - threads} <= {"lazyvid-io"}


def test_pickled_before_and_after_iterating(folder: Path) -> None:
    stream = stream_of(folder)
    copy = pickle.loads(pickle.dumps(stream))
    expected = list(stream)
    assert equal(list(copy), expected)
    iterator = iter(stream)
    next(iterator)
    again = pickle.loads(pickle.dumps(stream))
    assert equal(list(again), expected)
    assert equal(list(iterator), expected[1:])
    assert len(pickle.dumps(stream)) < 20_000
    again.set_epoch(7)
    assert (stream.epoch, again.epoch) == (0, 7)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_only_what_the_sampler_draws_takes_the_place_of_others(broken: Path) -> None:
    dataset = ClipDataset(broken, CLIP)
    sampler = EpisodeSampler(Extents.intervals(dataset, [(0, 0, 23), (2, 0, 40)]), 4)
    stream = ClipStream(broken, CLIP, sampler=sampler, on_error="skip", batch_size=3)
    batches = list(stream)
    assert sum(len(batch["video_id"]) for batch in batches) == len(sampler)
    assert {int(v) for batch in batches for v in batch["video_id"]} == {2}
    assert equal(loaded(stream, 2), batches)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"ahead": -1}, ValueError, "ahead"),
        ({"epochs": 2}, ValueError, "epochs"),
        ({"uneven": "keep"}, ValueError, "uneven"),
        ({"on_error": "drop"}, ValueError, "on_error"),
        ({"num_replicas": 2, "rank": 2}, ValueError, "rank"),
        ({"sampler": DistributedClipSampler(SequentialClipSampler([40], 4))}, ValueError, "not distributed"),
    ],
    ids=str,
)
def test_wrong_arguments(folder: Path, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        stream_of(folder, **options)


def test_an_epoch_without_a_batch_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="batch of 30"):
        iter(stream_of(folder, batch_size=30, drop_last=True, epochs=None))
    with pytest.raises(ValueError, match="0 or more"):
        stream_of(folder).set_epoch(-1)


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_what_cannot_be_sent_is_named(folder: Path) -> None:
    stream = stream_of(folder, collate_fn=lambda samples: samples)
    with pytest.raises(TypeError, match="collate_fn cannot be pickled"):
        loaded(stream, 1, multiprocessing_context="spawn")
