"""What every coder's Numba loops share: statuses, slots to cells, escapes.

The callers made sure of types, shapes and table invariants; indexes are checked by the loops, where
they are used. Integers are int64 throughout, wide enough for every 32-bit state and product.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

# What a loop reports, first in its result; `_passes.py` makes exceptions of it.
OK, BAD_INDEX, TRUNCATED, BAD_NIBBLES, BAD_ESCAPE, BAD_CODE, BAD_STATE = range(7)
MAX_NIBBLES = 9
# The least state of a lane.
LANE_LOW = 1 << 16
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


@njit(nogil=True, cache=True)
def first_bad_index(indexes, rows):
    """Position of the first index outside 0..rows - 1, or -1."""
    for i in range(indexes.size):
        if not 0 <= indexes[i] < rows:
            return i
    return -1


@njit(nogil=True, cache=True)
def nibble_count(raw):
    """How many 4-bit nibbles the raw value of an escape has, without leading zeros."""
    nibbles = 0
    while raw >> (4 * nibbles) != 0:
        nibbles += 1
    return nibbles


@njit(nogil=True, cache=True)
def escaped(raw, offset, regular):
    """The symbol that the raw value of an escape stands for, as int64: it may lie outside int32."""
    if raw & 1:
        return offset - 1 - (raw >> 1)
    return offset + regular + (raw >> 1)


@njit(nogil=True, cache=True)
def find_cell(slot, row, rows, cells, buckets):
    """The cell of the row that holds the slot: its number n in the row, slot - start, and its frequency.

    For the escape it is ~n.
    """
    head = np.int64(rows[np.uint64(row) * np.uint64(4)])
    bucket = np.int64(buckets[np.uint64((head >> 5) + (slot >> (head & 31)))])
    distance, freq = slot - (bucket & 0xFFFF), bucket >> 16 & 0xFFFF
    # Selections, not branches: which of the two cells it is can't be predicted.
    beyond = distance >= freq
    cell = (bucket >> 48 & 0xFFFF) + beyond
    distance = distance - freq if beyond else distance
    freq = bucket >> 32 & 0xFFFF if beyond else freq
    if distance < freq:
        return cell, distance, freq
    cell = bucket >> 48 & 0xFFFF
    first = np.int64(rows[row * 4 + 1] + rows[row * 4 + 2]) & 0xFFFFFFFF
    while True:
        record = np.int64(cells[np.uint64(first + cell)])
        distance, freq = slot - (record & 0xFFFF), record >> 16 & 0xFFFF
        if distance < freq:
            # Its flag makes the record of an escape negative.
            return ~cell if record < 0 else cell, distance, freq
        cell += 1
