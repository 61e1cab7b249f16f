from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.errors import ObjectChangedError, StoreUnavailableError
from lazyvid.index.sparse import BytesFile, SparseBytes, WindowedBytes, run_with_file
from lazyvid.storage import ObjectStore

SIZE = 60
CONTENT = bytes(range(1, SIZE + 1))
RANGES = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted)


@given(known=st.lists(RANGES), asked=RANGES)
def test_sparse_bytes_read_what_was_added_and_zeros_elsewhere(known: list[list[int]], asked: list[int]) -> None:
    sparse = SparseBytes(SIZE)
    model = bytearray(SIZE)
    is_known = [False] * SIZE
    for start, stop in known:
        sparse.add(start, CONTENT[start:stop])
        model[start:stop] = CONTENT[start:stop]
        is_known[start:stop] = [True] * (stop - start)
    start, stop = asked
    assert sparse.read(start, stop) == bytes(model[start:stop])
    assert sparse.read(start, SIZE + 10) == bytes(model[start:])
    missing = {i for first, last in sparse.missing(start, stop) for i in range(first, last)}
    assert missing == {i for i in range(start, stop) if not is_known[i]}
    assert sparse.known == sum(is_known)
    assert sparse.known_until(start) == next((i for i in range(start, SIZE) if not is_known[i]), SIZE)


@given(reads=st.lists(RANGES), window=st.integers(1, SIZE + 5))
def test_windows_give_the_objects_bytes(
    reads: list[list[int]], window: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "windowed"
    path.write_bytes(CONTENT)
    store = ObjectStore()
    windowed = WindowedBytes(store, store.head(path), window_bytes=window)
    for start, stop in reads:
        assert windowed.read(start, stop) == CONTENT[start:stop]


def test_a_file_moves_like_a_file() -> None:
    sparse = SparseBytes(SIZE)
    sparse.add(0, CONTENT)
    file, model = BytesFile(sparse), io.BytesIO(CONTENT)
    for offset, whence, count in [(5, 0, 10), (-3, 1, 4), (-7, 2, 100), (0, 2, 5), (SIZE + 9, 0, 3)]:
        assert file.seek(offset, whence) == model.seek(offset, whence) == file.tell()
        assert file.read(count) == model.read(count)


class _Broken:
    size = SIZE

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, start: int, stop: int) -> bytes:
        raise self.error


def test_what_a_source_raises_is_what_the_caller_gets_whatever_its_reader_makes_of_it() -> None:
    def work(file: BytesFile) -> None:
        if not file.read(10):
            raise ValueError("invalid data found when processing input")

    with pytest.raises(StoreUnavailableError, match="gone"):
        run_with_file(_Broken(StoreUnavailableError("gone")), work)


def test_a_reader_that_takes_a_failure_for_the_end_does_not_hide_it() -> None:
    with pytest.raises(StoreUnavailableError, match="gone"):
        run_with_file(_Broken(StoreUnavailableError("gone")), lambda file: file.read(10))


def test_an_object_replaced_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(CONTENT)
    store = ObjectStore()
    windowed = WindowedBytes(store, store.head(path), window_bytes=10)
    assert windowed.read(0, 5) == CONTENT[:5]
    path.write_bytes(CONTENT[::-1] + b"more")
    with pytest.raises(ObjectChangedError):
        windowed.read(30, 40)


def test_ctrl_c_stays_itself_while_ffmpeg_reads() -> None:
    """A signal that arrives while the file is read must come out as KeyboardInterrupt, soon, and end the reader."""
    reading = threading.Event()
    ended = threading.Event()

    class Endless:
        size = 1 << 40

        def read(self, start: int, stop: int) -> bytes:
            reading.set()
            return bytes(stop - start)

    def work(file: BytesFile) -> None:
        while file.read(1000):
            pass
        ended.set()

    def interrupt() -> None:
        reading.wait(240)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        run_with_file(Endless(), work)
    killer.join()
    assert ended.wait(240)
