"""Positions of one parity: what is computed at half of a plane's positions, and +0 at the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from .blocks import Sequential
from .builder import Builder
from .layers import Layer, set_fields
from .placement import Value
from .program import IntArray

_PARITIES = ("even", "odd")


def check_parity(parity: str) -> None:
    """ValueError unless it is "even" or "odd"."""
    if parity not in _PARITIES:
        raise ValueError(f'parity is "even" or "odd", not {parity!r}')


def other_parity(parity: str) -> str:
    return _PARITIES[1 - _PARITIES.index(parity)]


@lru_cache(32)
def parity_positions(height: int, width: int, parity: str) -> IntArray:
    """Positions of a plane with an even or odd row + column, in raster scan."""
    plane = np.add.outer(np.arange(height), np.arange(width)) % 2 == _PARITIES.index(parity)
    return np.flatnonzero(plane).astype(np.int64)


def take(builder: Builder, x: Value, at: IntArray) -> Value:
    """(1, len(at), C): some positions of x, at least one."""
    return builder.gather(x, at, (1, len(at)))


def put(builder: Builder, x: Value, at: IntArray, size: tuple[int, int]) -> Value:
    """(*size, C): position i of x at position at[i], +0 elsewhere."""
    sources = np.full(size[0] * size[1], -1, np.int64)
    sources[at] = np.arange(len(at))
    return builder.gather(x, sources, size)


@dataclass(frozen=True, eq=False)
class Checkerboard(Layer):
    """A pointwise layer at the positions of one parity, the only ones where it is computed; +0 at the others.

    parity: "even" or "odd", of row + column. Without a layer: x itself.
    """

    parity: str
    layer: Layer = field(default_factory=Sequential)

    def __post_init__(self) -> None:
        check_parity(self.parity)
        if not self.layer.pointwise:
            raise ValueError("the layer isn't pointwise: what it gives depends on more than its position")
        set_fields(self, inputs=self.layer.inputs, outputs=self.layer.outputs)

    def channels(self, given: int | None) -> int | None:
        return self.layer.channels(given)

    def emit(self, builder: Builder, x: Value) -> Value:
        size = x.height, x.width
        at = parity_positions(*size, self.parity)
        if not len(at):
            return put(builder, self.layer.emit(builder, x), at, size)
        return put(builder, self.layer.emit(builder, take(builder, x, at)), at, size)
