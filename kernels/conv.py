"""Exact layers: convolutions and activations on channels-last float32 images, equal on any machine.

Every convolution is data for one compiled tap convolution. Weights come in PyTorch's layouts and
are packed once. Importing this module imports Numba.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import compiled

FloatArray = NDArray[np.float32]


class Layer(Protocol):
    """Anything that maps a float32 (H, W, C) array to another."""

    def __call__(self, x: FloatArray) -> FloatArray: ...


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


def layer_arrays(weight: ArrayLike, bias: ArrayLike, outputs_axis: int) -> tuple[FloatArray, FloatArray]:
    """Copies of a 4-D weight and a bias that fit each other.

    ValueError with the numbers if their shapes disagree, an axis is empty or a value isn't finite.
    """
    weight, bias = float_array(weight, "weight", 4).copy(), float_array(bias, "bias", 1).copy()
    if weight.size == 0:
        raise ValueError(f"weight of shape {weight.shape} has an empty axis")
    if weight.shape[outputs_axis] != len(bias):
        raise ValueError(
            f"weight of shape {weight.shape} has {weight.shape[outputs_axis]} outputs, bias has {len(bias)}"
        )
    for name, array in (("weight", weight), ("bias", bias)):
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            raise ValueError(f"{name} of shape {array.shape} has {bad} values that are not finite")
    return weight, bias


def by_tap(weight: FloatArray) -> FloatArray:
    """(outputs, inputs, kh, kw) weights as (kh * kw, inputs, outputs)."""
    outputs, inputs, kh, kw = weight.shape
    return weight.transpose(2, 3, 1, 0).reshape(kh * kw, inputs, outputs)


@dataclass(frozen=True, eq=False)
class _TapConv:
    """A convolution as the compiled kernel wants it.

    plan: `compiled.tap_conv`'s arguments from index to bias. inputs, outputs: channels.
    """

    plan: tuple[Any, ...]
    inputs: int
    outputs: int

    def __call__(self, x: FloatArray, height: int, width: int) -> FloatArray:
        image = float_array(x, "x", 3)
        if image.shape[2] != self.inputs or min(image.shape) < 1 or min(height, width) < 1:
            raise ValueError(
                f"x of shape {image.shape} doesn't fit: {self.inputs} channels in, {height}x{width} out"
            )
        compiled.check_arithmetic()
        rows = np.repeat(np.arange(height), width)
        cols = np.tile(np.arange(width), height)
        out = np.empty((height * width, self.outputs), np.float32)
        arguments: tuple[Any, ...] = (image, rows, cols, *self.plan, out, 0)
        compiled.tap_conv(*arguments)
        return out.reshape(height, width, self.outputs)


def _whole(**values: Any) -> None:
    for name, value in values.items():
        least = int(name == "stride")
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, not {value!r}")


@dataclass(frozen=True, eq=False)
class Conv2d:
    """(H, W, C) -> (H', W', D); weight (D, C, kh, kw), bias (D,), both float32, padding on all sides.

    mask: optional (kh, kw) bool, the taps that take part. Raises ValueError, TypeError for weights
    that aren't finite float32 or don't fit the bias.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray = field(repr=False)
    stride: int = 1
    padding: int = 0
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    _conv: _TapConv = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 0)
        _whole(stride=self.stride, padding=self.padding)
        kh, kw = weight.shape[2:]
        mask = np.ones((kh, kw), np.bool_) if self.mask is None else np.asarray(self.mask, np.bool_)
        if mask.shape != (kh, kw):
            raise ValueError(f"mask of shape {mask.shape} doesn't fit the {kh}x{kw} kernel")
        index = np.flatnonzero(mask)
        packed = compiled.pack(by_tap(weight), bias)
        dr, dc = index // kw - self.padding, index % kw - self.padding
        conv = _TapConv((index, dr, dc, self.stride, 1, *packed), weight.shape[1], len(bias))
        for name, value in (("weight", weight), ("bias", bias), ("_conv", conv)):
            object.__setattr__(self, name, value)

    def __call__(self, x: FloatArray) -> FloatArray:
        height, width = (
            (size + 2 * self.padding - kernel) // self.stride + 1
            for size, kernel in zip(np.shape(x)[:2], self.weight.shape[2:], strict=True)
        )
        return self._conv(x, height, width)


@dataclass(frozen=True, eq=False)
class ConvTranspose2d:
    """(H, W, C) -> (H', W', D) with H' = (H - 1) * stride - 2 * padding + kh + output_padding.

    weight (C, D, kh, kw), bias (D,), both float32. Raises as Conv2d does.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray = field(repr=False)
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    _conv: _TapConv = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 1)
        _whole(stride=self.stride, padding=self.padding, output_padding=self.output_padding)
        kh, kw = weight.shape[2:]
        index = np.arange(kh * kw)
        packed = compiled.pack(by_tap(weight.swapaxes(0, 1)), bias)
        dr, dc = self.padding - index // kw, self.padding - index % kw
        conv = _TapConv((index, dr, dc, 1, self.stride, *packed), weight.shape[0], len(bias))
        for name, value in (("weight", weight), ("bias", bias), ("_conv", conv)):
            object.__setattr__(self, name, value)

    def __call__(self, x: FloatArray) -> FloatArray:
        height, width = (
            (size - 1) * self.stride - 2 * self.padding + kernel + self.output_padding
            for size, kernel in zip(np.shape(x)[:2], self.weight.shape[2:], strict=True)
        )
        return self._conv(x, height, width)


@dataclass(frozen=True)
class LeakyReLU:
    """max(x, slope * x) for a slope in 0..1, rounded to binary32; NaN stays NaN."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.slope <= 1:
            raise ValueError(f"the slope must be in 0..1, not {self.slope}")

    def __call__(self, x: FloatArray) -> FloatArray:
        image = float_array(x, "x", 3)
        out = np.empty_like(image)
        compiled.check_arithmetic()
        compiled.leaky_relu(image.reshape(-1), np.float32(self.slope), out.reshape(-1))
        return out


@dataclass(frozen=True)
class ReLU:
    """x where x > 0, else +0, for NaN too."""

    def __call__(self, x: FloatArray) -> FloatArray:
        image = float_array(x, "x", 3)
        out = np.empty_like(image)
        compiled.check_arithmetic()
        compiled.relu(image.reshape(-1), out.reshape(-1))
        return out


@dataclass(frozen=True, eq=False)
class Sequential:
    """Layers one after the other."""

    layers: tuple[Layer, ...]

    def __init__(self, layers: Iterable[Layer]) -> None:
        object.__setattr__(self, "layers", tuple(layers))

    def __call__(self, x: FloatArray) -> FloatArray:
        for layer in self.layers:
            x = layer(x)
        return x
