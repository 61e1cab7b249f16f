from __future__ import annotations

import _thread
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lazyvid.errors import StoreError
from lazyvid.storage import ObjectStore
from lazyvid.storage.process import process_io
from lazyvid.testing import Fault, FaultServer, S3Server

DATA = bytes(range(256)) * 400
DEADLINE_S = 240.0


def read_both(store: ObjectStore, uris: list[str]) -> bool:
    return all(store.read_ranges(uri, [(0, 9), (50_000, 90_000)]) == [DATA[:9], DATA[50_000:90_000]] for uri in uris)


def in_fork(work: Callable[[], bool]) -> int:
    """The exit code of a forked child that does `work`; -1 when it hangs."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            os._exit(2)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


@pytest.fixture
def used(s3_server: S3Server, s3_prefix: str, http_folder: Any) -> tuple[ObjectStore, list[str]]:
    """A store that this process has used for S3 and HTTP, and the URIs of the same bytes."""
    store = ObjectStore(storage_options=s3_server.storage_options, max_gap=0)
    url, folder = http_folder
    (folder / "v.mp4").write_bytes(DATA)
    uris = [f"{s3_prefix}/v.mp4", f"{url}/v.mp4"]
    store.write(uris[0], DATA)
    assert read_both(store, uris)
    return store, uris


def test_a_forked_child_reads_after_its_parent_has(used: tuple[ObjectStore, list[str]]) -> None:
    store, uris = used
    for _ in range(3):
        assert in_fork(lambda: read_both(store, uris)) == 0
    assert read_both(store, uris)  # and the parent's connections are still its own


def test_a_fork_while_threads_are_reading(used: tuple[ObjectStore, list[str]]) -> None:
    store, uris = used
    stop = threading.Event()
    failures: list[object] = []

    def busy() -> None:
        while not stop.is_set():
            if not read_both(store, uris):
                failures.append("wrong bytes")

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_fork(lambda: read_both(store, uris)) for _ in range(5)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 5
    assert failures == []


def test_a_child_of_a_child(used: tuple[ObjectStore, list[str]]) -> None:
    store, uris = used
    assert in_fork(lambda: read_both(store, uris) and in_fork(lambda: read_both(store, uris)) == 0) == 0


def test_an_open_file_goes_through_a_fork(used: tuple[ObjectStore, list[str]]) -> None:
    store, uris = used
    with store.open(uris[0]) as file:
        file.read(10)
        assert in_fork(lambda: file.seek(90_000) == 90_000 and file.read(100) == DATA[90_000:90_100]) == 0
        assert file.read(10) == DATA[10:20]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pickled_into_processes_of_every_kind(used: tuple[ObjectStore, list[str]], method: str) -> None:
    store, uris = used
    context = multiprocessing.get_context(method)
    process = context.Process(target=_exit_with, args=(pickle.dumps(store), uris))
    process.start()
    process.join(DEADLINE_S)
    assert process.exitcode == 0


def _exit_with(pickled: bytes, uris: list[str]) -> None:
    sys.exit(0 if read_both(pickle.loads(pickled), uris) else 1)


def test_a_process_ends_without_a_warning(s3_server: S3Server, s3_prefix: str) -> None:
    """Sessions are closed at exit, and a forked child that ends in the usual way says nothing either."""
    store = ObjectStore(s3_prefix, storage_options=s3_server.storage_options)
    store.write("v.mp4", DATA)
    program = (
        "import os, pickle, sys\n"
        f"store = pickle.loads({pickle.dumps(store)!r})\n"
        "assert len(store.read('v.mp4')) == 102400\n"
        "child = os.fork()\n"
        "assert len(store.read('v.mp4')) == 102400\n"
        "if child:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    # asyncio's debug mode, which -X dev turns on, reports slow steps
    assert [line for line in done.stderr.splitlines() if "Executing" not in line] == []


@pytest.mark.parametrize("how", ["a signal that wakes the thread", "one that came just before it blocked"])
def test_ctrl_c_comes_through_and_cancels(fault_server: FaultServer, how: str) -> None:
    fault_server.objects["v.mp4"] = DATA
    store = ObjectStore(stall_s=300.0, deadline_s=300.0)
    fault_server.script(default="mute")

    def interrupt() -> None:
        while not fault_server.requests:
            time.sleep(0.02)
        if how == "a signal that wakes the thread":
            os.kill(os.getpid(), 2)
        else:
            _thread.interrupt_main()

    killer = threading.Thread(target=interrupt, daemon=True)
    killer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        store.read(fault_server.url("v.mp4"))
    assert time.monotonic() - started < 150
    killer.join()
    fault_server.script()
    assert store.read(fault_server.url("v.mp4")) == DATA


def test_handles_are_shared_by_equal_stores(s3_server: S3Server, s3_prefix: str) -> None:
    one = ObjectStore(s3_prefix, storage_options=s3_server.storage_options)
    other = pickle.loads(pickle.dumps(ObjectStore(storage_options=s3_server.storage_options)))
    one.write("a", b"x")
    handles = dict(process_io()._handles)
    assert other.read(f"{s3_prefix}/a") == b"x"
    assert process_io()._handles == handles


class TestSecrets:
    KEY, SECRET, TOKEN = "AKIDLITERAL", "LITERALSECRET", "LITERALTOKEN"

    def literal(self) -> dict[str, Any]:
        return {
            "key": self.KEY,
            "secret": self.SECRET,
            "client_kwargs": {"aws_session_token": self.TOKEN, "endpoint_url": "http://127.0.0.1:9"},
        }

    def test_they_are_shown_nowhere(self, fault_server: FaultServer) -> None:
        store = ObjectStore("s3://bucket", storage_options=self.literal())
        texts = [repr(store), str(store), f"{store}", repr([store])]
        with pytest.raises(StoreError) as caught:
            store.read("k")
        texts.append(str(caught.value))
        fault_server.script(default=Fault.status(403))
        options = {**self.literal(), "client_kwargs": {"endpoint_url": fault_server.endpoint_url}}
        with pytest.raises(StoreError) as caught:
            ObjectStore("s3://bucket", storage_options=options).read("k")
        texts.append(str(caught.value))
        for text in texts:
            assert not any(secret in text for secret in (self.KEY, self.SECRET, self.TOKEN))

    def test_only_literal_keys_travel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", self.KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", self.SECRET)
        for options in (None, {"profile": "robots"}, {"anon": True}):
            assert self.SECRET.encode() not in pickle.dumps(ObjectStore("s3://b", storage_options=options))
        assert self.SECRET.encode() in pickle.dumps(ObjectStore("s3://b", storage_options=self.literal()))

    def test_s3_keys_are_not_sent_to_web_servers(self, fault_server: FaultServer) -> None:
        fault_server.objects["v.mp4"] = DATA
        store = ObjectStore("s3://bucket", storage_options=self.literal())
        assert store.read(fault_server.url("v.mp4")) == DATA
        assert ObjectStore(storage_options=self.literal()).read(fault_server.url("v.mp4")) == DATA
        nested = ObjectStore(storage_options={"s3": self.literal(), "https": {"headers": {"X-A": "b"}}})
        assert nested.read(fault_server.url("v.mp4")) == DATA
        assert self.SECRET not in repr(nested)
