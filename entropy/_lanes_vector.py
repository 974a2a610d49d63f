"""The lanes coder's loops over whole blocks of symbols, in vectors: a block is one symbol for each lane.

They stop before a block that holds an escape, an illegal index or the stream's end, which scalar code
then takes. `vector` is a block, for its type alone; with None, none is taken.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from numba import njit

from ._simd import gather, gather_pair, load, quotient, select, some, splat, store
from ._simd_words import read_words, write_words

# `quotient` needs quotients below 2^20: states below 2^32 over frequencies scaled by 2^(32 - precision).
LEAST_PRECISION = 12


@njit(nogil=True, cache=True)
def decode_rounds(vector, source, begin, count, groups, states, position, words_end, words, symbols):
    """Decodes up to `count` blocks of a group from indexes[begin] on. Returns (blocks decoded, position).

    REQUIRES: words has `lanes` elements from any position <= words_end on.
    """
    if vector is None:
        return 0, position
    indexes, rows, cells, buckets, precision = source
    lanes = states.size
    row_count = rows.size >> 2
    slot_mask = (1 << precision) - 1
    x = load(vector, states, 0)
    for done in range(count):
        at = begin + done * lanes * groups
        row = load(vector, indexes, at)
        bad = row >= row_count
        row = select(bad, 0, row) << 2
        head = gather(rows, row)
        symbol = gather(rows, row + 2)
        slot = x & slot_mask
        low, high = gather_pair(buckets, (head >> 5) + (slot >> (head & 31)))
        distance, freq = slot - (low & 0xFFFF), low >> 16
        symbol = symbol + (high >> 16)
        beyond = distance >= freq
        distance = select(beyond, distance - freq, distance)
        freq = select(beyond, high & 0xFFFF, freq)
        symbol = select(beyond, symbol + 1, symbol)
        open_ = distance >= freq
        if some(open_ | bad):
            if some(bad):
                store(states, 0, x)
                return done, position
            # Neither of the bucket's two cells: what follows the second, unless that is an escape.
            if some(open_ & (freq < 1)):
                store(states, 0, x)
                return done, position
            symbol = select(open_, symbol + 1, symbol)
            place = symbol + gather(rows, row + 1)
            while True:
                low, high = gather_pair(cells, place)
                found_freq = low >> 16
                found = slot - (low & 0xFFFF)
                if some((high >= 1 << 31) & open_ & (found < found_freq)):
                    store(states, 0, x)
                    return done, position
                closed = open_ & (found < found_freq)
                distance = select(closed, found, distance)
                freq = select(closed, found_freq, freq)
                open_ = open_ & (found >= found_freq)
                if not some(open_):
                    break
                place = select(open_, place + 1, place)
                symbol = select(open_, symbol + 1, symbol)
        y = freq * (x >> precision) + distance
        empty = y < 65536
        word, after = read_words(words, position, empty)
        if after > words_end:
            store(states, 0, x)
            return done, position
        x = select(empty, (y << 16) | word, y)
        position = after
        store(symbols, at, symbol)
    store(states, 0, x)
    return count, position


@njit(nogil=True, cache=True)
def encode_rounds(vector, codes, number, least, groups, precision, states, words, position):
    """Codes blocks number, number - groups, ... of a group, down to `least`. Returns (blocks, position)."""
    if vector is None:
        return 0, position
    if precision < LEAST_PRECISION:
        return 0, position
    lanes = states.size
    x = load(vector, states, 0)
    done = 0
    while number >= least:
        code = load(vector, codes, number * lanes)
        freq = code >> 16
        if some(freq < 1):
            break
        full = (x >> (32 - precision)) >= freq
        position = write_words(words, position, full, x)
        x = select(full, x >> 16, x)
        ratio = quotient(x, freq)
        remainder = x - ratio * freq
        over = remainder >= freq
        ratio = select(over, ratio + 1, ratio)
        x = x + ratio * (splat(vector, 1 << precision) - freq) + (code & 0xFFFF)
        number -= groups
        done += 1
    store(states, 0, x)
    return done, position
