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
from quadrans.entropy.quantize import quantize


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


def fields(record, *widths):
    """The record's bit fields, lowest first."""
    values = []
    for width in widths:
        values.append(record & ((1 << width) - 1))
        record >>= width
    assert record == 0
    return values


def int32(word):
    return word - (1 << 32) if word >> 31 else word


def look_up(table, r):
    """(row, cells, buckets) of row r as _lookup.py documents them, in plain integers."""
    rows, cells, buckets, precision = table.lookup
    head, base, offset, regular = rows.reshape(-1, 4)[r].tolist()
    shift, where = head & 31, head >> 5
    first = (base + offset) & 0xFFFFFFFF
    own = [fields(cell, 16, 16, 16, 16) for cell in cells[first : first + regular + 1].tolist()]
    size = 1 << (precision - shift)
    return (shift, base, int32(offset), regular), own, buckets[where : where + size].tolist()


@given(tables())
def test_lookup_of_cells(table):
    _, rows = reference.read_table(table.to_bytes())
    assert len(table.lookup.rows) == 4 * table.rows
    assert len(table.lookup.cells) == table.freqs.size
    for r in range(table.rows):
        (_, base, offset, regular), cells, _ = look_up(table, r)
        freqs = rows[r].freqs
        assert (offset, regular) == (rows[r].offset, len(freqs) - 1)
        assert (base + offset) & 0xFFFFFFFF == table.row_starts[r]
        starts = np.cumsum([0, *freqs])[:-1].tolist()
        assert [(start, freq, row) for start, freq, row, _ in cells] == [
            (start, freq, r) for start, freq in zip(starts, freqs, strict=True)
        ]
        costs = np.array([cost for *_, cost in cells])
        assert [cost >> 15 for cost in costs.tolist()] == [0] * regular + [1]
        exact = table.precision - np.log2(np.array(freqs))
        assert np.max(np.abs((costs & 0x7FFF) / 1024 - exact)) <= 1 / 2048 + 2**-14


@given(tables())
def test_lookup_of_buckets(table):
    _, rows = reference.read_table(table.to_bytes())
    seen = 0
    for r in range(table.rows):
        (shift, *_), _, buckets = look_up(table, r)
        assert len(buckets) <= 32 * len(rows[r].freqs)
        seen += len(buckets)
        # An escape isn't found in a bucket.
        freqs = rows[r].freqs
        shown = [*freqs[:-1], 0, 0]
        for b, bucket in enumerate(buckets):
            cell, start = reference.cell_of(b << shift, freqs)
            assert fields(bucket, 16, 16, 16, 16) == [start, shown[cell], shown[cell + 1], cell]
    assert seen == len(table.lookup.buckets)


@given(tables().filter(lambda table: table.precision <= 9))
def test_lookup_of_every_slot(table):
    """The search as the loops do it, for every slot, against the plain one."""
    precision, rows = reference.read_table(table.to_bytes())
    for r in range(table.rows):
        (shift, *_), cells, buckets = look_up(table, r)
        for slot in range(1 << precision):
            start, freq, following, cell = fields(buckets[slot >> shift], 16, 16, 16, 16)
            if slot >= start + freq:
                if slot < start + freq + following:
                    start, cell = start + freq, cell + 1
                else:
                    while slot >= cells[cell][0] + cells[cell][1]:
                        cell += 1
                    start = cells[cell][0]
            assert (cell, start) == reference.cell_of(slot, rows[r].freqs)


def test_uneven_rows_stay_compact():
    rng = np.random.default_rng(0)
    pmfs = [rng.random(60_000), *rng.random((10_000, 3))]
    table = CdfTable.from_pmf(pmfs, np.zeros(10_001, np.int32), 16, escapes=np.full(10_001, 1e-3))
    cells = 60_001 + 40_000
    assert table.freqs.size == cells
    arrays = (table.freqs, table.offsets, table.row_starts, *table.lookup[:3])
    assert sum(array.nbytes for array in arrays) < 45 * cells


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
    for array in (table.offsets, table.row_starts, table.freqs, *table.lookup[:3]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
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


def plain_quantize(masses, precision):
    """One row of `quantize`, value by value."""
    total = 1 << precision
    units = [math.floor(mass / max(masses) * 2.0**40) for mass in masses]
    mass, share = sum(units), total
    for _ in range(4):
        factor = share / mass
        freqs = [math.floor(unit * factor + 0.5) for unit in units]
        lifted = [freq < 1 for freq in freqs]
        share = max(total - sum(lifted), 1)
        mass = max(sum(unit for unit, one in zip(units, lifted, strict=True) if not one), 1)
    freqs = [max(freq, 1) for freq in freqs]
    while missing := total - sum(freqs):
        if missing > 0:
            order = sorted(range(len(units)), key=lambda i: -(units[i] / (freqs[i] + 0.5)))
        else:
            able = [i for i in range(len(units)) if freqs[i] > 1]
            order = sorted(able, key=lambda i: units[i] / (freqs[i] - 0.5))
        for i in order[: (abs(missing) + 1) // 2]:
            freqs[i] += 1 if missing > 0 else -1
    return freqs


masses = st.integers(0, 3).map(float) | st.floats(0, 1) | st.floats(-30, 0).map(lambda x: 2.0**x)


@given(st.lists(st.lists(masses, min_size=2, max_size=60).filter(any), min_size=1, max_size=12), st.data())
def test_quantize_equals_the_plain_one(rows, data):
    precision = data.draw(st.integers(6, 16))
    row_starts = np.cumsum([0] + [len(row) for row in rows])
    freqs = quantize(np.concatenate(rows), row_starts, precision)
    assert freqs.tolist() == [freq for row in rows for freq in plain_quantize(row, precision)]


@pytest.mark.parametrize("kind", ["equal", "geometric", "peaked", "random"])
def test_quantize_equals_the_plain_one_on_rows_of_all_lengths(kind):
    """Short rows in thousands, and long ones that lack or exceed the total by hundreds."""
    rng = np.random.default_rng(7)
    lengths = [*rng.integers(2, 9, 3000).tolist(), *rng.integers(2, 900, 40).tolist(), 4095, 1, 3000, 4096]
    rows = []
    for length in lengths:
        if kind == "equal":
            rows.append(np.ones(length))
        elif kind == "geometric":
            rows.append(np.exp(-rng.uniform(0.01, 1) * np.arange(length)))
        elif kind == "peaked":
            rows.append(np.r_[1e6, np.full(length - 1, rng.uniform(0.1, 500))])
        else:
            rows.append(rng.random(length) ** rng.integers(1, 9))
    freqs = quantize(np.concatenate(rows), np.cumsum([0, *lengths]), 12)
    assert freqs.tolist() == [freq for row in rows for freq in plain_quantize(row.tolist(), 12)]


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


# Rows of 3, 1 and 2 regular symbols.
CDF = [[0, 1, 65530, 65535, 65536], [0, 65000, 65536, 0, 0], [0, 3, 4, 65536, 0]]
LENGTHS, OFFSETS = [5, 3, 4], [-1, 0, 1000]


def test_from_cdf():
    table = CdfTable.from_cdf(CDF, LENGTHS, OFFSETS)
    assert table == CdfTable([[1, 65529, 5, 1], [65000, 536], [3, 1, 65532]], OFFSETS, 16)
    for dtype in (np.int32, np.int64, np.uint32, np.uint64, ">i4"):
        again = CdfTable.from_cdf(np.array(CDF, dtype), np.array(LENGTHS, dtype), np.array(OFFSETS))
        assert again == table
    wide = np.zeros((6, 20), np.int32)
    wide[::2, :10:2] = CDF
    assert CdfTable.from_cdf(wide[::2, ::2], LENGTHS, OFFSETS) == table
    cdf, lengths, offsets = table.to_cdf()
    assert (cdf.tolist(), lengths.tolist(), offsets.tolist()) == (CDF, LENGTHS, OFFSETS)
    assert cdf.dtype == lengths.dtype == offsets.dtype == np.int32


def test_from_cdf_of_torch():
    torch = pytest.importorskip("torch")
    arrays = [torch.tensor(values, dtype=torch.int32) for values in (CDF, LENGTHS, OFFSETS)]
    assert CdfTable.from_cdf(*arrays) == CdfTable.from_cdf(CDF, LENGTHS, OFFSETS)


@given(tables())
def test_cdf_round_trip(table):
    cdf, lengths, offsets = table.to_cdf()
    assert CdfTable.from_cdf(cdf, lengths, offsets, table.precision) == table
    for row, length, freqs in zip(cdf.tolist(), lengths.tolist(), table_freqs(table), strict=True):
        assert row[:length] == np.cumsum([0, *freqs]).tolist()
        assert not any(row[length:])
    offsets[:] = 0
    assert CdfTable.from_cdf(*table.to_cdf(), table.precision) == table


def table_freqs(table):
    return [row.freqs for row in reference.read_table(table.to_bytes())[1]]


def damaged(r, i, value):
    cdf = [list(row) for row in CDF]
    cdf[r][i] = value
    return cdf


@pytest.mark.parametrize(
    ("cdf", "lengths", "offsets", "message"),
    [
        (damaged(1, 0, 1), LENGTHS, OFFSETS, "row 1 has 1 as its first value, not 0"),
        (damaged(2, 2, 3), LENGTHS, OFFSETS, "row 2 has 3 at 1 and 3 at 2, it must rise strictly"),
        (damaged(0, 2, 0), LENGTHS, OFFSETS, "row 0 has 1 at 1 and 0 at 2, it must rise strictly"),
        (damaged(0, 1, -1), LENGTHS, OFFSETS, "row 0 has 0 at 0 and -1 at 1"),
        (damaged(0, 4, 65537), LENGTHS, OFFSETS, r"row 0 has 65537 as its last value, not 2\*\*16"),
        (damaged(1, 4, 65536), LENGTHS, OFFSETS, "row 1 has 65536 at 4, after its end at 2, not 0"),
        (CDF, [5, 3, 5], OFFSETS, "row 2 has 65536 at 3 and 0 at 4, it must rise strictly"),
        (CDF, [4, 3, 4], OFFSETS, r"row 0 has 65535 as its last value, not 2\*\*16"),
        (CDF, [5, 2, 4], OFFSETS, r"row 1 has 2 as length, legal are 3\.\.5"),
        (CDF, [5, 3, 6], OFFSETS, r"row 2 has 6 as length, legal are 3\.\.5"),
        (CDF, [5, -1, 4], OFFSETS, "row 1 has -1 as length"),
        (CDF, [5, 3], OFFSETS, r"cdf \(3, 5\) and lengths \(2,\)"),
        (CDF[0], [5], [0], r"cdf \(5,\)"),
        (CDF, LENGTHS, [0, 0], r"offsets \(2,\)"),
        (CDF, LENGTHS, [0, INT32_MAX + 1, 0], "row 1 has 2147483648 as offset"),
        (np.zeros((0, 5), np.int32), [], [], "0 rows"),
    ],
)
def test_from_cdf_refuses(cdf, lengths, offsets, message):
    with pytest.raises(ValueError, match=message):
        CdfTable.from_cdf(cdf, lengths, offsets)


def test_from_cdf_refuses_other_precisions_and_floats():
    with pytest.raises(ValueError, match=r"row 0 has 65536 as its last value, not 2\*\*14"):
        CdfTable.from_cdf(CDF, LENGTHS, OFFSETS, 14)
    with pytest.raises(ValueError, match="precision 17"):
        CdfTable.from_cdf(CDF, LENGTHS, OFFSETS, 17)
    with pytest.raises(TypeError, match="cdf must be integers, not float64"):
        CdfTable.from_cdf(np.array(CDF, float), LENGTHS, OFFSETS)
    with pytest.raises(TypeError, match="lengths must be integers"):
        CdfTable.from_cdf(CDF, [5.0, 3.0, 4.0], OFFSETS)


def test_precision_may_be_a_numpy_integer() -> None:
    assert gaussian_table(precision=np.uint8(14)) == gaussian_table()  # type: ignore[arg-type]
    assert gaussian_table(precision=np.int16(15)).precision == 15  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        gaussian_table(precision=14.0)  # type: ignore[arg-type]
