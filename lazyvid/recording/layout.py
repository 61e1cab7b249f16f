"""What lies on disk of a recording: `RecordingLayout`, videos first, then rows, then the manifest that counts them.

    <root>/recording.json                           what is recorded and how much of it is whole; written last
    <root>/videos/<camera>/episode-000000.mp4       one a camera and episode, its sidecar beside it
    <root>/frames.lance                             one row a frame
    <root>/episodes.lance                           one row an episode
    <root>/.unfinished/episode-000001/              the running episode, `recorder.py`'s and `recover.py`'s business

Rows that no manifest counts are what a kill left, and are removed before others are added. Last step of the write flow;
only this module of the room knows Lance.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow.compute as pc

from lazyvid.errors import RecordingDiskFullError, RecordingError
from lazyvid.index import lance_helper, lance_process
from lazyvid.recording.disk import is_full
from lazyvid.recording.episodes import Episode, EpisodeVideo
from lazyvid.recording.manifest import MANIFEST, RecordingSpec, RecordingState, read_manifest, write_manifest
from lazyvid.recording.mp4 import sync
from lazyvid.recording.rows import EPISODE_COLUMNS, columns_of, episode_row, frame_columns, frame_rows
from lazyvid.recording.rules import FrameRules
from lazyvid.storage.local import make_folders, sync_folder

FRAMES, EPISODES = "frames.lance", "episodes.lance"
_COMPACT_EVERY = 100
_DIGITS_DOWN = 20
_ASIDE = ".unread"
_MOST_ROWS = 1 << 40


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What a local recording holds that belongs into a store, at one moment."""

    videos: tuple[str, ...]
    """MP4s with a sidecar, relative to the root; they go first, and need not stay local."""
    files: tuple[str, ...]
    """Files of tables, in the order in which they go; a name never gets another content."""
    manifest: tuple[tuple[str, bytes], ...]
    """(name, content) of what goes last, in this order, each time anew."""
    tables: tuple[str, ...]
    """Folders in which the store holds no other files than these."""


class Layout(Protocol):
    """What a `Recorder` needs to know of a place on the disk. Implementations hold no state: it lies under the root."""

    @property
    def rules(self) -> FrameRules:
        """How frames and rows go together."""

    def create(self, root: Path, spec: RecordingSpec) -> RecordingState:
        """Begin an empty recording in a folder.

        Raises:
            RecordingError: if there is one already.
        """

    def open(self, root: Path) -> RecordingState:
        """The recording that lies there, rid of rows that its manifest does not count.

        Raises:
            RecordingError: if there is none, or it cannot be read.
        """

    def video_path(self, root: Path, episode: int, camera: str) -> Path:
        """Where an episode's video of a camera lies."""

    def add(self, root: Path, state: RecordingState, episode: Episode) -> RecordingState:
        """Lay the next episode down: videos, then rows, then what counts them. Moves the videos' files."""

    def finish(self, root: Path, state: RecordingState) -> None:
        """Tidy up once nothing is added for now; the recording can still be opened and go on."""

    def upload_plan(self, root: Path) -> UploadPlan:
        """What there is to bring into a store."""


class RecordingLayout:
    """lazyvid's own layout, as the module says. Holds nothing: any number of recordings may use one."""

    @property
    def rules(self) -> FrameRules:
        """Videos keep capture times and gaps."""
        return FrameRules()

    def create(self, root: Path, spec: RecordingSpec) -> RecordingState:
        """Begin an empty recording in a folder.

        Args:
            root: The folder; made if need be.
            spec: What is recorded.

        Raises:
            ValueError: if two features get the same column.
            RecordingError: if there is a recording already, or the folder cannot be made.
        """
        columns_of(spec.features)  # raises where two features would share one
        if (root / MANIFEST).exists():
            raise RecordingError(
                f"Expected no recording in {root}, found one. Choose another folder, or go on with it: "
                "Recorder.resume(root)."
            )
        state = RecordingState(spec)
        try:
            changed = make_folders(root)
            write_manifest(root, state)
            for folder in changed:
                sync_folder(folder)
        except OSError as error:
            raise RecordingError(f"Cannot make a recording in {root}: {error}. Check the folder.") from error
        return state

    def open(self, root: Path) -> RecordingState:
        """The recording that lies there, rid of rows that its manifest does not count.

        Raises:
            RecordingError: if there is none, or it is of a later format version, or its tables lack rows.
        """
        state = read_manifest(root)
        for name, count in ((FRAMES, state.total_frames), (EPISODES, state.total_episodes)):
            try:
                _cut_to(root / name, count, state.total_episodes)
            except RecordingError:
                if not _go_back(root / name, count):
                    raise
        return state

    def video_path(self, root: Path, episode: int, camera: str) -> Path:
        """Where an episode's video of a camera lies."""
        return root / "videos" / camera / f"episode-{episode:06d}.mp4"

    def add(self, root: Path, state: RecordingState, episode: Episode) -> RecordingState:
        """Lay the next episode down: videos, then rows, then the manifest.

        Args:
            root: The recording's folder.
            state: What `create`, `open` or the last `add` said.
            episode: The episode; its number is `state.total_episodes`. Its files are moved.

        Returns:
            The recording with the episode.
        """
        for video in episode.videos:
            _place(video, self.video_path(root, episode.number, video.camera))
        spec = state.spec
        paths = {
            video.camera: self.video_path(root, episode.number, video.camera).relative_to(root).as_posix()
            for video in episode.videos
        }
        _append(frame_rows(spec.features, spec.rate, episode), root / FRAMES)
        _append(episode_row(paths, spec.rate, episode), root / EPISODES)
        state = state.plus(episode)
        if state.total_episodes % _COMPACT_EVERY == 0:
            self.compact(root)
        write_manifest(root, state)
        return state

    def finish(self, root: Path, state: RecordingState) -> None:
        """Make each table one fragment again, without old versions."""
        if state.total_episodes:
            self.compact(root)

    def compact(self, root: Path) -> None:
        """Merge the fragments of both tables and remove their old versions."""
        for name in (FRAMES, EPISODES):
            _compact(root / name)

    def upload_plan(self, root: Path) -> UploadPlan:
        """What there is to bring into a store, tables' data before their manifests."""
        videos = sorted((root / "videos").glob("*/*.mp4"))
        files = [path for name in (FRAMES, EPISODES) for path in sorted((root / name).rglob("*")) if path.is_file()]
        # The hint is the one file of a dataset that is overwritten; Lance finds the latest version without it.
        files = [path for path in files if not path.name.startswith("latest_version_hint")]
        files.sort(key=lambda path: path.suffix == ".manifest")
        return UploadPlan(
            videos=tuple(path.relative_to(root).as_posix() for path in videos),
            files=tuple(path.relative_to(root).as_posix() for path in files),
            manifest=((MANIFEST, (root / MANIFEST).read_bytes()),),
            tables=(FRAMES, EPISODES),
        )

    def frames(self, root: Path) -> Any:
        """The rows of all whole episodes, in order, as a `pyarrow.Table`."""
        state = read_manifest(root)
        return _whole(root / FRAMES, state, frame_columns(state.spec.features))

    def episodes(self, root: Path) -> Any:
        """One row a whole episode, in order, as a `pyarrow.Table`."""
        return _whole(root / EPISODES, read_manifest(root), EPISODE_COLUMNS)


# -- videos and rows --------------------------------------------------------------------------------------------------


def _place(video: EpisodeVideo, target: Path) -> None:
    """The MP4 at its place, then its sidecar: who sees the sidecar finds the video."""
    changed = make_folders(target.parent)
    sync(str(video.path))  # one that a recovery finds whole may be in the system's memory alone
    if video.path != target:
        os.replace(video.path, target)
    for folder in (str(target.parent), *changed):
        sync_folder(folder)
    video.index.save(target)


def _whole(folder: Path, state: RecordingState, columns: Sequence[str]) -> Any:
    """The rows of whole episodes."""
    if not state.total_episodes:
        raise RecordingError(f"Expected an episode or more in {folder.parent}, found none: there is no {folder.name}.")
    table = _read(folder, columns)
    return table.filter(pc.less(table["episode_index"], state.total_episodes))


# -- Lance ------------------------------------------------------------------------------------------------------------

_IN_SUBPROCESS = """
import datetime, sys
import lance, pyarrow
action, folder, condition = sys.argv[1:]
if action == "append":
    lance.write_dataset(pyarrow.ipc.open_stream(sys.stdin.buffer).read_all(), folder, mode="append")
elif action == "delete":
    lance.dataset(folder).delete(condition)
elif action == "compact":
    lance.dataset(folder).optimize.compact_files()
else:
    lance.dataset(folder).cleanup_old_versions(datetime.timedelta(0), delete_unverified=True)
"""
_DEADLINE_S = 120.0


def _append(table: Any, folder: Path) -> None:
    """Add rows to a table, which begins with the first ones."""
    with _brought_to_disk(folder):
        if not _is_table(folder):
            with _translated("write", folder):
                lance_process.write_dataset(table, folder)
        elif not lance_process.safe_in_process():
            _in_subprocess("append", folder, table=table)
        else:
            import lance

            with _translated("write", folder):
                lance.write_dataset(table, str(folder), mode="append")


def _delete_from(folder: Path, episode: int) -> None:
    """Remove the rows of this episode and of later ones."""
    condition = f"episode_index >= {episode}"
    with _brought_to_disk(folder):
        if not lance_process.safe_in_process():
            _in_subprocess("delete", folder, condition=condition)
        else:
            import lance

            with _translated("write", folder):
                lance.dataset(str(folder)).delete(condition)


def _compact(folder: Path) -> None:
    """Make a table one fragment, without old versions: those go when the new one is on the disk."""
    if not lance_process.safe_in_process():
        with _brought_to_disk(folder):
            _in_subprocess("compact", folder)
        _in_subprocess("clean", folder)
    else:
        import lance

        with _brought_to_disk(folder), _translated("write", folder):
            lance.dataset(str(folder)).optimize.compact_files()
        with _translated("write", folder):
            lance.dataset(str(folder)).cleanup_old_versions(datetime.timedelta(0), delete_unverified=True)


@contextlib.contextmanager
def _brought_to_disk(folder: Path) -> Iterator[None]:
    """Bring to the disk what is written into a table inside the block: Lance does not do so itself."""
    before = _facts(folder)
    yield
    changed = [path for path, facts in _facts(folder).items() if before.get(path) != facts]
    for path in sorted(changed, key=lambda path: path.suffix == ".manifest"):
        sync(str(path))
    for path in sorted({path.parent for path in changed} | {folder}, reverse=True):
        sync_folder(path)
    if not before:
        sync_folder(folder.parent)


def _facts(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """By path, what changes with each of a table's files."""
    facts = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (found.st_ino, found.st_size, found.st_mtime_ns) for path, found in facts.items()}


def _cut_to(folder: Path, count: int, episodes: int) -> None:
    """Remove rows that the manifest does not count.

    Raises:
        RecordingError: if there are fewer rows than it counts, or the table cannot be read.
    """
    found = _count(folder)
    if found > count:
        _delete_from(folder, episodes)
        found = _count(folder)
    if found != count:
        raise RecordingError(
            f"Expected {count} rows in {folder}, as {MANIFEST} says, found {found}: the recording is damaged. Its "
            "videos are whole; restore the table from a copy."
        )


def _go_back(folder: Path, count: int) -> bool:
    """Make a table its newest version that can be read and has so many rows; False where none is such a one.

    A loss of power may leave names of a version that was being written, and not what is in the files.
    """
    aside = []
    for manifest in _manifests(folder):
        aside.append((manifest, manifest.with_name(manifest.name + _ASIDE)))
        os.rename(*aside[-1])
        with contextlib.suppress(RecordingError):
            if _count(folder) == count:
                for _, unread in aside:
                    unread.unlink()
                return True
    for manifest, unread in aside:
        os.rename(unread, manifest)
    return False


def _manifests(folder: Path) -> list[Path]:
    """The manifests of a table's versions, the newest first; Lance counts down in names of 20 digits."""

    def version(path: Path) -> int:
        return -int(path.stem) if len(path.stem) == _DIGITS_DOWN else int(path.stem)

    found = [path for path in (folder / "_versions").glob("*.manifest") if path.stem.isdigit()]
    return sorted(found, key=version, reverse=True)


def _count(folder: Path) -> int:
    return int(_read(folder, ["episode_index"]).num_rows) if _is_table(folder) else 0


def _is_table(folder: Path) -> bool:
    """Whether a version of the table was ever finished; a kill while its first was written leaves data alone."""
    return any((folder / "_versions").glob("*.manifest"))


def _read(folder: Path, columns: Sequence[str]) -> Any:
    with _translated("read", folder):
        return lance_process.read_dataset(folder, columns=columns, max_rows=_MOST_ROWS, trusted=True)


@contextlib.contextmanager
def _translated(action: str, folder: Path) -> Iterator[None]:
    """Lance's errors, which are of many classes, as lazyvid's."""
    try:
        yield
    except Exception as error:
        message = f"Cannot {action} the table {folder}: {lance_helper.describe(error)}."
        raise _table_error(message) from error


def _table_error(message: str) -> RecordingError:
    if is_full(RecordingError(message)):
        return RecordingDiskFullError(f"{message} Free some space, then finish it with recover().")
    return RecordingError(message)


def _in_subprocess(action: str, folder: Path, *, condition: str = "", table: Any = None) -> None:
    """Run Lance where it cannot meet a fork of the process that ran it before."""
    command = [sys.executable, "-P", "-c", _IN_SUBPROCESS, action, str(folder), condition]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    payload = b"" if table is None else lance_helper.to_ipc(table)
    try:
        subprocess.run(command, input=payload, env=environment, capture_output=True, check=True, timeout=_DEADLINE_S)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise _table_error(f"Cannot {action} rows of the table {folder}: {said[:300]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RecordingError(f"Cannot {action} rows of the table {folder} in a helper process: {error}.") from error
