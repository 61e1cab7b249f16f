"""What may be shown of URIs and storage options: secrets become `***` before they reach a repr or a message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"

_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|signature|auth|cookie|private|connection_string|sas|jwt|hmac|policy"
    r"|username|(^|[_\-])(key|sig|pwd|pw)($|[_\-])|keyid|key_?file|apikey|accountkey",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*://)[^/?#]*@")
_LONG = 20  # a longer value in a query string is more likely a signature under a name of its own than a parameter


def is_secret_name(name: str) -> bool:
    """Whether an option, header or query parameter of this name holds something that must not be shown."""
    return bool(_SECRET_NAME.search(name))


def display_uri(uri: object) -> str:
    """A URI as it may be shown: without passwords, signatures and tokens.

    Args:
        uri: a URI or path; anything else is turned into text first.

    Returns:
        The same text with user information and the secret-looking values of the query string replaced by `***`.
    """
    text = _USERINFO.sub(rf"\1{MASK}@", str(uri))
    path, mark, query = text.partition("?")
    if not mark or "://" not in path:
        return text
    return path + mark + "&".join(_masked_parameter(parameter) for parameter in query.split("&"))


def _masked_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    return f"{name}{equals}{MASK}" if value and (is_secret_name(name) or len(value) >= _LONG) else parameter


def mask_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Storage options as they may be shown, nested mappings included.

    Args:
        options: options for fsspec.

    Returns:
        A copy with the values under secret-looking names replaced, and objects replaced by their type's name.
    """
    return {str(name): MASK if is_secret_name(str(name)) else _shown(value) for name, value in options.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return mask_options(value)
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    if isinstance(value, str):
        return display_uri(value)
    # The repr of a session or of aiohttp.BasicAuth tells its password.
    return value if value is None or isinstance(value, (bool, int, float)) else f"<{type(value).__name__}>"


def secret_values(value: Any, *, named_secret: bool = False) -> Iterator[str]:
    """Every text in (nested) options that stands under a secret-looking name."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from secret_values(item, named_secret=named_secret or is_secret_name(str(name)))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from secret_values(item, named_secret=named_secret)
    elif isinstance(value, str) and named_secret and value:
        yield value


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """`text`, which a server or a library wrote, without the URLs' signatures and without any of `secrets`."""
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]+", lambda match: display_uri(match.group()), text)
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text
