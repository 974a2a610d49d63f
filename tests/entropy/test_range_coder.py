"""The range coder in pieces: what `take` and `get` find settled, carries, corrupt streams, golden ones."""

import json
import pickle
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from entropy_cases import INT32_MAX, INT32_MIN, gaussian_workload, jobs
from hypothesis import given, settings
from hypothesis import strategies as st
from range_cases import BYTES, spans, straddling

from quadrans.entropy import CdfTable, CorruptStream, TableMismatch, gaussian_table, range_coder, reference
from quadrans.entropy.errors import IncompleteStream
from quadrans.entropy.range_coder import Decoder, Encoder

GOLDEN = json.loads((Path(__file__).parent / "golden" / "range.json").read_text())
SMALL = CdfTable([[4, 8, 3, 1], [10, 6]], [-1, 5], 4)

cuts = st.lists(st.integers(0, 1000), max_size=8)


def pieces(sequence, places):
    """The sequence cut at these places, modulo its size; some pieces are empty."""
    ends = [0, *sorted(p % (len(sequence) + 1) for p in places), len(sequence)]
    return [sequence[a:b] for a, b in pairwise(ends)]


def ready(code, prefix_spans):
    """How many symbols the first bytes of the code settle."""
    return sum(span.holds_all(code) for span in prefix_spans[1:])


@given(jobs(), cuts)
def test_take_gives_what_is_settled(job, places):
    table, symbols, indexes = job
    stream = reference.encode_range(symbols.tolist(), indexes.tolist(), table)
    prefix_spans = spans(symbols.tolist(), indexes.tolist(), table)
    encoder, taken, done = Encoder(table), b"", 0
    for part, index in zip(pieces(symbols, places), pieces(indexes, places), strict=True):
        encoder.put(part, index)
        taken += encoder.take()
        done += part.size
        assert taken == stream[:2] + prefix_spans[done].settled()
        assert encoder.take() == b""
    assert taken + encoder.finish() == stream


def get_some(decoder, indexes):
    """The symbols that can be had now, as a list."""
    try:
        return decoder.get(indexes).tolist()
    except IncompleteStream as error:
        return decoder.get(indexes[: error.ready]).tolist()


@given(jobs(), cuts)
def test_get_finds_what_is_settled(job, places):
    table, symbols, indexes = job
    stream = reference.encode_range(symbols.tolist(), indexes.tolist(), table)
    prefix_spans = spans(symbols.tolist(), indexes.tolist(), table)
    decoder, decoded, fed = Decoder(b"", table, final=False), [], b""
    for data in pieces(stream, places):
        decoder.feed(data)
        fed += data
        decoded += get_some(decoder, indexes[len(decoded) :])
        assert len(decoded) == (ready(fed[2:], prefix_spans) if len(fed) > 2 else 0)
    decoder.feed(b"", final=True)
    decoded += decoder.get(indexes[len(decoded) :]).tolist()
    decoder.close()
    assert decoded == symbols.tolist()


@given(jobs(max_size=30))
def test_symbol_by_symbol(job):
    """put, take, feed, get: of what was taken, a symbol needs four bytes at most beyond its own."""
    table, symbols, indexes = job
    prefix_spans = spans(symbols.tolist(), indexes.tolist(), table)
    encoder, decoder = Encoder(table), Decoder(b"", table, final=False)
    fed, decoded = 0, []
    for i in range(symbols.size):
        encoder.put(symbols[i], indexes[i])
        data = encoder.take()
        decoder.feed(data)
        fed += len(data)
        decoded += get_some(decoder, indexes[len(decoded) : i + 1])
        if len(decoded) <= i:
            assert fed - 2 < prefix_spans[len(decoded) + 1].shifts + 4
    decoder.feed(encoder.finish(), final=True)
    decoded += decoder.get(indexes[len(decoded) :]).tolist()
    decoder.close()
    assert decoded == symbols.tolist()


def test_large_passes_in_packets():
    table, symbols, indexes, _ = gaussian_workload(60_001)
    stream = range_coder.encode(symbols, indexes, table)
    rng = np.random.default_rng(3)
    encoder, sent = Encoder(table), b""
    for part in pieces(np.arange(symbols.size), rng.integers(0, symbols.size, 40).tolist()):
        encoder.put(symbols[part], indexes[part])
        sent += encoder.take()
    assert sent + encoder.finish() == stream
    decoder, decoded = Decoder(stream[:1], table, final=False), []
    for data in pieces(stream[1:], rng.integers(0, len(stream), 40).tolist()):
        decoder.feed(data)
        decoded += get_some(decoder, indexes[len(decoded) :])
    decoder.feed(b"", final=True)
    decoded += get_some(decoder, indexes[len(decoded) :])
    decoder.close()
    assert decoded == symbols.tolist()


def test_memory_stays_bounded():
    """A decoder drops what it has used, an encoder what was taken."""
    table, symbols, indexes, _ = gaussian_workload(2000)
    encoder, decoder = Encoder(table), Decoder(b"", table, final=False)
    sent, missing = 0, 0

    def one_pass():
        nonlocal sent, missing
        encoder.put(symbols, indexes)
        data = encoder.take()
        sent += len(data)
        decoder.feed(data)
        asked = np.concatenate([indexes[indexes.size - missing :], indexes])
        missing = asked.size - len(get_some(decoder, asked))

    one_pass()
    tracemalloc.start()
    for _ in range(600):
        one_pass()
        assert missing < 200
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert sent > 70_000
    assert grown < 20_000


@settings(max_examples=60)
@given(st.integers(1, 255), st.integers(1, 60), st.sampled_from([-1, 0, 1]), cuts)
def test_carries(point, count, step, places):
    """A run of FF bytes, which the last symbols leave as it is, lift to zeros, or leave open."""
    held, rows = straddling(count, point, 8)
    symbols = np.array(held + [0 if step < 0 else 255] * (3 * abs(step)), np.int32)
    indexes = np.array(rows + [0] * (3 * abs(step)), np.int32)
    stream = reference.encode_range(symbols.tolist(), indexes.tolist(), BYTES)
    prefix_spans = spans(symbols.tolist(), indexes.tolist(), BYTES)
    encoder, taken, done = Encoder(BYTES), b"", 0
    for part, index in zip(pieces(symbols, places), pieces(indexes, places), strict=True):
        encoder.put(part, index)
        done += part.size
        taken += encoder.take()
        assert taken[2:] == prefix_spans[done].settled()
        if 0 < done <= len(held):
            assert len(taken) == 2
    assert taken + encoder.finish() == stream
    assert range_coder.decode(stream, indexes, BYTES).tolist() == symbols.tolist()
    decoder, decoded = Decoder(b"", BYTES, final=False), []
    for data in pieces(stream, places):
        decoder.feed(data)
        decoded += get_some(decoder, indexes[len(decoded) :])
    decoder.feed(b"", final=True)
    decoded += decoder.get(indexes[len(decoded) :]).tolist()
    decoder.close()
    assert decoded == symbols.tolist()


@pytest.mark.parametrize(("last", "byte"), [(0, 0xFF), (255, 0x00)])
def test_long_carry_in_one_pass(last, byte):
    symbols, indexes = straddling(3000, 1, 1)
    symbols, indexes = [*symbols, last, last], [*indexes, 0, 1]
    stream = range_coder.encode(symbols, indexes, BYTES)
    assert stream == reference.encode_range(symbols, indexes, BYTES)
    assert stream.count(byte) > 2990
    assert range_coder.decode(stream, indexes, BYTES).tolist() == symbols


def test_escapes_only():
    """Each takes more room than the encoder expects of a symbol."""
    rng = np.random.default_rng(5)
    symbols = rng.integers(INT32_MIN, INT32_MAX, 5000, endpoint=True).astype(np.int32)
    symbols[:4] = INT32_MIN, INT32_MAX, INT32_MIN + 1, INT32_MAX - 1
    indexes = rng.integers(0, 2, 5000).astype(np.int32)
    for table in (SMALL, CdfTable([[65535, 1], [1, 65535]], [3, INT32_MAX], 16)):
        stream = range_coder.encode(symbols, indexes, table)
        assert stream == reference.encode_range(symbols.tolist(), indexes.tolist(), table)
        assert range_coder.decode(stream, indexes, table).tolist() == symbols.tolist()
        encoder = Encoder(table)
        for part in np.split(np.arange(5000), [1, 10, 300]):
            encoder.put(symbols[part], indexes[part])
        assert encoder.finish() == stream


@pytest.mark.parametrize("precision", [4, 9, 14, 16])
def test_cells_of_every_size(precision):
    """Powers of two and one less or more: widths at 2^24, units at 2^8, cells with and without the middle."""
    total = 1 << precision
    rows = [[1, total - 1], [total - 1, 1], [total // 2, total // 2], [total // 2 - 1, 1, total // 2]]
    rows += [[1] * (min(total, 300) - 1) + [total - min(total, 300) + 1]]
    table = CdfTable(rows, [-1, 0, 1, 0, -5], precision)
    rng = np.random.default_rng(precision)
    indexes = rng.integers(0, table.rows, 4000).astype(np.int32)
    symbols = rng.integers(-6, 30, 4000).astype(np.int32)
    stream = range_coder.encode(symbols, indexes, table)
    assert stream == reference.encode_range(symbols.tolist(), indexes.tolist(), table)
    assert np.array_equal(range_coder.decode(stream, indexes, table), symbols)


def answer(decode):
    try:
        return decode()
    except (CorruptStream, TableMismatch) as error:
        return type(error)


def decode_in_pieces(data, indexes, table):
    """All symbols, asked for whenever a piece has come."""
    decoder, decoded = Decoder(data[0], table, final=False), []
    for part in data[1:]:
        decoder.feed(part)
        decoded += get_some(decoder, indexes[len(decoded) :])
    decoder.feed(b"", final=True)
    decoded += decoder.get(indexes[len(decoded) :]).tolist()
    decoder.close()
    return decoded


def check_bytes(stream, indexes, table, places):
    """Whole, in pieces and by the reference: one answer. What is accepted is what the encoder writes."""
    expected = answer(lambda: reference.decode_range(stream, indexes.tolist(), table))
    assert answer(lambda: range_coder.decode(stream, indexes, table).tolist()) == expected
    assert answer(lambda: decode_in_pieces(pieces(stream, places), indexes, table)) == expected
    if isinstance(expected, list):
        assert range_coder.encode(expected, indexes, table) == stream


@given(jobs(), st.binary(max_size=80), st.sampled_from([0, 0, 0, 1, 15]), cuts)
def test_any_bytes(job, body, lanes, places):
    table, _, indexes = job
    header = bytes((reference.VERSION << 4 | reference.KIND_RANGE, lanes << 4 | table.precision - 1))
    for stream in (body, header + body):
        check_bytes(stream, indexes, table, places)


@given(jobs(), st.data())
def test_damaged_streams(job, data):
    table, symbols, indexes = job
    stream = bytearray(range_coder.encode(symbols, indexes, table))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(stream) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "drop", "add", "cut"]))
        if kind == "flip":
            stream[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            stream[place] = data.draw(st.sampled_from([0, 0x7F, 0x80, 0xFF]))
        elif kind == "drop" and len(stream) > 1:
            del stream[place]
        elif kind == "add":
            stream.insert(place, data.draw(st.integers(0, 255)))
        elif place:
            del stream[place:]
    check_bytes(bytes(stream), indexes, table, data.draw(cuts))


@settings(max_examples=30)
@given(jobs(max_size=10))
def test_every_truncation(job):
    table, symbols, indexes = job
    stream = range_coder.encode(symbols, indexes, table)
    for size in range(len(stream)):
        check_bytes(stream[:size], indexes, table, [1, 2, 3, size // 2])


def test_incomplete_stream_leaves_the_decoder_as_it_was():
    table, symbols, indexes, _ = gaussian_workload(500)
    stream = range_coder.encode(symbols, indexes, table)
    decoder = Decoder(stream[:20], table, final=False)
    for _ in range(3):
        with pytest.raises(
            IncompleteStream, match=r"\d+ of 500 symbols can be decoded from the 18 bytes"
        ) as e:
            decoder.get(indexes)
    assert 0 < e.value.ready < 500
    assert np.array_equal(decoder.get(indexes[: e.value.ready]), symbols[: e.value.ready])
    with pytest.raises(IncompleteStream) as again:
        decoder.get(indexes[e.value.ready :])
    assert again.value.ready == 0
    decoder.feed(stream[20:], final=True)
    assert np.array_equal(decoder.get(indexes[e.value.ready :]), symbols[e.value.ready :])
    decoder.close()


def test_incomplete_stream_is_no_corrupt_one():
    assert not issubclass(IncompleteStream, ValueError)
    with pytest.raises(IncompleteStream) as e:
        Decoder(b"", SMALL, final=False).get([0])
    again = pickle.loads(pickle.dumps(e.value))
    assert again.ready == 0
    assert str(again) == str(e.value)


def test_bad_index_comes_before_missing_bytes():
    decoder = Decoder(b"", SMALL, final=False)
    with pytest.raises(ValueError, match="index 2 at 3"):
        decoder.get([0, 0, 0, 2])
    with pytest.raises(TypeError, match="integers"):
        decoder.get([0.5])
    assert decoder.get([]).shape == (0,)


def test_header_in_pieces():
    stream = range_coder.encode([0], [0], SMALL)
    decoder = Decoder(b"", SMALL, final=False)
    for byte in stream[:-1]:
        decoder.feed(bytes((byte,)))
        with pytest.raises(IncompleteStream):
            decoder.get([0])
    decoder.feed(stream[-1:], final=True)
    assert decoder.get([0]) == 0
    decoder.close()


def test_wrong_header_ends_the_decoder_when_it_is_there():
    version = reference.VERSION << 4 | reference.KIND_RANGE
    for header, error in (
        (b"\0\x03", CorruptStream),
        (bytes((version, 0x13)), CorruptStream),
        (bytes((version, 0x02)), CorruptStream),
        (bytes((version, 0x04)), TableMismatch),
    ):
        with pytest.raises(error):
            Decoder(header, SMALL, final=False)
        decoder = Decoder(header[:1], SMALL, final=False)
        with pytest.raises(error):
            decoder.feed(header[1:])
        for use in (lambda d=decoder: d.feed(b"\0"), lambda d=decoder: d.get([0]), decoder.close):
            with pytest.raises(ValueError, match="the decoder is at the end of a corrupt stream"):
                use()


def test_close_ends_the_stream():
    stream = range_coder.encode([0, 1, 5], [0, 0, 1], SMALL)
    decoder = Decoder(stream, SMALL, final=False)
    assert decoder.get([0]).tolist() == [0]
    with pytest.raises(CorruptStream, match="after 1 symbols"):
        decoder.close()
    with pytest.raises(CorruptStream, match="stream of 1 bytes"):
        Decoder(stream[:1], SMALL, final=False).close()
    with pytest.raises(CorruptStream, match="stream of 2 bytes"):
        Decoder(stream[:2], SMALL, final=False).close()
    Decoder(range_coder.encode([], [], SMALL), SMALL, final=False).close()


def test_feed_refuses():
    stream = range_coder.encode([0], [0], SMALL)
    decoder = Decoder(stream, SMALL)
    with pytest.raises(ValueError, match="has had the final bytes"):
        decoder.feed(b"")
    decoder.get([0])
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.feed(b"")
    decoder = Decoder(b"", SMALL, final=False)
    for wrong in ("text", 5, None, [1, 2]):
        with pytest.raises(TypeError, match="stream must be bytes"):
            decoder.feed(wrong)
    decoder.feed(memoryview(b"\0".join([stream, b""]))[:-1])
    decoder.feed(bytearray(), final=True)
    assert decoder.get([0]) == 0
    decoder.close()


def test_failed_pass_leaves_the_encoder_as_it_was():
    table, symbols, indexes, _ = gaussian_workload(300)
    encoder = Encoder(table)
    encoder.put(symbols[:100], indexes[:100])
    with pytest.raises(ValueError, match="index 64 at 1"):
        encoder.put([INT32_MAX, 0], [0, 64])
    with pytest.raises(ValueError, match=r"shape \(2,\), indexes \(1,\)"):
        encoder.put([0, 0], [0])
    with pytest.raises(TypeError, match="symbols must be integers"):
        encoder.put([0.0], [0])
    encoder.put(symbols[100:], indexes[100:])
    assert encoder.finish() == range_coder.encode(symbols, indexes, table)
    for use in (encoder.take, encoder.finish, lambda: encoder.put([0], [0])):
        with pytest.raises(ValueError, match="finished"):
            use()


@pytest.mark.parametrize(("precision", "loss"), [(8, 0.0001), (14, 0.0005), (16, 0.003)])
def test_size_is_near_the_ideal(precision, loss):
    table = gaussian_table(precision=precision)
    _, symbols, indexes, _ = gaussian_workload(50_000)
    stream = range_coder.encode(symbols, indexes, table)
    bits = table.bits(symbols, indexes)
    assert 0 <= 8 * len(stream) - bits < 24 + loss * bits


@pytest.mark.parametrize("case", GOLDEN["valid"], ids=[case["name"] for case in GOLDEN["valid"]])
def test_golden_streams(case):
    table, stream = CdfTable.from_bytes(bytes.fromhex(case["table"])), bytes.fromhex(case["stream"])
    symbols, indexes = case["symbols"], np.array(case["indexes"], np.int32)
    assert range_coder.encode(symbols, indexes, table) == stream
    assert reference.encode_range(symbols, case["indexes"], table) == stream
    assert range_coder.decode(stream, indexes, table).tolist() == symbols
    assert reference.decode_range(stream, case["indexes"], table) == symbols
    assert decode_in_pieces([bytes((byte,)) for byte in stream], indexes, table) == symbols


@pytest.mark.parametrize("case", GOLDEN["corrupt"], ids=[case["name"] for case in GOLDEN["corrupt"]])
def test_golden_corrupt_streams(case):
    table, stream = CdfTable.from_bytes(bytes.fromhex(case["table"])), bytes.fromhex(case["stream"])
    indexes = np.array(case["indexes"], np.int32)
    error = {"CorruptStream": CorruptStream, "TableMismatch": TableMismatch}[case["error"]]
    with pytest.raises(error):
        range_coder.decode(stream, indexes, table)
    with pytest.raises(error):
        reference.decode_range(stream, case["indexes"], table)
    with pytest.raises(error):
        decode_in_pieces([b"", *(bytes((byte,)) for byte in stream)], indexes, table)
