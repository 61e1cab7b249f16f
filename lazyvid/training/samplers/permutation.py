"""A random order of n things that is never written down: a keyed permutation, asked for any of its places."""

from __future__ import annotations

import numpy as np

from lazyvid.training.extents import IntArray
from lazyvid.training.samplers.hashing import UintArray, below, hashed

_ROUNDS = 16
"""Even: each half is changed as often as the other. With 16, no order of 7 things is more likely than another within
what 200,000 keys can tell (`test_small_orders_are_equally_likely`); the larger the halves, the fewer would do."""


def permuted(places: IntArray, size: int | IntArray, key: UintArray) -> IntArray:
    """What stands at these places of a random permutation of 0, ..., size - 1.

    A generalised Feistel network over Z_a x Z_b with a * b just above `size`, and cycle walking where it leads outside
    (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002): memory and time a place do not depend on
    `size`. As a * b < size + a, hardly anything walks.

    Args:
        places: int64 [K], each in [0, size).
        size: Things to be ordered: of all places, or int64 [K], of each place's own permutation.
        key: uint64 [] or [K], names the permutation.

    Returns:
        int64 [K]; all places of one key together give each number once.
    """
    sizes = np.broadcast_to(np.asarray(size, np.int64), places.shape)
    # Where a and b are odd, all rounds are even permutations: a coin exchanges the first two things, or does not.
    coin = (hashed(key, _ROUNDS) & np.uint64(1)).astype(np.int64)
    found = _network(np.where((places < 2) & (sizes > 1), places ^ coin, places), sizes, key)
    walking = np.flatnonzero(found >= sizes)
    while len(walking):
        found[walking] = _network(found[walking], sizes[walking], key[walking] if key.ndim else key)
        walking = walking[found[walking] >= sizes[walking]]
    return found


def _network(values: IntArray, sizes: IntArray, keys: UintArray) -> IntArray:
    """A permutation of the pairs (high, low) in Z_b x Z_a, of which `values` are the numbers."""
    a = np.ceil(np.sqrt(sizes)).astype(np.int64)
    b = -(-sizes // a)
    high, low = np.divmod(values, a)
    for number in range(_ROUNDS):
        round_key = hashed(keys, number)
        if number % 2:
            high = (high + below(hashed(round_key, low), b)) % b
        else:
            low = (low + below(hashed(round_key, high), a)) % a
    return high * a + low
