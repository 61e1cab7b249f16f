"""`lazyvid doctor`: each thing that can be wrong is named in a line of its own, and no secret is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_cli import lazyvid

from lazyvid.cli import checkup
from lazyvid.index import build_index
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


def test_little_shared_memory_and_few_open_files_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(checkup.resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(checkup, "encoder_report", list)
    found = {finding.name: finding.level for finding in checkup.look_at_machine()}
    assert found["shared memory"] == found["open files"] == found["temporary files"] == "note"
    assert found["encoders"] == "bad"
