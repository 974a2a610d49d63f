"""Mixtures in vectors, a block of symbols at once, and the loops that take them where the CPU has any.

All of a block's integers have 32 bits. That needs clamps which `_mixture_loops.py` doesn't: of a symbol,
to +-2^20, and of a distance, to 5 scales and up to twice that; the CDF is flat beyond either.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from functools import cache

from numba import njit
from numba.extending import overload

from ._lanes_loops import decode_groups, rounds, run
from ._mixture_loops import (
    MANTISSA_BITS,
    MEAN_BITS,
    PRECISION,
    QUANTILE_BITS,
    REACH,
    REGULAR,
    SLOPE_BITS,
    STEP_BITS,
    SUM_SHIFT,
    TABULATED,
    WEIGHT_BITS,
    code_run,
    decode_run,
)
from ._simd import (
    block,
    float_bits,
    gather,
    load,
    quotient,
    select,
    signed_max,
    signed_min,
    signed_shift,
    some,
    splat,
    store,
    total,
)
from ._simd_words import read_words
from ._symbols import LANE_LOW

# Symbols that become codes together.
_BLOCK = 64
_MOST_SYMBOL = 1 << 20
# A product of distance and inverse scale has this many fraction bits.
_PRODUCT_BITS = 27
_SLOPE_MASK = (1 << SLOPE_BITS) - 1
# Guesses are for components that are no farther from the first, nor wider, than this: 128 symbols.
_NEAR = 1 << 17
_NEWTON_STEPS = 4


@njit(nogil=True, cache=True, inline="always")
def _phi(distance, limit, mantissa, exponent, phi):
    """Phi at a distance from the mean, times 2**18 - 16."""
    clamped = signed_max(signed_min(distance, limit), splat(limit, 0) - limit)
    # Less than 10 * 2^27 in magnitude: 5 * 127 * 2^21.
    place = ((clamped * mantissa) << exponent) + (TABULATED << _PRODUCT_BITS)
    entry = gather(phi, place >> (_PRODUCT_BITS - STEP_BITS))
    rest = (place >> (_PRODUCT_BITS - STEP_BITS - 16)) & 0xFFFF
    return (entry >> SLOPE_BITS) + (((entry & _SLOPE_MASK) * rest) >> 16)


@njit(nogil=True, cache=True, inline="always")
def _bounds(symbol, i, weights, means, inverse_scales, phi):
    """(start, end) of the cells of symbols number i, i + 1, ..; they are equal where one has none."""
    clamped = signed_max(signed_min(symbol, _MOST_SYMBOL), -_MOST_SYMBOL)
    edge = (clamped << MEAN_BITS) - (1 << (MEAN_BITS - 1))
    low = splat(symbol, 1 << (SUM_SHIFT - 1))
    high = low
    for k in range(weights.shape[0]):
        place = k * weights.shape[1] + i
        weight, code = load(symbol, weights, place), load(symbol, inverse_scales, place)
        distance = edge - load(symbol, means, place)
        exponent = code >> MANTISSA_BITS
        mantissa = (code & ((1 << MANTISSA_BITS) - 1)) + (1 << MANTISSA_BITS)
        limit = splat(symbol, REACH << (_PRODUCT_BITS - MANTISSA_BITS)) >> exponent
        low = low + weight * _phi(distance, limit, mantissa, exponent, phi)
        high = high + weight * _phi(distance + (1 << MEAN_BITS), limit, mantissa, exponent, phi)
    return low >> SUM_SHIFT, high >> SUM_SHIFT


@njit(nogil=True, cache=True, inline="always")
def _guess(slot, i, weights, means, inverse_scales, scales, quantiles):
    """What `_mixture_loops._guess` is for, in 32 bits; and how far the mixture spreads, in symbols."""
    first = load(slot, means, i)
    mean = splat(slot, 0)
    for k in range(1, weights.shape[0]):
        place = k * weights.shape[1] + i
        offset = signed_max(signed_min(load(slot, means, place) - first, _NEAR >> 1), -(_NEAR >> 1))
        mean = mean + load(slot, weights, place) * offset
    mean = first + signed_shift(mean, WEIGHT_BITS)
    spread = splat(slot, 0)
    for k in range(weights.shape[0]):
        place = k * weights.shape[1] + i
        scale = signed_min(gather(scales, load(slot, inverse_scales, place)), _NEAR)
        offset = load(slot, means, place) - mean
        distance = signed_min(signed_max(offset, mean - load(slot, means, place)), _NEAR)
        lesser = signed_min(scale, distance)
        size = signed_max(scale, distance) + ((lesser + (lesser << 1)) >> 3)
        spread = spread + load(slot, weights, place) * size
    spread = spread >> WEIGHT_BITS
    quantile = gather(quantiles, slot >> (PRECISION - QUANTILE_BITS))
    step = signed_shift(spread * quantile, STEP_BITS)
    return signed_shift(mean + step + (1 << (MEAN_BITS - 1)), MEAN_BITS), spread >> MEAN_BITS


@njit(nogil=True, cache=True)
def _code_blocks(vector, symbols, begin, weights, means, inverse_scales, phi, codes):
    """Writes the codes of whole blocks from `begin` on, up to one with an escape. Returns (end, cost)."""
    cost = splat(vector, 0)
    # The costs of 65,536 blocks, each below 2^15, stay below 2^32.
    end = min(symbols.size, begin + _BLOCK * 65536)
    while begin + _BLOCK <= end:
        symbol = load(vector, symbols, begin)
        low, high = _bounds(symbol, begin, weights, means, inverse_scales, phi)
        freq = high - low
        if some(freq < 1):
            break
        store(codes, begin, low | (freq << 16))
        # As `_mixture_loops._cost`: a binary32 number's leading bits are those of the binary64 one.
        bits = float_bits(freq) >> 13
        fraction = bits & 1023
        curve = (((fraction << 10) - fraction * fraction) * 353) >> 20
        cost = cost + ((PRECISION + 127) << 10) - bits - curve
        begin += _BLOCK
    return begin, total(cost)


@njit(nogil=True, cache=True)
def _to_codes(vector, symbols, weights, means, inverse_scales, phi, codes, raws, places):
    begin, escapes, cost = 0, 0, 0
    while begin < symbols.size:
        end = symbols.size
        if vector is not None:
            begin, block_cost = _code_blocks(
                vector, symbols, begin, weights, means, inverse_scales, phi, codes
            )
            cost += block_cost
            end = min(begin + _BLOCK, end)
        escapes, run_cost = code_run(
            symbols, begin, end, weights, means, inverse_scales, phi, codes, raws, places, escapes
        )
        cost += run_cost
        begin = end
    return escapes, cost


@njit(nogil=True, cache=True)
def _decode_rounds(vector, source, begin, count, groups, states, position, words_end, words, symbols):
    """What `_lanes_loops.rounds` does, under mixtures."""
    if vector is None:
        return 0, position
    weights, means, inverse_scales, phi, scales, quantiles = source
    lanes = states.size
    x = load(vector, states, 0)
    for done in range(count):
        at = begin + done * lanes * groups
        slot = x & ((1 << PRECISION) - 1)
        if some(slot >= REGULAR):
            store(states, 0, x)
            return done, position
        symbol, spread = _guess(slot, at, weights, means, inverse_scales, scales, quantiles)
        low, high = _bounds(symbol, at, weights, means, inverse_scales, phi)
        missed = (slot < low) | (slot >= high)
        least, most = splat(vector, -_MOST_SYMBOL), splat(vector, _MOST_SYMBOL)
        step, tries = spread, 0
        while some(missed):
            # As `_mixture_loops.search`, by steps and then bisection, both at once: a step that leaves the
            # bracket becomes its middle. First steps are as long as the cell's frequency suggests.
            over, under = slot >= high, slot < low
            if tries < _NEWTON_STEPS:
                gap = select(under, low - slot, slot - high + 1)
                step = signed_min(quotient(gap, signed_max(high - low, 1)), spread) + 1
            else:
                step = signed_min(step << 1, _MOST_SYMBOL)
            tries += 1
            least, most = select(over, symbol + 1, least), select(under, symbol - 1, most)
            moved = select(over, symbol + step, symbol - step)
            outside = signed_max(signed_min(moved, most), least) != moved
            moved = select(outside, signed_shift(least + most, 1), moved)
            symbol = select(missed, moved, symbol)
            low, high = _bounds(symbol, at, weights, means, inverse_scales, phi)
            missed = (slot < low) | (slot >= high)
        y = (high - low) * (x >> PRECISION) + slot - low
        empty = y < LANE_LOW
        word, after = read_words(words, position, empty)
        if after > words_end:
            store(states, 0, x)
            return done, position
        x = select(empty, (y << 16) | word, y)
        position = after
        store(symbols, at, symbol)
    store(states, 0, x)
    return count, position


# (weights, means, inverse_scales, phi, scales, quantiles)
MIXTURE_SOURCE = 6


@overload(run)
def _run(source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols):
    def implementation(
        source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols
    ):
        return decode_run(
            source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols
        )

    return implementation if len(source) == MIXTURE_SOURCE else None


@overload(rounds)
def _rounds(vector, source, begin, count, groups, states, position, words_end, words, symbols):
    def implementation(vector, source, begin, count, groups, states, position, words_end, words, symbols):
        return _decode_rounds(
            vector, source, begin, count, groups, states, position, words_end, words, symbols
        )

    return implementation if len(source) == MIXTURE_SOURCE else None


@cache
def coding_loop(level):
    """The loop from symbols to codes at a level of `_simd.LEVELS`."""

    @njit(nogil=True, cache=True)
    def to_codes(symbols, weights, means, inverse_scales, phi, codes, raws, places):
        """Returns (escapes, cost in 2**-10 bit), with room as `code_run` wants it."""
        vector = block(level, _BLOCK)
        return _to_codes(vector, symbols, weights, means, inverse_scales, phi, codes, raws, places)

    return to_codes


@cache
def decoding_loop(level, lanes):
    """`_lanes_loops.decode_groups` under mixtures, for that many lanes at a level of `_simd.LEVELS`."""

    @njit(nogil=True, cache=True)
    def decode(
        weights,
        means,
        inverse_scales,
        phi,
        scales,
        quantiles,
        first,
        begin,
        end,
        states,
        progress,
        saved,
        words,
        symbols,
    ):
        source = (weights, means, inverse_scales, phi, scales, quantiles)
        vector = block(level, lanes)
        return decode_groups(vector, source, first, begin, end, states, progress, saved, words, symbols)

    return decode
