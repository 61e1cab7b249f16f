"""Byte ranges of S3 objects, cheaply: botocore signs a URL, and its connections carry the request.

A call of botocore's client costs milliseconds of Python, most of which serves requests of other kinds. A signed URL
takes range and version as plain headers. What such a request cannot say, and what a store does not answer in the plain
way, is left to the client's own call.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any

from lazyvid.stats import count
from lazyvid.storage.answers import body_length, http_date
from lazyvid.storage.backend import READ_BYTES

Answer = tuple[dict[str, Any], AsyncIterator[bytes]]
"""What `get_object` says of an object, and the bytes that were asked for."""

_SIGNED_PARAMETERS = frozenset({"Bucket", "Key", "VersionId"})
_EXPIRES_S = 3600
_OK = frozenset({200, 206})
_PLAIN = frozenset({404, 412, 416, 429})  # and 500 and above: the client's own call would be answered alike
_FAILED = 500


class SignedRanges:
    """Asks for byte ranges of objects by signed URLs, through the connections of a client of aiobotocore."""

    def __init__(self) -> None:
        self._prepared: weakref.WeakSet[Any] = weakref.WeakSet()

    @staticmethod
    def can_ask(client: Any, arguments: Mapping[str, Any]) -> bool:
        """Whether a URL says all that these arguments of `get_object` say, for a bucket of the common kind."""
        from aiobotocore.httpsession import AIOHTTPSession

        bucket = str(arguments.get("Bucket", ""))
        return (
            arguments.keys() <= _SIGNED_PARAMETERS
            and not bucket.startswith("arn:")
            and not bucket.endswith("--x-s3")
            and isinstance(client._endpoint.http_session, AIOHTTPSession)
        )

    @contextlib.asynccontextmanager
    async def get(
        self, client: Any, arguments: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[Answer | None]:
        """One GET request.

        Args:
            client: Of aiobotocore.
            arguments: Of its `get_object`: bucket, key and version id.
            headers: `Range` and `If-Match`.

        Returns:
            The answer; None where the store gave none that is understood, and the client's own call is to be made.

        Raises:
            botocore.exceptions.ClientError: if there is no such object, version or range, or the store has failed.
        """
        self._prepare(client)
        url = await client.generate_presigned_url("get_object", Params=dict(arguments), ExpiresIn=_EXPIRES_S)
        count(requests=1)
        response = await _send(client, url, headers)
        try:
            if response.status_code in _OK:
                yield _facts(response), response.raw.content.iter_chunked(READ_BYTES)
            elif response.status_code in _PLAIN or response.status_code >= _FAILED:
                raise await _client_error(response)
            else:
                yield None
        finally:
            response.raw.close()  # unread, its connection is of no further use; read to its end, it is back already

    def _prepare(self, client: Any) -> None:
        """By itself botocore signs URLs by SigV2, and for the endpoint of all regions, which may redirect."""
        if client not in self._prepared:
            client.meta.events.register_first("choose-signer.s3.GetObject", _as_requests_are)
            client.meta.events.register_first("before-endpoint-resolution.s3", _where_requests_go)
            self._prepared.add(client)


def _as_requests_are(signature_version: object, **_: Any) -> str | None:
    """SigV4 with S3's rules, where SigV4 is what requests are signed by and nothing else was asked for."""
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None


def _where_requests_go(context: MutableMapping[str, Any], **_: Any) -> None:
    if context.get("is_presign_request"):
        context["use_global_endpoint"] = False


async def _send(client: Any, url: str, headers: Mapping[str, str]) -> Any:
    from botocore.awsrequest import AWSPreparedRequest, HeadersDict

    request = AWSPreparedRequest("GET", url, HeadersDict(headers), None, stream_output=True)
    return await client._endpoint.http_session.send(request)


def _facts(response: Any) -> dict[str, Any]:
    """What is looked at of an answer, under the names that `get_object` has for it."""
    headers = response.headers
    return {
        "ContentLength": body_length(headers.get("content-length")),
        "ContentRange": headers.get("content-range"),
        "ETag": headers.get("etag"),
        "VersionId": headers.get("x-amz-version-id"),
        "LastModified": http_date(headers.get("last-modified")),
        "ResponseMetadata": {"HTTPStatusCode": response.status_code},
    }


async def _client_error(response: Any) -> Exception:
    """What the client's own call raises for such an answer."""
    from botocore.exceptions import ClientError
    from botocore.parsers import create_parser

    answer = {"status_code": response.status_code, "headers": response.headers, "body": await response.content}
    error: Exception = ClientError(create_parser("rest-xml").parse({**answer, "context": {}}, None), "GetObject")
    return error
