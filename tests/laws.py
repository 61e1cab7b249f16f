"""Laws that several test modules hold the package to, and what the processes that they start run."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from lazyvid import FrameIndex, LazyVideo, build_index
from lazyvid.decoding.torchcodec import load_torchcodec
from lazyvid.errors import BackendUnavailableError, LazyVidError, StoreTimeoutError
from lazyvid.index.frame_index import PacketTable, Segment
from lazyvid.storage import ObjectStore
from lazyvid.testing import read_frame_number

T = TypeVar("T")
START_METHODS = ("fork", "forkserver", "spawn")
_PROCESS_S = 240.0
_SLACK_S = 30.0


# -- frames -----------------------------------------------------------------------------------------------------------


def numbers_of(frames: torch.Tensor) -> list[int]:
    """The numbers painted into frames, [N, C, H, W] or [N, H, W, C]."""
    return [read_frame_number(frame) for frame in frames]


def digest(*arrays: torch.Tensor | np.ndarray[Any, Any]) -> str:
    """Equal for equal shapes and contents."""
    # By numpy: torch's threads, once used, hang a forked process that copies a large tensor.
    contents = [np.ascontiguousarray(array) for array in arrays]
    return hashlib.sha256(b"".join(repr(c.shape).encode() + c.tobytes() for c in contents)).hexdigest()


def need_torchcodec() -> None:
    """Skip the calling test where torchcodec does not load."""
    try:
        load_torchcodec()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


# -- sidecars and indexes ---------------------------------------------------------------------------------------------


def with_sidecar(path: Path, *, scan: Any = "header") -> Path:
    """Write the sidecar of a local video; gives the video's path."""
    build_index(path, scan=scan).save(path)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path, as a tool that knows nothing of videos would copy them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put_all(store: ObjectStore, folder: str, files: Mapping[str, bytes]) -> None:
    """Write files below a folder of any store."""
    for name, data in files.items():
        store.write(f"{folder}/{name}", data)


def tiled(index: FrameIndex, *, frames: int) -> FrameIndex:
    """An index of many frames over the same few bytes: the video played again and again."""
    times, rest = divmod(frames, len(index))
    assert rest == 0, "frames must be a multiple of the index's"
    round_of = np.repeat(np.arange(times), len(index))
    packets = PacketTable.concat([index.packets] * times, source_shifts=[0] * times)
    span = int(index.packets.pts.max() - index.packets.pts.min() + index.packets.duration.max())
    seconds = span * float(index.sources[0].time_base)
    return FrameIndex(
        segment_idx=np.zeros(frames, np.int64),
        local_frame_idx=np.arange(frames),
        timestamp=np.tile(index.timestamp, times) + round_of * seconds,
        packets=replace(
            packets,
            pts=packets.pts + round_of * span,
            dts=packets.dts + round_of * span,
            decode_position=packets.decode_position + round_of * len(index),
        ),
        hidden=index.hidden,
        sources=index.sources,
        segments=(Segment(0, frames),),
    )


# -- errors -----------------------------------------------------------------------------------------------------------


def check_error(error: BaseException, *, naming: str = "") -> None:
    """The law of errors: one message, which names what it is about, and which survives a process boundary."""
    assert isinstance(error, LazyVidError), repr(error)
    assert len(error.args) == 1, error.args
    message = error.args[0]
    assert isinstance(message, str)
    assert naming in message, f"{naming!r} is not named: {message}"
    assert len(message.split()) >= 6, f"says too little: {message}"
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is type(error)
    assert sent.args == error.args


def ending_in_time(
    call: Callable[[T], object],
    error: type[LazyVidError],
    *,
    prepare: Callable[[float], T],
    deadlines_s: Sequence[float] = (1.2, 10.0, 60.0),
) -> LazyVidError:
    """What a call ends with, soon after its deadline, where it could go on trying for ever.

    What failed is named once it has failed once. A loaded machine may not come to that in little time; then it is given
    more. Where time itself is what runs out, the first deadline decides.

    Args:
        call: Does it, with what `prepare` gave.
        error: The class that it must raise.
        prepare: Makes what is called, such as a store, whose calls end after so many seconds.
        deadlines_s: Seconds, to be tried in turn.
    """
    for deadline_s in deadlines_s:
        try:
            prepared = prepare(deadline_s)
        except StoreTimeoutError:
            continue
        started = time.monotonic()
        with pytest.raises((error, StoreTimeoutError)) as raised:
            call(prepared)
        assert time.monotonic() - started < 2 * deadline_s + _SLACK_S
        if isinstance(raised.value, error):
            assert type(raised.value) is error
            return raised.value
    pytest.fail(f"{max(deadlines_s)} s were not enough for a {error.__name__}")


def text_of(error: BaseException) -> str:
    """All that a user sees of an error: its text, its repr and the traceback with every cause."""
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


def check_silent(secrets: Iterable[str], *texts: str) -> None:
    """The law of secrets: none of them is in any of the texts."""
    for secret in secrets:
        assert len(secret) > 4
        for text in texts:
            assert secret not in text, f"{secret[:2]}... is shown in: {text.replace(secret, '<the secret>')[:500]}"


# -- processes --------------------------------------------------------------------------------------------------------


def in_process(method: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a module-level function in a new process; what it raises is raised here; a process that hangs is killed."""
    context: Any = multiprocessing.get_context(method)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, work, arguments))
    process.start()
    sending.close()
    try:
        if not receiving.poll(_PROCESS_S):
            raise TimeoutError(f"a process started by {method} did not answer within {_PROCESS_S:.0f} s")
        outcome = receiving.recv()
        process.join(_PROCESS_S)
        assert process.exitcode == 0, f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
        receiving.close()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _work(sending: Connection, work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        outcome = work(*arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())
        outcome = error
    sending.send(outcome)
    sending.close()


def first_frames(pickled: bytes, *, forget: bool = False, environment: Mapping[str, str] | None = None) -> list[str]:
    """What a receiving process sees of pickled videos: a digest of each one's first frame and of all its times.

    Args:
        pickled: a list of videos.
        forget: drop the indexes that a forked process has inherited.
        environment: variables that are set first.
    """
    import os

    from lazyvid.index import local

    os.environ.update(environment or {})
    if forget:
        local.clear()
    videos: list[LazyVideo] = pickle.loads(pickled)
    return [digest(video.get_frames_at([0]).frames, video.timestamps) for video in videos]
