"""The Numba loops that encode the lanes format, from codes (`_codes.py`) to states and words.

`_lanes_loops.py` says what groups, rounds, lanes and tails are, and decodes.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from functools import cache

import numpy as np
from numba import njit

from ._lanes_vector import encode_rounds
from ._simd import block
from ._symbols import LANE_LOW, nibble_count

# What is kept of each group, int64: the first word so far and the end of the stream's words in the
# buffer, and the next block to code.
POSITION, END, NUMBER = 0, 1, 2
LEFT = 3
# Symbols that several groups work on by turns.
_TILE = 1 << 15
# What vectors may overwrite before the words.
SLACK = 16


@njit(nogil=True, cache=True, error_model="numpy")
def _push(x, start, freq, precision):
    """The state after coding an interval into a state that has room for it."""
    # Truncating the float64 quotient is exact: a true quotient lies on or at least 1 / freq below an
    # integer, its rounding error is under x / freq * 2^-53 < 2^-21 / freq.
    quotient = np.int64(np.float64(x) / np.float64(freq))
    return x + quotient * ((1 << precision) - freq) + start


@njit(nogil=True, cache=True)
def _encode_payload(raw, x, precision, words, position):
    """Codes the payload of an escape. Returns (state, position)."""
    shift = precision - 4
    count = nibble_count(raw)
    for k in range(count - 1, -2, -1):
        value = count if k < 0 else raw >> (4 * k) & 15
        if x >> 28 != 0:
            position -= 1
            words[position] = x & 0xFFFF
            x >>= 16
        x = _push(x, value << shift, 1 << shift, precision)
    return x, position


@njit(nogil=True, cache=True)
def _encode_run(
    codes, begin, end, least, stride, lane_mask, raws, places, precision, states, words, position
):
    """Codes symbols end - 1 down to begin, then those `stride` before, down to `least`.

    Symbol i is in lane i & lane_mask. Returns the position.
    """
    total = 1 << precision
    while begin >= least:
        for i in range(end - 1, begin - 1, -1):
            code = np.int64(codes[np.uint64(i)])
            freq, start = code >> 16, code & 0xFFFF
            lane = np.uint64(i & lane_mask)
            x = states[lane]
            if freq == 0:
                raw = raws[np.searchsorted(places, i)]
                x, position = _encode_payload(raw, x, precision, words, position)
                freq, start = start, total - start
            # At most one word leaves: x < 2^32, and x >> 16 < 2^16 <= freq << (32 - precision).
            if x >> (32 - precision) >= freq:
                position -= 1
                words[position] = x & 0xFFFF
                x >>= 16
            states[lane] = _push(x, start, freq, precision)
        begin, end = begin - stride, end - stride
    return position


@njit(nogil=True, cache=True)
def _encode_tail(codes, raws, places, precision, group, groups, states, words, left):
    """Codes the end of a group's symbols: as many blocks as give its lanes their first states.

    states: int64 (lanes,) and left: int64 (LEFT,), filled in.
    """
    lanes, size = states.size, codes.size
    number = (size + lanes - 1) // lanes - 1
    number -= (number - group) % groups
    position = words.size
    states[:] = LANE_LOW
    # One lane alone has no others to start: all is tail.
    while number >= 0 and (lanes == 1 or words.size - position < lanes - 1):
        begin, end = number * lanes, min((number + 1) * lanes, size)
        if lanes == 1 and groups == 1:
            begin = number = 0
        position = _encode_run(
            codes, begin, end, begin, 1, 0, raws, places, precision, states, words, position
        )
        number -= groups
    # The words that the tail's decoder reads last are the other lanes' first states.
    stuffed = min(lanes - 1, words.size - position)
    for lane in range(stuffed):
        states[1 + lane] = LANE_LOW + np.int64(words[words.size - stuffed + lane])
    left[POSITION], left[END], left[NUMBER] = position, words.size - stuffed, number


@njit(nogil=True, cache=True)
def _encode_rounds(vector, codes, raws, places, precision, least, groups, states, words, left):
    """Codes a group's blocks that are left, down to block number `least`."""
    lanes = states.size
    number, position = left[NUMBER], left[POSITION]
    while number >= least:
        done, position = encode_rounds(
            vector, codes, number, least, groups, precision, states, words, position
        )
        number -= done * groups
        if number >= least:
            # After a vector loop that stopped, only the block that it stopped at.
            last = number if vector is not None else least + (number - least) % groups
            position = _encode_run(
                codes,
                (last if groups == 1 else number) * lanes,
                (number + 1) * lanes,
                last * lanes,
                groups * lanes,
                lanes - 1,
                raws,
                places,
                precision,
                states,
                words,
                position,
            )
            number = last - groups
    left[POSITION], left[NUMBER] = position, number


@njit(nogil=True, cache=True)
def _encode_groups(vector, codes, raws, places, precision, begin, end, states, words, rounds, left):
    """Codes the symbols of groups begin .. end - 1; `codes` and the escapes are those of all groups.

    states: int64 (groups, lanes); rounds: int64 (groups,); left: int64 (groups, LEFT): filled in. words:
    uint16 (groups, room), each filled from its end. REQUIRES: room for one word for each interval of a
    group, and SLACK more.
    """
    groups, lanes = states.shape
    for group in range(begin, end):
        own = left[group]
        _encode_tail(codes, raws, places, precision, group, groups, states[group], words[group], own)
        rounds[group] = own[NUMBER] // groups + 1 if own[NUMBER] >= 0 else 0
    # Groups take turns on parts of the symbols that the cache holds.
    tile = max(_TILE // lanes, groups)
    least = codes.size // lanes
    while least > 0:
        least = max(least - tile, 0)
        for group in range(begin, end):
            own = left[group]
            _encode_rounds(
                vector, codes, raws, places, precision, least, groups, states[group], words[group], own
            )


@njit(nogil=True, cache=True)
def pack_states(states, packed):
    """Writes each state as 4 bits e and its e + 16 bits below the leading one, least bit first.

    packed: uint8, 5 bytes or more for each state. Returns the number of bytes written.
    """
    size, bits, pending = 0, 0, np.uint64(0)
    for x in states.flat:
        e = 0
        while x >> (17 + e) != 0:
            e += 1
        field = e | (x - (np.int64(LANE_LOW) << e)) << 4
        pending |= np.uint64(field) << np.uint64(bits)
        bits += 20 + e
        while bits >= 8:
            packed[size] = pending & np.uint64(0xFF)
            pending >>= np.uint64(8)
            bits -= 8
            size += 1
    if bits > 0:
        packed[size] = pending
        size += 1
    return size


@cache
def encoding_loop(level, lanes):
    """`_encode_groups` for that many lanes at a level of `_simd.LEVELS`."""

    @njit(nogil=True, cache=True)
    def encode(codes, raws, places, precision, begin, end, states, words, rounds, left):
        vector = block(level, lanes)
        _encode_groups(vector, codes, raws, places, precision, begin, end, states, words, rounds, left)

    return encode
