"""Symbols to codes, in vectors where the CPU has them.

A *code* is the uint32 that stands for one symbol: `start | freq << 16`, or, for an escape, the frequency
of the row's escape cell alone (so the upper half is 0; that cell is the last, so it starts at
2**precision - freq). The payload of each escape follows in `raws`, int64, in the order of the symbols.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from functools import cache

import numpy as np
from numba import njit

from ._simd import block, gather, gather_pair, load, select, some, splat, store, total
from ._symbols import nibble_count

# Symbols that become codes together.
_BLOCK = 64


@njit(nogil=True, cache=True)
def _code_run(symbols, indexes, begin, end, rows, cells, codes, raws, places, escapes):
    """Writes the codes of symbols[begin:end]. Returns (bad position or -1, escapes so far, cost).

    `escapes` counts those before `begin`. Where more escapes are found than fit `raws`, the call is to
    be repeated with room for that many. The cost is in units of 2**-10 bit.
    """
    cost, count = 0, rows.size >> 2
    for i in range(begin, end):
        row = np.int64(indexes[np.uint64(i)])
        if not 0 <= row < count:
            return i, escapes, cost
        head = np.uint64(row) * np.uint64(4)
        offset = np.int64(np.int32(rows[head + np.uint64(2)]))
        regular = np.int64(rows[head + np.uint64(3)])
        above = np.int64(symbols[np.uint64(i)]) - offset
        first = (np.int64(rows[head + np.uint64(1)]) + offset) & 0xFFFFFFFF
        if 0 <= above < regular:
            cell = cells[np.uint64(first + above)]
            codes[np.uint64(i)] = np.uint32(cell)
            cost += np.int64(cell >> np.uint64(48))
            continue
        raw = 2 * (above - regular) if above >= 0 else -2 * above - 1
        if escapes < raws.size:
            raws[escapes] = raw
            places[escapes] = i
        escapes += 1
        cell = np.int64(cells[first + regular])
        codes[i] = cell >> 16 & 0xFFFF
        cost += (cell >> 48 & 0x7FFF) + ((4 + 4 * nibble_count(raw)) << 10)
    return -1, escapes, cost


@njit(nogil=True, cache=True)
def _code_blocks(vector, symbols, indexes, begin, rows, cells, codes):
    """Writes the codes of whole blocks from `begin` on. Returns (end, their cost in 2**-10 bit)."""
    row_count = rows.size >> 2
    cost = splat(vector, 0)
    # The costs of 65,536 blocks, each below 2^15, stay below 2^32.
    end = min(symbols.size, begin + _BLOCK * 65536)
    while begin + _BLOCK <= end:
        row = load(vector, indexes, begin)
        bad = row >= row_count
        row = select(bad, 0, row)
        place = load(vector, symbols, begin) + gather(rows, (row << 2) + 1)
        outside = place >= cells.size
        low, high = gather_pair(cells, select(outside, 0, place))
        # The record's row is another's or, by its flag, an escape's: the symbol isn't one of the row's.
        if some(bad | outside | ((high & 0xFFFF) != row) | (high >= 1 << 31)):
            break
        store(codes, begin, low)
        cost = cost + (high >> 16)
        begin += _BLOCK
    return begin, total(cost)


@njit(nogil=True, cache=True)
def _to_codes(vector, symbols, indexes, rows, cells, codes, raws, places):
    begin, escapes, cost = 0, 0, 0
    while begin < symbols.size:
        end = symbols.size
        if vector is not None:
            begin, block_cost = _code_blocks(vector, symbols, indexes, begin, rows, cells, codes)
            cost += block_cost
            end = min(begin + _BLOCK, end)
        bad, escapes, run_cost = _code_run(
            symbols, indexes, begin, end, rows, cells, codes, raws, places, escapes
        )
        if bad >= 0:
            return bad, escapes, cost
        cost += run_cost
        begin = end
    return -1, escapes, cost


@cache
def coding_loop(level):
    """The loop from symbols to codes at a level of `_simd.LEVELS`."""

    @njit(nogil=True, cache=True)
    def to_codes(symbols, indexes, rows, cells, codes, raws, places):
        """Returns (bad position or -1, escapes, cost), with room as `_code_run` wants it."""
        return _to_codes(block(level, _BLOCK), symbols, indexes, rows, cells, codes, raws, places)

    return to_codes
