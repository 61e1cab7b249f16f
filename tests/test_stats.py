"""Counters of a process and of its workers: every start method, ended workers, threads, and no file left behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyvid import stats
from lazyvid.stats import ReadStats, count, read_stats, reset_stats

METHODS = ["fork", "forkserver", "spawn"]


def _work(packets: int) -> None:
    count(packets_fed=packets, frames_returned=1)


def _work_and_wait(packets: int, counted: object, go_on: object) -> None:
    _work(packets)
    counted.set()  # type: ignore[attr-defined]
    go_on.wait(240)  # type: ignore[attr-defined]


def _work_in_a_child(packets: int) -> None:
    _work(packets)
    child = multiprocessing.get_context("fork").Process(target=_work, args=(packets,))
    child.start()
    child.join(240)


@pytest.fixture(autouse=True)
def _zero() -> Iterator[None]:
    reset_stats()
    yield
    reset_stats()


def test_amounts_add_up() -> None:
    count(requests=2, bytes_fetched=100)
    count(requests=1)
    assert read_stats() == ReadStats(requests=3, bytes_fetched=100)
    reset_stats()
    assert read_stats() == ReadStats()


def test_the_difference_of_two_readings_is_what_lay_between() -> None:
    count(requests=2)
    before = read_stats()
    count(requests=5, retries=1)
    assert read_stats() - before == ReadStats(requests=5, retries=1)


def test_a_word_that_is_no_counter_or_scope_is_an_error() -> None:
    with pytest.raises(KeyError):
        count(frames_invented=1)
    with pytest.raises(ValueError, match="scope"):
        read_stats(scope="machine")  # type: ignore[arg-type]


def test_threads_lose_no_count() -> None:
    def work() -> None:
        for _ in range(5000):
            count(packets_fed=1, bytes_fetched=3)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
    finally:
        sys.setswitchinterval(interval)
    assert read_stats() == ReadStats(packets_fed=20_000, bytes_fetched=60_000)


@pytest.mark.parametrize("method", METHODS)
def test_scope_all_adds_workers_that_run_and_that_ended(method: str) -> None:
    context = multiprocessing.get_context(method)
    count(packets_fed=1)
    ended = context.Process(target=_work, args=(10,))
    ended.start()
    ended.join(240)
    counted, go_on = context.Event(), context.Event()
    running = context.Process(target=_work_and_wait, args=(100, counted, go_on))
    running.start()
    try:
        assert counted.wait(240)
        assert read_stats(scope="all") == ReadStats(packets_fed=111, frames_returned=2)
        assert read_stats() == ReadStats(packets_fed=1)
    finally:
        go_on.set()
        running.join(240)
    assert read_stats(scope="all").packets_fed == 111
    reset_stats()
    assert read_stats(scope="all") == ReadStats()


def test_a_workers_own_workers_count_too() -> None:
    read_stats()
    child = multiprocessing.get_context("fork").Process(target=_work_in_a_child, args=(5,))
    child.start()
    child.join(240)
    assert read_stats(scope="all").packets_fed == 10


def _as_a_rank(packets: int, names: object) -> None:
    _work_in_a_child(packets)
    names.put(stats.process_name())  # type: ignore[attr-defined]


def test_others_and_what_they_started_can_be_left_out() -> None:
    count(packets_fed=1)
    context = multiprocessing.get_context("fork")
    names = context.SimpleQueue()
    other = context.Process(target=_as_a_rank, args=(10, names))
    worker = context.Process(target=_work, args=(100,))
    for child in (other, worker):
        child.start()
        child.join(240)
    assert stats.read_stats_besides([names.get()]).packets_fed == 101
    assert stats.read_stats_besides([]) == read_stats(scope="all")
    above = stats._ancestors()[1:]
    assert stats.read_stats_besides(above).packets_fed == 121, "what stands above is no matter"


def test_a_forked_worker_starts_at_zero_and_leaves_its_parents_counts_alone() -> None:
    count(packets_fed=7)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def look() -> None:
        before = read_stats()
        count(packets_fed=1)
        sender.send((before, read_stats(scope="all")))

    child = context.Process(target=look)
    child.start()
    assert receiver.poll(240)
    assert receiver.recv() == (ReadStats(), ReadStats(packets_fed=1))
    child.join(240)
    assert read_stats().packets_fed == 7


def _run(code: str, folder: Path) -> str:
    """The output of a Python process whose counter files lie in `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    return done.stdout.strip()


_PARENT = """
    import multiprocessing, os
    from lazyvid.stats import count, read_stats
    def work(): count(packets_fed=10)
    {before}
    for method in ("fork", "fork"):
        child = multiprocessing.get_context(method).Process(target=work)
        child.start(); child.join()
    print(read_stats(scope="all").packets_fed)
    {after}
"""


@pytest.mark.parametrize("before", ["count(packets_fed=1)", ""], ids=["parent counts first", "workers count first"])
def test_files_are_removed_when_the_process_ends(before: str, tmp_path: Path) -> None:
    out = _run(_PARENT.format(before=before, after=""), tmp_path)
    assert out == ("21" if before else "20")
    assert list(tmp_path.rglob("*.counters")) == []


def test_files_of_a_process_that_was_killed_are_not_counted_by_others(tmp_path: Path) -> None:
    killed = _PARENT.format(before="count(packets_fed=1)", after="os._exit(0)")
    _run(killed, tmp_path)
    assert list(tmp_path.rglob("*.counters"))
    assert _run(_PARENT.format(before="count(packets_fed=1)", after=""), tmp_path) == "21"


def test_a_process_that_comes_again_under_the_same_pid_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name holds the start time: what a dead process with our pid left behind is not ours, nor its children's."""
    monkeypatch.setattr(stats, "_directory", lambda: tmp_path)
    monkeypatch.setattr(stats, "_registry", stats._Registry())
    count(packets_fed=1)
    (own,) = tmp_path.glob("*.counters")
    pid, start = own.name.removesuffix(".counters").split("-")[0].split(".")
    stale = memoryview(own.read_bytes()).cast("q").tolist()
    stale[stats._SLOT["packets_fed"]] = 1000
    data = memoryview(bytearray(len(stale) * 8)).cast("q")
    data[:] = memoryview(b"".join(value.to_bytes(8, sys.byteorder) for value in stale)).cast("q")
    (tmp_path / f"{pid}.{int(start) - 1}.counters").write_bytes(bytes(data))
    (tmp_path / f"99999.5-{pid}.{int(start) - 1}.counters").write_bytes(bytes(data))
    (tmp_path / f"1{pid}.{start}.counters").write_bytes(bytes(data))
    assert read_stats(scope="all") == ReadStats(packets_fed=1)
    (tmp_path / f"99999.5-{pid}.{start}.counters").write_bytes(bytes(data))
    assert read_stats(scope="all").packets_fed == 1001


def test_the_first_process_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the training script itself may be process 1, and its workers' parent is process 1."""
    monkeypatch.setattr(stats, "_directory", lambda: tmp_path)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(stats, "_registry", stats._Registry())
    count(packets_fed=1)
    assert read_stats() == ReadStats(packets_fed=1)
    (own,) = tmp_path.glob("*.counters")
    assert own.name.startswith("1.")


def test_without_a_place_for_files_a_process_counts_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = tmp_path / uuid.uuid4().hex / "missing"
    monkeypatch.setattr(stats, "_directory", lambda: nowhere)
    monkeypatch.setattr(stats, "_registry", stats._Registry())
    count(packets_fed=3)
    assert read_stats(scope="all") == ReadStats(packets_fed=3)


def test_a_folder_that_somebody_else_laid_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / f"lazyvid-stats-{os.getuid()}").symlink_to(theirs)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(stats, "_registry", stats._Registry())
    count(packets_fed=3)
    assert read_stats(scope="all") == ReadStats(packets_fed=3)
    assert list(theirs.iterdir()) == []


def test_a_file_cut_short_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stats, "_directory", lambda: tmp_path)
    monkeypatch.setattr(stats, "_registry", stats._Registry())
    count(packets_fed=3)
    (own,) = tmp_path.glob("*.counters")
    name = own.name.split("-")[0].removesuffix(".counters")
    (tmp_path / f"99999.5-{name}.counters").write_bytes(b"\x01" * 9)
    (tmp_path / f"99999.6-{name}.counters").write_bytes(b"")
    assert read_stats(scope="all") == ReadStats(packets_fed=3)


def test_counters_of_killed_processes_are_swept_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path / f"lazyvid-stats-{os.getuid()}"
    folder.mkdir(mode=0o700)
    old, young = folder / "999999999.1-1.1.counters", folder / "999999998.1-1.1.counters"
    for path in (old, young):
        path.write_bytes(bytes(8))
    os.utime(old, (0, 0))
    alive = folder / ("-".join(stats._ancestors()) + ".counters")
    alive.write_bytes(bytes(8))
    os.utime(alive, (0, 0))
    code = "from lazyvid.stats import count; count(requests=1)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True, timeout=240)
    assert not old.exists()
    assert young.exists()
    assert alive.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_of_a_forked_child_share_one_set_of_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets of one name would share a file that the second one cuts off under the first one's mapping."""
    count(requests=1)
    made: list[int] = []
    ancestors = stats._ancestors

    def slow() -> list[str]:
        made.append(os.getpid())
        time.sleep(0.05)
        return ancestors()

    monkeypatch.setattr(stats, "_ancestors", slow)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            start = threading.Barrier(8)

            def work() -> None:
                start.wait()
                for _ in range(100):
                    count(requests=1)

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            code = 0 if (len(made), read_stats().requests) == (1, 800) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_counters_of_a_worker_are_reset_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has the file for its memory: cut to nothing for a moment, it would be no memory at all (SIGBUS)."""
    reset_stats()
    modes: list[str] = []
    opened = Path.open

    def noting(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        modes.append(mode)
        return opened(path, mode, *arguments, **options)

    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_counted) == 1
        assert read_stats(scope="all").frames_returned == 1
        monkeypatch.setattr(Path, "open", noting)
        reset_stats()
        assert read_stats(scope="all").frames_returned == 0
        assert pool.apply(_counted) == 1, "and it counts on"
    assert modes
    assert not [mode for mode in modes if "w" in mode]


def _counted() -> int:
    _work(1)
    return read_stats().frames_returned
