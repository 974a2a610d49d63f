"""`ans`: what CompressAI's C++ coder gives, and an answer to all that crashes or hangs it."""

import numpy as np
import pytest
import torch
from compressai import _CXX as WHEEL_CXX
from compressai import ans as WHEEL
from hypothesis import given
from hypothesis import strategies as st

from quadrans.entropy import CorruptStream
from quadrans.nets.adapters.compressai import ans
from quadrans.nets.adapters.compressai.ans import (
    BufferedRansEncoder,
    RansDecoder,
    RansEncoder,
    pmf_to_quantized_cdf,
)

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
ROWS = [[0, 16384, 49152, 61440, 65536], [0, 40960, 65536, 0, 0]], [5, 3], [-1, 5]
SYMBOLS, INDEXES = [0, 1, 5, -4, 300], [0, 0, 1, 0, 1]
STREAM = bytes.fromhex("22 92 17 6c 01 00 00 00 51 13 7b 30")


def random_job(seed):
    """Arguments of the encoder that the wheel survives: it needs more words than it may write."""
    rng = np.random.default_rng(seed)
    cdfs, offsets = [], []
    for _ in range(rng.integers(1, 6)):
        inner = rng.choice(65535, int(np.exp(rng.uniform(np.log(9), np.log(300)))), replace=False)
        cdfs.append([0, *sorted((inner + 1).tolist()), 65536])
        offsets.append(int(rng.integers(-300, 3)))
    sizes = [len(cdf) for cdf in cdfs]
    indexes = rng.integers(0, len(cdfs), rng.integers(30, 200))
    values = (rng.random(indexes.size) * (np.array(sizes)[indexes] - 2)).astype(int)
    far = rng.random(indexes.size) < rng.choice([0, 0.02, 0.1])
    values = np.where(far, np.exp(rng.uniform(0, 18, indexes.size)).astype(int) * rng.choice([-1, 1]), values)
    return (values + np.array(offsets)[indexes]).tolist(), indexes.tolist(), cdfs, sizes, offsets


@pytest.mark.parametrize("block", range(4))
def test_equals_the_wheel(block):
    for seed in range(50 * block, 50 * block + 50):
        symbols, indexes, *rows = random_job(seed)
        stream = WHEEL.RansEncoder().encode_with_indexes(symbols, indexes, *rows)
        assert RansEncoder().encode_with_indexes(symbols, indexes, *rows) == stream
        half = len(symbols) // 3
        encoder = BufferedRansEncoder()
        for _ in range(2):
            assert encoder.encode_with_indexes(symbols[:half], indexes[:half], *rows) is None
            encoder.encode_with_indexes(symbols[half:], indexes[half:], *rows)
            assert encoder.flush() == stream
        decoder = RansDecoder()
        for theirs in (WHEEL.RansDecoder(), decoder):
            decoded = theirs.decode_with_indexes(stream, indexes, *rows)
            assert decoded == symbols
            assert type(decoded) is list
            assert type(decoded[0]) is int
            theirs.set_stream(stream)
            assert theirs.decode_stream(indexes[:half], *rows) == symbols[:half]
            assert theirs.decode_stream([], *rows) == []
            assert theirs.decode_stream(indexes[half:], *rows) == symbols[half:]


@pytest.mark.parametrize("precision", [16, 12])
def test_quantized_cdfs_equal_the_wheel(precision):
    rng = np.random.default_rng(precision)
    for size in (1, 2, 3, 17, 300):
        for power in (0.2, 1, 30):
            masses = rng.random(size) ** power
            pmf = (masses / masses.sum()).astype(np.float32).tolist()
            expected = WHEEL_CXX.pmf_to_quantized_cdf(pmf, precision)
            assert pmf_to_quantized_cdf(pmf, precision) == expected
            assert type(pmf_to_quantized_cdf(pmf, precision)[0]) is int
    assert pmf_to_quantized_cdf([0.1, 0.2, 0, 0], 16) == [0, 21845, 65534, 65535, 65536]
    assert pmf_to_quantized_cdf(torch.tensor([0.5, 0.5], requires_grad=True), 16) == [0, 32768, 65536]
    for pmf in ([0.5, -0.5], [float("nan")], [float("inf")], [0.0, 0.0], []):
        with pytest.raises(ValueError, match="pmf"):
            pmf_to_quantized_cdf(pmf, 16)
        with pytest.raises(ValueError, match="pmf"):
            WHEEL_CXX.pmf_to_quantized_cdf(pmf, 16)


# What crashes, hangs or misleads the wheel


def test_no_symbols():
    stream = RansEncoder().encode_with_indexes([], [], *ROWS)
    assert stream == BufferedRansEncoder().flush() == bytes.fromhex("00 00 00 80 00 00 00 00")
    assert RansDecoder().decode_with_indexes(stream, [], *ROWS) == []
    assert RansEncoder().encode_with_indexes([], [], [], [], []) == stream


def test_one_symbol_again_and_again():
    rows = [[0, 1, 65536]], [3], [0]
    encoder = RansEncoder()
    streams = {encoder.encode_with_indexes([0], [0], *rows) for _ in range(2000)}
    assert len(streams) == 1
    assert RansDecoder().decode_with_indexes(streams.pop(), [0], *rows) == [0]


@pytest.mark.parametrize(
    "symbols",
    [
        [INT32_MAX - 3, INT32_MIN + 3],
        [1 << 27, -(1 << 27)],
        [1 << 28, 1 << 29, 1 << 30],
        [INT32_MIN],
        [INT32_MAX],
        [INT32_MIN] * 50,
    ],
)
def test_symbols_of_any_size(symbols):
    stream = RansEncoder().encode_with_indexes(symbols, [1] * len(symbols), *ROWS)
    assert RansDecoder().decode_with_indexes(stream, [1] * len(symbols), *ROWS) == symbols


@pytest.mark.parametrize(
    ("row", "message"),
    [([0, 5, 5, 65536], r"cell 1 of row 0, 5\.\.5"), ([0, 0, 65536, 65536], r"0\.\.65536")],
)
def test_cells_without_width_or_of_all(row, message):
    with pytest.raises(ValueError, match=message):
        RansEncoder().encode_with_indexes([1, 1], [0, 0], [row], [4], [0])


@pytest.mark.parametrize("index", [-1, 2, 1 << 20, INT32_MIN, INT32_MAX])
def test_indexes_of_no_row(index):
    message = rf"index {index} at 1, the table has rows 0\.\.1"
    decoder = RansDecoder()
    decoder.set_stream(STREAM)
    for call in (
        lambda: RansEncoder().encode_with_indexes([0, 0], [0, index], *ROWS),
        lambda: decoder.decode_with_indexes(STREAM, [0, index], *ROWS),
        lambda: decoder.decode_stream([0, index], *ROWS),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert decoder.decode_stream(INDEXES, *ROWS) == SYMBOLS


def test_sizes_and_offsets_of_too_few_rows_or_of_more():
    cdfs, sizes, offsets = ROWS
    for rows in ((cdfs, sizes[:1], offsets), (cdfs, sizes, offsets[:1]), (cdfs[:1], sizes, offsets)):
        with pytest.raises(ValueError, match=r"index 1 at 2, the table has rows 0\.\.0"):
            RansEncoder().encode_with_indexes(SYMBOLS, INDEXES, *rows)
        assert RansDecoder().decode_with_indexes(STREAM, [0, 0], *rows) == [0, 1]
    assert RansEncoder().encode_with_indexes(SYMBOLS, INDEXES, cdfs, [*sizes, 9], [*offsets, 9]) == STREAM
    for size in (-1, 0, 1, 6, INT32_MAX):
        with pytest.raises(ValueError, match=rf"row 0 has size {size}, legal are 2\.\.5"):
            RansEncoder().encode_with_indexes([0, 0], [0, 0], cdfs, [size, 3], offsets)


def test_symbols_and_indexes_of_two_lengths():
    for symbols, indexes in (([0, 1], [0]), ([0], [0, 1])):
        with pytest.raises(ValueError, match=f"{len(symbols)} symbols, but {len(indexes)} indexes"):
            RansEncoder().encode_with_indexes(symbols, indexes, *ROWS)


@pytest.mark.parametrize("seed", range(5))
def test_every_truncation(seed):
    symbols, indexes, *rows = random_job(seed)
    stream = RansEncoder().encode_with_indexes(symbols, indexes, *rows)
    for end in range(len(stream)):
        with pytest.raises(CorruptStream):
            RansDecoder().decode_with_indexes(stream[:end], indexes, *rows)


def test_more_symbols_than_the_stream_has():
    with pytest.raises(CorruptStream, match="ends before its symbols"):
        RansDecoder().decode_with_indexes(STREAM, INDEXES * 3, *ROWS)
    decoder = RansDecoder()
    decoder.set_stream(STREAM)
    assert decoder.decode_stream(INDEXES, *ROWS) == SYMBOLS
    with pytest.raises(CorruptStream, match="ends before its symbols"):
        decoder.decode_stream([0] * 40, *ROWS)
    decoder.set_stream(STREAM)
    assert decoder.decode_stream(INDEXES, *ROWS) == SYMBOLS


@pytest.mark.parametrize("state", [0, 1, (1 << 31) - 1, 1 << 63, (1 << 64) - 1])
def test_states_that_no_encoder_leaves(state):
    with pytest.raises(CorruptStream, match=f"state {state},"):
        RansDecoder().set_stream(state.to_bytes(8, "little") + bytes(8))


def test_decode_stream_without_a_stream():
    decoder = RansDecoder()
    with pytest.raises(ValueError, match="set_stream"):
        decoder.decode_stream([0], *ROWS)
    decoder.set_stream(STREAM)
    with pytest.raises(CorruptStream, match="0 bytes"):
        decoder.set_stream(b"")
    with pytest.raises(ValueError, match="set_stream"):
        decoder.decode_stream([0], *ROWS)


def junk(limit):
    return st.lists(st.integers(-limit, limit) | st.sampled_from([INT32_MIN, INT32_MAX, 1 << 40]), max_size=4)


@given(junk(9), junk(3), st.lists(junk(70_000), max_size=3), junk(6), junk(9), st.binary(max_size=24))
def test_any_arguments(symbols, indexes, cdfs, sizes, offsets, stream):
    """A result or a ValueError; what was encoded decodes."""
    try:
        coded = RansEncoder().encode_with_indexes(symbols, indexes, cdfs, sizes, offsets)
    except ValueError:
        pass
    else:
        assert RansDecoder().decode_with_indexes(coded, indexes, cdfs, sizes, offsets) == symbols
    try:
        decoded = RansDecoder().decode_with_indexes(stream, indexes, cdfs, sizes, offsets)
    except ValueError:
        pass
    else:
        assert len(decoded) == len(indexes)


# What must work as there


def test_streams_may_hold_more():
    """Decoding may stop anywhere, and nobody asks what follows the last word."""
    for stream in (STREAM, STREAM + b"abcdefgh", STREAM + b"abc", bytearray(STREAM), memoryview(STREAM)):
        decoder = RansDecoder()
        assert decoder.decode_with_indexes(stream, INDEXES, *ROWS) == SYMBOLS
        assert decoder.decode_with_indexes(stream, INDEXES[:2], *ROWS) == SYMBOLS[:2]
        assert decoder.decode_with_indexes(stream, [], *ROWS) == []
        decoder.set_stream(stream)
        assert decoder.decode_stream(INDEXES[:2], *ROWS) == SYMBOLS[:2]
        # One call doesn't disturb the other.
        assert decoder.decode_with_indexes(stream, INDEXES, *ROWS) == SYMBOLS
        assert decoder.decode_stream(INDEXES[2:], *ROWS) == SYMBOLS[2:]


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda values: np.array(values, np.uint32 if min(values) >= 0 else np.int16),
        lambda values: np.repeat(values, 2)[::2],
        torch.tensor,
        lambda values: torch.tensor(values, dtype=torch.int32),
    ],
)
def test_kinds_of_sequences(kind):
    cdfs, sizes, offsets = ROWS
    rows = kind(sizes), kind(offsets)
    wide = np.array if kind not in (list, tuple, torch.tensor) else kind
    for table in (
        wide(cdfs),
        [kind(cdfs[0]), kind(cdfs[1])],
        tuple(map(tuple, cdfs)),
        [cdfs[0], cdfs[1][:3]],
    ):
        assert RansEncoder().encode_with_indexes(kind(SYMBOLS), kind(INDEXES), table, *rows) == STREAM
        decoder = RansDecoder()
        assert decoder.decode_with_indexes(STREAM, kind(INDEXES), table, *rows) == SYMBOLS
        decoder.set_stream(STREAM)
        for symbol, index in zip(SYMBOLS, INDEXES, strict=True):
            assert decoder.decode_stream(kind([index]), table, *rows) == [symbol]


def test_booleans_are_integers_and_floats_are_not():
    encode = RansEncoder().encode_with_indexes
    assert encode([False, True, 5, -4, 300], INDEXES, *ROWS) == STREAM
    assert encode([False, True], [False, False], *ROWS) == encode([0, 1], [0, 0], *ROWS)
    assert encode(range(5), [0] * 5, *ROWS) == encode(list(range(5)), [0] * 5, *ROWS)
    for wrong in ([0.0, 1.0], np.zeros(2), torch.zeros(2), ["0", "1"], [None, 1], "01"):
        with pytest.raises(TypeError, match="symbols must be integers"):
            encode(wrong, [0, 0], *ROWS)
        with pytest.raises(TypeError, match="indexes must be integers"):
            encode([0, 0], wrong, *ROWS)
    with pytest.raises(TypeError, match=r"cdfs\[0\] must be integers"):
        encode([0, 0], [0, 0], [[0, 0.5, 1.0]], [3], [0])
    with pytest.raises(ValueError, match="symbols holds 2147483648 at 1, outside int32"):
        encode([0, 1 << 31], [0, 0], *ROWS)
    with pytest.raises(ValueError, match="indexes must be one list"):
        encode([0], [[0]], *ROWS)
    with pytest.raises(ValueError, match="indexes must be one list"):
        RansDecoder().decode_with_indexes(STREAM, 0, *ROWS)
    for wrong in ("stream", np.frombuffer(STREAM, np.uint8), [1, 2], None):
        with pytest.raises(TypeError, match="must be bytes"):
            RansDecoder().set_stream(wrong)


def test_unused_rows_may_hold_anything():
    cdfs, sizes, offsets = ROWS
    for junk_row in ([], [7, 3, 9], [1 << 40], ["?"], [0.5]):
        rows = [*cdfs, junk_row], [*sizes, 9], [*offsets, 0]
        assert RansEncoder().encode_with_indexes(SYMBOLS, INDEXES, *rows) == STREAM
        assert RansDecoder().decode_with_indexes(STREAM, INDEXES, *rows) == SYMBOLS


def test_rows_below_16_bits():
    """As CompressAI makes them for another `entropy_coder_precision`."""
    cdf = pmf_to_quantized_cdf(np.full(30, 1 / 30, np.float32), 12)
    symbols = [*range(-3, 33), *range(30)]
    rows = [cdf], [len(cdf)], [0]
    stream = WHEEL.RansEncoder().encode_with_indexes(symbols, [0] * len(symbols), *rows)
    assert RansEncoder().encode_with_indexes(symbols, [0] * len(symbols), *rows) == stream
    assert RansDecoder().decode_with_indexes(stream, [0] * len(symbols), *rows) == symbols


def test_an_encoder_takes_nothing_of_a_bad_pass():
    encoder = BufferedRansEncoder()
    encoder.encode_with_indexes(SYMBOLS[:2], INDEXES[:2], *ROWS)
    with pytest.raises(ValueError, match="index 7"):
        encoder.encode_with_indexes([0, 0], [0, 7], *ROWS)
    encoder.encode_with_indexes(SYMBOLS[2:], INDEXES[2:], *ROWS)
    assert encoder.flush() == STREAM


def test_a_list_that_comes_again_is_not_read_again(monkeypatch):
    read, convert, flat = [], ans._integers, ans._flat
    monkeypatch.setattr(ans, "_integers", lambda name, values: read.append(name) or convert(name, values))
    monkeypatch.setattr(ans, "_flat", lambda *given: read.append("flat") or flat(*given))
    once = ["flat", "cdfs[0]", "cdfs[1]"]
    encoder, decoder = BufferedRansEncoder(), RansDecoder()
    for _ in range(20):
        encoder.encode_with_indexes([0, 0], [0, 1], *ROWS)
    assert [name for name in read if name == "flat" or "cdfs[" in name] == once
    decoder.set_stream(encoder.flush())
    read.clear()
    for _ in range(20):
        assert decoder.decode_stream([0, 1], *ROWS) == [0, 0]
    assert [name for name in read if name == "flat" or "cdfs[" in name] == once


TABLES = [
    ([0, 100, 30000, 60000, 65536], 5, 0),
    ([0, 200, 300, 60000, 65536], 5, 0),
    ([0, 200, 40000, 60000, 65536], 5, 0),
    ([0, 200, 40000, 60000, 65536], 5, -1),
    ([0, 200, 40000, 65536, 65536], 4, -1),
    ([0, 9, 40000, 50000, 65536, 1], 5, 0),
] * 2


def test_a_list_that_changed_is_read_again():
    """Its row in place or as another list, its size or its offset; each table serves twice."""
    symbols, indexes = [0, 1, 2, 1, 0, 2], [0] * 6
    fresh, again, decoder = BufferedRansEncoder(), BufferedRansEncoder(), RansDecoder()
    for row, size, offset in TABLES:
        fresh.encode_with_indexes(symbols * 2, indexes * 2, [row], [size], [offset])
    stream = fresh.flush()
    decoder.set_stream(stream)
    cdfs, sizes, offsets = [[]], [0], [0]
    for k, (row, size, offset) in enumerate(TABLES):
        if k % 2:
            cdfs[0] = list(row)
        else:
            cdfs[0][:] = row
        sizes[0], offsets[0] = size, offset
        for _ in range(2):
            again.encode_with_indexes(symbols, indexes, cdfs, sizes, offsets)
            assert decoder.decode_stream(indexes, cdfs, sizes, offsets) == symbols
    assert again.flush() == stream
    cdfs[0][2] = "?"
    for _ in range(2):
        with pytest.raises(TypeError, match=r"cdfs\[0\]"):
            decoder.decode_stream([0], cdfs, sizes, offsets)
    cdfs.clear()
    with pytest.raises(ValueError, match="index 0 at 0"):
        decoder.decode_stream([0], cdfs, sizes, offsets)
