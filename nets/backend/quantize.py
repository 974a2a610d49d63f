"""Between float parameters and the coder's integers, for elements in one row: ARITHMETIC.md, section 9."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...entropy._compiled import import_compiled
from ...kernels import Quantization
from .tensors import FloatArray

Int32Array = NDArray[np.int32]

LATENT_LIMIT = 1 << 24
"""Of symbols and latents, as `kernels` has it."""


class Quantizer:
    """A `Quantization` of float parameters that are finite, (n,) float32 each."""

    def __init__(self, rule: Quantization) -> None:
        self._loops: Any = import_compiled("._loops", __package__)
        self._bits, self._whole = rule.bits, rule.fraction_bits is not None
        self._padded = np.append(rule.thresholds, np.float32(np.inf))
        self._starts, self._depth = _buckets(rule.thresholds, int(self._loops.BUCKET_SHIFT))

    def to_indexes(self, mean: FloatArray, scale: FloatArray) -> tuple[FloatArray, Int32Array]:
        """(offsets float32, indexes int32)."""
        offsets, indexes = np.empty(mean.size, np.float32), np.empty(mean.size, np.int32)
        self._loops.count_below(scale, self._padded, self._starts, self._depth, indexes)
        self._loops.to_offsets(mean, self._bits, offsets, indexes)
        return offsets, indexes

    def to_symbols(self, y: FloatArray, offsets: FloatArray) -> tuple[Int32Array, int]:
        """(symbols, which is the first that makes something too large, or -1).

        REQUIRES: y is finite, and in integer mode whole and within 2^24.
        """
        symbols = np.empty(y.size, np.int32)
        if self._loops.to_symbols(y, offsets, self._whole, symbols):
            return symbols, -1
        rounded = np.rint(y - offsets)
        legal = (np.abs(rounded) <= LATENT_LIMIT) & (np.abs(rounded + offsets) <= LATENT_LIMIT)
        return symbols, int(legal.argmin())

    def to_latent(self, symbols: Int32Array, offsets: FloatArray) -> tuple[FloatArray, bool]:
        """(y_hat, whether all of it and all symbols are within 2^24)."""
        y_hat = np.empty(symbols.size, np.float32)
        return y_hat, bool(self._loops.to_latent(symbols, offsets, self._whole, y_hat))


def _buckets(thresholds: FloatArray, shift: int) -> tuple[Int32Array, int]:
    """(by bucket of numbers with the same leading bits: how many thresholds lie below all, most in one)."""
    first = np.arange(1 << (32 - shift), dtype=np.uint32) << np.uint32(shift)
    last = first | np.uint32((1 << shift) - 1)
    negative = first >= 1 << 31
    ends = np.where(negative, last, first).view(np.float32), np.where(negative, first, last).view(np.float32)
    low, high = (np.searchsorted(thresholds, end) for end in ends)
    # Buckets of NaN, which no scale has.
    low[np.isnan(ends[0])] = high[np.isnan(ends[0])] = 0
    within = np.where(np.isnan(ends[1]), 0, high - low)
    return low.astype(np.int32), int(within.max())
