"""The arrays in which the GPU's decoder looks a table up. NumPy only.

They are small, so that a busy row stays in a processor's cache, or all of them in its shared memory: some
8 bytes for each cell, and a row's together. `rans.cuh` says what is in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.table import CdfTable

# Buckets for each cell, at least (or one for each slot): so most slots are in the cell in which their bucket
# begins, or the next. Rows up to so long get twice as many.
_BUCKETS, _SHORT = 2, 32


class DecoderLookup(NamedTuple):
    """rows: uint32 (rows, 4); cells: uint32, each row's cells and then its buckets."""

    rows: NDArray[np.uint32]
    cells: NDArray[np.uint32]


def decoder_lookup(table: CdfTable) -> DecoderLookup:
    """The arrays of a table."""
    precision, freq = table.precision, table.freqs.astype(np.int64)
    lengths = np.diff(table.row_starts).astype(np.int64)
    wanted = lengths * np.where(lengths <= _SHORT, 2 * _BUCKETS, _BUCKETS)
    bits = np.minimum(np.frexp(wanted - 0.5)[1], precision).astype(np.int64)
    shift = precision - bits
    # A row has two buckets or more, as precisions are, and so fills whole words.
    sizes = lengths + (1 << bits) // 2
    first = np.cumsum(sizes) - sizes
    first_bucket = 2 * (first + lengths)

    row = np.repeat(np.arange(lengths.size), lengths)
    number = np.arange(freq.size) - table.row_starts[:-1].astype(np.int64)[row]
    # Row r's cells cover [r << precision, (r + 1) << precision) of one common axis.
    start = np.cumsum(freq) - freq - (row << precision)
    cells = np.zeros(int(sizes.sum()), np.uint32)
    cells[first[row] + number] = start | freq << 16
    # How many buckets begin in each cell.
    width = shift[row]
    beyond = (1 << width) - 1
    counts = (start + freq + beyond >> width) - (start + beyond >> width)
    count = 1 << bits
    gaps = first_bucket - (np.cumsum(count) - count)
    place = np.arange(int(count.sum())) + np.repeat(gaps, count)
    cells.view(np.uint16)[place] = np.repeat(number, counts)

    offsets = table.offsets.astype(np.int64) & 0xFFFFFFFF
    rows = np.stack((first, first_bucket, offsets, (lengths - 1) << 8 | shift), 1)
    return DecoderLookup(rows.astype(np.uint32), cells)
