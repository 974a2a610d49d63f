"""Any bytes may reach a decoder: it answers, or raises `CorruptStream` or `TableMismatch`, nothing else."""

import tracemalloc

import numpy as np
import pytest
from entropy_cases import GROUPS, LANES, gaussian_workload, jobs, layout_of, long_jobs
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


def answer(decode, *args):
    """The symbols as a list, or None for a refusal: of several reasons to refuse, coders may name any."""
    try:
        return list(map(int, decode(*args)))
    except (CorruptStream, TableMismatch):
        return None


def check(coder, stream, indexes, table):
    """Fast coder and reference agree, and what they accept is canonical. True if refused."""
    symbols = answer(coder.decode, stream, indexes, table)
    decode = reference.decode_lanes if coder is rans else reference.decode_range
    assert symbols == answer(decode, stream, indexes.tolist(), table)
    if symbols is None:
        return True
    layout = layout_of(stream) if coder is rans else ()
    assert coder.encode(symbols, indexes, table, *layout) == stream
    return False


@settings(max_examples=40)
@given(job=jobs(max_size=12), lanes=st.sampled_from([1, 2, 8]), groups=st.sampled_from(GROUPS))
def test_every_truncation_and_bit_flip(coder, job, lanes, groups):
    table, symbols, indexes = job
    stream = coder.encode(symbols, indexes, table, *([lanes, groups] if coder is rans else []))
    for length in range(len(stream)):
        assert check(coder, stream[:length], indexes, table) or coder is range_coder
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        check(coder, bytes(damaged), indexes, table)


@settings(max_examples=30)
@given(long_jobs(), st.sampled_from([8, 16, 64]), st.sampled_from([1, 2]), st.data())
def test_damaged_blocks(level, poisoned, job, lanes, groups, data):
    """Where vectors decode, too, nothing but the stream's own bytes passes."""
    table, symbols, indexes = job
    stream = rans.encode(symbols, indexes, table, lanes, groups)
    for _ in range(5):
        damaged = bytearray(stream)
        place = data.draw(st.integers(0, len(stream) - 1))
        damaged[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        check(rans, bytes(damaged), indexes, table)


def test_every_bit_flip_in_a_latent_is_found():
    """No promise of the format, but what it does in practice."""
    table, symbols, indexes, _ = gaussian_workload(600)
    for layout in ((1, 1), (4, 1), (4, 2)):
        stream = rans.encode(symbols, indexes, table, *layout)
        for bit in range(8 * len(stream)):
            damaged = bytearray(stream)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises((CorruptStream, TableMismatch)):
                rans.decode(damaged, indexes, table)


@given(job=jobs(), tail=st.binary(min_size=1, max_size=8), groups=st.sampled_from(GROUPS))
def test_trailing_bytes(coder, job, tail, groups):
    table, symbols, indexes = job
    stream = coder.encode(symbols, indexes, table, *([None, groups] if coder is rans else []))
    assert check(coder, stream + tail, indexes, table) or coder is range_coder


@given(job=jobs(), body=st.binary(max_size=100), layout=st.sampled_from([0, 1, 3, 6, 8, 9, 14]))
def test_any_bytes(coder, job, body, layout):
    table, _, indexes = job
    header = bytes((0x20 + (coder is range_coder), layout << 4 | table.precision - 1))
    for stream in (body, header + body):
        check(coder, stream, indexes, table)


@given(job=jobs(), extra=st.lists(st.just(0), min_size=1, max_size=3), lanes=st.sampled_from(LANES))
def test_too_many_or_too_few_symbols(coder, job, extra, lanes):
    """One symbol more or less is another sequence, accepted only if that has this very stream."""
    table, symbols, indexes = job
    stream = coder.encode(symbols, indexes, table, *([lanes] if coder is rans else []))
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


@pytest.mark.parametrize("groups", [1, 3])
def test_close_says_what_is_left(groups):
    _, symbols, indexes, _ = gaussian_workload(5000)
    decoder = rans.Decoder(rans.encode(symbols, indexes, gaussian_table(), 4, groups), gaussian_table())
    decoder.get(indexes[:2000])
    message = rf"after 2000 symbols \d+ words are left, {groups} of {groups} groups end in a wrong state"
    with pytest.raises(CorruptStream, match=message):
        decoder.close()


def test_memory_is_bounded_by_the_stream():
    """Counts in the header are checked against the bytes that are there before anything is allocated."""
    most = 4096 * 64
    header = b"\x20\xe3" + reference.write_number(4096)
    huge = [
        header + bytes(1000),
        header + b"\xff\xff\xff\xff\xff\xff\x7f" * 140,
        header + bytes(most * 20 // 8 - 1),
        b"\x20\x63" + b"\xff\xff\xff\xff\xff\xff\x7f" + bytes(160),
        b"\x20\x93\x02\x00\xff\xff\xff\xff\xff\xff\x7f\x00" + bytes(20),
    ]
    rans.decode(rans.encode([], [], TABLE), [], TABLE)
    for stream in huge:
        tracemalloc.start()
        assert answer(rans.decode, stream, [], TABLE) is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000 + 10 * len(stream)


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
    stream = (
        reference.write_lanes([intervals], 4, 1) if coder is rans else reference.write_range(intervals, 4)
    )
    with pytest.raises(CorruptStream, match="escape"):
        coder.decode(stream, [1], TABLE)
    check(coder, stream, np.array([1]), TABLE)


@pytest.mark.parametrize("name", ILLEGAL_ESCAPES)
def test_illegal_escapes_among_blocks(level, name):
    regular = [[(0, 10)]] * 700
    for place in (0, 37, 350, 699):
        todo = [*regular]
        todo[place] = [ESCAPE, *ILLEGAL_ESCAPES[name]]
        with pytest.raises(CorruptStream, match="escape"):
            rans.decode(reference.write_lanes(todo, 4, 16), [1] * 700, TABLE)


# An empty stream of one lane: header, e = 0 and m = 0 in 20 bits.
HEADERS = {
    "empty": ("", "0 bytes"),
    "one byte": ("20", "1 bytes"),
    "version 1": ("10 03 00 00 00", "0x10"),
    "version 3": ("30 03 00 00 00", "0x30"),
    "coder 3": ("23 03 00 00 00", "0x23"),
    "range coder": ("21 03 00 00 00", "0x21"),
    "mixtures": ("22 03 00 00 00", "0x22"),
    "128 lanes": ("20 73" + "00" * 400, "layout 7"),
    "128 lanes in groups": ("20 f3 02" + "00" * 800, "layout 15"),
    "precision 3": ("20 02 00 00 00", "precision 3"),
    "no states": ("20 03", "2 bytes for 1 x 1 lanes"),
    "half a state": ("20 03 00 00", "4 bytes for 1 x 1 lanes"),
    "a state cut short": ("20 03 0f 00 00", "cut short"),
    "fill bits": ("20 03 00 00 10", "end in a 1"),
    "half a word": ("20 03 00 00 00 00", "1 bytes of words"),
    "a word left": ("20 03 00 00 00 00 00", "1 words are left, 0 of 1 groups"),
    "final state": ("20 03 10 00 00", "0 words are left, 1 of 1 groups"),
    "final state of lane 1": ("20 13 00 00 00 00 01 00", "0 words are left, 1 of 1 groups"),
    "no number of groups": ("20 83", "ends in its header"),
    "no groups": ("20 83 00 00 00 00 00 00 00", "0 groups"),
    "one group": ("20 83 01 00 00 00 00 00 00", "1 groups"),
    "4097 groups": ("20 83 81 20" + "00" * 20000, "4097 groups"),
    "rounds cut short": ("20 13 80 80 80 80 80 80", "ends in its header"),
    "zero in front of a number": ("20 13 80 00 00 00 00 00 00", "zero as last byte"),
    "number of eight bytes": ("20 13 80 80 80 80 80 80 80 01 00 00 00 00 00", "more than 7 bytes"),
    "rounds without symbols": ("20 13 01 00 00 00 00 00", "1 of 1 groups"),
    "most rounds": ("20 13 ff ff ff ff ff ff 7f 00 00 00 00 00", "1 of 1 groups"),
    "more words than there are": ("20 83 02 01 00 00 00 00 00", "the groups' are"),
    "most words": ("20 83 02 ff ff ff ff ff ff 7f 00 00 00 00 00", "the groups' are"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_illegal_headers(name):
    data, message = HEADERS[name]
    with pytest.raises(CorruptStream, match=message):
        rans.decode(bytes.fromhex(data), [], TABLE)
    check(rans, bytes.fromhex(data), np.zeros(0, np.int32), TABLE)


RANGE_HEADERS = {
    "lanes coder": ("20 03 00", "0x20"),
    "lanes": ("21 13 00", "0x13"),
    "precision 3": ("21 02 00", "0x02"),
    "no bytes": ("21 03", "2 bytes"),
    "a byte left": ("21 03 00 00", "1 of 2 bytes"),
    "final code": ("21 03 01", "code ends in 16777216"),
}


@pytest.mark.parametrize("name", RANGE_HEADERS)
def test_illegal_range_headers(name):
    data, message = RANGE_HEADERS[name]
    with pytest.raises(CorruptStream, match=message):
        range_coder.decode(bytes.fromhex(data), [], TABLE)


def test_code_beyond_the_last_cell():
    """width isn't a multiple of 2^16 after the first symbol, so some codes belong to no cell."""
    table = CdfTable([[21845, 43691]], [0], 16)
    code = (1 << 16) * 21845 - 1
    with pytest.raises(CorruptStream, match="outside the interval"):
        range_coder.decode(b"\x21\x0f" + code.to_bytes(4, "big"), [0, 0], table)
