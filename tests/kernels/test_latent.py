"""The loop over a latent: equal to the reference in every order and mode."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import latent_cases as cases
import numpy as np
import pytest
from latent_cases import CAUSAL, CHECKERBOARD, Plain, Replay, context_model, latent, orders, table
from numpy.typing import NDArray

from quadrans import entropy, kernels
from quadrans.entropy import range_coder, rans64
from quadrans.entropy import reference as reference_coder
from quadrans.kernels import _fma, _positions, cpu, reference_latent
from quadrans.kernels.latent import PARTS
from quadrans.kernels.models import position_steps

Model = kernels.ContextModel
IntArray = NDArray[np.int32]
SIZES = [(1, 1), (1, 7), (5, 1), (4, 7), (7, 5)]
ALL_LANES = [1, 2, 4, 8, 16, 32, 64]


def check(
    y: np.ndarray,
    features: np.ndarray,
    model: kernels.ContextModel | kernels.WindowModel | kernels.StepModel,
    order: kernels.Order,
    undecoded: float = np.nan,
    lanes: int = 8,
) -> np.ndarray:
    """Symbols, indexes, bytes and latent are the reference's. Returns y_hat."""
    symbols, indexes, expected = reference_latent.encode(y, features, model, order, undecoded)
    bits = model.quantization.fraction_bits
    encoder, replay = entropy.Encoder(table(bits), lanes, 1), Replay()
    for coder in (encoder, replay):
        np.testing.assert_array_equal(kernels.encode_latent(coder, y, features, model, order), expected)
    np.testing.assert_array_equal(replay.symbols, symbols)
    np.testing.assert_array_equal(replay.indexes, indexes)
    stream = encoder.finish()
    assert stream == reference_coder.encode_lanes(symbols, indexes, table(bits), lanes)
    for wrap in (lambda decoder: decoder, Plain):
        decoder = entropy.Decoder(stream, table(bits))
        y_hat = kernels.decode_latent(wrap(decoder), features, model, order)
        assert y_hat.dtype == np.float32
        np.testing.assert_array_equal(y_hat, expected)
        assert not np.signbit(y_hat[y_hat == 0]).any()
        decoder.close()
    return expected


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_reference(size: tuple[int, int], model: Model, bits: int | None, rng: Any) -> None:
    """Every order; what isn't decoded yet is NaN in the reference, so nothing is read too early."""
    y, features = latent(rng, bits, *size)
    for order in orders(*size):
        y_hat = check(y, features, model, order)
        replay = Replay()
        kernels.encode_latent(replay, y, features, model, order)
        given = iter(zip(replay.indexes.tolist(), replay.symbols.tolist(), strict=True))

        def get(index: int, given: Any = given) -> int:
            expected, symbol = next(given)
            assert index == expected
            return symbol

        again = reference_latent.decode(get, features, model, order, undecoded=np.nan)
        np.testing.assert_array_equal(again, y_hat)


@pytest.mark.parametrize("size", [*SIZES, (11, 13)])
def test_one_pass_equals_steps(size: tuple[int, int], model: Model, bits: int | None, rng: Any) -> None:
    """Parameters of a complete latent are those that the decoder finds step by step."""
    y, features = latent(rng, bits, *size)
    for order in orders(*size):
        replay = Replay()
        y_hat = kernels.encode_latent(replay, y, features, model, order)
        offsets, indexes = kernels.latent_parameters(y_hat, features, model, order)
        symbols, placed = kernels.latent_symbols(y, features, model, order)
        np.testing.assert_array_equal(indexes, placed)
        np.testing.assert_array_equal(symbols.astype(np.float32) + offsets, y_hat)
        for step, (s, i) in zip(order, _by_step(order, replay, 3), strict=True):
            np.testing.assert_array_equal(placed[step.rows, step.cols], i)
            np.testing.assert_array_equal(symbols[step.rows, step.cols], s)


def _by_step(order: kernels.Order, replay: Replay, m: int) -> list[tuple[IntArray, IntArray]]:
    ends = order.flat.starts[1:-1] * m
    parts = [np.split(array, ends) for array in (replay.symbols, replay.indexes)]
    return [(s.reshape(-1, m), i.reshape(-1, m)) for s, i in zip(*parts, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_random_models(seed: int) -> None:
    """Models of all sizes, weights and features of all kinds of numbers, overflow, infinities and NaN inside.

    One-pass parameters, the step-by-step decoder's and a per-step call's are equal for each; every so often
    the reference is asked, too.
    """
    rng = np.random.default_rng(seed)
    odd = np.array([3e38, -3e38, 1e30, -1e19, 1e-40, -1e-45, -0.0, 0.0, 2.0**20, -(2.0**-126)], np.float32)
    extremes = 0
    for number in range(300):
        bits = [4, None, 0, 1][number % 4]
        m, f, d = (int(rng.integers(1, top)) for top in (5, 9, 8))
        if number % 75 == 0:
            m, d = 65 + int(rng.integers(3)), 17
        model = context_model(rng, bits, extreme=rng.choice([0, 0.05, 0.5]), sizes=(m, f, d))
        h, w = rng.integers(1, 6, 2).tolist()
        y, features = latent(rng, bits, h, w, m, f)
        share = rng.choice([0, 0.3])
        features = np.where(rng.random(features.shape) < share, rng.choice(odd, features.shape), features)
        y *= np.float32(rng.choice([1, 1, 2**18]))
        all_orders = orders(h, w)
        order = all_orders[number % len(all_orders)]
        coder = entropy.Encoder(table(bits))
        y_hat = kernels.encode_latent(coder, y, features, model, order)
        stream = coder.finish()
        for wrap in (lambda decoder: decoder, Plain):
            decoder = entropy.Decoder(stream, table(bits))
            np.testing.assert_array_equal(kernels.decode_latent(wrap(decoder), features, model, order), y_hat)
            decoder.close()
        offsets, _ = kernels.latent_parameters(y_hat, features, model, order)
        extremes += int((np.abs(offsets) == 2**20).any())
        if number % 25 == 0 and m < 10:
            check(y, features, model, order)
    assert extremes > 50


def test_any_features_and_weights(assert_same_bits: Any) -> None:
    """All binary32 numbers there are as features: the reference's offsets and indexes, to the bit."""
    rng = np.random.default_rng(5)
    for bits in (4, None):
        model = context_model(rng, bits, extreme=0.02)
        features = rng.integers(0, 2**32, (15, 16, 6), dtype=np.uint32).view(np.float32)
        features = np.where(np.isfinite(features), features, np.float32(-0.0))
        y_hat = rng.integers(-(2**24), 2**24, (15, 16, 3)).astype(np.float32)
        for order in (kernels.parallel(15, 16), kernels.checkerboard(15, 16, CHECKERBOARD)):
            offsets, indexes = kernels.latent_parameters(y_hat, features, model, order)
            for number in range(len(order)):
                for at, (offset, index) in reference_latent.distributions(
                    model, features, y_hat, order, number
                ):
                    assert_same_bits(offsets[at], offset)
                    assert indexes[at] == index
            assert np.abs(offsets).max() == 2**20
            assert indexes.max() == model.quantization.rows - 1 if bits is None else indexes.max() >= 63 * 16


def test_latents_have_no_negative_zero(model: Model, bits: int | None, rng: Any) -> None:
    y, features = latent(rng, bits, 3, 3)
    order = kernels.raster(3, 3, CAUSAL)
    y[:] = -0.0
    _, _, expected = reference_latent.encode(y, features, model, order)
    y_hat = kernels.encode_latent(Replay(), y, features, model, order)
    assert not np.signbit(y_hat[y_hat == 0]).any()
    np.testing.assert_array_equal(y_hat, expected)
    offsets, _ = kernels.latent_parameters(y, features, cases.Copying(3, bits, left=True), order)
    assert not np.signbit(offsets).any()


def test_scales_at_thresholds(bits: int | None) -> None:
    """An index is the number of thresholds that a scale exceeds."""
    scales = np.sort(np.concatenate([cases.THRESHOLDS, np.nextafter(cases.THRESHOLDS, np.float32(np.inf))]))
    scales = np.concatenate([np.float32([-3e38, -0.0, 0, 1e-45]), scales, np.float32([3e38])])
    features = np.stack([scales, np.zeros_like(scales)], axis=1)[None]
    y = np.zeros((1, len(scales), 1), np.float32)
    order = kernels.parallel(1, len(scales))
    _, indexes = kernels.latent_parameters(y, features, cases.Copying(1, bits), order)
    expected = np.concatenate([np.zeros(4, int), np.arange(126) + 1 >> 1, [63]])
    np.testing.assert_array_equal(indexes.reshape(-1), expected if bits is None else expected * 16 + 8)


def test_means_at_ties() -> None:
    """In integer mode means become sixteenths, half to even: ARITHMETIC.md's examples, and the limits."""
    rows = [(0.46875, 1, 0), (0.40625, 0, 14), (-0.5, 0, 0), (-0.53125, 0, 0), (-0.59375, -1, 14)]
    rows += [(2.0**20, 2**20, 8), (3e38, 2**20, 8), (-3e38, -(2**20), 8), (-0.0, 0, 8)]
    means, offsets, fractions = np.array(rows, np.float32).T
    features = np.stack([np.zeros_like(means), means], axis=1)[None]
    order = kernels.parallel(1, len(means))
    y = np.zeros((1, len(means), 1), np.float32)
    found, indexes = kernels.latent_parameters(y, features, cases.Copying(1, 4), order)
    np.testing.assert_array_equal(found.reshape(-1), offsets)
    np.testing.assert_array_equal(indexes.reshape(-1), fractions)


@pytest.mark.parametrize("lanes", ALL_LANES)
@pytest.mark.parametrize("groups", [1, 3])
def test_streams_of_every_layout(lanes: int, groups: int, rng: Any) -> None:
    """Also with passes before and after the latent, cut elsewhere than by the encoder."""
    model = context_model(rng, None)
    y, features = latent(rng, None, 13, 17)
    order = kernels.wavefront(13, 17, CAUSAL)
    others = rng.integers(-3, 4, (2, 333)).astype(np.int32)
    rows = rng.integers(0, 64, (2, 333)).astype(np.int32)
    encoder = entropy.Encoder(table(None), lanes, groups)
    encoder.put(others[0], rows[0])
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    encoder.put(others[1], rows[1])
    stream = encoder.finish()
    for wrap in (lambda decoder: decoder, Plain):
        decoder = entropy.Decoder(stream, table(None))
        np.testing.assert_array_equal(decoder.get(rows[0][:100]), others[0][:100])
        np.testing.assert_array_equal(decoder.get(rows[0][100:]), others[0][100:])
        np.testing.assert_array_equal(kernels.decode_latent(wrap(decoder), features, model, order), y_hat)
        np.testing.assert_array_equal(decoder.get(rows[1]), others[1])
        decoder.close()


def test_several_latents_in_a_stream(model: Model, bits: int | None, rng: Any) -> None:
    jobs = [(latent(rng, bits, 5, 6), order) for order in orders(5, 6)]
    encoder = entropy.Encoder(table(bits))
    coded = [kernels.encode_latent(encoder, *job, model, order) for job, order in jobs]
    decoder = entropy.Decoder(encoder.finish(), table(bits))
    for ((_, features), order), y_hat in zip(jobs, coded, strict=True):
        np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
    decoder.close()


def test_coders_of_the_same_contract(model: Model, bits: int | None, rng: Any) -> None:
    class Own(entropy.Decoder):
        """Its `get` is what counts, not what it inherits."""

        calls = 0

        def get(self, indexes: Any) -> IntArray:
            self.calls += 1
            return super().get(indexes)

    y, features = latent(rng, bits, 6, 9)
    for coder in (entropy, range_coder, rans64):
        precision = 16 if coder is rans64 else 14
        own_table = table(bits)
        if precision != own_table.precision:
            own_table = entropy.gaussian_table(
                entropy.default_scales()[:, None], np.arange(-8, 8) / 16, precision=precision
            )
        for order in orders(6, 9):
            encoder = coder.Encoder(own_table)
            y_hat = kernels.encode_latent(encoder, y, features, model, order)
            stream = encoder.finish()
            decoder = (Own if coder is entropy else coder.Decoder)(stream, own_table)
            np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
            decoder.close()
            if coder is entropy:
                assert decoder.calls == len(order)


def test_serial_equals_wavefront(model: Model, bits: int | None, rng: Any) -> None:
    """Any legal lag gives raster's parameters, and a stream of its own."""
    y, features = latent(rng, bits, 6, 9)
    raster = kernels.raster(6, 9, CAUSAL)
    expected = kernels.latent_symbols(y, features, model, raster)
    streams = set()
    for order in (raster, *(kernels.wavefront(6, 9, CAUSAL, lag) for lag in (None, 4, 5, 6, 7))):
        for a, b in zip(kernels.latent_symbols(y, features, model, order), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        encoder = entropy.Encoder(table(bits))
        kernels.encode_latent(encoder, y, features, model, order)
        streams.add(encoder.finish())
    assert len(streams) == 6


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_matter(threads: int, model: Model, bits: int | None, rng: Any) -> None:
    y, features = latent(rng, bits, 9, 11)
    for order in orders(9, 11):
        one, many = Replay(), entropy.Encoder(table(bits))
        expected = kernels.encode_latent(one, y, features, model, order)
        kernels.encode_latent(many, y, features, model, order, threads=threads)
        stream = many.finish()
        np.testing.assert_array_equal(entropy.decode(stream, one.indexes, table(bits)), one.symbols)
        for wrap in (lambda decoder: decoder, Plain):
            decoder = wrap(entropy.Decoder(stream, table(bits)))
            y_hat = kernels.decode_latent(decoder, features, model, order, threads=threads)
            np.testing.assert_array_equal(y_hat, expected)
        for parameters in (kernels.latent_symbols, kernels.latent_parameters):
            results = [parameters(expected, features, model, order, threads=n) for n in (1, threads)]
            for a, b in zip(*results, strict=True):
                np.testing.assert_array_equal(a, b)


def test_calls_at_once(model: Model, bits: int | None, rng: Any) -> None:
    """Latents of one model, coded in several threads at the same time."""
    jobs = [latent(rng, bits, 7, 8) for _ in range(12)]
    order = kernels.wavefront(7, 8, CAUSAL)
    barrier = threading.Barrier(4)

    def round_trip(job: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        barrier.wait()
        encoder = entropy.Encoder(table(bits))
        y_hat = kernels.encode_latent(encoder, *job, model, order, threads=2)
        decoder = entropy.Decoder(encoder.finish(), table(bits))
        return y_hat, kernels.decode_latent(decoder, job[1], model, order, threads=2)

    with ThreadPoolExecutor(4) as pool:
        for y_hat, decoded in pool.map(round_trip, jobs):
            np.testing.assert_array_equal(decoded, y_hat)


@pytest.mark.parametrize(
    "order",
    [
        kernels.checkerboard(40, 41, CHECKERBOARD),
        kernels.parallel(40, 41),
        kernels.wavefront(3, 2600, CAUSAL, 3),
        kernels.Order("one", 1, 1, kernels.mask_taps(kernels.empty_mask(1)), orders(1, 1)[0].steps),
    ],
    ids=lambda order: order.name,
)
def test_long_steps_are_cut(order: kernels.Order, bits: int | None, rng: Any, monkeypatch: Any) -> None:
    """Steps of more positions than are worked on together, and whole latents in the one-pass encoder."""
    model = context_model(rng, bits, sizes=(2, 3, 4))
    y, features = latent(rng, bits, order.height, order.width, 2, 3)
    lengths = np.diff(order.flat.starts)
    assert order.name == "one" or max(lengths.max(), len(order.runs().rows)) > _positions.CHUNK
    results = []
    for chunk in (_positions.CHUNK, 1 << 20, 7):
        monkeypatch.setattr(_positions, "CHUNK", chunk)
        encoder = entropy.Encoder(table(bits))
        y_hat = kernels.encode_latent(encoder, y, features, model, order)
        stream = encoder.finish()
        decoder = entropy.Decoder(stream, table(bits))
        np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
        decoder.close()
        results.append((stream, y_hat.tobytes()))
    assert results[0] == results[1] == results[2]


def test_cuts_of_steps() -> None:
    steps = kernels.checkerboard(40, 41, CHECKERBOARD).flat
    starts, context = _positions._parts(steps)
    assert starts.tolist() == [0, 768, 820, 820 + 768, 1640]
    assert context.tolist() == [False, False, True, True]


def test_nothing_undecoded_is_read(
    model: Model, bits: int | None, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled loop's memory is full of NaN: where nothing is decoded, and wherever it hasn't written."""
    y, features = latent(rng, bits, 7, 9)
    clean = cpu.new_memory

    def poisoned(size: int) -> np.ndarray:
        memory = clean(size)
        memory[:] = np.nan
        return memory

    for order in orders(7, 9):
        encoder = entropy.Encoder(table(bits))
        y_hat = kernels.encode_latent(encoder, y, features, model, order)
        stream = encoder.finish()
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "new_memory", poisoned)
            assert np.isnan(
                _positions.PositionLatent(model, features, order, position_steps(order)).y_hat
            ).all()
            for wrap in (lambda decoder: decoder, Plain):
                decoder = entropy.Decoder(stream, table(bits))
                decoded = kernels.decode_latent(wrap(decoder), features, model, order, threads=2)
                np.testing.assert_array_equal(decoded, y_hat)
                decoder.close()
            again = entropy.Encoder(table(bits))
            kernels.encode_latent(again, y, features, model, order)
            assert again.finish() == stream


def test_context_matters_only_where_read(model: Model, bits: int | None, rng: Any) -> None:
    y_hat, features = latent(rng, bits, 4, 4)
    for order, same in ((kernels.parallel(4, 4), True), (kernels.raster(4, 4, CAUSAL), False)):
        a, b = (kernels.latent_parameters(y, features, model, order)[0] for y in (y_hat, y_hat + 3))
        assert np.array_equal(a, b) is same


def test_encoder_input(rng: Any) -> None:
    """Integers in any dtype; in residual mode any numbers."""
    order = kernels.wavefront(3, 3, CAUSAL)
    for bits in (4, None):
        model = context_model(rng, bits)
        y, features = latent(rng, 4, 3, 3)
        expected = kernels.latent_symbols(y, features, model, order)
        y[y == 0] = -0.0
        frozen = y.copy()
        frozen.flags.writeable = False
        views = [frozen, np.asfortranarray(y), y[::-1][::-1], y.tolist()]
        for same in (*views, *(y.astype(kind) for kind in (np.int64, np.int8, np.float64, np.float16))):
            for a, b in zip(kernels.latent_symbols(same, features, model, order), expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_residual_mode_near_the_limit(rng: Any) -> None:
    """The largest latents and symbols that there are round-trip; the next are refused, with their place."""
    order = kernels.raster(2, 3, CAUSAL)
    features, limit = np.ones((2, 3, 1), np.float32), 2.0**24
    for mean in (0.0, 0.25, 1e9, -1e9):
        head = kernels.Conv2d(np.zeros((2, 2, 1, 1), np.float32), np.array([5, mean], np.float32))
        quantization = kernels.Quantization(cases.THRESHOLDS, None)
        model = Model(np.zeros((1, 1, 5, 5), np.float32), np.zeros(1, np.float32), head, quantization)
        clamped = np.clip(np.float32(mean), -(2.0**20), 2.0**20)
        lowest, highest = max(-limit, clamped - limit), min(limit, clamped + limit)
        for value in (lowest, highest):
            y = np.zeros((2, 3, 1), np.float32)
            y[1, 1] = value
            check(y, features, model, order)
            y[1, 1] = value + 2 * np.sign(value)
            with pytest.raises(ValueError, match=r"at \(1, 1, 0\): a latent or its symbol .*16777216"):
                kernels.encode_latent(Replay(), y, features, model, order)


def test_ticks(model: Model, bits: int | None, rng: Any) -> None:
    y, features = latent(rng, bits, 6, 7)
    order = kernels.wavefront(6, 7, CAUSAL)
    encoder = entropy.Encoder(table(bits))
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    stream = encoder.finish()
    ticks: dict[str, int] = {}
    for threads in (1, 2):
        before = dict(ticks)
        decoder = entropy.Decoder(stream, table(bits))
        timed = kernels.decode_latent(decoder, features, model, order, threads=threads, ticks=ticks)
        np.testing.assert_array_equal(timed, y_hat)
        assert tuple(ticks) == PARTS
        assert all(ticks[part] > before.get(part, 0) for part in ticks)


GOLDEN = (
    "286b8dc182d9b321e18138d5b9f2f6f9f24409a7fa6823b5590df71c8b359f72",
    "6e065b9cee7a0b092234e5c71b596023143106715d12092bffa50239d4deffaf",
)
CAN_FUSE = _fma.machine_number() != _fma.MACHINES.index("unfused")


def golden_latent() -> tuple[str, str]:
    """Digests of weights from integers: of what is coded, in integer and in residual mode."""

    def weights(*shape: int) -> NDArray[np.float32]:
        n = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
        return ((n * 40503 + 12345) % 65536).astype(np.float32) / np.float32(32768) - np.float32(1)

    m = 5
    h_s = kernels.Sequential(
        [
            kernels.ConvTranspose2d(weights(3, m, 5, 5), weights(m), 2, 2, 1),
            kernels.LeakyReLU(),
            kernels.Conv2d(weights(2 * m, m, 3, 3), weights(2 * m), 1, 1),
        ]
    )
    layers: list[kernels.Layer] = [kernels.Conv2d(weights(70, 4 * m, 1, 1), weights(70)), kernels.LeakyReLU()]
    layers.append(kernels.Conv2d(weights(2 * m, 70, 1, 1), weights(2 * m)))
    head = kernels.Sequential(layers)
    thresholds = np.ldexp(np.float32(1), np.arange(-3, 8))
    features = h_s(weights(3, 4, 3))
    digests = []
    for bits, y in ((4, np.rint(6 * weights(6, 8, m))), (None, 6 * weights(6, 8, m))):
        golden = Model(weights(2 * m, m, 5, 5), weights(2 * m), head, kernels.Quantization(thresholds, bits))
        digest = hashlib.sha256(features.astype("<f4").tobytes())
        for order in orders(6, 8):
            replay = Replay()
            digest.update(kernels.encode_latent(replay, y, features, golden, order).astype("<f4").tobytes())
            digest.update(replay.symbols.astype("<i4").tobytes() + replay.indexes.astype("<i4").tobytes())
        digests.append(digest.hexdigest())
    return digests[0], digests[1]


@pytest.mark.parametrize("machine", _fma.MACHINES)
def test_golden(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic 2 on every machine that this CPU can be: digests that must never change."""
    if _fma.SHAPES[machine].fused and not CAN_FUSE:
        pytest.skip("this CPU has no fused multiply-add")
    monkeypatch.setattr(_fma, "machine_number", lambda: _fma.MACHINES.index(machine))
    assert golden_latent() == GOLDEN
