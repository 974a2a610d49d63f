"""The Numba loops of the range coder. Types, shapes and table invariants are their callers' business."""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

from ._symbols import (
    BAD_CODE,
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

_WIDTH_LOW = 1 << 24

# The most bytes that one symbol writes: two for each of an escape's intervals.
SYMBOL_BYTES = 2 * (2 + MAX_NIBBLES)

# `decode` wants so many zeros after the bytes of the stream: it is at most 4 beyond them when an interval
# begins, and reads two.
PAD = 8


@njit(nogil=True, cache=True)
def _shifts(width):
    """By how many bytes a width must grow to reach 2^24: at most 2, as it is a unit >= 2^8 or more."""
    # A sum of comparisons, not a loop: where symbols cost some bits its branches can't be predicted.
    return np.int64(width < _WIDTH_LOW) + np.int64(width < _WIDTH_LOW >> 8)


@njit(nogil=True, cache=True)
def _narrow(start, freq, precision, low, width, out, size, carry):
    """Codes one interval, with low < 2^32 before and after. Returns (low, width, size, carry).

    The carry goes back through the bytes written; the one that leaves `out` at its front is in the result.
    """
    unit = width >> precision
    low += unit * start
    width = unit * freq
    if low > 0xFFFFFFFF:
        low &= 0xFFFFFFFF
        place = size - 1
        while place >= 0 and out[place] == 0xFF:
            out[place] = 0
            place -= 1
        if place >= 0:
            out[place] += 1
        else:
            carry = np.int64(1)
    shifts = _shifts(width)
    out[size] = low >> 24
    out[size + 1] = low >> 16 & 0xFF
    return low << (8 * shifts) & 0xFFFFFFFF, width << (8 * shifts), size + shifts, carry


@njit(nogil=True, cache=True)
def encode(symbols, indexes, rows, cells, precision, low, width, out):
    """Codes symbols in order. Returns (bad position or -1, low, width, bytes written, carry).

    The carry, 0 or 1, is to be added to the byte before `out`. `size` is -1, and nothing is to be used,
    where `out` was too short: two bytes for each symbol and SYMBOL_BYTES more will do without escapes,
    SYMBOL_BYTES for each symbol and as many more always.
    """
    uniform = 1 << precision >> 4
    size, carry = np.int64(0), np.int64(0)
    for i in range(symbols.size):
        row = indexes[i]
        if not 0 <= row < rows.size >> 2:
            return i, low, width, size, carry
        if size > out.size - SYMBOL_BYTES:
            return -1, low, width, -1, carry
        offset, regular = np.int64(np.int32(rows[row * 4 + 2])), np.int64(rows[row * 4 + 3])
        above = np.int64(symbols[i]) - offset
        is_regular = 0 <= above < regular
        first = (np.int64(rows[row * 4 + 1]) + offset) & 0xFFFFFFFF
        cell = np.int64(cells[np.uint64(first + (above if is_regular else regular))])
        low, width, size, carry = _narrow(
            cell & 0xFFFF, cell >> 16 & 0xFFFF, precision, low, width, out, size, carry
        )
        if is_regular:
            continue
        raw = 2 * (above - regular) if above >= 0 else -2 * above - 1
        nibbles = nibble_count(raw)
        for k in range(-1, nibbles):
            value = nibbles if k < 0 else raw >> (4 * k) & 15
            low, width, size, carry = _narrow(
                value * uniform, uniform, precision, low, width, out, size, carry
            )
    return -1, low, width, size, carry


@njit(nogil=True, cache=True)
def _advance(code, width, position, stream):
    """Renormalizes. Returns (code, width, position)."""
    shifts = _shifts(width)
    place = np.uint64(position)
    two = np.int64(stream[place]) << 8 | np.int64(stream[place + np.uint64(1)])
    return code << (8 * shifts) | two >> (16 - 8 * shifts), width << (8 * shifts), position + shifts


@njit(nogil=True, cache=True)
def _open(code, width, position, known):
    """Whether bytes after the known ones, for which `code` has zeros, may yet lead out of the interval."""
    return position > known and code + (1 << (8 * (position - known))) > width


@njit(nogil=True, cache=True, error_model="numpy")
def _nibble(code, width, precision, position, stream, known):
    """One uniform 4-bit value. Returns (status, nibble, code, width, position)."""
    uniform = width >> precision << (precision - 4)
    nibble = code // uniform
    if nibble > 15:
        return BAD_CODE, nibble, code, width, position
    code -= nibble * uniform
    if _open(code, uniform, position, known):
        return TRUNCATED, nibble, code, width, position
    code, width, position = _advance(code, uniform, position, stream)
    return OK, nibble, code, width, position


@njit(nogil=True, cache=True)
def _escape(offset, regular, precision, code, width, position, stream, known):
    """The payload of an escape. Returns (status, symbol or detail, code, width, position)."""
    status, nibbles, code, width, position = _nibble(code, width, precision, position, stream, known)
    if status == OK and nibbles > MAX_NIBBLES:
        status = BAD_NIBBLES
    if status != OK:
        return status, nibbles, code, width, position
    raw, nibble = np.int64(0), np.int64(1)
    for k in range(nibbles):
        status, nibble, code, width, position = _nibble(code, width, precision, position, stream, known)
        if status != OK:
            return status, nibble, code, width, position
        raw |= nibble << (4 * k)
    symbol = escaped(raw, offset, regular)
    if nibble == 0 or not INT32_MIN <= symbol <= INT32_MAX:
        status = BAD_ESCAPE
    return status, symbol, code, width, position


@njit(nogil=True, cache=True, error_model="numpy")
def decode(indexes, rows, cells, buckets, precision, code, width, position, stream, known, symbols):
    """Decodes symbols in order. Returns (status, detail, symbols decoded, code, width, position).

    `stream` holds `known` bytes and PAD zeros. A position beyond `known` means that so many of the lowest
    bytes of `code` are missing, and stand there as zeros; a symbol is decoded if it is the same whatever
    they are, else the status is TRUNCATED. The other results are those after the last symbol decoded.
    """
    half = 1 << (precision - 1)
    for i in range(indexes.size):
        row = np.int64(indexes[i])
        if not 0 <= row < rows.size >> 2:
            return BAD_INDEX, i, i, code, width, position
        unit = width >> precision
        # A cell of more than half of all slots holds the middle one. It is tried first, by a product: the
        # branch is mostly predicted, and then nothing waits for the division, which takes longest.
        head = np.int64(rows[np.uint64(4 * row)])
        bucket = np.int64(buckets[np.uint64((head >> 5) + (half >> (head & 31)))])
        freq = bucket >> 16 & 0xFFFF
        rest, span = code - (bucket & 0xFFFF) * unit, freq * unit
        # As unsigned, a negative rest is beyond any span. Selected, so that it stays one branch.
        if np.uint64(rest) < np.uint64(span if freq > half else 0):
            cell = bucket >> 48 & 0xFFFF
        else:
            # Both are below 2^32, and processors divide so few bits in half the time.
            slot = np.int64(np.uint32(code) // np.uint32(unit))
            if slot >> precision != 0:
                return BAD_CODE, slot, i, code, width, position
            cell, distance, freq = find_cell(slot, row, rows, cells, buckets)
            rest, span = code - (slot - distance) * unit, freq * unit
        if _open(rest, span, position, known):
            return TRUNCATED, 0, i, code, width, position
        rest, span, place = _advance(rest, span, position, stream)
        offset = np.int64(np.int32(rows[np.uint64(4 * row + 2)]))
        symbol = offset + cell
        if cell < 0:
            status, symbol, rest, span, place = _escape(
                offset, ~cell, precision, rest, span, place, stream, known
            )
            if status != OK:
                return status, symbol, i, code, width, position
        symbols[i] = symbol
        code, width, position = rest, span, place
    return OK, 0, indexes.size, code, width, position
