"""Local files that appear under their names only when they are whole; used by all that writes videos and pictures."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from lazyvid.errors import IndexStateError, LazyVidError, RecordingDiskFullError, RecordingError, StoreError
from lazyvid.recording.mp4 import sync
from lazyvid.storage import sidecar_uri
from lazyvid.storage.local import TEMPORARY_PREFIX, sync_folder

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("No space left", "quota exceeded")  # of what others pass on as text


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A name in the target's folder that listings leave out; what lies there at the end of the block is removed.

    Args:
        target: Where the file is to be moved inside the block.
    """
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{target.name[-100:]}")
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def publish_file(temporary: Path, video: Path) -> None:
    """Give a finished video its name, durably; the sidecar of a video that it replaces goes with that one.

    Args:
        temporary: The video, in the same folder.
        video: Its name.
    """
    sync(str(temporary))
    # In this order: a kill in between leaves the older video without a sidecar, never one with a wrong one.
    remove_sidecar(video)
    os.replace(temporary, video)
    sync_folder(video.absolute().parent)


@contextlib.contextmanager
def disk_failures(what: str) -> Iterator[None]:
    """The system's and the store's errors about this machine's disk as a recorder's.

    Args:
        what: What is being done, for the message.

    Raises:
        RecordingDiskFullError: if the disk is full.
        RecordingError: if it does not take what is written for another reason.
    """
    try:
        yield
    except LazyVidError as error:
        if not isinstance(error, StoreError | IndexStateError):  # what a sidecar's writer says
            raise
        raise _disk_failure(what, error) from error
    except OSError as error:
        raise _disk_failure(what, error) from error


def _disk_failure(what: str, error: Exception) -> RecordingError:
    cause = error if isinstance(error, OSError) and error.errno else error.__cause__
    if getattr(cause, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS):
        return RecordingDiskFullError(
            f"Cannot {what}: the disk is full ({error}). What was recorded so far is kept; free some space, then "
            "finish it with lazyvid.recording.recover."
        )
    return RecordingError(f"Cannot {what}: {error}. Check the disk, then finish it with lazyvid.recording.recover.")


def remove_sidecar(video: Path) -> None:
    """Remove the sidecar of a local video, where there is one: at once, never half of it."""
    sidecar = Path(sidecar_uri(video))
    gone = sidecar.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(sidecar, gone)
    shutil.rmtree(gone, ignore_errors=True)
