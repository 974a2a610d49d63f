"""Exact layers: the small description of a sub-network, as data.

A layer holds float32 weights in PyTorch's layouts and can add its instructions to a program. Called on
arrays it runs on the CPU, equal to the bit on any machine. `blocks` combines layers. NumPy only: Numba is
imported when one is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrays import by_tap, layer_arrays, weight_array
from .builder import Builder
from .placement import Value
from .program import ConvWeights, FloatArray, Function, IntArray

if TYPE_CHECKING:
    from .network import Network

LARGEST = float(np.finfo(np.float32).max)

Pair = int | tuple[int, int]
"""The same for rows and columns, or (rows, columns)."""


class Layer(ABC):
    """Maps values of one number of channels to another.

    Layers are immutable: they are added to programs once, whatever is called how often.
    """

    inputs: int | None = None
    """Channels that it takes; None where any number will do or it isn't known."""
    outputs: int | None = None
    """Channels that it gives; None where that depends on what it is given."""
    pointwise: bool = False
    """Whether each position's result depends on that position alone (and on other inputs than x)."""

    @abstractmethod
    def emit(self, builder: Builder, x: Value) -> Value:
        """Add its instructions to a program. ValueError with the numbers if x doesn't fit."""

    def channels(self, given: int | None) -> int | None:
        """Channels that it gives for the channels that it is given; None: not known.

        ValueError with the numbers if it doesn't take so many.
        """
        if None not in (given, self.inputs) and given != self.inputs:
            raise ValueError(f"{type(self).__name__} takes {self.inputs} channels, not {given}")
        return given if self.outputs is None else self.outputs

    def parts(self) -> Iterator[Layer]:
        """The layers that it is made of."""
        for value in vars(self).values():
            values = value if isinstance(value, tuple) else (value,)
            yield from (part for part in values if isinstance(part, Layer))

    def __call__(
        self,
        x: FloatArray,
        inputs: Mapping[str, FloatArray] | None = None,
        *,
        threads: int = 1,
        check: bool = True,
    ) -> FloatArray:
        """Run on float32 (H, W, C) or (N, H, W, C), as `network.Network` does."""
        return self._network(x, inputs, threads=threads, check=check)

    @cached_property
    def _network(self) -> Network:
        from ..entropy._compiled import import_compiled

        network: type[Network] = import_compiled(".network", __package__).Network
        return network(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_network"}


def pair_of(name: str, value: Any, least: int = 0) -> tuple[int, int]:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or not all(isinstance(one, int) and one >= least for one in pair):
        raise ValueError(f"{name} must be an integer >= {least}, or a pair of them, not {value!r}")
    return pair


def _check_factor(factor: Any) -> None:
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"the factor must be an integer >= 1, not {factor!r}")


def set_fields(layer: Layer, **values: Any) -> None:
    """Set attributes of a frozen layer that is being made."""
    for name, value in values.items():
        object.__setattr__(layer, name, value)


def _grid(
    kernel: tuple[int, ...], padding: tuple[int, int], mask: NDArray[np.bool_] | None = None
) -> IntArray:
    """(T, 3) of (slot, dr, dc): the taps of a kernel with its padding, in ascending row, then column."""
    taps = np.ones(kernel, np.bool_) if mask is None else mask
    rows, cols = np.nonzero(taps)
    return np.stack([rows * kernel[1] + cols, rows - padding[0], cols - padding[1]], axis=1).astype(np.int64)


def _strided(
    builder: Builder,
    x: Value,
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    convolve: Callable[[tuple[int, int], int], Value],
) -> Value:
    """A convolution with any stride; convolve(size, up) is one to `size` with stride `up` on both axes."""
    height, width = (
        (size + 2 * pad - taps) // step + 1
        for size, pad, taps, step in zip((x.height, x.width), padding, kernel, stride, strict=True)
    )
    if min(height, width) < 1:
        raise ValueError(
            f"{x.height}x{x.width} positions, padded by {padding}, for a {kernel[0]}x{kernel[1]} kernel"
        )
    up = gcd(*stride)
    if stride == (up, up):
        return convolve((height, width), up)
    # An instruction has one stride: compute the positions between too, and leave them out.
    skip = stride[0] // up, stride[1] // up
    wide = (height - 1) * skip[0] + 1, (width - 1) * skip[1] + 1
    rows, cols = np.arange(height) * skip[0], np.arange(width) * skip[1]
    return builder.gather(convolve(wide, up), (rows[:, None] * wide[1] + cols).reshape(-1), (height, width))


@dataclass(frozen=True, eq=False)
class Conv2d(Layer):
    """(H, W, C) -> (H', W', D); weight (D, C, kh, kw), bias (D,) or None, padding on all sides.

    mask: optional (kh, kw) bool, the taps that take part. Raises ValueError, TypeError for weights
    that aren't finite float32 or don't fit the bias.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray | None = field(default=None, repr=False)
    stride: Pair = 1
    padding: Pair = 0
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    _plan: tuple[ConvWeights, IntArray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 0)
        stride, padding = pair_of("stride", self.stride, 1), pair_of("padding", self.padding)
        kernel = weight.shape[2:]
        mask = None if self.mask is None else np.array(self.mask, np.bool_)
        if mask is not None and mask.shape != kernel:
            raise ValueError(f"mask of shape {mask.shape} doesn't fit the {kernel[0]}x{kernel[1]} kernel")
        plan = ConvWeights(by_tap(weight), bias), _grid(kernel, padding, mask)
        pointwise = (kernel, stride, padding) == ((1, 1), (1, 1), (0, 0))
        set_fields(self, weight=weight, bias=bias, stride=stride, padding=padding, mask=mask, _plan=plan)
        set_fields(self, inputs=weight.shape[1], outputs=len(weight), pointwise=pointwise)

    def emit(self, builder: Builder, x: Value) -> Value:
        weights, taps = self._plan
        return _strided(
            builder,
            x,
            self.weight.shape[2:],
            pair_of("stride", self.stride),
            pair_of("padding", self.padding),
            lambda size, up: builder.conv(x, weights, taps, size, up),
        )


@dataclass(frozen=True, eq=False)
class DepthwiseConv2d(Layer):
    """(H, W, C) -> (H', W', C), each channel by itself; weight (C, 1, kh, kw), bias (C,) or None.

    Raises as Conv2d does.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray | None = field(default=None, repr=False)
    stride: Pair = 1
    padding: Pair = 0
    _plan: tuple[FloatArray, FloatArray, IntArray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 0)
        if weight.shape[1] != 1:
            raise ValueError(f"depthwise weight of shape {weight.shape}, not (C, 1, kh, kw)")
        stride, padding = pair_of("stride", self.stride, 1), pair_of("padding", self.padding)
        taps = np.ascontiguousarray(weight.reshape(len(weight), -1).T)
        plan = taps, bias, _grid(weight.shape[2:], padding)
        set_fields(
            self, weight=weight, bias=bias, stride=stride, padding=padding, _plan=plan, inputs=len(weight)
        )

    def emit(self, builder: Builder, x: Value) -> Value:
        weight, bias, taps = self._plan
        return _strided(
            builder,
            x,
            self.weight.shape[2:],
            pair_of("stride", self.stride),
            pair_of("padding", self.padding),
            lambda size, up: builder.depthwise(x, weight, bias, taps, size, up),
        )


@dataclass(frozen=True, eq=False)
class ConvTranspose2d(Layer):
    """(H, W, C) -> (H', W', D) with H' = (H - 1) * stride - 2 * padding + kh + output_padding.

    weight (C, D, kh, kw), bias (D,) or None; one stride for both axes. Raises as Conv2d does.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray | None = field(default=None, repr=False)
    stride: Pair = 1
    padding: Pair = 0
    output_padding: Pair = 0
    _plan: tuple[ConvWeights, IntArray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 1)
        stride, padding = pair_of("stride", self.stride, 1), pair_of("padding", self.padding)
        if stride[0] != stride[1]:
            raise ValueError(f"a transposed convolution has one stride for both axes, not {stride}")
        output_padding = pair_of("output_padding", self.output_padding)
        taps = _grid(weight.shape[2:], padding) * np.array([1, -1, -1])
        plan = ConvWeights(by_tap(weight.swapaxes(0, 1)), bias), taps
        set_fields(self, weight=weight, bias=bias, stride=stride, padding=padding)
        set_fields(self, output_padding=output_padding, _plan=plan, inputs=len(weight), outputs=len(bias))

    def emit(self, builder: Builder, x: Value) -> Value:
        stride, padding = pair_of("stride", self.stride), pair_of("padding", self.padding)
        kernel, extra = self.weight.shape[2:], pair_of("output_padding", self.output_padding)
        height, width = (
            (size - 1) * stride[0] - 2 * padding[axis] + kernel[axis] + extra[axis]
            for axis, size in enumerate((x.height, x.width))
        )
        if min(height, width) < 1:
            raise ValueError(f"{x.height}x{x.width} positions would give {height}x{width}")
        weights, taps = self._plan
        return builder.conv(x, weights, taps, (height, width), 1, stride[0])


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """(H, W, C) -> (H, W, D) at each position; weight (D, C), bias (D,) or None. Raises as Conv2d does."""

    weight: FloatArray = field(repr=False)
    bias: FloatArray | None = field(default=None, repr=False)
    _weights: ConvWeights = field(init=False, repr=False)
    pointwise = True

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 0, 2)
        set_fields(self, weight=weight, bias=bias, _weights=ConvWeights(weight.T[None], bias))
        set_fields(self, inputs=weight.shape[1], outputs=len(weight))

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.conv(x, self._weights, np.zeros((1, 3), np.int64), (x.height, x.width))


class Unary(Layer):
    """A function of each element: ARITHMETIC.md, section 4."""

    function: Function
    slope: float = 0.0
    pointwise = True

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.unary(x, self.function, self.slope)


@dataclass(frozen=True)
class ReLU(Unary):
    """x where x > 0, else +0, for NaN too."""

    function = Function.RELU


@dataclass(frozen=True)
class LeakyReLU(Unary):
    """max(x, slope * x) for a slope in 0..1, rounded to binary32; NaN stays NaN."""

    slope: float = 0.01
    function = Function.LEAKY_RELU

    def __post_init__(self) -> None:
        if not 0 <= self.slope <= 1:
            raise ValueError(f"the slope must be in 0..1, not {self.slope}")


@dataclass(frozen=True)
class GELU(Unary):
    """x * Phi(x), or its approximation by tanh; approximate: "none" or "tanh"."""

    approximate: str = "none"

    def __post_init__(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise ValueError(f'approximate must be "none" or "tanh", not {self.approximate!r}')

    @property
    def function(self) -> Function:  # type: ignore[override]
        return Function.GELU if self.approximate == "none" else Function.GELU_TANH


@dataclass(frozen=True)
class Exp(Unary):
    """e^x."""

    function = Function.EXP


@dataclass(frozen=True)
class Softplus(Unary):
    """log(1 + e^x); x itself above 20."""

    function = Function.SOFTPLUS


@dataclass(frozen=True)
class Tanh(Unary):
    """Hyperbolic tangent."""

    function = Function.TANH


@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + e^-x)."""

    function = Function.SIGMOID


@dataclass(frozen=True)
class Abs(Unary):
    """|x|."""

    function = Function.ABS


@dataclass(frozen=True)
class Sqrt(Unary):
    """The square root of x where x > 0, else +0; NaN stays NaN."""

    function = Function.SQRT


@dataclass(frozen=True, eq=False)
class LayerNorm(Layer):
    """Normalization over the C channels of each position; gamma, beta (C,); epsilon >= 0."""

    gamma: FloatArray = field(repr=False)
    beta: FloatArray = field(repr=False)
    epsilon: float = 1e-5
    pointwise = True

    def __post_init__(self) -> None:
        gamma, beta = weight_array(self.gamma, "gamma", 1), weight_array(self.beta, "beta", 1)
        if gamma.shape != beta.shape:
            raise ValueError(f"gamma of {len(gamma)} channels, beta of {len(beta)}")
        if not 0 <= self.epsilon <= LARGEST:
            raise ValueError(f"epsilon must be a finite number >= 0, not {self.epsilon}")
        set_fields(self, gamma=gamma, beta=beta, inputs=len(gamma))

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.layer_norm(x, self.gamma, self.beta, self.epsilon)


@dataclass(frozen=True)
class PixelShuffle(Layer):
    """(H, W, C * f^2) -> (H * f, W * f, C), in PyTorch's order of channels."""

    factor: int

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def channels(self, given: int | None) -> int | None:
        if given is not None and given % self.factor**2:
            raise ValueError(f"{given} channels can't be shuffled by {self.factor}")
        return None if given is None else given // self.factor**2

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.shuffle(x, self.factor)


@dataclass(frozen=True)
class PixelUnshuffle(Layer):
    """(H * f, W * f, C) -> (H, W, C * f^2), PixelShuffle's inverse."""

    factor: int

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def channels(self, given: int | None) -> int | None:
        return None if given is None else given * self.factor**2

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.unshuffle(x, self.factor)
