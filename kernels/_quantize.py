"""Between floats and the coder's integers, compiled: ARITHMETIC.md's last section, in place in the memory.

Everything works on n positions x M channels: `indexes` and `symbols` int32, `offsets` float32, 1-D each, in
coding order. An offset is what a symbol is counted from: in integer mode the mean's integer part, in
residual mode (bits < 0) the mean itself. Mixtures need none: their symbols are the latent.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from functools import cache

import numpy as np
from numba import njit

from ..entropy._mixture_loops import quantize_means, quantize_scales, quantize_weights
from ._fma import machine
from .functions import exp
from .quantization import LATENT_LIMIT

MEAN_LIMIT = 1 << 20


@njit(nogil=True, cache=True)
def to_indexes(memory, scales, means, pitch, count, channels, thresholds, bits, offsets, indexes):
    """Scales and means of `count` positions, `pitch` apart, to offsets and indexes.

    scales, means: where in the memory those of position 0 are, `channels` each.
    """
    limit = np.float32(MEAN_LIMIT)
    unit = np.float32(1 << max(bits, 0))
    half = (1 << bits) >> 1 if bits >= 0 else 0
    for n in range(count):
        scale = memory[scales + n * pitch : scales + n * pitch + channels]
        mean = memory[means + n * pitch : means + n * pitch + channels]
        index = indexes[n * channels : (n + 1) * channels]
        offset = offsets[n * channels : (n + 1) * channels]
        for c in range(channels):
            index[c] = 0
        for t in thresholds:
            for c in range(channels):
                index[c] += np.int32(scale[c] > t)
        for c in range(channels):
            m = mean[c]
            m = m if m == m else np.float32(0)
            offset[c] = min(max(m, -limit), limit)
        if bits >= 0:
            for c in range(channels):
                q = np.int32(np.rint(offset[c] * unit))
                k = (q + half) >> bits
                offset[c] = k
                index[c] = (index[c] << bits) + (q - (k << bits)) + half


@njit(nogil=True, cache=True)
def _sum(symbol, offset, bits):
    """(symbol + offset, whether it is a legal latent): exact in integer mode, else one binary32 addition."""
    if bits >= 0:
        whole = np.int64(symbol) + np.int64(offset)
        return np.float32(whole), abs(whole) <= LATENT_LIMIT
    value = np.float32(symbol) + offset
    return value, abs(np.int64(symbol)) <= LATENT_LIMIT and abs(value) <= np.float32(LATENT_LIMIT)


@njit(nogil=True, cache=True)
def store(memory, plane, width, channels, rows, cols, firsts, count, symbols, offsets, bits):
    """y_hat = symbol + offset into a plane (.., width, channels) of the memory, `count` channels a position.

    Returns the first element beyond LATENT_LIMIT, or -1.
    """
    for n in range(len(rows)):
        target = plane + (rows[n] * width + cols[n]) * channels + firsts[n]
        for c in range(count):
            value, legal = _sum(symbols[n * count + c], offsets[n * count + c], bits)
            if not legal:
                return n * count + c
            memory[target + c] = value
    return -1


@njit(nogil=True, cache=True)
def quantize(memory, plane, width, channels, rows, cols, firsts, count, offsets, bits, symbols):
    """symbol = y - offset, rounded half to even, of a plane's y. Returns the first that is too large, or -1.

    REQUIRES: y is finite, and in integer mode whole and within LATENT_LIMIT.
    """
    for n in range(len(rows)):
        source = plane + (rows[n] * width + cols[n]) * channels + firsts[n]
        for c in range(count):
            i = n * count + c
            if bits >= 0:
                symbols[i] = np.int64(memory[source + c]) - np.int64(offsets[i])
                continue
            rounded = np.rint(memory[source + c] - offsets[i])
            if not abs(rounded) <= np.float32(LATENT_LIMIT):
                return i
            symbols[i] = np.int32(rounded)
            if not _sum(symbols[i], offsets[i], bits)[1]:
                return i
    return -1


@njit(nogil=True, cache=True)
def to_mixtures(
    machine, memory, source, pitch, count, channels, least, floats, weights, means, inverse_scales
):
    """What a model gives at `count` positions, `pitch` apart, to the integers of mixtures.

    source: where in the memory position 0 has its logits, means and scales, `channels` of each for every
    component; least: the least scale; floats: room for them, float32 (K, count * channels), as the integers
    are, which become those of `entropy.mixture.parameters`. Returns which number of which position isn't
    finite, all 3 K M of a position counted, and leaves the integers; or -1.
    """
    components = len(floats)
    width = 3 * components * channels
    for n in range(count):
        values = memory[source + n * pitch : source + n * pitch + width]
        bad = 0
        for value in values:
            bad += value - value != np.float32(0)
        if bad:
            for i in range(width):
                if values[i] - values[i] != np.float32(0):
                    return n * width + i
    highest = np.empty(channels, np.float32)
    for n in range(count):
        values = memory[source + n * pitch : source + n * pitch + width]
        for c in range(channels):
            highest[c] = values[c]
        for k in range(1, components):
            logits = values[3 * k * channels : (3 * k + 1) * channels]
            for c in range(channels):
                highest[c] = logits[c] if logits[c] > highest[c] else highest[c]
        # A component has the weight 1, so that their sum is neither 0 nor infinite.
        for k in range(components):
            logits = values[3 * k * channels : (3 * k + 1) * channels]
            out = floats[k, n * channels : (n + 1) * channels]
            for c in range(channels):
                out[c] = exp(machine, logits[c] - highest[c])
    quantize_weights(floats, weights)
    _gather(memory, source + channels, pitch, count, channels, floats)
    quantize_means(floats, means)
    _gather(memory, source + 2 * channels, pitch, count, channels, floats)
    for k in range(components):
        row = floats[k]
        for i in range(len(row)):
            row[i] = row[i] if row[i] > least else least
    quantize_scales(floats, inverse_scales)
    return -1


@njit(nogil=True, cache=True)
def _gather(memory, source, pitch, count, channels, floats):
    """floats[k] = the k-th of every third `channels` numbers from `source` on, of all positions."""
    for k in range(len(floats)):
        for n in range(count):
            start = source + n * pitch + 3 * k * channels
            out = floats[k, n * channels : (n + 1) * channels]
            for c in range(channels):
                out[c] = memory[start + c]


@cache
def mixture_loop(number):
    """`to_mixtures` without its first argument, for a machine of `_fma.MACHINES`."""

    @njit(nogil=True, cache=True)
    def on_machine(*arguments):
        return to_mixtures(machine(number), *arguments)

    return on_machine
