"""Checks on the arrays that users hand in; all that the Numba loops assume is made sure of here."""

from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

_INT32 = np.dtype(np.int32)


def as_int32(name: str, values: ArrayLike) -> NDArray[np.int32]:
    """`values` as an aligned, writable, C-contiguous int32 array of the same shape; no copy if it is one.

    The Numba loops are compiled for that layout only. Raises TypeError for non-integers, ValueError
    (with value and position) for integers outside int32.
    """
    array = values if type(values) is np.ndarray else np.asarray(values)
    if array.dtype is _INT32 and array.flags.carray:
        return array
    if array.dtype.kind not in "iu":
        if array.size == 0 and not isinstance(values, np.ndarray):
            return np.zeros(array.shape, np.int32)
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    narrow = np.array(array, dtype=_INT32, order="C", copy=True)
    if not np.can_cast(array.dtype, _INT32):
        bad = narrow != array
        if bad.any():
            position = int(bad.reshape(-1).argmax())
            raise ValueError(f"{name} holds {array.reshape(-1)[position]} at {position}, outside int32")
    return narrow


def check_indexes(indexes: NDArray[np.int32], rows: int) -> None:
    """Raises ValueError unless 0 <= index < rows everywhere."""
    bad = (indexes < 0) | (indexes >= rows)
    if bad.any():
        raise_bad_index(indexes.reshape(-1), int(bad.reshape(-1).argmax()), rows)


def raise_bad_index(indexes: NDArray[np.int32], position: int, rows: int) -> NoReturn:
    """Raises the ValueError for the flat `position`, where an index isn't a row."""
    raise ValueError(f"index {indexes[position]} at {position}, the table has rows 0..{rows - 1}")
