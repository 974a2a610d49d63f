"""Tables of rounded distributions that are symmetric around a mean; here those of Laplace and the logistic.

Only exactly rounded float64 operations (+ - * / floor ldexp, comparisons) are used: `exp` of the C
library differs between machines in the last bit, and one bit may move a frequency.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .quantize import quantize
from .table import MAX_CELLS, MAX_ROWS, CdfTable, check_precision

# ln 2 in two parts: multiples of the first by integers below 2^21 are exact.
_LN2_HIGH, _LN2_LOW, _LOG2_E = 0.6931471803691238, 1.9082149292705877e-10, 1.4426950408889634
_EXP_DEGREE = 13

# A cell is worth its place where the escape would cost more: the frequency of 1 takes 1.44 / 2^P
# bits from every symbol, and an escape some 8 bits more than a cell, when it occurs.
_LEAST_MASS = 0.18
_MAX_MEAN = _MAX_SCALE = float(1 << 20)

# Both tails are below exp(-x), so beyond this many scales no cell reaches the least mass at precision 16.
_EXPONENTIAL_REACH = 13.0
# Both tails are constant beyond, where they are 4e-18.
_EXPONENTIAL_END = 40.0


def laplace_table(scales: ArrayLike, means: ArrayLike | None = None, precision: int = 14) -> CdfTable:
    """Table of rounded Laplace distributions, of density exp(-|x - mean| / scale) / (2 scale).

    Arguments, rows and errors as `gaussian_table`; the standard deviation is sqrt(2) scale.
    """
    return discretize(_laplace_tail, _EXPONENTIAL_REACH, scales, means, precision)


def logistic_table(scales: ArrayLike, means: ArrayLike | None = None, precision: int = 14) -> CdfTable:
    """Table of rounded logistic distributions, of CDF 1 / (1 + exp(-(x - mean) / scale)).

    Arguments, rows and errors as `gaussian_table`; the standard deviation is pi / sqrt(3) scale.
    """
    return discretize(_logistic_tail, _EXPONENTIAL_REACH, scales, means, precision)


def discretize(
    tail: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    reach: float,
    scales: ArrayLike,
    means: ArrayLike | None,
    precision: int,
) -> CdfTable:
    """Table whose symbol k has the probability F(k + .5) - F(k - .5), F symmetric around `means`.

    tail(x) = 1 - F(mean + x * scale) for x >= 0 in float64, in exactly rounded operations; beyond `reach`
    scales from the mean no cell reaches the least mass. The rest as at `gaussian_table`.
    """
    precision = check_precision(precision)
    s, mean = np.broadcast_arrays(
        np.asarray(scales, np.float64), 0.0 if means is None else np.asarray(means, np.float64)
    )
    s, mean = s.reshape(-1), mean.reshape(-1)
    if not 1 <= s.size <= MAX_ROWS:
        raise ValueError(f"{s.size} rows, legal are 1..{MAX_ROWS}")
    legal = (s >= 1 / _MAX_SCALE) & (s <= _MAX_SCALE)
    if not legal.all():
        raise ValueError(f"scale {s[~legal][0]}, legal are 2**-20 .. 2**20")
    legal = np.abs(mean) <= _MAX_MEAN
    if not legal.all():
        raise ValueError(f"mean {mean[~legal][0]}, legal are -2**20 .. 2**20")

    radius = np.minimum(reach * s + 0.5, (1 << precision) / 4 - 1)
    first = np.ceil(mean - radius).astype(np.int64)
    count = np.floor(mean + radius).astype(np.int64) - first + 1
    if int(count.sum()) > MAX_CELLS:
        raise ValueError(f"{s.size} rows of up to {int(count.max())} cells, the limit in all is {MAX_CELLS}")
    # One edge more than cells in each row: edge i of a row is the lower end of its cell i.
    edge_starts = np.append(0, np.cumsum(count + 1))
    row = np.repeat(np.arange(s.size), count + 1)
    k = np.arange(edge_starts[-1]) - edge_starts[row] + first[row]
    edge = (k - 0.5 - mean[row]) / s[row]
    outside = tail(np.abs(edge))

    # Tails are subtracted on the side where they are small, so that nothing cancels.
    low, high = edge[:-1], edge[1:]
    below_low, above_high = outside[:-1], outside[1:]
    mass = np.where(high <= 0, above_high - below_low, below_low - above_high)
    mass = np.where((low < 0) & (high > 0), 1.0 - below_low - above_high, mass)
    is_cell = row[:-1] == row[1:]

    worth = is_cell & (mass >= _LEAST_MASS / (1 << precision))
    # The cell nearest to the mean always stays, however wide the row.
    worth[edge_starts[:-1] + (np.floor(mean + 0.5).astype(np.int64) - first)] = True
    kept = np.flatnonzero(worth)
    lengths = np.bincount(row[kept], minlength=s.size)
    row_starts = np.append(0, np.cumsum(lengths + 1))
    begin = kept[np.append(0, np.cumsum(lengths)[:-1])]
    end = begin + lengths

    masses = np.empty(row_starts[-1])
    is_escape = np.zeros(masses.size, np.bool_)
    is_escape[row_starts[1:] - 1] = True
    masses[~is_escape] = mass[kept]
    below = np.where(edge[begin] <= 0, outside[begin], 1.0 - outside[begin])
    above = np.where(edge[end] >= 0, outside[end], 1.0 - outside[end])
    masses[is_escape] = below + above
    freqs = quantize(masses, row_starts, precision)
    return CdfTable.from_flat(freqs, row_starts, k[begin], precision)


def exp(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(y) for -100 <= y <= 0, to about 1e-15."""
    n = np.floor(y * _LOG2_E + 0.5)
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    result = np.ones_like(r)
    for divisor in range(_EXP_DEGREE, 0, -1):
        result = 1.0 + result * r / divisor
    return np.ldexp(result, n.astype(np.int32))


def _laplace_tail(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * exp(-np.minimum(x, _EXPONENTIAL_END))


def _logistic_tail(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = exp(-np.minimum(x, _EXPONENTIAL_END))
    return e / (1.0 + e)
