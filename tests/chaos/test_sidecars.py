"""Sidecars damaged, exchanged, or left by a writer that was killed: right frames or a named error, then healed."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import damaged
import pytest
import torch
from children import Child, WrongError, run_all, wait_until
from damaged import FRAMES, reference, spoil
from sizes import counts

from lazyvid import LazyVideo, build_index
from lazyvid.errors import CorruptIndexError, IndexStateError, MissingIndexError
from lazyvid.index import arrow
from lazyvid.testing import write_video


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with its sidecar, and beside it another one of the same length."""
    path = damaged.write(tmp_path_factory.mktemp("whole"), "mp4")
    other = write_video(path.with_name("other.mp4"), frames=FRAMES, gop=6, width=64, height=48, first_number=500)
    for video in (path, other):
        build_index(video, scan="full").save(video)
    return path


def files_of(video: Path) -> list[str]:
    """The files of a sidecar, by their paths in it."""
    folder = Path(f"{video}.lance")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


Change = tuple[str, str, tuple[tuple[str, int, int], ...]]
"""(what is done, the file of the sidecar, the damage to its bytes)."""


WAYS = ("remove", "empty", "exchange", "cut", "flip", "zero", "longer", "double")


def draw(rng: random.Random, good: Path, count: int) -> list[Change]:
    """Each file in each way, as far as `count` goes, and then more flips than anything else."""
    each = list(itertools.product(files_of(good), WAYS))
    rng.shuffle(each)
    more = [(rng.choice(files_of(good)), rng.choice([*WAYS, "flip", "flip"])) for _ in range(count)]
    return [_change_of(rng, good, name, how) for name, how in (each + more)[:count]]


def _change_of(rng: random.Random, good: Path, name: str, how: str) -> Change:
    size = max(1, (Path(f"{good}.lance") / name).stat().st_size)
    if how == "flip":
        return how, name, tuple(("flip", rng.randrange(size), rng.randrange(8)) for _ in range(rng.choice([1, 1, 3])))
    if how == "zero":
        return how, name, (("zero", rng.randrange(size), rng.choice([1, 16, 256, 1 << 20])),)
    return how, name, (("cut", rng.randrange(size), 0),) if how == "cut" else ()


def read_beside(good: str, place: str, change: Change) -> str:
    """A copy of the video beside a changed copy of its sidecar: opened by it as it is, or refused; then healed."""
    right = reference(good)
    shutil.rmtree(place, ignore_errors=True)
    clip = Path(shutil.copytree(Path(good).parent, place)) / Path(good).name
    _change(clip, change)
    try:
        video = LazyVideo(clip, on_missing_index="raise")
        said = damaged.read_in_pieces(video, right)
    except IndexStateError as error:
        if str(clip) not in str(error):
            raise WrongError(f"names no file: {error}") from error
        said = ""
    healed = LazyVideo(clip, on_missing_index="build", on_stale_index="rebuild")
    if not torch.equal(healed[:], right.frames):
        raise WrongError("rebuilt to other frames")
    if not said:
        raise CorruptIndexError(f"{clip} was refused, and healed as it should.")
    return said


def _change(clip: Path, change: Change) -> None:
    how, name, damage = change
    folder = Path(f"{clip}.lance")
    path, other = folder / name, Path(f"{clip.with_name('other.mp4')}.lance")
    if how == "remove":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "exchange":
        kind = name.split("/")[0]
        path.write_bytes(next(found for found in (other / kind).iterdir() if found.is_file()).read_bytes())
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"\0" * 7)
    elif how == "double":
        path.write_bytes(path.read_bytes() * 2)
    else:
        path.write_bytes(spoil(path.read_bytes(), damage))


@counts(5, 500)
def test_a_damaged_sidecar_is_never_believed(
    count: int, good: Path, child: Child, tmp_path: Path, rng: random.Random
) -> None:
    places = {"good": str(good), "place": str(tmp_path / "copy")}
    drawn = draw(rng, good, count)
    tally = run_all(child, [(str(change), read_beside, {**places, "change": change}) for change in drawn])
    print(tally)  # noqa: T201 - shown by -rP
    assert tally.wrong == []
    assert tally.counts["refused: CorruptIndexError"] > count // 3


def test_the_whole_sidecar_of_another_video_is_refused(good: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(good.parent, tmp_path / "copy")) / good.name
    shutil.rmtree(f"{clip}.lance")
    shutil.copytree(f"{clip.with_name('other.mp4')}.lance", f"{clip}.lance")
    with pytest.raises(IndexStateError, match=clip.name):
        LazyVideo(clip)


def test_a_sidecar_of_a_later_format_is_refused_with_both_versions(good: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(good.parent, tmp_path / "copy")) / good.name
    with patch.object(arrow, "FORMAT_VERSION", 2):
        build_index(clip).save(clip)
    with pytest.raises(CorruptIndexError, match=r"version 1.*version 2"):
        LazyVideo(clip)


# -- writers that are killed -------------------------------------------------------------------------------------------

_CALLS = ("open", "mkdir", "write", "pwrite", "fsync", "replace", "rename", "unlink", "rmdir")


def _index_until(clip: str, at: int, place: str) -> None:
    """Write the sidecar; die before the call to the system of this number, or in its middle, or after it."""
    seen = 0

    def deadly(call: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen != at:
            return call(*arguments, **options)
        if place == "after":
            with contextlib.suppress(OSError):  # a folder that is there, say
                call(*arguments, **options)
        elif place == "torn" and call.__name__ in ("write", "pwrite"):
            call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], *arguments[2:])
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    for name in _CALLS:
        setattr(os, name, functools.partial(deadly, getattr(os, name)))
    build_index(clip, scan="full").save(clip)


def kill_the_indexer(good: str, place: str, at: int, how: str, *, fresh: bool) -> str:
    """Whether the writer came to its end ("done"); what it left is right, old or new, or missing where it was fresh."""
    right = reference(good)
    shutil.rmtree(place, ignore_errors=True)
    clip = Path(shutil.copytree(Path(good).parent, place)) / Path(good).name
    if fresh:
        shutil.rmtree(f"{clip}.lance")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            _index_until(str(clip), at, how)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise WrongError(f"the writer failed by itself: {code}")
    try:
        video = LazyVideo(clip, on_missing_index="raise")
        damaged.read_in_pieces(video, right)
    except MissingIndexError as error:
        if not fresh:
            raise WrongError("the sidecar that was there is gone") from error
    except IndexStateError as error:
        raise WrongError(f"a killed writer left a sidecar that is damaged: {error}") from error
    build_index(clip).save(clip)
    damaged.read_in_pieces(LazyVideo(clip, on_missing_index="raise"), right)
    return "done" if code == 0 else "killed"


@pytest.mark.parametrize("place", ["before", "torn", "after"])
@pytest.mark.parametrize("fresh", [True, False])
@counts(2, 60)
def test_an_indexer_killed_at_each_of_its_calls(
    count: int, fresh: bool, place: str, good: Path, child: Child, tmp_path: Path
) -> None:
    """Calls 1, 2, ... until it comes to its end; by default two of them."""
    done = 0
    for at in range(1, 200) if count > 2 else (6, 11):
        where = str(tmp_path / "copy")
        outcome = child.ask(kill_the_indexer, good=str(good), place=where, at=at, how=place, fresh=fresh)
        assert outcome.kind == "right", (at, outcome)
        if outcome.what == "done":
            break
        done += 1
    print(f"{done} kills")  # noqa: T201
    assert done >= 2
    assert count == 2 or at < 199


def _index_again_and_again(clip: str) -> None:
    while True:
        build_index(clip, scan="full").save(clip)


@pytest.mark.chaos
@counts(1, 12)
def test_indexers_at_once_and_killed_while_others_read(
    count: int, good: Path, tmp_path: Path, rng: random.Random
) -> None:
    clip = Path(shutil.copytree(good.parent, tmp_path / "copy")) / good.name
    frames = reference(str(good)).frames
    context = multiprocessing.get_context("spawn")
    for _ in range(count):
        writers = [context.Process(target=_index_again_and_again, args=(str(clip),)) for _ in range(2)]
        before = Path(f"{clip}.lance/_versions").stat().st_mtime_ns
        for writer in writers:
            writer.start()
        assert wait_until(lambda before=before: Path(f"{clip}.lance/_versions").stat().st_mtime_ns != before)
        for writer in writers:
            for _ in range(3):
                assert torch.equal(LazyVideo(clip, on_missing_index="raise")[:], frames)
            time.sleep(rng.uniform(0, 0.3))
            writer.kill()
            writer.join()
        assert torch.equal(LazyVideo(clip, on_missing_index="raise")[:], frames)
