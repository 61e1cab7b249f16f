from __future__ import annotations

import pytest

from lazyvid.storage.options import frozen, options_for

S3 = {"key": "a", "secret": "b"}


@pytest.mark.parametrize(
    ("name", "options", "root", "expected"),
    [
        ("s3", S3, None, S3),
        ("s3", S3, "s3", S3),
        ("s3", S3, "file", S3),
        ("s3", S3, "http", {}),
        ("http", S3, None, {}),
        ("http", S3, "s3", {}),
        ("http", {"headers": {}}, None, {"headers": {}}),
        ("http", {"client_kwargs": {"endpoint_url": "x"}}, None, {}),
        ("gs", {"token": "t"}, None, {"token": "t"}),
        ("memory", S3, "s3", {}),
        ("s3", {"s3": S3, "https": {"headers": {}}}, None, S3),
        ("s3", {"s3a": S3}, "http", S3),
        ("http", {"s3": S3, "https": {"headers": {}}}, "s3", {"headers": {}}),
        ("gs", {"s3": S3}, None, {}),
        ("s3", {}, None, {}),
    ],
)
def test_options_stay_with_their_store(name: str, options: dict, root: str | None, expected: dict) -> None:  # type: ignore[type-arg]
    assert options_for(name, options, root_scheme=root) == expected


def test_frozen_options_are_equal_when_the_options_are() -> None:
    class Session:
        __hash__ = None  # type: ignore[assignment]

    one = {"a": [1, {"b": {2, 3}}], "c": None}
    assert frozen(one) == frozen({"c": None, "a": (1, {"b": {3, 2}})})
    assert frozen({"a": 1}) != frozen({"a": True})
    session = Session()
    assert frozen(session) == frozen(session) != frozen(Session())
    hash(frozen({"s": session}))
