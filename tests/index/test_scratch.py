from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from lazyvid.index import scratch
from lazyvid.index.scratch import scratch_folder


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_empty_private_and_gone_afterwards(own_tmp: Path) -> None:
    with scratch_folder() as one, scratch_folder() as other:
        assert one != other
        assert list(one.iterdir()) == []
        assert one.stat().st_mode & 0o777 == one.parent.stat().st_mode & 0o777 == 0o700
        (one / "data").mkdir()
    assert list(own_tmp.rglob("*")) == [one.parent]


def _wait_inside(sending: Connection) -> None:
    with scratch_folder() as folder:
        (folder / "data").write_bytes(b"half")
        sending.send(folder)
        time.sleep(600)


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_nothing_else(
    own_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe()
    processes = [context.Process(target=_wait_inside, args=(sending,)) for _ in range(2)]
    folders = []
    for process in processes:
        process.start()
        folders.append(receiving.recv())
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    with scratch_folder():
        assert all(folder.exists() for folder in folders), "too young to be judged"
    monkeypatch.setattr(scratch, "_YOUNG_S", 0.0)
    with scratch_folder():
        assert [folder.exists() for folder in folders] == [False, True]
    processes[1].kill()
    processes[1].join()


def test_a_temporary_folder_that_was_removed_is_made_again(own_tmp: Path) -> None:
    own_tmp.rmdir()
    with scratch_folder() as folder:
        assert list(folder.iterdir()) == []


def test_a_place_that_another_user_laid_is_not_used(own_tmp: Path) -> None:
    elsewhere = own_tmp / "elsewhere"
    elsewhere.mkdir()
    (own_tmp / f"lazyvid-scratch-{os.getuid()}").symlink_to(elsewhere)
    with scratch_folder() as folder:
        (folder / "data").write_bytes(b"x")
        assert list(elsewhere.iterdir()) == []
    assert not folder.exists()
