"""What a file's streams hold: the symbols of each pass, their distributions, and what each of them costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import entropy
from ..entropy import CdfTable
from ..entropy.mixture import Mixtures
from ..kernels import Order
from .latents import Latents

Pass = tuple[NDArray[np.int32], Any]
"""Symbols, and of each the table's row; or a `Mixtures`."""


@dataclass(frozen=True)
class Section:
    """One stream."""

    stream: bytes
    passes: Sequence[Pass]
    table: CdfTable | None
    """None: its symbols are coded under mixtures."""
    bits: NDArray[np.float64]
    """(rows, cols, channels): -log2 p of each symbol, under the integers that the coder has."""

    def report(self, ideal_bits: float | None = None) -> entropy.Report:
        """The account of the stream; ideal_bits: by the network's own densities."""
        symbols = np.concatenate([one.reshape(-1) for one, _ in self.passes])
        if self.table is None:
            mixtures: Any = joined_mixtures([row for _, row in self.passes])
            return entropy.report(self.stream, symbols, mixtures, None, ideal_bits)
        indexes = np.concatenate([row.reshape(-1) for _, row in self.passes])
        return entropy.report(self.stream, symbols, indexes, self.table, ideal_bits)


@dataclass(frozen=True)
class Inspection:
    """A decoded file."""

    latents: Latents
    sections: Mapping[str, Section]
    """By name, in the order in which they are decoded."""

    @property
    def bits(self) -> float:
        """-log2 p of all symbols: what an ideal coder would write."""
        return float(sum(section.bits.sum() for section in self.sections.values()))


class Recorder:
    """A decoder that keeps what passes through it."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.passes: list[Pass] = []

    def get(self, indexes: Any) -> NDArray[np.int32]:
        """The decoder's next pass."""
        symbols = self._decoder.get(indexes)
        self.passes.append((symbols, indexes if isinstance(indexes, Mixtures) else indexes.copy()))
        return symbols


def joined_mixtures(mixtures: Sequence[Mixtures]) -> Mixtures:
    """The mixtures of all symbols, one after the other: (K, n)."""
    names = ("weights", "means", "inverse_scales")
    parts = [[getattr(one, name).reshape(one.components, -1) for one in mixtures] for name in names]
    return Mixtures(*(np.concatenate(part, axis=1) for part in parts))


def placed_bits(
    passes: Sequence[Pass], table: CdfTable | None, order: Order, channels: int
) -> NDArray[np.float64]:
    """(H, W, channels): what each symbol costs, at its place in the latent."""
    if table is None:
        costs = [row.symbol_bits(symbols) for symbols, row in passes]
    else:
        costs = [table.symbol_bits(symbols, row) for symbols, row in passes]
    flat = np.concatenate([cost.reshape(-1) for cost in costs])
    bits = np.empty((order.height, order.width, channels))
    start = 0
    for step in order:
        where = step.elements(channels)
        count = where[2].size
        bits[where] = flat[start : start + count].reshape(where[2].shape)
        start += count
    return bits
