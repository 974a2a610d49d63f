"""The Numba loops of both coders, in one file because Numba's cache doesn't see edits across files.

Their callers made sure of types, shapes and table invariants; indexes are checked here, before the
loop that uses them. Integers are int64 throughout, wide enough for every 32-bit state and product.

Symbols first become *ops*, one uint32 per interval to code: `start | freq << 16` for a cell, and the
bare value 0..15 (so freq is 0) for a nibble of an escape, which belongs to the cell before it.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

# What a loop reports, first in its result; `_passes.py` makes exceptions of it.
OK, BAD_INDEX, TRUNCATED, BAD_NIBBLES, BAD_ESCAPE, BAD_CODE = 0, 1, 2, 3, 4, 5
_MAX_NIBBLES = 9
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1
_RANS_LOW = 1 << 16
_RANGE_LOW = 1 << 24


@njit(nogil=True, cache=True)
def first_bad_index(indexes, rows):
    """Position of the first index outside 0..rows - 1, or -1."""
    worst = np.uint32(0)
    for i in range(indexes.size):
        worst = max(worst, np.uint32(indexes[i]))
    if indexes.size == 0 or worst < rows:
        return -1
    for i in range(indexes.size):
        if not 0 <= indexes[i] < rows:
            return i
    return -1


@njit(nogil=True, cache=True)
def expand(symbols, indexes, cells, row_starts, offsets, costs, ops):
    """Writes the ops of the symbols. Returns (status, ops needed or bad position, cost).

    If more ops are needed than fit, `ops` holds garbage and the call is to be repeated with that many.
    The cost is in units of 2**-16 bit.
    """
    bad = first_bad_index(indexes, offsets.size)
    if bad >= 0:
        return BAD_INDEX, bad, 0
    count, cost = 0, 0
    for i in range(symbols.size):
        row = indexes[i]
        first = np.int64(row_starts[row])
        regular = np.int64(row_starts[row + 1]) - 1 - first
        above = np.int64(symbols[i]) - np.int64(offsets[row])
        if 0 <= above < regular:
            if count < ops.size:
                ops[count] = cells[first + above]
            count += 1
            cost += costs[first + above]
            continue
        raw = 2 * (above - regular) if above >= 0 else -2 * above - 1
        nibbles = 0
        while raw >> (4 * nibbles) != 0:
            nibbles += 1
        if count + 2 + nibbles <= ops.size:
            ops[count] = cells[first + regular]
            ops[count + 1] = nibbles
            for k in range(nibbles):
                ops[count + 2 + k] = (raw >> (4 * k)) & 15
        count += 2 + nibbles
        cost += costs[first + regular] + ((4 + 4 * nibbles) << 16)
    return OK, count, cost


@njit(nogil=True, cache=True)
def rans_encode(ops, symbol_count, precision, states, words):
    """Codes ops from last to first, filling `words` (ops.size of them) from its end.

    states: int64 (lanes,), all 2**16, updated in place. Returns the position of the first word.
    REQUIRES: lanes is a power of two.
    """
    total = 1 << precision
    uniform = total >> 4
    lane_mask = states.size - 1
    j = symbol_count - 1
    position = words.size
    for i in range(ops.size - 1, -1, -1):
        op = np.int64(ops[i])
        freq = op >> 16
        start = op & 0xFFFF
        is_nibble = freq == 0
        if is_nibble:
            freq = uniform
            start = start * uniform
        lane = j & lane_mask
        x = states[lane]
        # At most one word leaves: x < 2^32, and x >> 16 < 2^16 <= freq << (32 - precision).
        if x >= freq << (32 - precision):
            position -= 1
            words[position] = x & 0xFFFF
            x >>= 16
        # Truncating the float64 quotient is exact: a true quotient lies on or at least 1 / freq below
        # an integer, its rounding error is under x / freq * 2^-53 < 2^-21 / freq.
        quotient = np.int64(np.float64(x) / np.float64(freq))
        states[lane] = x + quotient * (total - freq) + start
        if not is_nibble:
            j -= 1
    return position


@njit(nogil=True, cache=True)
def _find_cell(slot, row, shift, cells, buckets, row_starts):
    """The cell of the row that holds the slot: position in `cells`, its start, its frequency."""
    position = np.int64(row_starts[row]) + np.int64(buckets[row, slot >> shift])
    cell = np.int64(cells[position])
    while slot >= (cell & 0xFFFF) + (cell >> 16):
        position += 1
        cell = np.int64(cells[position])
    return position, cell & 0xFFFF, cell >> 16


@njit(nogil=True, cache=True)
def _escaped(raw, offset, regular):
    """The symbol that an escape's payload stands for, as int64: it may lie outside int32."""
    if raw & 1:
        return offset - 1 - (raw >> 1)
    return offset + regular + (raw >> 1)


@njit(nogil=True, cache=True)
def _rans_nibble(x, position, words, precision):
    """One uniform 4-bit symbol from a lane. Returns (nibble, state, position); state < 2^16: truncated."""
    slot = x & ((1 << precision) - 1)
    nibble = slot >> (precision - 4)
    uniform = 1 << (precision - 4)
    x = uniform * (x >> precision) + slot - nibble * uniform
    if x < _RANS_LOW and position < words.size:
        x = x << 16 | np.int64(words[position])
        position += 1
    return nibble, x, position


@njit(nogil=True, cache=True)
def rans_decode(indexes, cells, buckets, row_starts, offsets, precision, states, j, position, words, symbols):
    """Decodes one pass from symbol number `j` of the stream and word `position` on.

    states: int64 (lanes,), each in [2^16, 2^32), updated in place. Returns (status, position), or
    (BAD_INDEX, place of the index) with the states untouched.
    """
    bad = first_bad_index(indexes, offsets.size)
    if bad >= 0:
        return BAD_INDEX, bad
    slot_mask = (1 << precision) - 1
    shift = precision - min(8, precision)
    lane_mask = states.size - 1
    for i in range(indexes.size):
        row = indexes[i]
        lane = (j + i) & lane_mask
        x = states[lane]
        slot = x & slot_mask
        cell, start, freq = _find_cell(slot, row, shift, cells, buckets, row_starts)
        x = freq * (x >> precision) + slot - start
        if x < _RANS_LOW:
            if position >= words.size:
                return TRUNCATED, position
            x = x << 16 | np.int64(words[position])
            position += 1
        last = np.int64(row_starts[row + 1]) - 1
        symbol = np.int64(offsets[row]) + cell - np.int64(row_starts[row])
        if cell == last:
            nibbles, x, position = _rans_nibble(x, position, words, precision)
            if nibbles > _MAX_NIBBLES:
                return BAD_NIBBLES, nibbles
            raw, nibble = np.int64(0), np.int64(1)
            for k in range(nibbles):
                if x < _RANS_LOW:
                    return TRUNCATED, position
                nibble, x, position = _rans_nibble(x, position, words, precision)
                raw |= nibble << (4 * k)
            if x < _RANS_LOW:
                return TRUNCATED, position
            symbol = _escaped(raw, np.int64(offsets[row]), last - np.int64(row_starts[row]))
            # A zero as last nibble would make two streams of one symbol.
            if nibble == 0 or not _INT32_MIN <= symbol <= _INT32_MAX:
                return BAD_ESCAPE, symbol
        states[lane] = x
        symbols[i] = symbol
    return OK, position


@njit(nogil=True, cache=True)
def _shift_low(low, cache, pending, out, size):
    """Moves the top byte of `low` out, as far as its carry is settled. Returns (low, cache, pending, size).

    cache: the last byte that a carry may still raise, -1 before the first; pending: how many 0xFF
    bytes follow it.
    """
    if low < 0xFF000000 or low > 0xFFFFFFFF:
        carry = low >> 32
        if cache >= 0:
            out[size] = cache + carry
            size += 1
        for _ in range(pending):
            out[size] = (0xFF + carry) & 0xFF
            size += 1
        pending = 0
        cache = (low >> 24) & 0xFF
    else:
        pending += 1
    return (low & 0x00FFFFFF) << 8, cache, pending, size


@njit(nogil=True, cache=True)
def range_encode(ops, precision, low, width, cache, pending, out):
    """Codes ops in order; `out` holds 2 * ops.size + pending + 1 bytes or more, filled from its start.

    Returns (low, width, cache, pending, bytes written).
    """
    uniform = (1 << precision) >> 4
    size = 0
    for i in range(ops.size):
        op = np.int64(ops[i])
        freq = op >> 16
        start = op & 0xFFFF
        if freq == 0:
            freq = uniform
            start = start * uniform
        unit = width >> precision
        low += unit * start
        width = unit * freq
        # At most twice: width >= 2^24, so unit >= 2^8, so width >= 2^8 here.
        while width < _RANGE_LOW:
            width <<= 8
            low, cache, pending, size = _shift_low(low, cache, pending, out, size)
    return low, width, cache, pending, size


@njit(nogil=True, cache=True)
def range_flush(low, cache, pending, out):
    """Ends the code with the least multiple of 2^24 in the interval. Returns the bytes written.

    `out` holds pending + 3 bytes or more.
    """
    low = (low + 0xFFFFFF) & ~np.int64(0xFFFFFF)
    size = 0
    for _ in range(2):
        low, cache, pending, size = _shift_low(low, cache, pending, out, size)
    return size


@njit(nogil=True, cache=True)
def _range_advance(code, width, position, stream):
    """Renormalizes. Up to 3 bytes beyond the end of the stream read as 0; a 4th gives width 0."""
    while width < _RANGE_LOW:
        if position >= stream.size + 3:
            return code, np.int64(0), position
        byte = np.int64(stream[position]) if position < stream.size else np.int64(0)
        code = code << 8 | byte
        width <<= 8
        position += 1
    return code, width, position


@njit(nogil=True, cache=True)
def _range_nibble(code, width, precision, position, stream):
    """One uniform 4-bit symbol, 16 if the code is illegal. Returns (nibble, code, width, position)."""
    unit = width >> precision
    nibble = code // (unit << (precision - 4))
    if nibble > 15:
        return np.int64(16), code, width, position
    uniform = unit << (precision - 4)
    code, width, position = _range_advance(code - nibble * uniform, uniform, position, stream)
    return nibble, code, width, position


@njit(nogil=True, cache=True, error_model="numpy")
def range_decode(
    indexes, cells, buckets, row_starts, offsets, precision, code, width, position, stream, symbols
):
    """Decodes one pass. Returns (status, code, width, position), or (BAD_INDEX, place, 0, 0)."""
    bad = first_bad_index(indexes, offsets.size)
    if bad >= 0:
        return BAD_INDEX, np.int64(bad), np.int64(0), np.int64(0)
    shift = precision - min(8, precision)
    for i in range(indexes.size):
        row = indexes[i]
        unit = width >> precision
        # Exact for the same reason as in rans_encode: code < 2^32.
        slot = np.int64(np.float64(code) / np.float64(unit))
        if slot >> precision != 0:
            return BAD_CODE, code, width, position
        cell, start, freq = _find_cell(slot, row, shift, cells, buckets, row_starts)
        code, width, position = _range_advance(code - start * unit, freq * unit, position, stream)
        last = np.int64(row_starts[row + 1]) - 1
        symbol = np.int64(offsets[row]) + cell - np.int64(row_starts[row])
        if cell == last and width != 0:
            nibbles, code, width, position = _range_nibble(code, width, precision, position, stream)
            if nibbles > 15:
                return BAD_CODE, code, width, position
            if nibbles > _MAX_NIBBLES:
                return BAD_NIBBLES, nibbles, width, position
            raw, nibble = np.int64(0), np.int64(1)
            for k in range(nibbles):
                if width == 0:
                    break
                nibble, code, width, position = _range_nibble(code, width, precision, position, stream)
                if nibble > 15:
                    return BAD_CODE, code, width, position
                raw |= nibble << (4 * k)
            symbol = _escaped(raw, np.int64(offsets[row]), last - np.int64(row_starts[row]))
            if width != 0 and (nibble == 0 or not _INT32_MIN <= symbol <= _INT32_MAX):
                return BAD_ESCAPE, symbol, width, position
        if width == 0:
            return TRUNCATED, code, width, position
        symbols[i] = symbol
    return OK, code, width, position
