"""From float scales to rows of a table: how many thresholds lie below each."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entropy._compiled import import_compiled, simd_level

_SHIFTS = range(20, 13, -1)
"""How many bits of a float say where it lies within its bucket: 8 buckets an octave, to 512."""


class ScaleSearch:
    """How many thresholds lie below a scale, or below a bound if that is greater."""

    def __init__(self, thresholds: NDArray[np.float32], least: float | None = None) -> None:
        """thresholds: ascending, no NaN. least: the bound, a float32; None for none."""
        # Without the sign of -0, whose bits would lie below those of all others.
        self._thresholds, self._least = thresholds + np.float32(0), least
        # As many lie below what is negative as below 0, unless one of them is negative.
        negative = least is None and bool((thresholds < 0).any())
        self._low = int(np.float32(least or 0).view(np.int32))
        self._shift, self._records = (0, None) if negative or self._low < 0 else _records(self._thresholds)

    def __call__(self, scales: NDArray[np.float32], indexes: NDArray[np.int32]) -> bool:
        """Fills indexes, both (n,) without gaps. Returns whether any scale is NaN: then they mean nothing."""
        if self._records is not None:
            loop = _loops().search_loop(simd_level())
            return bool(loop(scales.view(np.int32), self._low, self._shift, self._records, indexes))
        bounded = scales if self._least is None else np.maximum(scales, np.float32(self._least))
        indexes[...] = np.searchsorted(self._thresholds, bounded)
        return bool(np.isnan(scales).any())


def _records(thresholds: NDArray[np.float32]) -> tuple[int, NDArray[np.int32] | None]:
    """(shift, records) as the loop `search` wants them; no records where thresholds lie too close for that.

    REQUIRES: ascending, no NaN.
    """
    # Negative thresholds are below every bucket, as their bits show once they are all -1.
    bits = np.maximum(thresholds.view(np.int32), -1).astype(np.int64)
    for shift in _SHIFTS:
        buckets = np.arange(1 << (31 - shift))
        first = np.searchsorted(bits >> shift, buckets)
        crowded = (np.searchsorted(bits >> shift, buckets, side="right") - first).max() > 1
        # The greatest sum, of number and carry, must stay below 2^32.
        if crowded or first[-1] + 2 > 1 << (32 - shift):
            continue
        last = (1 << shift) - 1
        within = np.full(buckets.size, last)
        inside = bits[bits >= 0]
        within[inside >> shift] = inside & last
        return shift, ((first << shift) + last - within).astype(np.uint32).view(np.int32)
    return 0, None


@cache
def _loops() -> Any:
    return import_compiled("._scale_search", __package__)
