"""Ranges by signed URLs: the same place, the same answers and the same errors as by the client's own call."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest

from lazyvid.errors import AccessDeniedError, ObjectChangedError, ObjectNotFoundError, ShortReadError, StoreError
from lazyvid.storage import ObjectStore
from lazyvid.storage.s3_ranges import SignedRanges
from lazyvid.testing import CountingProxy, Fault, FaultServer, S3Server

DATA = bytes(i * 31 % 251 for i in range(100_000))
SIGNATURE = "X-Amz-Signature="


@pytest.fixture
def stored(fault_server: FaultServer) -> ObjectStore:
    """A store over one object of the fault server's, which has answered it once."""
    fault_server.objects["v.mp4"] = DATA
    store = ObjectStore(storage_options=fault_server.storage_options)
    store.read_ranges(fault_server.s3_url("v.mp4"), [(0, 1)])
    fault_server.script()
    return store


def signed(server: FaultServer) -> list[bool]:
    """Of each GET, whether a URL's signature stood for it."""
    return [SIGNATURE in request.query for request in server.requests if request.method == "GET"]


def test_a_range_is_one_request_by_a_signed_url(s3_server: S3Server, s3_prefix: str) -> None:
    uri = f"{s3_prefix}/a key with ünusual + signs & such=?.mp4"
    ObjectStore(storage_options=s3_server.storage_options).write(uri, DATA)
    with CountingProxy(s3_server.endpoint_url) as proxy:
        store = ObjectStore(storage_options=proxy.storage_options_for(s3_server))
        pin = store.head(uri)
        store.read_ranges(uri, [(0, 1)])  # the first is the client's own call
        proxy.reset()
        assert store.read_ranges(uri, [(10, 20), (90_000, 99_000)], pin=pin) == [DATA[10:20], DATA[90_000:99_000]]
        assert {request.method for request in proxy.requests} == {"GET"}
        assert len(proxy.requests) <= 2
        assert all(SIGNATURE in request.query and request.if_match == pin.etag for request in proxy.requests)


def test_a_real_store_says_the_same_no(s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    uri = f"{s3_prefix}/v.mp4"
    pin = store.write(uri, DATA)
    store.read_ranges(uri, [(0, 1)])
    with pytest.raises(ObjectNotFoundError, match="NoSuchKey"):
        store.read_ranges(f"{s3_prefix}/none.mp4", [(0, 10)])
    with pytest.raises(ShortReadError):
        store.read_ranges(uri, [(200_000, 200_010)])
    store.write(uri, DATA[::-1])
    with pytest.raises(ObjectChangedError, match="found"):
        store.read_ranges(uri, [(0, 10)], pin=pin)


def test_a_store_that_refuses_signed_urls_is_asked_by_requests(fault_server: FaultServer, stored: ObjectStore) -> None:
    fault_server.script([Fault.status(403)])
    uri = fault_server.s3_url("v.mp4")
    for _ in range(3):
        assert stored.read_ranges(uri, [(10, 20)]) == [DATA[10:20]]
    assert signed(fault_server) == [True, False, False, False]


def test_rights_that_are_gone_do_not_end_signed_urls(fault_server: FaultServer, stored: ObjectStore) -> None:
    fault_server.script([Fault.status(403), Fault.status(403)])
    uri = fault_server.s3_url("v.mp4")
    with pytest.raises(AccessDeniedError):
        stored.read_ranges(uri, [(10, 20)])
    assert stored.read_ranges(uri, [(10, 20)]) == [DATA[10:20]]
    assert signed(fault_server) == [True, False, True]


@pytest.mark.parametrize(
    "more",
    [{"requester_pays": True}, {"s3_additional_kwargs": {"SSECustomerAlgorithm": "AES256"}}],
    ids=str,
)
def test_what_a_url_cannot_say_is_said_by_a_request(
    fault_server: FaultServer, stored: ObjectStore, more: dict[str, Any]
) -> None:
    store = ObjectStore(storage_options={**stored.storage_options, **more})
    for _ in range(2):
        assert store.read_ranges(fault_server.s3_url("v.mp4"), [(10, 20)]) == [DATA[10:20]]
    assert signed(fault_server) == [False, False]


def test_a_whole_object_is_asked_for_by_a_request_that_has_its_checksum(
    fault_server: FaultServer, stored: ObjectStore
) -> None:
    assert stored.read(fault_server.s3_url("v.mp4")) == DATA
    assert signed(fault_server) == [False]


def test_no_error_shows_a_signature(s3_server: S3Server, s3_prefix: str) -> None:
    uri = f"{s3_prefix}/v.mp4"
    with CountingProxy(s3_server.endpoint_url) as proxy:
        store = ObjectStore(storage_options=proxy.storage_options_for(s3_server), deadline_s=1.0)
        store.write(uri, DATA)
        store.read_ranges(uri, [(0, 1)])
    with pytest.raises(StoreError) as caught:  # nobody listens there any more
        store.read_ranges(uri, [(0, 10)])
    error: BaseException | None = caught.value
    while error is not None:
        assert "Signature=" not in str(error).replace("Signature=***", "")
        error = error.__cause__


PLACES: list[tuple[str, dict[str, Any]]] = [
    ("us-east-1", {}),
    ("eu-central-1", {}),
    ("eu-central-1", {"addressing_style": "path"}),
    ("us-east-1", {"addressing_style": "virtual"}),
    ("us-west-2", {"use_dualstack_endpoint": True}),
    ("us-west-2", {"use_accelerate_endpoint": True}),
    ("cn-north-1", {}),
]


@pytest.mark.parametrize(("region", "how"), PLACES, ids=str)
@pytest.mark.parametrize("bucket", ["videos", "videos.with.dots"])
def test_a_url_goes_where_requests_go(region: str, how: dict[str, Any], bucket: str) -> None:
    import aiobotocore.session
    from aiobotocore.config import AioConfig

    class Sent(Exception):
        pass

    def stop(request: Any, **_: Any) -> None:
        raise Sent(request.url)

    async def both() -> tuple[str, str]:
        session = aiobotocore.session.AioSession()
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": region}
        async with session.create_client("s3", config=AioConfig(s3=how), **keys) as client:
            signed = SignedRanges()
            signed._prepare(client)
            place = {"Bucket": bucket, "Key": "folder/a b+c.mp4"}
            url = await client.generate_presigned_url("get_object", Params=place)
            client.meta.events.register("before-send.s3.GetObject", stop)
            with pytest.raises(Sent) as caught:
                await client.get_object(**place)
            return url, str(caught.value)

    if how.get("use_accelerate_endpoint") and "." in bucket:
        pytest.skip("such a bucket cannot be accelerated")
    url, sent = asyncio.run(both())
    assert urlsplit(url)[:3] == urlsplit(sent)[:3]
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
