"""Reads that were begun: the bytes of `read_many`, read ahead also where a file lies on this machine's disk."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.errors import ObjectChangedError, ShortReadError
from lazyvid.storage import ObjectStore, RangeRequest
from lazyvid.testing import S3Server

DATA = bytes(range(256)) * 4096
PAGE = 4096


def _is_cached(descriptor: int, at: int) -> bool:
    try:
        return bool(os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT))
    except BlockingIOError:
        return False


def test_the_system_reads_a_local_file_ahead(tmp_path: Path) -> None:
    if not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("this system does not say what it holds in memory")
    path = tmp_path / "file"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        places = [0, 300 * PAGE // 2, len(DATA) - 1]
        try:
            if any(_is_cached(descriptor, at) for at in places):
                pytest.skip("this file system keeps files in memory")
        except OSError as error:
            pytest.skip(f"this file system does not say what it holds in memory: {error}")
        pending = ObjectStore().begin_many([RangeRequest(path, [(0, len(DATA))])])
        end = time.monotonic() + 60
        while not all(_is_cached(descriptor, at) for at in places):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert pending.result() == [[DATA]]
    finally:
        os.close(descriptor)


@given(ranges=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(sorted).map(tuple), max_size=6))
def test_reads_end_in_any_order(tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "pending"
    path.write_bytes(DATA)
    store = ObjectStore()
    pending = [store.begin_many([RangeRequest(path, [r]), RangeRequest(path, ranges)]) for r in ranges]
    for (start, stop), read in zip(ranges[::-1], pending[::-1], strict=True):
        assert read.result() == [[DATA[start:stop]], [DATA[a:b] for a, b in ranges]]


def test_local_and_remote_together(tmp_path: Path, s3_server: S3Server, s3_prefix: str) -> None:
    store = ObjectStore(storage_options=s3_server.storage_options)
    (tmp_path / "file").write_bytes(DATA)
    pin = store.write(f"{s3_prefix}/object", DATA[::-1])
    requests = [
        RangeRequest(f"{s3_prefix}/object", [(10, 20), (500_000, 500_001), (5, 5)], pin),
        RangeRequest(tmp_path / "file", [(7, 8)]),
    ]
    pending = store.begin_many(requests)
    assert pending.result() == [[DATA[::-1][10:20], DATA[::-1][500_000:500_001], b""], [DATA[7:8]]]
    store.write(f"{s3_prefix}/object", DATA)
    with pytest.raises(ObjectChangedError):
        store.begin_many(requests).result()
    late = store.begin_many([RangeRequest(tmp_path / "file", [(0, 2 * len(DATA))])])
    with pytest.raises(ShortReadError):
        late.result()


def test_it_belongs_to_its_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    pending = ObjectStore().begin_many([RangeRequest(tmp_path / "file", [(7, 8)])])
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(pending)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pending.cancel()
            pending.result()
        except RuntimeError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pending.result() == [[DATA[7:8]]]
