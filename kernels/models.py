"""Models of a latent's distributions: from features and what is decoded to scales and means.

`ContextModel` (a masked convolution and a head) and `WindowModel` (a network over a window) look around
a position, so they serve serial orders; `step_models` has networks over whole planes for each step. All
give float32 numbers, of which their `quantization` makes the coder's integers. Layers of a model may read
further arrays, its `inputs`, by `Input`s of their names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from types import MappingProxyType
from typing import Any

import numpy as np

from .arrays import by_tap, layer_arrays
from .blocks import input_names
from .builder import Builder
from .layers import Layer
from .orders import Order, Steps, Taps
from .placement import Value
from .program import ConvWeights, FloatArray, Packing, WeightStore
from .quantization import MixtureQuantization, Quantization

Inputs = Mapping[str, FloatArray]
"""The arrays of a model's inputs, (H', W', C) each."""

_OWN_NAMES = ("features", "planes", "result", "x", "y_hat")
"""What programs name themselves."""


def own_inputs(inputs: Mapping[str, int], layers: Iterable[Layer | None]) -> dict[str, int]:
    """A checked copy of a model's `inputs`. ValueError if layers read others, or for what can't be one."""
    own = {name: index(channels) for name, channels in inputs.items()}
    for name, channels in own.items():
        if not isinstance(name, str) or not name or name in _OWN_NAMES or channels < 1:
            raise ValueError(f"an input can't be named {name!r} and have {channels} channels")
    read = {name for layer in layers if layer is not None for name in input_names(layer)}
    if read - set(own):
        raise ValueError(f"layers read the inputs {sorted(read)}, the model's are {sorted(own)}")
    return own


class PositionModel(ABC):
    """A model that looks around single positions. channels: M of the latent; features: F hyper features.

    inputs: names and channels of what its layers read besides, at all positions the same: (H', W', C) float32
    arrays that an `Input` gives to `CrossAttention` as keys and values. Layers can do nothing else with them.
    """

    channels: int
    features: int
    quantization: Quantization | MixtureQuantization
    inputs: Mapping[str, int] = MappingProxyType({})

    def emit(self, builder: Builder, features: Value, y_hat: Value, taps: Taps) -> Value:
        """Add what gives (1, 1, 2M), M scales and M means, at a step's positions of both planes.

        For a `MixtureQuantization` of K components it is (1, 1, 3KM).

        The builder has planes of the model's inputs, too, by their names. ValueError if the model's layers
        give anything else.
        """
        out = self._emit(builder, features, y_hat, taps)
        each = self.quantization.parameters_per_channel
        if (out.height, out.width, out.channels) != (1, 1, each * self.channels):
            raise ValueError(
                f"the model gives {out.height}x{out.width} positions of {out.channels} channels, "
                f"not one of {each} x {self.channels}"
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
        # Of two positions, so that layers that only a single one allows are refused whatever the order.
        builder = Builder(store, 2)
        for name, channels in self.inputs.items():
            builder.plane(name, 1, 1, channels)
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
    position, or what a `MixtureQuantization` takes. Raises ValueError, TypeError with the numbers if
    something doesn't fit.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray = field(repr=False)
    head: Layer = field(repr=False)
    quantization: Quantization | MixtureQuantization
    inputs: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    channels: int = field(init=False)
    features: int = field(init=False)
    _weights: ConvWeights = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 0)
        depth, channels = weight.shape[:2]
        inputs, each = self.head.inputs, self.quantization.parameters_per_channel
        if inputs is None or inputs <= depth or self.head.channels(inputs) != each * channels:
            raise ValueError(
                f"the head has {inputs} inputs and {self.head.channels(inputs)} outputs; it must take "
                f"features and {depth} context channels and give {each} x {channels}"
            )
        # It is run on single positions, where zeros would be in place of the neighbors it looked at.
        if not self.head.pointwise:
            raise ValueError("the head isn't pointwise: what it gives depends on more than its position")
        values = {"weight": weight, "bias": bias, "channels": channels, "features": inputs - depth}
        values |= {"_weights": ConvWeights(by_tap(weight), bias)}
        for name, value in (values | {"inputs": own_inputs(self.inputs, [self.head])}).items():
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
    (1, 1, 2M): M scales, then M means, or what a `MixtureQuantization` takes.
    """

    estimator: Layer = field(repr=False)
    size: tuple[int, int]
    center: tuple[int, int]
    channels: int
    features: int
    quantization: Quantization | MixtureQuantization
    inputs: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        inputs = self.channels + self.features
        object.__setattr__(self, "inputs", own_inputs(self.inputs, [self.estimator]))
        given, each = self.estimator.channels(inputs), self.quantization.parameters_per_channel
        if min(self.channels, self.features) < 1 or given not in (None, each * self.channels):
            raise ValueError(
                f"an estimator from {inputs} to {given} channels; it must give {each} x {self.channels}"
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
