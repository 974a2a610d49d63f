"""The arrays in which the compiled loops look a table up, made once for each table.

Rows, uint32, four for each row:

    where << 5 | shift    its buckets begin at `where`; slot >> shift counts from there
    base                  base + symbol, modulo 2**32, is the place of a regular symbol's cell
    offset                the least regular symbol, as int32
    regular               the number of regular cells; the escape's cell is at base + offset + regular

Cells, uint64: start | freq << 16 | row << 32 | cost << 48, where cost is in units of 2**-10 bit and, in
the escape's cell, its top bit is set.

Buckets, uint64: start | freq << 16 | next << 32 | cell << 48. A bucket is 2**shift slots of a row, `cell`
(counted in the row) is the one that holds the first of these, `next` the frequency of the cell after
it. An escape's frequency reads 0 here: what neither cell holds is to be searched in `cells` from
`cell` on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COST_BITS = 10
ESCAPE_FLAG = 1 << 15
# Cells of a row, and buckets in all, up to which there are sixteen buckets for a cell; and buckets in all up
# to which there are four.
_SHORT, _MOST_DENSE, _MOST = 128, 1 << 18, 1 << 22


class Lookup(NamedTuple):
    """The three arrays, read-only, and the precision."""

    rows: NDArray[np.uint32]
    cells: NDArray[np.uint64]
    buckets: NDArray[np.uint64]
    precision: int


def lookup(
    freqs: NDArray[np.uint16], row_starts: NDArray[np.int32], offsets: NDArray[np.int32], precision: int
) -> Lookup:
    """The arrays of a table given by its own (`CdfTable` describes them)."""
    freq = freqs.astype(np.int64)
    lengths = np.diff(row_starts).astype(np.int64)
    first, last = row_starts[:-1].astype(np.int64), row_starts[1:] - 1
    row = np.repeat(np.arange(lengths.size), lengths)
    # Row r's cells cover [r << precision, (r + 1) << precision) of one common axis.
    start = np.cumsum(freq) - freq - (row << precision)
    cost = _costs(freqs, precision)
    cost[last] |= ESCAPE_FLAG
    cells = start | freq << 16 | row << 32 | cost << 48

    # Some four buckets for each cell: few of them hold parts of more than two. Sixteen make the decoder
    # faster by up to a third, where rows are short and few enough for a cache; one saves memory. As a table
    # has at most 2^24 cells, `where` stays below 2^26.
    bits = _log2_above(4 * lengths, precision)
    if (1 << bits).sum() > _MOST:
        bits = _log2_above(lengths, precision)
    dense = np.where(lengths <= _SHORT, _log2_above(16 * lengths, precision), 0)
    if (1 << dense).sum() <= _MOST_DENSE:
        bits = np.maximum(bits, dense)
    shift = (precision - bits)[row]
    # A bucket is told by the cell that holds its first slot; here, how many begin in each cell.
    beyond = (1 << shift) - 1
    counts = (start + freq + beyond >> shift) - (start + beyond >> shift)
    searchable = freq.copy()
    searchable[last] = 0
    # An escape is the last of its row: what follows it is never read as `next`.
    following = np.append(searchable[1:], 0)
    following[last] = 0
    cell = np.arange(freq.size) - first[row]
    buckets = np.repeat(start | searchable << 16 | following << 32 | cell << 48, counts)

    where = np.cumsum(1 << bits) - (1 << bits)
    offset = offsets.astype(np.int64)
    rows = np.stack((where << 5 | precision - bits, first - offset, offset, lengths - 1), 1)
    return Lookup(
        _frozen((rows & 0xFFFFFFFF).astype(np.uint32).reshape(-1)),
        _frozen(cells.view(np.uint64)),
        _frozen(buckets.view(np.uint64)),
        precision,
    )


def _log2_above(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The least b <= most with counts <= 2**b, or most. REQUIRES: counts >= 1, below 2**52."""
    return np.minimum(np.frexp(counts - 0.5)[1], most).astype(np.int64)


def _costs(freqs: NDArray[np.uint16], precision: int) -> NDArray[np.int64]:
    """The cost of each frequency, in units of 2**-COST_BITS bit."""
    table = np.zeros(1 << 16, np.int64)
    values = np.flatnonzero(np.bincount(freqs, minlength=table.size))
    cost = (precision << 16) - log2_fixed(values.astype(np.uint16))
    table[values] = cost + (1 << (15 - COST_BITS)) >> (16 - COST_BITS)
    return table[freqs]


def log2_fixed(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    """log2 of integers 1..65535 in units of 2**-16, from integers alone: a squaring yields one more bit."""
    exponent = np.zeros(values.size, np.int64)
    for shift in range(1, 16):
        exponent += (values >> shift) > 0
    # A mantissa in [1, 2) with 31 fraction bits: its square stays below 2^64.
    mantissa = values.astype(np.uint64) << (31 - exponent).astype(np.uint64)
    result = exponent
    for _ in range(16):
        mantissa = (mantissa * mantissa) >> np.uint64(31)
        bit = mantissa >> np.uint64(32)
        mantissa >>= bit
        result = 2 * result + bit.astype(np.int64)
    return result


def _frozen(array: NDArray) -> NDArray:
    array.flags.writeable = False
    return array
