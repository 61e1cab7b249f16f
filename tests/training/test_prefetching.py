"""What was announced is fetched once and early, belongs to its process, and is never more than a few batches."""

from __future__ import annotations

import gc
import pickle
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import check, equal, upload
from laws import files_below, in_process

from lazyvid.errors import AccessDeniedError, CorruptVideoError, VideoError
from lazyvid.frames import ClipSpec, Window
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore
from lazyvid.testing import Fault, FaultServer, S3Server
from lazyvid.training import ClipDataset, ClipLoader, FrameDataset
from lazyvid.training.prefetched import Prefetched

ITEMS = [Window(2, 12, 16), Window(0, 11, 15), 0]


@pytest.fixture
def remote(folder: Path, s3_server: S3Server, s3_prefix: str) -> ClipDataset:
    return ClipDataset(s3_prefix, ClipSpec(4), store=upload(folder, s3_server, s3_prefix))


def test_announced_batches_are_fetched_once(remote: ClipDataset) -> None:
    before = read_stats()
    expected = remote.__getitems__(ITEMS)
    needed = (read_stats() - before).requests
    for _ in range(3):
        remote.prefetch(ITEMS)
    assert equal(remote.__getitems__(ITEMS), expected)
    assert (read_stats() - before).requests == 2 * needed
    assert not remote._prefetched
    assert equal(remote.__getitems__(ITEMS), expected)
    assert (read_stats() - before).requests == 3 * needed


def test_a_batch_in_another_order_is_another_batch(remote: ClipDataset) -> None:
    remote.prefetch(ITEMS)
    for sample, window in zip(remote.__getitems__(ITEMS[1::-1]), ITEMS[1::-1], strict=True):
        assert isinstance(window, Window)
        check(sample, window.video, list(range(window.start, window.stop)))
    assert len(remote._prefetched) == 1


def test_what_was_begun_may_be_read_or_given_up(remote: ClipDataset) -> None:
    batch = remote.begin(ITEMS)
    assert equal(batch.result(), remote.__getitems__(ITEMS))
    dropped = remote.begin(ITEMS)
    dropped.cancel()
    with pytest.raises(CancelledError):
        dropped.result()


def test_what_goes_wrong_is_raised_when_it_is_asked_for(broken: Path) -> None:
    dataset = ClipDataset(broken, ClipSpec(4))
    for bad in ([10**6], [Window(9, 0, 4)], [Window(1, 6, 10)], ["no item"]):
        dataset.prefetch(bad)  # type: ignore[arg-type]
    assert not dataset._prefetched
    dataset.prefetch([0])
    with pytest.raises(CorruptVideoError, match=r"0\.mp4"):
        dataset.__getitems__([0])
    batch = dataset.begin([0])
    with pytest.raises(VideoError, match=r"0\.mp4"):
        batch.result()


def announced(dataset: ClipDataset, items: Any) -> int:
    found = len(dataset._prefetched)
    dataset.prefetch(items)
    assert len(dataset._prefetched) == 1
    dataset.__getitems__(items)
    return found


def test_pending_batches_stay_in_their_process(remote: ClipDataset) -> None:
    remote.prefetch(ITEMS)
    assert len(pickle.loads(pickle.dumps(remote))._prefetched) == 0
    assert in_process("fork", announced, remote, ITEMS) == 0
    assert len(remote._prefetched) == 1
    remote.__getitems__(ITEMS)


def test_frames_are_announced_too(folder: Path) -> None:
    dataset = FrameDataset(folder)
    dataset.prefetch([3, 1])
    assert [s["frame_index"] for s in dataset.__getitems__([3, 1])] == [3, 1]
    assert [s["frame_index"] for s in dataset.begin([4, 2]).result()] == [4, 2]


class Begun:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def test_the_oldest_gives_way() -> None:
    kept: Prefetched[Begun] = Prefetched(3)
    begun = [Begun() for _ in range(5)]
    for key, pending in enumerate(begun):
        kept.add(key, lambda pending=pending: pending)  # type: ignore[misc]
    assert len(kept) == 3
    assert [pending.cancelled for pending in begun] == [True, True, False, False, False]
    kept.add(4, Begun)
    assert kept.pop(4) is begun[4]
    assert kept.pop(4) is None
    assert kept.pop(0) is None


def test_two_that_begin_the_same_keep_one() -> None:
    kept: Prefetched[Begun] = Prefetched()
    first, second = Begun(), Begun()

    def begin() -> Begun:
        kept.add("key", lambda: first)  # another thread was faster
        return second

    kept.add("key", begin)
    assert (first.cancelled, second.cancelled) == (False, True)
    assert kept.pop("key") is first


def test_announcing_leaves_no_thread_behind(folder: Path) -> None:
    dataset = ClipDataset(folder, ClipSpec(4))
    threads = set(threading.enumerate())
    for start in range(8):
        dataset.prefetch([Window(2, start, start + 4)])
    del dataset
    gc.collect()
    assert {t.name for t in set(threading.enumerate()) - threads} <= {"lazyvid-io"}


@pytest.mark.parametrize("options", [{}, {"num_threads": 2}], ids=["inline", "threads"])
def test_a_fault_that_has_passed_is_not_reported_to_the_next_pass(
    folder: Path, fault_server: FaultServer, options: dict[str, Any]
) -> None:
    fault_server.objects.update(files_below(folder))
    store = ObjectStore(storage_options=fault_server.storage_options)
    dataset = ClipDataset(fault_server.s3_url(""), ClipSpec(4), store=store)
    loader = ClipLoader(dataset, batch_size=2, **options)
    expected = list(loader)
    fault_server.script(default=Fault.status(403), ranged=True)
    with pytest.raises(AccessDeniedError):
        list(loader)
    fault_server.script()
    assert equal(list(loader), expected)
    loader.close()
