"""Exact attention layers of checkerboard models: around positions, and with a cost linear in the positions.

MLIC++ (Jiang and Wang 2023, "MLIC++: Linear Complexity Multi-Reference Entropy Modeling") has both. Neither
needs an operation of its own: windows are gathered, and linear attention is attention to and of unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from operator import index

import numpy as np

from .arrays import weight_array
from .blocks import Sequential, attention_scale
from .builder import Builder
from .layers import Conv2d, Layer, set_fields
from .parity import check_parity, other_parity, parity_positions, put, take
from .placement import Value
from .program import FloatArray, IntArray

MASKED = -1000.0
"""Added to scores of what isn't to be heard. It is -100 in the published code, which is as silent, but leaves
subnormal numbers, slow to multiply on CPUs; e^-1000 is +0."""

MAX_WINDOW = 7
"""Of `LocalAttention`: there is a mask for each way in which borders can cut a window."""


@dataclass(frozen=True, eq=False)
class LinearAttention(Layer):
    """proj(attention), with a softmax over positions for keys and over a head's channels for queries.

    query, keys, values: from x to as many channels each. A head with queries q, keys k and values v, each
    (positions, channels), gives softmax(q) (softmax(k)^T v). parity: None, or "even" or "odd": queries are
    then those of positions with such a row + column, keys and values those of the others, where proj gets +0.
    Source: Shen et al., "Efficient Attention: Attention with Linear Complexities", WACV 2021.
    """

    query: Layer
    keys: Layer
    values: Layer
    proj: Layer
    heads: int
    parity: str | None = None
    _units: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        set_fields(self, heads=index(self.heads))
        if self.parity is not None:
            check_parity(self.parity)
        given = (part.inputs for part in (self.query, self.keys, self.values))
        inputs = next((count for count in given if count is not None), None)
        widths = [part.channels(inputs) for part in (self.query, self.keys, self.values)]
        if None in widths or len(set(widths)) > 1:
            raise ValueError("queries, keys and values of {}, {} and {} channels".format(*widths))
        width = widths[0] or 0
        attention_scale(1.0, width, self.heads)
        units = np.tile(np.eye(width // self.heads, dtype=np.float32), self.heads)
        set_fields(self, inputs=inputs, outputs=self.proj.channels(width), _units=units[None])

    def emit(self, builder: Builder, x: Value) -> Value:
        queries, keys, values = (part.emit(builder, x) for part in (self.query, self.keys, self.values))
        sizes = [(one.height, one.width) for one in (queries, keys, values)]
        if len(set(sizes)) > 1:
            raise ValueError(f"queries, keys and values of sizes {sizes}")
        if self.parity is None:
            return self.proj.emit(builder, self._attend(builder, queries, keys, values))
        at, others = (parity_positions(*sizes[0], one) for one in (self.parity, other_parity(self.parity)))
        if not (len(at) and len(others)):
            # A single position: none asks, or none is asked.
            return self.proj.emit(builder, put(builder, queries, at[:0], sizes[0]))
        keys, values = (take(builder, one, others) for one in (keys, values))
        heard = self._attend(builder, take(builder, queries, at), keys, values)
        return self.proj.emit(builder, put(builder, heard, at, sizes[0]))

    def _attend(self, builder: Builder, queries: Value, keys: Value, values: Value) -> Value:
        units = builder.constant(self._units)
        asked, known = queries.height * queries.width, keys.height * keys.width
        mixed = builder.attention(units, keys, values, self.heads, 1.0, (units.width, known))
        return builder.attention(queries, units, mixed, self.heads, 1.0, (asked, units.width))


@dataclass(frozen=True, eq=False)
class LocalAttention(Layer):
    """proj(fusion(attention)) at positions of one parity, each in the window around it; +0 at the others.

    qkv: C to 3D channels, (queries, keys, values), +0 outside the plane. In a window, places of the other
    parity, which a checkerboard has coded before, hear each other alone; its other places hear all of it.
    fusion: the n x n convolution, n odd and up to MAX_WINDOW, without stride, padding and mask, that makes
    one position of a window's D channels. proj: a pointwise layer. parity: "even" or "odd", of row + column.
    bias: None or (heads, n^2, n^2) float32, added to the scores. scale: as CrossAttention's.
    """

    qkv: Layer
    fusion: Conv2d
    heads: int
    parity: str
    proj: Layer = field(default_factory=Sequential)
    bias: FloatArray | None = field(default=None, repr=False)
    scale: float | None = None
    _joined: Conv2d = field(init=False, repr=False)

    def __post_init__(self) -> None:
        set_fields(self, heads=index(self.heads))
        check_parity(self.parity)
        outputs, width, rows, cols = self.fusion.weight.shape
        plain = (self.fusion.stride, self.fusion.padding) == ((1, 1), (0, 0)) and self.fusion.mask is None
        if not plain or rows != cols or rows % 2 == 0 or rows > MAX_WINDOW:
            raise ValueError(
                f"a window's fusion is of its odd size up to {MAX_WINDOW}, without stride, padding and mask, "
                f"not {rows}x{cols}, {self.fusion.stride}, {self.fusion.padding}"
            )
        if (given := self.qkv.channels(self.qkv.inputs)) != 3 * width:
            raise ValueError(f"{given} channels of queries, keys and values; fused are {width}")
        if not self.proj.pointwise:
            raise ValueError("what follows the fusion isn't pointwise")
        bias = None if self.bias is None else weight_array(self.bias, "bias", 3)
        expected = self.heads, rows**2, rows**2
        if bias is not None and bias.shape != expected:
            raise ValueError(f"bias of shape {bias.shape}, not {expected}")
        # A window's places lie in a row.
        joined = Conv2d(self.fusion.weight.reshape(outputs, width, 1, -1), self.fusion.bias)
        scale = attention_scale(self.scale, width, self.heads)
        set_fields(self, bias=bias, scale=scale, _joined=joined)
        set_fields(self, inputs=self.qkv.inputs, outputs=self.proj.channels(outputs))

    @property
    def window(self) -> int:
        """Rows and columns of a window."""
        return self.fusion.weight.shape[2]

    def emit(self, builder: Builder, x: Value) -> Value:
        size, n = (x.height, x.width), self.window
        at = parity_positions(*size, self.parity)
        if not len(at):
            raise ValueError(f"no position of {size[0]}x{size[1]} has an {self.parity} row + column")
        sources, masks = _around(*size, at, n)
        windows = builder.gather(self.qkv.emit(builder, x), sources, (len(at), n * n))
        width = windows.channels // 3
        q, k, v = (windows.part(start, start + width) for start in (0, width, 2 * width))
        scale = attention_scale(self.scale, width, self.heads)
        added = self.bias, (_masks(n), masks)
        heard = builder.attention(q, k, v, self.heads, scale, (n * n, n * n), *added)
        return put(builder, self.proj.emit(builder, self._joined.emit(builder, heard)), at, size)


def _around(height: int, width: int, at: IntArray, window: int) -> tuple[IntArray, IntArray]:
    """(source of each place of the windows around positions, or -1; number of each window's mask)."""
    near = np.arange(window) - window // 2
    axes = []
    number = np.zeros(len(at), np.int64)
    for where, size in zip(np.divmod(at, width), (height, width), strict=True):
        axes.append(where[:, None] + near)
        for cut in (-axes[-1], axes[-1] - (size - 1)):
            number = number * (window // 2 + 1) + (cut > 0).sum(1)
    rows, cols = axes[0][:, :, None], axes[1][:, None, :]
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    return np.where(inside, rows * width + cols, -1).reshape(-1), number


@cache
def _masks(window: int) -> FloatArray:
    """(masks, window^2, window^2): MASKED where a place of the other parity, in the plane, hears another.

    A mask for each count of rows outside, above and below, and of columns, left and right, in `_around`'s
    order. Always the same array, so that a `WeightStore` holds it once whatever the images' sizes.
    """
    counts = range(window // 2 + 1)
    places = np.arange(window)
    # Whether a row is inside, for each pair of counts.
    inside = np.stack([(places >= low) & (places < window - high) for low in counts for high in counts])
    odd = (places[:, None] + places) % 2 == 1
    coded = (inside[:, None, :, None] & inside[None, :, None, :] & odd).reshape(-1, window**2)
    return np.where(coded[:, :, None] & ~coded[:, None, :], MASKED, 0).astype(np.float32)
