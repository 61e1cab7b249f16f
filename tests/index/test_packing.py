"""A packed index comes back as it was, and damage to it is known."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from index_samples import indexes, make_index, same

from lazyvid.errors import CorruptIndexError
from lazyvid.index import FrameIndex, build_index
from lazyvid.index.packing import pack_index, unpack_index
from lazyvid.testing import VideoCorpus


@given(indexes())
def test_what_is_packed_is_unpacked(index: FrameIndex) -> None:
    assert same(unpack_index(pack_index(index)), index)


def test_a_real_index_takes_few_bytes(corpus: VideoCorpus) -> None:
    index = build_index(corpus["h264_gop250"])
    packed = pack_index(index)
    assert same(unpack_index(packed), index)
    assert len(packed) < 1000 + 4 * len(index)


def test_damage_is_known() -> None:
    packed = pack_index(make_index(40))
    chosen = random.Random(0)
    for _ in range(200):
        damaged = bytearray(packed)
        kind = chosen.choice(["flip", "cut", "zero"])
        at = chosen.randrange(len(packed))
        if kind == "flip":
            damaged[at] ^= 1 << chosen.randrange(8)
        elif kind == "cut":
            del damaged[at:]
        else:
            damaged[at : at + 8] = bytes(len(damaged[at : at + 8]))
        if bytes(damaged) != packed:
            with pytest.raises(CorruptIndexError, match="packed index"):
                unpack_index(damaged)
