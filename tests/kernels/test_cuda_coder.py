"""The GPU's lanes coder on the emulator: the streams, checks and errors of `quadrans.entropy`."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
import unusual_streams
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrans import entropy
from quadrans.entropy import CdfTable, CorruptStream, reference
from quadrans.kernels import cuda
from quadrans.kernels.cuda import _lanes, _module
from quadrans.kernels.cuda.lookup import decoder_lookup

LANES, GROUPS = [1, 2, 4, 8, 16, 32, 64], [1, 2, 3, 7]


@pytest.fixture(autouse=True)
def cp(monkeypatch):
    """CuPy, on the emulator."""
    fake = fake_cupy.install(monkeypatch)
    caches = _module._module, _lanes._device_table
    for one in caches:
        one.cache_clear()
    yield fake
    for one in caches:
        one.cache_clear()


def job(seed: int, size: int, escapes: bool = True, precision: int | None = None):
    """(table, symbols, indexes) of a table like no other, with escapes in most jobs."""
    rng = random.Random(seed)
    table = unusual_streams.table(rng, precision)
    symbols, indexes = unusual_streams.symbols(rng, table, size)
    if not escapes:
        first = table.offsets[indexes].astype(np.int64)
        symbols = np.clip(symbols, first, first + np.diff(table.row_starts)[indexes] - 2)
    return table, np.array(symbols, np.int32), np.array(indexes, np.int32)


def plain_job(size: int, seed: int = 0):
    """(table, symbols, indexes) at some 2 bits for each symbol, with few escapes."""
    rng = np.random.default_rng(seed)
    table = entropy.gaussian_table([0.3, 1, 5], precision=12)
    indexes = rng.integers(0, 3, size).astype(np.int32)
    symbols = np.rint(rng.normal(size=size) * np.array([0.3, 1, 5])[indexes]).astype(np.int32)
    symbols[rng.random(size) < 0.01] += 100
    return table, symbols, indexes


def outcome(decode, *args):
    """The symbols, or the error's type."""
    try:
        return np.asarray(decode(*args)).tolist()
    except ValueError as error:
        return type(error)


def told_alike(decode, expected_decode) -> str:
    """The message of the CorruptStream that both raise."""
    with pytest.raises(CorruptStream) as expected:
        expected_decode()
    with pytest.raises(CorruptStream) as found:
        decode()
    assert str(found.value) == str(expected.value)
    return str(found.value)


@given(st.integers(0, 1 << 30), st.integers(0, 900), st.sampled_from(LANES), st.sampled_from(GROUPS))
@settings(max_examples=60)
def test_the_same_bytes_and_symbols(seed, size, lanes, groups):
    cp = sys.modules["cupy"]
    table, symbols, indexes = job(seed, size)
    stream = entropy.encode(symbols, indexes, table, lanes, groups)
    assert cuda.encode(cp.asarray(symbols), cp.asarray(indexes), table, lanes, groups) == stream
    np.testing.assert_array_equal(cuda.decode(stream, cp.asarray(indexes), table).get(), symbols)


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 3000, 3001])
def test_long_rounds(cp, lanes, size):
    table, symbols, indexes = plain_job(size)
    for groups in (1, 2):
        stream = entropy.encode(symbols, indexes, table, lanes, groups)
        assert cuda.encode(cp.asarray(symbols), cp.asarray(indexes), table, lanes, groups) == stream
        np.testing.assert_array_equal(cuda.decode(stream, cp.asarray(indexes), table).get(), symbols)


@pytest.mark.parametrize("compact", [False, True])
def test_the_chosen_layout_is_the_cpus(cp, compact):
    table, symbols, indexes = plain_job(20_000)
    stream = cuda.encode(cp.asarray(symbols), cp.asarray(indexes), table, compact=compact)
    assert stream == entropy.encode(symbols, indexes, table, compact=compact)
    assert stream[1] >> 4 >= 2


@given(st.integers(0, 1 << 30), st.sampled_from(LANES), st.sampled_from(GROUPS), st.data())
@settings(max_examples=30)
def test_passes_are_cut_anywhere(seed, lanes, groups, data):
    cp = sys.modules["cupy"]
    table, symbols, indexes = job(seed, 400)
    cuts = st.lists(st.integers(0, 400), max_size=4).map(sorted)
    encoder = cuda.Encoder(table, lanes, groups)
    for a, b in zip(*_bounds(data.draw(cuts)), strict=True):
        part = cp.asarray(symbols[a:b])
        encoder.put(part, cp.asarray(indexes[a:b]))
        part[...] = 7
    stream = encoder.finish()
    assert stream == entropy.encode(symbols, indexes, table, lanes, groups)
    decoder = cuda.Decoder(stream, table)
    parts = [
        decoder.get(cp.asarray(indexes[a:b])).get() for a, b in zip(*_bounds(data.draw(cuts)), strict=True)
    ]
    decoder.close()
    np.testing.assert_array_equal(np.concatenate(parts), symbols)


def _bounds(cuts: list[int]) -> tuple[list[int], list[int]]:
    return [0, *cuts], [*cuts, 400]


@given(st.integers(0, 1 << 30))
@settings(max_examples=120)
def test_corrupt_streams_end_alike(seed):
    cp = sys.modules["cupy"]
    rng = random.Random(seed)
    size = rng.choice([0, 1, 20, 150, 400])
    table, symbols, indexes = job(seed, size, escapes=rng.random() < 0.7)
    stream = unusual_streams.lanes_stream(rng, symbols.tolist(), indexes.tolist(), table)
    for _ in range(3):
        expected = outcome(entropy.decode, stream, indexes, table)
        assert outcome(cuda.decode, stream, cp.asarray(indexes), table) == expected
        stream = unusual_streams.mutated(rng, stream, bytes(rng.randbytes(40)))


@pytest.mark.parametrize("lanes", [1, 16, 64])
@pytest.mark.parametrize("where", ["rounds", "tail"])
@pytest.mark.parametrize("wrong", ["ten nibbles", "zero nibble", "outside int32"])
def test_illegal_escapes_are_told_as_on_the_cpu(cp, lanes, where, wrong):
    table = CdfTable([[4, 8, 3, 1]], [-1], 4)
    payload = {"ten nibbles": [10], "zero nibble": [2, 5, 0], "outside int32": [9, *[15] * 9]}[wrong]
    rows = reference.read_table(table.to_bytes())[1]
    todo = [reference.intervals_of(0, rows[0], 4) for _ in range(1500)]
    place = 5 * lanes + lanes // 2 if where == "rounds" else 1499
    todo[place] = [(15, 1), *((value, 1) for value in payload)]
    stream = reference.write_lanes(todo, 4, lanes)
    indexes = np.zeros(1500, np.int32)
    message = told_alike(
        lambda: cuda.decode(stream, cp.asarray(indexes), table),
        lambda: entropy.decode(stream, indexes, table),
    )
    assert "escape" in message


@pytest.mark.parametrize("lanes", [1, 8, 32, 64])
def test_every_truncation_is_told_as_on_the_cpu(cp, lanes):
    table, symbols, indexes = plain_job(500)
    stream = entropy.encode(symbols, indexes, table, lanes)
    for length in [*range(2, len(stream), 7), len(stream) - 1]:
        cut = stream[:length]
        told_alike(
            lambda cut=cut: cuda.decode(cut, cp.asarray(indexes), table),
            lambda cut=cut: entropy.decode(cut, indexes, table),
        )


@pytest.mark.parametrize("lanes", [2, 8, 32, 64])
@pytest.mark.parametrize("longer", [1, 2])
def test_a_tail_longer_than_the_shortest_is_refused(cp, lanes, longer):
    for seed in range(8):
        table, symbols, indexes = plain_job(600, seed)
        rows = reference.read_table(table.to_bytes())[1]
        todo = [
            reference.intervals_of(symbol, rows[index], 12)
            for symbol, index in zip(symbols.tolist(), indexes.tolist(), strict=True)
        ]
        rounds = reference.write_group(todo, 12, lanes).rounds
        stream = reference.join_groups([unusual_streams.code_group(todo, 12, lanes, rounds - longer)], 12)
        message = told_alike(
            lambda stream=stream, indexes=indexes, table=table: cuda.decode(
                stream, cp.asarray(indexes), table
            ),
            lambda stream=stream, indexes=indexes, table=table: entropy.decode(stream, indexes, table),
        )
        assert "1 of 1 groups" in message


@pytest.mark.parametrize("lane", [1, 31, 32, 63])
def test_a_lane_that_ends_its_rounds_too_high_is_refused(cp, lane):
    table = CdfTable([[4000, 95, 1]], [0], 12)
    todo = [[(0, 4000)]] * (64 * 5 + 1)
    start = [reference.LOW] * 64
    start[lane] = 1 << 17
    stream = reference.join_groups([unusual_streams.code_group(todo, 12, 64, 5, start)], 12)
    indexes = np.zeros(len(todo), np.int32)
    message = told_alike(
        lambda: cuda.decode(stream, cp.asarray(indexes), table),
        lambda: entropy.decode(stream, indexes, table),
    )
    assert "2**17" in message


@pytest.mark.parametrize("lanes", [1, 16, 64])
def test_room_for_escapes_that_cost_most(cp, lanes):
    table = CdfTable([[(1 << 16) - 1, 1]], [0], 16)
    symbols = np.tile(np.array([-(1 << 31), (1 << 31) - 1], np.int32), 150)
    indexes = np.zeros(300, np.int32)
    for groups in (1, 2):
        expected = entropy.encode(symbols, indexes, table, lanes, groups)
        assert cuda.encode(cp.asarray(symbols), cp.asarray(indexes), table, lanes, groups) == expected


def test_a_bad_index_changes_nothing(cp):
    table, symbols, indexes = plain_job(5000)
    stream = entropy.encode(symbols, indexes, table, 32, 3)
    decoder = cuda.Decoder(stream, table)
    np.testing.assert_array_equal(decoder.get(cp.asarray(indexes[:333])).get(), symbols[:333])
    for place, value in ((0, -1), (300, 3), (4666, 1 << 30)):
        wrong = indexes[333:].copy()
        wrong[place] = value
        with pytest.raises(ValueError, match=f"index {value} at {place}, the table has rows 0..2"):
            decoder.get(cp.asarray(wrong))
    np.testing.assert_array_equal(decoder.get(cp.asarray(indexes[333:])).get(), symbols[333:])
    decoder.close()
    wrong = indexes.copy()
    wrong[[17, 650]] = 3, -5
    with pytest.raises(ValueError, match=r"index 3 at 17, the table has rows 0\.\.2"):
        cuda.encode(cp.asarray(symbols), cp.asarray(wrong), table)


def test_lent_decoders_are_not_used(cp):
    table, symbols, indexes = plain_job(300)
    decoder = cuda.Decoder(entropy.encode(symbols, indexes, table, 8, 2), table)
    on_device = cp.asarray(indexes)
    with pytest.raises(ValueError, match="a table of 3 rows, where indexes need 4"):
        decoder.lend(4)
    np.testing.assert_array_equal(decoder.get(on_device[:100]).get(), symbols[:100])
    assert decoder.lend(3).first == 100
    for use in (lambda: decoder.get(on_device), lambda: decoder.lend(1), decoder.close):
        with pytest.raises(ValueError, match="the decoder is lent"):
            use()
    decoder.take_back(0)
    for use in (lambda: decoder.take_back(0), lambda: decoder.refuse("")):
        with pytest.raises(ValueError, match="the decoder is not lent"):
            use()
    np.testing.assert_array_equal(decoder.get(on_device[100:]).get(), symbols[100:])
    decoder.close()
    with pytest.raises(ValueError, match="the decoder is closed"):
        decoder.lend(1)


def test_what_is_left_over_is_told_as_on_the_cpu(cp):
    table, symbols, indexes = plain_job(900)
    for lanes, groups in ((1, 1), (1, 3), (32, 1), (64, 2)):
        stream = entropy.encode(symbols, indexes, table, lanes, groups)
        for size in (0, 10, 500, 899):
            decoder, expected = cuda.Decoder(stream, table), entropy.Decoder(stream, table)
            decoder.get(cp.asarray(indexes[:size]))
            expected.get(indexes[:size])
            told_alike(decoder.close, expected.close)


def test_batches_of_any_layouts(cp):
    rng = random.Random(4)
    table = unusual_streams.table(rng, 11)
    pairs = [unusual_streams.symbols(rng, table, size) for size in (300, 0, 1, 700, 65, 128)]
    arrays = [(np.array(a, np.int32), np.array(b, np.int32)) for a, b in pairs]
    layouts = [(32, 2), (1, 1), (64, 7), (64, 1), (8, 5), (4, 1)]
    streams = [entropy.encode(*pair, table, *layout) for pair, layout in zip(arrays, layouts, strict=True)]
    decoded = cuda.decode_batch(streams, [cp.asarray(b) for _, b in arrays], table)
    for found, (symbols, _) in zip(decoded, arrays, strict=True):
        np.testing.assert_array_equal(found.get(), symbols)
    on_device = [(cp.asarray(a), cp.asarray(b)) for a, b in arrays]
    for lanes, groups in ((16, 3), (None, None)):
        expected = [entropy.encode(*pair, table, lanes, groups) for pair in arrays]
        assert cuda.encode_batch(on_device, table, lanes, groups) == expected
    for wrong in (streams[3][:-2], streams[3] + b"\0\0"):
        together = [*streams[:3], wrong, *streams[4:]]
        told_alike(
            lambda together=together: cuda.decode_batch(together, [b for _, b in on_device], table),
            lambda wrong=wrong: entropy.decode(wrong, arrays[3][1], table),
        )
    assert cuda.encode_batch([], table) == cuda.decode_batch([], [], table) == []
    with pytest.raises(ValueError, match="5 streams and 6"):
        cuda.decode_batch(streams[:5], [b for _, b in on_device], table)


def test_a_table_in_shared_memory(cp, monkeypatch):
    table, symbols, indexes = plain_job(4000)
    stream = entropy.encode(symbols, indexes, table, 32, 4)
    shared = []
    launch = fake_cupy._Kernel.__call__
    monkeypatch.setattr(
        fake_cupy._Kernel,
        "__call__",
        lambda self, *args, shared_mem=0: shared.append(shared_mem) or launch(self, *args, shared_mem),
    )
    np.testing.assert_array_equal(cuda.decode(stream, cp.asarray(indexes), table).get(), symbols)
    assert max(shared) == sum(array.nbytes for array in decoder_lookup(table))
    shared.clear()
    decoder = cuda.Decoder(stream, table)
    decoder.get(cp.asarray(indexes[:20]))
    assert shared == [0]


def test_shapes_and_integers_of_any_kind(cp):
    table, symbols, indexes = plain_job(600)
    stream = entropy.encode(symbols, indexes, table, 8, 2)
    for dtype in (np.int64, np.uint8, np.int16):
        shaped = cp.asarray(indexes.astype(dtype).reshape(20, 1, 30))
        found = cuda.decode(stream, shaped, table)
        assert found.shape == (20, 1, 30)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found.get().reshape(-1), symbols)
        assert cuda.encode(cp.asarray(symbols.reshape(20, 1, 30)), shaped, table, 8, 2) == stream
    by_columns = cp.asarray(np.array(indexes.reshape(20, 30), order="F").T)
    assert cuda.encode(cp.asarray(symbols.reshape(20, 30).T), by_columns, table, 8, 2) == entropy.encode(
        symbols.reshape(20, 30).T, indexes.reshape(20, 30).T, table, 8, 2
    )


class Foreign:
    """Another framework's array on the device."""

    is_cuda = True

    def __init__(self, array):
        self._array = array

    def detach(self):
        return self

    @property
    def __cuda_array_interface__(self):
        return self._array.__cuda_array_interface__


@pytest.mark.parametrize("version", [13, 14])
def test_other_frameworks_arrays_on_torchs_stream(monkeypatch, version):
    cp = fake_cupy.install(monkeypatch, version)
    table, symbols, indexes = plain_job(200)
    stream = entropy.encode(symbols, indexes, table)
    current = SimpleNamespace(cuda_stream=4711)
    own = SimpleNamespace(is_initialized=lambda: True, current_stream=lambda device: current)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=own))
    cp.streams.clear()
    foreign = Foreign(cp.asarray(symbols)), Foreign(cp.asarray(indexes))
    assert cuda.encode(*foreign, table) == stream
    assert cp.streams == [4711] * len(cp.streams) != []
    np.testing.assert_array_equal(cuda.decode(stream, foreign[1], table).get(), symbols)


def test_wrong_arguments(cp):
    table, symbols, indexes = plain_job(10)
    a, b = cp.asarray(symbols), cp.asarray(indexes)
    with pytest.raises(TypeError, match="symbols must be an array on a CUDA device, not ndarray"):
        cuda.encode(symbols, b, table)
    with pytest.raises(TypeError, match="indexes must be integers, not float32"):
        cuda.encode(a, b.astype(np.float32), table)
    with pytest.raises(ValueError, match=r"symbols have shape \(10,\), indexes \(5,\)"):
        cuda.encode(a, b[:5], table)
    with pytest.raises(ValueError, match="symbols holds 2147483648 at 3, outside int32"):
        cuda.encode(cp.asarray(np.array([0, 0, 0, 1 << 31])), b[:4], table)
    with pytest.raises(ValueError, match="lanes 3"):
        cuda.encode(a, b, table, 3)
    encoder = cuda.Encoder(table)
    assert encoder.finish() == entropy.encode([], [], table)
    with pytest.raises(ValueError, match="finished"):
        encoder.put(a, b)
    decoder = cuda.Decoder(entropy.encode([], [], table), table)
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.get(b)
    with pytest.raises(entropy.TableMismatch):
        cuda.Decoder(entropy.encode([], [], table), entropy.gaussian_table())


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"quadrans\[cuda\]"):
        cuda.encode(0, 0, entropy.gaussian_table())


@given(st.integers(0, 1 << 30))
@settings(max_examples=50)
def test_the_lookup_holds_every_slot(seed):
    table = unusual_streams.table(random.Random(seed))
    rows, cells = decoder_lookup(table)
    ends = np.cumsum(table.freqs.astype(np.int64))
    total = 1 << table.precision
    slots = np.arange(total)
    for r in range(table.rows):
        first, buckets, offset, widths = rows[r].tolist()
        regular, shift = widths >> 8, widths & 255
        own = np.searchsorted(ends[table.row_starts[r] : table.row_starts[r + 1]] - r * total, slots, "right")
        assert regular == table.row_starts[r + 1] - table.row_starts[r] - 1
        assert np.uint32(offset).view(np.int32) == table.offsets[r]
        begin = cells.view(np.uint16)[buckets + (slots >> shift)]
        np.testing.assert_array_equal(begin, own[slots >> shift << shift])
        starts = cells[first : first + regular + 1] & 0xFFFF
        np.testing.assert_array_equal(
            cells[first : first + regular + 1] >> 16, table.freqs[table.row_starts[r] :][: regular + 1]
        )
        np.testing.assert_array_equal(starts[own] <= slots, True)
        assert first + regular + 1 < cells.size
