from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.storage.glob import matcher


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.mp4", ["a.mp4", ".mp4", ".hidden.mp4"], ["a/b.mp4", "a.mp4.lance"]),
        ("**/*.mp4", ["a.mp4", "x/a.mp4", "x/y/a.mp4"], ["a.mkv", "x.mp4/y"]),
        ("**", ["a", "a/b"], []),
        ("cam?/*.mp4", ["cam1/a.mp4"], ["cam12/a.mp4", "cam/a.mp4", "cam//a.mp4"]),
        ("run-[0-9]/**/v.mp4", ["run-1/v.mp4", "run-1/a/b/v.mp4"], ["run-a/v.mp4"]),
        ("[!a].mp4", ["b.mp4"], ["a.mp4", "/.mp4"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a"]),
        ("{a,b}.mp4", ["{a,b}.mp4"], ["a.mp4"]),
        ("a+(b).mp4", ["a+(b).mp4"], ["aab.mp4"]),
        ("[x.mp4", ["[x.mp4"], ["x.mp4"]),
        ("[]x].mp4", ["].mp4", "x.mp4"], ["y.mp4"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = matcher(pattern)
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


@given(st.text("ab*?[].-!", min_size=1, max_size=8).filter(lambda p: "**" not in p), st.text("ab[].-!", max_size=6))
def test_within_one_folder_it_is_fnmatch(pattern: str, name: str) -> None:
    assert matcher(pattern)(name) == fnmatch.fnmatchcase(name, pattern)


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="glob"):
        matcher("")
