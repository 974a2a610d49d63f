"""The lanes coder at every SIMD level: equal to the reference, in every layout, whatever memory held."""

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from entropy_cases import (
    GROUPS,
    INT32_MAX,
    INT32_MIN,
    LANES,
    drawn,
    gaussian_workload,
    layout_of,
    long_jobs,
    ragged_table,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrans import entropy
from quadrans.entropy import (
    CdfTable,
    CorruptStream,
    TableMismatch,
    _lanes,
    _passes,
    gaussian_table,
    rans,
    reference,
)
from quadrans.entropy import _simd as simd
from quadrans.entropy._compiled import simd_level

# Levels differ where there are blocks of vectors; each choice of lanes is compiled at each level.
VECTOR_LANES = [8, 16, 64]


def check(table, symbols, indexes, lanes, groups, threads=1):
    """Fast coder and reference write the same bytes and read each other's. Returns the stream."""
    stream = rans.encode(symbols, indexes, table, lanes, groups, threads=threads)
    assert stream == reference.encode_lanes(symbols.tolist(), indexes.tolist(), table, lanes, groups)
    assert np.array_equal(rans.decode(stream, indexes, table, threads=threads), symbols)
    return stream


def cut(array, places):
    return np.split(array, sorted(p % (array.size + 1) for p in places))


@settings(max_examples=60)
@given(long_jobs(), st.sampled_from(LANES), st.sampled_from(GROUPS), st.integers(1, 3))
def test_every_level_equals_the_reference(level, poisoned, job, lanes, groups, threads):
    table, symbols, indexes = job
    stream = check(table, symbols, indexes, lanes, groups, threads)
    assert layout_of(stream) == (lanes, groups)
    assert reference.decode_lanes(stream, indexes.tolist(), table) == symbols.tolist()


@pytest.mark.parametrize("precision", range(4, 17))
def test_every_precision(level, poisoned, precision):
    """Cells of frequency 1 and states near 2^32 are where a quotient of floats could go wrong."""
    rng = np.random.default_rng(precision)
    total = 1 << precision
    table = CdfTable([[1, total - 2, 1], [total - 1, 1], [1] * 8 + [total - 8]], [0, 0, 0], precision)
    indexes = rng.integers(0, 3, 2500).astype(np.int32)
    symbols = rng.integers(0, [2, 1, 8], (2500, 3))[np.arange(2500), indexes].astype(np.int32)
    for groups in (1, 2):
        check(table, symbols, indexes, 16, groups)


@pytest.mark.parametrize("groups", [1, 2])
def test_an_escape_at_every_position(level, groups):
    rng = np.random.default_rng(1)
    table = ragged_table(rng, 12, [300, 40])
    symbols, indexes = drawn(rng, table, 150, 0)
    for place in range(symbols.size):
        escaping = symbols.copy()
        escaping[place] = rng.choice([INT32_MIN, INT32_MAX, 12345])
        check(table, escaping, indexes, 16, groups)


def test_one_row_and_as_many_as_there_may_be(level):
    rng = np.random.default_rng(2)
    many = CdfTable.from_flat([9, 7] * 65536, np.arange(0, 131073, 2), np.arange(65536) - 30000, 4)
    for table in (ragged_table(rng, 14, [400]), many):
        check(table, *drawn(rng, table, 1200, 0.01), 16, 2)


def test_rows_of_very_different_length(level):
    """A cell far behind its bucket's first is found however long the search is."""
    rng = np.random.default_rng(3)
    table = CdfTable(
        [[1] * 65000 + [536], [65535, 1], [1] * 9 + [65526, 1]], [INT32_MIN, 0, INT32_MAX - 9], 16
    )
    check(table, *drawn(rng, table, 300, 0.01), 16, 1)
    # All but one of the first bucket's cells have the least frequency: the longest search there is.
    steep = CdfTable([[16384, *[1] * 2000, 47152]], [0], 16)
    symbols = np.concatenate([np.arange(2000), np.zeros(200)]).astype(np.int32)
    check(steep, symbols, np.zeros_like(symbols), 16, 1)


def test_odd_sizes(level, poisoned):
    """Around whole blocks, tails and groups; the last group may have no symbols at all."""
    rng = np.random.default_rng(4)
    table = ragged_table(rng, 15, [2000])
    for lanes in VECTOR_LANES:
        for groups in (1, 3):
            for blocks in (0, 1, 2, 7, 12):
                for odd in (-1, 0, 1, lanes // 2 + 1):
                    check(table, *drawn(rng, table, max(blocks * lanes + odd, 0), 0), lanes, groups)


@pytest.mark.parametrize("groups", [1, 3])
def test_decoder_cut_at_every_position(level, poisoned, groups):
    """Inside blocks, at the tail's start, inside the tail."""
    rng = np.random.default_rng(5)
    table = ragged_table(rng, 13, [900, 100])
    symbols, indexes = drawn(rng, table, 300, 0.01)
    stream = check(table, symbols, indexes, 16, groups)
    for place in range(symbols.size + 1):
        decoder = rans.Decoder(stream, table, threads=2)
        parts = [decoder.get(part) for part in cut(indexes, [place, place, place + 37])]
        decoder.close()
        assert np.array_equal(np.concatenate(parts), symbols)


def test_large_stream_in_groups_and_threads(level):
    """More symbols than groups take turns on, several words to each block, cut where it hurts."""
    table, symbols, indexes, _ = gaussian_workload(200_001)
    symbols[::977] += 1000
    for groups in (1, 2, 5):
        stream = rans.encode(symbols, indexes, table, 64, groups, threads=3)
        assert stream == rans.encode(symbols, indexes, table, 64, groups)
        decoder = rans.Decoder(stream, table, threads=3)
        parts = [decoder.get(part) for part in cut(indexes, [40, 33_000, 65_537, 150_001])]
        decoder.close()
        assert np.array_equal(np.concatenate(parts), symbols)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
def test_a_forked_child_has_threads_of_its_own():
    code = """
import os
from quadrans.entropy import decode, encode, gaussian_table

def work():
    stream = encode([5] * 99, [20] * 99, gaussian_table(), 1, 9, threads=3)
    return decode(stream, [20] * 99, gaussian_table(), threads=3).tolist() == [5] * 99

assert work()
child = os.fork()
if child == 0:
    os._exit(0 if work() else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_levels_write_the_same_bytes(monkeypatch):
    table, symbols, indexes, _ = gaussian_workload(100_000, seed=6)
    streams = set()
    for name in simd.levels():
        monkeypatch.setenv("QUADRANS_SIMD", name)
        simd_level.cache_clear()
        streams.add(rans.encode(symbols, indexes, table, 64, 2))
    simd_level.cache_clear()
    assert len(streams) == 1


@pytest.mark.parametrize("blocks", [0, 4])
def test_bad_index_at_every_position_leaves_the_decoder_as_it_was(level, blocks):
    rng = np.random.default_rng(7)
    table = ragged_table(rng, 14, [1500])
    symbols, indexes = drawn(rng, table, 16 * 12 + 5, 0)
    first, rest = indexes[: 16 * blocks], indexes[16 * blocks :]
    decoder = rans.Decoder(rans.encode(symbols, indexes, table, 16, 2), table, threads=2)
    decoded = decoder.get(first)
    for place in range(rest.size):
        for bad in (1, -1, INT32_MIN, INT32_MAX, 1 << 30):
            wrong = rest.copy()
            wrong[place] = bad
            with pytest.raises(ValueError, match=rf"index {bad} at {place}, the table has rows 0\.\.0"):
                decoder.get(wrong)
    assert np.array_equal(np.concatenate([decoded, decoder.get(rest)]), symbols)
    decoder.close()


def test_bad_index_at_every_position_stops_the_encoder(level):
    table, symbols, indexes, _ = gaussian_workload(200)
    for place in range(200):
        wrong = indexes.copy()
        wrong[place] = 64 if place % 2 else -1
        with pytest.raises(ValueError, match=f"index {wrong[place]} at {place}"):
            rans.encode(symbols, wrong, table)


def test_arrays_that_change_meanwhile_crash_nothing(level):
    """Each index is checked where it is used, so another thread can't slip in one that isn't a row."""
    table, symbols, indexes, _ = gaussian_workload(40_000)
    symbols, indexes = symbols.clip(-3, 3), indexes.clip(5, 60)
    stream = rans.encode(symbols, indexes, table, 64, 1)
    kept, stop = indexes.copy(), threading.Event()

    def disturb():
        rng = np.random.default_rng(8)
        while not stop.is_set():
            indexes[rng.integers(0, indexes.size, 50)] = rng.integers(INT32_MIN, INT32_MAX, 50)
            symbols[rng.integers(0, symbols.size, 50)] = rng.integers(INT32_MIN, INT32_MAX, 50)
            indexes[:] = kept

    thread = threading.Thread(target=disturb)
    thread.start()
    for _ in range(60):
        for use in (
            lambda: rans.decode(stream, indexes, table),
            lambda: rans.encode(symbols, indexes, table),
        ):
            try:
                use()
            except ValueError as error:
                blame = "" if isinstance(error, CorruptStream) else str(error)
                if blame and not re.search("table has rows|changed while", blame):
                    raise
    stop.set()
    thread.join()


@pytest.mark.parametrize("scale", [0.3, 0.6, 5.0])
@pytest.mark.parametrize("compact", [False, True])
def test_overhead_of_the_default_layouts(scale, compact):
    """Over the ideal: 0.2 % at 36 kB, 0.4 % at 10 kB, 24 bytes at 200 bytes; compact 0.1 and 0.2 %."""
    table = gaussian_table()
    index = int(np.searchsorted(entropy.scale_thresholds(), np.float32(scale)))
    rng = np.random.default_rng(9)
    symbols = np.rint(rng.normal(size=800_000) * scale).astype(np.int32)
    indexes = np.full(symbols.size, index, np.int32)
    costs = np.cumsum(table.symbol_bits(symbols, indexes)) / 8
    shares = {36_000: 0.001, 10_000: 0.002} if compact else {36_000: 0.002, 10_000: 0.004}
    for size, most in {**{size: share * size for size, share in shares.items()}, 200: 24}.items():
        count = int(np.searchsorted(costs, size))
        stream = rans.encode(symbols[:count], indexes[:count], table, compact=compact)
        assert 0 <= len(stream) - costs[count - 1] <= most


@pytest.mark.parametrize(("compact", "factor"), [(False, 1), (True, 4)])
def test_default_layout_is_that_of_the_page(compact, factor):
    """300 bytes of payload or more for a lane, 38,400 for a group of 64 lanes; compact four times as much."""

    def layout(payload):
        return free.choose(factor * payload << 13)

    free = _lanes.Layout(None, None, compact, 1)
    assert [layout(300 * lanes)[0] for lanes in LANES] == LANES
    assert free.choose((factor * 600 << 13) - 1) == (1, 1)
    assert [layout(19_200 * n) for n in (1, 2, 4, 6, 9000)] == [(64, n) for n in (1, 1, 2, 3, 4096)]


def test_what_is_not_asked_for_follows_from_what_is():
    """More groups leave less payload to each, and so fewer lanes."""
    cost = 93_000 << 13
    assert _lanes.Layout(None, 16, False, 1).choose(cost) == (16, 16)
    assert _lanes.Layout(None, 4096, False, 1).choose(cost) == (1, 4096)
    assert _lanes.Layout(8, None, False, 1).choose(cost) == (8, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lanes": 64.0}, TypeError, "float"),
        ({"groups": 2.5}, TypeError, "float"),
        ({"threads": "4"}, TypeError, "str"),
        ({"threads": 0}, ValueError, "threads 0"),
        ({"threads": -3}, ValueError, "threads -3"),
    ],
)
def test_illegal_layouts_are_refused_before_anything_is_put(arguments, error, message):
    table = gaussian_table()
    with pytest.raises(error, match=message):
        rans.Encoder(table, **arguments)
    if "threads" in arguments:
        with pytest.raises(error, match=message):
            rans.Decoder(rans.encode([], [], table), table, **arguments)


def test_numpy_integers_are_integers():
    table, symbols, indexes, _ = gaussian_workload(100)
    stream = rans.encode(symbols, indexes, table, np.int64(16), np.uint8(2), threads=np.int32(2))
    assert stream == rans.encode(symbols, indexes, table, 16, 2)


def test_threads_do_not_pile_up():
    """However many groups streams have, no more threads than cores stay behind."""
    table, symbols, indexes, _ = gaussian_workload(2000)
    before = threading.active_count()
    for groups in range(2, 40):
        stream = rans.encode(symbols, indexes, table, 1, groups, threads=64)
        assert np.array_equal(rans.decode(stream, indexes, table, threads=64), symbols)
    assert threading.active_count() - before <= os.cpu_count()


def test_estimated_cost_is_near_the_ideal(level):
    """The layout follows from an estimate in integers, the same at every level."""
    table, symbols, indexes, _ = gaussian_workload(10_007)
    symbols[[5, 6000]] = 100_000
    cost = _passes.to_codes(table, symbols, indexes).cost
    assert cost / 1024 == pytest.approx(table.bits(symbols, indexes), rel=1e-3)
    assert rans.encode(symbols, indexes, table) == rans.encode(
        symbols, indexes, table, *_lanes.Layout(None, None, False, 1).choose(cost)
    )


def test_default_choice_can_be_overridden_in_part():
    table, symbols, indexes, _ = gaussian_workload(20_000)
    assert layout_of(rans.encode(symbols, indexes, table)) == (4, 1)
    assert layout_of(rans.encode(symbols, indexes, table, compact=True)) == (1, 1)
    assert layout_of(rans.encode(symbols, indexes, table, groups=5)) == (1, 5)
    assert layout_of(rans.encode(symbols, indexes, table, lanes=32)) == (32, 1)


@pytest.mark.parametrize("lanes", [0, 3, 128, -1])
def test_bad_lanes(lanes):
    with pytest.raises(ValueError, match=f"lanes {lanes}"):
        entropy.Encoder(gaussian_table(), lanes)


@pytest.mark.parametrize("groups", [0, 4097, -1])
def test_bad_groups(groups):
    with pytest.raises(ValueError, match=f"groups {groups}"):
        entropy.Encoder(gaussian_table(), 1, groups)


def test_layout_is_any_integer_and_nothing_else():
    table, symbols, indexes, _ = gaussian_workload(200)
    stream = rans.encode(symbols, indexes, table, 16, 3)
    for kind in (np.int8, np.uint64):
        assert rans.encode(symbols, indexes, table, kind(16), kind(3)) == stream
    for bad in (2.0, "2"):
        with pytest.raises(TypeError):
            rans.Encoder(table, bad)
        with pytest.raises(TypeError):
            rans.Encoder(table, 2, bad)


def test_most_groups():
    table, symbols, indexes, _ = gaussian_workload(30)
    stream = check(table, symbols, indexes, 64, 4096, threads=3)
    assert layout_of(stream) == (64, 4096)


def test_simd_level_of_the_environment(monkeypatch):
    """The highest that the CPU has, unless QUADRANS_SIMD names a lower one."""
    table = gaussian_table()
    stream = rans.encode([1, 2], [9, 9], table)
    monkeypatch.delenv("QUADRANS_SIMD", raising=False)
    simd_level.cache_clear()
    assert simd.LEVELS[simd_level()] == simd.levels()[-1]
    monkeypatch.setattr(simd, "levels", lambda: ["scalar", "avx2"])
    for name in ("avx512", "neon", "Scalar"):
        monkeypatch.setenv("QUADRANS_SIMD", name)
        simd_level.cache_clear()
        message = f"QUADRANS_SIMD is '{name}', this CPU has scalar, avx2"
        with pytest.raises(ValueError, match=message):
            rans.encode([1, 2], [9, 9], table)
        with pytest.raises(ValueError, match=message):
            rans.decode(stream, [9, 9], table)
    monkeypatch.setenv("QUADRANS_SIMD", "")
    simd_level.cache_clear()
    assert simd.LEVELS[simd_level()] == "avx2"
    simd_level.cache_clear()


def test_scalar_is_there_whatever_the_cpu(monkeypatch):
    for features in ("", "+neon", "+sse4.2,+avx"):
        codegen = type("Codegen", (), {"magic_tuple": lambda self, features=features: ("", "", features)})
        monkeypatch.setattr(simd.cpu_target.target_context, "codegen", codegen)
        assert simd.levels() == ["scalar"]


def test_wrong_precision_is_a_table_mismatch():
    stream = rans.encode([0], [0], gaussian_table())
    with pytest.raises(TableMismatch, match="stream of precision 14, table of precision 15"):
        rans.Decoder(stream, gaussian_table(precision=15))
