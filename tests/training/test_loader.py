"""`ClipLoader`: the same batches whoever reads them, states that go on exactly, failures with a name and an end."""

from __future__ import annotations

import functools
import gc
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loader_samples import Announced, Numbers, jitter, note_worker
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from lazyvid.errors import CorruptVideoError, LoaderTimeoutError, WorkerDiedError, WorkerStartError
from lazyvid.frames import ClipSpec
from lazyvid.testing import read_frame_number
from lazyvid.training import ClipDataset, ClipLoader, ClipStream, collate_clips, shared_memory
from lazyvid.training.samplers import DistributedClipSampler, RandomClipSampler

FAST = "fork"
"""For tests that are not about start methods."""
WAYS: dict[str, dict[str, Any]] = {
    "inline": {},
    "threads": {"num_threads": 2},
    "fork": {"num_workers": 2, "multiprocessing_context": "fork"},
    "forkserver": {"num_workers": 2},
    "spawn": {"num_workers": 2, "multiprocessing_context": "spawn"},
}
QUICK_WAYS = [pytest.param(way, marks=pytest.mark.slow) if way == "spawn" else way for way in WAYS]
"""All ways, in the default run those that start soon."""
CLIP = ClipSpec(4)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Each test ends without a worker process or a reader thread, once its loaders are gone."""
    yield
    gc.collect()
    for process in multiprocessing.active_children():
        process.join(20)
        assert not process.is_alive()
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("lazyvid-reader")]
    deadline = time.monotonic() + 20
    while names and time.monotonic() < deadline:
        time.sleep(0.05)
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("lazyvid-reader")]
    assert not names


@pytest.fixture(scope="module")
def dataset(folder: Path) -> ClipDataset:
    return ClipDataset(str(folder), CLIP, transform=jitter)


def loader_of(dataset: Any, *, seed: int = 0, batch_size: int = 3, **options: Any) -> ClipLoader:
    sampler = RandomClipSampler(dataset, clip=CLIP, seed=seed)
    return ClipLoader(dataset, sampler=sampler, batch_size=batch_size, **options)


def digest(batch: dict[str, Any]) -> list[Any]:
    """All that a batch says, as it can be compared."""
    frames = batch["frames"]
    shown = [read_frame_number(frame) for frame in frames.flatten(0, 1)]
    return [shown, batch["timestamps"].tolist(), batch["video_id"].tolist(), batch["noise"].tolist()]


def epochs(loader: ClipLoader, count: int) -> list[list[Any]]:
    passes = [[digest(batch) for batch in loader] for _ in range(count)]
    loader.close()
    return passes


# -- the same batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", QUICK_WAYS)
def test_batches_do_not_depend_on_who_reads_them(dataset: ClipDataset, way: str) -> None:
    expected = epochs(loader_of(dataset), 2)
    assert expected[0] != expected[1], "windows are re-drawn each epoch"
    loader = loader_of(dataset, **WAYS[way])
    assert len(loader) == len(expected[0])
    assert epochs(loader, 2) == expected


def test_a_plain_dataloader_gives_the_same_batches(dataset: ClipDataset) -> None:
    (expected,) = epochs(loader_of(dataset), 1)
    sampler = RandomClipSampler(dataset, clip=CLIP)
    plain = DataLoader(
        dataset, batch_size=3, sampler=sampler, num_workers=2, collate_fn=collate_clips, multiprocessing_context=FAST
    )
    assert [digest(batch) for batch in plain] == expected


def test_without_a_sampler_the_plain_enumeration(folder: Path) -> None:
    dataset = ClipDataset(str(folder), CLIP)
    batches = list(ClipLoader(dataset, batch_size=4))
    assert torch.equal(torch.cat([batch["frames"] for batch in batches]), torch.stack([s["frames"] for s in dataset]))


def test_the_next_batch_is_announced_while_this_one_is_read() -> None:
    batches = list(ClipLoader(Announced(10), batch_size=3))
    numbers = [batch["number"].tolist() for batch in batches]
    assert numbers == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    for number, batch in enumerate(batches):
        assert batch["announced"][0] == str(numbers[number : number + 2])
    pairs = [[2 * n, 2 * n + 1] for n in range(5)]
    forked = ClipLoader(Announced(10), batch_size=2, num_workers=2, multiprocessing_context=FAST)
    expected = [str(pairs[n : n + 3 : 2]) for n in range(5)]
    assert [batch["announced"][0] for batch in forked] == expected
    forked.close()


@pytest.mark.parametrize("drop_last", [False, True])
def test_lengths(drop_last: bool) -> None:
    loader = ClipLoader(Numbers(10), batch_size=4, drop_last=drop_last)
    assert len(loader) == len(list(loader)) == (2 if drop_last else 3)
    assert "ClipLoader" in repr(loader)


def test_workers_start_at_the_first_batch_and_live_on(dataset: ClipDataset) -> None:
    options: dict[str, Any] = {**WAYS[FAST], "worker_init_fn": note_worker}
    loader = ClipLoader(Numbers(8), batch_size=2, **options)
    batches = iter(loader)
    assert not multiprocessing.active_children()
    first = {int(pid) for batch in [next(batches), *batches] for pid in batch["pid"]}
    assert len(first) == 2
    assert os.getpid() not in first
    assert {int(pid) for batch in loader for pid in batch["pid"]} == first
    loader.close()
    assert not multiprocessing.active_children()
    assert {int(pid) for batch in loader for pid in batch["pid"]}.isdisjoint(first)
    loader.close()


def test_a_pass_that_is_left_early_may_be_begun_anew(dataset: ClipDataset) -> None:
    for way in ("inline", "threads", "fork"):
        loader = loader_of(dataset, **WAYS[way])
        (expected,) = epochs(loader_of(dataset), 1)
        for batch in loader:
            assert digest(batch) == expected[0]
            break
        assert [digest(batch) for batch in loader] == expected
        loader.close()


# -- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["inline", "threads", "fork"])
def test_resume_at_every_batch_gives_the_rest(dataset: ClipDataset, way: str) -> None:
    whole = epochs(loader_of(dataset), 3)
    flat = [batch for one in whole for batch in one]
    states = []
    saving = loader_of(dataset, **WAYS[way])
    states.append(saving.state_dict())
    for _ in range(2):
        for _batch in saving:
            states.append(json.loads(json.dumps(saving.state_dict())))
    saving.close()
    resumed = loader_of(dataset, **WAYS["inline" if way == "fork" else "threads"])
    for done, state in enumerate(states):
        resumed.load_state_dict(state)
        assert resumed.epoch == done // len(whole[0])
        rest: list[Any] = []
        while resumed.epoch < 2 or not rest:
            assert len(resumed) == len(whole[0])
            rest += [digest(batch) for batch in resumed]
        assert rest == flat[done : done + len(rest)]
        assert len(rest) == (2 * len(whole[0]) - done or len(whole[0]))
    resumed.close()


def test_another_epoch_forgets_the_loaded_place(dataset: ClipDataset) -> None:
    whole = epochs(loader_of(dataset), 2)
    loader = loader_of(dataset)
    next(iter(loader))
    state = loader.state_dict()
    loader.load_state_dict(state)
    loader.set_epoch(1)
    assert [digest(batch) for batch in loader] == whole[1]
    loader.load_state_dict(state)
    loader.set_epoch(0)
    assert [digest(batch) for batch in loader] == whole[0][1:]
    loader.set_epoch(0)
    assert [digest(batch) for batch in loader] == whole[0]


def test_an_epoch_chosen_on_the_sampler_itself_begins_at_its_begin(dataset: ClipDataset) -> None:
    whole = epochs(loader_of(dataset), 2)
    loader = loader_of(dataset)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    loader.sampler.set_epoch(1)  # as Lightning does, with the last pass suspended
    again = loader_of(dataset)
    again.load_state_dict(loader.state_dict())
    assert [digest(batch) for batch in again] == whole[1]


def test_dropped_last_batches_are_no_rest(dataset: ClipDataset) -> None:
    loader = loader_of(dataset, batch_size=4, drop_last=True)
    for _ in range(len(loader) - 1):
        batches = iter(loader)
        for _ in range(len(loader)):
            next(batches)  # suspended after its last batch, as Lightning leaves it
        state = loader.state_dict()
        again = loader_of(dataset, batch_size=4, drop_last=True)
        again.load_state_dict(state)
        assert again.epoch == 1
        assert len(list(again)) == len(again)


def test_other_samplers_are_counted() -> None:
    def loader() -> ClipLoader:
        sampler = DistributedSampler(Numbers(20), num_replicas=2, rank=1, seed=5)
        return ClipLoader(Numbers(20), sampler=sampler, batch_size=3)

    first = loader()
    whole = [[batch["number"].tolist() for batch in first] for _ in range(2)]
    assert whole[0] != whole[1]
    second = loader()
    batches = iter(second)
    taken = [next(batches)["number"].tolist() for _ in range(2)]
    third = loader()
    third.load_state_dict(second.state_dict())
    assert taken + [batch["number"].tolist() for batch in third] == whole[0]
    assert [batch["number"].tolist() for batch in third] == whole[1]
    with pytest.raises(ValueError, match="RandomClipSampler"):
        ClipLoader(Numbers(4), sampler=RandomSampler(Numbers(4))).state_dict()


def test_states_of_other_plans_are_refused(dataset: ClipDataset) -> None:
    state = loader_of(dataset).state_dict()
    with pytest.raises(ValueError, match="seed"):
        loader_of(dataset, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="version"):
        loader_of(dataset).load_state_dict({**state, "version": 99})


def test_ranks_share_one_plan(dataset: ClipDataset) -> None:
    def ranked(rank: int, world: int) -> ClipLoader:
        sampler = DistributedClipSampler(RandomClipSampler(dataset, clip=CLIP), num_replicas=world, rank=rank)
        return ClipLoader(dataset, sampler=sampler, batch_size=2)

    def shown(batches: Any) -> list[int]:
        return [n for batch in batches for n in digest(batch)[0][::4]]

    whole = shown(ranked(0, 1))
    halves = [ranked(rank, 2) for rank in range(2)]
    iterators = [iter(half) for half in halves]
    done = [shown([next(iterator)]) for iterator in iterators]
    states = [half.state_dict() for half in halves]
    assert states[0] == states[1], "the state does not depend on the rank"
    single = ranked(0, 1)
    single.load_state_dict(states[0])
    rest = shown(single)
    assert sorted(done[0] + done[1] + rest) == sorted(whole)


# -- streams ----------------------------------------------------------------------------------------------------------


def stream_of(folder: Path, **options: Any) -> ClipStream:
    return ClipStream(str(folder), CLIP, batch_size=3, transform=jitter, **options)


@pytest.mark.parametrize("way", ["inline", "fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_stream_is_read_and_resumed_at_every_batch(folder: Path, way: str) -> None:
    plain = stream_of(folder)
    whole = []
    for epoch in range(4):
        plain.set_epoch(epoch)
        whole.append([digest(batch) for batch in DataLoader(plain, batch_size=None)])
    flat = [batch for one in whole for batch in one]
    loader = ClipLoader(stream_of(folder), **WAYS[way])
    assert len(loader) == len(whole[0])
    states = [loader.state_dict()]
    for epoch in range(2):
        assert loader.epoch == epoch
        for number, batch in enumerate(loader):
            assert digest(batch) == whole[epoch][number]
            states.append(json.loads(json.dumps(loader.state_dict())))
    loader.close()
    resumed = ClipLoader(stream_of(folder), **WAYS["inline" if way == "fork" else "fork"])
    for done, state in enumerate(states):
        resumed.load_state_dict(state)
        rest = [digest(batch) for batch in resumed]
        assert rest == flat[done : done + len(rest)]
        assert (done + len(rest)) % len(whole[0]) == 0
        assert [digest(next(iter(resumed)))] == flat[done + len(rest) : done + len(rest) + 1]
    resumed.close()


def test_a_stream_without_end(folder: Path) -> None:
    plain = iter(stream_of(folder, epochs=None))
    expected = [digest(next(plain)) for _ in range(15)]
    loader = ClipLoader(stream_of(folder, epochs=None), **WAYS[FAST])
    batches = iter(loader)
    assert [digest(next(batches)) for _ in range(11)] == expected[:11]
    again = ClipLoader(stream_of(folder, epochs=None))
    again.load_state_dict(loader.state_dict())
    batches = iter(again)
    assert [digest(next(batches)) for _ in range(4)] == expected[11:]
    loader.close()


def test_what_does_not_go_with_a_stream_is_named(folder: Path) -> None:
    stream = stream_of(folder)
    for options, what in (({"batch_size": 4}, "batch"), ({"num_threads": 2}, "num_workers")):
        with pytest.raises(ValueError, match=what):
            ClipLoader(stream, **options)
    with pytest.raises(TypeError, match="sampler"):
        ClipLoader(stream, sampler=[0, 1])
    with pytest.raises(ValueError, match="batch_size"):
        ClipLoader(ClipStream(str(folder), CLIP))


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", QUICK_WAYS)
def test_an_error_of_the_dataset_keeps_its_type(way: str) -> None:
    loader = ClipLoader(Numbers(12, at=7, bad="raise"), batch_size=2, **WAYS[way])
    batches = iter(loader)
    assert [next(batches)["number"].tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(CorruptVideoError, match="a damaged video"):
        next(batches)
    assert not [p for p in multiprocessing.active_children() if p.is_alive()]
    assert next(iter(loader))["number"].tolist() == [0, 1], "the next pass works"
    loader.close()


@pytest.mark.parametrize("way", ["fork", "forkserver"])
def test_a_worker_that_dies_while_nobody_waits_is_named_at_the_next_batch(way: str) -> None:
    """torch's own news of it would break into whatever the trainer is doing."""
    loader = ClipLoader(Numbers(24), batch_size=2, **WAYS[way])
    batches = iter(loader)
    next(batches)
    victims = multiprocessing.active_children()
    os.kill(victims[0].pid or 0, signal.SIGKILL)
    victims[0].join(60)
    for _ in range(1000):
        pass  # a step of the trainer
    with pytest.raises(WorkerDiedError, match="SIGKILL" if way == "fork" else "died"):
        list(batches)
    del batches
    assert len(list(loader)) == 12, "the next pass has new workers"
    for process in multiprocessing.active_children():
        process.kill()
        process.join(60)
    assert len(list(loader)) == 12, "so has one after workers died between two passes"
    loader.close()


class KillingOrder:
    """An order of numbers, the first of which kills a worker: loaders ask for it while they start workers."""

    def __init__(self) -> None:
        self.kills = True

    def __len__(self) -> int:
        return 24

    def __iter__(self) -> Iterator[int]:
        if self.kills:
            self.kills = False
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            time.sleep(0.5)  # the news come in here
        yield from range(24)


@pytest.mark.parametrize("way", ["fork", "forkserver"])
def test_a_worker_that_dies_while_the_others_start_is_named(way: str) -> None:
    loader = ClipLoader(Numbers(24), sampler=KillingOrder(), batch_size=2, **WAYS[way])
    before = set(threading.enumerate())
    with pytest.raises(WorkerDiedError):
        list(loader)
    assert multiprocessing.active_children() == []
    assert len(list(loader)) == 12, "the next pass has new workers"
    loader.close()
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive(), thread


def test_a_temporary_folder_too_deep_for_sockets_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 90)
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: str(deep))
    loader = ClipLoader(Numbers(4), batch_size=2, **WAYS[FAST])
    with pytest.raises(WorkerStartError, match="TMPDIR"):
        list(loader)


@pytest.mark.parametrize(
    ("way", "bad"), [("fork", "SIGKILL"), ("forkserver", "SIGKILL"), ("fork", "SIGSEGV"), ("fork", "exit")]
)
def test_a_worker_that_dies_is_named(way: str, bad: str) -> None:
    loader = ClipLoader(Numbers(12, at=7, bad=bad), batch_size=2, **WAYS[way])
    with pytest.raises(WorkerDiedError, match="exit code 3" if bad == "exit" else bad):
        list(loader)
    assert not [p for p in multiprocessing.active_children() if p.is_alive()]


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="needs /dev/shm")
@pytest.mark.parametrize("bad", ["SIGKILL", "SIGSTOP"])
def test_shared_memory_that_a_dead_worker_never_finished_is_removed(bad: str, tmp_path: Path) -> None:
    """A kill between making a segment and taking its name away: nobody else would remove it."""
    begin = functools.partial(_begin, tmp_path)
    loader = ClipLoader(Numbers(12, at=5, bad=bad), batch_size=2, timeout_s=2.0, worker_init_fn=begin, **WAYS[FAST])
    with pytest.raises((WorkerDiedError, LoaderTimeoutError)):
        list(loader)
    begun = os.listdir(tmp_path)
    assert begun
    assert not set(begun) & set(os.listdir(shared_memory.FOLDER))


def _begin(notes: Path, _: int) -> None:
    name = f"torch_{os.getpid()}_7_0"
    (shared_memory.FOLDER / name).touch()
    (notes / name).touch()


class _DropsInterrupts:
    """Once it is unpickled, a finalizer runs in which a Ctrl-C comes: Python drops what that raises."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _interrupted_in_a_finalizer, ()


class _Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def _interrupted_in_a_finalizer() -> None:
    _Finalized()


def _dropping(samples: Any) -> Any:
    return _DropsInterrupts(), samples


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finalizer_dropped_ends_the_pass() -> None:
    loader = ClipLoader(Numbers(12), batch_size=2, collate_fn=_dropping, **WAYS[FAST])
    with pytest.raises(KeyboardInterrupt):
        next(iter(loader))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not multiprocessing.active_children()


_LOCKED = """
from loader_samples import Numbers
from lazyvid.training import ClipLoader, ending
ending._ENDING_S = 1.0
loader = ClipLoader(Numbers(12), batch_size=2, num_workers=2, multiprocessing_context="fork")
batches = iter(loader)
next(batches)
for orders in loader._engine._batches._index_queues:
    orders._notempty.acquire()  # as an interrupt in the midst of a `put` leaves it
loader.close()
print("closed", flush=True)
"""

_HANGING = """
from loader_samples import Numbers
from lazyvid.errors import LoaderTimeoutError
from lazyvid.training import ClipLoader, daemons
daemons._AT_EXIT_S = 0.5
try:
    list(ClipLoader(Numbers(12, at=5, bad="hang"), batch_size=2, num_threads=2, timeout_s=1.0))
except LoaderTimeoutError:
    print("closed", flush=True)
"""


@pytest.mark.parametrize("text", [_LOCKED, _HANGING], ids=["a lock left taken", "a thread that hangs"])
def test_nothing_keeps_a_program_from_its_end(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run(
        [sys.executable, tmp_path / "run.py"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "closed\n", ran.stderr


@pytest.mark.parametrize("bad", ["hang", "SIGSTOP"])
def test_a_batch_that_does_not_come_ends_in_time(bad: str) -> None:
    loader = ClipLoader(Numbers(12, at=5, bad=bad), batch_size=2, timeout_s=2.0, **WAYS[FAST])
    with pytest.raises(LoaderTimeoutError, match="timeout_s"):
        list(loader)
    assert not [p for p in multiprocessing.active_children() if p.is_alive()]


def test_what_cannot_be_sent_is_named() -> None:
    class Hidden(Numbers):
        pass

    for options, what in (
        ({"collate_fn": lambda samples: samples}, "collate_fn"),
        ({"worker_init_fn": lambda _: None}, "worker_init_fn"),
    ):
        loader = ClipLoader(Numbers(4), **{**WAYS["spawn"], **options})
        with pytest.raises(WorkerStartError, match=what):
            next(iter(loader))
    with pytest.raises(WorkerStartError, match="dataset"):
        next(iter(ClipLoader(Hidden(4), num_workers=1, multiprocessing_context="spawn")))


def test_wrong_arguments_are_named() -> None:
    for options in (
        {"batch_size": 0},
        {"num_workers": -1},
        {"num_threads": True},
        {"prefetch_factor": 0},
        {"num_workers": 1, "num_threads": 1},
        {"timeout_s": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            ClipLoader(Numbers(4), **options)
    with pytest.raises(TypeError, match="sampler"):
        ClipLoader(Numbers(4), sampler=3)


def test_a_loader_goes_through_a_pickle_in_mid_epoch(dataset: ClipDataset) -> None:
    (whole,) = epochs(loader_of(dataset), 1)
    loader = loader_of(dataset, **WAYS["fork"])
    next(iter(loader))
    copy = pickle.loads(pickle.dumps(loader))
    copy.load_state_dict(loader.state_dict())
    assert [digest(batch) for batch in copy] == whole[1:]
    loader.close()
    copy.close()


def test_a_forked_child_leaves_the_parents_workers_alone(dataset: ClipDataset) -> None:
    loader = loader_of(dataset, **WAYS["fork"])
    (whole,) = epochs(loader_of(dataset), 1)
    batches = iter(loader)
    assert digest(next(batches)) == whole[0]
    pid = os.fork()
    if not pid:
        code = 1
        try:
            loader.set_epoch(0)
            code = 0 if [digest(batch) for batch in loader] == whole else 2
            loader.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [digest(batch) for batch in batches] == whole[1:]
    loader.close()


# -- programs ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
sys.path.insert(0, {tests!r})
from loader_samples import Numbers
from lazyvid.training import ClipLoader

{guard}
    loader = ClipLoader(Numbers(100_000), batch_size=2, num_workers=2, multiprocessing_context={context!r})
    for number, batch in enumerate(loader):
        if number == 3:
            print(*sorted({{int(pid) for pid in batch["pid"]}}), flush=True)
        time.sleep(0.001)
"""


def program(path: Path, context: str, *, guard: str = 'if __name__ == "__main__":') -> subprocess.Popen[str]:
    path.write_text(textwrap.dedent(PROGRAM).format(tests=str(Path(__file__).parent), guard=guard, context=context))
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def group_of(pid: int) -> set[int]:
    """A process and all below it."""
    found = {pid}
    for _ in range(4):
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) in found and fields[0] != "Z":
                found.add(int(entry.parent.name))
    return found


def wait_until_gone(pids: set[int], seconds: float) -> set[int]:
    """Those of `pids` that still run after so long."""
    deadline = time.monotonic() + seconds
    left = set(pids)
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {pid for pid in left if _runs(pid)}
    return left


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.parametrize("context", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sent", ["SIGKILL", "SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_trainer_that_ends_leaves_nobody_behind(tmp_path: Path, context: str, sent: str) -> None:
    process = program(tmp_path / "run.py", context)
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate()[1]
    everyone = group_of(process.pid)
    assert len(everyone) >= 3
    process.send_signal(getattr(signal, sent))
    process.wait(60)
    assert process.returncode != 0
    assert not wait_until_gone(everyone, 30)
    process.communicate()


@pytest.mark.parametrize("context", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path, context: str) -> None:
    process = program(tmp_path / "run.py", context, guard="if True:")
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "WorkerStartError" in said or "WorkerDiedError" in said
    assert '__name__ == "__main__"' in said.splitlines()[-1]
