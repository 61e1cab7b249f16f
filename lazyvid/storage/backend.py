"""What a remote store must be able to do: the interface between `transfer.py` and the S3, HTTP and fsspec backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from lazyvid.errors import StoreError
from lazyvid.storage.answers import Explainer
from lazyvid.storage.objects import ObjectMeta, Pinning
from lazyvid.storage.retry import TransientFault

READ_BYTES = 1 << 18
"""What is taken from a connection at once."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The limits of an `ObjectStore`, as its backends need them."""

    max_concurrency: int
    deadline_s: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class Body:
    """An answer whose head has arrived and whose bytes are still to be read."""

    meta: ObjectMeta
    """The object that answers; its size is -1 where the answer does not say."""
    start: int
    """Which byte of the object comes first."""
    length: int | None
    """How many bytes will come; None where the answer does not say."""
    chunks: AsyncIterator[bytes]


class Backend(Protocol):
    """One kind of remote store. Every method is one try: it raises `TransientFault` or a `StoreError`."""

    explainer: Explainer
    """Turns its failures into errors."""
    parallel_copies: bool
    """Whether a large object is copied in parts over several connections."""

    @property
    def is_ready(self) -> bool:
        """Whether a request can go out at once."""

    async def get_ready(self) -> None:
        """Do on this machine what comes before the first request: make the client, find credentials."""

    def pinning(self, pin: ObjectMeta) -> Pinning:
        """How reads of this version are tied to it."""

    def has_answered(self, uri: str) -> bool:
        """Whether the object's server has ever answered this process."""

    async def head(self, uri: str) -> ObjectMeta:
        """What the store says of the object."""

    def body(self, uri: str, start: int, stop: int | None, pin: ObjectMeta | None) -> AbstractAsyncContextManager[Body]:
        """Ask for the bytes from `start` to `stop` (None: to the end)."""

    async def put(self, uri: str, data: bytes) -> ObjectMeta:
        """Store a whole object."""

    async def start_upload(self, uri: str) -> Any:
        """Begin an object that is sent in parts; None where the store takes whole objects only."""

    async def put_part(self, uri: str, upload: Any, number: int, data: bytes) -> Any:
        """Send part `number` (from 1); what it returns is handed to `finish_upload`."""

    async def finish_upload(self, uri: str, upload: Any, parts: list[Any]) -> None:
        """Make the object of its parts."""

    async def abort_upload(self, uri: str, upload: Any) -> None:
        """Forget the parts that were sent."""

    async def put_file(self, uri: str, path: str) -> None:
        """Store a local file, where the store takes whole objects only."""

    async def list_page(self, uri: str, token: Any) -> tuple[list[ObjectMeta], Any]:
        """Some of the objects below a folder, and the token for the next page, None after the last."""

    async def remove(self, uri: str) -> None:
        """Remove one object; it is no error when it is gone."""

    def classify(self, error: Exception, uri: str) -> TransientFault | StoreError:
        """Say what a foreign exception means."""

    async def close(self) -> None:
        """Close every connection."""
