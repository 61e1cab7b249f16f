"""What `lazyvid doctor` looks at: this machine's set-up, a store's answers, a video and its sidecar, each in a line."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal, TypeVar

from lazyvid.cli.console import bytes_text, count_text, one_line
from lazyvid.cli.state import sidecar_state
from lazyvid.decoding.torchcodec import load_torchcodec
from lazyvid.errors import BackendUnavailableError, LazyVidError, StoreTimeoutError, StoreUnavailableError
from lazyvid.index.frame_index import FrameIndex
from lazyvid.index.probe import build_index
from lazyvid.recording.codecs import encoder_report
from lazyvid.storage import ObjectMeta, ObjectStore
from lazyvid.training.shared_memory import FOLDER
from lazyvid.video import LazyVideo

T = TypeVar("T")
Level = Literal["good", "note", "bad"]

_LITTLE_SHARED_BYTES = 512 << 20
_LITTLE_DISK_BYTES = 1 << 30
_FEW_FILES = 4096
_PART_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check-up."""

    name: str
    level: Level
    """"note" may matter, "bad" keeps something from working."""
    text: str


def look_at_machine() -> Iterator[Finding]:
    """What lazyvid finds on this machine."""
    yield _versions()
    yield _torchcodec()
    yield _ffmpeg_command()
    yield _encoders()
    yield _processors()
    yield _shared_memory()
    yield _open_files()
    yield _temporary_folder()


def _versions() -> Finding:
    packages = ("lazyvid", "av", "torch", "pylance", "s3fs")
    found = {name: _version(name) for name in packages}
    missing = [name for name in packages if found[name] is None and name != "s3fs"]
    text = ", ".join(f"{name} {version or 'not installed'}" for name, version in found.items())
    return Finding("versions", "bad" if missing else "good", f"Python {platform.python_version()}, {text}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torchcodec() -> Finding:
    try:
        load_torchcodec()
    except BackendUnavailableError as error:
        return Finding("torchcodec", "note", f"backend='torchcodec' does not work: {one_line(error)}")
    return Finding("torchcodec", "good", f"{_version('torchcodec')} loads")


def _ffmpeg_command() -> Finding:
    found = shutil.which("ffmpeg")
    if found is None:
        return Finding("ffmpeg", "note", "no command; only torchcodec needs FFmpeg's libraries beside PyAV's own")
    return Finding("ffmpeg", "good", found)


def _encoders() -> Finding:
    report = encoder_report()
    working = [status.name for status in report if status.works]
    if not working:
        return Finding("encoders", "bad", "none works: nothing can be recorded (lazyvid codecs says why)")
    return Finding("encoders", "good", f"{', '.join(working)} (of {len(report)}; lazyvid codecs says why)")


def _processors() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("processors", "good", f"{count} for this process: num_workers up to about {count}")


def _shared_memory() -> Finding:
    if not os.path.isdir(FOLDER):
        return Finding("shared memory", "note", f"no {FOLDER}")
    usage = shutil.disk_usage(FOLDER)
    text = f"{bytes_text(usage.free)} free of {bytes_text(usage.total)} in {FOLDER}"
    if usage.free >= _LITTLE_SHARED_BYTES:
        return Finding("shared memory", "good", text)
    return Finding("shared memory", "note", f"{text}: batches of workers may not fit (docker run --shm-size; threads)")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = f"{len(os.listdir('/proc/self/fd'))} open now, " if os.path.isdir("/proc/self/fd") else ""
    text = f"{open_now}{soft:,} allowed (hard limit {hard:,})"
    if soft >= _FEW_FILES:
        return Finding("open files", "good", text)
    return Finding("open files", "note", f"{text}: many workers or cameras may need more (ulimit -n {_FEW_FILES})")


def _temporary_folder() -> Finding:
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return Finding("temporary files", "bad", f"{folder} cannot be written: {error.strerror}. Set TMPDIR")
    free = shutil.disk_usage(folder).free
    level: Level = "good" if free >= _LITTLE_DISK_BYTES else "note"
    return Finding("temporary files", level, f"{bytes_text(free)} free in {folder}")


def look_at_video(uri: str, *, store: ObjectStore, index_root: str | None) -> Iterator[Finding]:
    """What the store answers about a video, what the video is, and how its sidecar stands to it.

    Args:
        uri: The video, resolved.
        store: Where it lies.
        index_root: Folder of the sidecars, where they do not lie beside their videos.
    """
    answer, meta = _timed(lambda: store.head(uri))
    if isinstance(meta, LazyVidError):
        yield Finding("store", "bad", answer)
        return
    yield _described(meta, answer)
    start = meta.size // 2  # from the beginning, a server that ignores the range gives the right bytes, too
    answer, part = _timed(lambda: store.read_ranges(uri, [(start, min(start + _PART_BYTES, meta.size))], pin=meta))
    yield Finding("ranged read", "bad" if isinstance(part, LazyVidError) else "good", answer)
    if isinstance(part, (StoreTimeoutError, StoreUnavailableError)):
        return  # each further look would wait as long to say the same
    yield _sidecar(uri, store, index_root)
    answer, index = _timed(lambda: build_index(uri, store=store))
    if isinstance(index, LazyVidError):
        yield Finding("video", "bad", answer)
        return
    yield Finding("video", "good", f"{_summary(index)}; headers read {answer}")
    answer, frames = _timed(lambda: LazyVideo(uri, store=store, frame_index=index).get_frames_at([0, -1]))
    failed = isinstance(frames, LazyVidError)
    yield Finding("decoding", "bad" if failed else "good", answer if failed else f"first and last frame {answer}")


def _timed(work: Callable[[], T]) -> tuple[str, T | LazyVidError]:
    """How long it took, with what it gave; or what went wrong, in words and as it is."""
    started = time.monotonic()
    try:
        given = work()
    except LazyVidError as error:
        return f"{type(error).__name__}: {one_line(error)}", error
    return f"in {1000 * (time.monotonic() - started):.0f} ms", given


def _described(meta: ObjectMeta, answer: str) -> Finding:
    text = f"{bytes_text(meta.size)}, found {answer}"
    if meta.etag and not meta.etag.startswith("W/"):
        return Finding("store", "good", f"{text}; versions are told apart by etag {meta.etag}")
    if meta.version or meta.modified_ns is not None:
        return Finding("store", "good", f"{text}; versions are told apart by {'version' if meta.version else 'time'}")
    return Finding("store", "note", f"{text}; versions cannot be told apart: do not replace videos that are in use")


def _sidecar(uri: str, store: ObjectStore, index_root: str | None) -> Finding:
    try:
        state = sidecar_state(uri, store=store, index_root=index_root)
    except LazyVidError as error:
        return Finding("sidecar", "bad", f"{type(error).__name__}: {one_line(error)}")
    if state.usable:
        return Finding("sidecar", "good", f"{state.name}, {count_text(len(state.index or ()), 'frame')}")
    if state.name == "missing":
        return Finding("sidecar", "note", "missing: lazyvid index writes it, and opening then reads headers no more")
    return Finding("sidecar", "bad", f"{state.name}: {' '.join(state.reason.split())}")


def _summary(index: FrameIndex) -> str:
    source = index.sources[0]
    height, width = source.display_size
    return f"{source.codec} {source.pix_fmt} {width}x{height} in {source.container}, {count_text(len(index), 'frame')}"
