"""Exact layers made of layers: sequences, sums, products, branches, attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, is_dataclass
from functools import cache, lru_cache
from operator import index

import numpy as np

from .arrays import weight_array
from .builder import Builder
from .layers import LARGEST, Layer, Unary, set_fields
from .placement import Value
from .program import FloatArray, IntArray

MASKED = -100.0
"""Added to the scores of positions that a shifted window has from two sides of the plane."""


@dataclass(frozen=True, eq=False)
class Sequential(Layer):
    """Layers one after the other; none: x itself. ValueError if the channels of two don't fit."""

    layers: tuple[Layer, ...]

    def __init__(self, layers: Iterable[Layer] = ()) -> None:
        layers = tuple(layers)
        inputs = next((layer.inputs for layer in layers if not isinstance(layer, Unary)), None)
        set_fields(self, layers=layers, inputs=inputs, pointwise=all(layer.pointwise for layer in layers))
        self.channels(inputs)

    def channels(self, given: int | None) -> int | None:
        for number, layer in enumerate(self.layers):
            try:
                given = layer.channels(given)
            except ValueError as error:
                raise ValueError(f"layer {number}: {error}") from None
        return given

    def emit(self, builder: Builder, x: Value) -> Value:
        for layer in self.layers:
            x = layer.emit(builder, x)
        return x


@dataclass(frozen=True)
class Input(Layer):
    """Another input of the network, by its name, instead of x."""

    name: str
    pointwise = True

    def channels(self, given: int | None) -> int | None:
        return None

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.value(self.name)


@dataclass(frozen=True, eq=False)
class Constant(Layer):
    """The same (H, W, C) float32 values for every image, instead of x: learned tokens."""

    array: FloatArray = field(repr=False)

    def __post_init__(self) -> None:
        array = weight_array(self.array, "constant", 3)
        set_fields(self, array=array, outputs=array.shape[2])

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.constant(self.array)


@dataclass(frozen=True)
class Slice(Layer):
    """Channels start .. stop - 1 of x."""

    start: int
    stop: int
    pointwise = True

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"channels {self.start}..{self.stop - 1} are none")
        set_fields(self, outputs=self.stop - self.start)

    def channels(self, given: int | None) -> int | None:
        if given is not None and given < self.stop:
            raise ValueError(f"channels {self.start}..{self.stop - 1} of {given}")
        return self.outputs

    def emit(self, builder: Builder, x: Value) -> Value:
        return x.part(self.start, self.stop)


class _Branches(Layer):
    """Layers that all take x; a subclass says what becomes of their values."""

    def _check(self) -> None:
        parts = tuple(self.parts())
        inputs = next((part.inputs for part in parts if part.inputs is not None), None)
        set_fields(self, inputs=inputs, pointwise=all(part.pointwise for part in parts))
        self.channels(inputs)

    def channels(self, given: int | None) -> int | None:
        return self._combined([part.channels(given) for part in self.parts()])

    def _combined(self, counts: list[int | None]) -> int | None:
        """Channels of the result, for branches combined element by element."""
        known = [count for count in counts if count is not None]
        if len(set(known)) > 1:
            raise ValueError(f"{type(self).__name__} of {' and '.join(map(str, known))} channels")
        return known[0] if known else None


@dataclass(frozen=True, eq=False)
class Concat(_Branches):
    """Channels of all branches' values, one after the other."""

    branches: tuple[Layer, ...]

    def __init__(self, branches: Iterable[Layer]) -> None:
        set_fields(self, branches=tuple(branches))
        if not self.branches:
            raise ValueError("no branches to concatenate")
        self._check()

    def _combined(self, counts: list[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def emit(self, builder: Builder, x: Value) -> Value:
        return builder.concatenate([branch.emit(builder, x) for branch in self.branches])


@dataclass(frozen=True, eq=False)
class Residual(_Branches):
    """skip(x) + body(x); without a skip, x + body(x)."""

    body: Layer
    skip: Layer = field(default_factory=Sequential)

    def __post_init__(self) -> None:
        self._check()

    def emit(self, builder: Builder, x: Value) -> Value:
        skip = self.skip.emit(builder, x)
        return builder.add(skip, self.body.emit(builder, x))


@dataclass(frozen=True, eq=False)
class Multiply(_Branches):
    """first(x) * second(x): a gate."""

    first: Layer
    second: Layer

    def __post_init__(self) -> None:
        self._check()

    def emit(self, builder: Builder, x: Value) -> Value:
        first = self.first.emit(builder, x)
        return builder.multiply(first, self.second.emit(builder, x))


def attention_scale(given: float | None, width: int | None, heads: int) -> float:
    """What scores are multiplied by: one over the root of a head's channels, unless given."""
    if width is None or heads < 1 or width % heads:
        raise ValueError(f"{heads} heads can't share {width} channels")
    scale = (width // heads) ** -0.5 if given is None else given
    if not abs(scale) <= LARGEST:
        raise ValueError(f"scores can't be multiplied by {scale}")
    return scale


@dataclass(frozen=True, eq=False)
class CrossAttention(Layer):
    """proj(attention) from query(x) at all positions of an image to the keys and values that keys(x) gives.

    keys gives as many channels of keys as query gives, then as many of values. Most often it starts with
    an `Input` or a `Constant`: a few tokens, (1, K, C). scale: the scores' factor, by default one over
    the root of a head's channels.
    """

    query: Layer
    keys: Layer
    proj: Layer
    heads: int
    scale: float | None = None

    def __post_init__(self) -> None:
        width = self.query.channels(self.query.inputs)
        set_fields(self, heads=index(self.heads))
        set_fields(self, scale=attention_scale(self.scale, width, self.heads), inputs=self.query.inputs)
        pointwise = reads_inputs_only(self.keys) and self.query.pointwise and self.proj.pointwise
        set_fields(self, outputs=self.channels(self.inputs), pointwise=pointwise)

    def channels(self, given: int | None) -> int | None:
        width = self.query.channels(given)
        if (pairs := self.keys.channels(given)) not in (None, 2 * (width or 0)):
            raise ValueError(f"{pairs} channels of keys and values for {width} of queries")
        return self.proj.channels(width)

    def emit(self, builder: Builder, x: Value) -> Value:
        query, pairs = self.query.emit(builder, x), self.keys.emit(builder, x)
        width = query.channels
        keys, values = pairs.part(0, width), pairs.part(width, pairs.channels)
        length = query.height * query.width, pairs.height * pairs.width
        scale = attention_scale(self.scale, width, self.heads)
        return self.proj.emit(builder, builder.attention(query, keys, values, self.heads, scale, length))


def reads_inputs_only(layer: Layer) -> bool:
    """Whether a layer's result doesn't depend on x, but on other inputs and constants."""
    if isinstance(layer, Sequential):
        return any(reads_inputs_only(part) for part in layer.layers)
    if isinstance(layer, _Branches):
        return all(reads_inputs_only(part) for part in layer.parts())
    return isinstance(layer, Input | Constant)


def input_names(layer: Layer) -> frozenset[str]:
    """The names of the `Input`s that a layer reads."""
    if isinstance(layer, Input):
        return frozenset([layer.name])
    # Without fields there are no parts.
    parts: Iterable[Layer] = layer.parts() if is_dataclass(layer) else ()
    return frozenset(name for part in parts for name in input_names(part))


@lru_cache(32)
def _windows(height: int, width: int, window: int, shift: int) -> IntArray:
    """(H * W,): the position of a plane that each place of its windows, rolled by -shift, comes from."""
    rows, cols = ((np.arange(size) + shift) % size for size in (height, width))
    plane = rows[:, None] * width + cols
    return plane.reshape(height // window, window, width // window, window).swapaxes(1, 2).reshape(-1)


@cache
def _masks(window: int, shift: int) -> FloatArray:
    """(4, window^2, window^2): MASKED between positions of different regions of a window, else 0.

    For windows that hold no border, the right one, the bottom one, and both. Always the same array, which a
    `WeightStore` holds once whatever the images' sizes.
    """
    far = np.arange(window) >= window - shift
    still = np.zeros(window, np.bool_)
    regions = np.stack(
        [(rows[:, None] * 2 + cols).reshape(-1) for rows in (still, far) for cols in (still, far)]
    )
    return np.where(regions[:, :, None] == regions[:, None, :], 0, MASKED).astype(np.float32)


def _mask_numbers(rows: int, cols: int) -> IntArray:
    """(rows * cols,): each window's of `_masks`. The roll joins borders in the last row and column."""
    bottom, right = (np.arange(count) == count - 1 for count in (rows, cols))
    return (bottom[:, None] * 2 + right).reshape(-1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class WindowAttention(Layer):
    """Swin's attention within window x window positions, in windows moved by `shift` in both axes.

    qkv: C to 3C channels, (queries, keys, values). proj: C to C. bias: None or (heads, window^2, window^2)
    float32, added to the scores (Swin's relative position bias, spread out). scale as CrossAttention's.
    Height and width must be multiples of the window. Source: Liu et al., "Swin Transformer", ICCV 2021.
    """

    qkv: Layer
    proj: Layer
    heads: int
    window: int
    shift: int = 0
    bias: FloatArray | None = field(default=None, repr=False)
    scale: float | None = None

    def __post_init__(self) -> None:
        set_fields(self, heads=index(self.heads), window=index(self.window), shift=index(self.shift))
        if not 0 <= self.shift < self.window:
            raise ValueError(f"a window of {self.window} can't be moved by {self.shift}")
        width = self.qkv.channels(self.qkv.inputs) or 0
        if width % 3:
            raise ValueError(f"queries, keys and values in {width} channels")
        bias = None if self.bias is None else weight_array(self.bias, "bias", 3)
        expected = self.heads, self.window**2, self.window**2
        if bias is not None and bias.shape != expected:
            raise ValueError(f"bias of shape {bias.shape}, not {expected}")
        scale = attention_scale(self.scale, width // 3 or None, self.heads)
        outputs = self.proj.channels(width // 3)
        set_fields(self, bias=bias, scale=scale, inputs=self.qkv.inputs, outputs=outputs)

    def emit(self, builder: Builder, x: Value) -> Value:
        window, size = self.window, (x.height, x.width)
        if x.height % window or x.width % window:
            raise ValueError(f"{x.height}x{x.width} positions aren't whole windows of {window}x{window}")
        sources = _windows(*size, window, self.shift)
        places = np.argsort(sources)
        qkv = self.qkv.emit(builder, builder.gather(x, sources, (len(sources) // window**2, window**2)))
        width = qkv.channels // 3
        queries, keys, values = (qkv.part(start, start + width) for start in (0, width, 2 * width))
        scale = attention_scale(self.scale, width, self.heads)
        masks = None
        if self.shift:
            masks = _masks(window, self.shift), _mask_numbers(x.height // window, x.width // window)
        lengths = window**2, window**2
        heard = builder.attention(queries, keys, values, self.heads, scale, lengths, self.bias, masks)
        return builder.gather(self.proj.emit(builder, heard), places, size)
