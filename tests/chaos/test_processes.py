"""Workers and trainers killed, stopped or interrupted at random moments: named, soon gone; the next epoch works."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import wait_until
from sizes import also_in_chaos, counts

from lazyvid import ClipDataset, ClipLoader, ClipSpec, RandomClipSampler, build_index
from lazyvid.errors import LoaderTimeoutError, WorkerDiedError
from lazyvid.testing import read_frame_number, write_video

CLIP = ClipSpec(4)
FRAMES = 40


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for v in range(3):
        path = write_video(root / f"{v}.mp4", frames=FRAMES, gop=8, width=64, height=48, first_number=1000 * v)
        build_index(path, scan="full").save(path)
    return root


def loader_of(folder: Path, *, way: str, **options: Any) -> ClipLoader:
    dataset = ClipDataset(str(folder), CLIP, transform=options.pop("transform", None))
    sampler = RandomClipSampler(dataset, clip=CLIP)
    return ClipLoader(
        dataset, sampler=sampler, batch_size=2, num_workers=2, multiprocessing_context=way, prefetch_factor=1, **options
    )


def shown(batches: Any) -> list[list[int]]:
    return [[read_frame_number(frame) for frame in batch["frames"].flatten(0, 1)] for batch in batches]


@pytest.fixture(scope="module")
def expected(videos: Path) -> list[list[int]]:
    dataset = ClipDataset(str(videos), CLIP)
    return shown(ClipLoader(dataset, sampler=RandomClipSampler(dataset, clip=CLIP), batch_size=2))


def _read_on(batches: Any, given: list[list[int]]) -> str:
    """Read what comes; the signal of which the workers are said to have died, "" where the pass came to its end."""
    try:
        for batch in batches:
            given += shown([batch])
    except WorkerDiedError as error:
        return re.findall(r"SIG[A-Z]+", str(error))[0]
    return ""


# -- workers ----------------------------------------------------------------------------------------------------------


# After a broken pipe torch opens ten files to see whether it may; news of the next death can interrupt that, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@counts(2, 20)
@pytest.mark.parametrize("way", ["fork", pytest.param("forkserver", marks=pytest.mark.chaos)])
def test_workers_killed_at_random_moments(
    way: str, count: int, videos: Path, expected: list[list[int]], rng: random.Random
) -> None:
    loader = loader_of(videos, way=way, timeout_s=240.0)
    seen = 0
    for _ in range(count):
        loader.set_epoch(0)
        batches = iter(loader)
        given = shown([next(batches)])
        victims = [process.pid for process in multiprocessing.active_children() if process.name != "chaos-child"]
        sent = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
        time.sleep(rng.uniform(0, 0.05))
        victim = rng.choice([pid for pid in victims if pid is not None])
        os.kill(victim, sent)
        died = _read_on(batches, given)
        # A death that nobody waited for must be this pass's, not the next one's.
        assert wait_until(lambda victim=victim: victim not in [p.pid for p in multiprocessing.active_children()])
        assert died in ("", sent.name), died
        seen += bool(died)
        assert given == expected[: len(given)], "what was given is right"
        batches = iter(())
        loader.set_epoch(0)
        if not seen % 5:
            assert shown(loader) == expected, "the next epoch works"
    loader.close()
    assert seen > 0


@pytest.mark.chaos
@counts(1, 4)
def test_a_worker_that_is_stopped_is_given_up_and_ended(count: int, videos: Path, expected: list[list[int]]) -> None:
    loader = loader_of(videos, way="fork", timeout_s=3.0)
    for _ in range(count):
        loader.set_epoch(0)
        batches = iter(loader)
        next(batches)
        stopped = [process.pid for process in multiprocessing.active_children() if process.name != "chaos-child"]
        for pid in stopped:
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(LoaderTimeoutError, match="timeout_s"):
            list(batches)
        assert wait_until(lambda stopped=stopped: not any(Path(f"/proc/{pid}/exe").exists() for pid in stopped))
    patient = loader_of(videos, way="fork")
    assert shown(patient) == expected
    patient.close()


def _hungry(sample: dict[str, Any]) -> dict[str, Any]:
    if int(sample["frame_indices"][0]) > 20:
        raise MemoryError("no room for the sample")
    return sample


def test_a_worker_without_memory_says_so(videos: Path) -> None:
    loader = loader_of(videos, way="fork", transform=_hungry)
    with pytest.raises(MemoryError):
        list(loader)
    loader.close()


@pytest.mark.chaos
@counts(1, 10)
def test_forked_while_threads_read(count: int, videos: Path, expected: list[list[int]]) -> None:
    over = threading.Event()
    dataset = ClipDataset(str(videos), CLIP)

    def reading() -> None:
        while not over.is_set():
            dataset[0]

    threads = [threading.Thread(target=reading) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(count):
            loader = loader_of(videos, way="fork", timeout_s=240.0)
            assert shown(loader) == expected
            loader.close()
    finally:
        over.set()
        for thread in threads:
            thread.join()


# -- trainers ---------------------------------------------------------------------------------------------------------

TRAINER = """
import sys
sys.path[:0] = [{here!r}]
from pathlib import Path
from test_processes import loader_of
if __name__ == "__main__":
    loader = loader_of(Path({videos!r}), way={way!r})
    print("begun", flush=True)
    while True:
        for number, batch in enumerate(loader):
            print(number, flush=True)
"""


@pytest.fixture
def trainer(tmp_path: Path, videos: Path, own_folders: Path) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def start(way: str) -> subprocess.Popen[str]:
        script = tmp_path / "train.py"
        script.write_text(TRAINER.format(here=str(Path(__file__).parent), videos=str(videos), way=way))
        paths = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONFAULTHANDLER": "1"}
        with (tmp_path / "said").open("w") as said, (tmp_path / "errors").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, str(script)], stdout=said, stderr=errors, text=True, env=environment
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def family(pid: int) -> set[int]:
    """A process and all below it that still run."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if facts[0] not in "ZX":
            parents[int(entry.parent.name)] = int(facts[1])
    found = {pid} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _running(pids: set[int]) -> set[int]:
    return {pid for pid in pids if pid in family(pid)}


@counts(1, 4)
@pytest.mark.parametrize("way", also_in_chaos(["fork", "forkserver"], few=["fork"]))
@pytest.mark.parametrize("sent", also_in_chaos(["SIGKILL", "SIGINT", "SIGTERM"], few=["SIGTERM"]))
def test_a_trainer_that_ends_leaves_nothing(
    sent: str, way: str, count: int, trainer: Any, tmp_path: Path, rng: random.Random
) -> None:
    for _ in range(count):
        process = trainer(way)
        said = tmp_path / "said"
        assert wait_until(lambda said=said: len(said.read_text().split()) > 1), (tmp_path / "errors").read_text()
        time.sleep(rng.uniform(0, 1.0))
        everyone = family(process.pid)
        assert len(everyone) >= 3
        process.send_signal(getattr(signal, sent))
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler shows where it stands
            process.wait(60)
            pytest.fail((tmp_path / "errors").read_text())
        assert process.returncode != 0
        assert wait_until(lambda everyone=everyone: not _running(everyone), seconds=60), _running(everyone)
        shared = [p.name for p in Path("/dev/shm").iterdir() if any(f"_{pid}_" in p.name for pid in everyone)]
        assert shared == [], json.dumps(shared)
