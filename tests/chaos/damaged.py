"""Videos to be damaged, ways to damage them, and what must be true of what is then read."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from children import WrongError

from lazyvid import FrameIndex, LazyVideo, build_index
from lazyvid.testing import write_video

FRAMES = 24
SMALL = ("mp4", "faststart", "fragmented", "hybrid", "mkv", "webm")
FORMATS = (*SMALL, "large mkv", "large webm")
_FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
Damage = tuple[tuple[str, int, int], ...]
"""Steps ("cut" | "flip" | "zero" | "write", offset, length, bit or value)."""


def write(folder: Path, name: str) -> Path:
    """A small video of a format.

    Of Matroska the fingerprint covers the first and last 64 KB, so the large files have more: what lies between is for
    the checksums alone to judge.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"frames": FRAMES, "gop": 6, "width": 64, "height": 48}
    flags = {"faststart": "faststart", "fragmented": _FRAGMENTED, "hybrid": "hybrid_fragmented"}
    large = {**shape, "width": 320, "height": 240}
    if name == "webm":
        return write_video(folder / "clip.webm", codec="libvpx-vp9", **shape)
    if name == "large webm":
        return write_video(folder / "clip.webm", codec="libvpx-vp9", options={"lossless": "1"}, **large)
    if name == "mkv":
        return write_video(folder / "clip.mkv", b_frames=2, **shape)
    if name == "large mkv":
        return write_video(folder / "clip.mkv", b_frames=2, options={"qp": "2"}, **large)
    options = {"movflags": flags[name]} if name in flags else None
    return write_video(folder / "clip.mp4", b_frames=2, muxer_options=options, **shape)


def spoil(data: bytes, damage: Damage) -> bytes:
    """The bytes, damaged."""
    spoilt = bytearray(data)
    for kind, at, value in damage:
        if kind == "cut":
            del spoilt[at:]
        elif kind == "flip":
            spoilt[at] ^= 1 << value
        elif kind == "zero":
            spoilt[at : at + value] = bytes(len(spoilt[at : at + value]))
        else:
            spoilt[at] = value
    return bytes(spoilt)


def draw(rng: random.Random, size: int, header: range) -> Damage:
    """A cut, a flipped bit or a run of zeros, in the headers as often as in the payload."""
    at = rng.choice(header) if rng.random() < 0.5 and len(header) else rng.randrange(size)
    kind = rng.choice(["cut", "flip", "flip", "flip", "zero", "write"])
    if kind == "cut":
        return (("cut", max(1, at), 0),)
    if kind == "flip":
        return (("flip", at, rng.randrange(8)),)
    if kind == "zero":
        return (("zero", at, rng.choice([1, 4, 16, 512, 4096])),)
    return tuple(("write", min(size - 1, at + k), rng.randrange(256)) for k in range(rng.choice([1, 4])))


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, stop) of the boxes of an MP4, those inside others too."""
    yield from _boxes(data, 0, len(data))


_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"dinf", b"udta", b"mfra")


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= stop:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        size = int.from_bytes(data[start + 8 : start + 16], "big") if size == 1 else size or stop - start
        end = min(stop, start + max(8, size))
        yield kind, start, end
        if kind in _PARENTS:
            yield from _boxes(data, start + 8, end)
        start = end


_REFERENCE = b"\0\0\0\x0curl \0\0\0\1"
"""A data reference that says: the samples lie in this file."""


def referring(data: bytes, entry: bytes) -> bytes:
    """An MP4 whose data reference is another one; the boxes around it grow, and what they point to stays in place."""
    at = data.index(_REFERENCE)
    spoilt = bytearray(data)
    for kind, start, stop in boxes(data):
        if kind in (*_PARENTS, b"dref") and start < at < stop:
            spoilt[start : start + 4] = struct.pack(">I", stop - start + len(entry) - len(_REFERENCE))
    spoilt[at : at + len(_REFERENCE)] = entry
    return bytes(spoilt)


def url_entry(name: str) -> bytes:
    """A data reference that names another file."""
    location = name.encode() + b"\0"
    return struct.pack(">I4sI", 12 + len(location), b"url ", 0) + location


def header_of(path: Path) -> range:
    """Where most of a file's headers lie: its moov, or else its first bytes."""
    data = path.read_bytes()
    if path.suffix == ".mp4":
        return next(range(start, stop) for kind, start, stop in boxes(data) if kind == b"moov")
    return range(min(600, len(data)))


# -- cases: run in a child process -------------------------------------------------------------------------------------


def warm() -> None:
    """Import and start what every case needs."""
    torch.set_num_threads(1)
    import lance  # noqa: F401


class Reference(NamedTuple):
    """What the undamaged file gives."""

    index: FrameIndex
    """The full one."""
    frames: torch.Tensor
    timestamps: torch.Tensor


@cache
def reference(good: str) -> Reference:
    """What an undamaged file gives."""
    index = build_index(good, scan="full")
    clip = LazyVideo(good, frame_index=index).get_frames_at(range(FRAMES))
    return Reference(index, clip.frames, clip.timestamps)


def with_the_index(good: str, damaged: str, damage: Damage) -> str:
    """By the index of the undamaged file, checksums included: each frame is the right one or is refused."""
    right = reference(good)
    Path(damaged).write_bytes(spoil(Path(good).read_bytes(), damage))
    video = LazyVideo(damaged, frame_index=right.index)
    return read_in_pieces(video, right)


def read_in_pieces(video: LazyVideo, right: Reference) -> str:
    """Each frame is the right one, at its time and under its number, or is refused."""
    frames = right.frames
    if len(video) != len(frames):
        raise WrongError(f"{len(video)} frames instead of {len(frames)}")
    refused: Exception | None = None
    given = 0
    for start in range(0, len(frames), 6):
        wanted = list(range(start, min(start + 6, len(frames))))
        try:
            clip = video.get_frames_at(wanted)
        except Exception as error:
            refused = error
            continue
        given += len(wanted)
        if not torch.equal(clip.frames, frames[wanted]):
            raise WrongError(f"wrong pixels among frames {wanted}")
        if not torch.equal(clip.timestamps, right.timestamps[wanted]):
            raise WrongError(f"frames {wanted} at {clip.timestamps.tolist()}")
        if clip.frame_indices.tolist() != wanted:
            raise WrongError(f"frames {clip.frame_indices.tolist()} instead of {wanted}")
    if refused is not None:
        refused.add_note(f"{given} frames were given")
        raise refused
    return "all frames"


def without_an_index(good: str, damaged: str, damage: Damage, scan: str = "full") -> str:
    """Indexed after the damage: opened or refused. A file that is only cut gives the frames before the cut, or none."""
    frames = reference(good).frames
    Path(damaged).write_bytes(spoil(Path(good).read_bytes(), damage))
    video = LazyVideo(damaged, frame_index=build_index(damaged, scan=scan))  # type: ignore[arg-type]
    given = video[:]
    if all(kind == "cut" for kind, _, _ in damage) and not torch.equal(given, frames[: len(given)]):
        raise WrongError(f"a cut file gives {len(given)} frames that are not the first ones")
    return f"{len(given)} frames"


def whatever(path: str) -> str:
    """A file that may hold anything: opened and read, or refused."""
    for scan in ("header", "full"):
        index = build_index(path, scan=scan)  # type: ignore[arg-type]
        LazyVideo(path, frame_index=index)[:]
    return f"{len(index)} frames"


def nothing_but_its_own(good: str, path: str) -> str:
    """A file with the payload of a good one and headers that lie: all of its frames, or it is refused."""
    for scan in ("header", "full"):
        index = build_index(path, scan=scan)  # type: ignore[arg-type]
        if not torch.equal(LazyVideo(path, frame_index=index)[:], reference(good).frames):
            raise WrongError(f"other frames after a {scan} scan")
    return "all frames"
