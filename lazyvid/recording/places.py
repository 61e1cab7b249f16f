"""Local files that appear under their names only when they are whole; used by all that writes videos and pictures."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from lazyvid.recording.mp4 import sync
from lazyvid.storage import sidecar_uri
from lazyvid.storage.local import TEMPORARY_PREFIX, sync_folder


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


def remove_sidecar(video: Path) -> None:
    """Remove the sidecar of a local video, where there is one: at once, never half of it."""
    sidecar = Path(sidecar_uri(video))
    gone = sidecar.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(sidecar, gone)
    shutil.rmtree(gone, ignore_errors=True)
