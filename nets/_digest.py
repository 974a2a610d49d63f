"""A fast digest of arrays, for noticing that they changed. It is no protection against forgers."""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

_BLOCK = 1024
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_LOW, _HALF, _TURN = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(29)
KEY = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 64, _BLOCK, np.uint64)


@njit(nogil=True, cache=True)
def digest(words, key, state):
    """uint64 of the uint64 `words` after what gave `state`.

    In a block each word adds itself and the product of its halves, under a key for its place: sums that
    LLVM makes in vectors. Blocks are chained by a multiplication, so that their sequence counts.
    """
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        total = np.uint64(0)
        for i in range(len(block)):
            mixed = block[i] ^ key[i]
            total += (mixed & _LOW) * (mixed >> _HALF) + block[i]
        state = (state ^ total) * _PRIME
        state ^= state >> _TURN
    return state
