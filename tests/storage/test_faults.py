from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from laws import ending_in_time

from lazyvid.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ShortReadError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from lazyvid.stats import read_stats
from lazyvid.storage import ObjectStore, retry, sending
from lazyvid.storage.http import HttpBackend
from lazyvid.storage.http_body import WholeBody
from lazyvid.storage.s3 import S3Backend
from lazyvid.testing import Fault, FaultServer

DATA = bytes(i * 31 % 251 for i in range(200_000))
PATIENT_S = 60.0  # reached by no slow machine: for what must work, or is said at once
STALL_S = 0.5  # for a server that is silent; a slow machine then asks once more, and that is all


@dataclass(frozen=True)
class Target:
    """An object on the fault server, reached by S3 or by HTTP."""

    uri: str
    options: dict[str, Any] | None

    def store(self, *, deadline_s: float = PATIENT_S, stall_s: float = PATIENT_S) -> ObjectStore:
        return ObjectStore(storage_options=self.options, deadline_s=deadline_s, stall_s=stall_s)


@pytest.fixture(params=["s3", "http"])
def target(request: pytest.FixtureRequest, fault_server: FaultServer) -> Target:
    fault_server.objects["v.mp4"] = DATA
    if request.param == "http":
        return Target(fault_server.url("v.mp4"), None)
    return Target(fault_server.s3_url("v.mp4"), fault_server.storage_options)


PASSING = [
    [Fault.status(503)],
    [Fault.status(500), Fault.status(502), Fault.status(504)],
    [Fault.status(429, retry_after=0.3)],
    ["reset"],
    ["reset_mid_body"],
    ["close_mid_body"],
    ["stall_mid_body"],
    ["stall"],
    ["mute"],
    ["short_body"],
    ["wrong_range"],
    ["reset", "close_mid_body", "stall_mid_body"],
]


@pytest.mark.parametrize("plan", PASSING, ids=str)
def test_faults_that_pass_are_survived(target: Target, fault_server: FaultServer, plan: list[Any]) -> None:
    store, uri = target.store(stall_s=STALL_S), target.uri
    pin = store.head(uri)
    fault_server.script(plan)
    before = read_stats()
    assert store.read_ranges(uri, [(1000, 150_000)], pin=pin) == [DATA[1000:150_000]]
    # aiohttp itself opens another connection when one that it had kept was reset
    assert (read_stats() - before).retries >= len(plan) - plan.count("reset")
    assert len(fault_server.requests) >= len(plan) + 1
    assert {request.if_match for request in fault_server.requests} == {pin.etag}


@pytest.mark.parametrize("plan", [p for p in PASSING if p not in (["short_body"], ["wrong_range"])], ids=str)
def test_whole_reads_and_copies_survive_them_too(
    target: Target, fault_server: FaultServer, plan: list[Any], tmp_path: Path
) -> None:
    store, uri = target.store(stall_s=STALL_S), target.uri
    fault_server.script(plan)
    assert store.read(uri) == DATA
    fault_server.script(plan, method="GET")
    assert store.download(uri, tmp_path / "copy").size == len(DATA)
    assert (tmp_path / "copy").read_bytes() == DATA


def test_each_retry_is_logged_without_a_signature(
    target: Target, fault_server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    signature = "the-signature-of-a-presigned-url"
    uri = f"{target.uri}?X-Amz-Signature={signature}" if target.options is None else target.uri
    fault_server.script([Fault.status(503), "reset_mid_body", "close_mid_body"], method="GET")
    before = read_stats()
    with caplog.at_level(logging.DEBUG, logger="lazyvid"):
        assert target.store().read_ranges(uri, [(0, 100_000)]) == [DATA[:100_000]]
    said = [record.getMessage() for record in caplog.records if record.name == "lazyvid.storage.retry"]
    assert len(said) == (read_stats() - before).retries == 3
    assert all(target.uri in line and f"try {number} failed" in line for number, line in enumerate(said, 1))
    assert "503" in said[0]
    assert signature not in caplog.text


def test_what_has_arrived_is_not_asked_for_again(target: Target, fault_server: FaultServer) -> None:
    store, uri = target.store(), target.uri
    fault_server.script(["close_mid_body"])
    assert store.read_ranges(uri, [(0, 100_000)]) == [DATA[:100_000]]
    first, second = fault_server.requests
    assert first.range == "bytes=0-99999"
    assert second.range == "bytes=50000-99999"
    assert second.if_match is not None  # two halves of one version


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.status(503), StoreUnavailableError),
        ("reset", StoreUnavailableError),
        ("mute", StoreTimeoutError),
        ("stall", StoreTimeoutError),
        ("stall_mid_body", StoreTimeoutError),
        ("short_body", ShortReadError),
        ("wrong_range", ShortReadError),
    ],
    ids=str,
)
def test_faults_that_stay_end_in_a_named_error(
    target: Target, fault_server: FaultServer, fault: Any, error: type[StoreError]
) -> None:
    fault_server.script(default=fault)
    raised = ending_in_time(
        lambda store: store.read_ranges(target.uri, [(10, 11)]),
        error,
        prepare=lambda deadline_s: target.store(deadline_s=deadline_s, stall_s=STALL_S),
    )
    assert re.search(r"v\.mp4.* (try|tries) in .* s .*Last: ", str(raised))


def test_every_call_ends(target: Target, fault_server: FaultServer, tmp_path: Path) -> None:
    fault_server.script(default="mute")
    calls: list[Callable[[ObjectStore], object]] = [
        lambda store: store.head(target.uri),
        lambda store: store.read(target.uri),
        lambda store: store.download(target.uri, tmp_path / "x"),
    ]
    for call in calls:
        ending_in_time(
            call,
            StoreTimeoutError,
            prepare=lambda deadline_s: target.store(deadline_s=deadline_s, stall_s=STALL_S),
        )
    assert not (tmp_path / "x").exists()


def test_getting_ready_takes_no_time_from_the_first_call(
    target: Target, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that needs the whole minute for it: all that passes of it is the clock."""
    kind = S3Backend if target.options else HttpBackend
    get_ready, passed_s = kind.get_ready, 0.0

    async def slow(backend: Any) -> None:
        nonlocal passed_s
        await get_ready(backend)
        passed_s += PATIENT_S - 0.1

    monkeypatch.setattr(kind, "get_ready", slow)
    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s))
    fault_server.script([Fault.status(503, retry_after=0.3)])
    assert target.store(stall_s=PATIENT_S + 1).read(target.uri) == DATA  # of its own, so that it is not ready yet
    assert passed_s


def test_getting_ready_has_a_limit_of_its_own(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(backend: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(S3Backend if target.options else HttpBackend, "get_ready", endless)
    with pytest.raises(StoreTimeoutError, match=r"v\.mp4.*limit 0\.5 s"):
        target.store(deadline_s=0.5, stall_s=PATIENT_S + 2).read(target.uri)


def test_a_slow_body_that_moves_is_let_be(target: Target, fault_server: FaultServer, tmp_path: Path) -> None:
    store, uri = target.store(deadline_s=2.0), target.uri
    fault_server.objects["v.mp4"] = DATA[:40_000]
    fault_server.script(default=Fault.slow(0.06))
    store.download(uri, tmp_path / "copy")  # has no total; takes 2.4 s
    assert (tmp_path / "copy").read_bytes() == DATA[:40_000]
    with pytest.raises(StoreTimeoutError):  # has one
        store.read_ranges(uri, [(0, 40_000)])


def test_retry_after_is_honoured(target: Target, fault_server: FaultServer) -> None:
    store, uri = target.store(), target.uri
    fault_server.script([Fault.status(503, retry_after=1.2)])
    started = time.monotonic()
    store.read_ranges(uri, [(0, 1)])
    assert time.monotonic() - started >= 1.2
    fault_server.script(default=Fault.status(503, retry_after=3600))
    with pytest.raises(StoreUnavailableError, match="1 try"):
        store.read_ranges(uri, [(0, 1)])


@pytest.mark.parametrize("status", [401, 403])
def test_denied_is_said_at_once(target: Target, fault_server: FaultServer, status: int) -> None:
    store, uri = target.store(), target.uri
    fault_server.script(default=Fault.status(status))
    with pytest.raises(AccessDeniedError, match=r"v\.mp4"):
        store.read_ranges(uri, [(0, 1)])
    assert len(fault_server.requests) == 1


def test_a_replaced_object_is_noticed_by_its_etag(target: Target, fault_server: FaultServer) -> None:
    store, uri = target.store(), target.uri
    pin = store.head(uri)
    assert pin.etag is not None
    fault_server.objects["v.mp4"] = DATA[::-1]
    with pytest.raises(ObjectChangedError, match="etag") as caught:
        store.read_ranges(uri, [(0, 1)], pin=pin)
    assert pin.etag in str(caught.value)
    assert store.head(uri).etag in str(caught.value)


def test_an_object_replaced_between_two_parts_is_noticed(target: Target, fault_server: FaultServer) -> None:
    store, uri = target.store(), target.uri
    fault_server.script(["close_mid_body", "wrong_etag"], method="GET")
    with pytest.raises(ObjectChangedError):
        store.read_ranges(uri, [(0, 100_000)])


def test_a_server_without_ranges_can_be_copied_from(fault_server: FaultServer, tmp_path: Path) -> None:
    fault_server.objects["v.mp4"] = DATA
    store, uri = ObjectStore(), fault_server.url("v.mp4")
    fault_server.script(default="ignore_range")
    with pytest.raises(StoreError, match='fetch="file"'):
        store.read_ranges(uri, [(5, 10)])
    assert store.read_ranges(uri, [(0, len(DATA))]) == [DATA]
    assert store.read(uri) == DATA
    fault_server.script(["close_mid_body"], default="ignore_range")
    store.download(uri, tmp_path / "copy")  # cut once: it starts over
    assert (tmp_path / "copy").read_bytes() == DATA


def test_a_dead_server_is_given_up_soon() -> None:
    for store, uri in (
        (ObjectStore(), "http://127.0.0.1:9/v.mp4"),
        (
            ObjectStore(storage_options={"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:9"}),
            "s3://b/v.mp4",
        ),
    ):
        with pytest.raises(StoreUnavailableError, match=r"5 tries .*\(limit 60 s\)"):
            store.head(uri)


def test_a_server_that_comes_back_is_found(fault_server: FaultServer) -> None:
    fault_server.objects["v.mp4"] = DATA
    store, uri = ObjectStore(), fault_server.url("v.mp4")
    store.head(uri)
    fault_server.script([Fault.status(503)] * 4)
    assert store.read_ranges(uri, [(0, 9)]) == [DATA[:9]]


def test_one_failure_cancels_the_rest(fault_server: FaultServer) -> None:
    fault_server.objects["v.mp4"] = bytes(40_000)
    store = ObjectStore(max_concurrency=2, max_gap=0)
    fault_server.script([Fault.status(403)], default="mute")
    with pytest.raises(AccessDeniedError):
        store.read_ranges(fault_server.url("v.mp4"), [(i * 1_000, i * 1_000 + 10) for i in range(40)])
    assert len(fault_server.requests) <= 3  # the two of the beginning, and perhaps one in place of the one that failed


def test_no_more_requests_are_in_flight_than_allowed(fault_server: FaultServer) -> None:
    fault_server.objects["v.mp4"] = bytes(1_000_000)
    store = ObjectStore(max_concurrency=3, max_gap=0)
    fault_server.script(default=Fault("stall", seconds=0.2))
    started = time.monotonic()
    store.read_ranges(fault_server.url("v.mp4"), [(i * 10_000, i * 10_000 + 10) for i in range(9)])
    assert time.monotonic() - started >= 3 * 0.2  # nine of 0.2 s, three at a time


def test_threads_share_a_store(target: Target, fault_server: FaultServer) -> None:
    store, uri = target.store(), target.uri
    fault_server.script([Fault.status(503), "reset"] * 4)
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda i=i: answers.extend(store.read_ranges(uri, [(i, 1000 + i)]))) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(DATA[i : 1000 + i] for i in range(12))


def test_errors_of_a_presigned_url_hide_its_signature(fault_server: FaultServer) -> None:
    store = ObjectStore(deadline_s=1.5, stall_s=STALL_S)
    uri = fault_server.url("v.mp4") + "?X-Amz-Signature=SECRETSIGNATURE"
    for default in (Fault.status(403), Fault.status(503), "reset", "mute", "ok"):
        fault_server.script(default=default)
        with pytest.raises(StoreError) as caught:
            store.read(uri)
        at: BaseException | None = caught.value
        while at is not None:
            assert "SECRETSIGNATURE" not in str(at)
            at = at.__cause__


def test_a_server_that_does_not_take_an_upload_is_asked_again(fault_server: FaultServer, tmp_path: Path) -> None:
    """S3 clients wait for leave to send ("100 Continue") without a limit of their own."""
    store = ObjectStore(storage_options=fault_server.storage_options, stall_s=STALL_S)
    (tmp_path / "file").write_bytes(DATA[:5000])
    for write in (
        lambda: store.write(fault_server.s3_url("new"), DATA[:5000]),
        lambda: store.upload(tmp_path / "file", fault_server.s3_url("new")),
    ):
        fault_server.script(["mute"], method="PUT")
        before = read_stats()
        write()
        assert fault_server.objects.pop("new") == DATA[:5000]
        assert (read_stats() - before).retries >= 1


SENT = DATA[:6000]  # little: the time that an upload may be silent grows with its bytes
IN_AN_UPLOAD: list[list[Any]] = [
    ["reset"],
    ["reset_mid_body"],
    ["close_mid_body"],
    ["stall"],
    [Fault.slow(0.02)],
    [Fault.status(503), Fault.status(429, retry_after=0.1)],
    ["reset_mid_body", "close_mid_body", "stall_mid_body"],
]


@pytest.mark.parametrize("plan", IN_AN_UPLOAD, ids=str)
def test_uploads_survive_faults_that_pass(
    target: Target, fault_server: FaultServer, plan: list[Any], tmp_path: Path
) -> None:
    """Also those that come over a connection that was used before, which clients try once more by themselves."""
    store, uri = target.store(stall_s=STALL_S), target.uri
    (tmp_path / "file").write_bytes(SENT)
    ways: list[Callable[[], object]] = [
        lambda: store.write(uri, SENT),
        lambda: store.upload(tmp_path / "file", uri),
    ]
    for way in ways:
        store.head(uri)
        fault_server.objects["v.mp4"] = DATA
        fault_server.script(plan, method="PUT")
        way()
        assert fault_server.objects["v.mp4"] == SENT
        puts = [request.fault.kind for request in fault_server.requests if request.method == "PUT"]
        passing = [Fault(fault).kind if isinstance(fault, str) else fault.kind for fault in plan]
        assert puts[: len(plan)] == passing
        assert len(puts) <= len(plan) + 2  # a slow machine asks once more where it is silent itself


@pytest.mark.parametrize("kind", ["reset_mid_body", "close_mid_body"])
def test_a_file_that_is_sent_again_is_sent_from_its_beginning(
    fault_server: FaultServer, tmp_path: Path, kind: Any
) -> None:
    """Large enough to be sent as a file, and to be under way when the connection ends."""
    data = DATA * 90  # 18 MB
    (tmp_path / "file").write_bytes(data)
    store, uri = ObjectStore(), fault_server.url("v.mp4")
    fault_server.objects["v.mp4"] = b"old"
    for send in (lambda: store.upload(tmp_path / "file", uri), lambda: store.write(uri, data)):
        store.head(uri)
        fault_server.script([kind], method="PUT")
        assert send().size == len(data)
        assert fault_server.objects["v.mp4"] == data
        assert len([request for request in fault_server.requests if request.method == "PUT"]) == 2


@pytest.mark.parametrize("broken_after", [0, 1, 2])
def test_a_body_is_written_from_its_beginning_each_time(broken_after: int) -> None:
    """What aiohttp's versions make of a second try differs; what they are given does not."""
    data = DATA * 3
    body = WholeBody(len(data), lambda start, length: data[start : start + length])
    assert body.size == len(data)
    assert asyncio.run(body.as_bytes()) == data
    for breaks in (broken_after, len(data)):
        written: list[bytes] = []

        async def write(chunk: bytes, breaks: int = breaks, written: list[bytes] = written) -> None:
            if len(written) == breaks:
                raise ConnectionResetError
            written.append(chunk)

        with contextlib.suppress(ConnectionResetError):
            asyncio.run(body.write(SimpleNamespace(write=write)))
    assert b"".join(written) == data


def test_an_upload_in_one_piece_that_stalls_is_sent_again(
    fault_server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that takes no parts, as of one that does; the server takes less than the kernel holds back for it."""
    monkeypatch.setattr(sending, "_SLOWEST_BYTES_PER_S", 1 << 30)
    data = DATA * 90  # 18 MB
    (tmp_path / "file").write_bytes(data)
    store, uri = ObjectStore(stall_s=STALL_S), fault_server.url("v.mp4")
    for send in (lambda: store.upload(tmp_path / "file", uri), lambda: store.write(uri, data)):
        fault_server.script(["stall"], method="PUT")
        before = read_stats()
        send()
        assert fault_server.objects.pop("v.mp4") == data
        assert (read_stats() - before).retries >= 1
