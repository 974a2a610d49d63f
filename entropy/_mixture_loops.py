"""The Numba loops of mixtures: floats to integer parameters, the CDF in integers, symbols to codes and back.

`reference_mixture.py` says the same in plain Python, FORMAT.md (section 6) in words. The callers made
sure of shapes, of types and of what `Mixtures` promises. Integers are int64 throughout: a distance from
a mean is at most 2^41 + 2^30 units of 2^-10, an inverse scale 127 * 2^15, so their product is below 2^63.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

from ._lanes_loops import read_escape
from ._symbols import LANE_LOW, OK, TRUNCATED, nibble_count

# Reported beside the statuses of `_symbols.py`: an escape to a symbol that has a cell.
HAS_CELL = 100

PRECISION = 15
# The last cell, for all symbols whose interval of the CDF is empty.
ESCAPE_FREQ = 2
REGULAR = (1 << PRECISION) - ESCAPE_FREQ
WEIGHT_BITS = 14
MEAN_BITS = 10
MAX_MEAN = 1 << 29
# An inverse scale is (64 + code % 64) * 2**(code // 64 - 17).
MANTISSA_BITS = 6
INVERSE_BITS = 17
INVERSE_SCALES = 1024
# Phi is constant beyond 5, and tabulated up to 10, where vectors may look it up, in steps of 2^-6: its
# value above the difference to the next.
REACH = 5
TABULATED = 10
STEP_BITS = 6
PHI_BITS = 18
SLOPE_BITS = 11

# From the product of distance and inverse scale (27 fraction bits) to a step and 16 bits within it.
_PRODUCT_SHIFT = MEAN_BITS + INVERSE_BITS - STEP_BITS - 16
_ZERO = TABULATED << (STEP_BITS + 16)
_LIMIT = REACH << (STEP_BITS + 16)
SUM_SHIFT = WEIGHT_BITS + PHI_BITS - PRECISION

_EXPONENT_BIAS = 1023 + MANTISSA_BITS - INVERSE_BITS
_MANTISSA_SHIFT = 52 - MANTISSA_BITS
# Below all scales that have a code, and far enough above 0.
_LEAST_SCALE = 2.0**-7

# Entry b is where the normal's CDF passes (b + 1/2) / 512, in steps of Phi: a first guess for the search.
QUANTILE_BITS = 9
# Mixtures whose weights are summed at once.
_BLOCK = 512


@njit(nogil=True, cache=True, error_model="numpy")
def quantize_weights(floats, weights):
    """uint16 (K, n) that sum to 2**14 over K. Returns whether all are legal.

    Running sums are rounded, not weights, so the total comes out. Each operation is a single exactly
    rounded one; the products by powers of two are exact, so a fused multiply-add changes nothing.
    """
    components, size = floats.shape
    totals, partials, before = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK, np.int32)
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        totals[:] = 0.0
        negative = 0
        for k in range(components):
            row = floats[k, begin:end]
            for i in range(row.size):
                totals[i] += np.float64(row[i])
                negative += row[i] < 0.0
        illegal = negative
        for i in range(end - begin):
            # False for NaN too, as every comparison with one is.
            illegal += not 0.0 < totals[i] < np.inf
        if illegal > 0:
            return False
        partials[:] = 0.0
        before[:] = 0
        for k in range(components):
            row, out = floats[k, begin:end], weights[k, begin:end]
            for i in range(row.size):
                partials[i] += np.float64(row[i])
                upto = np.int32(partials[i] / totals[i] * (1 << WEIGHT_BITS) + 0.5)
                out[i] = upto - before[i]
                before[i] = upto
    return True


@njit(nogil=True, cache=True)
def quantize_means(floats, means):
    """int32 in units of 2**-10, halves up, clamped to +-2**29. Returns whether all are finite."""
    source, out = floats.reshape(-1), means.reshape(-1)
    finite = True
    for i in range(source.size):
        mean = np.float64(source[i])
        finite &= mean - mean == 0.0
        scaled = min(max(mean, -float(MAX_MEAN >> MEAN_BITS)), float(MAX_MEAN >> MEAN_BITS)) * (
            1 << MEAN_BITS
        )
        out[i] = np.int32(np.floor(scaled + 0.5))
    return finite


@njit(nogil=True, cache=True)
def quantize_scales(floats, inverse_scales):
    """uint16 codes of 1 / scale, clamped to 0..1023. Returns whether all are finite."""
    source, out = floats.reshape(-1), inverse_scales.reshape(-1)
    finite = True
    for i in range(source.size):
        scale = np.float64(source[i])
        finite &= scale - scale == 0.0
        # The float's exponent and first mantissa bits are the code, once the next bit is rounded.
        bits = np.float64(1.0 / max(scale, _LEAST_SCALE)).view(np.int64)
        code = ((bits + (1 << (_MANTISSA_SHIFT - 1))) >> _MANTISSA_SHIFT) - (_EXPONENT_BIAS << MANTISSA_BITS)
        out[i] = min(max(code, 0), INVERSE_SCALES - 1)
    return finite


@njit(nogil=True, cache=True, inline="always")
def _phi(product, phi):
    """Phi of a product of distance and inverse scale, times 2**18 - 16."""
    place = min(max(product >> _PRODUCT_SHIFT, -_LIMIT), _LIMIT) + _ZERO
    entry = np.int64(phi[np.uint64(place >> 16)])
    return (entry >> SLOPE_BITS) + ((entry & ((1 << SLOPE_BITS) - 1)) * (place & 0xFFFF) >> 16)


@njit(nogil=True, cache=True, inline="always")
def _inverse_scale(code):
    """The inverse scale in units of 2**-17."""
    return ((1 << MANTISSA_BITS) + (code & ((1 << MANTISSA_BITS) - 1))) << (code >> MANTISSA_BITS)


@njit(nogil=True, cache=True, inline="always")
def _bounds(symbol, i, weights, means, inverse_scales, phi):
    """(start, end) of the symbol's cell under mixture i; they are equal where it has none."""
    edge = (symbol << MEAN_BITS) - (1 << (MEAN_BITS - 1))
    low = high = np.int64(1 << (SUM_SHIFT - 1))
    for k in range(weights.shape[0]):
        weight = np.int64(weights[k, i])
        inverse = _inverse_scale(np.int64(inverse_scales[k, i]))
        product = (edge - np.int64(means[k, i])) * inverse
        low += weight * _phi(product, phi)
        high += weight * _phi(product + (inverse << MEAN_BITS), phi)
    return low >> SUM_SHIFT, high >> SUM_SHIFT


@njit(nogil=True, cache=True)
def _start(symbol, i, weights, means, inverse_scales, phi):
    """The start alone of what `_bounds` returns."""
    edge = (symbol << MEAN_BITS) - (1 << (MEAN_BITS - 1))
    low = np.int64(1 << (SUM_SHIFT - 1))
    for k in range(weights.shape[0]):
        inverse = _inverse_scale(np.int64(inverse_scales[k, i]))
        low += np.int64(weights[k, i]) * _phi((edge - np.int64(means[k, i])) * inverse, phi)
    return low >> SUM_SHIFT


@njit(nogil=True, cache=True, inline="always")
def _guess(slot, i, weights, means, inverse_scales, scales, quantiles):
    """A symbol near the slot's, as if the mixture were one Gaussian of its mean and about its spread."""
    mean = np.int64(0)
    for k in range(weights.shape[0]):
        mean += np.int64(weights[k, i]) * np.int64(means[k, i])
    mean >>= WEIGHT_BITS
    spread = np.int64(0)
    for k in range(weights.shape[0]):
        scale = np.int64(scales[np.uint64(inverse_scales[k, i])])
        distance = abs(np.int64(means[k, i]) - mean)
        # sqrt(a^2 + b^2) is about the greater and 3/8 of the lesser.
        spread += np.int64(weights[k, i]) * (max(scale, distance) + (3 * min(scale, distance) >> 3))
    spread >>= WEIGHT_BITS
    quantile = np.int64(quantiles[np.uint64(slot >> (PRECISION - QUANTILE_BITS))])
    return (mean + (spread * quantile >> STEP_BITS) + (1 << (MEAN_BITS - 1))) >> MEAN_BITS


@njit(nogil=True, cache=True)
def search(slot, symbol, start, end, i, weights, means, inverse_scales, phi):
    """(symbol, start, end) of the cell that holds the slot, from a symbol whose cell doesn't.

    Steps as long as the cell's frequency suggests, then longer, until the slot is passed; then bisection.
    Fewer than 25 of each: the CDF is 0 and REGULAR beyond 2^20, and no guess is farther out.
    """
    freq = max(end - start, 1)
    if slot >= end:
        low, start = symbol + 1, end
        step = max((slot - end) // freq, 1)
        while True:
            high = low + step
            end = _start(high, i, weights, means, inverse_scales, phi)
            if slot < end:
                break
            low, start, step = high, end, 2 * step
    else:
        high, end = symbol, start
        step = (start - 1 - slot) // freq + 1
        while True:
            low = high - step
            start = _start(low, i, weights, means, inverse_scales, phi)
            if start <= slot:
                break
            high, end, step = low, start, 2 * step
    while high - low > 1:
        middle = (low + high) >> 1
        edge = _start(middle, i, weights, means, inverse_scales, phi)
        if edge <= slot:
            low, start = middle, edge
        else:
            high, end = middle, edge
    return low, start, end


@njit(nogil=True, cache=True)
def center(i, weights, means):
    """The symbol nearest to the mean of the heaviest component, the first of equals."""
    heaviest = 0
    for k in range(1, weights.shape[0]):
        if weights[k, i] > weights[heaviest, i]:
            heaviest = k
    return (np.int64(means[heaviest, i]) + (1 << (MEAN_BITS - 1))) >> MEAN_BITS


@njit(nogil=True, cache=True)
def _cost(freq):
    """The cost of a cell in units of 2**-10 bit, to about 0.01 bit."""
    bits = np.float64(freq).view(np.int64) >> 42
    # log2(1 + m) is about m + 0.345 m (1 - m).
    fraction = bits & 1023
    return ((PRECISION + 1023) << 10) - bits - (fraction * (1024 - fraction) * 353 >> 20)


@njit(nogil=True, cache=True)
def code_run(symbols, begin, end, weights, means, inverse_scales, phi, codes, raws, places, escapes):
    """Writes the codes of symbols[begin:end]. Returns (escapes so far, cost in 2**-10 bit).

    `escapes` counts those before `begin`. Where more are found than fit `raws`, the call is to be repeated
    with room for that many.
    """
    cost = 0
    for i in range(begin, end):
        symbol = np.int64(symbols[np.uint64(i)])
        start, stop = _bounds(symbol, i, weights, means, inverse_scales, phi)
        if start < stop:
            codes[np.uint64(i)] = start | (stop - start) << 16
            cost += _cost(stop - start)
            continue
        above = symbol - center(i, weights, means)
        raw = 2 * above if above >= 0 else -2 * above - 1
        if escapes < raws.size:
            raws[escapes], places[escapes] = raw, i
        escapes += 1
        codes[i] = ESCAPE_FREQ
        cost += _cost(ESCAPE_FREQ) + ((4 + 4 * nibble_count(raw)) << 10)
    return escapes, cost


@njit(nogil=True, cache=True)
def decode_run(
    source, begin, end, stop, stride, first, lane_mask, states, position, words_end, words, symbols
):
    """What `_lanes_loops.run` does, under mixtures: the source is their integers, then the tables."""
    weights, means, inverse_scales, phi, scales, quantiles = source
    while end <= stop:
        for i in range(begin, end):
            lane = np.uint64((first + i) & lane_mask)
            x = states[lane]
            slot = x & ((1 << PRECISION) - 1)
            regular = slot < REGULAR
            symbol, low, high = np.int64(0), np.int64(REGULAR), np.int64(1 << PRECISION)
            if regular:
                symbol = _guess(slot, i, weights, means, inverse_scales, scales, quantiles)
                low, high = _bounds(symbol, i, weights, means, inverse_scales, phi)
                if slot < low or slot >= high:
                    symbol, low, high = search(
                        slot, symbol, low, high, i, weights, means, inverse_scales, phi
                    )
            x = (high - low) * (x >> PRECISION) + slot - low
            if x < LANE_LOW:
                if position >= words_end:
                    return TRUNCATED, i, position
                x = x << 16 | np.int64(words[np.uint64(position)])
                position += 1
            if not regular:
                middle = center(i, weights, means)
                status, symbol, x, position = read_escape(x, middle, 0, PRECISION, position, words_end, words)
                if status != OK:
                    return status, symbol, position
                low, high = _bounds(symbol, i, weights, means, inverse_scales, phi)
                if low < high:
                    return HAS_CELL, symbol, position
            states[lane] = x
            symbols[np.uint64(i)] = symbol
        begin, end = begin + stride, end + stride
    return OK, 0, position
