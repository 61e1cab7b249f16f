"""Every exception that lazyvid raises on purpose; below everything else in the package.

    LazyVidError
    ├── StoreError                  the object store did not give what was asked for
    │   ├── ObjectNotFoundError     (FileNotFoundError)
    │   ├── AccessDeniedError       (PermissionError)
    │   ├── ObjectChangedError      the object is no longer the version that was pinned
    │   ├── StoreTimeoutError       (TimeoutError)
    │   ├── StoreUnavailableError   (ConnectionError)
    │   ├── ShortReadError          fewer or other bytes than the range asked for
    │   └── UnsafeKeyError          (ValueError) a key that leaves its root, or that no store can hold
    ├── IndexStateError             the frame index of a video
    │   ├── MissingIndexError       (FileNotFoundError)
    │   ├── StaleIndexError         it describes another file
    │   └── CorruptIndexError       it is damaged, or from a later format version
    ├── VideoError                  (ValueError) the video's own bytes, or what was asked of them
    │   ├── NotAVideoError
    │   ├── NoVideoStreamError
    │   ├── TruncatedVideoError
    │   ├── CorruptVideoError
    │   ├── DecodeError             a planned frame did not come out of the decoder
    │   ├── UnsupportedCodecError
    │   ├── UncuttableVideoError    a run of frames that cannot be copied without the frames around it
    │   ├── LimitExceededError      larger than `lazyvid.Limits` allows
    │   ├── FrameIndexError         (IndexError) a frame number outside the video
    │   └── FrameTimestampError     no frame within the tolerance of a time asked for
    │       └── TimeOutOfRangeError (IndexError) a time before the video begins or after it ends
    ├── DatasetError                (ValueError) a LeRobot dataset's files are damaged, or of a format not known here
    │   └── EpisodeMismatchError    the table of episodes, the rows and the videos contradict one another
    ├── LoaderError                 the processes or threads that read batches
    │   ├── WorkerStartError        (RuntimeError) workers cannot be started
    │   ├── WorkerDiedError         (RuntimeError) a worker ended without being told to
    │   └── LoaderTimeoutError      (TimeoutError) a batch took too long
    ├── BackendUnavailableError     (ImportError) an optional decoder package is missing or does not load
    └── RecordingError
        ├── EncoderUnavailableError
        ├── EncoderFailedError      (RuntimeError)
        ├── EncoderStalledError
        ├── QueueFullError
        ├── CameraFormatChangedError (ValueError)
        └── RecordingDiskFullError  (OSError)

Each class takes one positional message and is defined at module level: a DataLoader rebuilds a worker's exception
from its class and one string, and a class that cannot be rebuilt so loses its type or hangs the loader.
"""

from __future__ import annotations


class LazyVidError(Exception):
    """Base of every error that lazyvid raises on purpose."""


class StoreError(LazyVidError):
    """The object store did not give what was asked for."""


class ObjectNotFoundError(StoreError, FileNotFoundError):
    """No object, bucket or folder at this URI."""


class AccessDeniedError(StoreError, PermissionError):
    """The store refused the credentials, or they lack the right to do this."""


class ObjectChangedError(StoreError):
    """The object was replaced or changed since it was pinned."""


class StoreTimeoutError(StoreError, TimeoutError):
    """The store did not answer within the deadline, or stopped sending."""


class StoreUnavailableError(StoreError, ConnectionError):
    """The store could not be reached, or kept failing until the retries were used up."""


class ShortReadError(StoreError):
    """The store answered with fewer or other bytes than the range asked for."""


class UnsafeKeyError(StoreError, ValueError):
    """A key that leaves its root, or that no store can hold."""


class IndexStateError(LazyVidError):
    """The frame index of a video is missing, stale or damaged."""


class MissingIndexError(IndexStateError, FileNotFoundError):
    """There is no sidecar, and building one was not allowed."""


class StaleIndexError(IndexStateError):
    """The index describes another file than the one that lies there now."""


class CorruptIndexError(IndexStateError):
    """The index is damaged, incomplete, or from a later format version."""


class VideoError(LazyVidError, ValueError):
    """The video's own bytes, or what was asked of them, are at fault."""


class NotAVideoError(VideoError):
    """The bytes are no container that lazyvid reads."""


class NoVideoStreamError(VideoError):
    """The container holds no (such) video stream, or one without a frame."""


class TruncatedVideoError(VideoError):
    """The file ends before what its headers, or its index, promise."""


class CorruptVideoError(VideoError):
    """The file's bytes contradict its headers or its index."""


class DecodeError(VideoError):
    """The decoder did not give a frame that was planned."""


class UnsupportedCodecError(VideoError):
    """No decoder, or no way to address this codec's packets, is available here."""


class UncuttableVideoError(VideoError):
    """Frames cannot be copied from a video by themselves: others' packets lie among theirs, or none is a start."""


class LimitExceededError(VideoError):
    """The video is larger than the limits allow."""


class FrameTimestampError(VideoError):
    """No frame lies within the tolerance of a time that was asked for."""


class FrameIndexError(VideoError, IndexError):
    """A frame number lies outside the video or its window."""


class TimeOutOfRangeError(FrameTimestampError, IndexError):
    """A time lies before the video begins or after it ends."""


class DatasetError(LazyVidError, ValueError):
    """Files of a LeRobot dataset are damaged, or of a format that is not known here."""


class EpisodeMismatchError(DatasetError):
    """An episode has another length in a dataset's table of episodes, its rows or its videos."""


class LoaderError(LazyVidError):
    """The processes or threads that read batches did not give one."""


class WorkerStartError(LoaderError, RuntimeError):
    """Workers cannot be started: something cannot be sent to them, or the script has no main guard."""


class WorkerDiedError(LoaderError, RuntimeError):
    """A worker process ended without being told to."""


class LoaderTimeoutError(LoaderError, TimeoutError):
    """A batch was not there within the time allowed."""


class BackendUnavailableError(LazyVidError, ImportError):
    """An optional decoder package is missing, or does not load on this machine."""


class RecordingError(LazyVidError):
    """Encoding or writing a recording failed."""


class EncoderUnavailableError(RecordingError):
    """The encoder is not compiled in, or does not work on this machine."""


class EncoderFailedError(RecordingError, RuntimeError):
    """The encoder reported an error."""


class EncoderStalledError(RecordingError):
    """The encoder did not finish within its time."""


class QueueFullError(RecordingError):
    """A camera's queue is full and frames must not be dropped."""


class CameraFormatChangedError(RecordingError, ValueError):
    """A frame has another size or format than the recording's first one."""


class RecordingDiskFullError(RecordingError, OSError):
    """The disk is full; what was finished so far is kept."""
