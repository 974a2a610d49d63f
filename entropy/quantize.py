"""Probabilities to integer frequencies, with the same integers on every machine.

Only exactly rounded float64 operations (+ - * / floor, comparisons), integer sums and stable sorts
are used: no float is ever summed by NumPy, whose order of summation depends on the machine.
"""

import numpy as np
from numpy.typing import NDArray

# Masses become integers below 2^40 before they are summed: 65,536 of them stay below 2^63.
_MASS_BITS = 40
# Cells that are settled together: some arrays of so many float64 stay in a cache.
_TOGETHER = 1 << 15
# So many minima of a row are found in less time than it takes to sort it.
_FEW = 16


def quantize(masses: NDArray[np.float64], row_starts: NDArray[np.int64], precision: int) -> NDArray[np.int64]:
    """Integer frequencies >= 1 that sum to 2**precision in each row, nearly optimal in code length.

    masses: float64 (cells,), finite, >= 0, not all 0 in a row, in any unit (rows are normalized);
    row_starts: int64 (rows + 1,), row r owns cells row_starts[r]:row_starts[r + 1], none empty.
    Raises ValueError for a row of more than 2**precision cells or without mass.

    The expected length -sum(p log f) is least where the greatest marginal gain p log((f + 1) / f),
    which p / (f + 1/2) approximates, meets the least marginal cost p log(f / (f - 1)): so f is p times a
    common factor, rounded (apportionment by Webster's method), and the remainder goes cell by cell.
    """
    total = 1 << precision
    if row_starts.size == 1:
        return np.zeros(0, np.int64)
    starts, lengths = row_starts[:-1], np.diff(row_starts)
    if int(lengths.max()) > total:
        row = int(lengths.argmax())
        raise ValueError(f"row {row} has {lengths[row]} cells, precision {precision} allows {total}")
    greatest = np.maximum.reduceat(masses, starts)
    if not np.all(greatest > 0):
        raise ValueError(f"row {int(np.argmin(greatest))} has no mass")
    units = np.floor(masses / np.repeat(greatest, lengths) * float(1 << _MASS_BITS)).astype(np.int64)

    # Cells below half a unit of frequency are lifted to 1, the others share what is left.
    mass = np.add.reduceat(units, starts)
    share = np.full(starts.size, total, np.int64)
    lifted = np.zeros(units.size, np.bool_)
    for _ in range(4):
        factor = share.astype(np.float64) / mass.astype(np.float64)
        freqs = np.floor(units * np.repeat(factor, lengths) + 0.5).astype(np.int64)
        lifted, before = freqs < 1, lifted
        if np.array_equal(lifted, before):
            break
        share = np.maximum(total - np.add.reduceat(lifted.astype(np.int64), starts), 1)
        mass = np.maximum(np.add.reduceat(np.where(lifted, 0, units), starts), 1)
    freqs[lifted] = 1
    _settle(freqs, units, starts, lengths, total - np.add.reduceat(freqs, starts))
    return freqs


def _settle(
    freqs: NDArray[np.int64],
    units: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    missing: NDArray[np.int64],
) -> None:
    """Adds `missing` (of either sign) to the rows in place, half of it at a time, where it costs least."""
    unsettled = np.flatnonzero(missing)
    # Rows of similar length are worked on together, as the rows of one matrix.
    unsettled = unsettled[np.argsort(lengths[unsettled], kind="stable")]
    while unsettled.size:
        wide = np.searchsorted(lengths[unsettled], 2 * lengths[unsettled[0]], side="right")
        count = min(wide, max(1, _TOGETHER // int(lengths[unsettled[wide - 1]])))
        rows, unsettled = unsettled[:count], unsettled[count:]
        column = np.arange(lengths[rows[-1]])
        outside = column >= lengths[rows, None]
        cells = starts[rows, None] + column
        cells[outside] = starts[rows[0]]
        f, weights, need = freqs[cells], units[cells].astype(np.float64), missing[rows]
        while (r := np.flatnonzero(need)).size:
            more = need[r, None] > 0
            # The cost of 1 more is a gain, the greatest is the least of the negative ones.
            cost = weights[r] / np.where(more, -0.5 - f[r], f[r] - 0.5)
            cost[outside[r] | ~more & (f[r] == 1)] = np.inf
            step = np.minimum((np.abs(need[r]) + 1) // 2, np.count_nonzero(cost < np.inf, axis=1))
            step *= np.sign(need[r])
            f[r] += _least(cost, np.abs(step)) * np.sign(step)[:, None]
            need[r] -= step
        freqs[cells[~outside]] = f[~outside]


def _least(costs: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks the counts[r] least of each row, of equal ones the first. costs: (rows, columns), changed."""
    chosen = np.zeros(costs.shape, np.bool_)
    if int(counts.max()) > _FEW:
        order = np.argsort(costs, axis=1, kind="stable")
        np.put_along_axis(chosen, order, np.arange(costs.shape[1]) < counts[:, None], axis=1)
        return chosen
    for taken in range(int(counts.max())):
        r = np.flatnonzero(counts > taken)
        best = costs[r].argmin(axis=1)
        chosen[r, best] = True
        costs[r, best] = np.inf
    return chosen
