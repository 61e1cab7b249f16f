from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from index_samples import make_index, same

from lazyvid.index import local, node_files
from lazyvid.index.frame_index import FrameIndex


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(node_files.DIRECTORY_VARIABLE, str(tmp_path / "indexes"))
    local.clear()
    monkeypatch.setattr(node_files._this_process(), "warned", False)
    yield tmp_path / "indexes"
    local.clear()


def published(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.index"))


def test_what_is_published_is_loaded_as_views(folder: Path) -> None:
    index = make_index(500, segments=3)
    name = local.publish(index)
    assert name == index.content_hash()
    local.clear()
    loaded = local.load(name)
    assert loaded is not None
    assert same(loaded, index)
    assert local.load(name) is loaded
    for array in (loaded.timestamp, loaded.packets.offset, loaded.packets.key, loaded.hidden.pts):
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [f"{name}.index"]


def test_many_indexes_lie_in_one_file(folder: Path) -> None:
    indexes = [make_index(n, hidden=n % 3, seed=n) for n in range(20)]
    name = local.publish_many(indexes)
    assert len(published(folder)) == 1
    local.clear()
    for position in np.random.default_rng(0).permutation(20):
        loaded = local.load(name, position=int(position))
        assert loaded is not None
        assert same(loaded, indexes[position])
    with pytest.raises(IndexError):
        local.load(name, position=20)
    with pytest.raises(ValueError, match="one index or more"):
        local.publish_many([])


def test_an_unknown_name_is_none() -> None:
    assert local.load("0" * 40) is None


@pytest.mark.parametrize("keep", [0, 1, 39, 40, 41, 200, 1000, -41, -40, -1])
def test_a_truncated_file_is_none_and_never_a_crash(folder: Path, keep: int) -> None:
    name = local.publish(make_index())
    local.clear()
    path = published(folder)[0]
    path.write_bytes(path.read_bytes()[:keep])
    assert local.load(name) is None
    local.publish(make_index())
    local.clear()
    assert local.load(name) is not None


def test_a_flipped_bit_is_none_or_harmless(folder: Path) -> None:
    index = make_index()
    name = local.publish(index)
    whole = published(folder)[0].read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        (folder / f"{name}.index").write_bytes(damaged)
        local.clear()
        loaded = local.load(name)
        assert loaded is None or same(loaded, index)


def test_a_reader_keeps_what_was_evicted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_index(1000)
    name = local.publish(first)
    loaded = local.load(name)
    assert loaded is not None
    local.clear()
    size = published(folder)[0].stat().st_size
    monkeypatch.setenv(node_files.QUOTA_VARIABLE, str(size * 5 // 2))
    for seed in range(1, 4):
        local.publish(make_index(1000, seed=seed))
    assert sum(path.stat().st_size for path in published(folder)) <= size * 5 // 2
    assert not (folder / f"{name}.index").exists()
    assert same(loaded, first)
    assert local.load(name) is None


def test_what_was_used_longest_ago_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for seed in range(3):
        names.append(local.publish(make_index(1000, seed=seed)))
        os.utime(folder / f"{names[-1]}.index", ns=(seed * 10**9, seed * 10**9))
    local.clear()
    assert local.load(names[0]) is not None
    monkeypatch.setenv(node_files.QUOTA_VARIABLE, str(published(folder)[0].stat().st_size * 7 // 2))
    local.publish(make_index(1000, seed=9))
    assert [(folder / f"{name}.index").exists() for name in names] == [True, False, True]


@pytest.mark.parametrize("fault", ["no folder", "others may write", "a file", "a link", "too small"])
def test_an_unusable_folder_means_memory_and_one_warning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "no folder":
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv(node_files.DIRECTORY_VARIABLE, str(tmp_path / "file" / "indexes"))
    elif fault == "others may write":
        folder.mkdir()
        folder.chmod(0o777)
    elif fault == "a file":
        folder.write_bytes(b"")
    elif fault == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setenv(node_files.QUOTA_VARIABLE, "1000")
    indexes = [make_index(seed=seed) for seed in range(3)]
    with pytest.warns(UserWarning, match=node_files.DIRECTORY_VARIABLE) as heard:
        names = [local.publish(index) for index in indexes]
    assert len(heard) == 1
    for name, index in zip(names, indexes, strict=True):
        loaded = local.load(name)
        assert loaded is not None
        assert same(loaded, index)


def test_a_full_disk_means_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        name = local.publish(make_index())
    assert list(folder.iterdir()) == []
    assert local.load(name) is not None


def test_no_more_maps_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_files, "MOST_MAPS", 4)
    names = [local.publish(make_index(seed=seed)) for seed in range(8)]
    local.clear()
    elsewhere = len(node_files._this_process().maps)  # of indexes that other tests' videos still hold
    held = [local.load(name) for name in names]
    assert len(node_files._this_process().maps) <= max(4, elsewhere)
    for index, seed in zip(held, range(8), strict=True):
        assert index is not None
        assert same(index, make_index(seed=seed))


def test_litter_of_killed_writers_is_swept(folder: Path) -> None:
    local.publish(make_index())
    old, new = folder / ".tmp-old", folder / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    local.publish(make_index(seed=1))
    assert not old.exists()
    assert new.exists()


def _publish_and_load(seed: int) -> bool:
    index: FrameIndex = make_index(2000, seed=seed)
    name = local.publish(index)
    local.clear()
    loaded = local.load(name)
    return loaded is not None and same(loaded, index)


def test_eight_processes_publish_the_same(folder: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert pool.map(_publish_and_load, [7] * 16, chunksize=1) == [True] * 16
    assert len(list(folder.iterdir())) == 1


def test_a_fork_goes_on_with_what_its_parent_has(folder: Path) -> None:
    index = make_index()
    name = local.publish(index)
    assert local.load(name) is not None
    published(folder)[0].unlink()
    pid = os.fork()
    if pid == 0:
        loaded = local.load(name)
        os._exit(0 if loaded is not None and same(loaded, index) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_wrong_quota_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node_files.QUOTA_VARIABLE, "2 GB")
    with pytest.raises(ValueError, match=node_files.QUOTA_VARIABLE):
        local.publish(make_index())


def test_a_usable_folder_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        local.publish(make_index())
