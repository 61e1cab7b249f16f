"""Where a recording lies while it is made: in its own folder, or in a local one from which it goes into a store.

Used by `recorder.py` and `recover.py`, which find each other's files by it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyvid.errors import RecordingError
from lazyvid.storage import ObjectStore, basename, display_uri, is_local, relative_uri

JOURNAL = "journal"
"""Name of an episode's journal in its folder."""

_UNFINISHED = ".unfinished"
_TARGET = ".target.json"
_VIDEO_FILE = re.compile(r"\.mp4(\.lance/.*)?$")


@dataclass(frozen=True, slots=True)
class Spool:
    """A recording's local folder, and the store it is bound for."""

    root: Path
    """The local folder."""
    target: str | None
    """Its URI in the store; None when the folder is all there is."""
    store: ObjectStore
    """Where the target lies."""

    @property
    def uri(self) -> str:
        """Where the recording is in the end."""
        return str(self.root) if self.target is None else self.target

    @property
    def unfinished_root(self) -> Path:
        """The folder of episodes that are not laid down yet."""
        return self.root / _UNFINISHED

    def unfinished(self, episode: int) -> Path:
        """The folder of what there is of an episode until it is laid down."""
        return self.unfinished_root / f"episode-{episode:06d}"

    def unfinished_episodes(self) -> list[int]:
        """The numbers of episodes that are not laid down, in order."""
        names = (path.name for path in self.unfinished_root.glob("episode-*"))
        return sorted(int(name.removeprefix("episode-")) for name in names)

    def check_new(self) -> None:
        """Raise RecordingError if there is something at the target, or bound for it, already."""
        if self.target is None:
            return
        if self.root.exists():
            raise RecordingError(
                f"Expected no recording that waits for {display_uri(self.target)}, found one in {self.root}. Finish it "
                "first: lazyvid.recording.recover(uri)."
            )
        if self.store.exists(self.target):
            raise RecordingError(
                f"Expected nothing at {display_uri(self.target)}, found objects there. Choose another root, or go on "
                "with the recording: Recorder.resume(root)."
            )

    def remember(self) -> None:
        """Note the target in the folder, so that the folder alone tells where it goes."""
        if self.target is not None and display_uri(self.target) == self.target:  # never a signature
            ObjectStore().write(self.root / _TARGET, json.dumps({"target": self.target}).encode())

    def fetch(self) -> None:
        """For a recording in a store: bring all but its videos into the folder, unless something waits there."""
        if self.target is None or self.root.exists():
            return
        for meta in self.store.list(self.target):
            name = relative_uri(meta.uri, base=self.target).removeprefix("./")
            if not _VIDEO_FILE.search(name):
                self.store.download(meta.uri, self.root / name)
        if self.root.exists():
            self.remember()

    def tidy(self) -> None:
        """Remove the folder of unfinished episodes when nothing is in it."""
        with contextlib.suppress(OSError):
            self.unfinished_root.rmdir()

    def remove(self) -> None:
        """Remove the folder of a recording that is in its store."""
        if self.target is not None:
            shutil.rmtree(self.root, ignore_errors=True)


def own_spool_folder() -> Path:
    """This user's folder for recordings on their way into a store, in the system's temporary one; made if need be.

    Raises:
        RecordingError: if it cannot be made, or another user laid it there.
    """
    folder = Path(tempfile.gettempdir()) / f"lazyvid-spool-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
    except OSError as error:
        raise RecordingError(f"Cannot make the folder {folder} of the recording: {error}. Name a spool_dir.") from error
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise RecordingError(
            f"Expected a folder of user id {os.getuid()} at {folder}, found what another user laid there. Name a "
            "spool_dir."
        )
    return folder


def place_of(
    root: str | os.PathLike[str],
    *,
    store: ObjectStore | None,
    storage_options: Mapping[str, Any] | None,
    spool_dir: str | os.PathLike[str] | None,
) -> Spool:
    """Where a recording bound for `root` lies; the same in every process that asks so.

    Args:
        root: The recording's URI; or a spool folder, which knows where it goes.
        store: Where `root` lies.
        storage_options: Options of a store, when none is given.
        spool_dir: The folder of spool folders; by default one in the system's temporary folder.

    Raises:
        ValueError: if both a store and options are given.
    """
    if store is not None and storage_options is not None:
        raise ValueError("Give store or storage_options, not both: a store has its own options.")
    store = store or ObjectStore(storage_options=storage_options)
    uri = store.resolve(root).rstrip("/")
    if is_local(uri):
        return Spool(Path(uri), _noted_target(Path(uri)), store)
    folder = own_spool_folder() if spool_dir is None else Path(spool_dir)
    name = f"{basename(uri)[-60:]}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    return Spool(folder.absolute() / name, uri, store)


def _noted_target(root: Path) -> str | None:
    try:
        return str(json.loads((root / _TARGET).read_bytes())["target"])
    except OSError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            f"Cannot read {root / _TARGET}: expected the recording's target, found other text."
        ) from error


class RootLock:
    """Keeps others from recording into, or recovering, a folder; goes with the process.

    Args:
        root: The folder; it has to be there.

    Raises:
        RecordingError: if another one holds it.
    """

    def __init__(self, root: Path) -> None:
        self._descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # a file system without locks
            self.release()
            raise RecordingError(
                f"Expected nobody at work in {root}, but another recorder, or a recovery, is. Wait for it to end; if "
                "it was killed, end the processes that it had started."
            ) from error

    def release(self) -> None:
        """Let others in. Releasing twice does nothing."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also where a forked child still has the descriptor
            os.close(self._descriptor)
            self._descriptor = -1
