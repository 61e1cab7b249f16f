from __future__ import annotations

import pytest

from lazyvid.storage import display_uri
from lazyvid.storage.masking import mask_options, scrub, secret_values


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b.mp4", "/a/b.mp4"),
        ("/a/b?key=c", "/a/b?key=c"),
        ("s3://bucket/k", "s3://bucket/k"),
        ("https://user:pw@h/k", "https://***@h/k"),
        ("https://h/k?v=3&page=2", "https://h/k?v=3&page=2"),
        ("https://h/k?X-Amz-Signature=abc&v=3", "https://h/k?X-Amz-Signature=***&v=3"),
        (
            "https://h/k?X-Amz-Credential=a&X-Amz-Security-Token=b",
            "https://h/k?X-Amz-Credential=***&X-Amz-Security-Token=***",
        ),
        ("https://h/k?sv=1&sig=abc", "https://h/k?sv=1&sig=***"),
        ("https://h/k?AWSAccessKeyId=a&Signature=b", "https://h/k?AWSAccessKeyId=***&Signature=***"),
        ("https://h/k?unknown=0123456789abcdef0123456789", "https://h/k?unknown=***"),
    ],
)
def test_a_uri_shows_no_secret(uri: str, expected: str) -> None:
    assert display_uri(uri) == expected


def test_options_show_no_secret() -> None:
    class Auth:
        def __repr__(self) -> str:
            return "Auth(HIDDEN)"

    names = ["key", "secret", "token", "password", "username", "account_key", "sas_token", "connection_string",
             "aws_secret_access_key", "Authorization", "cookie", "api_key"]  # fmt: skip
    options = {
        **dict.fromkeys(names, "HIDDEN"),
        "client_kwargs": {
            "endpoint_url": "http://u:HIDDEN@h",
            "aws_session_token": "HIDDEN",
            "deep": [{"secret": "HIDDEN"}],
        },
        "session": Auth(),
        "anon": False,
        "max": 3,
        "profile": "robots",
    }
    shown = mask_options(options)
    assert "HIDDEN" not in repr(shown)
    assert (shown["anon"], shown["max"], shown["profile"]) == (False, 3, "robots")
    assert shown["client_kwargs"]["endpoint_url"] == "http://***@h"


def test_secrets_are_found_where_they_are_nested() -> None:
    options = {"client_kwargs": {"headers": [{"Authorization": "A"}]}, "secret": {"x": "B"}, "profile": "C"}
    assert sorted(secret_values(options)) == ["A", "B"]


def test_foreign_text_is_scrubbed() -> None:
    text = "cannot connect to 'https://u:p@h/k?sig=abc' with ABCDEF"
    assert scrub(text, ("ABCDEF",)) == "cannot connect to 'https://***@h/k?sig=***' with ***"
