"""The Numba loops that decode the lanes format: vectors where they can, scalars where they must.

A group's symbols are the blocks of `lanes` symbols whose number is the group's modulo `groups`. In its
first `rounds` blocks symbol i belongs to lane i mod lanes; what follows, the tail, belongs to lane 0
alone, and its last words lie in the states of the other lanes (FORMAT.md, section 4).

Integers are int64, states included; vectors keep states in 32 bits.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from functools import cache

import numpy as np
from numba import njit
from numba.extending import overload

from ._lanes_vector import decode_rounds
from ._simd import block
from ._symbols import (
    BAD_ESCAPE,
    BAD_INDEX,
    BAD_NIBBLES,
    BAD_STATE,
    INT32_MAX,
    INT32_MIN,
    LANE_LOW,
    MAX_NIBBLES,
    OK,
    TRUNCATED,
    escaped,
    find_cell,
)

# What is kept of each group, int64: the next word and the end of its words in the buffer, its rounds, and
# where in its words its tail began and the tail's first block of symbols ended, or -1.
POSITION, END, ROUNDS, TAIL, MARK = 0, 1, 2, 3, 4
PROGRESS = 5
# Symbols that several groups work on by turns.
_TILE = 1 << 15


@njit(nogil=True, cache=True)
def _nibble(x, position, end, words, precision):
    """One uniform 4-bit symbol from a lane. Returns (nibble, state, position); state < 2^16: truncated."""
    slot = x & ((1 << precision) - 1)
    nibble = slot >> (precision - 4)
    uniform = 1 << (precision - 4)
    x = uniform * (x >> precision) + slot - nibble * uniform
    if x < LANE_LOW and position < end:
        x = x << 16 | np.int64(words[position])
        position += 1
    return nibble, x, position


@njit(nogil=True, cache=True)
def read_escape(x, offset, regular, precision, position, end, words):
    """The symbol of an escape's payload. Returns (status, symbol or detail, state, position)."""
    nibbles, x, position = _nibble(x, position, end, words, precision)
    if nibbles > MAX_NIBBLES:
        return BAD_NIBBLES, nibbles, x, position
    raw, nibble = np.int64(0), np.int64(1)
    for k in range(nibbles):
        if x < LANE_LOW:
            return TRUNCATED, raw, x, position
        nibble, x, position = _nibble(x, position, end, words, precision)
        raw |= nibble << (4 * k)
    if x < LANE_LOW:
        return TRUNCATED, raw, x, position
    symbol = escaped(raw, offset, regular)
    # A zero as last nibble would make two streams of one symbol.
    if nibble == 0 or not INT32_MIN <= symbol <= INT32_MAX:
        return BAD_ESCAPE, symbol, x, position
    return OK, symbol, x, position


def run(source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols):
    """Decodes symbols begin .. end - 1 of the pass, then those `stride` farther on, up to `stop`.

    Symbol i is in lane (first + i) & lane_mask. Returns (status, detail, position). What `source` is, a
    tuple, says under which distributions: each kind of distribution overloads this for a tuple of its own.
    """


def rounds(vector, source, begin, count, groups, states, position, words_end, words, symbols):
    """Decodes up to `count` blocks of a group, every `groups`-th from symbol `begin` on, in vectors.

    Returns (blocks decoded, position), and leaves a block that holds an escape to `run`. Overloaded as that
    is. REQUIRES: words has `lanes` elements from any position <= words_end on.
    """


@overload(rounds)
def _rounds(vector, source, begin, count, groups, states, position, words_end, words, symbols):
    def implementation(vector, source, begin, count, groups, states, position, words_end, words, symbols):
        return decode_rounds(
            vector, source, begin, count, groups, states, position, words_end, words, symbols
        )

    return implementation if len(source) == TABLE_SOURCE else None


@overload(run)
def _run(source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols):
    def implementation(
        source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols
    ):
        return _table_run(
            source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols
        )

    return implementation if len(source) == TABLE_SOURCE else None


# (indexes, rows, cells, buckets, precision)
TABLE_SOURCE = 5


@njit(nogil=True, cache=True)
def _table_run(
    source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols
):
    indexes, rows, cells, buckets, precision = source
    count = rows.size >> 2
    slot_mask = (1 << precision) - 1
    while end <= stop:
        for i in range(begin, end):
            row = np.int64(indexes[np.uint64(i)])
            if not 0 <= row < count:
                return BAD_INDEX, i, position
            lane = np.uint64((first + i) & lane_mask)
            x = states[lane]
            cell, distance, freq = find_cell(x & slot_mask, row, rows, cells, buckets)
            x = freq * (x >> precision) + distance
            if x < LANE_LOW:
                if position >= words_end:
                    return TRUNCATED, i, position
                x = x << 16 | np.int64(words[np.uint64(position)])
                position += 1
            offset = np.int64(np.int32(rows[np.uint64(row) * np.uint64(4) + np.uint64(2)]))
            symbol = offset + cell
            if cell < 0:
                status, symbol, x, position = read_escape(
                    x, offset, ~cell, precision, position, words_end, words
                )
                if status != OK:
                    return status, symbol, position
            states[lane] = x
            symbols[np.uint64(i)] = symbol
        begin, end = begin + stride, end + stride
    return OK, 0, position


@njit(nogil=True, cache=True)
def _start_tail(states, progress, words):
    """Moves what the other lanes hold behind the group's words. Returns a status."""
    lanes = states.size
    end = progress[END]
    for lane in range(1, lanes):
        if states[lane] >> 17 != 0:
            return BAD_STATE
        words[end + lane - 1] = states[lane] - LANE_LOW
    progress[TAIL] = progress[POSITION]
    progress[END] = end + lanes - 1
    return OK


@njit(nogil=True, cache=True)
def decode_group(vector, source, first, start, stop, group, groups, states, progress, words, symbols):
    """Decodes one group's share of symbols start .. stop - 1 of a pass.

    first: the stream-wide number of the pass's symbol 0. source: as `run` takes it; of another kind than
    TABLE_SOURCE only if vector is None. states (lanes,) and progress (PROGRESS,) of the group, int64, are
    updated. Returns (status, detail).
    """
    lanes = states.size
    number = (first + start) // lanes
    number += (group - number) % groups
    while number * lanes < first + stop:
        begin, end = max(number * lanes - first, start), min((number + 1) * lanes - first, stop)
        left = progress[ROUNDS] - number // groups
        blocks = 1
        if left > 0:
            lane_mask = lanes - 1
            if vector is not None:
                if begin == number * lanes - first:
                    count = min(left, ((first + stop) // lanes - number + groups - 1) // groups)
                    done, progress[POSITION] = rounds(
                        vector,
                        source,
                        begin,
                        count,
                        groups,
                        states,
                        progress[POSITION],
                        progress[END],
                        words,
                        symbols,
                    )
                    number += done * groups
                    if done > 0:
                        continue
            elif groups == 1:
                end = min(progress[ROUNDS] * lanes - first, stop)
            elif end - begin == lanes:
                blocks = min(left, ((first + stop) // lanes - number + groups - 1) // groups)
        else:
            lane_mask = 0
            if progress[TAIL] < 0:
                status = _start_tail(states, progress, words)
                if status != OK:
                    return status, 0
            if groups == 1 and left < 0:
                end = stop
        status, detail, progress[POSITION] = run(
            source,
            begin,
            end,
            end + (blocks - 1) * groups * lanes,
            groups * lanes,
            first,
            lane_mask,
            states,
            progress[POSITION],
            progress[END],
            words,
            symbols,
        )
        if status != OK:
            return status, detail
        if left == 0 and first + end == (number + 1) * lanes:
            progress[MARK] = progress[POSITION]
        number = (first + end - 1) // lanes + 1 if groups == 1 else number + blocks * groups
    return OK, 0


@njit(nogil=True, cache=True)
def left_over(count, states, progress, words):
    """What is wrong at the end of `count` symbols. Returns (words left, groups in a wrong state).

    A group must have read its words, those in its lanes too, and ended its tail in the encoder's first
    state; its tail must be the shortest that fills the lanes, or all there is, and then lanes that it
    didn't need hold zeros.
    """
    groups, lanes = states.shape
    left, wrong = 0, 0
    for group in range(groups):
        state, own = states[group], progress[group]
        cycles = count // (lanes * groups)
        own_count = cycles * lanes + min(max(count - (cycles * groups + group) * lanes, 0), lanes)
        if own_count < own[ROUNDS] * lanes:
            left += own[END] - own[POSITION]
            wrong += 1
            continue
        if own[TAIL] < 0 and _start_tail(state, own, words) != OK:
            wrong += 1
            continue
        unread = own[END] - own[POSITION]
        left += max(unread - (lanes - 1), 0)
        spare = 0
        for i in range(own[POSITION], own[END]):
            spare += words[i] != 0
        # Of all that the tail reads the lanes hold the last: only if they hold all of it may some be unused.
        short = 0 < unread < lanes and (own[ROUNDS] > 0 or own[TAIL] < own[END] - (lanes - 1))
        long = lanes > 1 and own[MARK] >= 0 and own[POSITION] - own[MARK] >= lanes - 1
        wrong += state[0] != LANE_LOW or spare > 0 or short or long
    return left, wrong


@njit(nogil=True, cache=True)
def unpack_states(data, position, states):
    """Reads what `pack_states` wrote. Returns the position behind it, or -1 if it isn't all there."""
    flat = states.reshape(-1)
    bits, pending = 0, np.uint64(0)
    for lane in range(flat.size):
        e = 0
        for part in range(2):
            width = 4 if part == 0 else 16 + e
            while bits < width:
                if position >= data.size:
                    return -1
                pending |= np.uint64(data[position]) << np.uint64(bits)
                position += 1
                bits += 8
            field = np.int64(pending & np.uint64((1 << width) - 1))
            pending >>= np.uint64(width)
            bits -= width
            if part == 0:
                e = field
            else:
                flat[lane] = (1 << width) + field
    return position if pending == 0 else -1


@njit(nogil=True, cache=True)
def _touched(first, size, groups, lanes):
    """(group, how many): the groups that `size` symbols from number `first` on belong to, in a row."""
    if size == 0:
        return 0, 0
    block = first // lanes
    return block % groups, min((first + size - 1) // lanes - block + 1, groups)


@njit(nogil=True, cache=True)
def decode_groups(vector, source, first, begin, end, states, progress, saved, words, symbols):
    """Decodes a pass's symbols of groups begin .. end - 1: `decode_group`, by tiles that the cache holds.

    states, progress: with the groups as first axis; saved: two arrays like them, which get the rows of
    those of the groups that the pass reaches, as they were. Returns (status, detail) of a group that fails.
    """
    groups, lanes = states.shape
    size = symbols.size
    leading, count = _touched(first, size, groups, lanes)
    saved_states, saved_progress = saved
    for k in range(leading, leading + count):
        group = k % groups
        # Other groups may be another thread's, who saves them.
        if begin <= group < end:
            saved_states[group], saved_progress[group] = states[group], progress[group]
    tile = max(_TILE, groups * lanes) if groups > 1 else max(size, 1)
    for start in range(0, size, tile):
        for k in range(leading, leading + count):
            group = k % groups
            if not begin <= group < end:
                continue
            status, detail = decode_group(
                vector,
                source,
                first,
                start,
                min(start + tile, size),
                group,
                groups,
                states[group],
                progress[group],
                words,
                symbols,
            )
            if status != OK:
                return status, detail
    return OK, 0


@njit(nogil=True, cache=True)
def restore(first, size, states, progress, saved):
    """Undoes what `decode_groups` did to the states of a pass of `size` symbols."""
    groups, lanes = states.shape
    leading, count = _touched(first, size, groups, lanes)
    saved_states, saved_progress = saved
    for k in range(leading, leading + count):
        states[k % groups], progress[k % groups] = saved_states[k % groups], saved_progress[k % groups]


@cache
def decoding_loop(level, lanes):
    """`decode_groups` under tables, for that many lanes at a level of `_simd.LEVELS`."""

    @njit(nogil=True, cache=True)
    def decode(
        indexes, rows, cells, buckets, precision, first, begin, end, states, progress, saved, words, symbols
    ):
        source = (indexes, rows, cells, buckets, precision)
        vector = block(level, lanes)
        return decode_groups(vector, source, first, begin, end, states, progress, saved, words, symbols)

    return decode
