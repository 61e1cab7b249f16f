"""Glob patterns over paths with `/`: `*` and `?` stay within a folder, `**` crosses folders; hidden names match too."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=64)
def matcher(pattern: str) -> Callable[[str], bool]:
    """A test whether a relative path matches.

    Args:
        pattern: a glob such as `*.mp4`, `**/*.mp4` or `run-[0-9]/cam?.mp4`; `{a,b}` is taken literally.

    Returns:
        A function of the path.

    Raises:
        ValueError: if the pattern is empty.
    """
    if not pattern:
        raise ValueError("Invalid glob '': expected a pattern such as '*.mp4' or '**/*.mp4'.")
    expression = re.compile("".join(_translated(pattern)), re.DOTALL)
    return lambda path: expression.fullmatch(path) is not None


_TOKEN = re.compile(r"(?:(?<=/)|^)\*\*/|\*+|\?|\[(?:!.|[^!])[^\]]*\]|.", re.DOTALL)


def _translated(pattern: str) -> list[str]:
    """The pieces of the regular expression."""
    pieces = []
    for token in _TOKEN.findall(pattern):
        if token == "**/":
            pieces.append("(?:[^/]+/)*")
        elif token.startswith("**"):
            pieces.append(".*")
        elif token == "*":
            pieces.append("[^/]*")
        elif token == "?":
            pieces.append("[^/]")
        elif len(token) > 2 and token.startswith("["):
            pieces.append("(?!/)" + fnmatch.translate(token)[len("(?s:") : -len(r")\Z")])
        else:
            pieces.append(re.escape(token))
    return pieces
