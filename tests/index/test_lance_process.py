from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from index_samples import make_index, same
from torch.utils.data import DataLoader, Dataset

from lazyvid.index import lance_process
from lazyvid.index.sidecar import read_sidecar, write_sidecar
from lazyvid.storage import ObjectStore

INDEX = make_index()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video's path whose sidecar was written and read here: this process has used Lance."""
    write_sidecar(INDEX, tmp_path / "v.mp4")
    assert reads(tmp_path / "v.mp4")
    return tmp_path / "v.mp4"


def reads(video: Path) -> bool:
    found: Any = read_sidecar(video, store=ObjectStore())
    return same(found, INDEX)


def read_x(folder: Path) -> pa.Table:
    return lance_process.read_dataset(folder / "x", columns=["a"], max_rows=100, trusted=False)


def in_fork(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does `work`: 0 when it gave something true."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 3)
        except BaseException:
            traceback.print_exc()
            os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_importing_lazyvid_imports_no_lance() -> None:
    program = "import lazyvid, lazyvid.index.opening, sys; sys.exit('lance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_forked_children_read_and_write_after_their_parent_did(video: Path) -> None:
    assert lance_process.safe_in_process()
    for _ in range(10):
        assert in_fork(lambda: not lance_process.safe_in_process() and reads(video)) == 0
    for number in range(3):
        other = video.with_name(f"{number}.mp4")
        assert in_fork(lambda other=other: write_sidecar(INDEX, other) and reads(other)) == 0  # type: ignore[misc]
    assert reads(video)


def test_children_of_multiprocessing_read_too(video: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(reads, [video] * 20) == [True] * 20


def test_a_grandchild_reads_too(video: Path) -> None:
    assert in_fork(lambda: reads(video) and in_fork(lambda: reads(video)) == 0) == 0


class Sidecars(Dataset[bool]):
    """Reads a sidecar for each sample."""

    def __init__(self, video: Path) -> None:
        self.video = video

    def __len__(self) -> int:
        return 8

    def __getitem__(self, position: int) -> bool:
        return reads(self.video)


def test_workers_of_a_data_loader_read_too(video: Path) -> None:
    loader = DataLoader(Sidecars(video), num_workers=2, multiprocessing_context="fork", batch_size=2, timeout=240)
    for _ in range(2):
        assert all(bool(batch.all()) for batch in loader)


def test_a_child_whose_parent_never_used_lance_reads_in_process(video: Path) -> None:
    program = f"""
import os, sys
from pathlib import Path
from lazyvid.index.sidecar import read_sidecar
from lazyvid.index import lance_process
from lazyvid.storage import ObjectStore
pid = os.fork()
if pid == 0:
    ok = lance_process.safe_in_process() and len(read_sidecar({str(video)!r}, store=ObjectStore())) == 300
    os._exit(0 if ok and 'lance' in sys.modules and lance_process.safe_in_process() else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_forks_are_quiet_only_where_we_imported_lance() -> None:
    program = """
import os, sys, tempfile, warnings
if sys.argv[1] == "user":
    import lance
from lazyvid.index import lance_process
import pyarrow as pa
from pathlib import Path
with tempfile.TemporaryDirectory() as folder:
    lance_process.write_dataset(pa.table({"a": [1]}), Path(folder) / "x")
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    warnings.warn("still heard")
print(sum("fork-safe" in str(w.message) for w in heard), sum("still" in str(w.message) for w in heard))
"""
    for who, expected in (("user", "1 1"), ("lazyvid", "0 1")):
        done = subprocess.run([sys.executable, "-c", program, who], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_the_helper_is_started_again_when_it_was_killed(tmp_path: Path) -> None:
    lance_process.write_dataset(pa.table({"a": [1, 2]}), tmp_path / "x")
    for _ in range(3):
        assert read_x(tmp_path).num_rows == 2
        helper = lance_process._this_process().helper
        assert helper is not None
        os.kill(helper.process.pid, signal.SIGKILL)
        helper.process.wait()


@pytest.mark.parametrize("trusted", [True, False])
def test_only_the_wanted_part_is_read(tmp_path: Path, trusted: bool) -> None:
    lance_process.write_dataset(pa.table({"a": range(50), "b": range(50)}), tmp_path / "x")
    for columns, names in ((["c", "b"], ["b"]), (["c"], ["a", "b"])):
        table = lance_process.read_dataset(tmp_path / "x", columns=columns, max_rows=20, trusted=trusted)
        assert table.column_names == names
        assert table.num_rows == (21 if "b" in columns else 0)


def test_a_crash_of_the_helper_is_an_error_of_what_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "helper.py"
    script.write_text("import os, sys; sys.stdin.buffer.read(16); os.abort()")
    monkeypatch.setattr(lance_process.lance_helper, "__file__", str(script))
    lance_process._this_process().end()
    with pytest.raises(lance_process.LanceError, match="SIGABRT"):
        read_x(tmp_path)


def test_a_helper_that_does_not_start_or_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "helper.py"
    script.write_text("import sys; sys.exit(1)")
    monkeypatch.setattr(lance_process.lance_helper, "__file__", str(script))
    lance_process._this_process().end()
    with pytest.raises(lance_process.LanceUnavailableError, match="code 1"):
        read_x(tmp_path)
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(lance_process, "DEADLINE_S", 0.5)
    with pytest.raises(lance_process.LanceUnavailableError, match="no answer"):
        read_x(tmp_path)
    assert lance_process._this_process().helper is None


def test_the_helper_ends_with_its_process(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from lazyvid.index import lance_process
import pyarrow as pa
lance_process.write_dataset(pa.table({{"a": [1]}}), Path({str(tmp_path)!r}) / "x")
lance_process.read_dataset(Path({str(tmp_path)!r}) / "x", columns=["a"], max_rows=1, trusted=False)
print(lance_process._this_process().helper.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 120
    while _runs(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_forking_warns_of_nothing_here(video: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_fork(lambda: True) == 0
