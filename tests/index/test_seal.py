from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyvid.index import seal

NAME = "00111000101010110110101100161117cfd481e9a0b1c2d3e4.lance"  # digits that could be lengths, as Lance makes them


def manifest(rest: bytes = b"") -> bytes:
    name = b"\n" + bytes([len(NAME)]) + NAME.encode()
    return b"\x12f" + name + rest + seal.PLACEHOLDER.encode() + b"\x12\n" + name + seal.PLACEHOLDER.encode() + b"LANC"


@given(rest=st.binary(max_size=50), data=st.binary(max_size=100))
def test_a_seal_fits_what_was_sealed(rest: bytes, data: bytes) -> None:
    sealed = seal.sealed(manifest(rest), data)
    found = seal.read_seal(sealed)
    assert len(sealed) == len(manifest(rest))
    assert found is not None
    assert found.intact
    assert found.data_name == NAME
    assert found.fits(data)
    assert not found.fits(data + b"x")


def test_every_flipped_bit_of_a_manifest_breaks_the_seal() -> None:
    sealed = seal.sealed(manifest(), b"data")
    for position in range(len(sealed)):
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[position] ^= 1 << bit
            found = seal.read_seal(bytes(damaged))
            assert found is None or not found.intact or not found.fits(b"data")


def test_other_manifests_have_no_seal() -> None:
    assert seal.read_seal(b"\x00\x01LANC") is None
    with pytest.raises(ValueError, match="placeholder"):
        seal.sealed(b"LANC", b"data")
