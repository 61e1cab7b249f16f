"""Damaged copies differ from their originals in exactly what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazyvid.testing import flip_bit, truncate, zero_run

DATA = bytes(range(1, 101))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


def test_truncate(source: Path, tmp_path: Path) -> None:
    assert truncate(source, tmp_path / "t", at=40).read_bytes() == DATA[:40]
    assert truncate(source, tmp_path / "t", at=-1).read_bytes() == DATA[:-1]
    assert truncate(source, tmp_path / "t", at=0).read_bytes() == b""


def test_flip_bit(source: Path, tmp_path: Path) -> None:
    flipped = flip_bit(source, tmp_path / "t", offset=7, bit=5).read_bytes()
    assert [(i, a ^ b) for i, (a, b) in enumerate(zip(DATA, flipped, strict=True)) if a != b] == [(7, 32)]


def test_zero_run(source: Path, tmp_path: Path) -> None:
    assert zero_run(source, tmp_path / "t", start=10, length=5).read_bytes() == DATA[:10] + bytes(5) + DATA[15:]
    assert zero_run(source, tmp_path / "t", start=98, length=50).read_bytes() == DATA[:98] + bytes(2)


def test_the_original_stays(source: Path, tmp_path: Path) -> None:
    truncate(source, tmp_path / "t", at=1)
    flip_bit(source, tmp_path / "t", offset=1)
    zero_run(source, tmp_path / "t", start=1, length=1)
    assert source.read_bytes() == DATA


def test_places_outside_the_file_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 100"):
        truncate(source, tmp_path / "t", at=100)
    with pytest.raises(ValueError, match="got -1"):
        flip_bit(source, tmp_path / "t", offset=-1)
    with pytest.raises(ValueError, match="got 8"):
        flip_bit(source, tmp_path / "t", offset=0, bit=8)
    with pytest.raises(ValueError, match="got 100"):
        zero_run(source, tmp_path / "t", start=100, length=1)
