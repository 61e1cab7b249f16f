"""Extents of whatever a dataset is made from, and of parts of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lazyvid.training.extents import Extents
from lazyvid.video import LazyVideo


def rows(extents: Extents) -> list[tuple[int, int, int]]:
    columns = (extents.videos.tolist(), extents.first.tolist(), extents.stop.tolist())
    return list(zip(*columns, strict=True))


WHOLE = [(0, 0, 5), (1, 0, 0), (2, 0, 9)]


def test_frame_counts_of_any_kind() -> None:
    for counts in ([5, 0, 9], (5, 0, 9), np.array([5, 0, 9], np.int32), SimpleNamespace(frame_counts=[5, 0, 9])):
        extents = Extents.of(counts)
        assert rows(extents) == WHOLE
        assert extents.nbytes is None
        assert extents.counts.tolist() == [5, 0, 9]
        assert extents.first.dtype == extents.stop.dtype == np.int64
    assert len(Extents.of([])) == 0


def test_what_has_extents_gives_its_own() -> None:
    extents = Extents(np.array([1]), np.array([4]))
    assert Extents.of(extents) is extents
    assert Extents.of(SimpleNamespace(extents=extents)) is extents


def test_a_source_gives_counts_and_bytes() -> None:
    extents = Extents.of(SimpleNamespace(frame_counts=np.array([5, 9]), nbytes=np.array([50, 90])))
    assert extents.nbytes is not None
    assert extents.nbytes.tolist() == [50, 90]


def test_videos_give_counts_and_the_bytes_of_their_frames(folder: Path) -> None:
    video = LazyVideo(folder / "2.mp4")
    half = video.lazy_slice(0.0, 19.5 / 30)
    extents = Extents.of([video, half])
    assert rows(extents) == [(0, 0, 40), (1, 0, 20)]
    assert extents.nbytes is not None
    whole, part = extents.nbytes.tolist()
    assert whole == video.frame_index.packets.size.sum()
    assert 0 < part < whole < (folder / "2.mp4").stat().st_size


def test_they_cannot_be_changed_and_survive_a_pickle() -> None:
    counts = np.array([5, 9])
    extents = Extents.of(counts)
    counts[0] = 1
    assert rows(extents) == [(0, 0, 5), (1, 0, 9)]
    with pytest.raises(ValueError, match="read-only"):
        extents.stop[0] = 1
    assert rows(pickle.loads(pickle.dumps(extents))) == rows(extents)


def test_parts_of_recordings() -> None:
    whole = Extents(np.array([0, 2]), np.array([10, 8]), np.array([100, 60]), np.array([7, 9]))
    parts = Extents.intervals(whole, [(1, 2, 5), (0, 5, 10), (1, 6, 6)])
    assert rows(parts) == [(9, 2, 5), (7, 5, 10), (9, 6, 6)]
    assert parts.nbytes is not None
    assert parts.nbytes.tolist() == [30, 50, 0]
    for outside in ((2, 0, 1), (-1, 0, 1), (1, 1, 4), (0, 3, 11), (0, 4, 3)):
        with pytest.raises(ValueError, match="inside the usable frames of 2 recordings"):
            Extents.intervals(whole, [(0, 0, 1), outside])
    assert len(Extents.intervals([], np.empty((0, 3)))) == 0


def test_fewer_recordings_and_fewer_frames() -> None:
    extents = Extents.of([5, 0, 9])
    assert rows(extents.select(np.array([2, 0]))) == [(2, 0, 9), (0, 0, 5)]
    assert rows(extents.trimmed(2, 1)) == [(0, 2, 4), (1, 0, 0), (2, 2, 8)]
    assert rows(extents.trimmed(4, 4)) == [(0, 4, 4), (1, 0, 0), (2, 4, 5)]


def test_a_digest_names_frames_and_videos() -> None:
    extents = Extents.of([5, 9])
    others = [
        Extents.of([5, 8]),
        Extents.of([9, 5]),
        Extents(np.array([0, 1]), extents.stop),
        extents.select(np.array([1, 0])),
    ]
    assert len({other.digest() for other in [extents, *others]}) == 5
    assert Extents(extents.first, extents.stop, np.array([1, 2]), np.array([0, 1])).digest() == extents.digest()


def test_what_is_no_extent_is_refused() -> None:
    for wrong in ("a folder", 5, [5, "b"], np.array([1.0]), [True, None]):
        with pytest.raises(TypeError, match="frame counts"):
            Extents.of(wrong)
    with pytest.raises(ValueError, match="stop -1 for recording 1"):
        Extents.of([5, -1])
    with pytest.raises(ValueError, match="first 4 and stop 3"):
        Extents(np.array([4]), np.array([3]))
    with pytest.raises(ValueError, match=r"Extents\.nbytes"):
        Extents(np.array([0]), np.array([3]), np.array([1, 2]))
