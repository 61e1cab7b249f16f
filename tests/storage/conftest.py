"""A plain HTTP file server with ranges, strong etags, PUT and DELETE, and stores over every kind of backend."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import uuid
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lazyvid.storage import ObjectStore


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    weak_etags = False

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir())
            links = "".join(f'<a href="{name}">{name}</a>' for name in names)
            return self._reply(200, links.encode(), Content_Type="text/html")
        if not path.is_file():
            return self._reply(404)
        data = path.read_bytes()
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("If-Match", etag) != etag:
            return self._reply(412)
        facts = {
            "ETag": "W/" * self.weak_etags + etag,
            "Last_Modified": self.date_time_string(int(path.stat().st_mtime)),
        }
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return self._reply(200, data, **facts)
        start, stop = int(match[1]), min(len(data), int(match[2]) + 1 if match[2] else len(data))
        if start >= len(data):
            return self._reply(416, Content_Range=f"bytes */{len(data)}")
        return self._reply(206, data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(data)}", **facts)

    def do_PUT(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        path = Path(self.translate_path(self.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self._reply(201)

    def do_DELETE(self) -> None:
        path = Path(self.translate_path(self.path))
        status = 204 if path.is_file() else 404
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # as in a bucket, there is no folder without an object
            while path.parent != Path(self.directory):
                path = path.parent
                path.rmdir()
        self._reply(status)  # the client's next request must find it done


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away in the middle is no failure of the test


@contextlib.contextmanager
def serving(folder: Path, *, weak_etags: bool = False) -> Iterator[str]:
    """Serve a folder; gives its URL."""

    class Handler(_Handler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)

    Handler.weak_etags = weak_etags
    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def http_folder(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a served folder, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as url:
        yield url, folder


@pytest.fixture
def weak_http_folder(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The same, by a server that gives weak etags only."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder, weak_etags=True) as url:
        yield url, folder


@pytest.fixture(params=["local", "memory", "http", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind."""
    if request.param == "local":
        return ObjectStore(tmp_path / "root")
    if request.param == "memory":
        return ObjectStore(f"memory://{uuid.uuid4().hex}")
    if request.param == "http":
        return ObjectStore(request.getfixturevalue("http_folder")[0])
    server = request.getfixturevalue("s3_server")
    return ObjectStore(request.getfixturevalue("s3_prefix"), storage_options=server.storage_options)
