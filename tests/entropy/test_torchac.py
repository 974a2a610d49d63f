"""`torchac`: equal to its reference and to torchac; rows that don't ascend, damage, arguments."""

import hashlib
import inspect
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torchac_cases import CASES, found_for_sure, job, torchac_version

from quadrans import entropy
from quadrans.entropy import CorruptStream, torchac
from quadrans.entropy import reference_torchac as plain

GOLDEN = json.loads((Path(__file__).parent / "golden" / "torchac.json").read_text())
PAGE = (Path(entropy.__file__).parent / "FORMAT.md").read_text().split("## 10.")[1]

FLOATS = np.array([0, 0.25, 0.75, 0.9375, 1], np.float32)
ROW = [0, 16384, 49151, 61439, 0]
SYMBOLS, STREAM = [0, 1, 3, 2, 1], bytes.fromhex("2f a0")


def as_cdf(rows):
    return np.array(rows, np.uint16).view(np.int16)


def as_symbols(values):
    return np.array(values, np.int16)


def encode(rows, symbols):
    return torchac.encode_int16_normalized_cdf(as_cdf(rows), as_symbols(symbols))


def decode(rows, stream):
    return torchac.decode_int16_normalized_cdf(as_cdf(rows), stream).tolist()


def ascending_rows(most=40):
    """Rows that ascend strictly, from 0 or not; one cell is often nearly all of it."""
    return st.lists(st.integers(0, 65535) | st.integers(0, 60), min_size=2, max_size=most, unique=True).map(
        sorted
    )


any_rows = st.lists(st.integers(0, 65535) | st.integers(0, 9), min_size=2, max_size=40)


@st.composite
def jobs(draw, rows, least=0):
    """(rows of one length, a symbol that can be coded for each)."""
    distinct = draw(st.lists(rows, min_size=1, max_size=3))
    columns = min(map(len, distinct))
    distinct = [row[:columns] for row in distinct]
    cells = [[s for s in range(columns - 1) if np.less(*plain.cell_of(s, row))] for row in distinct]
    usable = [i for i, symbols in enumerate(cells) if symbols]
    assume(usable)
    picks = draw(st.lists(st.sampled_from(usable), min_size=least, max_size=60))
    symbols = [draw(st.sampled_from(cells[i])) for i in picks]
    return [distinct[i] for i in picks], symbols, columns


# Bytes and symbols


@given(jobs(ascending_rows()))
def test_equals_reference(job):
    rows, symbols, columns = job
    cdf = as_cdf(rows).reshape(-1, columns)
    stream = torchac.encode_int16_normalized_cdf(cdf, as_symbols(symbols))
    assert stream == plain.encode(symbols, rows)
    assert torchac.decode_int16_normalized_cdf(cdf, stream).tolist() == symbols
    assert plain.decode(stream, rows) == symbols


@given(jobs(any_rows, least=1), st.binary(max_size=12))
def test_equals_reference_whatever_the_rows(job, tail):
    """The bytes of every symbol that has a cell; what is found again, or that nothing is."""
    rows, symbols, _ = job
    stream = encode(rows, symbols)
    assert stream == plain.encode(symbols, rows)
    assert outcome(decode, rows, stream) == outcome(lambda r, s: plain.decode(s, r), rows, stream)
    sure = all(symbol in found_for_sure(row) for symbol, row in zip(symbols, rows, strict=True))
    if sure:
        assert decode(rows, stream + tail) == symbols


@given(jobs(any_rows | ascending_rows(), least=1), st.binary(max_size=200))
def test_any_bytes_as_in_the_reference(job, stream):
    rows, _, columns = job
    found = outcome(decode, rows, stream)
    assert found == outcome(lambda r, s: plain.decode(s, r), rows, stream)
    if found is not CorruptStream:
        assert all(0 <= symbol <= columns - 2 for symbol in found)


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except CorruptStream:
        return CorruptStream


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 17, 300, 5000]), st.booleans())
def test_wide_alphabets_and_long_streams(seed, columns, peaked):
    rng = np.random.default_rng(seed)
    size = 4000 // columns + 20
    masses = rng.random((size, columns - 1)) ** (20 if peaked else 1)
    cdf = np.cumsum(masses / masses.sum(1, keepdims=True), 1)
    cdf = np.concatenate([np.zeros((size, 1)), cdf], 1).astype(np.float32)
    symbols = (rng.random((size, 1)) > cdf[:, 1:-1]).sum(1).astype(np.int16)
    stream = torchac.encode_float_cdf(cdf, symbols)
    rows = [plain.to_row(row, True) for row in cdf.tolist()]
    assert stream == plain.encode(symbols.tolist(), rows) == encode(rows, symbols)
    assert np.array_equal(torchac.decode_float_cdf(cdf, stream), symbols)
    assert decode(rows, stream) == symbols.tolist()


def test_long_runs_of_pending_bits():
    """Every symbol keeps the middle of the interval; the last decides all bits, as a carry or none."""
    middle = [0, 16384, 49152, 0]
    for last in (0, 1, 2):
        for size in (1, 30, 31, 32, 33, 63, 64, 100, 1000):
            rows, symbols = [middle] * (size + 1), [1] * size + [last]
            stream = encode(rows, symbols)
            assert stream == plain.encode(symbols, rows)
            assert decode(rows, stream) == symbols


def test_narrowest_cells():
    """The most bits that symbols can take, which the memory is for."""
    row = [0, 32767, 32768, 65535, 0]
    for symbols in ([1] * 500, [3] * 500, [0, 1, 2, 3] * 125):
        stream = encode([row] * 500, symbols)
        assert stream == plain.encode(symbols, [row] * 500)
        assert decode([row] * 500, stream) == symbols


def test_certain_symbols_cost_nothing():
    assert encode([[0, 7]] * 1000, [0] * 1000) == encode(np.zeros((0, 2)), []) == b"\x40"
    assert decode([[0, 7]] * 1000, b"\x40") == [0] * 1000


@pytest.mark.parametrize("columns", [65535, 65536])
def test_widest_alphabet(columns):
    row = np.arange(columns)
    symbols = [0, 1, 32766, 32767, 5]
    rows = np.broadcast_to(as_cdf(row), (5, columns))
    stream = torchac.encode_int16_normalized_cdf(rows, as_symbols(symbols))
    assert stream == plain.encode(symbols, [row.tolist()] * 5)
    assert torchac.decode_int16_normalized_cdf(rows, stream).tolist() == symbols
    # A count of 65535 is that of a symbol which int16 can't hold.
    with pytest.raises(CorruptStream, match="symbol 0 "):
        torchac.decode_int16_normalized_cdf(rows, b"\xff" * 99)


# torchac itself


@pytest.mark.parametrize("first", range(0, CASES, 100))
def test_golden_streams(first):
    for seed in range(first, first + 100):
        case = job(seed)
        stream = case.encode(torchac)
        assert hashlib.sha256(stream).hexdigest()[:32] == GOLDEN["streams"][seed], seed
        decoded = case.decode(torchac, stream)
        assert decoded.dtype == np.int16
        assert np.array_equal(decoded, case.symbols), seed
        if seed % 10 == 0:
            assert plain.encode(case.symbols.reshape(-1).tolist(), case.rows()) == stream


def test_golden_cases_are_of_all_kinds():
    cases = [job(seed) for seed in range(CASES)]
    assert {case.cdf.dtype.name for case in cases} == {"int16", "float16", "float32", "float64"}
    assert {case.normalize for case in cases} == {None, True, False}
    assert {case.symbols.ndim for case in cases} == {1, 2, 3}
    assert any(case.symbols.size == 0 for case in cases)
    ascending = [np.all(np.diff(case.rows(), axis=1)[:, :-1] > 0) for case in cases if case.symbols.size]
    assert 50 < ascending.count(False) < 200


needs_torchac = pytest.mark.skipif(torchac_version() is None, reason="torchac is not installed")


@needs_torchac
@given(jobs(any_rows | ascending_rows(), least=1), st.booleans())
def test_equals_torchac(job, as_floats):
    import torch
    import torchac as original

    rows, symbols, _ = job
    cdf, sym = torch.from_numpy(as_cdf(rows)), torch.from_numpy(as_symbols(symbols))
    if as_floats:
        cdf = torch.from_numpy(np.array(rows) / np.float32(65536))
        stream = original.encode_float_cdf(cdf, sym, False)
        assert torchac.encode_float_cdf(cdf.numpy(), sym.numpy(), False) == stream
    else:
        stream = original.encode_int16_normalized_cdf(cdf, sym)
        assert encode(rows, symbols) == stream
    found = outcome(decode, rows, stream)
    if original.decode_int16_normalized_cdf(torch.from_numpy(as_cdf(rows)), stream).tolist() == symbols:
        assert found == symbols


@needs_torchac
@given(jobs(ascending_rows(), least=1), st.binary(min_size=1, max_size=200))
def test_any_bytes_as_in_torchac(job, stream):
    """Ours may refuse bytes; it never takes them for other symbols."""
    import torch
    import torchac as original

    rows = job[0]
    found = outcome(decode, rows, stream)
    if found is not CorruptStream:
        assert original.decode_int16_normalized_cdf(torch.from_numpy(as_cdf(rows)), stream).tolist() == found


# Rows of floats


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30),
    st.booleans(),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_conversion_equals_reference(values, normalize, dtype):
    cdf = np.array(values, dtype)
    row = plain.to_row(cdf.tolist(), normalize, cdf.dtype.char)
    scaled, factor, slope = torchac._scaled(cdf, normalize)
    assert [torchac._entry(scaled, i, factor, slope) for i in range(cdf.size)] == row
    for symbol in found_for_sure(row):
        symbols = as_symbols([symbol] * 3)
        stream = torchac.encode_float_cdf(np.stack([cdf] * 3), symbols, normalize)
        assert stream == plain.encode([symbol] * 3, [row] * 3)
        assert torchac.decode_float_cdf(np.stack([cdf] * 3), stream, normalize).tolist() == [symbol] * 3


def test_values_between_two_integers():
    """Halves, to the even one; 2^16, which becomes 0; -0, and the least float32."""
    values = [-0.0, 2**-149, 0.5 / 65536, 1.5 / 65536, 2.5 / 65536, 3.5 / 65536, 65535.5 / 65536, 1, 1]
    assert plain.to_row(values, False) == [0, 0, 0, 2, 2, 4, 0, 0, 0]
    cdf = np.array([values], np.float32)
    stream = torchac.encode_float_cdf(cdf, as_symbols([4]), False)
    assert stream == plain.encode([4], [[0, 0, 0, 2, 2, 4, 0, 0, 0]])
    assert torchac.decode_float_cdf(cdf, stream, False).tolist() == [4]


def test_a_row_that_reaches_1_early():
    """Its values wrap to 0, but torchac finds the symbols before, and so do we."""
    row = np.array([[0, 0.1, 0.5, 0.9, 0.95, 1, 1]] * 8, np.float32)
    symbols = as_symbols([0, 1, 2, 3] * 2)
    assert found_for_sure(plain.to_row(row[0].tolist(), False))[:4] == [0, 1, 2, 3]
    stream = torchac.encode_float_cdf(row, symbols, False)
    assert torchac.decode_float_cdf(row, stream, False).tolist() == symbols.tolist()
    with pytest.raises(ValueError, match=r"symbol 4 at 1 has an empty cell, from 62259 to 0"):
        torchac.encode_float_cdf(row[:2], as_symbols([0, 4]), False)


# Arrays


def test_shapes_and_layouts():
    rng = np.random.default_rng(3)
    cdf = np.sort(rng.random((3, 4, 5, 8)).astype(np.float32))
    symbols = rng.integers(0, 7, (3, 4, 5)).astype(np.int16)
    stream = torchac.encode_float_cdf(cdf, symbols)
    assert torchac.decode_float_cdf(cdf, stream).tolist() == symbols.tolist()
    strided = np.asfortranarray(cdf), np.asfortranarray(symbols)
    for array in strided:
        array.setflags(write=False)
    assert torchac.encode_float_cdf(*strided) == stream
    assert torchac.decode_float_cdf(strided[0], memoryview(bytearray(stream))).tolist() == symbols.tolist()
    whole = as_cdf([plain.to_row(row, True) for row in cdf.reshape(-1, 8).tolist()]).reshape(cdf.shape)
    assert torchac.encode_int16_normalized_cdf(whole, symbols) == stream
    assert torchac.decode_int16_normalized_cdf(whole.view(np.uint16), stream).tolist() == symbols.tolist()
    one = torchac.decode_float_cdf(FLOATS, torchac.encode_float_cdf(FLOATS, np.int16(3)))
    assert (one.shape, one.dtype, int(one)) == ((), np.int16, 3)
    none = torchac.decode_float_cdf(cdf[:, :0], b"\x40")
    assert (none.shape, none.dtype) == ((3, 0, 5), np.int16)


def test_one_row_for_all_symbols():
    row, symbols = as_cdf(ROW), as_symbols([SYMBOLS] * 6)
    stream = torchac.encode_int16_normalized_cdf(np.broadcast_to(row, (6, 5, 5)), symbols)
    assert stream == encode([ROW] * 30, SYMBOLS * 6)
    decoded = torchac.decode_int16_normalized_cdf(np.broadcast_to(row, (6, 5, 5)), stream)
    assert decoded.tolist() == symbols.tolist()


def test_prefixes_can_be_decoded():
    """An autoregressive model decodes a stream again for every symbol, with all rows that it knows."""
    for size in range(len(SYMBOLS) + 1):
        assert decode(np.array([ROW] * size).reshape(-1, 5), STREAM) == SYMBOLS[:size]


def test_threads_share_nothing():
    cases = [job(seed) for seed in range(12, 42)]
    wrong = []

    def run():
        for case in cases:
            if not np.array_equal(case.decode(torchac, case.encode(torchac)), case.symbols):
                wrong.append(case)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Errors


def test_damaged_streams():
    rows, symbols = [ROW] * 200, [0, 1, 2, 3] * 50
    stream = encode(rows, symbols)
    for size in range(len(stream)):
        with pytest.raises(CorruptStream, match=rf"stream of {size} bytes, its 200 symbols take \d+ bits"):
            decode(rows, stream[:size])
    assert decode(rows, stream + b"more") == symbols
    with pytest.raises(CorruptStream, match="stream of 0 bytes, its 0 symbols take 2 bits"):
        decode(np.zeros((0, 5)), b"")


def test_numbers_below_the_first_cell():
    assert decode([[3, 9, 0]] * 2, encode([[3, 9, 0]] * 2, [0, 1])) == [0, 1]
    with pytest.raises(CorruptStream, match="symbol 1 of the stream is in no cell"):
        decode([ROW, [3, 9, 10, 11, 0]], bytes(9))


@pytest.mark.parametrize(
    ("rows", "symbols", "message"),
    [
        ([ROW] * 2, [0, 4], r"symbol 4 at 1, legal are 0\.\.3"),
        ([ROW] * 2, [-1, 0], r"symbol -1 at 0, legal are 0\.\.3"),
        ([ROW] * 2, [32767, 0], r"symbol 32767 at 0, legal are 0\.\.3"),
        ([[0, 5, 5, 9]], [1], "symbol 1 at 0 has an empty cell, from 5 to 5"),
        ([[5, 5, 9]], [0], "symbol 0 at 0 has an empty cell, from 5 to 5"),
        ([ROW, [0, 9, 5, 7, 8]], [3, 1], "symbol 1 at 1 has an empty cell, from 9 to 5"),
        ([ROW] * 2, [0], r"shapes \(2, 5\) of the CDF and \(1,\) of sym"),
        (ROW, [0], r"shapes \(5,\) of the CDF and \(1,\) of sym"),
        ([[0]], [0], r"CDF of shape \(1, 1\), its last dimension must be 2\.\.65536"),
        ([[]], [0], r"CDF of shape \(1, 0\), its last dimension must be 2\.\.65536"),
        (7, 0, r"CDF of shape \(\), its last dimension must be 2\.\.65536"),
        (np.zeros((1, 65537)), [0], r"CDF of shape \(1, 65537\), its last dimension must be 2\.\.65536"),
    ],
)
def test_what_can_not_be_coded(rows, symbols, message):
    with pytest.raises(ValueError, match=message):
        encode(rows, symbols)


def test_types():
    cdf, symbols = as_cdf([ROW] * 5), as_symbols(SYMBOLS)
    with pytest.raises(ValueError, match="sym must be int16, not int64"):
        torchac.encode_int16_normalized_cdf(cdf, SYMBOLS)
    for wrong in (cdf.astype(np.int32), np.stack([FLOATS] * 5)):
        with pytest.raises(ValueError, match=f"cdf_int must be int16 or uint16, not {wrong.dtype}"):
            torchac.encode_int16_normalized_cdf(wrong, symbols)
        with pytest.raises(ValueError, match=f"cdf_int must be int16 or uint16, not {wrong.dtype}"):
            torchac.decode_int16_normalized_cdf(wrong, STREAM)
    for function in (torchac.encode_float_cdf, torchac.decode_float_cdf):
        with pytest.raises(ValueError, match="cdf_float must be float16, float32 or float64, not int16"):
            function(cdf, symbols)
    with pytest.raises(TypeError, match="byte_stream must be bytes, bytearray or memoryview, not str"):
        torchac.decode_int16_normalized_cdf(cdf, "2f a0")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(dtype, value):
    cdf = np.array([[0, 0.2, 0.4, 0.6, 1]] * 2, dtype)
    stream = torchac.encode_float_cdf(cdf, as_symbols([0, 1]))
    cdf[1, 2] = value
    with pytest.raises(ValueError, match=rf"symbol 1 at 1 has a cell from [\d.]+ to {value}"):
        torchac.encode_float_cdf(cdf, as_symbols([0, 1]))
    with pytest.raises(ValueError, match="CDF row 1 holds values that are no numbers") as error:
        torchac.decode_float_cdf(cdf, stream)
    assert not isinstance(error.value, CorruptStream)
    # The last value isn't used, nor are others that coding doesn't come by.
    cdf[1] = [0, 0.2, 0.4, value, value]
    stream = torchac.encode_float_cdf(cdf, as_symbols([0, 1]))
    assert torchac.decode_float_cdf(cdf, stream).tolist() == [0, 1]


def test_check_input_bounds():
    cdf, symbols = np.stack([FLOATS] * 2), as_symbols([0, 3])
    assert torchac.encode_float_cdf(cdf, symbols, check_input_bounds=True) == plain.encode([0, 3], [ROW] * 2)
    for value in (-0.5, 1.5, np.nan):
        cdf[1, 1] = value
        with pytest.raises(ValueError, match=rf"cdf_float is in .*{value}.*, must be in 0\.\.1"):
            torchac.encode_float_cdf(cdf, as_symbols([0, 3]), check_input_bounds=True)
    with pytest.raises(ValueError, match=r"sym.max\(\) is 4, must be <= Lp - 2 = 3"):
        torchac.encode_float_cdf(np.stack([FLOATS]), as_symbols([4]), check_input_bounds=True)


# FORMAT.md


def test_worked_example():
    assert plain.to_row(FLOATS.tolist(), True) == ROW
    cdf = np.stack([FLOATS] * 5)
    assert torchac.encode_float_cdf(cdf, as_symbols(SYMBOLS)) == plain.encode(SYMBOLS, [ROW] * 5) == STREAM
    assert torchac.decode_float_cdf(cdf, STREAM).tolist() == plain.decode(STREAM, [ROW] * 5) == SYMBOLS
    assert STREAM.hex(" ") in PAGE
    interval = plain.Interval()
    for symbol in SYMBOLS:
        cell = plain.cell_of(symbol, ROW)
        interval.narrow(*cell)
        before = f"{interval.low:08x} .. {interval.high:08x}"
        bits = "".join({0: "0", plain.HALF: "1", plain.QUARTER: "p"}[off] for off in interval.doublings())
        after = f"{interval.low:08x} .. {interval.high:08x}"
        assert f"| {symbol} | {cell} | {before} | {bits} | {after} |" in PAGE


def test_signatures():
    """Positional and keyword names of the original."""
    functions = [getattr(torchac, name) for name in dir(torchac) if name.endswith("_cdf")]
    names = {function.__name__: list(inspect.signature(function).parameters) for function in functions}
    assert names == {
        "encode_float_cdf": ["cdf_float", "sym", "needs_normalization", "check_input_bounds"],
        "decode_float_cdf": ["cdf_float", "byte_stream", "needs_normalization"],
        "encode_int16_normalized_cdf": ["cdf_int", "sym"],
        "decode_int16_normalized_cdf": ["cdf_int", "byte_stream"],
    }
