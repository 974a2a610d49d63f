"""Hypothesis strategies for tables, symbols and indexes, and a Gaussian workload."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from quadrans.entropy import CdfTable, gaussian_table, scale_thresholds

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

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


def gaussian_workload(size: int, seed: int = 0) -> tuple[CdfTable, IntArray, IntArray, NDArray[np.float64]]:
    """(table, symbols, indexes, scales) of a latent at some 0.55 bit for each symbol."""
    rng = np.random.default_rng(seed)
    scales = np.clip(np.exp(rng.normal(-1.6, 1.0, size)), 0.11, 20.0)
    indexes = np.searchsorted(scale_thresholds(), scales.astype(np.float32)).astype(np.int32)
    symbols = np.rint(rng.normal(size=size) * scales).astype(np.int32)
    return gaussian_table(), symbols, indexes, scales
