"""Any bytes may reach a decoder: it answers, or raises `CorruptStream` or `TableMismatch`, nothing else."""

import struct

import numpy as np
import pytest
from entropy_cases import gaussian_workload, jobs
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrans.entropy import (
    CdfTable,
    CorruptStream,
    TableMismatch,
    gaussian_table,
    range_coder,
    rans,
    reference,
)

TABLE = CdfTable([[4, 8, 3, 1], [10, 6]], [-1, 5], 4)


@pytest.fixture(params=[rans, range_coder], ids=["lanes", "range"])
def coder(request):
    return request.param


def reference_decode(coder, stream, indexes, table):
    decode = reference.decode_lanes if coder is rans else reference.decode_range
    try:
        return decode(stream, indexes.tolist(), table)
    except (CorruptStream, TableMismatch) as error:
        return type(error)


def fast_decode(coder, stream, indexes, table):
    try:
        return coder.decode(stream, indexes, table).tolist()
    except (CorruptStream, TableMismatch) as error:
        return type(error)


def encode_as(coder, stream, symbols, indexes, table):
    """The stream of the symbols with as many lanes as `stream` has."""
    if coder is rans:
        return rans.encode(symbols, indexes, table, 1 << (stream[1] >> 4))
    return range_coder.encode(symbols, indexes, table)


def check(coder, stream, indexes, table):
    """Fast coder and reference agree, and what they accept is canonical. True if rejected."""
    answer = fast_decode(coder, stream, indexes, table)
    assert answer == reference_decode(coder, stream, indexes, table)
    if isinstance(answer, type):
        return True
    assert encode_as(coder, stream, np.array(answer, np.int32), indexes, table) == stream
    return False


@settings(max_examples=40)
@given(job=jobs(max_size=12), lanes=st.sampled_from([1, 2, 8]))
def test_every_truncation_and_bit_flip(coder, job, lanes):
    table, symbols, indexes = job
    if coder is rans:
        stream = rans.encode(symbols, indexes, table, lanes)
    else:
        stream = range_coder.encode(symbols, indexes, table)
    for length in range(len(stream)):
        assert check(coder, stream[:length], indexes, table) or coder is range_coder
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        check(coder, bytes(damaged), indexes, table)


def test_every_bit_flip_in_a_latent_is_found():
    """No promise of the format, but what it does in practice with lanes."""
    table, symbols, indexes, _ = gaussian_workload(600)
    for lanes in (1, 4):
        stream = rans.encode(symbols, indexes, table, lanes)
        for bit in range(8 * len(stream)):
            damaged = bytearray(stream)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises((CorruptStream, TableMismatch)):
                rans.decode(damaged, indexes, table)


@given(job=jobs(), tail=st.binary(min_size=1, max_size=8))
def test_trailing_bytes(coder, job, tail):
    table, symbols, indexes = job
    stream = coder.encode(symbols, indexes, table)
    assert check(coder, stream + tail, indexes, table) or coder is range_coder


@given(job=jobs(), body=st.binary(max_size=100), lanes=st.sampled_from([0, 1, 3, 6]))
def test_any_bytes(coder, job, body, lanes):
    table, _, indexes = job
    header = bytes((0x10 + (coder is range_coder), lanes << 4 | table.precision - 1))
    for stream in (body, header + body):
        check(coder, stream, indexes, table)


@given(job=jobs(), extra=st.lists(st.just(0), min_size=1, max_size=3))
def test_too_many_or_too_few_symbols(coder, job, extra):
    """One symbol more or less is another sequence, accepted only if that has this very stream."""
    table, symbols, indexes = job
    stream = coder.encode(symbols, indexes, table)
    check(coder, stream, np.concatenate([indexes, np.array(extra, np.int32)]), table)
    check(coder, stream, indexes[:-1], table)


def test_wrong_table(coder):
    _, symbols, indexes, _ = gaussian_workload(5000)
    stream = coder.encode(symbols, indexes, gaussian_table())
    with pytest.raises(TableMismatch, match="stream of precision 14, table of precision 15"):
        coder.decode(stream, indexes, gaussian_table(precision=15))
    with pytest.raises(CorruptStream):
        coder.decode(stream, indexes, gaussian_table(np.linspace(0.2, 300, 64)))
    with pytest.raises(CorruptStream):
        coder.decode(stream, indexes[::-1], gaussian_table())


def test_close_counts():
    _, symbols, indexes, _ = gaussian_workload(5000)
    stream = rans.encode(symbols, indexes, gaussian_table(), 4)
    decoder = rans.Decoder(stream, gaussian_table())
    decoder.get(indexes[:2000])
    with pytest.raises(CorruptStream, match=r"after 2000 symbols \d+ of \d+ words are left, 4 of 4 lanes"):
        decoder.close()


def lanes_stream(*intervals):
    return reference.write_lanes([(0, *interval) for interval in intervals], 4, 1)


ESCAPE = (10, 6)  # of row 1 of TABLE, whose only regular symbol is 5


def nibbles(*values):
    return [(value, 1) for value in values]


ILLEGAL_ESCAPES = {
    "ten nibbles": nibbles(10, *[1] * 10),
    "zero as last nibble": nibbles(2, 3, 0),
    "zero as only nibble": nibbles(1, 0),
    "above int32": nibbles(8, *[14] + [15] * 7, 1),
    "far above int32": nibbles(9, *[15] * 9),
    "below int32": nibbles(9, 1, 0, 0, 0, 0, 0, 0, 0, 15),
}


@pytest.mark.parametrize("name", ILLEGAL_ESCAPES)
def test_illegal_escapes(coder, name):
    intervals = [ESCAPE, *ILLEGAL_ESCAPES[name]]
    stream = lanes_stream(*intervals) if coder is rans else reference.write_range(intervals, 4)
    with pytest.raises(CorruptStream, match="escape"):
        coder.decode(stream, [1], TABLE)
    assert reference_decode(coder, stream, np.array([1]), TABLE) is CorruptStream


HEADERS = {
    "empty": (b"", "0 bytes"),
    "one byte": (b"\x10", "1 bytes"),
    "version 2": (b"\x20\x03\x00\x00\x01\x00", "0x20"),
    "coder 2": (b"\x12\x03\x00\x00\x01\x00", "0x12"),
    "range coder": (b"\x11\x03\x00\x00\x01\x00", "0x11"),
    "128 lanes": (b"\x10\x73" + bytes(512), r"2\*\*7 lanes"),
    "precision 3": (b"\x10\x02\x00\x00\x01\x00", "precision 3"),
    "no states": (b"\x10\x03", "stream of 2 bytes"),
    "half a state": (b"\x10\x13\x00\x00\x01\x00\x00\x00", "2 lanes take 10"),
    "half a word": (b"\x10\x03\x00\x00\x01\x00\x00", "stream of 7 bytes"),
    "low state": (b"\x10\x13\x00\x00\x01\x00\xff\xff\x00\x00", "lane 1 starts in 65535"),
    "a word left": (b"\x10\x03\x00\x00\x01\x00\x00\x00", "1 of 1 words are left, 0 of 1 lanes"),
    "final state": (b"\x10\x03\x01\x00\x01\x00", "0 of 0 words are left, 1 of 1 lanes"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_illegal_headers(name):
    stream, message = HEADERS[name]
    with pytest.raises(CorruptStream, match=message):
        rans.decode(stream, [], TABLE)


RANGE_HEADERS = {
    "lanes coder": (b"\x10\x03\x00", "0x10"),
    "lanes": (b"\x11\x13\x00", "0x13"),
    "precision 3": (b"\x11\x02\x00", "0x02"),
    "no bytes": (b"\x11\x03", "2 bytes"),
    "a byte left": (b"\x11\x03\x00\x00", "1 of 2 bytes"),
    "final code": (b"\x11\x03\x01", "code ends in 16777216"),
}


@pytest.mark.parametrize("name", RANGE_HEADERS)
def test_illegal_range_headers(name):
    stream, message = RANGE_HEADERS[name]
    with pytest.raises(CorruptStream, match=message):
        range_coder.decode(stream, [], TABLE)


def test_code_beyond_the_last_cell():
    """width isn't a multiple of 2^16 after the first symbol, so some codes belong to no cell."""
    table = CdfTable([[21845, 43691]], [0], 16)
    first = (1 << 16) * 21845
    code = first - 1
    with pytest.raises(CorruptStream, match="outside the interval"):
        range_coder.decode(b"\x11\x0f" + struct.pack(">I", code), [0, 0], table)
