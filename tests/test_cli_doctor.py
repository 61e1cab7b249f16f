"""`lazyvid doctor`: each thing that can be wrong is named in a line of its own, and no secret is."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from test_cli import Ended, lazyvid

from lazyvid.cli import checkup, console
from lazyvid.index import arrow, build_index
from lazyvid.testing import Fault, FaultServer, truncate, write_video


def marks(text: str) -> dict[str, str]:
    """What is said of each thing: "ok", "note" or "bad"."""
    found = {}
    for line in text.splitlines():
        for mark in ("ok", "note", "bad"):
            name, between, _ = line.partition(f"  {mark}  ")
            if between and name.strip() and name[:1] != " ":
                found[name.strip()] = mark
    return found


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = write_video(tmp_path / "clip.mp4", frames=10, gop=5, width=64, height=48)
    build_index(path).save(path)
    return path


def test_a_sound_video_on_this_machine(video: Path) -> None:
    ended = lazyvid("doctor", video)
    found = marks(ended.out)
    assert {found[name] for name in ("store", "ranged read", "sidecar", "video", "decoding")} == {"ok"}
    assert {"versions", "torchcodec", "encoders", "shared memory", "open files", "temporary files"} <= found.keys()
    assert ended.code == 0
    assert "10 frames" in ended.out
    assert len(ended.out.splitlines()) < 24, "one screen"


def test_this_machine_alone() -> None:
    found = marks(lazyvid("doctor").out)
    assert "versions" in found
    assert "store" not in found


def test_what_is_wrong_with_a_video_is_said(video: Path) -> None:
    shutil.rmtree(f"{video}.lance")
    assert marks(lazyvid("doctor", video).out)["sidecar"] == "note"
    other = write_video(video.with_name("other.mp4"), frames=7, gop=5, width=64, height=48)
    build_index(other).save(other)
    shutil.copytree(f"{other}.lance", f"{video}.lance")
    ended = lazyvid("doctor", video)
    assert (ended.code, marks(ended.out)["sidecar"], marks(ended.out)["video"]) == (1, "bad", "ok")
    cut = truncate(video, video.with_name("cut.mp4"), at=-500)
    ended = lazyvid("doctor", cut)
    assert (ended.code, marks(ended.out)["video"]) == (1, "bad")
    assert "TruncatedVideoError" in ended.out
    ended = lazyvid("doctor", video.with_name("none.mp4"))
    assert (ended.code, marks(ended.out)["store"]) == (1, "bad")


def test_what_a_store_answers_is_said_without_its_secrets(fault_server: FaultServer) -> None:
    fault_server.script(default=Fault.status(403))
    options = [
        "--option",
        "key=AKIA",
        "--option",
        "secret=the-very-secret",
        "--endpoint-url",
        fault_server.endpoint_url,
    ]
    ended = lazyvid("doctor", fault_server.s3_url("clip.mp4"), *options)
    assert (ended.code, marks(ended.out)["store"]) == (1, "bad")
    assert "AccessDeniedError" in ended.out
    assert "the-very-secret" not in ended.out + ended.err


STORE = ("--option", "key=AKIA", "--option", "secret=the-very-secret", "--deadline", "1")


def check_screen(ended: Ended) -> None:
    """What is wrong, on one screen, with something to do about it, and no secret."""
    assert ended.code == 1
    assert len(ended.out.splitlines()) <= 40, "one screen"
    table = [line for line in ended.out.splitlines() if not line.startswith("/")]  # a heading is a path, however long
    assert max(map(len, table)) <= 80
    assert "the-very-secret" not in ended.out + ended.err
    said = " ".join(ended.out.split())
    assert any(word in said for word in ("Check ", "install ", "Index ", "lazyvid index", "Copy ")), said


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setattr(console, "_WIDTH_WITHOUT_TERMINAL", 80)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("scheme", "muted"),
    [
        ("s3", {}),
        ("http", {"ranged": True}),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("http", {}), ("s3", {"method": "GET"}))),
    ],
)
def test_a_server_that_is_mute_is_given_up_in_time(
    scheme: str, muted: dict[str, Any], video: Path, fault_server: FaultServer
) -> None:
    fault_server.objects["clip.mp4"] = video.read_bytes()
    fault_server.script(default="mute", **muted)
    uri = fault_server.s3_url("clip.mp4") if scheme == "s3" else fault_server.url("clip.mp4")
    begun = time.monotonic()
    ended = lazyvid("doctor", uri, *STORE, "--endpoint-url", fault_server.endpoint_url)
    assert time.monotonic() - begun < 60, "one deadline, and what this machine takes to be looked at"
    check_screen(ended)
    assert "StoreTimeoutError" in ended.out
    found = marks(ended.out)
    silent = "ranged read" if muted else "store"
    assert found[silent] == "bad"
    assert "video" not in found, "no further look that waits as long"


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("uri", ["s3://bucket/none.mp4", "s3://no-such-bucket/none.mp4", "http"])
def test_a_bucket_or_object_that_is_not_there(uri: str, fault_server: FaultServer) -> None:
    uri = fault_server.url("none.mp4") if uri == "http" else uri
    ended = lazyvid("doctor", uri, *STORE, "--endpoint-url", fault_server.endpoint_url)
    check_screen(ended)
    assert marks(ended.out)["store"] == "bad"
    said = " ".join(ended.out.split())
    assert "ObjectNotFoundError" in said
    assert "Check the bucket and the key" in said


@pytest.mark.usefixtures("narrow")
def test_a_sidecar_of_a_later_version(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(arrow, "FORMAT_VERSION", arrow.FORMAT_VERSION + 1)
        build_index(video).save(video)
    ended = lazyvid("doctor", video)
    check_screen(ended)
    found = marks(ended.out)
    assert (found["sidecar"], found["video"], found["decoding"]) == ("bad", "ok", "ok")
    said = " ".join(ended.out.split())
    assert "found version 2" in said
    assert "install a newer lazyvid" in said


@pytest.mark.usefixtures("narrow")
def test_a_server_that_ignores_ranges(video: Path, fault_server: FaultServer) -> None:
    fault_server.objects["clip.mp4"] = video.read_bytes()
    fault_server.script(default="ignore_range")
    ended = lazyvid("doctor", fault_server.url("clip.mp4"), *STORE)
    check_screen(ended)
    assert marks(ended.out)["ranged read"] == "bad"
    assert "ignores the Range header" in " ".join(ended.out.split())


def test_little_shared_memory_and_few_open_files_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(checkup.resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(checkup, "encoder_report", list)
    found = {finding.name: finding.level for finding in checkup.look_at_machine()}
    assert found["shared memory"] == found["open files"] == found["temporary files"] == "note"
    assert found["encoders"] == "bad"
