"""The Numba loops of the 64-bit rANS coder. Types, shapes and table invariants are their callers' business.

The state x is in [2^31, 2^63) between intervals, so it and all products fit an int64.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ._symbols import (
    BAD_ESCAPE,
    BAD_INDEX,
    BAD_NIBBLES,
    INT32_MAX,
    INT32_MIN,
    MAX_NIBBLES,
    OK,
    TRUNCATED,
    escaped,
    find_cell,
    nibble_count,
)

_LOW = 1 << 31
_INT64, _INT128 = ir.IntType(64), ir.IntType(128)


@intrinsic
def _high_product(typing_context, a, b):
    """The upper 64 bits of the 128-bit product of an int64 >= 0 and a uint64."""

    def generate(context, builder, signature, arguments):
        product = builder.mul(*(builder.zext(argument, _INT128) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(_INT128, 64)), _INT64)

    return types.int64(types.int64, types.uint64), generate


@njit(nogil=True, cache=True)
def _put_nibble(nibble, x, words, position):
    """Codes four bits as they are. Returns (state, position)."""
    if x >> 59 != 0:
        position -= 1
        words[position] = x & 0xFFFFFFFF
        x >>= 32
    return x << 4 | nibble, position


@njit(nogil=True, cache=True)
def encode(codes, raws, reciprocals, shifts, x, words, position):
    """Codes one pass, its last symbol first. The words go to words[position - 1] and downward.

    reciprocals, shifts: by frequency, as `rans64` makes them. Returns (state, position).
    REQUIRES: position >= codes.size + 10 * raws.size, since an interval takes one word at most.
    """
    escapes = raws.size
    for i in range(codes.size - 1, -1, -1):
        code = np.int64(codes[i])
        freq, start = code >> 16, code & 0xFFFF
        if freq == 0:
            escapes -= 1
            raw = raws[escapes]
            nibbles = nibble_count(raw)
            for k in range(nibbles - 1, -1, -1):
                x, position = _put_nibble(raw >> (4 * k) & 15, x, words, position)
            x, position = _put_nibble(nibbles, x, words, position)
            freq, start = start, 0x10000 - start
        # Once is enough: x >> 32 < 2^31 <= freq << 47.
        if x >> 47 >= freq:
            position -= 1
            words[position] = x & 0xFFFFFFFF
            x >>= 32
        quotient = _high_product(x, reciprocals[freq]) >> np.int64(shifts[freq])
        # For freq = 1 the quotient comes out as x - 1 (`rans64._reciprocals`).
        missing = 0xFFFF if freq == 1 else 0
        x += quotient * (0x10000 - freq) + (start + missing)
    return x, position


@njit(nogil=True, cache=True)
def _get_nibble(x, words, position):
    """Four bits as they are. Returns (nibble, state, position)."""
    nibble, x = x & 15, x >> 4
    if x < _LOW:
        if position >= words.size:
            return nibble, np.int64(0), position
        x = x << 32 | np.int64(words[position])
        position += 1
    return nibble, x, position


@njit(nogil=True, cache=True)
def _get_value(regular, x, words, position):
    """What follows an escape. Returns (status, symbol - offset modulo 2^32 or detail, state, position)."""
    count, x, position = _get_nibble(x, words, position)
    if count > MAX_NIBBLES:
        return BAD_NIBBLES, count, x, position
    raw, nibble = np.int64(0), np.int64(1)
    for k in range(count):
        nibble, x, position = _get_nibble(x, words, position)
        raw |= nibble << (4 * k)
    value = escaped(raw, 0, regular)
    if x == 0:
        return TRUNCATED, value, x, position
    # Nine nibbles are never within int32.
    legal = nibble != 0 and INT32_MIN <= value <= INT32_MAX
    return OK if legal else BAD_ESCAPE, value, x, position


@njit(nogil=True, cache=True)
def decode(indexes, rows, cells, buckets, x, position, words, symbols):
    """Decodes one pass. Returns (status, state or detail, position)."""
    for i in range(indexes.size):
        row = indexes[i]
        if not 0 <= row < rows.size >> 2:
            return BAD_INDEX, np.int64(i), position
        value, distance, freq = find_cell(x & 0xFFFF, row, rows, cells, buckets)
        x = freq * (x >> 16) + distance
        # Not in a function of its own: as a selection it would triple the time of the whole loop.
        if x < _LOW:
            if position >= words.size:
                return TRUNCATED, x, position
            x = x << 32 | np.int64(words[np.uint64(position)])
            position += 1
        if value < 0:
            status, value, x, position = _get_value(~value, x, words, position)
            if status != OK:
                return status, value, position
        symbols[i] = np.int32(value + np.int64(rows[row * 4 + 2]))
    return OK, x, position
