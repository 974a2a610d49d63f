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
def _mixed(word, key):
    mixed = word ^ key
    return (mixed & _LOW) * (mixed >> _HALF) + word


@njit(nogil=True, cache=True)
def _chained(state, total):
    state = (state ^ total) * _PRIME
    return state ^ state >> _TURN


@njit(nogil=True, cache=True)
def digest(words, key, state):
    """uint64 of the uint64 `words` after what gave `state`.

    In a block each word adds itself and the product of its halves, under a key for its place: sums that
    LLVM makes in vectors. Blocks are chained by a multiplication, so that their sequence counts.
    """
    # Four blocks at once are read from memory in 2/3 of the time: CPUs fetch ahead in several pages.
    together = len(words) - len(words) % (4 * _BLOCK)
    for start in range(0, together, 4 * _BLOCK):
        first, second = words[start:], words[start + _BLOCK :]
        third, fourth = words[start + 2 * _BLOCK :], words[start + 3 * _BLOCK :]
        a = b = c = d = np.uint64(0)
        for i in range(_BLOCK):
            a += _mixed(first[i], key[i])
            b += _mixed(second[i], key[i])
            c += _mixed(third[i], key[i])
            d += _mixed(fourth[i], key[i])
        for total in (a, b, c, d):
            state = _chained(state, total)
    for start in range(together, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        total = np.uint64(0)
        for i in range(len(block)):
            total += _mixed(block[i], key[i])
        state = _chained(state, total)
    return state
