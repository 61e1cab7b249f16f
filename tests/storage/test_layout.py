from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.errors import UnsafeKeyError
from lazyvid.storage import (
    basename,
    is_local,
    join_uri,
    local_path,
    normalise,
    parent_uri,
    relative_uri,
    scheme,
    sidecar_uri,
)

NAMES = st.text(
    st.characters(blacklist_characters="/\0?#", blacklist_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
ROOTS = st.sampled_from(["/", "s3://bucket/", "https://host:8080/", "memory://m/"])


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/v.mp4", "/a/v.mp4.lance"),
        ("file:///a/my%20v.mp4", "/a/my v.mp4.lance"),
        ("s3://b/k/v.mp4", "s3://b/k/v.mp4.lance"),
        ("S3://b/k/v.mp4", "s3://b/k/v.mp4.lance"),
        ("s3://b/what?.mp4", "s3://b/what?.mp4.lance"),
        ("https://h/v.mp4?X-Amz-Signature=abc", "https://h/v.mp4.lance?X-Amz-Signature=abc"),
    ],
)
def test_sidecar_lies_beside_the_video(uri: str, expected: str) -> None:
    assert sidecar_uri(uri) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b/v.mp4", "/idx/a/b/v.mp4.lance"),
        ("s3://bucket/k/v.mp4", "/idx/bucket/k/v.mp4.lance"),
        ("https://user:secret@h:81/k/v.mp4?sig=abc", "/idx/h:81/k/v.mp4.lance"),
        ("/a/../../etc/v.mp4", "/idx/etc/v.mp4.lance"),
        ("s3://bucket/../../v.mp4", "/idx/bucket/%2E%2E/%2E%2E/v.mp4.lance"),
        ("s3://bucket//v.mp4", "/idx/bucket/%2F/v.mp4.lance"),
    ],
)
def test_sidecar_under_an_index_root(uri: str, expected: str) -> None:
    assert sidecar_uri(uri, index_root="/idx") == expected
    assert sidecar_uri(uri, index_root=Path("/idx/")) == expected
    assert sidecar_uri(uri, index_root="s3://other/idx") == "s3://other" + expected


def test_a_relative_local_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalise("x/v.mp4") == str(tmp_path / "x/v.mp4")
    assert normalise(PurePosixPath("v.mp4")) == str(tmp_path / "v.mp4")
    assert normalise("~/v.mp4") == str(tmp_path / "~/v.mp4")


def test_a_path_survives_its_own_file_url() -> None:
    path = "/data/50% off/ä #1?.mp4"
    assert normalise(Path(path).as_uri()) == path
    assert local_path(Path(path).as_uri()) == path


@pytest.mark.parametrize("bad", ["", "/a\0b", "s3://b/a\0b", "file://otherhost/a", "file://"])
def test_uris_that_mean_nothing_are_refused(bad: str) -> None:
    with pytest.raises(UnsafeKeyError):
        normalise(bad)


def test_bytes_paths_are_refused() -> None:
    with pytest.raises(TypeError, match="str"):
        normalise(b"/a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "name", "local", "base"),
    [
        ("/a/v.mp4", "file", True, "v.mp4"),
        ("file:///a/v.mp4", "file", True, "v.mp4"),
        ("local:///a/v.mp4", "file", True, "v.mp4"),
        ("S3://b/a/v.mp4", "s3", False, "v.mp4"),
        ("https://h/a/v.mp4?x=/y", "https", False, "v.mp4"),
        ("s3://b/a/v.mp4.lance/", "s3", False, "v.mp4.lance"),
        ("s3://b", "s3", False, ""),
        ("a:b/v.mp4", "file", True, "v.mp4"),
    ],
)
def test_parts_of_a_uri(uri: str, name: str, local: bool, base: str) -> None:
    assert scheme(uri) == name
    assert is_local(uri) is local
    assert basename(uri) == base


def test_local_path_refuses_a_url() -> None:
    with pytest.raises(UnsafeKeyError, match="s3"):
        local_path("s3://b/k")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/v.mp4", "/a"),
        ("/v.mp4", "/"),
        ("s3://b/v.mp4", "s3://b"),
        ("s3://b/d/v.mp4", "s3://b/d"),
        ("https://h/d/v.mp4?s=1", "https://h/d?s=1"),
    ],
)
def test_parent(uri: str, expected: str) -> None:
    assert parent_uri(uri) == expected


@given(ROOTS, PATHS, PATHS)
def test_a_relative_uri_leads_back(root: str, path: str, folder: str) -> None:
    uri, base = root + path, root + folder
    relative = relative_uri(uri, base=base)
    assert not relative.startswith("/")
    if "?" not in path:
        assert join_uri(base, relative) == uri


@given(PATHS, PATHS)
def test_a_moved_folder_keeps_its_relative_uris(folder: str, path: str) -> None:
    here, there = f"/here/{folder}", f"s3://bucket/there/{folder}"
    assert join_uri(there, relative_uri(f"{here}/{path}", base=here)) == f"{there}/{path}"


def test_keys_with_empty_parts_survive() -> None:
    for uri in ("s3://b/d//x.mp4", "s3://b/d/a://x.mp4", "s3://b//x.mp4"):
        assert join_uri("s3://b/d", relative_uri(uri, base="s3://b/d")) == uri


def test_another_store_stays_absolute() -> None:
    for base in ("s3://b/d", "/d", "https://h/d"):
        uri = "s3://other/d/v.mp4"
        assert relative_uri(uri, base=base) == uri
        assert join_uri(base, uri) == uri


def test_no_signature_is_written_into_a_relative_uri() -> None:
    relative = relative_uri("https://h/d/b.mp4?X-Amz-Signature=abc", base="https://h/d?X-Amz-Signature=def")
    assert relative == "b.mp4"
    assert relative_uri("https://h/b.mp4?sig=abc", base="s3://b") == "https://h/b.mp4"
    assert join_uri("https://h/d?sig=def", relative) == "https://h/d/b.mp4?sig=def"


def test_climbing_out_of_a_store_is_refused() -> None:
    assert join_uri("s3://b/a/c", "../../x") == "s3://b/x"
    for bad in ("../../../x", "a/../../../../x", "x\0"):
        with pytest.raises(UnsafeKeyError):
            join_uri("s3://b/a/c", bad)


def test_sidecar_of_a_path_like() -> None:
    assert sidecar_uri(Path("/a/v.mp4")) == os.fspath(Path("/a/v.mp4")) + ".lance"
