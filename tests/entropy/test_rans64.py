"""`rans64`: equal to its reference and to CompressAI's wheel; round trips, damaged streams, arguments."""

import json
from pathlib import Path

import numpy as np
import pytest
from compressai_wheel import (
    INT32_MAX,
    INT32_MIN,
    ask,
    random_rows,
    random_symbols,
    raw_values,
    survives,
    wheel_version,
)
from entropy_cases import jobs as jobs_of_any_precision
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrans.entropy import CdfTable, CorruptStream, gaussian_table, rans64, reference_rans64
from quadrans.entropy.rans64 import pmf_to_quantized_cdf

GOLDEN = json.loads((Path(__file__).parent / "golden" / "compressai.json").read_text())

TABLE = CdfTable([[16384, 32768, 12288, 4096], [40960, 24576]], [-1, 5], 16)
PAGE = [0, 1, 5, -4, 300], [0, 0, 1, 0, 1]
PAGE_STREAM = bytes.fromhex("22 92 17 6c 01 00 00 00 51 13 7b 30")
EMPTY_STREAM = bytes.fromhex("00 00 00 80 00 00 00 00")


def at_precision_16(job):
    table, symbols, indexes = job
    freqs = table.freqs.astype(np.int64) << (16 - table.precision)
    return CdfTable.from_flat(freqs, table.row_starts, table.offsets, 16), symbols, indexes


def jobs(**sizes):
    return jobs_of_any_precision(**sizes).map(at_precision_16)


def cut(array, places):
    return np.split(array, sorted(p % (len(array) + 1) for p in places))


cuts = st.lists(st.integers(0, 1000), max_size=6)


@given(jobs())
def test_equals_reference(job):
    table, symbols, indexes = job
    stream = rans64.encode(symbols, indexes, table)
    assert stream == reference_rans64.encode(symbols.tolist(), indexes.tolist(), table)
    assert reference_rans64.decode(stream, indexes.tolist(), table) == symbols.tolist()
    assert rans64.decode(stream, indexes, table).tolist() == symbols.tolist()


@given(job=jobs(), encoder_cuts=cuts, decoder_cuts=cuts)
def test_cuts_do_not_matter(job, encoder_cuts, decoder_cuts):
    table, symbols, indexes = job
    encoder = rans64.Encoder(table)
    for part, index in zip(cut(symbols, encoder_cuts), cut(indexes, encoder_cuts), strict=True):
        encoder.put(part, index)
    stream = encoder.finish()
    assert stream == rans64.encode(symbols, indexes, table)
    decoder = rans64.Decoder(stream, table)
    parts = [decoder.get(index) for index in cut(indexes, decoder_cuts)]
    decoder.close()
    assert np.concatenate(parts).tolist() == symbols.tolist()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 4097, 50_001])
def test_sizes(size):
    table = gaussian_table(precision=16)
    rng = np.random.default_rng(size)
    indexes = rng.integers(0, table.rows, size, dtype=np.int32)
    symbols = np.rint(rng.standard_t(2, size) * 0.3 * 1.1**indexes).astype(np.int32)
    stream = rans64.encode(symbols, indexes, table)
    assert np.array_equal(rans64.decode(stream, indexes, table), symbols)
    assert 8 * len(stream) < table.bits(symbols, indexes) * 1.0001 + 64
    if size < 5000:
        assert stream == reference_rans64.encode(symbols.tolist(), indexes.tolist(), table)


def test_the_longest_codes():
    """Frequencies of 1, and escapes of eight nibbles, which fill the words that the encoder sets aside."""
    table = CdfTable([[1, 65534, 1], [65534, 1, 1]], [0, 0], 16)
    symbols = np.array([0, INT32_MIN, INT32_MAX, 1] * 500, np.int32)
    indexes = np.array([0, 0, 1, 1] * 500, np.int32)
    stream = rans64.encode(symbols, indexes, table)
    assert stream == reference_rans64.encode(symbols.tolist(), indexes.tolist(), table)
    assert np.array_equal(rans64.decode(stream, indexes, table), symbols)


def test_shapes_and_types():
    symbols = np.array([[0, 1, -1], [-4, 7, 1]], np.int64)
    indexes = np.array([[0, 1], [0, 1], [0, 1]], np.uint8).T
    stream = rans64.encode(symbols, indexes, TABLE)
    assert stream == rans64.encode(symbols.ravel().tolist(), indexes.ravel().tolist(), TABLE)
    decoded = rans64.decode(memoryview(bytearray(stream)), indexes, TABLE)
    assert decoded.dtype == np.int32
    assert decoded.tolist() == symbols.tolist()


def test_distances_beyond_int32():
    """CompressAI takes symbol - offset modulo 2^32: far escapes may cost little, and raw has 32 bits."""
    for freqs, offset in (([9, 65526, 1], INT32_MIN), ([65535, 1], INT32_MAX), ([1] * 65535 + [1], 5)):
        table = CdfTable([freqs], [offset], 16)
        symbols = [INT32_MIN, INT32_MIN + 2, -1, 0, 70_000, INT32_MAX - 1, INT32_MAX, INT32_MIN + 4]
        stream = rans64.encode(symbols, [0] * 8, table)
        assert stream == reference_rans64.encode(symbols, [0] * 8, table)
        assert rans64.decode(stream, [0] * 8, table).tolist() == symbols
    near = rans64.encode([INT32_MIN], [0], CdfTable([[65535, 1]], [INT32_MAX], 16))
    assert len(near) == 8


def test_reciprocals_divide_exactly():
    """At multiples of each frequency, and one below them, where an inexact quotient would show."""
    reciprocals, shifts = rans64._reciprocals()
    assert reciprocals.shape == shifts.shape == (1 << 16,)
    for freq, reciprocal, shift in zip(
        range(2, 1 << 16), reciprocals[2:].tolist(), shifts[2:].tolist(), strict=True
    ):
        for quotient in ((1 << 47) - 1, 1 << 46, (1 << 31) // freq + 1):
            low, high = quotient * freq, quotient * freq + freq - 1
            assert low * reciprocal >> 64 + shift == high * reciprocal >> 64 + shift == quotient


def test_worked_example():
    assert rans64.encode(*PAGE, TABLE) == reference_rans64.encode(*PAGE, TABLE) == PAGE_STREAM
    assert rans64.encode([], [], TABLE) == reference_rans64.encode([], [], TABLE) == EMPTY_STREAM


# CompressAI


@pytest.mark.parametrize("case", GOLDEN["streams"], ids=lambda case: case["name"])
def test_golden_streams(case):
    table = CdfTable.from_cdf(case["cdfs"], case["lengths"], case["offsets"])
    symbols, indexes, stream = case["symbols"], case["indexes"], bytes.fromhex(case["stream"])
    assert rans64.encode(symbols, indexes, table) == stream
    assert rans64.decode(stream, indexes, table).tolist() == symbols
    assert reference_rans64.encode(symbols, indexes, table) == stream
    assert reference_rans64.decode(stream, indexes, table) == symbols


@pytest.mark.parametrize("case", GOLDEN["pmfs"])
def test_golden_cdfs(case):
    if case["cdf"] is None:
        with pytest.raises(ValueError, match="pmf"):
            pmf_to_quantized_cdf(case["pmf"], case["precision"])
    else:
        assert pmf_to_quantized_cdf(case["pmf"], case["precision"]).tolist() == case["cdf"]


@pytest.mark.skipif(wheel_version() is None, reason="CompressAI is not installed")
def test_equals_the_wheel():
    """What it encodes, where it survives, and what it decodes of our streams, which it does more often."""
    rng = np.random.default_rng(5)
    questions, answers = [], []
    for _ in range(2500):
        rows, size = random_rows(rng), int(rng.choice([0, 1, 2, 3, 7, 40, 200]))
        symbols, indexes = random_symbols(rng, rows, size, int(rng.choice([6, 20, 27, 30, 31])))
        table, raws = CdfTable.from_cdf(*rows), raw_values(rows, symbols, indexes)
        stream = rans64.encode(symbols, indexes, table)
        assert rans64.decode(stream, indexes, table).tolist() == symbols
        places = rng.integers(0, size + 1, 2)
        calls = [part.tolist() for part in cut(np.array(indexes, int), places)]
        if survives(raws, stream):
            parts = [part.tolist() for part in cut(np.array(symbols, int), places)]
            questions.append(("encode", rows, list(zip(parts, calls, strict=True))))
            answers.append(stream)
        if raws.max(initial=0) < 1 << 31:
            questions.append(("decode", rows, stream, calls))
            answers.append(symbols)
    assert len(questions) > 4000
    for question, answer, expected in zip(questions, ask(questions), answers, strict=True):
        assert answer == expected, question


@pytest.mark.skipif(wheel_version() is None, reason="CompressAI is not installed")
def test_quantized_cdf_equals_the_wheel():
    rng = np.random.default_rng(6)
    questions = []
    for _ in range(2000):
        precision = int(rng.choice([16, 16, 16, 1, 4, 8, 12, 20, 30]))
        size = int(min(1 << precision, np.exp(rng.uniform(0, np.log(2000)))))
        spread = rng.random(size) ** rng.uniform(0.1, 100)
        peak = np.exp(-np.abs(np.arange(size) - size / 2) / rng.uniform(0.1, 20))
        halves = rng.integers(0, 12, size) / 2 / (1 << precision)
        kinds = spread / spread.sum() * 1.3, peak / peak.sum(), halves, rng.integers(0, 3, size) / size
        pmf = kinds[rng.integers(4)].astype(rng.choice([np.float32, np.float64])).tolist()
        if rng.random() < 0.05:
            pmf[rng.integers(size)] = float(rng.choice([np.nan, np.inf, -1e-9, -0.0, 1e300]))
        questions.append(("pmf", pmf, precision))
    for (_, pmf, precision), answer in zip(questions, ask(questions), strict=True):
        if answer is None:
            with pytest.raises(ValueError, match="pmf"):
                pmf_to_quantized_cdf(pmf, precision)
        else:
            assert pmf_to_quantized_cdf(pmf, precision).tolist() == answer


def plain_quantized_cdf(pmf, precision):
    """CompressAI's steps one by one, on exact binary fractions."""
    freqs = [int(p * 2**precision + 0.5) for p in pmf]
    total = sum(freqs)
    freqs = [(f << precision) // total for f in freqs]
    freqs[-1] = 2**precision - sum(freqs[:-1])
    for i in range(len(freqs)):
        if freqs[i] == 0:
            donor = min((f, j) for j, f in enumerate(freqs) if f > 1)[1]
            freqs[donor] -= 1
            freqs[i] = 1
    return [sum(freqs[:i]) for i in range(len(freqs) + 1)]


@given(
    st.lists(st.integers(0, 3) | st.integers(0, 300), min_size=1, max_size=64).filter(any), st.integers(6, 16)
)
def test_quantized_cdf_steals_as_told(weights, precision):
    pmf = [weight / 128 for weight in weights]
    assert pmf_to_quantized_cdf(pmf, precision).tolist() == plain_quantized_cdf(pmf, precision)


def test_quantized_cdf_of_many_cells():
    pmf = np.zeros(1 << 16, np.float32)
    pmf[7] = 1
    assert pmf_to_quantized_cdf(pmf).tolist() == list(range((1 << 16) + 1))
    assert pmf_to_quantized_cdf(pmf[:-1])[[0, 7, 8, -1]].tolist() == [0, 7, 9, 1 << 16]
    assert pmf_to_quantized_cdf([0.5], 0).tolist() == [0, 1]
    assert pmf_to_quantized_cdf([0.4, 0.6, 0], 30).tolist() == [0, 429496723, 1073741823, 1073741824]


@pytest.mark.parametrize(
    ("pmf", "precision", "message"),
    [
        ([], 16, r"shape \(0,\)"),
        ([[0.5, 0.5]], 16, r"shape \(1, 2\)"),
        (0.5, 16, r"shape \(\)"),
        ([0.2] * 5, 2, r"1\.\.4 values"),
        ([0.5, np.nan], 16, "finite"),
        ([0.5, np.inf], 16, "finite"),
        ([0.5, 1e39], 16, "finite"),
        ([0.5, -1e-9], 16, ">= 0"),
        ([0.0, 0.0], 16, "sums to 0"),
        ([1e-9, 1e-9], 16, "sums to 0"),
        ([40000.0, 30000.0], 16, "sums to 4587520000 / 65536"),
        ([0.5], 31, "precision 31"),
        ([0.5], -1, "precision -1"),
    ],
)
def test_quantized_cdf_refuses(pmf, precision, message):
    with pytest.raises(ValueError, match=message):
        pmf_to_quantized_cdf(pmf, precision)


def test_quantized_cdf_refuses_a_precision_that_is_no_integer():
    with pytest.raises(TypeError):
        pmf_to_quantized_cdf([0.5, 0.5], 16.0)


# Damaged streams


def check(stream, indexes, table):
    """The fast decoder answers as the reference does; what it accepts is canonical. True if rejected."""
    try:
        expected = reference_rans64.decode(stream, indexes.tolist(), table)
    except CorruptStream:
        with pytest.raises(CorruptStream):
            rans64.decode(stream, indexes, table)
        return True
    symbols = rans64.decode(stream, indexes, table)
    assert symbols.tolist() == expected
    assert rans64.encode(symbols, indexes, table) == stream
    return False


@settings(max_examples=40)
@given(jobs(max_size=12))
def test_every_truncation_and_bit_flip(job):
    table, symbols, indexes = job
    stream = rans64.encode(symbols, indexes, table)
    for length in range(len(stream)):
        assert check(stream[:length], indexes, table)
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        check(bytes(damaged), indexes, table)


@given(job=jobs(), tail=st.binary(min_size=1, max_size=12))
def test_trailing_bytes(job, tail):
    table, symbols, indexes = job
    assert check(rans64.encode(symbols, indexes, table) + tail, indexes, table)


@given(job=jobs(), body=st.binary(max_size=100))
def test_any_bytes(job, body):
    table, _, indexes = job
    for stream in (body, body[: len(body) & ~3], b"\0\0\0\x80\0\0\0\0" + body[: len(body) & ~3]):
        check(stream, indexes, table)


@given(job=jobs(), extra=st.lists(st.just(0), min_size=1, max_size=3))
def test_too_many_or_too_few_symbols(job, extra):
    table, symbols, indexes = job
    stream = rans64.encode(symbols, indexes, table)
    check(stream, np.concatenate([indexes, np.array(extra, np.int32)]), table)
    check(stream, indexes[:-1], table)


ILLEGAL_ESCAPES = {
    "ten nibbles": [10, *[1] * 10],
    "continued count": [15, 0, *[1] * 15],
    "nine nibbles": [9, *[1] * 9],
    "zero as last nibble": [2, 3, 0],
    "zero as only nibble": [1, 0],
    "above int32": [8, 14, *[15] * 7],
}


@pytest.mark.parametrize("name", ILLEGAL_ESCAPES)
def test_illegal_escapes(name):
    payload = [(nibble, 1, 4) for nibble in ILLEGAL_ESCAPES[name]]
    stream = reference_rans64.write([(40960, 24576, 16), *payload])
    with pytest.raises(CorruptStream, match="escape"):
        rans64.decode(stream, [1], TABLE)
    with pytest.raises(CorruptStream, match="escape"):
        reference_rans64.decode(stream, [1], TABLE)


@pytest.mark.parametrize("end", range(8, 24, 4))
def test_stream_ends_inside_an_escape(end):
    rows = CdfTable([[65535, 1]], [0], 16)
    symbols = [INT32_MIN] * 5
    stream = rans64.encode(symbols, [0] * 5, rows)
    with pytest.raises(CorruptStream, match="ends before"):
        rans64.decode(stream[:end], [0] * 5, rows)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "0 bytes"),
        (EMPTY_STREAM[:7], "7 bytes"),
        (EMPTY_STREAM + b"\0", "9 bytes"),
        (EMPTY_STREAM + b"\0\0\0", "11 bytes"),
        (bytes(8), "state 0,"),
        (((1 << 31) - 1).to_bytes(8, "little"), "state 2147483647,"),
        ((1 << 63).to_bytes(8, "little"), "state 9223372036854775808,"),
        (b"\xff" * 8, "state 18446744073709551615,"),
        (EMPTY_STREAM + bytes(4), "after 0 symbols 1 of 1 words are left and the state is 2147483648"),
        (b"\1" + EMPTY_STREAM[1:], "after 0 symbols 0 of 0 words are left and the state is 2147483649"),
    ],
)
def test_illegal_ends(stream, message):
    with pytest.raises(CorruptStream, match=message):
        rans64.decode(stream, [], TABLE)
    with pytest.raises(CorruptStream):
        reference_rans64.decode(stream, [], TABLE)


def test_corrupt_stream_ends_the_decoder():
    decoder = rans64.Decoder(EMPTY_STREAM, TABLE)
    with pytest.raises(ValueError, match="index 2 at 50"):
        decoder.get([0] * 50 + [2])
    with pytest.raises(CorruptStream, match="ends before"):
        decoder.get([0] * 50)
    with pytest.raises(ValueError, match="corrupt stream"):
        decoder.get([0])


# Arguments


def test_precision_must_be_16():
    table = gaussian_table()
    for call in (
        lambda: rans64.Encoder(table),
        lambda: rans64.encode([0], [0], table),
        lambda: rans64.Decoder(EMPTY_STREAM, table),
        lambda: rans64.decode(EMPTY_STREAM, [], table),
    ):
        with pytest.raises(ValueError, match="precision 14"):
            call()


def test_arguments():
    with pytest.raises(TypeError, match="not str"):
        rans64.decode("stream", [0], TABLE)
    with pytest.raises(TypeError, match="float64"):
        rans64.encode([0.5], [0], TABLE)
    with pytest.raises(ValueError, match="shape"):
        rans64.encode([0, 1], [0], TABLE)
    with pytest.raises(ValueError, match="outside int32"):
        rans64.encode([1 << 31], [0], TABLE)
    encoder = rans64.Encoder(TABLE)
    encoder.put(*(part[:2] for part in PAGE))
    with pytest.raises(ValueError, match="index 2 at 1"):
        encoder.put([0, 0], [0, 2])
    encoder.put(*(part[2:] for part in PAGE))
    assert encoder.finish() == PAGE_STREAM
    for call in (encoder.finish, lambda: encoder.put([0], [0])):
        with pytest.raises(ValueError, match="finished"):
            call()
    decoder = rans64.Decoder(EMPTY_STREAM, TABLE)
    decoder.close()
    for call in (decoder.close, lambda: decoder.get([0])):
        with pytest.raises(ValueError, match="closed"):
            call()
