"""Between floats and the coder's integers, compiled: ARITHMETIC.md's last section, in place in the memory.

Everything works on n positions x M channels: `indexes` and `symbols` int32, `offsets` float32, 1-D each, in
coding order. An offset is what a symbol is counted from: in integer mode the mean's integer part, in
residual mode (bits < 0) the mean itself.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

from .models import LATENT_LIMIT

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
