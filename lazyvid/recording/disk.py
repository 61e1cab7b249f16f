"""What the disk that is recorded to says: that it is full, or that it fails; as errors of a recorder."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from lazyvid.errors import IndexStateError, LazyVidError, RecordingDiskFullError, RecordingError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("No space left", "quota exceeded")  # of what Lance and helpers pass on as text


def is_full(error: BaseException) -> bool:
    """Whether an error says, by its number, its cause or its words, that the disk is full."""
    cause = error if isinstance(error, OSError) and error.errno else error.__cause__
    return getattr(cause, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)


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
    if is_full(error):
        return RecordingDiskFullError(
            f"Cannot {what}: the disk is full ({error}). What was recorded so far is kept; free some space, then "
            "finish it with lazyvid.recording.recover."
        )
    return RecordingError(f"Cannot {what}: {error}. Check the disk, then finish it with lazyvid.recording.recover.")
