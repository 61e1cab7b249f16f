"""What lies in /dev/shm: whether it is enough, and whose remains go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch.multiprocessing

from lazyvid import ClipLoader
from lazyvid.training import shared_memory


def test_a_small_shared_memory_is_warned_about_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=10))
    loader = ClipLoader(list(range(8)), batch_size=4, num_workers=1, multiprocessing_context="fork")
    for _ in range(2):
        list(loader)
    loader.close()
    assert sum("shared memory" in record.getMessage() for record in caplog.records) == 1


def test_only_the_remains_of_these_processes_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    names = ["torch_12_345_0", "torch_12_99_17", "torch_1_12_0", "torch_123_4_5", "sem.torch_12_3_4", "torch_12"]
    for name in names:
        (tmp_path / name).touch()
    shared_memory.remove_left_by([12, 7])
    assert sorted(os.listdir(tmp_path)) == sorted(names[2:])


def test_names_in_use_are_left_to_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    monkeypatch.setattr(torch.multiprocessing, "get_sharing_strategy", lambda: "file_system")
    (tmp_path / "torch_12_345_0").touch()
    shared_memory.remove_left_by([12])
    assert os.listdir(tmp_path) == ["torch_12_345_0"]


def test_no_folder_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path / "none")
    shared_memory.warn_if_too_small(1 << 60, in_flight=3)
    shared_memory.remove_left_by([12])
