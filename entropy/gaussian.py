"""Tables for indexed Gaussians, built by exactly rounded float64 operations only.

`exp` and `erf` of the C library differ between machines in the last bit, and one bit may move a
frequency. So the normal tail is computed here from + - * / floor and ldexp, which IEEE 754 fixes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .symmetric import discretize, exp
from .table import CdfTable

# exp(x^2/2) Q(x) / t as a polynomial in u, where t = 4 / (4 + x) and u = (8 t - 5) / 3, so that
# 0 <= x <= 12 is -1 <= u <= 1; Q is the upper tail of the normal. Relative error below 1e-14
# (Chebyshev interpolation of degree 18 at 200 nodes, 40 digits).
_TAIL = (
    0.2336530309767045,
    0.15756321871907214,
    0.077430901268676,
    0.026402267969628294,
    0.005199492631207347,
    2.410596412147027e-05,
    -0.00025867601612804915,
    -2.97079011563028e-05,
    1.414999037491584e-05,
    2.2950913571164168e-06,
    -1.0410372000135726e-06,
    -1.236967664584356e-07,
    9.178641117460508e-08,
    8.431006693109277e-10,
    -7.979239995734609e-09,
    9.757963907083914e-10,
    5.548406968204328e-10,
    -1.1958245080724367e-10,
    -2.1217505121432802e-11,
)
_TAIL_END = 12.0
# Beyond so many scales from the mean no cell reaches the least mass.
_REACH = 6.0


def default_scales() -> NDArray[np.float64]:
    """float64 (64,): log-spaced from 0.11 to 256, with the same bits on every machine."""
    count, first, last = 64, 0.11, 256.0
    low, high = 1.0, 2.0
    while low < (middle := (low + high) / 2) < high:
        scale = first
        for _ in range(count - 1):
            scale *= middle
        low, high = (middle, high) if scale <= last else (low, middle)
    scales = [first]
    for _ in range(count - 1):
        scales.append(scales[-1] * low)
    scales[-1] = last
    return np.array(scales)


def scale_thresholds(scales: ArrayLike | None = None) -> NDArray[np.float32]:
    """float32 (len(scales) - 1,): the geometric midpoints sqrt(s[i] * s[i + 1]), rounded.

    The row of a float32 `scale` is sum(scale > thresholds). scales: strictly increasing, > 0, default
    `default_scales()`. Raises ValueError, also where two thresholds coincide in float32.
    """
    s = default_scales() if scales is None else np.asarray(scales, np.float64)
    if s.ndim != 1 or s.size < 1 or not np.all(s > 0) or not np.all(np.isfinite(s)):
        raise ValueError(f"scales must be 1-D, not empty, finite and > 0; shape {s.shape}")
    thresholds = np.sqrt(s[:-1] * s[1:]).astype(np.float32)
    if not np.all(np.diff(s) > 0) or not np.all(np.diff(thresholds) > 0) or not np.isfinite(thresholds).all():
        raise ValueError(
            "scales must be strictly increasing, and their midpoints distinct and finite in float32"
        )
    return thresholds


def gaussian_table(
    scales: ArrayLike | None = None, means: ArrayLike | None = None, precision: int = 14
) -> CdfTable:
    """Table of rounded Gaussians: symbol k has probability Phi((k+.5-mean)/scale) - Phi((k-.5-mean)/scale).

    scales: float64, 2**-20 .. 2**20, default `default_scales()`; means: float64, |mean| <= 2**20, default
    0; the two broadcast, and each element of the broadcast is one row, in C order. So for codecs with
    fractional means, scales[:, None] and 16 means give the row scale_index * 16 + mean_index.
    A row holds the symbols whose probability is worth a cell, at most 2**(precision - 1); the others
    are escapes. Deterministic: equal floats give equal tables on every machine. Raises ValueError.
    """
    return discretize(normal_tail, _REACH, default_scales() if scales is None else scales, means, precision)


def normal_tail(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Q(x) = 1 - Phi(x) for x >= 0, float64 of any shape; constant beyond 12, where it is 2e-33."""
    x = np.minimum(x, _TAIL_END)
    t = 4.0 / (4.0 + x)
    u = (8.0 * t - 5.0) / 3.0
    ratio = np.full_like(u, _TAIL[-1])
    for coefficient in _TAIL[-2::-1]:
        ratio = ratio * u + coefficient
    return ratio * t * exp(-0.5 * (x * x))
