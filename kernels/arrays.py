"""Checks and layouts of the arrays that layers and models are given. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float32]


def ready(value: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    """`value` as a C-contiguous, writable array of `dtype`, copied only if needed.

    Numba compiles everything anew for any other layout, read-only arrays included. To an integer dtype
    only integers that it holds are converted: TypeError or ValueError otherwise.
    """
    if type(value) is np.ndarray and value.dtype == dtype and value.flags.carray:
        return value
    array = np.asarray(value)
    if array.dtype != dtype and np.issubdtype(dtype, np.integer):
        if array.dtype.kind not in "iu":
            raise TypeError(f"{array.dtype} where integers are needed")
        limits = np.iinfo(np.dtype(dtype).str)
        if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
            raise ValueError(f"integers {array.min()}..{array.max()} exceed {np.dtype(dtype)}")
    return np.require(array, dtype=dtype, requirements=("C", "A", "W"))


def float_array(value: ArrayLike, what: str, ndim: int) -> FloatArray:
    """`value` as a `ready` float32 array of `ndim` dimensions.

    TypeError unless it is float32 already: rounding is the caller's decision.
    """
    array = np.asarray(value)
    if array.dtype != np.float32:
        raise TypeError(f"{what} must be float32, not {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{what} must have {ndim} dimensions, not shape {array.shape}")
    return ready(array, np.float32)


def weight_array(value: ArrayLike, what: str, ndim: int) -> FloatArray:
    """A copy of a float32 array of `ndim` dimensions without empty axes and of finite values.

    TypeError or ValueError, with the numbers, otherwise.
    """
    array = float_array(value, what, ndim).copy()
    if array.size == 0:
        raise ValueError(f"{what} of shape {array.shape} has an empty axis")
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ValueError(f"{what} of shape {array.shape} has {bad} values that are not finite")
    return array


def layer_arrays(
    weight: ArrayLike, bias: ArrayLike | None, outputs_axis: int, ndim: int = 4
) -> tuple[FloatArray, FloatArray]:
    """Copies of a weight and a bias that fit each other; zeros where there is no bias.

    ValueError with the numbers if their shapes disagree, an axis is empty or a value isn't finite.
    """
    weight = weight_array(weight, "weight", ndim)
    outputs = weight.shape[outputs_axis]
    bias = np.zeros(outputs, np.float32) if bias is None else float_array(bias, "bias", 1)
    if outputs != len(bias):
        raise ValueError(f"weight of shape {weight.shape} has {outputs} outputs, bias has {len(bias)}")
    return weight, weight_array(bias, "bias", 1)


def by_tap(weight: FloatArray) -> FloatArray:
    """(outputs, inputs, kh, kw) weights as (kh * kw, inputs, outputs)."""
    outputs, inputs, kh, kw = weight.shape
    return weight.transpose(2, 3, 1, 0).reshape(kh * kw, inputs, outputs)
