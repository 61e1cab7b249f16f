"""A disk that does not take something, at one step of recording: it is named, and nothing acknowledged is lost."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from episode_samples import add, check, frame, make

from lazyvid.errors import EncoderFailedError, LazyVidError, RecordingDiskFullError, RecordingError
from lazyvid.recording.layout import _ASIDE, RecordingLayout, _manifests
from lazyvid.recording.manifest import MANIFEST
from lazyvid.recording.recorder import Recorder
from lazyvid.recording.recover import recover
from lazyvid.storage.local import TEMPORARY_PREFIX

CHAOS = [pytest.mark.slow, pytest.mark.chaos]


class FailingDisk:
    """One of the system's calls that fails for some paths, always or once.

    Args:
        patch: Puts it in place.
        call: `write`, `pwrite`, `fsync`, `replace` or `mkdir`.
        hits: Whether it fails for a path: a descriptor's, or the last one that the call is given.
        number: The system's number of the error.
        once: Whether it fails the first time alone, as an fsync does.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, call: str, hits: Callable[[str], bool], number: int, *, once: bool = False
    ) -> None:
        self.failed = threading.Event()
        real = getattr(os, call)

        def failing(*args: Any, **options: Any) -> Any:
            given = args[1] if call == "replace" else args[0]
            path = os.readlink(f"/proc/self/fd/{given}") if isinstance(given, int) else os.fspath(given)
            if hits(path) and not (once and self.failed.is_set()):
                self.failed.set()
                raise OSError(number, os.strerror(number), path)
            return real(*args, **options)

        patch.setattr(os, call, failing)


def _in_manifest(path: str) -> bool:
    return Path(path).name.startswith(TEMPORARY_PREFIX) and Path(path).parent.name == "run"


STEPS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "journal, write": ("write", lambda path: path.endswith("/journal")),
    "journal, fsync": ("fsync", lambda path: path.endswith("/journal")),
    "video, fsync": ("fsync", lambda path: path.endswith("/wrist.mp4")),
    "video, name": ("replace", lambda path: path.endswith("/wrist/episode-000001.mp4")),
    "video, folder's fsync": ("fsync", lambda path: path.endswith("/videos/wrist")),
    "sidecar, folder": ("mkdir", lambda path: path.endswith(".mp4.lance")),
    "sidecar, write": ("pwrite", lambda path: ".mp4.lance/" in path),
    "sidecar, fsync": ("fsync", lambda path: ".mp4.lance/" in path),
    "table, fsync": ("fsync", lambda path: "/frames.lance/" in path),
    "manifest, write": ("pwrite", _in_manifest),
    "manifest, fsync": ("fsync", _in_manifest),
    "manifest, name": ("replace", lambda path: path.endswith(MANIFEST)),
}
NAMED = {errno.ENOSPC: RecordingDiskFullError, errno.EIO: RecordingError}
DEFAULT = {("journal, write", errno.ENOSPC), ("journal, fsync", errno.EIO), ("video, folder's fsync", errno.EIO),
           ("sidecar, write", errno.ENOSPC), ("manifest, write", errno.ENOSPC)}  # fmt: skip


@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param(step, number, id=f"{step}, {errno.errorcode[number]}",
                     marks=[] if (step, number) in DEFAULT else CHAOS)
        for step in STEPS for number in NAMED
    ],
)  # fmt: skip
def test_a_step_of_saving_that_the_disk_does_not_take(
    tmp_path: Path, step: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    recorder = make(root)
    add(recorder, 6)
    recorder.save_episode()
    add(recorder, 9)
    with monkeypatch.context() as patch:
        disk = FailingDisk(patch, *STEPS[step], number)
        with pytest.raises(LazyVidError) as caught:
            recorder.save_episode()
        assert disk.failed.is_set()
    expected = EncoderFailedError if (step, number) == ("video, fsync", errno.EIO) else NAMED[number]
    assert type(caught.value) is expected, repr(caught.value)
    assert any("recover" in note for note in caught.value.__notes__)
    with pytest.raises(RecordingError, match="an episode failed"):
        recorder.save_episode()
    recorder.finalize()
    recover(root)
    check(root, [6, 9])
    assert not recover(root).changed


@pytest.mark.parametrize(
    ("path", "options", "error"),
    [
        ("/wrist.mp4", {}, EncoderFailedError),
        ("/journal", {}, RecordingError),
        (".png", {"streaming_encoding": False}, RecordingError),
    ],
    ids=["video", "journal", "picture"],
)
def test_an_fsync_that_failed_behind_the_loop_is_not_forgotten(
    tmp_path: Path, path: str, options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of it once, and the next fsync finds no fault: what was lost would be acknowledged."""
    recorder = make(tmp_path, durable_s=0.02, **{"g": 2} | options)
    with monkeypatch.context() as patch:
        disk = FailingDisk(patch, "fsync", lambda given: given.endswith(path), errno.EIO, once=True)
        with pytest.raises(error):
            _record_until(disk.failed, recorder)
    recorder.clear_episode_buffer()
    add(recorder, 5)
    recorder.save_episode()
    recorder.finalize()
    check(tmp_path, [5])


def _record_until(failed: threading.Event, recorder: Recorder) -> None:
    """Frame after frame until the disk failed, then save what there is; at one of them it must be said."""
    row = 0
    while not failed.wait(0.02):
        assert row < 2000, "nothing was brought to the disk"
        recorder.add_frame(frame(0, row))
        row += 1
    recorder.save_episode()


def test_a_half_written_version_of_a_table_is_passed_over(tmp_path: Path) -> None:
    """As a loss of power may leave it: the name is there, what is in the file is not."""
    recorder = make(tmp_path)
    for rows in (4, 3):
        add(recorder, rows)
        recorder.save_episode()
    folder = tmp_path / "frames.lance"
    whole = _manifests(folder)[0]
    name = whole.stem
    newer = str(int(name) - 1).zfill(20) if len(name) == 20 else str(int(name) + 1)
    whole.with_name(f"{newer}.manifest").write_bytes(b"")
    recorder._lock.release()  # as the end of the process does
    recorder._cameras.close()
    recover(tmp_path)
    check(tmp_path, [4, 3])
    assert _manifests(folder)[0] == whole
    assert not list(folder.rglob(f"*{_ASIDE}"))


def test_a_table_of_which_no_version_can_be_read_is_left_as_it_is(tmp_path: Path) -> None:
    with make(tmp_path) as recorder:
        add(recorder, 4)
        recorder.save_episode()
    folder = tmp_path / "frames.lance"
    for manifest in _manifests(folder):
        manifest.write_bytes(b"")
    before = sorted(folder.rglob("*"))
    with pytest.raises(RecordingError, match=r"frames\.lance"):
        RecordingLayout().open(tmp_path)
    assert sorted(folder.rglob("*")) == before
