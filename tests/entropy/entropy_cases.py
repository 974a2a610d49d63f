"""Hypothesis strategies for tables, symbols and indexes, and workloads."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from quadrans.entropy import CdfTable, gaussian_table, reference, scale_thresholds

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
LANES = [1, 2, 4, 8, 16, 32, 64]
GROUPS = [1, 2, 3, 7]

IntArray = NDArray[np.int32]


@st.composite
def tables(draw: st.DrawFn) -> CdfTable:
    """Ragged tables of 1..5 rows at any precision, escapes from frequency 1 to nearly all."""
    precision = draw(st.integers(4, 16))
    total = 1 << precision
    freqs, offsets = [], []
    for _ in range(draw(st.integers(1, 5))):
        cuts = draw(st.sets(st.integers(1, total - 1), min_size=1, max_size=min(40, total - 1)))
        freqs.append(np.diff([0, *sorted(cuts), total]))
        least = st.integers(-20, 20) | st.sampled_from([INT32_MIN, INT32_MAX - len(cuts) + 1])
        offsets.append(draw(least))
    return CdfTable(freqs, offsets, precision)


@st.composite
def jobs(draw: st.DrawFn, max_size: int = 60) -> tuple[CdfTable, IntArray, IntArray]:
    """(table, symbols, indexes): mostly regular symbols, also any int32 and its extremes."""
    table = draw(tables())
    size = draw(st.integers(0, max_size))
    indexes = np.array(draw(st.lists(st.integers(0, table.rows - 1), min_size=size, max_size=size)), np.int32)
    choices = (
        st.integers(-25, 25) | st.integers(INT32_MIN, INT32_MAX) | st.sampled_from([INT32_MIN, INT32_MAX])
    )
    steps = draw(st.lists(choices, min_size=size, max_size=size))
    near = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    symbols = np.array(steps, np.int64)
    if size:
        shifted = symbols + table.offsets[indexes]
        symbols = np.where(near, shifted, symbols).clip(INT32_MIN, INT32_MAX)
    return table, symbols.astype(np.int32), indexes


@st.composite
def long_jobs(draw: st.DrawFn, max_size: int = 1500) -> tuple[CdfTable, IntArray, IntArray]:
    """(table, symbols, indexes) of many blocks: as their rows expect them, and more escapes."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    lengths = draw(st.lists(st.sampled_from([1, 2, 3, 17, 300, 2000]), min_size=1, max_size=4))
    table = ragged_table(rng, draw(st.integers(4, 16)), lengths)
    size = draw(st.integers(0, max_size))
    return table, *drawn(rng, table, size, draw(st.sampled_from([0, 0.002, 0.05, 1])))


def ragged_table(rng: np.random.Generator, precision: int, lengths: list[int]) -> CdfTable:
    """A row for each number of regular cells (or the most it can have), offsets at int32's limits too."""
    total = 1 << precision
    cells = [np.sort(rng.choice(total - 1, min(n, total - 1), replace=False)) + 1 for n in lengths]
    freqs = [np.diff(cuts, prepend=0, append=total) for cuts in cells]
    offsets = [rng.choice([INT32_MIN, INT32_MAX - cuts.size + 1, 0, -cuts.size // 2]) for cuts in cells]
    return CdfTable(freqs, offsets, precision)


def drawn(rng: np.random.Generator, table: CdfTable, size: int, escapes: float) -> tuple[IntArray, IntArray]:
    """(symbols, indexes): each as probable as its row says, but for that share of any int32."""
    indexes = rng.integers(0, table.rows, size).astype(np.int32)
    ends = np.cumsum(table.freqs.astype(np.int64))
    slots = (indexes.astype(np.int64) << table.precision) + rng.integers(0, 1 << table.precision, size)
    symbols = (
        np.searchsorted(ends, slots, side="right")
        - table.row_starts[indexes]
        + table.offsets[indexes].astype(int)
    )
    anything = np.where(rng.random(size) < 0.5, rng.integers(INT32_MIN, INT32_MAX + 1, size), symbols + 3000)
    symbols = np.where(rng.random(size) < escapes, anything, symbols)
    return symbols.clip(INT32_MIN, INT32_MAX).astype(np.int32), indexes


def gaussian_workload(size: int, seed: int = 0) -> tuple[CdfTable, IntArray, IntArray, NDArray[np.float64]]:
    """(table, symbols, indexes, scales) of a latent at some 0.55 bit for each symbol."""
    rng = np.random.default_rng(seed)
    scales = np.clip(np.exp(rng.normal(-1.6, 1.0, size)), 0.11, 20.0)
    indexes = np.searchsorted(scale_thresholds(), scales.astype(np.float32)).astype(np.int32)
    symbols = np.rint(rng.normal(size=size) * scales).astype(np.int32)
    return gaussian_table(), symbols, indexes, scales


def layout_of(stream: bytes) -> tuple[int, int]:
    """(lanes, groups) of a stream of a lanes coder."""
    layout = stream[1] >> 4
    groups = reference.read_number(stream, 2)[0] if layout & reference.GROUPED else 1
    return 1 << (layout & 7), groups
