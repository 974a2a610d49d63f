"""Where the bits of one stream went: the distributions, their quantization, escapes, lanes, header."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ._lanes import LanesReader
from ._passes import KIND_LANES, KIND_MIXTURE, KIND_RANGE, Stream, read_kind
from .mixture import PRECISION, Mixtures, to_codes
from .range_coder import Decoder as RangeDecoder
from .table import CdfTable


@dataclass(frozen=True)
class Report:
    """The account of one stream. What is counted in bits says so; the rest are numbers."""

    symbols: int
    escapes: int
    """Symbols outside their row's range."""
    lanes: int
    """Of each group; 1 for the range coder."""
    groups: int
    bits: int
    """Of the whole stream."""
    header_bits: int
    """Header, groups, rounds and numbers of words."""
    table_bits: float
    """-log2 p under the table, escapes' payloads included: what no coder can go below with it."""
    escape_bits: float
    """Those of them that escapes took."""
    ideal_bits: float | None
    """-log2 p under the distributions that the table approximates, if the caller knew it."""

    @property
    def table_loss(self) -> float | None:
        """Bits lost to the table's integers (negative if they happen to fit these symbols better)."""
        return None if self.ideal_bits is None else self.table_bits - self.ideal_bits

    @property
    def state_loss(self) -> float:
        """Bits lost to the coder: states or width of finite precision, how lanes start and end, padding."""
        return self.bits - self.header_bits - self.table_bits


def report(
    stream: Stream,
    symbols: ArrayLike,
    indexes: ArrayLike | Mixtures,
    table: CdfTable | None = None,
    ideal_bits: float | None = None,
) -> Report:
    """The account of a stream of the lanes, range or mixture coder that holds these symbols.

    symbols, indexes: as they were encoded; under mixtures these are the indexes, and there is no table.
    ideal_bits: what the distributions behind the integers give them. Raises CorruptStream if the header is
    none, TableMismatch for a table of another precision, ValueError or TypeError as `encode`.
    """
    if isinstance(indexes, Mixtures):
        return _mixture_report(stream, symbols, indexes, ideal_bits)
    if table is None:
        raise TypeError("a table is needed for symbols that aren't coded under mixtures")
    data, kind = read_kind(stream, (KIND_LANES, KIND_RANGE))
    cost = table.symbol_bits(symbols, indexes)
    escaped = table.is_escape(symbols, indexes)
    groups, lanes, header_bits = 1, 1, 16
    if kind == KIND_LANES:
        reader = LanesReader(data, table.precision)
        groups, lanes = reader.shape
        header_bits = 8 * reader.header_bytes
    else:
        RangeDecoder(data, table)
    return Report(
        cost.size,
        int(np.count_nonzero(escaped)),
        lanes,
        groups,
        8 * len(data),
        header_bits,
        float(cost.sum()),
        float(cost[escaped].sum()),
        ideal_bits,
    )


def _mixture_report(
    stream: Stream, symbols: ArrayLike, mixtures: Mixtures, ideal_bits: float | None
) -> Report:
    data, _ = read_kind(stream, (KIND_MIXTURE,))
    reader = LanesReader(data, PRECISION, "mixtures")
    cost = mixtures.symbol_bits(symbols)
    escaped = to_codes(symbols, mixtures).places
    return Report(
        cost.size,
        len(escaped),
        reader.shape[1],
        reader.shape[0],
        8 * len(data),
        8 * reader.header_bytes,
        float(cost.sum()),
        float(cost.reshape(-1)[escaped].sum()),
        ideal_bits,
    )
