"""The compiled loop between torch's floats and the coder's integers, on 1-D arrays."""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def quantize(values, centers, symbols):
    """symbols[i] = values[i] - centers[i] rounded half to even; centers: None for 0.

    Returns whether all are within int32.
    """
    illegal = 0
    for i in range(values.size):
        rounded = np.rint(values[i] if centers is None else values[i] - centers[i])
        inside = abs(rounded) < 2147483648.0
        illegal += not inside
        symbols[i] = np.int32(rounded if inside else 0)
    return illegal == 0
