"""Objects in S3 and the stores that speak its protocol, through s3fs's session, without s3fs's own retries."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from lazyvid.errors import AccessDeniedError, ObjectChangedError, StoreError, StoreUnavailableError
from lazyvid.stats import count
from lazyvid.storage.answers import Explainer, content_range, range_header
from lazyvid.storage.backend import READ_BYTES, Body, Tuning
from lazyvid.storage.filesystems import make_filesystem
from lazyvid.storage.layout import split
from lazyvid.storage.masking import display_uri
from lazyvid.storage.objects import ObjectMeta, Pinning
from lazyvid.storage.retry import TransientFault
from lazyvid.storage.s3_ranges import Answer, SignedRanges

_log = logging.getLogger(__name__)
_PARAMETERS = {"Range": "Range", "If-Match": "IfMatch"}
_DENIED = frozenset(
    [
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "RequestTimeTooSkewed",
        "AllAccessDisabled",
        "AccountProblem",
        "NotSignedUp",
    ]
)
_TRANSIENT = frozenset(
    ["RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "Throttling", "RequestLimitExceeded"]
)


def session_options(options: Mapping[str, Any], tuning: Tuning) -> dict[str, Any]:
    """The options for s3fs: the user's, with limits that suit one owner of retries where the user set none."""
    config = {
        "connect_timeout": tuning.stall_s,
        "read_timeout": tuning.stall_s,
        "retries": {"max_attempts": 0},
        "max_pool_connections": max(10, tuning.max_concurrency),
    }
    return {**options, "config_kwargs": {**config, **options.get("config_kwargs", {})}}


def credentials_source(options: Mapping[str, Any]) -> str:
    """Where S3 credentials come from, in words; never their value."""
    client = options.get("client_kwargs") or {}
    if options.get("anon"):
        return "none (anon=True in storage_options)"
    if options.get("key") or options.get("username") or client.get("aws_access_key_id"):
        return "the key given in storage_options"
    if options.get("profile"):
        return f"the profile {options['profile']!r} named in storage_options"
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "the environment variable AWS_ACCESS_KEY_ID"
    if os.environ.get("AWS_PROFILE"):
        return f"the profile {os.environ['AWS_PROFILE']!r} named in AWS_PROFILE"
    return "the default chain (credentials file, container or instance role); none in storage_options or environment"


@functools.cache
def _service_models(data_path: str | None) -> Any:
    """What botocore's data files say of S3: 12 MB and most of the time that a client takes, alike for all."""
    import botocore.loaders

    return botocore.loaders.create_loader(data_path)


def _new_session(options: Mapping[str, Any]) -> Any:
    import aiobotocore.session

    session = aiobotocore.session.AioSession(**options)
    session.register_component("data_loader", _service_models(session.get_config_variable("data_path")))
    return session


class S3Backend:
    """One set of S3 options, in this process."""

    parallel_copies = True

    def __init__(self, options: Mapping[str, Any], tuning: Tuning) -> None:
        self._answered = False
        self.explainer = Explainer(options, credentials=credentials_source(options))
        self._fs = make_filesystem("s3", session_options(options, tuning))
        self._signed = SignedRanges()
        self._takes_urls: bool | None = None
        """Whether it takes signed URLs, as far as is known; None before its first answer."""
        self._by_version = bool(options.get("version_aware"))

    @property
    def is_ready(self) -> bool:
        """Whether there is a client."""
        return self._fs._s3 is not None

    async def get_ready(self) -> None:
        """Make the client: a tenth of a second for its model of S3, and as long as credentials take to find."""
        if self._fs.session is None:
            self._fs.session = _new_session(self._fs.kwargs)
        await self._fs.set_session()

    async def _client(self, bucket: str) -> Any:
        client = await self._fs.set_session()
        return await self._fs.get_s3(bucket) if self._fs.cache_regions else client

    async def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        function = getattr(await self._client(arguments["Bucket"]), method)
        count(requests=1)
        # s3fs adds the options that belong to each request: requester pays, server-side encryption keys, ...
        answer: dict[str, Any] = await function(**self._fs._get_s3_method_kwargs(function, **arguments))
        self._answered = True
        return answer

    def has_answered(self, uri: str) -> bool:  # noqa: ARG002
        """Whether the endpoint has; all buckets of these options lie behind it."""
        return self._answered

    def pinning(self, pin: ObjectMeta) -> Pinning:
        """By etag; by version id where the options ask for versions (it takes a right of its own to read them)."""
        if self._by_version and pin.version:
            return "version"
        return "if-match" if pin.etag else "none"

    async def head(self, uri: str) -> ObjectMeta:
        """One HEAD request."""
        return _meta(uri, await self._call("head_object", **_place(uri)))

    @contextlib.asynccontextmanager
    async def body(self, uri: str, start: int, stop: int | None, pin: ObjectMeta | None) -> AsyncIterator[Body]:
        """One GET request, with `Range` and `If-Match`."""
        arguments, headers = _place(uri), {}
        if (header := range_header(start, stop)) is not None:
            headers["Range"] = header
        if pin is not None and self.pinning(pin) == "version":
            arguments["VersionId"] = pin.version
        elif pin is not None and pin.etag:
            headers["If-Match"] = pin.etag
        async with contextlib.AsyncExitStack() as stack:
            try:
                answer, chunks = await stack.enter_async_context(self._asked(arguments, headers))
            except Exception as error:
                if pin is not None and _status(error) == 412:
                    raise await self._changed(uri, pin) from None
                raise
            yield _body(uri, answer, chunks)

    @contextlib.asynccontextmanager
    async def _asked(self, arguments: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[Answer]:
        """One GET request: by a signed URL where a part of an object is asked for and the store takes such.

        The first one is the client's own call: it says best what is wrong with credentials or the region.
        """
        asks_by_url = False
        if self._takes_urls and "Range" in headers:
            client = await self._client(arguments["Bucket"])
            complete = self._fs._get_s3_method_kwargs(client.get_object, **arguments)
            asks_by_url = self._signed.can_ask(client, complete)
        if asks_by_url:
            async with self._signed.get(client, complete, headers) as answer:
                if answer is not None:
                    self._answered = True
                    yield answer
                    return
        found = await self._call("get_object", **arguments, **{_PARAMETERS[name]: headers[name] for name in headers})
        if asks_by_url:
            self._takes_urls = False
            _log.debug(
                "s3://%s: signed URLs are not understood; asking by the client's own calls.", arguments["Bucket"]
            )
        elif self._takes_urls is None:
            self._takes_urls = True
        async with found["Body"] as stream:
            yield found, stream.iter_chunks(READ_BYTES)

    async def _changed(self, uri: str, pin: ObjectMeta) -> ObjectChangedError:
        """One HEAD more, to say what lies there now."""
        try:
            found = (await self.head(uri)).etag
        except Exception as error:
            if _status(error) == 404:
                raise
            found = "unknown"
        return ObjectChangedError(
            f"{display_uri(uri)} has changed since it was pinned: expected etag {pin.etag}, found {found}. "
            "Open it anew."
        )

    async def put(self, uri: str, data: bytes) -> ObjectMeta:
        """One PUT request."""
        answer = await self._call("put_object", **_place(uri), Body=data)
        return ObjectMeta(uri, len(data), answer.get("ETag") or None, _version(answer))

    async def start_upload(self, uri: str) -> Any:
        """Begin a multipart upload."""
        return (await self._call("create_multipart_upload", **_place(uri)))["UploadId"]

    async def put_part(self, uri: str, upload: Any, number: int, data: bytes) -> Any:
        """Send one part."""
        answer = await self._call("upload_part", **_place(uri), UploadId=upload, PartNumber=number, Body=data)
        sums = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": number, "ETag": answer["ETag"], **sums}

    async def finish_upload(self, uri: str, upload: Any, parts: list[Any]) -> None:
        """Make the object of its parts."""
        await self._call("complete_multipart_upload", **_place(uri), UploadId=upload, MultipartUpload={"Parts": parts})

    async def abort_upload(self, uri: str, upload: Any) -> None:
        """Drop the parts."""
        with contextlib.suppress(Exception):  # the failure that led here is what is reported
            await self._call("abort_multipart_upload", **_place(uri), UploadId=upload)

    async def put_file(self, uri: str, path: str) -> None:
        """Never needed: S3 takes parts."""
        raise NotImplementedError

    async def list_page(self, uri: str, token: Any) -> tuple[list[ObjectMeta], Any]:
        """Up to 1000 keys; keys that end in `/` are folder markers, not objects."""
        root, key, _query = split(uri)
        prefix = key.rstrip("/") + "/" if key.rstrip("/") else ""
        arguments = {"ContinuationToken": token} if token else {}
        answer = await self._call("list_objects_v2", Bucket=_bucket(root), Prefix=prefix, **arguments)
        page = [
            ObjectMeta(f"s3://{_bucket(root)}/{found['Key']}", found["Size"], found.get("ETag"), None, _time(found))
            for found in answer.get("Contents", [])
            if not found["Key"].endswith("/")
        ]
        return page, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    async def remove(self, uri: str) -> None:
        """One DELETE request."""
        await self._call("delete_object", **_place(uri))

    def classify(self, error: Exception, uri: str) -> TransientFault | StoreError:
        """Say what an exception of botocore means."""
        from botocore import exceptions as boto

        if isinstance(error, boto.ClientError):
            self._answered = True
            return self._client_error(error, uri)
        text = self.explainer.text(error)
        no_credentials = (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.ProfileNotFound,
            boto.TokenRetrievalError,
            boto.UnauthorizedSSOTokenError,
        )
        if isinstance(error, no_credentials):
            return AccessDeniedError(
                f"No credentials for {display_uri(uri)}: {text}. Looked in: {self.explainer.credentials}. "
                "Give key and secret, a profile, or anon=True in storage_options, or set the environment variables."
            )
        if isinstance(error, boto.SSLError):
            return self.explainer.certificate(error, uri)
        if isinstance(error, (TimeoutError, boto.ReadTimeoutError, boto.ConnectTimeoutError)):
            return TransientFault(text, kind="timeout")
        if isinstance(error, (boto.EndpointConnectionError, boto.ProxyConnectionError)):
            return TransientFault(text, kind="connect")
        if isinstance(error, (boto.IncompleteReadError, boto.ResponseStreamingError)):
            return TransientFault(text, kind="short")
        if isinstance(error, boto.ParamValidationError):
            return StoreError(f"{display_uri(uri)} is no valid S3 URI: {text}. Expected s3://bucket/key.")
        if isinstance(error, boto.HTTPClientError) or type(error).__module__.startswith("aiohttp"):
            return TransientFault(text, kind="short" if "Payload" in type(error).__name__ else "failure")
        return self.explainer.exception(error, uri)

    def _client_error(self, error: Any, uri: str) -> TransientFault | StoreError:
        facts = error.response.get("Error", {})
        code = str(facts.get("Code", ""))
        status = _status(error) or 0
        reason = f"{code}: {facts.get('Message', '')}".strip(": ")
        if code in _DENIED or (status == 400 and code == "400"):  # AWS answers HEAD with an expired token so
            status = 403
        elif code in _TRANSIENT and status < 500:
            status = 503
        elif status == 301:
            return StoreUnavailableError(
                f"{display_uri(uri)} lies in another region or at another endpoint ({reason}). Name it: "
                "client_kwargs={'region_name': ...} in storage_options."
            )
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return self.explainer.status(status, uri, reason=reason, headers=headers)

    async def close(self) -> None:
        """Close the connections."""
        if self._fs._s3 is not None:
            await self._fs._s3.close()


def _bucket(root: str) -> str:
    return root.split("://", 1)[1].rstrip("/")


def _place(uri: str) -> dict[str, Any]:
    root, key, _query = split(uri)
    return {"Bucket": _bucket(root), "Key": key}


def _status(error: Exception) -> int | None:
    answer = getattr(error, "response", None)
    found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    return int(found) if found is not None else None


def _version(answer: Mapping[str, Any]) -> str | None:
    found = answer.get("VersionId")
    return None if found in (None, "", "null") else str(found)


def _time(answer: Mapping[str, Any]) -> int | None:
    found = answer.get("LastModified")
    return int(found.timestamp()) * 1_000_000_000 if isinstance(found, datetime) else None


def _meta(uri: str, answer: Mapping[str, Any]) -> ObjectMeta:
    return ObjectMeta(uri, answer["ContentLength"], answer.get("ETag") or None, _version(answer), _time(answer))


def _body(uri: str, answer: Mapping[str, Any], chunks: AsyncIterator[bytes]) -> Body:
    """An answer to a GET; some stores answer 200 to a range, so what counts is the Content-Range."""
    length = answer.get("ContentLength")
    found = content_range(answer.get("ContentRange"))
    if found is None:
        partial = answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        raise_without = TransientFault("a partial answer that does not say which part it is", kind="short")
        if partial:
            raise raise_without
        start, total = 0, length if length is not None else -1
    else:
        start, total = found[0], found[2]
    meta = ObjectMeta(uri, total, answer.get("ETag") or None, _version(answer), _time(answer))
    return Body(meta, start, length, chunks)
