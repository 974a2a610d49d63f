"""Mixtures: parameters, CDF, streams and losses, held to the plain reference to the bit."""

import hashlib
import json
import math
import pickle
import tracemalloc
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_cases import (
    INT32_MAX,
    INT32_MIN,
    REGIMES,
    component_sets,
    digest,
    from_rows,
    golden_job,
    jobs,
    rows,
    workload,
)

from quadrans.entropy import CorruptStream, TableMismatch, gaussian_table, mixture, rans, reference
from quadrans.entropy import reference_mixture as plain
from quadrans.entropy.mixture import Mixtures, bits, decode, encode, parameters

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mixture.json").read_text())


# Tables


def test_golden():
    assert digest(mixture.phi_table().astype(np.uint32)) == GOLDEN["phi"]
    symbols, *floats = golden_job()
    mixtures = parameters(*floats)
    assert digest(mixtures.weights, mixtures.means, mixtures.inverse_scales) == GOLDEN["parameters"]
    for lanes, groups in ((1, 1), (8, 1), (16, 3)):
        stream = encode(symbols, mixtures, lanes, groups)
        assert hashlib.sha256(stream).hexdigest() == GOLDEN["streams"][f"{lanes}x{groups}"]


def test_worked_example():
    """FORMAT.md, section 9."""
    mixtures = parameters([[0.75] * 3, [0.25] * 3], [[0.25] * 3, [-1.5] * 3], [[0.5] * 3, [1.0] * 3])
    assert rows(mixtures) == [[(12288, 256, 768), (4096, -1536, 704)]] * 3
    assert [plain.cdf(v, rows(mixtures)[0]) for v in (-2, -1, 0, 1)] == [1300, 4101, 8534, 24998]
    assert encode([0, -2, 9], mixtures, 1) == bytes.fromhex("220e 8e12c5d501 0010")


def test_phi_table():
    phi, end = mixture.phi_table(), (1 << 18) - 16
    exact = [0.5 * math.erfc(-(i / 64 - 5) / math.sqrt(2)) * end for i in range(641)]
    assert np.abs(phi - exact).max() < 0.5001
    assert (phi[0], phi[-1], phi[320]) == (0, end, end // 2)
    slopes = np.diff(phi)
    assert slopes.min() >= 0
    assert slopes.max() < 1 << 11
    packed = mixture.packed_phi().astype(np.int64)
    assert (packed >> 11).tolist() == [0] * 320 + phi.tolist() + [end] * 320
    assert (packed & 2047)[:-1].tolist() == np.diff(packed >> 11).tolist()


# Parameters

finite = st.floats(allow_nan=False, allow_infinity=False)
mostly = st.floats(-1000, 1000) | finite


@given(st.lists(st.tuples(st.floats(0, 1) | st.floats(0, 1e300), mostly, mostly), min_size=1, max_size=5))
def test_parameters_equal_reference(components):
    weights, means, scales = (np.array(part)[:, None] for part in zip(*components, strict=True))
    if not weights.sum() > 0:
        weights = weights + 1
    for kind in (np.float64, np.float32):
        with np.errstate(over="ignore"):
            floats = [
                np.clip(part.astype(kind), *limits)
                for part, limits in zip(
                    (weights, means, scales), ((0, 1e37), (-3e38, 3e38), (-3e38, 3e38)), strict=True
                )
            ]
        if not floats[0].sum(dtype=np.float64) > 0:
            continue
        expected = plain.quantize(*(part[:, 0].astype(float).tolist() for part in floats))
        assert rows(parameters(*floats)) == [expected]


def test_parameters_keep_the_shape_and_take_any_layout():
    _, *floats = workload(4 * 5 * 6)
    shaped = [part.reshape(3, 4, 5, 6) for part in floats]
    expected = parameters(*shaped)
    assert (expected.shape, expected.components) == ((4, 5, 6), 3)
    strided = [np.moveaxis(np.ascontiguousarray(np.moveaxis(part, 0, -1)), -1, 0) for part in shaped]
    swapped = [part.astype(">f4") for part in shaped]
    frozen = [part.copy() for part in shaped]
    for part in frozen:
        part.flags.writeable = False
    wide = [part.astype(np.float64) for part in shaped]
    for other in (strided, swapped, frozen, wide, [part.tolist() for part in shaped]):
        assert rows(parameters(*other)) == rows(expected)
    whole = parameters([[1], [3]], [[-2], [7]], [[1], [2]])
    assert whole.as_floats()[0].tolist() == [[0.25], [0.75]]
    assert [part.tolist() for part in whole.as_floats()[1:]] == [[[-2.0], [7.0]], [[1.0], [2.0]]]
    half = [part.astype(np.float16) for part in shaped]
    assert rows(parameters(*half)) == rows(parameters(*(part.astype(np.float64) for part in half)))


def test_parameters_are_clamped():
    means = [-1e300, 1e300, -524288.0, 524288.0, 5e-324]
    mixtures = parameters(None, [means], [[0.0, -3.0, 5e-324, 1e308, 1e6]])
    assert mixtures.weights.tolist() == [[1 << 14] * 5]
    assert mixtures.means.tolist() == [[-(1 << 29), 1 << 29, -(1 << 29), 1 << 29, 0]]
    assert mixtures.inverse_scales.tolist() == [[1023, 1023, 1023, 0, 0]]


def test_as_floats_inverts():
    codes = np.arange(1024)
    mixtures = Mixtures(np.full((1, 1024), 1 << 14), (codes - 512)[None] * 1001, codes[None])
    weights, means, scales = mixtures.as_floats()
    assert rows(parameters(weights, means, scales)) == rows(mixtures)
    assert np.all(np.diff(scales[0]) < 0)


GOOD = np.ones((2, 3, 4))


def spoiled(value, place=(1, 2, 0)):
    array = GOOD.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD, spoiled(math.nan), GOOD), r"means hold nan at \(1, 2, 0\)"),
        ((GOOD, spoiled(-math.inf), GOOD), r"means hold -inf at \(1, 2, 0\)"),
        ((GOOD, GOOD, spoiled(math.nan)), r"scales hold nan at \(1, 2, 0\)"),
        ((GOOD, GOOD, spoiled(math.inf)), r"scales hold inf at \(1, 2, 0\)"),
        ((spoiled(math.nan), GOOD, GOOD), r"weights hold nan at \(1, 2, 0\)"),
        ((spoiled(math.inf), GOOD, GOOD), r"weights hold inf at \(1, 2, 0\)"),
        ((spoiled(-1e-30), GOOD, GOOD), r"weights hold -1e-30 at \(1, 2, 0\)"),
        ((spoiled(0.0, (slice(None), 1, 1)), GOOD, GOOD), "weights have the sum 0.0 at 5 of 12"),
        ((spoiled(1.7e308, (slice(None), 1, 1)), GOOD, GOOD), "weights have the sum inf at 5 of 12"),
        ((GOOD, GOOD[:1], GOOD), "expected one shape"),
        ((GOOD[:0], GOOD[:0], GOOD[:0]), "expected one shape"),
        ((1.0, 1.0, 1.0), "expected one shape"),
    ],
)
def test_parameters_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        parameters(*arguments)


def test_parameters_refuses_types():
    for bad in (GOOD.astype(complex), np.full(GOOD.shape, "1"), np.full(GOOD.shape, None)):
        with pytest.raises(TypeError, match="must be real"):
            parameters(GOOD, bad, GOOD)


@pytest.mark.parametrize(
    ("integers", "message"),
    [
        (([[1 << 14], [1]], [[0], [0]], [[0], [0]]), r"sums of weights hold 16385 at \(0,\)"),
        (([[16385], [-1]], [[0], [0]], [[0], [0]]), r"weights hold 16385 at \(0, 0\)"),
        (([[1 << 14]], [[(1 << 29) + 1]], [[0]]), r"means hold 536870913 at \(0, 0\)"),
        (([[1 << 14]], [[1 << 31]], [[0]]), "means holds 2147483648"),
        (([[1 << 14]], [[0]], [[1024]]), r"inverse_scales hold 1024 at \(0, 0\)"),
        (([[1 << 14]], [[0]], [[-1]]), r"inverse_scales hold -1 at \(0, 0\)"),
        (([1 << 14], [[0]], [[0]]), "expected one shape"),
    ],
)
def test_mixtures_refuses(integers, message):
    with pytest.raises(ValueError, match=message):
        Mixtures(*integers)


def test_mixtures_are_frozen_copies():
    means = np.zeros((1, 2), np.int32)
    mixtures = Mixtures(np.full((1, 2), 1 << 14), means, np.full((1, 2), 512))
    means[:] = 7
    assert mixtures.means.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="read-only"):
        mixtures.means[0, 0] = 1
    with pytest.raises(AttributeError):
        mixtures.means = means
    again = pickle.loads(pickle.dumps(mixtures))
    assert rows(again) == rows(mixtures)
    assert not again.means.flags.writeable


# CDF


@given(component_sets(least_code=0), st.lists(st.integers(INT32_MIN, INT32_MAX - 1), max_size=20))
def test_cdf_of_the_reference(one, symbols):
    """From 0 to the escape's start, never falling, flat where `cells_of` doesn't look."""
    assert plain.cdf(-(1 << 20), one) == 0
    assert plain.cdf(1 << 20, one) == plain.REGULAR
    near = [(mean >> 10) + step for _, mean, _ in one for step in (-1, 0, 1)]
    edges = [plain.cdf(symbol, one) for symbol in sorted(symbols + near)]
    assert edges == sorted(edges)
    heaviest = max(one)
    reach = 5 * 2**17 // plain.inverse_scale(heaviest[2]) + 2
    for far in ((heaviest[1] >> 10) + reach, (heaviest[1] >> 10) - reach):
        assert plain.cdf(far, [(1 << 14, *heaviest[1:])]) in (0, plain.REGULAR)


@given(component_sets(least_code=0), st.lists(st.integers(-300, 300), min_size=1, max_size=20))
def test_codes_equal_reference(one, steps):
    symbols = [(mean >> 10) + step for _, mean, _ in one for step in steps]
    symbols += [INT32_MIN, INT32_MAX, INT32_MIN + 1, INT32_MAX - 1]
    mixtures = from_rows([one] * len(symbols))
    codes = mixture.to_codes(np.array(symbols), mixtures)
    expected = [plain.intervals_of(symbol, one) for symbol in symbols]
    for code, intervals in zip(codes.codes.tolist(), expected, strict=True):
        start, freq = intervals[0]
        assert code == (start | freq << 16 if len(intervals) == 1 else freq)
    assert codes.places.tolist() == [i for i, intervals in enumerate(expected) if len(intervals) > 1]
    ideal = sum(15 - math.log2(freq) for intervals in expected for _, freq in intervals)
    assert bits(np.array(symbols), mixtures) == pytest.approx(ideal)
    assert abs(codes.cost / 1024 - ideal) < 0.012 * len(symbols)


def decoded_slots(one, slots):
    """What a decoder finds for each slot: the first symbol of a stream whose only state ends in it."""
    symbols = []
    for slot in slots:
        group = reference.Group(0, [1 << 16 | slot], [0] * 9)
        stream = reference.join_groups([group], 15, reference.KIND_MIXTURE)
        symbols += mixture.Decoder(stream).get(from_rows([one])).tolist()
    return symbols


@settings(max_examples=30)
@given(component_sets(), st.lists(st.integers(0, plain.REGULAR - 1), min_size=1, max_size=30))
def test_every_slot_is_found(one, slots):
    symbols = decoded_slots(one, slots)
    assert plain.cells_of(one).keys() >= set(symbols)
    for symbol, slot in zip(symbols, slots, strict=True):
        assert plain.cdf(symbol, one) <= slot < plain.cdf(symbol + 1, one)


@pytest.mark.parametrize(
    "one",
    [
        [(1 << 14, 0, 1023)],
        [(1 << 14, -(1 << 29), 0)],
        [(8000, -(1 << 29), 1023), (0, 5, 5), (8384, 1 << 29, 1023)],
        [(1, 0, 1000), (16383, 1 << 20, 300)],
        [(5000, 0, 0), (5000, 1 << 20, 900), (6384, -(1 << 20), 500)],
    ],
)
def test_slots_across_the_range(one):
    slots = [*range(0, plain.REGULAR, 97), 1, plain.REGULAR - 2, plain.REGULAR - 1]
    for symbol, slot in zip(decoded_slots(one, slots), slots, strict=True):
        assert plain.cdf(symbol, one) <= slot < plain.cdf(symbol + 1, one)


# Streams


@settings(max_examples=60)
@given(jobs(), st.sampled_from([1, 2, 8, 16]), st.sampled_from([1, 2, 3]))
def test_streams_equal_reference(job, lanes, groups):
    symbols, mixtures = job
    stream = encode(symbols, mixtures, lanes, groups)
    assert stream == plain.encode(symbols.tolist(), rows(mixtures), lanes, groups)
    assert plain.decode(stream, rows(mixtures)) == symbols.tolist()
    assert decode(stream, mixtures).tolist() == symbols.tolist()


@given(jobs(), st.lists(st.integers(0, 20), max_size=4), st.lists(st.integers(0, 20), max_size=4))
def test_cuts_do_not_matter(job, encoder_cuts, decoder_cuts):
    symbols, mixtures = job
    chosen = rows(mixtures)

    def parts(cuts):
        bounds = [0, *sorted(min(cut, symbols.size) for cut in cuts), symbols.size]
        return list(pairwise(bounds))

    def some(begin, end):
        return from_rows(chosen[begin:end]) if end > begin else parameters(*np.ones((3, 2, 0)))

    encoder = mixture.Encoder()
    for begin, end in parts(encoder_cuts):
        encoder.put(symbols[begin:end], some(begin, end))
    stream = encoder.finish()
    assert stream == encode(symbols, mixtures)
    decoder = mixture.Decoder(stream)
    found = [decoder.get(some(*part)) for part in parts(decoder_cuts)]
    decoder.close()
    assert np.concatenate(found).tolist() == symbols.tolist()


@pytest.mark.parametrize("components", [1, 2, 3, 5])
@pytest.mark.parametrize(("scale", "spread"), REGIMES)
def test_workloads(components, scale, spread):
    symbols, *floats = workload(1500, components, scale, spread)
    mixtures = parameters(*floats)
    stream = encode(symbols, mixtures, 16)
    assert np.array_equal(decode(stream, mixtures), symbols)
    assert 0 <= 8 * len(stream) - bits(symbols, mixtures) < 8 * (20 + 0.01 * len(stream))


def uniform_slots(mixtures, rng):
    """A stream, of 16 lanes, of slots that are uniform, but for escapes."""
    while True:
        states = [1 << 16, *(rng.integers(0, plain.REGULAR, 15) + (1 << 16)).tolist()]
        words = rng.integers(0, 1 << 16, 700).tolist()
        stream = reference.join_groups([reference.Group(40, states, words)], 15, reference.KIND_MIXTURE)
        try:
            mixture.Decoder(stream).get(mixtures)
        except CorruptStream:
            continue
        return stream


@pytest.mark.parametrize("name", ["avx2", "avx512", "avx512vbmi2"])
def test_vectors_equal_scalars(name, monkeypatch):
    """Codes and slots of usual mixtures, of far components, of any: at each level that this CPU has."""
    simd = import_module("quadrans.entropy._simd")
    if name not in simd.levels():
        pytest.skip(f"this CPU has {simd.levels()}")

    def use(level):
        monkeypatch.setattr(mixture, "specialized", lambda lanes: (level, level and lanes))
        monkeypatch.setattr(mixture, "simd_level", lambda: level)

    rng = np.random.default_rng(4)
    jobs = [workload(640, 3, *regime)[1:] for regime in REGIMES]
    anywhere = rng.normal(0, 9e5, (4, 640)), np.exp(rng.normal(0, 9, (4, 640)))
    jobs.append((rng.dirichlet(np.ones(4) / 9, 640).T, *anywhere))
    for floats in jobs:
        mixtures = parameters(*floats)
        use(0)
        stream = uniform_slots(mixtures, rng)
        found = []
        for level in (0, simd.LEVELS.index(name)):
            use(level)
            symbols = mixture.Decoder(stream).get(mixtures)
            strays = symbols + 3 * (np.arange(640) % 97 == 5)
            codes = mixture.to_codes(symbols, mixtures), mixture.to_codes(strays, mixtures)
            found.append((symbols, *codes[0], *codes[1]))
        for scalar, vector in zip(*found, strict=True):
            assert np.array_equal(scalar, vector)


def test_threads_and_layouts():
    symbols, *floats = workload(40_000)
    mixtures = parameters(*floats)
    expected = encode(symbols, mixtures, 16, 5)
    assert encode(symbols, mixtures, 16, 5, threads=3) == expected
    assert np.array_equal(decode(expected, mixtures, threads=3), symbols)
    assert len(encode(symbols, mixtures, compact=True)) <= len(encode(symbols, mixtures)) < len(expected)


def test_shapes_and_strides():
    symbols, *floats = workload(2 * 3 * 4)
    mixtures = parameters(*(part.reshape(3, 2, 3, 4) for part in floats))
    stream = encode(symbols.reshape(2, 3, 4), mixtures)
    assert encode(np.asfortranarray(symbols.reshape(2, 3, 4)).astype(np.int64), mixtures) == stream
    found = decode(stream, mixtures)
    assert (found.shape, found.dtype) == ((2, 3, 4), np.int32)
    assert np.array_equal(found.reshape(-1), symbols)


def test_empty():
    nothing = parameters(*np.ones((3, 2, 0, 5)))
    stream = encode(np.zeros((0, 5), np.int32), nothing)
    assert stream == mixture.Encoder().finish() == plain.encode([], [], 1)
    assert decode(stream, nothing).shape == (0, 5)
    mixture.Decoder(stream).close()


def test_many_escapes():
    mixtures = parameters(*np.ones((3, 1, 4000)))
    symbols = np.resize(np.array([INT32_MIN, INT32_MAX, 100], np.int32), 4000)
    assert np.array_equal(decode(encode(symbols, mixtures, 16), mixtures), symbols)


def test_arguments():
    mixtures = parameters(*np.ones((3, 2, 4)))
    with pytest.raises(ValueError, match=r"symbols have shape \(5,\), mixtures \(4,\)"):
        encode(np.zeros(5, np.int32), mixtures)
    with pytest.raises(TypeError, match="symbols must be integers"):
        encode(np.zeros(4), mixtures)
    with pytest.raises(ValueError, match="outside int32"):
        encode([0, 0, 0, 1 << 31], mixtures)
    with pytest.raises(TypeError, match="must be Mixtures, as of `parameters`, not ndarray"):
        encode(np.zeros(4, np.int32), np.ones((3, 2, 4)))
    with pytest.raises(ValueError, match="lanes 3"):
        mixture.Encoder(3)
    encoder = mixture.Encoder()
    encoder.finish()
    with pytest.raises(ValueError, match="finished"):
        encoder.put([], parameters(*np.ones((3, 2, 0))))


# Corrupt streams


def answers(stream, mixtures):
    """The symbols or the error of the fast decoder, once the reference gave the same."""

    def attempt(run):
        try:
            return run()
        except (CorruptStream, TableMismatch) as error:
            return type(error)

    fast = attempt(lambda: decode(stream, mixtures).tolist())
    assert fast == attempt(lambda: plain.decode(stream, rows(mixtures)))
    return fast


@settings(max_examples=6)
@given(jobs(max_size=4), st.sampled_from([1, 2]))
def test_every_truncation_and_bit_flip(job, lanes):
    symbols, mixtures = job
    stream = encode(symbols, mixtures, lanes)
    for length in range(len(stream)):
        assert answers(stream[:length], mixtures) is CorruptStream
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        answer = answers(bytes(damaged), mixtures)
        if isinstance(answer, list):
            layout = damaged[1] >> 4 & 7
            assert encode(answer, mixtures, 1 << layout) == damaged


@given(jobs(max_size=6), st.binary(max_size=60))
def test_any_bytes(job, body):
    _, mixtures = job
    for head in (b"", b"\x22\x0e", b"\x22\x1e", b"\x22\x4e"):
        answers(head + body, mixtures)


def test_escape_to_a_symbol_that_has_a_cell():
    one = [(1 << 14, 0, 640)]
    payload = [(1 << 11, 1 << 11), (2 << 11, 1 << 11)]
    todo = [[(plain.REGULAR, plain.ESCAPE_FREQ), *payload]]
    stream = reference.write_lanes(todo, 15, 1, kind=reference.KIND_MIXTURE)
    decoder = mixture.Decoder(stream)
    with pytest.raises(CorruptStream, match="escape to 1, which has a cell"):
        decoder.get(from_rows([one]))
    with pytest.raises(ValueError, match="corrupt"):
        decoder.close()


def test_streams_of_other_kinds():
    mixtures = parameters(*np.ones((3, 1, 4)))
    lanes = rans.encode([0] * 4, [20] * 4, gaussian_table())
    with pytest.raises(CorruptStream, match="0x20, not 0x22"):
        decode(lanes, mixtures)
    with pytest.raises(TableMismatch, match="precision 14, mixtures of precision 15"):
        decode(b"\x22" + lanes[1:], mixtures)
    with pytest.raises(CorruptStream, match="after 3 symbols"):
        decode(encode([0] * 4, mixtures), parameters(*np.ones((3, 1, 3))))


# Losses and memory


def masses(symbols, weights, means, scales):
    """The symbols' probabilities by the C library, in floats."""
    erfc = np.vectorize(math.erfc)
    low, high = ((symbols + step - means) / (scales * math.sqrt(2)) for step in (-0.5, 0.5))
    # Tails are subtracted on the side where they are small.
    flip = low + high > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    return (weights * (erfc(-high) - erfc(-low)) / 2).sum(0)


@pytest.mark.parametrize(("scale", "spread"), [(None, 1), (0.11, 1), (1.0, 1), (8.0, 4), (64.0, 1)])
@pytest.mark.parametrize("components", [1, 3])
def test_losses(components, scale, spread):
    """Over the floats' own entropy: by the parameters' quantization, then by the CDF's and the escapes."""
    symbols, weights, means, scales = workload(6000, components, scale, spread)
    weights = weights / weights.sum(0, dtype=np.float64)
    ideal = -np.log2(masses(symbols, weights, means, scales)).sum()
    mixtures = parameters(weights, means, scales)
    quantized = -np.log2(masses(symbols, *mixtures.as_floats())).sum()
    assert abs(quantized / ideal - 1) < 0.001
    assert bits(symbols, mixtures) / quantized < (1.003 if scale == 64 else 1.001)


def test_memory():
    """Beyond the caller's arrays: at most ten times the symbols' bytes, with K = 3."""
    symbols, *floats = workload(50_000)
    strided = [np.ascontiguousarray(part.T).T for part in floats]
    decode(encode(symbols, parameters(*strided)), parameters(*strided))
    tracemalloc.start()
    stream = encode(symbols, parameters(*strided))
    _, encoding = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    decode(stream, parameters(*strided))
    _, decoding = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(encoding, decoding) < 10 * symbols.nbytes
