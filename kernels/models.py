"""Models of a latent's distributions: from features and what is decoded to scales and means.

`ContextModel` (a masked convolution and a head) and `WindowModel` (a network over a window) look around
a position, so they serve serial orders; `StepModel` has a network over whole planes for each step. All
give scales and means as float32, of which `quantization` makes the coder's integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Any

import numpy as np

from ..entropy.table import MAX_ROWS
from .arrays import by_tap, float_array, layer_arrays
from .builder import Builder
from .layers import Layer
from .orders import Order, Steps, Taps
from .placement import Value
from .program import ConvWeights, FloatArray, Packing, WeightStore

LATENT_LIMIT = 1 << 24
"""Symbols and latents up to here are exact in binary32."""

RESIDUAL = -1
"""In place of fraction bits: the mean is not rounded, and the symbol is the rounded residual."""

FRACTION_BITS = 4
FRACTIONS = 1 << FRACTION_BITS
"""Table rows for each scale: means of -FRACTIONS/2 .. FRACTIONS/2 - 1 in units of 1/FRACTIONS."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """How scales and means become table rows and offsets (ARITHMETIC.md, section 9).

    thresholds: ascending float32; a scale's index is the number of thresholds below it. fraction_bits: the
    latent is integers, and the mean is rounded to so many bits: row = index * 2^bits + fraction. None: the
    latent is what rounding leaves of its distance from the mean; row = index.
    """

    thresholds: FloatArray = field(repr=False)
    fraction_bits: int | None = FRACTION_BITS

    def __post_init__(self) -> None:
        thresholds = float_array(self.thresholds, "thresholds", 1).copy()
        if not (np.isfinite(thresholds).all() and (np.diff(thresholds) > 0).all()):
            raise ValueError("thresholds must be finite and ascending")
        bits = None if self.fraction_bits is None else index(self.fraction_bits)
        if bits is not None and bits not in range(9):
            raise ValueError(f"fraction_bits must be in 0..8 or None, not {bits}")
        for name, value in (("thresholds", thresholds), ("fraction_bits", bits)):
            object.__setattr__(self, name, value)
        if self.rows > MAX_ROWS:
            raise ValueError(f"{self.rows} rows of a table, which has at most {MAX_ROWS}")

    @property
    def bits(self) -> int:
        """The fraction bits, or RESIDUAL."""
        return RESIDUAL if self.fraction_bits is None else self.fraction_bits

    @property
    def rows(self) -> int:
        """Rows of the table that the coder needs."""
        return (len(self.thresholds) + 1) << (self.fraction_bits or 0)


class PositionModel(ABC):
    """A model that looks around single positions. channels: M of the latent; features: F hyper features."""

    channels: int
    features: int
    quantization: Quantization

    def emit(self, builder: Builder, features: Value, y_hat: Value, taps: Taps) -> Value:
        """Add what gives (1, 1, 2M), M scales and M means, at a step's positions of both planes.

        ValueError if the model's layers give anything else.
        """
        out = self._emit(builder, features, y_hat, taps)
        if (out.height, out.width, out.channels) != (1, 1, 2 * self.channels):
            raise ValueError(
                f"the model gives {out.height}x{out.width} positions of {out.channels} channels, "
                f"not one of 2 x {self.channels}"
            )
        return out

    @abstractmethod
    def _emit(self, builder: Builder, features: Value, y_hat: Value, taps: Taps) -> Value:
        """What `emit` adds."""

    @abstractmethod
    def check_taps(self, taps: Taps) -> None:
        """Raise ValueError for taps of a mask that the model has no weights for."""

    @cached_property
    def store(self) -> WeightStore:
        """The weights, packed for this machine's CPU."""
        from . import cpu

        return self.stored(cpu.pack)

    def __getstate__(self) -> dict[str, Any]:
        # Another machine packs in its own way.
        return {name: value for name, value in vars(self).items() if name != "store"}

    def stored(self, packing: Packing) -> WeightStore:
        """The weights as a device wants them; complete, so that threads can share it."""
        store = WeightStore(packing)
        builder = Builder(store, 1)
        planes = (builder.plane("features", 1, 1, self.features), builder.plane("y_hat", 1, 1, self.channels))
        self.emit(builder, *planes, _NO_TAPS)
        assert store.floats is not None
        return store


_EMPTY = np.zeros(0, np.int64)
_NO_TAPS = Taps(_EMPTY, _EMPTY, _EMPTY, (1, 1))


@dataclass(frozen=True, eq=False)
class ContextModel(PositionModel):
    """Minnen 2018's: a masked convolution of y_hat, and a head over (hyper features, context feature).

    weight (D, M, kh, kw), bias (D,): the context convolution, all its taps; an order's mask chooses among
    them. head: a pointwise layer from (F hyper features, D context) to (M scales, M means) channels of a
    position. Raises ValueError, TypeError with the numbers if something doesn't fit.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray = field(repr=False)
    head: Layer = field(repr=False)
    quantization: Quantization
    channels: int = field(init=False)
    features: int = field(init=False)
    _weights: ConvWeights = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 0)
        depth, channels = weight.shape[:2]
        inputs = self.head.inputs
        if inputs is None or inputs <= depth or self.head.channels(inputs) != 2 * channels:
            raise ValueError(
                f"the head has {inputs} inputs and {self.head.channels(inputs)} outputs; it must take "
                f"features and {depth} context channels and give 2 x {channels}"
            )
        # It is run on single positions, where zeros would be in place of the neighbors it looked at.
        if not self.head.pointwise:
            raise ValueError("the head isn't pointwise: what it gives depends on more than its position")
        values = {"weight": weight, "bias": bias, "channels": channels, "features": inputs - depth}
        for name, value in (values | {"_weights": ConvWeights(by_tap(weight), bias)}).items():
            object.__setattr__(self, name, value)

    def _emit(self, builder: Builder, features: Value, y_hat: Value, taps: Taps) -> Value:
        here = builder.window(features, np.zeros((1, 3), np.int64), (1, 1), context=False)
        context = builder.context(y_hat, self._weights, np.stack([taps.index, taps.dr, taps.dc], axis=1))
        return self.head.emit(builder, builder.concatenate([here, context]))

    def check_taps(self, taps: Taps) -> None:
        """See `PositionModel`."""
        kernel = self.weight.shape[2:]
        if len(taps) and taps.shape != kernel:
            raise ValueError(f"a {taps.shape} mask doesn't fit the {kernel} kernel")


@dataclass(frozen=True, eq=False)
class WindowModel(PositionModel):
    """Lee 2019's: a network over the windows of y_hat and of the features around a position.

    size: the window's (rows, columns); center: the coded position in it. estimator: a layer from (rows,
    columns, M + F) - y_hat at the mask's taps, zero elsewhere, then the features, zero outside the plane - to
    (1, 1, 2M): M scales, then M means.
    """

    estimator: Layer = field(repr=False)
    size: tuple[int, int]
    center: tuple[int, int]
    channels: int
    features: int
    quantization: Quantization

    def __post_init__(self) -> None:
        inputs = self.channels + self.features
        given = self.estimator.channels(inputs)
        if min(self.channels, self.features) < 1 or given not in (None, 2 * self.channels):
            raise ValueError(
                f"an estimator from {inputs} to {given} channels; it must give 2 x {self.channels}"
            )
        if not all(0 <= at < size <= 64 for at, size in zip(self.center, self.size, strict=True)):
            raise ValueError(f"a window of {self.size} with its center at {self.center}")

    def _emit(self, builder: Builder, features: Value, y_hat: Value, taps: Taps) -> Value:
        rows, cols = np.divmod(np.arange(self.size[0] * self.size[1]), self.size[1])
        around = np.stack([rows * self.size[1] + cols, rows - self.center[0], cols - self.center[1]], axis=1)
        context = np.stack([taps.index, taps.dr, taps.dc], axis=1)
        windows = [
            builder.window(y_hat, context, self.size, context=True),
            builder.window(features, around, self.size, context=False),
        ]
        return self.estimator.emit(builder, builder.concatenate(windows))

    def check_taps(self, taps: Taps) -> None:
        """See `PositionModel`."""
        rows, cols = np.divmod(taps.index, self.size[1])
        same = (rows - self.center[0] == taps.dr) & (cols - self.center[1] == taps.dc)
        if len(taps) and (taps.shape != self.size or not same.all()):
            raise ValueError(
                f"the taps of a {taps.shape} mask don't fit a {self.size} window with {self.center}"
            )


@dataclass(frozen=True, eq=False)
class StepModel:
    """A network for each step of an order, over whole planes: channel slices, quadtrees.

    nets: from (y_hat as it is by then, zero where nothing is decoded, then the features), M + F channels, to
    scales and means of all M channels, or of those alone that the step codes. An order of a single position
    may leave a checkerboard's anchors out; the nets are those of the whole order.
    """

    nets: Sequence[Layer] = field(repr=False)
    channels: int
    features: int
    quantization: Quantization

    def __post_init__(self) -> None:
        object.__setattr__(self, "nets", tuple(self.nets))
        for number, net in enumerate(self.nets):
            try:
                given = net.channels(self.channels + self.features)
            except ValueError as error:
                raise ValueError(f"net {number}: {error}") from None
            if given is not None and (given % 2 or not 0 < given <= 2 * self.channels):
                raise ValueError(f"net {number} gives {given} channels for a latent of {self.channels}")

    def net(self, order: Order, step: int) -> Layer:
        """The net of an order's step. ValueError if the order has other steps than the model."""
        if len(order) == len(self.nets):
            return self.nets[step]
        if 2 * len(order) == len(self.nets) and (order.height, order.width) == (1, 1):
            return self.nets[2 * step + int(order.steps[step].context)]
        raise ValueError(f"{order.name} has {len(order)} steps, the model {len(self.nets)} nets")

    def parameters(
        self, planes: FloatArray, order: Order, step: int, threads: int = 1
    ) -> tuple[FloatArray, FloatArray]:
        """(scales, means), (n, width) float32 each, of a step's elements.

        planes: (H, W, M + F) float32, y_hat as it is by then and the features.
        """
        elements = order.steps[step].elements(self.channels)
        out = self.net(order, step)(planes, threads=threads, check=False)
        rows, cols, channels = elements
        given, odd = divmod(out.shape[2], 2)
        if out.shape[:2] != planes.shape[:2] or odd or given not in (self.channels, channels.shape[1]):
            raise ValueError(
                f"net {step} gives {out.shape} for planes of {planes.shape}; it must give "
                f"2 x {self.channels} channels of each position, or 2 x {channels.shape[1]}"
            )
        if given != self.channels:
            channels = channels - channels[:, :1]
        return out[rows, cols, channels], out[rows, cols, given + channels]


Model = PositionModel | StepModel


def own_steps(order: Order, joined: bool = False) -> Steps:
    """Copies of the arrays of an order's steps, or runs if `joined`, that compiled loops can trust.

    Orders are checked when they are made, but arrays can be written to later: ValueError if these no longer
    fit the order's size.
    """
    own = _copied(order, order.flat)
    return _copied(order, order.runs()) if joined else own


def _copied(order: Order, steps: Steps) -> Steps:
    names = ("starts", "rows", "cols", "first", "context", "width", "known")
    kinds = {"context": np.bool_}
    arrays: list[Any] = [np.array(getattr(steps, name), kinds.get(name, np.int64)) for name in names]
    own = Steps(*arrays)
    count, positions = own.context.size, own.rows.size
    shapes = [(count + 1,), (positions,), (positions,), (positions,), (count,), (count,), (count,)]
    legal = [array.shape for array in arrays] == shapes
    if legal:
        lengths, channels = np.diff(own.starts), order.channels or 1
        legal = own.starts[0] == 0 and own.starts[-1] == positions and bool((lengths > 0).all())
    if legal:
        span = np.repeat(np.where(own.width == 0, channels, own.width), lengths)
        ends = (own.rows, order.height), (own.cols, order.width), (own.first, channels - span + 1)
        legal = all(bool(((array >= 0) & (array < end)).all()) for array, end in ends)
    if not legal:
        raise ValueError(f"{order.name}: arrays of its steps were changed to what no order can have")
    return own


def position_steps(order: Order, joined: bool = False) -> Steps:
    """`own_steps` of an order whose steps code all channels; ValueError for others."""
    flat = order.flat
    if order.partial or flat.width.any() or flat.known.any():
        raise ValueError(f"{order.name} splits channels or reads whole planes, so it needs a StepModel")
    return own_steps(order, joined)
