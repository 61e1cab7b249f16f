"""What the chaos tests share: how many cases they run, and the law that nothing is left behind.

Every draw comes from `LAZYVID_CHAOS_SEED` (0 by default, so that a run can be repeated; `make chaos` draws
one and prints it). `LAZYVID_CHAOS_SCALE` multiplies the numbers of cases of the long runs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import multiprocessing.util
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import damaged
import leftovers
import pytest
from children import NAME, Child

_HERE = Path(__file__).resolve().parent
_GRACE_S = 20.0
_LONGEST = 40
_THREADS = ("lazyvid-", "QueueFeeder")
_MORE_DESCRIPTORS = 24
"""The I/O thread's own and those to helpers that live on: Lance's, the forkserver and its tracker, the module's child.
Files are counted apart. Sockets count only where no fault server runs in this process: that has one for each connection
that a test cut off or left waiting, and the store's other ends, until it ends itself."""
_KEPT_OPEN = re.compile(r"\.(index|counters)( \(deleted\))?$|^/dev/shm/pym-|/tmp/tmp\w{8}( \(deleted\))?$")
"""Indexes of this node, mapped for the next video that is opened (an LRU keeps few); the process's counters;
multiprocessing's own heap; and the files with which torch tries, after a broken pipe, whether any can be opened: the
news of a worker's death may interrupt Python between opening one and keeping it."""
_LASTS = "test_a_fault_that_lasts_ends_the_epoch_in_time_and_the_next_one_works"
SAMPLE = (
    "test_bytes.py::test_cut_at_every_kind_of_box[mp4]",
    "test_bytes.py::test_damage_is_never_given_as_a_frame[large mkv-8]",
    "test_bytes.py::test_damage_is_never_given_as_a_frame[mp4-8]",
    "test_bytes.py::test_hostile_files_are_refused[ffconcat]",
    "test_bytes.py::test_mutated_box_trees[mp4-12]",
    "test_caches.py::test_a_broken_cache_is_read_around[bits flipped-1]",
    "test_caches.py::test_eight_processes_and_the_one_that_downloads_is_killed[1]",
    "test_cameras_that_fail.py::test_cameras_that_misbehave[1]",
    "test_references.py::test_the_file_that_is_named_is_not_read[name-mp4]",
    "test_references.py::test_the_file_that_is_named_is_not_read[name-fragmented]",
    "test_sidecars.py::test_a_damaged_sidecar_is_never_believed[5]",
    "test_sidecars.py::test_an_indexer_killed_at_each_of_its_calls[2-False-torn]",
    f"test_stores.py::{_LASTS}[credentials revoked-threads-1]",
    "test_stores.py::test_a_video_overwritten_between_two_clips[threads]",
    "test_stores.py::test_an_epoch_goes_through_faults_that_pass[threads-1]",
)
"""What `make test` runs of each kind; nothing else decides that."""


@pytest.fixture(scope="session", autouse=True)
def folders_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    """pytest's own, and that of multiprocessing's sockets: made before a test has another temporary folder."""
    tmp_path_factory.getbasetemp()
    multiprocessing.util.get_temp_dir()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All but a sample are chaos: they break processes and starve children, which disturbs what runs beside them.

    Where a test has a small and a large number of cases, the small one is for the sample alone.
    """
    own = {item: item.nodeid.split("/")[-1] for item in items if item.path.parent == _HERE}
    needless = set()
    for item, name in own.items():
        if name not in SAMPLE:
            item.add_marker(pytest.mark.chaos)
            parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            if "count" in parameters and "many" not in item.callspec.id:  # type: ignore[attr-defined]
                needless.add(item)
    if _collects_all(config):
        runs = {name for item, name in own.items() if item.get_closest_marker("chaos") is None}
        if lost := sorted(set(SAMPLE) - runs):
            raise pytest.UsageError(
                "Expected every test that SAMPLE in tests/chaos/conftest.py names to be there and not to be marked "
                f"chaos; else `make test` leaves it out without a word. Not so: {', '.join(lost)}"
            )
    items[:] = [item for item in items if item not in needless]
    config.hook.pytest_deselected(items=list(needless))


def _collects_all(config: pytest.Config) -> bool:
    """Whether this folder is collected as a whole."""
    options = ("keyword", "ignore", "ignore_glob", "deselect", "lf")
    if any(config.getoption(name, default=None) for name in options):
        return False
    places = [config.invocation_params.dir / argument for argument in config.args]
    return any(_HERE.is_relative_to(place.resolve()) for place in places if "::" not in str(place))


@contextlib.contextmanager
def _folders() -> Iterator[Path]:
    """A folder for temporary files, caches and node-local indexes, its path short for the names of sockets in it."""
    above = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=above if len(above) < _LONGEST else "/tmp"))
    for name in ("tmp", "indexes", "copies"):
        (folder / name).mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(folder / "tmp"))
        patched.setattr("tempfile.tempdir", str(folder / "tmp"))
        patched.setenv("LAZYVID_INDEX_DIR", str(folder / "indexes"))
        patched.setenv("LAZYVID_CACHE_DIR", str(folder / "copies"))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def own_folders() -> Iterator[Path]:
    """Temporary files, caches and node-local indexes of a test lie in a folder of its own; gives it."""
    with _folders() as folder:
        yield folder


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """A process for the cases of a module, with folders that outlast its tests."""
    with _folders(), Child(warm=damaged.warm) as running:
        running.start()
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(own_folders: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test ends with the threads, children, files and shared memory that it began with, or some seconds later."""
    if "fault_server" in request.fixturenames:
        # It is to outlive this: a thread that reads from a server that is gone tries until its deadline.
        request.getfixturevalue("fault_server")
    before = _Before(sockets="fault_server" not in request.fixturenames)
    yield
    gc.collect()
    deadline = time.monotonic() + _GRACE_S
    while left := before.left():
        if time.monotonic() > deadline:
            faulthandler.dump_traceback()
            pytest.fail(f"left behind: {left}")
        time.sleep(0.05)
        gc.collect()
    # What killed processes leave in folders made for it is removed by the next process that looks in there.
    # After a broken pipe torch tries whether files can be opened, as `tmp...`; news of the death may interrupt that.
    kept = ("lazyvid-stats-", "lazyvid-scratch-", "lazyvid-spool-", "pymp-", "tmp")
    assert [path.name for path in (own_folders / "tmp").iterdir() if not path.name.startswith(kept)] == []


class _Before:
    """What there was when a test began."""

    def __init__(self, *, sockets: bool) -> None:
        self._sockets = sockets
        self._threads = set(threading.enumerate())
        self._shared = leftovers.shared_memory()
        self._files = leftovers.open_files().items()
        self._descriptors = leftovers.count_descriptors(_KEPT_OPEN, sockets=sockets)

    def left(self) -> list[str]:
        """What there is more, by name."""
        found = [f"process {child.pid}" for child in multiprocessing.active_children() if child.name != NAME]
        # The stores' I/O thread of a process lives as long as the process.
        found += [
            thread.name
            for thread in threading.enumerate()
            if thread not in self._threads and thread.name.startswith(_THREADS) and thread.name != "lazyvid-io"
        ]
        found += [f"shared memory {name}" for name in leftovers.ownerless_shared_memory(self._shared)]
        opened = leftovers.open_files().items() - self._files
        found += [f"open file {path}" for _, path in opened if not _KEPT_OPEN.search(path)]
        more = leftovers.count_descriptors(_KEPT_OPEN, sockets=self._sockets) - self._descriptors
        if more > _MORE_DESCRIPTORS:
            found.append(f"{more} descriptors: {leftovers.kinds_of_descriptors()}")
        return found
