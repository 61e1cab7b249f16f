"""The cache of whole files, broken while it is in use: every read is right, by the cache or around it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from chances import need_namespaces
from children import wait_until
from sizes import counts

from lazyvid import LazyVideo, ObjectStore, SegmentCache, build_index
from lazyvid.index import node_files
from lazyvid.stats import read_stats
from lazyvid.storage import cache
from lazyvid.testing import FaultServer, read_frame_number, write_video

FRAMES = 24
VIDEOS = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Videos with their sidecars, checksums included; frame k of video v shows 1000 v + k."""
    root = tmp_path_factory.mktemp("bucket")
    for v in range(VIDEOS):
        path = write_video(root / f"{v}.mp4", frames=FRAMES, gop=8, width=64, height=48, first_number=1000 * v)
        build_index(path, scan="full").save(path)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def filled(fault_server: FaultServer, files: Mapping[str, bytes]) -> FaultServer:
    fault_server.objects.update(files)
    return fault_server


def videos_of(server: FaultServer, cache: SegmentCache, **limits: float) -> list[LazyVideo]:
    store = ObjectStore(storage_options=server.storage_options, **limits)
    return [LazyVideo(server.s3_url(f"{v}.mp4"), store=store, fetch="file", cache=cache) for v in range(VIDEOS)]


def check(videos: list[LazyVideo], rng: random.Random) -> None:
    for v, video in enumerate(videos):
        wanted = sorted(rng.sample(range(FRAMES), 5))
        assert [read_frame_number(f) for f in video.get_frames_at(wanted).frames] == [1000 * v + k for k in wanted]


def copies(root: Path) -> list[Path]:
    return [path for path in root.glob("*.copy") if path.is_file()]


def _delete_all(root: Path, _: random.Random) -> None:
    shutil.rmtree(root, ignore_errors=True)


def _delete_one(root: Path, rng: random.Random) -> None:
    if found := copies(root):
        rng.choice(found).unlink(missing_ok=True)


def _cut(root: Path, rng: random.Random) -> None:
    for path in copies(root):
        path.write_bytes(path.read_bytes()[: rng.randrange(1, 2000)])


def _flip(root: Path, rng: random.Random) -> None:
    for path in copies(root):
        data = bytearray(path.read_bytes())
        for _ in range(40):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))


def _file_in_its_place(root: Path, _: random.Random) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.write_text("no folder")


def _locks_gone(root: Path, _: random.Random) -> None:
    shutil.rmtree(root / "locks", ignore_errors=True)


BREAKS: Mapping[str, Callable[[Path, random.Random], None]] = {
    "deleted": _delete_all,
    "one copy deleted": _delete_one,
    "cut": _cut,
    "bits flipped": _flip,
    "a file in its place": _file_in_its_place,
    "locks deleted": _locks_gone,
}


@counts(1, 20)
@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.filterwarnings("ignore:Reading from the store")
def test_a_broken_cache_is_read_around(
    how: str, count: int, filled: FaultServer, tmp_path: Path, rng: random.Random
) -> None:
    for turn in range(count):
        root = tmp_path / f"cache{turn}"
        videos = videos_of(filled, SegmentCache(root))
        check(videos, rng)
        BREAKS[how](root, rng)
        check(videos, rng)
        check(videos_of(filled, SegmentCache(root)), rng)


@pytest.mark.filterwarnings("ignore:Reading from the store")
def test_a_cache_that_is_deleted_while_it_is_read(filled: FaultServer, tmp_path: Path, rng: random.Random) -> None:
    videos = videos_of(filled, SegmentCache(tmp_path / "cache"))
    over = threading.Event()

    def deleting() -> None:
        while not over.is_set():
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            time.sleep(0.002)

    thread = threading.Thread(target=deleting)
    thread.start()
    try:
        for _ in range(10):
            check(videos, rng)
    finally:
        over.set()
        thread.join()


FULL = """
import os, pickle, random, sys, warnings
sys.path[:0] = sys.argv[3].split(os.pathsep)
warnings.simplefilter("ignore")
from test_caches import check
for video in (videos := pickle.loads(bytes.fromhex(sys.stdin.read()))):
    assert str(video)
for _ in range(3):
    check(videos, random.Random(0))
print(sorted(os.listdir(sys.argv[1])))
"""


@pytest.mark.chaos
@pytest.mark.parametrize("options", ["size=4k", "size=1m,ro"], ids=["full", "read-only"])
def test_a_disk_that_is_full_or_cannot_be_written(options: str, filled: FaultServer, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    need_namespaces()
    pickled = pickle.dumps(videos_of(filled, SegmentCache(disk))).hex()
    script = f'mount -t tmpfs -o {options} tmpfs "$1" && exec "$2" -c "$3" "$1" . "$4"'
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, FULL, paths],
        input=pickled, check=False, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert ".copy" not in done.stdout, "no copy that is not whole"


def _read_at_once(videos: list[LazyVideo], barrier: Any, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        barrier.wait(240)
        check(videos, random.Random(seed))


def _holders(locks: Path) -> list[int]:
    """The processes that hold a lock of a folder, as the system lists them."""
    if not locks.is_dir():
        return []
    ours = {f":{path.stat().st_ino}" for path in locks.iterdir()}
    entries = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(entry[4]) for entry in entries if entry[1] == "FLOCK" and any(map(entry[5].endswith, ours))]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux says who holds a lock")
@counts(1, 5)
def test_eight_processes_and_the_one_that_downloads_is_killed(
    count: int, filled: FaultServer, tmp_path: Path, rng: random.Random
) -> None:
    """In the middle of a body, seven waiting for it: each file comes once, but for the one whose reader died."""
    context = multiprocessing.get_context("fork")
    for turn in range(count):
        root = tmp_path / f"cache{turn}"
        videos = videos_of(filled, SegmentCache(root), stall_s=50.0)
        at = rng.randrange(VIDEOS)
        filled.script(["ok"] * at + ["stall_mid_body"], method="GET")
        barrier = context.Barrier(8)
        processes = [context.Process(target=_read_at_once, args=(videos, barrier, n)) for n in range(8)]
        for process in processes:
            process.start()
        assert wait_until(lambda at=at: sum(request.method == "GET" for request in filled.requests) > at)
        time.sleep(rng.uniform(0.05, 0.2))  # for the other seven to come and wait
        (holder,) = _holders(root / "locks")
        (killed,) = [process for process in processes if process.pid == holder]
        killed.kill()
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes if process is not killed] == [0] * 7
        gets = Counter(request.path.rpartition("/")[2] for request in filled.requests if request.method == "GET")
        assert gets == {f"{v}.mp4": 1 + (v == at) for v in range(VIDEOS)}


def test_the_quota_holds_while_it_is_read(
    filled: FaultServer, files: Mapping[str, bytes], tmp_path: Path, rng: random.Random
) -> None:
    size = max(len(data) for name, data in files.items() if name.endswith(".mp4"))
    cache = SegmentCache(tmp_path / "cache", quota_bytes=size + 100)
    videos = videos_of(filled, cache)
    before = read_stats()
    for _ in range(4):
        check(videos, rng)
        assert cache.size() <= size + 100
    spent = read_stats() - before
    assert spent.cache_misses > VIDEOS
    assert isinstance(videos[0][0], torch.Tensor)


_FOLDERS = ("cache", "index", "scratch", "stats")


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser can lay a folder under another user's name")
@pytest.mark.parametrize("laid", ["folder", "link"])
def test_folders_that_another_user_laid_are_not_used(filled: FaultServer, tmp_path: Path, laid: str) -> None:
    theirs, shared = tmp_path / "theirs", tmp_path / "shared"
    shared.mkdir()
    for name in _FOLDERS:
        (theirs / name).mkdir(parents=True)
        place = shared / f"lazyvid-{name}-{os.getuid()}"
        if laid == "link":
            place.symlink_to(theirs / name)
        else:
            place.mkdir()
            os.chown(place, 12345, 12345)
    named = (cache.DIRECTORY_VARIABLE, node_files.DIRECTORY_VARIABLE)
    environment = {name: value for name, value in os.environ.items() if name not in named}
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    pickled = pickle.dumps(videos_of(filled, SegmentCache())).hex()
    done = subprocess.run(
        [sys.executable, "-c", FULL, shared, ".", paths], env={**environment, "TMPDIR": str(shared)},
        input=pickled, check=False, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path for name in _FOLDERS for path in (theirs / name).iterdir()] == []
    assert [path for path in shared.rglob("lazyvid-*/*") if not path.is_relative_to(theirs)] == []
