"""A scripted HTTP and S3 server that misbehaves on order: 503s, resets, cut and stalled bodies, wrong ranges and ETags.

Tests of the store script it and then look at what came out and at the requests that it recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from lazyvid.testing._serving import Head, LoopbackServer, read_head

FaultKind = Literal[
    "ok",
    "status",
    "reset",
    "reset_mid_body",
    "close_mid_body",
    "stall",
    "stall_mid_body",
    "slow",
    "mute",
    "wrong_etag",
    "ignore_range",
    "wrong_range",
    "short_body",
    "flip",
]
_FOREVER_S = 86_400.0
_SHIFT = 7  # bytes by which "wrong_range" is off
_PIECES = 16  # of a KiB of "slow": so it is slow, and never silent for long
_IN_A_BODY = frozenset({"reset_mid_body", "close_mid_body", "stall", "stall_mid_body", "slow"})
_GOING_AWAY_S = 5.0
_S3_CODES = {404: "NoSuchKey", 403: "AccessDenied", 412: "PreconditionFailed", 503: "SlowDown", 500: "InternalError"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What the server does with one request.

    - `ok`: answers properly. `status`: answers with `code`, and a Retry-After header if `retry_after` is given.
    - `reset`: resets the connection without an answer. `mute`: never answers.
    - `reset_mid_body`, `close_mid_body`, `stall_mid_body`: after half of the body. `stall`: before its first byte.
    - `slow`: a KiB takes `seconds`, in small pieces.
    - The five above befall the request's body where it has one, as that of a PUT, which is then taken so: the object is
      stored only where all of it came. Else they befall the answer's.
    - `wrong_etag`: behaves as if the object had been replaced: another ETag, and 412 to If-Match.
    - `ignore_range`: 200 and the whole object. `wrong_range`: 206, other bytes than asked for, as Content-Range says.
    - `short_body`: 206 and half the bytes asked for, announced as such. `flip`: one bit of the body is wrong.
    """

    kind: FaultKind
    code: int = 503
    retry_after: float | None = None
    seconds: float = _FOREVER_S
    """How long the stalls and `mute` last, or what a KiB of `slow` takes."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"a fault is one of {', '.join(get_args(FaultKind))}; got {self.kind!r}")

    @classmethod
    def status(cls, code: int, *, retry_after: float | None = None) -> Fault:
        """An answer with this status and no object."""
        return cls("status", code=code, retry_after=retry_after)

    @classmethod
    def slow(cls, seconds_per_kb: float) -> Fault:
        """A proper answer, but this slow."""
        return cls("slow", seconds=seconds_per_kb)


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it came in, and what was done with it."""

    method: str
    path: str
    """Decoded, without the query."""
    query: str
    range: str | None
    """The Range header."""
    if_match: str | None
    """The If-Match header."""
    fault: Fault


class FaultServer(LoopbackServer):
    """Serves a dictionary of objects over HTTP and path-style S3, and misbehaves as scripted; a context manager.

    Attributes:
        objects: the objects by key; may be changed at any time.
        bucket: the bucket that holds them.
    """

    def __init__(self, objects: Mapping[str, bytes] | None = None, *, bucket: str = "bucket") -> None:
        """Prepares a server; nothing listens before `with` or `start`.

        Args:
            objects: the first objects by key.
            bucket: name of the one bucket.
        """
        super().__init__()
        self.objects: dict[str, bytes] = dict(objects or {})
        self.bucket = bucket
        self._lock = threading.Lock()
        self._plan: deque[Fault] = deque()
        self._default = Fault("ok")
        self._method: str | None = None
        self._ranged: bool | None = None
        self._requests: list[RecordedRequest] = []

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options for fsspec's S3; the server takes any credentials."""
        return {
            "key": "any",
            "secret": "any",
            "client_kwargs": {"endpoint_url": self.endpoint_url, "region_name": "us-east-1"},
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests since the start or the last `script`, in the order in which they came."""
        with self._lock:
            return list(self._requests)

    def url(self, key: str) -> str:
        """The `http://` address of an object."""
        return f"{self.endpoint_url}/{self.bucket}/{key}"

    def s3_url(self, key: str) -> str:
        """The `s3://` address of an object, for use with `storage_options`."""
        return f"s3://{self.bucket}/{key}"

    def script(
        self,
        plan: Iterable[Fault | FaultKind] = (),
        *,
        default: Fault | FaultKind = "ok",
        method: str | None = None,
        ranged: bool | None = None,
    ) -> None:
        """Sets what is done with the requests from now on, and forgets the recorded ones.

        Args:
            plan: one fault per request, in order.
            default: the fault of all requests after the plan.
            method: only requests of this method take part; the others are answered properly.
            ranged: only requests with (True) or without (False) a Range header take part.

        Raises:
            ValueError: if a fault's name is not known.
        """
        faults = deque(_as_fault(fault) for fault in plan)
        with self._lock:
            self._plan, self._default = faults, _as_fault(default)
            self._method, self._ranged = method, ranged
            self._requests.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            fault = self._record(head)
            if head.headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await _receive(reader, writer, head.content_length, fault)
            if body is None:
                return
            if body and fault.kind in _IN_A_BODY:
                fault = Fault("ok")  # it has happened
            if not await self._act(head, body, fault, writer):
                return

    def _record(self, head: Head) -> Fault:
        method, (path, _, query) = head.words[0], head.words[1].partition("?")
        byte_range = head.headers.get("range")
        with self._lock:
            takes_part = self._method in (None, method) and self._ranged in (None, byte_range is not None)
            fault = Fault("ok")
            if takes_part:
                fault = self._plan.popleft() if self._plan else self._default
            if_match = head.headers.get("if-match")
            self._requests.append(RecordedRequest(method, unquote(path), query, byte_range, if_match, fault))
        return fault

    async def _act(self, head: Head, body: bytes, fault: Fault, writer: asyncio.StreamWriter) -> bool:
        """Does what the fault says; False when the connection ends with it."""
        if fault.kind == "reset":
            _reset(writer)
            return False
        if fault.kind == "mute":
            await asyncio.sleep(fault.seconds)
            return False
        if fault.kind == "status":
            retry = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            answer = _Answer.error(fault.code, **retry)
        else:
            answer = self._answer(head, body, fault)
        if head.words[0] == "HEAD":
            writer.write(answer.head())
            await writer.drain()
            return True
        return await _send(answer, fault, writer)

    def _answer(self, head: Head, body: bytes, fault: Fault) -> _Answer:
        """What a proper server would say, except for the faults that are about what is said."""
        method, (path, _, query) = head.words[0], head.words[1].partition("?")
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if bucket != self.bucket:
            return _Answer.error(404)
        if not key:
            return self._listing(parse_qs(query))
        if method == "PUT":
            self.objects[key] = body
            return _Answer(200, b"", {"ETag": _etag(body)})
        if method == "DELETE":
            self.objects.pop(key, None)
            return _Answer(204, b"", {})
        data = self.objects.get(key)
        return _Answer.error(404) if data is None else _object_answer(data, head, fault)

    def _listing(self, query: Mapping[str, list[str]]) -> _Answer:
        """ListObjectsV2, as far as S3 clients need it to tell files from folders."""
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        contents, folders = [], set()
        for key, data in sorted(self.objects.items()):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>{escape(_etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
                )
        prefixes = [f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)]
        count = len(contents) + len(prefixes)
        xml = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{count}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{''.join(contents + prefixes)}</ListBucketResult>"
        )
        return _Answer(200, xml.encode(), {"Content-Type": "application/xml"})


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def error(cls, status: int, **headers: str) -> _Answer:
        body = f"<Error><Code>{_S3_CODES.get(status, 'Error')}</Code><Message>scripted</Message></Error>".encode()
        return cls(status, body, {"Content-Type": "application/xml", **headers})

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Scripted", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _as_fault(fault: Fault | FaultKind) -> Fault:
    return fault if isinstance(fault, Fault) else Fault(fault)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _object_answer(data: bytes, head: Head, fault: Fault) -> _Answer:
    etag = _etag(data + b"replaced") if fault.kind == "wrong_etag" else _etag(data)
    if head.headers.get("if-match", etag) not in (etag, "*"):
        return _Answer.error(412)
    headers = {"ETag": etag, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Accept-Ranges": "bytes"}
    asked = _asked_range(head, len(data))
    if asked is None or fault.kind == "ignore_range":
        return _Answer(200, data, headers)
    start, stop = asked
    if start >= len(data):
        return _Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    if fault.kind == "wrong_range":
        shift = _SHIFT if stop + _SHIFT <= len(data) else -min(_SHIFT, start)
        start, stop = start + shift, stop + shift
    elif fault.kind == "short_body":
        stop = start + (stop - start) // 2
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return _Answer(206, data[start:stop], headers)


def _asked_range(head: Head, size: int) -> tuple[int, int] | None:
    """The half-open range that a Range header asks for; None without one."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", head.headers.get("range", ""))
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


async def _send(answer: _Answer, fault: Fault, writer: asyncio.StreamWriter) -> bool:
    """Sends an answer as the fault says; False when the connection ends with it."""
    body, half = answer.body, len(answer.body) // 2
    writer.write(answer.head())
    if fault.kind == "flip" and body:
        body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
    if fault.kind == "slow":
        for start in range(0, len(body), 1024 // _PIECES):
            writer.write(body[start : start + 1024 // _PIECES])
            await writer.drain()
            await asyncio.sleep(fault.seconds / _PIECES)
        return True
    if fault.kind not in ("stall", "stall_mid_body", "reset_mid_body", "close_mid_body"):
        writer.write(body)
        await writer.drain()
        return True
    if fault.kind != "stall":
        writer.write(body[:half])
    await writer.drain()
    if fault.kind in ("stall", "stall_mid_body"):
        await asyncio.sleep(fault.seconds)
        writer.write(body if fault.kind == "stall" else body[half:])
        return True
    if fault.kind == "reset_mid_body":
        await asyncio.sleep(0.05)  # a reset overtakes what still lies in the receiver's buffer
        _reset(writer)
    return False


async def _receive(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int, fault: Fault
) -> bytes | None:
    """Takes a request's body as the fault says; None when the connection ends with it."""
    if not length or fault.kind not in _IN_A_BODY:
        return await reader.readexactly(length)
    body = b""
    if fault.kind == "slow":
        while len(body) < length:
            body += await reader.readexactly(min(1024 // _PIECES, length - len(body)))
            await asyncio.sleep(fault.seconds / _PIECES)
        return body
    if fault.kind != "stall":
        body = await reader.readexactly(length // 2)
    if fault.kind == "reset_mid_body":
        _reset(writer)
        return None
    if fault.kind == "close_mid_body":
        writer.write_eof()
        with contextlib.suppress(TimeoutError):  # closed with bytes unread, a connection is reset
            await asyncio.wait_for(reader.read(), _GOING_AWAY_S)
        return None
    await asyncio.sleep(fault.seconds)
    return body + await reader.readexactly(length - len(body))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by a reset; closed with all its bytes read, it would end in the orderly way."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
