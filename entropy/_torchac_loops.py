"""The Numba loops of torchac's bitstream. Types and shapes are their callers' business.

torchac keeps the ends of an interval, low and high, in 32 bits, and shifts out bit after bit: a leading bit
that both share (E1, E2), or a "pending" one where low is 01... and high 10... (E3). Here the interval is low
and width = high - low + 1, and low keeps the bits that aren't written yet. Each of the three shifts doubles
the width and the distance of anything from low, and what E3 leaves pending is what a carry out of low will
settle. So neither pending bits nor high are needed, only how often torchac shifts: at once, `_double` tells.

A shift is possible if the interval lies in one half of the 2^32 numbers, or in the middle half. One that is
no wider than 2^30 and isn't in a half lies around the middle, so in the middle half: it is shifted in any
case. One wider than 2^31 never is. Between, it can't lie in a half if bit 30 of low is 1, nor in the middle
half if it is 0; so with r = low mod 2^30 it is shifted if and only if r + width <= 2^31. In `_double` all of
that is doubled: after `shifts` doublings 2^31 < width <= 2^32, and the last was one too many unless
low mod 2^31 + width <= 2^32. (Without any, low + width <= 2^32 says the same.)
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

OK, TRUNCATED, ASTRAY, BAD_ENTRY = range(4)
TOTAL, MIDDLE = 1 << 16, 1 << 15

# Rows are far apart in memory, and each is used once: one is asked for so many symbols before.
_AHEAD = 48

# A width is at least 2^30 before a symbol, so at least 2^14 after it, and is doubled 18 times at most.
MOST_BITS = 18


@intrinsic
def _leading_zeros(typing_context, value):
    """Of 32 bits."""

    def generate(context, builder, signature, arguments):
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.zext(zeros, ir.IntType(64))

    return types.int64(types.uint32), generate


@intrinsic
def _prefetch(typing_context, rows, place):
    """Asks for what is around rows[place], which may lie outside."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(rows)(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, *[ir.IntType(32)] * 3])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # For reading, to be kept in all caches, data.
        builder.call(prefetch, [address, *(ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))])

    return types.none(rows, types.int64), generate


def _entry(rows, place, column, factor, slope):
    """Entry `column` of the row that begins at `place` as an integer in 0..65535; -1 if it is none.

    Floats become what torch makes of them, value by value: times the factor, to the nearest integer, of two
    the even one, modulo 2^16. Where torch's result depends on the machine, at NaN and beyond 2^31, it's -1.
    """


@overload(_entry, inline="always")
def _typed_entry(rows, place, column, factor, slope):
    if isinstance(rows.dtype, types.Integer):
        return lambda rows, place, column, factor, slope: np.int64(rows[np.uint64(place + column)])

    def from_float(rows, place, column, factor, slope):
        scaled = np.rint(rows[np.uint64(place + column)] * factor)
        if not abs(scaled) < 2147483648.0:
            return np.int64(-1)
        return (np.int64(scaled) + column * slope) & 0xFFFF

    return from_float


@njit(nogil=True, cache=True)
def _cell(rows, place, symbol, last, factor, slope):
    """(start, end) of a symbol's cell. That of the last symbol ends at 2^16, whatever the row's end says."""
    start = _entry(rows, place, symbol, factor, slope)
    end = _entry(rows, place, symbol + 1, factor, slope)
    return start, TOTAL if symbol == last else end


@njit(nogil=True, cache=True)
def _double(low, width):
    """Doubles an interval as often as torchac does. Returns (low, width, how often).

    REQUIRES: 1 < width <= 2^32
    """
    shifts = _leading_zeros(np.uint32(width - 1))
    low <<= shifts
    width <<= shifts
    if (low & 0x7FFFFFFF) + width > 1 << 32:
        return low >> 1, width >> 1, shifts - 1
    return low, width, shifts


@njit(nogil=True, cache=True)
def _put(word, out, size):
    """Writes 32 bits and adds the carry above them to the words before; bits of the stream take it up."""
    if word >> 32 != 0:
        place = size - 1
        while out[place] == 0xFFFFFFFF:
            out[place] = 0
            place -= 1
        out[place] += np.uint32(1)
    out[np.uint64(size)] = word & 0xFFFFFFFF


@njit(nogil=True, cache=True)
def encode(rows, step, columns, factor, slope, symbols, out):
    """Codes symbols[i] under the row at i * step. Returns (position that can't be coded or -1, bytes).

    out: the stream's words, of 32 bits, the first bit highest.
    REQUIRES: out.size >= (MOST_BITS * symbols.size + 2) / 32 + 2
    """
    last = columns - 2
    low, width = np.int64(0), np.int64(1) << 32
    # What is left of low's 32 bits and not yet in `out`: so many bits, and a carry above them.
    ahead, bits, size = np.int64(0), np.int64(0), np.int64(0)
    place, ahead_step = np.int64(0), _AHEAD * step
    for i in range(symbols.size):
        symbol = np.int64(symbols[np.uint64(i)])
        if np.uint64(symbol) > np.uint64(last):
            return i, size
        _prefetch(rows, place + ahead_step + symbols[np.uint64(min(i + _AHEAD, symbols.size - 1))])
        start, end = _cell(rows, place, symbol, last, factor, slope)
        place += step
        if not 0 <= start < end:
            return i, size
        below, above = width * start >> 16, width * end >> 16
        low, width = low + below, above - below
        low, width, shifts = _double(low, width)
        ahead = (ahead << shifts) + (low >> 32)
        low &= 0xFFFFFFFF
        bits += shifts
        if bits >= 32:
            bits -= 32
            _put(ahead >> bits, out, size)
            ahead &= (1 << bits) - 1
            size += 1
    # The end: the first multiple of 2^30 above low.
    ahead = (ahead << 2) + (low >> 30) + 1
    ahead <<= 32 - bits
    _put(ahead >> 2, out, size)
    out[size + 1] = ahead << 30 & 0xFFFFFFFF
    return -1, 4 * size + (bits + 2 + 7 >> 3)


@njit(nogil=True, cache=True)
def _search(rows, place, last, count, factor, slope):
    """The symbol that torchac's binary search finds for a count; -1 if it meets an entry that is none.

    In a row that doesn't ascend the way there matters, so the way is the same.
    """
    left, right = np.int64(0), last + 1
    for _ in range(32 - _leading_zeros(np.uint32(last))):
        middle = left + right >> 1
        entry = _entry(rows, place, middle, factor, slope)
        if entry < 0:
            return np.int64(-1)
        # torchac would stop at an empty cell too, and be lost; so it doesn't matter which symbol is next.
        if entry == count and count < _cell(rows, place, middle, last, factor, slope)[1]:
            return middle
        left, right = (middle, right) if entry <= count else (left, middle)
    return left


@njit(nogil=True, cache=True)
def _trace(symbol, last, path):
    """What `_search` looks at on its way to a symbol, except both ends of its cell. Returns (below, above).

    path[:below] are columns below the symbol, path[above:] columns above; path has room for 17.
    """
    left, right = np.int64(0), last + 1
    below, above = 0, path.size
    while left + 1 < right:
        middle = left + right >> 1
        if middle <= symbol:
            left = path[below] = middle
            below += middle != symbol
        else:
            right = path[above - 1] = middle
            above -= middle != symbol + 1
    return below, above


@njit(nogil=True, cache=True)
def _is_found(rows, place, path, below, above, start, end, factor, slope):
    """Whether `_search` comes by that path to the cell (start, end), for every count in it."""
    # With early exits: as sums the loops would be vectorized, by gathers that cost more.
    for k in range(below):
        if not 0 <= _entry(rows, place, path[np.uint64(k)], factor, slope) < start:
            return False
    for k in range(above, path.size):  # noqa: SIM110
        if _entry(rows, place, path[np.uint64(k)], factor, slope) < end:
            return False
    return True


@njit(nogil=True, cache=True)
def _advance(below, above, low, width, code, ahead, word):
    """Goes on in the part of the interval from low + below to low + above.

    word: the next of the stream. Returns (low, width, code, ahead, whether the word was taken).
    """
    code -= np.uint64(below) << np.uint64(32)
    low, width, shifts = _double(low + below, above - below)
    taken = shifts > ahead
    if taken:
        code = code << np.uint64(ahead) | np.uint64(word)
        shifts, ahead = shifts - ahead, np.int64(32)
    return low & 0xFFFFFFFF, width, code << np.uint64(shifts), ahead - shifts, taken


@njit(nogil=True, cache=True, error_model="numpy")
def decode(rows, step, columns, factor, slope, words, known, symbols):
    """Decodes symbols[i] under the row at i * step. Returns (status, its position).

    words: the stream's, as `encode` writes them, and at least one zero; known: how many bits the stream has.
    """
    last = columns - 2
    guess, path = np.int64(0), np.zeros(17, np.int64)
    under, over = _trace(guess, last, path)
    low, width = np.int64(0), np.int64(1) << 32
    # Above 32 bits the number that the stream's next 32 bits are, less low, in 0 .. width - 1; below, the
    # bits that follow, `ahead` of them. `size` words are in it or were.
    code, ahead, size = np.uint64(words[0]) << np.uint64(32), np.int64(0), np.int64(1)
    i, place, ahead_step = np.int64(0), np.int64(0), _AHEAD * step
    while True:
        # As long as the symbol in the middle is the one. It is known from the row alone, mostly it is that
        # of the row before, and where symbols cost little, right: nothing waits for the code but a branch.
        # rest < (width * c >> 16) is torchac's ((rest + 1 << 16) - 1) / width < c, without the division.
        while i < symbols.size:
            _prefetch(rows, place + ahead_step + guess)
            # The columns of a path that are farthest from the symbol, its first, are there too.
            _prefetch(rows, place + ahead_step + path[0])
            _prefetch(rows, place + ahead_step + path[16])
            start, end = _cell(rows, place, guess, last, factor, slope)
            if not 0 <= start <= MIDDLE < end:
                break
            rest = np.int64(code >> np.uint64(32))
            below, above = width * start >> 16, width * end >> 16
            if not below <= rest < above:
                break
            if not _is_found(rows, place, path, under, over, start, end, factor, slope):
                break
            word = words[np.uint64(min(size, words.size - 1))]
            low, width, code, ahead, taken = _advance(below, above, low, width, code, ahead, word)
            size += taken
            symbols[np.uint64(i)] = guess
            i += 1
            place += step
        if i == symbols.size:
            break
        start, end = _cell(rows, place, guess, last, factor, slope)
        if not 0 <= start <= MIDDLE < end:
            guess = _search(rows, place, last, MIDDLE, factor, slope)
            guess = min(max(guess, np.int64(0)), np.int64(0x7FFF))
            under, over = _trace(guess, last, path)
        rest = np.int64(code >> np.uint64(32))
        count = np.int64(np.uint64((rest + 1 << 16) - 1) // np.uint64(width))
        symbol = _search(rows, place, last, count, factor, slope)
        start, end = _cell(rows, place, max(symbol, 0), last, factor, slope)
        if min(symbol, start) < 0:
            return BAD_ENTRY, i
        below, above = width * start >> 16, width * end >> 16
        if not below <= rest < above or symbol > 0x7FFF:
            return ASTRAY, i
        word = words[np.uint64(min(size, words.size - 1))]
        low, width, code, ahead, taken = _advance(below, above, low, width, code, ahead, word)
        size += taken
        symbols[np.uint64(i)] = symbol
        i += 1
        place += step
    # The encoder writes two bits more than it has doubled.
    bits = 32 * (size - 1) - ahead + 2
    return (TRUNCATED, bits) if bits > known else (OK, bits)
