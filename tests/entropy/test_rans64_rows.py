"""`rans64` under `Rows`: equal to its reference and to tables; rows need only be fit where they are used."""

import numpy as np
import pytest
from compressai_wheel import INT32_MAX, INT32_MIN, random_rows, random_symbols
from hypothesis import given
from hypothesis import strategies as st

from quadrans.entropy import CdfTable, CorruptStream, gaussian_table, rans64, reference_rans64
from quadrans.entropy.rans64 import Rows

CDF = [[0, 16384, 49152, 61440, 65536], [0, 40960, 65536, 7, -9]]
ROWS = Rows(CDF, [5, 3], [-1, 5])
PAGE = [0, 1, 5, -4, 300], [0, 0, 1, 0, 1]
PAGE_STREAM = bytes.fromhex("22 92 17 6c 01 00 00 00 51 13 7b 30")


def plain(cdf, sizes, offsets):
    return [(list(row[:size]), offset) for row, size, offset in zip(cdf, sizes, offsets, strict=True)]


@st.composite
def jobs(draw, max_size=60):
    """(cdf, sizes, offsets, symbols, indexes): rows with gaps at either end, empty cells, values below 0."""
    cdf, sizes, offsets = [], [], []
    for _ in range(draw(st.integers(1, 5))):
        row = sorted(draw(st.lists(st.integers(0, 65536), min_size=2, max_size=12)))
        row = [draw(st.integers(INT32_MIN, -1))] * draw(st.integers(0, 2)) + row
        sizes.append(len(row))
        cdf.append(row + draw(st.lists(st.integers(INT32_MIN, INT32_MAX), max_size=3)))
        offsets.append(draw(st.sampled_from([0, -3, INT32_MIN, INT32_MAX]) | st.integers(-20, 20)))
    cells = [
        (r, i)
        for r, (row, size) in enumerate(zip(cdf, sizes, strict=True))
        for i in range(size - 1)
        if row[i] >= 0 and 1 <= row[i + 1] - row[i] <= 65535
    ]
    symbols, indexes = [], []
    for r, i in draw(st.lists(st.sampled_from(cells), max_size=max_size)) if cells else []:
        far = draw(st.integers(0, 9) | st.integers(0, 1 << 31))
        above = draw(st.booleans())
        value = i if i < sizes[r] - 2 else i + far if above else -1 - far
        symbols.append(reference_rans64.wrapped(offsets[r] + value))
        indexes.append(r)
    # Far escapes may come round to a cell that can't be used.
    usable = [
        (s, r) for s, r in zip(symbols, indexes, strict=True) if (r, cell(s, sizes[r], offsets[r])) in cells
    ]
    width = max(map(len, cdf))
    rectangle = [row + [-1] * (width - len(row)) for row in cdf]
    return rectangle, sizes, offsets, [s for s, _ in usable], [r for _, r in usable]


def cell(symbol, size, offset):
    value = reference_rans64.wrapped(symbol - offset)
    return value if 0 <= value < size - 2 else size - 2


@given(jobs())
def test_equals_reference(job):
    *given_rows, symbols, indexes = job
    rows, reference = Rows(*given_rows), plain(*given_rows)
    stream = rans64.encode(symbols, indexes, rows)
    assert stream == reference_rans64.encode(symbols, indexes, reference)
    assert rans64.decode(stream, indexes, rows).tolist() == symbols
    assert reference_rans64.decode(stream, indexes, reference) == symbols


@given(job=jobs(max_size=12), body=st.binary(max_size=40), more=st.integers(0, 4))
def test_any_bytes(job, body, more):
    """What isn't a stream of these rows is refused as the reference refuses it."""
    *given_rows, symbols, indexes = job
    rows, reference = Rows(*given_rows), plain(*given_rows)
    indexes = indexes + indexes[:more]
    for stream in (
        body,
        rans64.encode(symbols, indexes[: len(symbols)], rows),
        bytes(4) + body[:-4] + bytes(4),
    ):
        try:
            expected = reference_rans64.decode(stream, indexes, reference)
        except CorruptStream:
            expected = None
        try:
            symbols = rans64.decode(stream, indexes, rows).tolist()
        except CorruptStream:
            symbols = None
        except ValueError as error:
            symbols = str(error)
        # The reference goes on where a cell can't be used.
        assert symbols == expected or "must be 1 to 65535 wide" in str(symbols)


@pytest.mark.parametrize("size", [1, 64, 5000, 70_000])
def test_equals_table(size):
    """Long passes decode through a table, which is made of the rows in use."""
    table = gaussian_table(precision=16)
    rng = np.random.default_rng(size)
    indexes = rng.integers(3, 40, size, dtype=np.int32)
    symbols = np.rint(rng.standard_t(2, size) * 0.3 * 1.1**indexes).astype(np.int32)
    cdf, sizes, offsets = table.to_cdf()
    cdf[:3], sizes[50:] = -1, 77_777
    rows, stream = Rows(cdf, sizes, offsets), rans64.encode(symbols, indexes, table)
    assert rans64.encode(symbols, indexes, rows) == stream
    assert np.array_equal(rans64.decode(stream, indexes, rows), symbols)
    assert (rows._table(indexes) is not None) == (size == 70_000)


def test_long_passes_under_rows_that_no_table_takes():
    rows = Rows([[0, 10, 10, 60000]], [4], [0])
    symbols = np.tile([0, 2, 5, 0, -1], 14_000)
    stream = rans64.encode(symbols, np.zeros(70_000, int), rows)
    assert stream == reference_rans64.encode(symbols.tolist(), [0] * 70_000, [([0, 10, 10, 60000], 0)])
    assert np.array_equal(rans64.decode(stream, np.zeros(70_000, int), rows), symbols)


def test_equals_table_on_random_rows():
    rng = np.random.default_rng(3)
    for _ in range(300):
        rows = random_rows(rng)
        symbols, indexes = random_symbols(rng, rows, int(rng.integers(0, 200)), int(rng.choice([6, 31])))
        stream = rans64.encode(symbols, indexes, CdfTable.from_cdf(*rows))
        assert rans64.encode(symbols, indexes, Rows(*rows)) == stream
        assert rans64.decode(stream, indexes, Rows(*rows)).tolist() == symbols


def test_a_row_for_each_symbol():
    """More rows than a CdfTable takes."""
    rng = np.random.default_rng(4)
    freqs = rng.integers(1, 9000, (70_000, 6))
    cdf = np.pad(np.cumsum(freqs, 1), ((0, 0), (1, 1)), constant_values=((0, 0), (0, 65536)))
    rows = Rows(cdf, np.full(70_000, 8), np.zeros(70_000, int))
    symbols = rng.integers(0, 6, 70_000)
    stream = rans64.encode(symbols, np.arange(70_000), rows)
    assert np.array_equal(rans64.decode(stream, np.arange(70_000), rows), symbols)
    assert (
        8 * len(stream)
        < 64 - np.log2(np.take_along_axis(np.diff(cdf), symbols[:, None], 1) / 65536).sum() * 1.001 + 40
    )


def test_passes_under_different_tables():
    table = gaussian_table(precision=16)
    encoder = rans64.Encoder()
    encoder.put(PAGE[0][:2], PAGE[1][:2], ROWS)
    encoder.put([7, -3], [40, 41], table)
    encoder.put(PAGE[0][2:], PAGE[1][2:], ROWS)
    decoder = rans64.Decoder(encoder.finish())
    assert decoder.get(PAGE[1][:2], ROWS).tolist() == PAGE[0][:2]
    assert decoder.get([[40], [41]], table).tolist() == [[7], [-3]]
    assert decoder.get(PAGE[1][2:], ROWS).tolist() == PAGE[0][2:]
    decoder.close()
    with pytest.raises(ValueError, match="neither the encoder"):
        rans64.Encoder().put([0], [0])
    with pytest.raises(ValueError, match="neither the decoder"):
        rans64.Decoder(PAGE_STREAM).get([0])


def test_worked_example():
    assert rans64.encode(*PAGE, ROWS) == PAGE_STREAM
    flat = Rows.from_flat([*CDF[0], 3, *CDF[1][:3]], [6, 3], [5, 3], [-1, 5])
    assert rans64.encode(*PAGE, flat) == PAGE_STREAM
    assert rans64.decode(PAGE_STREAM, PAGE[1], flat).tolist() == PAGE[0]
    assert (flat.rows, repr(flat)) == (2, "Rows(rows=2, values=9)")
    assert rans64.encode([], [], Rows(np.zeros((0, 3), int), [], [])) == rans64.encode([], [], ROWS)


@pytest.mark.parametrize(
    ("row", "size", "symbol", "message"),
    [
        ([0, 65536], 2, 0, r"symbol 0 falls in cell 0 of row 1, 0\.\.65536: it must be 1 to 65535 wide"),
        ([0, 5, 5, 65536], 4, 1, r"cell 1 of row 1, 5\.\.5"),
        ([0, 5, 65536, 65536], 4, 2, r"cell 2 of row 1, 65536\.\.65536"),
        ([-1, 5, 65536], 3, 0, r"cell 0 of row 1, -1\.\.5"),
        ([0, 5, 65537], 3, 1, r"cell 1 of row 1, 5\.\.65537"),
        ([0, 5, 4, 65536], 4, 0, "row 1 falls to 4 at 2"),
        ([0, 5, 65536], 1, 0, r"row 1 has size 1, legal are 2\.\.3"),
        ([0, 5, 65536], 4, 0, r"row 1 has size 4, legal are 2\.\.3"),
        ([0, 5, 65536], -1, 0, r"row 1 has size -1, legal are 2\.\.3"),
    ],
)
def test_rows_that_cannot_be_used(row, size, symbol, message):
    cdf = np.zeros((2, len(row)), np.int32)
    cdf[0, -1], cdf[1] = 65536, row
    rows = Rows(cdf, [len(row), size], [0, 0])
    with pytest.raises(ValueError, match=message):
        rans64.encode([symbol], [1], rows)
    with pytest.raises(ValueError, match=r"row|cell|ends before"):
        rans64.decode(((1 << 31) + max(0, row[symbol])).to_bytes(8, "little"), [1], rows)


def test_slots_in_no_cell():
    rows = Rows([[9, 100, 200]], [3], [0])
    for slot in (0, 8, 200, 65535):
        with pytest.raises(CorruptStream):
            rans64.decode(((1 << 60) + slot).to_bytes(8, "little"), [0], rows)
    assert rans64.Decoder(((1 << 60) + 9).to_bytes(8, "little"), rows).get([0]).tolist() == [0]


def test_arguments():
    for index in (-1, 2, INT32_MIN, INT32_MAX):
        for call in (
            lambda i: rans64.encode([0], [i], ROWS),
            lambda i: rans64.decode(PAGE_STREAM, [i], ROWS),
        ):
            with pytest.raises(ValueError, match=f"index {index} at 0, the table has rows 0..1"):
                call(index)
    with pytest.raises(ValueError, match="index 0 at 0"):
        rans64.encode([0], [0], Rows(np.zeros((0, 3), int), [], []))
    with pytest.raises(ValueError, match=r"symbols have shape \(2,\), indexes \(1,\)"):
        rans64.encode([0, 1], [0], ROWS)
    with pytest.raises(ValueError, match=r"shape \(3,\), not"):
        Rows([0, 1, 2], [3], [0])
    with pytest.raises(ValueError, match=r"2 rows, but sizes \(1,\) and offsets \(2,\)"):
        Rows(CDF, [5], [0, 0])
    with pytest.raises(ValueError, match="outside int32"):
        Rows([[0, 1 << 31]], [2], [0])
    with pytest.raises(TypeError, match="float64"):
        Rows([[0.0, 1.0]], [2], [0])
    for flat, widths in (([0, 1, 2], [2]), ([0, 1, 2], [4, -1]), ([0, 1, 2], [1 << 31 - 1] * 4)):
        with pytest.raises(ValueError, match="of 3 values"):
            Rows.from_flat(flat, widths, [2] * len(widths), [0] * len(widths))
    with pytest.raises(ValueError, match=r"\(1, 3\), widths"):
        Rows.from_flat([[0, 1, 2]], [3], [3], [0])


def test_rows_are_checked_before_anything_is_decoded():
    decoder = rans64.Decoder(PAGE_STREAM, Rows([*CDF, [0, 0, 0, 0, 0]], [5, 3, 9], [-1, 5, 0]))
    with pytest.raises(ValueError, match="row 2 has size 9"):
        decoder.get([0, 0, 2])
    assert decoder.get(PAGE[1]).tolist() == PAGE[0]
    decoder.close()
