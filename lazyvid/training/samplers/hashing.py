"""Random numbers as pure functions: 64 bits that follow from a few integers, the same on every machine and version.

numpy's generators promise no stable streams over its versions, and a stream must be run through to reach its n-th
number. Here every number is asked for by name, so that a plan can be resumed anywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UintArray = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def hashed(*words: int | npt.NDArray[np.int64] | UintArray) -> UintArray:
    """Uniform 64 bits for each tuple of words.

    Each word is added and mixed in by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", OOPSLA 2014; constants of Stafford's variant 13).

    Args:
        words: Ints in [-2**63, 2**64), or arrays of them that broadcast.

    Returns:
        uint64, of the words' common shape.
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        bits = np.uint64(word & _MASK) if isinstance(word, int) else word.astype(np.uint64, copy=False)
        state = _mix((state ^ bits) + _STEP)
    return state if any(isinstance(word, np.ndarray) and word.ndim for word in words) else state.reshape(())


def below(bits: UintArray, bound: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Random bits as ints in [0, bound); the modulo's bias is below bound / 2**64.

    Args:
        bits: uint64, uniform.
        bound: Positive.
    """
    limit = np.uint64(bound) if isinstance(bound, int) else bound.astype(np.uint64, copy=False)
    return (bits % limit).astype(np.int64)


def unit(bits: UintArray) -> npt.NDArray[np.float64]:
    """Random bits as float64 in [0, 1), multiples of 2**-53."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: UintArray) -> UintArray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
