"""MP4 files that say that their frames lie in the file beside them: refused, or their own frames, never the other's."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import damaged
import pytest
import torch
from damaged import referring, url_entry

from lazyvid import LazyVideo, build_index
from lazyvid.errors import LazyVidError, NotAVideoError
from lazyvid.testing import write_video


def _alias(name: str) -> bytes:
    """The reference of QuickTime, an alias record, as FFmpeg reads it: names at fixed places, then a path in tags."""
    path = name.encode()
    record = bytearray(150)
    record[10] = len(b"volume")
    record[11:17] = b"volume"
    record[50] = len(path)
    record[51 : 51 + len(path)] = path
    tags = struct.pack(">HH", 2, len(path)) + path + b"\0" * (len(path) % 2) + struct.pack(">hH", -1, 0)
    return struct.pack(">I4sI", 12 + len(record) + len(tags), b"alis", 0) + bytes(record) + tags


REFERENCES: dict[str, Callable[[Path], bytes]] = {
    "name": lambda beside: url_entry(beside.name),
    "path": lambda beside: url_entry(str(beside)),
    "url": lambda beside: url_entry(beside.as_uri()),
    "alias": lambda beside: _alias(beside.name),
    "own file, named": lambda beside: (
        struct.pack(">I4sI", 13 + len(beside.name), b"url ", 1) + beside.name.encode() + b"\0"
    ),
}


@pytest.mark.filterwarnings("ignore:No frame index")
@pytest.mark.parametrize("kind", ["mp4", "fragmented"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_file_that_is_named_is_not_read(
    kind: str, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a bare name is looked for here, too
    good = damaged.write(tmp_path / "good", kind)
    own = LazyVideo(good)[:]
    shape = {"frames": damaged.FRAMES, "gop": 6, "width": 64, "height": 48}
    beside = write_video(tmp_path / "clip.mp4", b_frames=2, first_number=500, **shape)
    hostile = tmp_path / "hostile.mp4"
    hostile.write_bytes(referring(good.read_bytes(), REFERENCES[reference](beside)))
    with hostile.open("rb") as file, av.open(file, format="mp4") as container:  # a file that FFmpeg takes
        assert len(container.streams.video) == 1
    refused = 0
    for scan in ("header", "full"):
        try:
            frames = LazyVideo(hostile, frame_index=build_index(hostile, scan=scan))[:]  # type: ignore[arg-type]
        except NotAVideoError:
            refused += 1
        else:
            assert torch.equal(frames, own)
    assert refused == (0 if reference.startswith("own") else 2)
    with pytest.raises(LazyVidError):  # the index of the file whose frames they are claimed to be
        LazyVideo(hostile, frame_index=build_index(beside))[:]
