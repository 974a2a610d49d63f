"""`CdfTable`: invariants, canonical bytes, derived arrays, quantization, cost in bits."""

import copy
import math
import pickle
import struct
from fractions import Fraction

import numpy as np
import pytest
from entropy_cases import INT32_MAX, INT32_MIN, jobs, tables
from hypothesis import given
from hypothesis import strategies as st

from quadrans.entropy import CdfTable, gaussian_table, reference


@given(tables())
def test_bytes_round_trip(table):
    data = table.to_bytes()
    again = CdfTable.from_bytes(data)
    assert again == table
    assert hash(again) == hash(table)
    assert again.to_bytes() == data
    assert pickle.loads(pickle.dumps(table)) == table
    assert copy.deepcopy(table) == table
    precision, rows = reference.read_table(data)
    assert precision == table.precision
    assert [row.offset for row in rows] == table.offsets.tolist()
    assert [f for row in rows for f in row.freqs] == table.freqs.tolist()


@given(tables())
def test_derived_arrays(table):
    bits = min(8, table.precision)
    assert table.buckets.shape == (table.rows, 1 << bits)
    for r in range(table.rows):
        first, end = table.row_starts[r : r + 2].tolist()
        freqs = table.freqs[first:end].tolist()
        starts = np.cumsum([0, *freqs])[:-1].tolist()
        assert table.cells[first:end].tolist() == [s | f << 16 for s, f in zip(starts, freqs, strict=True)]
        for b in range(1 << bits):
            slot = b << (table.precision - bits)
            assert table.buckets[r, b] == reference.cell_of(slot, tuple(freqs))[0]
    exact = table.precision - np.log2(table.freqs.astype(np.float64))
    assert np.max(np.abs(table.costs / 65536 - exact)) < 2**-14


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda b: b"QCT\x01" + b))
def test_from_bytes_accepts_any_bytes(data):
    try:
        table = CdfTable.from_bytes(data)
    except ValueError:
        return
    assert table.to_bytes() == data


@given(tables(), st.data())
def test_from_bytes_of_damaged_table(table, data):
    damaged = bytearray(table.to_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = CdfTable.from_bytes(damaged)
    except ValueError:
        return
    assert other.to_bytes() == damaged
    assert other != table


def test_from_bytes_checks_sizes_before_it_allocates():
    with pytest.raises(ValueError, match="take"):
        CdfTable.from_bytes(struct.pack("<4sIII", b"QCT\x01", 14, 2**32 - 1, 2**32 - 1))


@pytest.mark.parametrize(
    ("freqs", "offsets", "precision", "message"),
    [
        ([[8, 7]], [0], 4, "row 0 has 15"),
        ([[8, 8], [16]], [0, 0], 4, "row 1 has 1 cells"),
        ([[0, 16]], [0], 4, "frequencies span 0..16"),
        ([[-1, 17]], [0], 4, "frequencies span -1..17"),
        ([[8, 8]], [0, 1], 4, "expected"),
        ([[8, 8]], [INT32_MAX + 1], 4, "above int32"),
        ([[8, 4, 4]], [INT32_MAX], 4, "above int32"),
        ([[8, 8]], [INT32_MIN - 1], 4, "below int32"),
        ([[4, 4]], [0], 3, "precision 3"),
        ([[1 << 16, 1 << 16]], [0], 17, "precision 17"),
        ([], [], 14, "0 rows"),
    ],
)
def test_constructor_refuses(freqs, offsets, precision, message):
    with pytest.raises(ValueError, match=message):
        CdfTable(freqs, offsets, precision)


def test_constructor_refuses_floats():
    with pytest.raises(TypeError, match="freqs\\[0\\] must be integers, not float64"):
        CdfTable([[8.0, 8.0]], [0], 4)
    with pytest.raises(TypeError, match="offsets"):
        CdfTable([[8, 8]], [0.5], 4)


def test_table_is_immutable():
    freqs, offsets = np.array([8, 8]), np.array([3])
    table = CdfTable([freqs], offsets, 4)
    offsets[0] = 7
    freqs[0] = 1
    assert table.offsets[0] == 3
    assert table.freqs[0] == 8
    with pytest.raises(AttributeError, match="immutable"):
        table.precision = 5
    for name in ("offsets", "row_starts", "freqs", "cells", "buckets", "costs"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(table, name)[0] = 0
    assert table != "table"


@given(jobs())
def test_bits_is_exact(job):
    table, symbols, indexes = job
    precision, rows = reference.read_table(table.to_bytes())
    share = Fraction(1)
    for symbol, index in zip(symbols.tolist(), indexes.tolist(), strict=True):
        for _, freq in reference.intervals_of(symbol, rows[index], precision):
            share *= Fraction(freq, 1 << precision)
    exact = math.log2(share.denominator) - math.log2(share.numerator)
    assert table.bits(symbols, indexes) == pytest.approx(exact, rel=1e-12, abs=1e-9)


pmf_rows = st.lists(
    st.lists(st.floats(0, 1e300, allow_subnormal=True), min_size=1, max_size=60), min_size=1, max_size=4
)


@given(pmf_rows, st.integers(6, 16))
def test_from_pmf_accepts_any_mass(pmfs, precision):
    pmfs = [row if any(row) else [1.0, *row[1:]] for row in pmfs]
    table = CdfTable.from_pmf(pmfs, [0] * len(pmfs), precision)
    assert np.diff(table.row_starts).tolist() == [len(row) + 1 for row in pmfs]


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=8).filter(any), st.integers(4, 6))
def test_from_pmf_is_nearly_optimal(weights, precision):
    """Against the greedy allotment with exact logarithms, which is optimal."""
    total = 1 << precision
    if len(weights) > total:
        return
    freqs = [1] * len(weights)
    for _ in range(total - len(weights)):
        gains = [w * math.log((f + 1) / f) for w, f in zip(weights, freqs, strict=True)]
        freqs[gains.index(max(gains))] += 1

    def cost(allotted):
        return -sum(w * math.log2(f / total) for w, f in zip(weights, allotted, strict=True)) / sum(weights)

    table = CdfTable.from_pmf([weights[:-1]], [0], precision, escapes=[weights[-1]])
    assert cost(table.freqs.tolist()) <= cost(freqs) + 0.004


def test_from_pmf_escape_mass():
    table = CdfTable.from_pmf([[0.25, 0.25]], [0], 10)
    assert table.freqs.tolist() == [256, 256, 512]
    assert CdfTable.from_pmf([[0.5, 0.5]], [0], 10).freqs.tolist() == [511, 512, 1]
    assert CdfTable.from_pmf([[1.0, 2.0]], [0], 10, escapes=[1.0]).freqs.tolist() == [256, 512, 256]


def test_from_pmf_full_row():
    table = CdfTable.from_pmf([np.ones((1 << 16) - 1)], [-32767], 16, escapes=[0.0])
    assert set(table.freqs.tolist()) == {1}
    with pytest.raises(ValueError, match="65537 cells"):
        CdfTable.from_pmf([np.ones(1 << 16)], [0], 16)


@pytest.mark.parametrize("bad", [[], [math.nan], [-0.1, 1.0], [math.inf], [[0.5]]])
def test_from_pmf_refuses(bad):
    with pytest.raises(ValueError, match=r"pmfs\[0\]"):
        CdfTable.from_pmf([bad], [0])


def test_from_pmf_refuses_rows_without_mass():
    with pytest.raises(ValueError, match="row 1 has no mass"):
        CdfTable.from_pmf([[1.0], [0.0]], [0, 0], escapes=[0.0, 0.0])
    with pytest.raises(ValueError, match="escapes"):
        CdfTable.from_pmf([[1.0]], [0], escapes=[-1.0])
    with pytest.raises(ValueError, match="rows"):
        CdfTable.from_pmf([], [])


def test_precision_may_be_a_numpy_integer() -> None:
    assert gaussian_table(precision=np.uint8(14)) == gaussian_table()  # type: ignore[arg-type]
    assert gaussian_table(precision=np.int16(15)).precision == 15  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        gaussian_table(precision=14.0)  # type: ignore[arg-type]
