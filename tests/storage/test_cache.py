from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from lazyvid.errors import ObjectChangedError, ObjectNotFoundError, ShortReadError, StoreError
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore, RangeRequest, SegmentCache
from lazyvid.testing import Fault, FaultServer

DATA = bytes(i * 31 % 251 for i in range(100_000))


@pytest.fixture
def remote(fault_server: FaultServer) -> tuple[ObjectStore, str]:
    fault_server.objects["v.mp4"] = DATA
    return ObjectStore(), fault_server.url("v.mp4")


@pytest.fixture
def cache(tmp_path: Path) -> SegmentCache:
    return SegmentCache(tmp_path / "cache", quota_bytes=250_000)


def copies(cache: SegmentCache) -> list[Path]:
    return sorted(path for path in cache.root.glob("*") if path.is_file())


def downloads(server: FaultServer) -> int:
    return sum(request.method == "GET" for request in server.requests)


def test_each_version_is_downloaded_once(
    remote: tuple[ObjectStore, str], cache: SegmentCache, fault_server: FaultServer
) -> None:
    store, uri = remote
    before = read_stats()
    paths = {cache.fetch(store, uri) for _ in range(3)}
    assert downloads(fault_server) == 1
    spent = read_stats() - before
    assert (spent.cache_misses, spent.cache_hits) == (1, 2)
    [path] = paths
    assert path.read_bytes() == DATA
    assert "v.mp4" not in path.name
    fault_server.objects["v.mp4"] = DATA[::-1]
    assert cache.fetch(store, uri).read_bytes() == DATA[::-1]
    assert cache.size() == 2 * len(DATA)


def test_a_pin_needs_no_request_and_keeps_its_version(
    remote: tuple[ObjectStore, str], cache: SegmentCache, fault_server: FaultServer
) -> None:
    store, uri = remote
    pin = store.head(uri)
    cache.fetch(store, uri, pin=pin)
    fault_server.objects["v.mp4"] = b"replaced"
    fault_server.script()
    assert cache.fetch(store, uri, pin=pin).read_bytes() == DATA
    assert fault_server.requests == []
    cache.clear()
    with pytest.raises(ObjectChangedError):
        cache.fetch(store, uri, pin=pin)


def test_ranges_come_from_the_copy(
    remote: tuple[ObjectStore, str], cache: SegmentCache, fault_server: FaultServer
) -> None:
    store, uri = remote
    pin = store.head(uri)
    ranges = [(10, 20), (5, 15), (90_000, 100_000), (3, 3)]
    requests = [RangeRequest(uri, ranges, pin)] * 2
    assert cache.read_many(store, requests) == store.read_many(requests)
    fault_server.script(default=Fault.status(403))
    assert cache.read_many(store, requests) == [[DATA[start:stop] for start, stop in ranges]] * 2
    with pytest.raises(ShortReadError):
        cache.read_many(store, [RangeRequest(uri, [(99_999, 100_001)], pin)])


def test_local_files_are_copied_too(tmp_path: Path, cache: SegmentCache) -> None:
    store = ObjectStore(tmp_path)
    store.write("v.mp4", DATA)
    path = cache.fetch(store, "v.mp4")
    assert path.parent == cache.root
    assert path.read_bytes() == DATA
    os.utime(tmp_path / "v.mp4", ns=(1, 1))  # without an etag, size and time say which version it is
    assert cache.fetch(store, "v.mp4") != path


def test_the_least_recently_used_goes_first(fault_server: FaultServer, cache: SegmentCache) -> None:
    store = ObjectStore()
    paths = {}
    for name in "abcd":
        fault_server.objects[name] = name.encode() * 100_000
        paths[name] = cache.fetch(store, fault_server.url(name))
        cache.fetch(store, fault_server.url("a"))
    assert [name for name in "abcd" if paths[name].exists()] == ["a", "d"]
    assert cache.size() <= cache.quota_bytes


def test_a_reader_keeps_what_is_evicted(remote: tuple[ObjectStore, str], cache: SegmentCache) -> None:
    store, uri = remote
    with cache.open(store, uri) as file:
        file.read(10)
        cache.clear()
        assert file.read() == DATA[10:]
    assert cache.size() == 0


@pytest.mark.parametrize("damage", ["cut", "grown", "gone", "folder gone"])
def test_damage_costs_time_only(remote: tuple[ObjectStore, str], cache: SegmentCache, damage: str) -> None:
    store, uri = remote
    path = cache.fetch(store, uri)
    if damage == "cut":
        os.truncate(path, 10)
    elif damage == "grown":
        path.write_bytes(DATA + b"x")
    elif damage == "gone":
        path.unlink()
    else:
        shutil.rmtree(cache.root)
    assert cache.fetch(store, uri).read_bytes() == DATA


def test_an_object_above_the_quota_is_read_through(remote: tuple[ObjectStore, str], tmp_path: Path) -> None:
    store, uri = remote
    cache = SegmentCache(tmp_path / "cache", quota_bytes=10)
    with pytest.raises(StoreError, match="quota"):
        cache.fetch(store, uri)
    with pytest.warns(RuntimeWarning, match="quota"), cache.open(store, uri) as file:
        assert file.read() == DATA
    with pytest.warns(RuntimeWarning, match="quota"):
        assert cache.read_many(store, [RangeRequest(uri, [(5, 9)])]) == [[DATA[5:9]]]
    assert cache.size() == 0


def test_a_directory_that_cannot_be_made_is_read_through(remote: tuple[ObjectStore, str], tmp_path: Path) -> None:
    store, uri = remote
    (tmp_path / "file").touch()
    cache = SegmentCache(tmp_path / "file" / "cache")
    with pytest.raises(StoreError, match="cannot be written"):
        cache.fetch(store, uri)
    with pytest.warns(RuntimeWarning, match="cannot be written"), cache.open(store, uri) as file:
        assert file.read() == DATA
    assert cache.size() == 0
    cache.clear()


def _fetch_with_little_room(url: str, root: str, results: multiprocessing.Queue[object]) -> None:
    import resource
    import warnings

    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    cache = SegmentCache(root)
    try:
        cache.fetch(ObjectStore(), url)
    except StoreError as error:
        results.put(str(error))
    with warnings.catch_warnings(record=True) as caught, cache.open(ObjectStore(), url) as file:
        results.put(file.read() == DATA)
    results.put(len(caught))


def test_a_full_disk_is_read_through(remote: tuple[ObjectStore, str], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[object] = context.Queue()
    process = context.Process(target=_fetch_with_little_room, args=(remote[1], str(tmp_path / "cache"), results))
    process.start()
    answers = [results.get(timeout=240) for _ in range(3)]
    process.join(240)
    assert "cannot be written" in str(answers[0])
    assert answers[1:] == [True, 1]
    assert copies(SegmentCache(tmp_path / "cache")) == []


def test_errors_of_the_store_stay_themselves(
    remote: tuple[ObjectStore, str], cache: SegmentCache, fault_server: FaultServer
) -> None:
    store, uri = remote
    for use in (cache.fetch, cache.open):
        with pytest.raises(ObjectNotFoundError, match="other"):
            use(store, uri.replace("v.mp4", "other.mp4"))
    with pytest.raises(ObjectNotFoundError, match="nothing"):
        cache.fetch(ObjectStore(), cache.root / "nothing.mp4")
    pin = store.head(uri)
    fault_server.script(default=Fault.status(403))
    with pytest.raises(PermissionError):
        cache.fetch(store, uri, pin=pin)


def _fetch(pickled: bytes, uri: str, barrier: multiprocessing.synchronize.Barrier) -> None:
    cache, store = pickle.loads(pickled)
    barrier.wait(240)
    raise SystemExit(0 if cache.fetch(store, uri).read_bytes() == DATA else 1)


def test_one_download_for_all_processes(
    remote: tuple[ObjectStore, str], cache: SegmentCache, fault_server: FaultServer
) -> None:
    store, uri = remote
    fault_server.script(default=Fault("stall", seconds=1.0), method="GET")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(6)
    pickled = pickle.dumps((cache, store))
    processes = [context.Process(target=_fetch, args=(pickled, uri, barrier)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * 6
    assert downloads(fault_server) == 1


def test_one_download_for_all_threads(
    remote: tuple[ObjectStore, str], cache: SegmentCache, fault_server: FaultServer
) -> None:
    store, uri = remote
    fault_server.script(default=Fault("stall", seconds=0.3), method="GET")
    threads = [threading.Thread(target=cache.fetch, args=(store, uri)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads(fault_server) == 1
    assert cache.size() == len(DATA)


def test_a_downloader_that_is_killed_blocks_nobody(
    remote: tuple[ObjectStore, str], cache: SegmentCache, fault_server: FaultServer
) -> None:
    store, uri = remote
    fault_server.script(["stall_mid_body"], method="GET")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=cache.fetch, args=(store, uri))
    process.start()
    deadline = time.monotonic() + 240
    while sum(path.stat().st_size for path in copies(cache)) < len(DATA) // 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert [path.stat().st_size for path in copies(cache)] == [len(DATA) // 2]  # what it had so far
    assert cache.fetch(store, uri).read_bytes() == DATA
    for path in copies(cache):
        os.utime(path, (time.time(), time.time() - 7200))
    fault_server.objects["w.mp4"] = b"x"
    cache.fetch(store, fault_server.url("w.mp4"))
    assert len(copies(cache)) == 2  # the rest of the dead one is swept


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAZYVID_CACHE_DIR", raising=False)
    monkeypatch.delenv("LAZYVID_CACHE_QUOTA_BYTES", raising=False)
    assert SegmentCache().root.name == f"lazyvid-cache-{os.getuid()}"
    assert SegmentCache().quota_bytes == 10_000_000_000
    monkeypatch.setenv("LAZYVID_CACHE_DIR", str(tmp_path / "named"))
    monkeypatch.setenv("LAZYVID_CACHE_QUOTA_BYTES", "123456")
    cache = SegmentCache()
    assert (cache.root, cache.quota_bytes) == (tmp_path / "named", 123456)
    assert pickle.loads(pickle.dumps(cache)) == cache
    assert SegmentCache(tmp_path / "given", 5).root == tmp_path / "given"
    assert SegmentCache(tmp_path / "given", 5) != cache
    monkeypatch.setenv("LAZYVID_CACHE_QUOTA_BYTES", "many")
    with pytest.raises(ValueError, match="many"):
        SegmentCache()
    for bad in (0, -1):
        with pytest.raises(ValueError, match="quota_bytes"):
            SegmentCache(quota_bytes=bad)


def test_others_cannot_look_in(remote: tuple[ObjectStore, str], cache: SegmentCache) -> None:
    cache.fetch(*remote)
    assert cache.root.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("LAZYVID_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"lazyvid-cache-{os.getuid()}"


def test_a_directory_that_another_user_laid_is_not_used(remote: tuple[ObjectStore, str], own_directory: Path) -> None:
    elsewhere = own_directory.with_name("elsewhere")
    elsewhere.mkdir()
    own_directory.symlink_to(elsewhere)
    with pytest.raises(StoreError, match="cannot be written"):
        SegmentCache().fetch(*remote)
    assert list(elsewhere.iterdir()) == []


def _read_as(user: int, cache: SegmentCache, remote: tuple[ObjectStore, str], sender: Any) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with cache.open(*remote) as file:
            sender.send((file.read() == DATA, [str(warning.message) for warning in said]))


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser can be another user for a moment")
@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "believed"),
    [(0o755, 0o644, True), (0o755, 0o600, False), (0o777, 0o644, False), (0o775, 0o644, False)],
    ids=["its owner's", "not readable", "anybody may write", "a group may write"],
)
def test_a_named_directory_of_another_user_is_read_where_only_its_owner_writes(
    remote: tuple[ObjectStore, str], fault_server: FaultServer, folder_mode: int, file_mode: int, believed: bool
) -> None:
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:  # not below tmp_path: pytest closes that to other users
        os.chmod(folder, 0o755)
        cache = SegmentCache(Path(folder) / "copies", 250_000)
        copy = cache.fetch(*remote)
        cache.root.chmod(folder_mode)
        copy.chmod(file_mode)
        fetched = downloads(fault_server)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_read_as, args=(12345, cache, remote, sender))
        process.start()
        assert receiver.poll(60)
        right, said = receiver.recv()
        process.join(60)
    assert right
    if believed:
        assert said == []
        assert downloads(fault_server) == fetched
    else:
        assert "cannot be written: Permission denied" in said[0]


# -- files that are made of objects -----------------------------------------------------------------------------------


def test_a_derived_file_is_made_once_for_its_name(cache: SegmentCache) -> None:
    made: list[bytes] = []

    def write(file: BinaryIO) -> None:
        made.append(b"rows" * 1000)
        file.write(made[-1])

    paths = {cache.derived("rows of v1", write) for _ in range(3)}
    assert len(made) == len(paths) == 1
    assert paths.pop().read_bytes() == made[0]
    assert cache.derived("rows of v2", write).read_bytes() == made[1]
    assert cache.size() == 8000
    cache.clear()
    assert cache.derived("rows of v1", write).exists()


def test_a_derived_file_makes_room_and_gives_way(cache: SegmentCache) -> None:
    for number in range(4):
        cache.derived(f"part {number}", lambda file: file.write(bytes(100_000)))  # type: ignore[arg-type, return-value]
    assert cache.size() <= cache.quota_bytes
    with pytest.raises(StoreError, match="quota of 250000"):
        cache.derived("too large", lambda file: file.write(bytes(250_001)))  # type: ignore[arg-type, return-value]
    assert not [path for path in copies(cache) if path.stat().st_size > 100_000]


def test_what_a_derived_file_is_made_by_may_fail(cache: SegmentCache) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise ObjectNotFoundError("no rows")

    with pytest.raises(ObjectNotFoundError, match="no rows"):
        cache.derived("rows", write)
    assert copies(cache) == []


def test_a_derived_file_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot keep"):
        SegmentCache(tmp_path / "file" / "cache").derived("rows", lambda _file: None)
