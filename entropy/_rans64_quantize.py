"""The Numba loop that quantizes a probability vector as CompressAI does."""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

NOT_A_MASS = -1.0


@njit(nogil=True, cache=True)
def quantize(pmf, precision, cdf):
    """Writes the cumulative frequencies of the masses. Returns the sum of the rounded masses, or NOT_A_MASS.

    pmf: float64 (n,), taken as float32; cdf: int32 (n + 1,), written only where that sum is 1 .. 2^32 - 1.
    REQUIRES: 1 <= n <= 2^precision, precision <= 30.
    """
    size, total = pmf.size, np.int64(1) << precision
    freqs = np.empty(size, np.int64)
    mass = 0.0
    for i in range(size):
        value = np.float64(np.float32(pmf[i]))
        if not 0 <= value < np.inf:
            return NOT_A_MASS
        # Half away from zero; float64 holds the sum of a float32 and a half.
        rounded = np.floor(value * total + 0.5)
        mass += rounded
        freqs[i] = np.int64(min(rounded, 4294967296.0))
    if not 1 <= mass < 4294967296.0:
        return mass
    divisor, spent, empty = np.int64(mass), np.int64(0), np.int64(0)
    for i in range(size):
        freqs[i] = (freqs[i] << precision) // divisor
        spent += freqs[i]
    freqs[size - 1] += total - spent
    for i in range(size):
        empty += freqs[i] == 0
    # Each empty cell takes 1 from the least frequency above 1, the first of equals. That one is then the
    # only least, so cells give all they can spare one after another: those of the least frequency first.
    # Frequencies sum to 2^precision >= n, so enough can be spared; and as those that gave have spared
    # 1 + 2 + 3 ... < n cells, there are below sqrt(2 n) rounds.
    least, wanted = np.int64(1), empty
    while wanted > 0:
        donor = total + 1
        for i in range(size):
            if least < freqs[i] < donor:
                donor = freqs[i]
        least = donor
        for i in range(size):
            if freqs[i] == donor:
                spared = min(donor - 1, wanted)
                freqs[i] -= spared
                wanted -= spared
    cdf[0] = 0
    end = np.int64(0)
    for i in range(size):
        end += max(freqs[i], np.int64(1))
        cdf[i + 1] = end
    return mass
