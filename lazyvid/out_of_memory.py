"""Who is to blame where memory ends: FFmpeg then says "invalid data" of a video that has no fault; below every room."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator

from lazyvid.errors import VideoError

_LEAST_LEFT = 64 << 20
"""What FFmpeg may want besides pictures: a process that cannot have so much more is out of memory."""


def check_left(what: str, *, nbytes: int = 0) -> None:
    """Look whether this process can have more memory; nothing of it is touched or kept.

    Args:
        what: What failed; part of the message.
        nbytes: How much it may need, on top of what FFmpeg always does.

    Raises:
        MemoryError: if it cannot.
    """
    nbytes += _LEAST_LEFT
    try:
        mmap.mmap(-1, nbytes).close()
    except (OSError, MemoryError) as error:
        raise MemoryError(
            f"Expected memory for the pictures of a video, but this process cannot have {nbytes >> 20} MB more. That "
            f"is no fault of the video's: use smaller batches or fewer workers. What failed for want of it: {what}"
        ) from error


@contextlib.contextmanager
def blaming_memory_first(*, nbytes: Callable[[], int] = int) -> Iterator[None]:
    """Believe nothing against a video while this process is out of memory: FFmpeg then says "invalid data", too.

    Args:
        nbytes: Says how much it may need, as for `check_left`.

    Raises:
        MemoryError: in place of a `VideoError`, where memory is short.
    """
    try:
        yield
    except VideoError as error:
        check_left(f"{type(error).__name__}: {error}", nbytes=nbytes())
        raise
