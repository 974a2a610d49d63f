"""The Numba loops of the 64-bit rANS coder under plain rows of cumulative frequencies, without a lookup.

A row r is cdf[starts[r] : starts[r] + sizes[r]]. What is coded becomes *intervals*, one uint32 each, in the
decoder's order: `start | freq << 16` with freq >= 1, or four bits as they are, 0..15.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

from ._rans64_loops import _LOW, _get_value, _high_product, _put_nibble
from ._symbols import BAD_CODE, OK, TRUNCATED, nibble_count

MAX_INTERVALS = 10
"""Of one symbol: its escape, the count of nibbles, and 8 nibbles."""

_COUNTED = np.uint64(32)
# Errors of the caller's, beside the statuses of `_symbols`.
BAD_ROW, BAD_SIZE, BAD_FALL, BAD_CELL = range(101, 105)


@njit(nogil=True, cache=True)
def check_used(indexes, cdf, starts, widths, sizes, checked):
    """Checks the rows that the indexes name, each once. Returns (status, position in indexes, place in row).

    A row in use has 2 <= size <= width and doesn't fall; to a slot all values below 0 are like 0.
    """
    for i in range(indexes.size):
        row = indexes[i]
        if not 0 <= row < sizes.size:
            return BAD_ROW, i, 0
        if checked[row]:
            continue
        size = sizes[row]
        if not 2 <= size <= widths[row]:
            return BAD_SIZE, i, 0
        last = np.int32(0)
        for k in range(size):
            value = max(np.int32(0), cdf[starts[row] + k])
            if value < last:
                return BAD_FALL, i, k
            last = value
        checked[row] = True
    return OK, 0, 0


@njit(nogil=True, cache=True)
def _wrapped(number):
    """The int32 that equals the int64 modulo 2^32, as int64."""
    return np.int64(np.int32(number & 0xFFFFFFFF))


@njit(nogil=True, cache=True)
def to_intervals(symbols, indexes, cdf, starts, sizes, offsets, intervals):
    """Writes what is coded for the symbols. Returns (status, number of intervals or position, cell).

    REQUIRES: rows in use checked; intervals.size >= MAX_INTERVALS * symbols.size.
    """
    count = 0
    for i in range(symbols.size):
        row = np.uint64(indexes[i])
        regular = np.int64(sizes[row]) - 2
        value = _wrapped(np.int64(symbols[i]) - np.int64(offsets[row]))
        cell = value if 0 <= value < regular else regular
        place = np.uint64(starts[row] + cell)
        start = np.int64(cdf[place])
        freq = np.int64(cdf[place + np.uint64(1)]) - start
        if not (start >= 0 and 1 <= freq <= 0xFFFF and start + freq <= 0x10000):
            return BAD_CELL, i, cell
        intervals[count] = np.uint32(start | freq << 16)
        count += 1
        if cell == regular:
            raw = -2 * value - 1 if value < 0 else 2 * (value - regular)
            nibbles = nibble_count(raw)
            intervals[count] = np.uint32(nibbles)
            for k in range(nibbles):
                intervals[count + 1 + k] = np.uint32(raw >> (4 * k) & 15)
            count += 1 + nibbles
    return OK, count, 0


@njit(nogil=True, cache=True)
def encode(intervals, reciprocals, shifts, x, words, position):
    """Codes intervals, the last first. The words go to words[position - 1] and downward.

    reciprocals, shifts: by frequency, as `rans64` makes them. Returns (state, position).
    REQUIRES: position >= intervals.size, since an interval takes one word at most.
    """
    for i in range(intervals.size - 1, -1, -1):
        interval = np.int64(intervals[i])
        freq, start = interval >> 16, interval & 0xFFFF
        if freq == 0:
            x, position = _put_nibble(start, x, words, position)
            continue
        # As in `_rans64_loops.encode`; in a function of its own it would take ten times as long.
        if x >> 47 >= freq:
            position -= 1
            words[position] = x & 0xFFFFFFFF
            x >>= 32
        quotient = _high_product(x, reciprocals[freq]) >> np.int64(shifts[freq])
        missing = 0xFFFF if freq == 1 else 0
        x += quotient * (0x10000 - freq) + (start + missing)
    return x, position


@njit(nogil=True, cache=True)
def decode(indexes, cdf, starts, sizes, offsets, x, position, words, symbols):
    """Decodes one pass. Returns (status, state or detail, position, cell that failed).

    REQUIRES: rows in use checked.
    """
    for i in range(indexes.size):
        row = np.uint64(indexes[i])
        slot = x & 0xFFFF
        # The last place of the row whose value isn't above the slot, if the first isn't. It is halved to few
        # values, which are counted: their loads don't wait for each other.
        place, rest = np.uint64(starts[row]), np.uint64(sizes[row])
        while rest > _COUNTED:
            half = rest >> np.uint64(1)
            place = place + half if cdf[place + half] <= slot else place
            rest -= half
        below = np.uint64(0)
        for k in range(np.uint64(1), rest):
            below += np.uint64(cdf[place + k] <= slot)
        place += below
        start = np.int64(cdf[place])
        cell = np.int64(place) - starts[row]
        regular = np.int64(sizes[row]) - 2
        if start > slot or cell > regular:
            return BAD_CODE, np.int64(i), position, cell
        freq = np.int64(cdf[place + np.uint64(1)]) - start
        if start < 0 or freq > 0xFFFF:
            return BAD_CELL, np.int64(i), position, cell
        x = freq * (x >> 16) + (slot - start)
        if x < _LOW:
            if position >= words.size:
                return TRUNCATED, x, position, cell
            x = x << 32 | np.int64(words[np.uint64(position)])
            position += 1
        value = cell
        if cell == regular:
            status, value, x, position = _get_value(regular, x, words, position)
            if status != OK:
                return status, value, position, cell
        symbols[i] = np.int32(value + np.int64(offsets[row]))
    return OK, x, position, np.int64(0)
