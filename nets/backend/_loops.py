"""Between float parameters and the coder's integers, compiled: ARITHMETIC.md, section 9, for flat arrays.

The loops of `kernels._quantize` give the same for elements that lie in planes; these are for codecs whose
networks run elsewhere, where making indexes is most of what is left besides coding.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

MEAN_LIMIT, LATENT_LIMIT = np.float32(1 << 20), np.float32(1 << 24)


@njit(nogil=True, cache=True)
def to_offsets(mean, bits, offsets, indexes):
    """Offsets of finite means; in integer mode (bits >= 0) indexes of scales become those of rows."""
    for i in range(mean.size):
        offsets[i] = min(max(mean[i], -MEAN_LIMIT), MEAN_LIMIT)
    if bits < 0:
        return
    unit, half = np.float32(1 << bits), np.int32((1 << bits) >> 1)
    for i in range(mean.size):
        q = np.int32(np.rint(offsets[i] * unit))
        k = (q + half) >> bits
        offsets[i] = k
        indexes[i] = (indexes[i] << bits) + (q - (k << bits)) + half


@njit(nogil=True, cache=True)
def to_symbols(y, offsets, whole, symbols):
    """symbol = y - offset, rounded half to even; whether all symbols and latents are within the limit.

    whole: integer mode. REQUIRES: y is finite, and in integer mode whole and within the limit.
    """
    bad = np.int64(0)
    if whole:
        # Both are integers of up to 24 bits, so this is exact, and y_hat is y.
        for i in range(y.size):
            symbols[i] = np.int32(y[i]) - np.int32(offsets[i])
        return True
    for i in range(y.size):
        rounded = np.rint(y[i] - offsets[i])
        bad += np.int64(not abs(rounded) <= LATENT_LIMIT)
        bad += np.int64(not abs(rounded + offsets[i]) <= LATENT_LIMIT)
        symbols[i] = np.int32(min(max(rounded, -LATENT_LIMIT), LATENT_LIMIT))
    return bad == 0


@njit(nogil=True, cache=True)
def to_latent(symbols, offsets, whole, y_hat):
    """y_hat = symbol + offset: exact in integer mode, else one binary32 addition; whether all are legal."""
    bad = np.int64(0)
    limit = np.int64(LATENT_LIMIT)
    if whole:
        for i in range(y_hat.size):
            value = np.int64(symbols[i]) + np.int64(offsets[i])
            bad += np.int64(abs(value) > limit)
            y_hat[i] = np.float32(value)
        return bad == 0
    for i in range(y_hat.size):
        value = np.float32(symbols[i]) + offsets[i]
        bad += np.int64(abs(np.int64(symbols[i])) > limit) + np.int64(not abs(value) <= LATENT_LIMIT)
        y_hat[i] = value
    return bad == 0
