"""Datasets for the tests of the LeRobot room, and a cache of their own for each test process."""

from __future__ import annotations

from pathlib import Path

import pytest
from lerobot_independent import Plan, write_v3, write_v21

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "lerobot" / "v3_lerobot_0.6.1"


@pytest.fixture(scope="session")
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lazyvid-cache")


@pytest.fixture(autouse=True)
def _own_cache(_cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYVID_CACHE_DIR", str(_cache_folder))


@pytest.fixture(scope="session")
def shared_dataset() -> Path:
    """A dataset that LeRobot 0.6.1 wrote; skipped where it is not there."""
    if not _SHARED.is_dir():
        pytest.skip("no folder ../shared/data/lerobot beside the repository")
    return _SHARED


@pytest.fixture(scope="session")
def plan() -> Plan:
    """What the written datasets hold."""
    return Plan()


@pytest.fixture(scope="session")
def v3(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> Path:
    """A v3.0 dataset of 2 cameras, 3 episodes, 2 video files a camera; do not write into it."""
    return write_v3(tmp_path_factory.mktemp("lerobot") / "v3", plan)


@pytest.fixture(scope="session")
def v21(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> Path:
    """The same as v2.1."""
    return write_v21(tmp_path_factory.mktemp("lerobot") / "v21", plan)
