"""Damaged copies of files: cut, with one bit flipped, with a hole of zeros, as broken disks and uploads leave them."""

from __future__ import annotations

from pathlib import Path


def truncate(source: str | Path, target: str | Path, *, at: int) -> Path:
    """Copies the first bytes of a file.

    Args:
        source: the file, which stays as it is.
        target: the copy.
        at: how many bytes to keep; negative counts from the end.

    Returns:
        The copy's path.

    Raises:
        ValueError: if the file is not longer than that.
    """
    data = Path(source).read_bytes()
    _check(source, data, at if at >= 0 else len(data) + at)
    return _written(target, data[:at])


def flip_bit(source: str | Path, target: str | Path, *, offset: int, bit: int = 0) -> Path:
    """Copies a file with one bit changed.

    Args:
        source: the file, which stays as it is.
        target: the copy.
        offset: of the byte, from the start.
        bit: which one, 0 (lowest) to 7.

    Returns:
        The copy's path.

    Raises:
        ValueError: if there is no such bit.
    """
    data = bytearray(Path(source).read_bytes())
    _check(source, data, offset)
    if not 0 <= bit <= 7:
        raise ValueError(f"bit is 0 to 7, got {bit}")
    data[offset] ^= 1 << bit
    return _written(target, data)


def zero_run(source: str | Path, target: str | Path, *, start: int, length: int) -> Path:
    """Copies a file with a run of bytes set to zero.

    Args:
        source: the file, which stays as it is.
        target: the copy.
        start: offset of the first zero.
        length: number of zeros; they end with the file at the latest.

    Returns:
        The copy's path.

    Raises:
        ValueError: if the run does not begin inside the file.
    """
    data = bytearray(Path(source).read_bytes())
    _check(source, data, start)
    stop = min(start + max(length, 0), len(data))
    data[start:stop] = bytes(stop - start)
    return _written(target, data)


def _check(source: str | Path, data: bytes | bytearray, offset: int) -> None:
    if not 0 <= offset < len(data):
        raise ValueError(f"offset is 0 to {len(data) - 1} in {source}, got {offset}")


def _written(target: str | Path, data: bytes | bytearray) -> Path:
    path = Path(target)
    path.write_bytes(data)
    return path
