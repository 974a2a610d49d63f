"""Probabilities to integer frequencies, with the same integers on every machine.

Only exactly rounded float64 operations (+ - * / floor, comparisons), integer sums and stable sorts
are used: no float is ever summed by NumPy, whose order of summation depends on the machine.
"""

import numpy as np
from numpy.typing import NDArray

# Masses become integers below 2^40 before they are summed: 65,536 of them stay below 2^63.
_MASS_BITS = 40


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
    freqs = np.ones(units.size, np.int64)
    for _ in range(4):
        factor = share.astype(np.float64) / mass.astype(np.float64)
        freqs = np.floor(units * np.repeat(factor, lengths) + 0.5).astype(np.int64)
        lifted = freqs < 1
        freqs[lifted] = 1
        share = np.maximum(total - np.add.reduceat(lifted.astype(np.int64), starts), 1)
        mass = np.maximum(np.add.reduceat(np.where(lifted, 0, units), starts), 1)

    missing = total - np.add.reduceat(freqs, starts)
    for r in np.flatnonzero(missing):
        cells = slice(int(row_starts[r]), int(row_starts[r + 1]))
        _settle(freqs[cells], units[cells].astype(np.float64), int(missing[r]))
    return freqs


def _settle(freqs: NDArray[np.int64], weights: NDArray[np.float64], missing: int) -> None:
    """Adds `missing` (of either sign) to one row in place, half of it at a time, where it costs least."""
    while missing > 0:
        best = np.argsort(-(weights / (freqs + 0.5)), kind="stable")[: (missing + 1) // 2]
        freqs[best] += 1
        missing -= len(best)
    while missing < 0:
        cost = np.where(freqs > 1, weights / (freqs - 0.5), np.inf)
        count = min((1 - missing) // 2, int(np.count_nonzero(freqs > 1)))
        freqs[np.argsort(cost, kind="stable")[:count]] -= 1
        missing += count
