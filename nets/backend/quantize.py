"""Between float parameters and the coder's integers, for elements in one row: ARITHMETIC.md, section 9."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...entropy._compiled import import_compiled
from ...kernels import Quantization
from ...kernels.quantization import LATENT_LIMIT
from ..scale_search import ScaleSearch
from .tensors import FloatArray

Int32Array = NDArray[np.int32]


class Quantizer:
    """A `Quantization` of float parameters that are finite, (n,) float32 each."""

    def __init__(self, rule: Quantization) -> None:
        self._loops: Any = import_compiled("._loops", __package__)
        self._bits, self._whole = rule.bits, rule.fraction_bits is not None
        self._search = ScaleSearch(rule.thresholds)

    def to_indexes(self, mean: FloatArray, scale: FloatArray) -> tuple[FloatArray, Int32Array]:
        """(offsets float32, indexes int32)."""
        offsets, indexes = np.empty(mean.size, np.float32), np.empty(mean.size, np.int32)
        self._search(scale, indexes)
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
