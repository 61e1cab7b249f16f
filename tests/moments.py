"""Every state that a kill can leave: what is written is kept write by write, and laid down again as it was at each."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import av
import pytest

from lazyvid.index import lance_process
from lazyvid.recording.mp4 import Mp4File

T = TypeVar("T")
Tree = dict[str, "bytes | None"]
"""By path below a folder, a file's contents, or None for a folder."""

# -- one file ---------------------------------------------------------------------------------------------------------


class KeptFile(io.RawIOBase):
    """A file, written without a buffer, that keeps every write: what a kill leaves is what was written before it."""

    def __init__(self, path: str) -> None:
        self.writes: list[tuple[int, bytes]] = []
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 (closed by `close`)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writes.append((self._file.tell(), bytes(data)))
        return self._file.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def kept_mp4() -> Iterator[list[KeptFile]]:
    """The MP4s that PyAV writes inside the block, as files that keep their writes."""
    kept: list[KeptFile] = []
    av_open = av.open

    def opened(file: Any, mode: str = "r", **options: Any) -> Any:
        if mode != "w" or not isinstance(file, str):
            return av_open(file, mode, **options)
        kept.append(KeptFile(file))
        return av_open(kept[-1], mode, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "open", opened)
        yield kept


def contents_after(writes: list[tuple[int, bytes]], count: int, *, torn: bool = False) -> bytes:
    """What lies in a file after the first `count` writes; and, torn, after half of the next one."""
    data = bytearray()
    done = writes[:count]
    if torn and count < len(writes):
        at, last = writes[count]
        done = [*done, (at, last[: len(last) // 2])]
    for at, written in done:
        data[at : at + len(written)] = written
    return bytes(data)


# -- a folder ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment(Generic[T]):
    """What lay in a folder, and what had been promised then."""

    tree: Tree
    promise: T
    step: str
    """What was done last."""

    def lay_down(self, folder: Path) -> Path:
        """The folder as it was."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, contents in self.tree.items():
            path = folder / name
            if contents is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
        return folder


def _steps() -> Iterator[tuple[Any, str]]:
    """What changes files: Python's own calls one by one, FFmpeg's and Lance's call by call."""
    lance_process._begin_use()  # so that Lance is imported as the package does it
    import lance

    for name in ("open", "write", "pwrite", "truncate", "ftruncate"):
        yield os, name
    for name in ("replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir"):
        yield os, name
    for name in ("__init__", "write", "finish", "abandon"):
        yield Mp4File, name
    yield from ((lance_process, "write_dataset"), (lance, "write_dataset"))
    yield from ((lance.LanceDataset, "delete"), (lance.LanceDataset, "cleanup_old_versions"))


class Moments(Generic[T]):
    """What lies in a folder before and after each step of whoever writes there, while `watched`.

    Between two states that lie a call of FFmpeg or Lance apart, their files are taken to have come one after the
    other, each of them torn in between.

    Args:
        root: The folder.
        promise: Says what has been promised so far.
    """

    def __init__(self, root: Path, promise: Callable[[], T]) -> None:
        self._root, self._promise = root, promise
        self._found: list[Moment[T]] = []
        self._lock = threading.RLock()
        self._depth = 0

    def __iter__(self) -> Iterator[Moment[T]]:
        for before, after in itertools.pairwise(self._found):
            yield before
            if after.step.partition(" ")[0] in ("write", "finish", "abandon", "write_dataset", "delete"):
                yield from _between(before, after)
        yield self._found[-1]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of every step inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in _steps():
                patch.setattr(owner, name, self._step(name, getattr(owner, name)))
            self._look("begin")
            yield
            self._look("end")

    def _step(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            with self._lock:  # so that no other thread writes meanwhile
                if self._depth:
                    return real(*args, **kwargs)
                try:
                    return real(*args, **kwargs)
                finally:
                    self._look(f"{name} {str(args[:2])[:100]}")

        return step

    def _look(self, step: str) -> None:
        with self._lock:
            self._depth += 1
            try:
                tree = _tree(self._root)
            finally:
                self._depth -= 1
            moment = Moment(tree, self._promise(), step)
            if not self._found or (self._found[-1].tree, self._found[-1].promise) != (tree, moment.promise):
                self._found.append(moment)


def _tree(root: Path) -> Tree:
    tree: Tree = {}
    for path in sorted(root.rglob("*")):
        tree[str(path.relative_to(root))] = None if path.is_dir() else path.read_bytes()
    return tree


def _between(before: Moment[T], after: Moment[T]) -> Iterator[Moment[T]]:
    """States on the way from one to the other: files come, half and whole, a manifest last; then old ones go."""
    tree = dict(before.tree)
    changed = [name for name, contents in after.tree.items() if name not in tree or tree[name] != contents]
    for name in sorted(changed, key=lambda name: (name.endswith(".manifest"), name)):
        contents, old = after.tree[name], tree.get(name) or b""
        if contents is not None and contents.startswith(old):
            half = contents[: (len(old) + len(contents)) // 2]
            yield Moment({**tree, _growing_name(name): half}, before.promise, f"half of {name} by {after.step}")
        tree[name] = contents
        yield Moment(dict(tree), before.promise, f"{name} by {after.step}")
    for name in sorted(set(tree) - set(after.tree), reverse=True):
        del tree[name]
        yield Moment(dict(tree), before.promise, f"without {name} by {after.step}")


def _growing_name(name: str) -> str:
    """Under which name a file grows: FFmpeg's under its own, Lance's under another until it is whole."""
    folder, _, own = name.rpartition("/")
    if ".lance/" not in name:
        return name
    return f"{name}#1" if own.endswith(".manifest") else f"{folder}/.tmpHalf01"
