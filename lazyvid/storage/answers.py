"""What a remote store's answers mean: status codes, range headers and foreign exceptions as `StoreError`s."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lazyvid.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectNotFoundError,
    ShortReadError,
    StoreError,
    StoreUnavailableError,
)
from lazyvid.storage.masking import display_uri, scrub, secret_values
from lazyvid.storage.retry import TransientFault, retry_after_s

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 522, 524, 529})
_SHOWN = 200


class Explainer:
    """Turns failures of one backend into errors that name the object and hide the secrets.

    Args:
        options: the storage options, for the secrets in them.
        credentials: where the credentials come from, in words.
    """

    def __init__(self, options: Mapping[str, Any], *, credentials: str) -> None:
        self.secrets = tuple(secret for secret in secret_values(options) if len(secret) > 3)
        self.credentials = credentials

    def text(self, error: BaseException | str) -> str:
        """What a foreign exception says, in one line, with the secrets masked."""
        found = str(error) if isinstance(error, str) else f"{type(error).__name__}: {error}"
        return scrub(" ".join(found.split()), self.secrets)[:_SHOWN]

    def cause(self, error: BaseException) -> BaseException | None:
        """The exception, to be shown as the cause, unless its own text or that of its causes shows a secret."""
        at: BaseException | None = error
        while at is not None:
            if scrub(str(at), self.secrets) != str(at):
                return None
            at = at.__cause__ or at.__context__
        return error

    def status(
        self, status: int, uri: str, *, reason: str = "", headers: Mapping[str, str] | None = None
    ) -> TransientFault | StoreError:
        """What an HTTP status means that is no success.

        Args:
            status: the code.
            uri: the object, as resolved.
            reason: what the server said beside the code.
            headers: the answer's headers, names in lower case.
        """
        shown = display_uri(uri)
        said = f"HTTP {status}" + (f" ({self.text(reason)})" if reason else "")
        if status in _TRANSIENT:
            return TransientFault(said, retry_after_s=retry_after_s((headers or {}).get("retry-after")))
        if status in (401, 403):
            return AccessDeniedError(
                f"Access to {shown} was denied: {said}. Credentials: {self.credentials}. Check them, their rights to "
                "this object, and that it exists (some stores say the same of a missing object)."
            )
        if status in (404, 410):
            return ObjectNotFoundError(f"{shown} does not exist: {said}. Check the bucket and the key.")
        if status == 412:
            return ObjectChangedError(f"{shown} has changed since it was pinned: {said}. Open it anew.")
        if status == 416:
            return ShortReadError(
                f"{shown} ends before the byte range asked for: {said}. It is cut short, or its index is another's."
            )
        return StoreError(f"{shown} could not be used: expected success, found {said}. Check the URI and the options.")

    def exception(self, error: Exception, uri: str) -> TransientFault | StoreError:
        """What a builtin exception of a file system means."""
        shown = display_uri(uri)
        if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
            return ObjectNotFoundError(f"{shown} does not exist: {self.text(error)}. Check the URI.")
        if isinstance(error, PermissionError):
            return AccessDeniedError(
                f"Access to {shown} was denied: {self.text(error)}. Credentials: {self.credentials}. Check them."
            )
        if isinstance(error, TimeoutError):
            return TransientFault(self.text(error), kind="timeout")
        if isinstance(error, NotImplementedError):
            return StoreError(f"{shown}: this kind of store cannot do this. Use another store.")
        for code in (getattr(error, "status", None), getattr(error, "code", None)):
            if isinstance(code, int) and code >= 400:
                return self.status(code, uri, reason=str(getattr(error, "message", "")))
        if isinstance(error, OSError):
            return TransientFault(self.text(error))
        return StoreError(f"{shown} could not be used: {self.text(error)}. Check the URI and the storage options.")

    def certificate(self, error: Exception, uri: str) -> StoreUnavailableError:
        """The server's certificate was not accepted; trying again does not help."""
        return StoreUnavailableError(
            f"{display_uri(uri)}: the TLS connection was refused: {self.text(error)}. Check its certificate."
        )


def content_range(header: str | None) -> tuple[int, int, int] | None:
    """(start, stop, total) of a Content-Range header, total -1 where it is not told; None without a usable header."""
    match = _CONTENT_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1) is None:
        return None
    total = -1 if match.group(3) == "*" else int(match.group(3))
    return int(match.group(1)), int(match.group(2)) + 1, total


def range_header(start: int, stop: int | None) -> str | None:
    """The Range header of a byte range; None for a whole object."""
    if stop is None:
        return f"bytes={start}-" if start else None
    return f"bytes={start}-{stop - 1}"


def body_length(header: str | None) -> int | None:
    """The number of bytes that a Content-Length header announces; None without a usable header."""
    return int(header) if header and header.isdigit() else None


def http_date(header: str | None) -> datetime | None:
    """The moment that a Last-Modified header names; None without a usable header."""
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None
