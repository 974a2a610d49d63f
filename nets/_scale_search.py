"""The compiled loops of `scale_search`, on 1-D arrays."""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from functools import cache

import numpy as np
from numba import njit

from ..entropy._simd import block, gather, load, signed_max, some, splat, store

_INFINITY, _MAGNITUDE = 0x7F800000, 0x7FFFFFFF
# Scales that are searched together.
_BLOCK = 64


@njit(nogil=True, cache=True)
def _search_run(bits, begin, low, shift, records, indexes):
    """`search` from `begin` on."""
    nans = False
    below = np.uint32((1 << shift) - 1)
    for i in range(begin, bits.size):
        nans |= (np.int64(bits[i]) & _MAGNITUDE) > _INFINITY
        scale = np.uint32(max(bits[i], low))
        record = np.uint32(records[np.uint64(scale >> np.uint32(shift))])
        indexes[i] = np.int32(np.uint32(record + (scale & below)) >> np.uint32(shift))
    return nans


@njit(nogil=True, cache=True)
def _search_blocks(vector, bits, low, shift, records, indexes):
    """`search` of all whole blocks. Returns (end, whether any scale is NaN)."""
    end = bits.size - bits.size % _BLOCK
    below = (1 << shift) - 1
    nans = splat(vector, 0) != 0
    for begin in range(0, end, _BLOCK):
        signed = load(vector, bits, begin)
        nans = nans | ((signed & _MAGNITUDE) >= _INFINITY + 1)
        scale = signed_max(signed, low)
        store(indexes, begin, (gather(records, scale >> shift) + (scale & below)) >> shift)
    return end, some(nans)


@njit(nogil=True, cache=True)
def _search(vector, bits, low, shift, records, indexes):
    begin, nans = 0, False
    if vector is not None:
        begin, nans = _search_blocks(vector, bits, low, shift, records, indexes)
    return nans | _search_run(bits, begin, low, shift, records, indexes)


@cache
def search_loop(level):
    """`search` at a level of `_simd.LEVELS`."""

    @njit(nogil=True, cache=True)
    def search(bits, low, shift, records, indexes):
        """indexes[i] = how many thresholds lie below scale i, or below the bound if that is greater.

        bits: the float32 scales as int32; low: the bound's, 0 or more; records: int32, one for each bucket of
        2**shift successive floats: the number of thresholds below it, times 2**shift, plus 2**shift - 1 minus
        the place in the bucket of the one threshold there, which places of greater floats carry upward; or
        plus 0 where there is none. Returns whether any scale is NaN; its index is then meaningless.

        Positive floats are in the sequence of their bits, and negative ones are negative as integers, too.
        """
        return _search(block(level, _BLOCK), bits, low, shift, records, indexes)

    return search
