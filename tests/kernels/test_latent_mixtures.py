"""Latents under mixtures: integers and bytes are the reference's, whatever the order and the threads."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_cases import CAUSAL, THRESHOLDS, Replay, context_model, head, latent, orders
from numpy.typing import NDArray
from random_layers import Grower

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream, mixture, range_coder, rans64, reference_mixture
from quadrans.entropy.mixture import Mixtures
from quadrans.kernels import _positions, reference_mixtures
from quadrans.kernels.builder import Builder
from quadrans.kernels.latent import PARTS
from quadrans.kernels.placement import Value
from quadrans.kernels.reference_functions import exp

FloatArray = NDArray[np.float32]
SIZES = [(1, 1), (1, 7), (5, 1), (4, 7), (7, 5)]
LIMIT = 2**24


def mixture_model(
    rng: np.random.Generator,
    components: int = 3,
    extreme: float = 0,
    sizes: tuple[int, int, int] = (3, 6, 7),
    absolute: bool = True,
) -> kernels.ContextModel:
    """Cheng 2020's head behind a context of sizes (M, F, D)."""
    m, f, d = sizes
    weights = Grower(int(rng.integers(2**31)), extreme)
    layer = head(weights, f + d, 18, 5, 3 * components * m)
    if absolute:
        layer = kernels.Sequential([layer, _absolute_scales(components, m)])
    rule = kernels.MixtureQuantization(components)
    return kernels.ContextModel(weights.weights(d, m, 5, 5), weights.weights(d), layer, rule)


def _absolute_scales(components: int, m: int) -> kernels.Layer:
    parts: list[kernels.Layer] = []
    for first in range(0, 3 * m * components, 3 * m):
        scales = kernels.Sequential([kernels.Slice(first + 2 * m, first + 3 * m), kernels.Abs()])
        parts += [kernels.Slice(first, first + 2 * m), scales]
    return kernels.Concat(parts)


def integers(rng: Any, h: int, w: int, m: int = 3, f: int = 6) -> tuple[FloatArray, FloatArray]:
    """(y, features)."""
    return latent(rng, 0, h, w, m, f)


@dataclass(frozen=True, eq=False)
class Copying(kernels.PositionModel):
    """The features are the mixtures' numbers; with `left` the means are y_hat on the left instead."""

    channels: int
    quantization: kernels.MixtureQuantization
    left: bool = False

    @property
    def features(self) -> int:  # type: ignore[override]
        return self.quantization.parameters_per_channel * self.channels

    def _emit(self, builder: Builder, features: Value, y_hat: Value, taps: kernels.Taps) -> Value:
        here, left = (np.array([[0, 0, dc]], np.int64) for dc in (0, -1))
        out = builder.window(features, here, (1, 1), context=False)
        if not self.left:
            return out
        means, m = builder.window(y_hat, left, (1, 1), context=True), self.channels
        return builder.concatenate([out.part(0, m), means, out.part(2 * m, out.channels)])

    def check_taps(self, taps: kernels.Taps) -> None:
        pass


def flat(mixtures: Mixtures) -> list[list[tuple[int, int, int]]]:
    """As the reference has them."""
    arrays = mixtures.weights, mixtures.means, mixtures.inverse_scales
    each = np.stack([array.reshape(mixtures.components, -1).astype(np.int64) for array in arrays], axis=2)
    return [[tuple(one) for one in many] for many in each.transpose(1, 0, 2).tolist()]


def by_step(placed: Mixtures, order: kernels.Order) -> list[Mixtures]:
    """The mixtures of a latent, of the steps: made anew, so that they are checked."""
    arrays = placed.weights, placed.means, placed.inverse_scales
    return [Mixtures(*(array[:, step.rows, step.cols] for array in arrays)) for step in order]


def same(a: Mixtures, b: Mixtures) -> None:
    assert a.shape == b.shape
    for name in ("weights", "means", "inverse_scales"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype


class Keeping:
    """A decoder that keeps the mixtures that it is asked under."""

    def __init__(self, stream: bytes) -> None:
        self.decoder, self.asked = mixture.Decoder(stream), []

    def get(self, mixtures: Mixtures) -> NDArray[np.int32]:
        self.asked.append(mixtures)
        return self.decoder.get(mixtures)


def check(y: FloatArray, features: FloatArray, model: Any, order: kernels.Order, lanes: int = 8) -> None:
    """Symbols, mixtures, bytes and latent are the reference's, in which all that isn't decoded is NaN."""
    symbols, mixtures = reference_mixtures.encode(y, features, model, order, np.nan)
    stream = reference_mixture.encode(symbols, mixtures, lanes)
    for threads in (1, 2):
        encoder = mixture.Encoder(lanes, 1)
        y_hat = kernels.encode_latent(encoder, y, features, model, order, threads=threads)
        np.testing.assert_array_equal(y_hat, y)
        assert encoder.finish() == stream
        decoder = Keeping(stream)
        decoded = kernels.decode_latent(decoder, features, model, order, threads=threads)
        decoder.decoder.close()
        np.testing.assert_array_equal(decoded, y)
        assert decoded.dtype == np.float32
        assert not np.signbit(decoded[decoded == 0]).any()
        assert [one for asked in decoder.asked for one in flat(asked)] == mixtures
        placed = kernels.latent_mixtures(y, features, model, order, threads=threads)
        assert placed.shape == y.shape
        assert [one for part in by_step(placed, order) for one in flat(part)] == mixtures


@pytest.mark.parametrize("components", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_reference(size: tuple[int, int], components: int, rng: Any) -> None:
    model = mixture_model(rng, components)
    y, features = integers(rng, *size)
    for order in orders(*size):
        check(y, features, model, order)


def test_the_reference_decodes(rng: Any) -> None:
    model = mixture_model(rng)
    y, features = integers(rng, 3, 4)
    for order in orders(3, 4):
        symbols, mixtures = reference_mixtures.encode(y, features, model, order)
        coded = iter(zip(symbols, mixtures, strict=True))

        def get(under: Any, coded: Any = coded) -> int:
            symbol, expected = next(coded)
            assert under == expected
            return symbol

        np.testing.assert_array_equal(reference_mixtures.decode(get, features, model, order, np.nan), y)


def test_windows(rng: Any) -> None:
    """A model that is a network over windows."""
    weights = Grower(3)
    layer = kernels.Conv2d(weights.weights(18, 5, 4, 4), weights.weights(18))
    rule = kernels.MixtureQuantization(3)
    model = kernels.WindowModel(layer, (4, 4), (3, 2), 2, 3, rule)
    y, features = integers(rng, 5, 6, 2, 3)
    check(y, features, model, kernels.wavefront(5, 6, kernels.window_taps()))


@cache
def _models() -> list[tuple[kernels.ContextModel, int, int]]:
    rng = np.random.default_rng(8)
    sizes = [(1, 1, 2), (2, 3, 4), (4, 17, 3)]
    return [(mixture_model(rng, k, sizes=(m, f, 5)), m, f) for k, m, f in sizes]


def test_random_models() -> None:
    """Weights and features of all kinds of numbers: refused by both, or equal to the reference."""
    rng = np.random.default_rng(9)
    odd = np.array([3e38, -3e38, 1e30, -1e19, 1e-40, -1e-45, -0.0, 0.0, 2.0**20], np.float32)
    refused = 0
    for number in range(120):
        k, m, f, d = (int(rng.integers(1, top)) for top in (5, 5, 9, 8))
        model = mixture_model(rng, k, rng.choice([0, 0.02, 0.1]), (m, f, d), absolute=number % 2 == 0)
        h, w = rng.integers(1, 5, 2).tolist()
        y, features = integers(rng, h, w, m, f)
        features = np.where(rng.random(features.shape) < 0.1, rng.choice(odd, features.shape), features)
        order = orders(h, w)[number % 6]
        try:
            kernels.latent_mixtures(y, features, model, order)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match="isn't finite"):
                reference_mixtures.encode(y, features, model, order)
            continue
        check(y, features, model, order)
    assert 10 < refused < 110


@settings(max_examples=60, deadline=None)
@given(
    which=st.integers(0, 2),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    number=st.integers(0, 5),
    spread=st.sampled_from([1, 30, 2**12, 2**23]),
    lanes=st.sampled_from([1, 4, 16]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trips(
    which: int, size: tuple[int, int], number: int, spread: int, lanes: int, threads: int, seed: int
) -> None:
    """What one pass finds is what the steps find; the bytes are those of the placed mixtures in order."""
    rng = np.random.default_rng(seed)
    model, m, f = _models()[which]
    y = rng.integers(-spread, spread + 1, (*size, m)).astype(rng.choice(["i4", "f4", "f8"]))
    features = rng.standard_normal((*size, f)).astype(np.float32)
    order = orders(*size)[number]
    encoder = mixture.Encoder(lanes)
    kernels.encode_latent(encoder, y, features, model, order, threads=threads)
    stream = encoder.finish()
    decoder = mixture.Decoder(stream)
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order, threads=threads), y)
    decoder.close()
    placed = kernels.latent_mixtures(y, features, model, order)
    again = mixture.Encoder(lanes)
    for step, part in zip(order, by_step(placed, order), strict=True):
        again.put(y[step.rows, step.cols].astype(np.int32), part)
    assert again.finish() == stream


EXTREMES = np.array(
    [0, -0.0, 1e-45, -1e-45, 1e-38, 0.1, 0.11, -0.11, 1, -7.25, 88, -104, 1e6, -1e6, 2.0**19, 3e38, -3.4e38],
    np.float32,
)


@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_extremes(components: int, rng: Any) -> None:
    """Numbers of all sizes straight to the integers: logits that underflow, scales below the least, -0."""
    rule = kernels.MixtureQuantization(components)
    model = Copying(3, rule)
    h, w = 5, 67
    features = rng.choice(EXTREMES, (h, w, model.features))
    y = rng.integers(-LIMIT, LIMIT + 1, (h, w, 3)).astype(np.float32)
    order = kernels.wavefront(h, w, CAUSAL)
    mixtures = kernels.latent_mixtures(y, features, model, order)
    found = flat(mixtures)
    numbers = features.reshape(h * w, components, 3, 3).astype(np.float64)
    for n, of_position in enumerate(numbers):
        for c in range(3):
            logits, means, scales = of_position[:, :, c].T
            least = float(np.float32(0.11))
            expected = [
                (mean, scale if scale > least else least) for mean, scale in zip(means, scales, strict=True)
            ]
            one = found[3 * n + c]
            assert sum(weight for weight, _, _ in one) == 2**14
            heaviest = max(range(components), key=lambda k: (one[k][0], -k))
            assert logits[heaviest] >= logits.max() - 1e-3
            for (_, mean, code), (m, s) in zip(one, expected, strict=True):
                assert mean == reference_mixture.quantize_mean(m)
                assert code == reference_mixture.quantize_scale(s)
    encoder = mixture.Encoder()
    kernels.encode_latent(encoder, y, features, model, order)
    decoder = mixture.Decoder(encoder.finish())
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y)
    decoder.close()


@pytest.mark.parametrize(("components", "spread"), [(16, 1), (3, 20), (3, None)])
def test_weights_equal_exp(components: int, spread: int | None, rng: Any) -> None:
    """Weights are those of the reference's exp: so many that one would differ; None: any finite logits."""
    model = Copying(9, kernels.MixtureQuantization(components))
    shape = (63, 65, model.features)
    features = rng.standard_normal(shape).astype(np.float32)
    numbers = features.reshape(63, 65, components, 3, 9)
    logits = numbers[:, :, :, 0]
    if spread is None:
        bits = rng.integers(0, 2**32, logits.shape, dtype=np.uint32).view(np.float32)
        logits[...] = np.where(np.isfinite(bits), bits, np.float32(-0.0))
    else:
        logits *= spread
    mixtures = kernels.latent_mixtures(np.zeros((63, 65, 9)), features, model, kernels.parallel(63, 65))
    with np.errstate(over="ignore"):
        weights = exp(logits - logits.max(2, keepdims=True))
    scales = np.maximum(numbers[:, :, :, 2], np.float32(0.11))
    arrays = [np.moveaxis(array, 2, 0) for array in (weights, numbers[:, :, :, 1], scales)]
    same(mixtures, mixture.parameters(*arrays))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ("1 0.25 0.5 -1 -0.5 0.01 0 3 -2", [(10899, 256, 768), (1475, -512, 905), (4010, 3072, 905)]),
        ("0 1e6 1 -0 0 1 -200 -7.3 3000", [(8192, 2**29, 704), (8192, 0, 704), (0, -7475, 0)]),
    ],
)
def test_worked_values(numbers: str, expected: list[tuple[int, int, int]]) -> None:
    """ARITHMETIC.md's."""
    features = np.array(numbers.split(), np.float32).reshape(1, 1, 9)
    model = Copying(1, kernels.MixtureQuantization(3))
    found = kernels.latent_mixtures(np.zeros((1, 1, 1)), features, model, kernels.parallel(1, 1))
    assert flat(found) == [expected]


def test_least_scale() -> None:
    """scale_min is rounded to binary32 and replaces all that isn't above it."""
    assert kernels.MixtureQuantization(3).scale_min == float(np.float32(0.11))
    for least, code in ((0.0, 1023), (0.5, 768), (1e6, 0)):
        model = Copying(1, kernels.MixtureQuantization(1, least))
        assert reference_mixture.quantize_scale(least) == code
        features = np.array([0, 0, -1, 0, 0, 0], np.float32).reshape(1, 2, 3)
        found = kernels.latent_mixtures(np.zeros((1, 2, 1)), features, model, kernels.parallel(1, 2))
        np.testing.assert_array_equal(found.inverse_scales.reshape(-1), [code, code])


def test_parts_of_steps(rng: Any, monkeypatch: Any) -> None:
    """Steps that are cut into parts give the same; a latent of steps has so many calls of the decoder."""
    model = mixture_model(rng)
    y, features = integers(rng, 9, 11)
    for order in orders(9, 11):
        encoder = mixture.Encoder()
        kernels.encode_latent(encoder, y, features, model, order)
        stream = encoder.finish()
        whole = kernels.latent_mixtures(y, features, model, order)
        with monkeypatch.context() as patch:
            patch.setattr(_positions, "CHUNK", 5)
            encoder = mixture.Encoder()
            kernels.encode_latent(encoder, y, features, model, order)
            assert encoder.finish() == stream
            same(kernels.latent_mixtures(y, features, model, order), whole)
            np.testing.assert_array_equal(
                kernels.decode_latent(mixture.Decoder(stream), features, model, order), y
            )
        keeping = Keeping(stream)
        kernels.decode_latent(keeping, features, model, order)
        assert [asked.shape for asked in keeping.asked] == [(len(step), 3) for step in order]


def test_poisoned_memory(rng: Any, monkeypatch: Any) -> None:
    """Nothing is read that wasn't written: the loops' room holds NaN, the integers' room nonsense."""
    model = mixture_model(rng)
    y, features = integers(rng, 5, 7)
    order = kernels.wavefront(5, 7, CAUSAL)
    expected = kernels.latent_mixtures(y, features, model, order)
    empty = np.empty

    def poisoned(shape: Any, dtype: Any = float, *more: Any, **others: Any) -> Any:
        array = empty(shape, dtype, *more, **others)
        array.fill(np.nan if array.dtype.kind == "f" else 77)
        return array

    monkeypatch.setattr(_positions.np, "empty", poisoned)
    same(kernels.latent_mixtures(y, features, model, order), expected)


def test_negative_zero_is_zero(rng: Any) -> None:
    model = mixture_model(rng)
    _, features = integers(rng, 3, 3)
    for order in orders(3, 3):
        streams = set()
        for zero in (0.0, -0.0):
            encoder = mixture.Encoder()
            y_hat = kernels.encode_latent(encoder, np.full((3, 3, 3), zero), features, model, order)
            assert not np.signbit(y_hat).any()
            streams.add(encoder.finish())
        assert len(streams) == 1


def test_latents_at_the_limit() -> None:
    """+-2^24 is coded, by escapes; what lies beyond is refused by encoder and decoder."""
    model = Copying(1, kernels.MixtureQuantization(1))
    features = np.zeros((1, 3, 3), np.float32)
    order = kernels.raster(1, 3, CAUSAL)
    mixtures = mixture.parameters(None, np.zeros((1, 3)), np.full((1, 3), np.float32(0.11)))
    for value in (LIMIT, -LIMIT):
        y = np.array([0, value, 1]).reshape(1, 3, 1)
        encoder = mixture.Encoder()
        kernels.encode_latent(encoder, y, features, model, order)
        stream = encoder.finish()
        assert stream == mixture.encode(y.reshape(-1), mixtures)
        np.testing.assert_array_equal(
            kernels.decode_latent(mixture.Decoder(stream), features, model, order), y
        )
        beyond = y + np.sign(value) * (y != 1) * (y != 0)
        with pytest.raises(ValueError, match=r"y holds .* at \(0, 1, 0\), no integer within"):
            kernels.encode_latent(mixture.Encoder(), beyond, features, model, order)
        stream = mixture.encode(beyond.reshape(-1), mixtures)
        with pytest.raises(CorruptStream, match="beyond"):
            kernels.decode_latent(mixture.Decoder(stream), features, model, order)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -1e30])
def test_no_integers(value: float, rng: Any) -> None:
    model = mixture_model(rng)
    y, features = integers(rng, 2, 3)
    y[1, 2, 1] = value
    order = kernels.raster(2, 3, CAUSAL)
    encoder = mixture.Encoder()
    with pytest.raises(ValueError, match=r"y holds .* at \(1, 2, 1\), no integer"):
        kernels.encode_latent(encoder, y, features, model, order)
    with pytest.raises(ValueError, match=r"y_hat holds .* at \(1, 2, 1\), no integer"):
        kernels.latent_mixtures(y, features, model, order)
    assert encoder.finish() == mixture.Encoder().finish()


@dataclass(frozen=True, eq=False)
class Scaled(Copying):
    """Copying, of 2^100 times as much: so that finite features can make infinities and NaN."""

    def _emit(self, builder: Builder, features: Value, y_hat: Value, taps: kernels.Taps) -> Value:
        out = super()._emit(builder, features, y_hat, taps)
        factor = builder.constant(np.full((1, 1, out.channels), 2.0**100, np.float32))
        return builder.multiply(out, factor)


@pytest.mark.parametrize(
    ("part", "name"), [(0, "logit"), (1, "mean"), (2, "scale"), (3, "logit"), (5, "scale")]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_infinite_numbers(part: int, name: str, sign: int) -> None:
    """They are the encoder's ValueError, the decoder's CorruptStream; nothing is put, the decoder goes on."""
    model = Scaled(2, kernels.MixtureQuantization(2))
    y = np.zeros((2, 5, 2), np.float32)
    features = np.zeros((2, 5, model.features), np.float32)
    features[1, 3, 2 * part + 1] = sign * 1e30
    order = kernels.raster(2, 5, CAUSAL)
    message = rf"the model gives the {name} {'-' * (sign < 0)}inf for component {part // 3} at \(1, 3, 1\)"
    encoder = mixture.Encoder()
    for call in (
        lambda: kernels.encode_latent(encoder, y, features, model, order),
        lambda: kernels.latent_mixtures(y, features, model, order),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert caught.type is ValueError
    assert encoder.finish() == mixture.Encoder().finish()
    stream = mixture.encode(np.zeros(99, int), mixture.parameters(None, np.zeros((2, 99)), np.ones((2, 99))))
    with pytest.raises(CorruptStream, match=message):
        kernels.decode_latent(mixture.Decoder(stream), features, model, order)


def test_corrupt_streams(rng: Any) -> None:
    """A stream that ends too early, or anything at all: CorruptStream or a latent, and never more symbols."""
    model = mixture_model(rng)
    y, features = integers(rng, 4, 5)
    order = kernels.wavefront(4, 5, CAUSAL)
    encoder = mixture.Encoder()
    kernels.encode_latent(encoder, y, features, model, order)
    stream = encoder.finish()
    outcomes = set()
    for _ in range(100):
        bad = bytearray(stream[: int(rng.integers(2, len(stream)))] if rng.random() < 0.3 else stream)
        bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        try:
            decoder = mixture.Decoder(bytes(bad))
            decoded = kernels.decode_latent(decoder, features, model, order)
            decoder.close()
            assert not np.array_equal(decoded, y)
        except (CorruptStream, entropy.TableMismatch) as error:
            outcomes.add(type(error))
    assert CorruptStream in outcomes


@pytest.mark.parametrize("coder", [entropy, range_coder, rans64])
def test_coders_of_tables_are_refused(coder: Any, rng: Any) -> None:
    model, order = mixture_model(rng), kernels.raster(2, 2, CAUSAL)
    y, features = integers(rng, 2, 2)
    rows = entropy.gaussian_table(entropy.default_scales(), precision=16 if coder is rans64 else 14)
    with pytest.raises(TypeError, match=r"under mixtures, with quadrans\.entropy\.mixture\.Encoder, not"):
        kernels.encode_latent(coder.Encoder(rows), y, features, model, order)
    stream = coder.encode([1, 2], [3, 4], rows)
    with pytest.raises(TypeError, match=r"under mixtures, with quadrans\.entropy\.mixture\.Decoder, not"):
        kernels.decode_latent(coder.Decoder(stream, rows), features, model, order)


def test_coders_of_mixtures_are_refused(rng: Any) -> None:
    y, features = integers(rng, 2, 2)
    order = kernels.raster(2, 2, CAUSAL)
    step = kernels.parallel(2, 2)
    nets = [kernels.Conv2d(np.ones((6, 9, 1, 1), np.float32))]
    rule = kernels.Quantization(THRESHOLDS)
    for model, way in ((context_model(rng, 4), order), (kernels.StepModel(nets, 3, 6, rule), step)):
        with pytest.raises(TypeError, match=r"under a table, as with quadrans\.entropy\.Encoder, not with "):
            kernels.encode_latent(mixture.Encoder(), y, features, model, way)
        decoder = mixture.Decoder(mixture.Encoder().finish())
        with pytest.raises(TypeError, match=r"under a table, as with quadrans\.entropy\.Decoder, not with "):
            kernels.decode_latent(decoder, features, model, way)
        with pytest.raises(TypeError, match="isn't one of mixtures"):
            kernels.latent_mixtures(y, features, model, way)


def test_models_of_mixtures_have_no_rows(rng: Any) -> None:
    model, order = mixture_model(rng), kernels.raster(2, 2, CAUSAL)
    y, features = integers(rng, 2, 2)
    for call in (kernels.latent_symbols, kernels.latent_parameters):
        with pytest.raises(TypeError, match="no table rows"):
            call(y, features, model, order)
    with pytest.raises(TypeError, match="StepModel needs a Quantization"):
        kernels.StepModel([], 3, 6, kernels.MixtureQuantization(3))  # type: ignore[arg-type]


def test_decoders_of_other_shapes_are_refused(rng: Any) -> None:
    class Wrong:
        def get(self, mixtures: Mixtures) -> NDArray[np.int32]:
            return np.zeros(mixtures.shape[0], np.int32)

    _, features = integers(rng, 2, 2)
    with pytest.raises(ValueError, match=r"symbols of shape \(1,\), not \(1, 3\)"):
        kernels.decode_latent(Wrong(), features, mixture_model(rng), kernels.raster(2, 2, CAUSAL))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "a mixture of 0 components"),
        ((3, -0.1), "scale_min"),
        ((3, np.inf), "scale_min"),
        ((3, 1e39), "scale_min"),
        ((3, np.nan), "scale_min"),
    ],
)
def test_rules_that_can_not_be(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.MixtureQuantization(*arguments)


def test_heads_that_do_not_fit() -> None:
    rule, weights = kernels.MixtureQuantization(3), Grower(1)
    weight, bias = weights.weights(7, 3, 5, 5), weights.weights(7)
    with pytest.raises(ValueError, match=r"6 outputs; .* give 9 x 3"):
        kernels.ContextModel(weight, bias, head(weights, 13, 6), rule)
    with pytest.raises(ValueError, match=r"27 outputs; .* give 2 x 3"):
        kernels.ContextModel(weight, bias, head(weights, 13, 27), kernels.Quantization(THRESHOLDS))
    layer = kernels.Conv2d(weights.weights(18, 9, 4, 4))
    with pytest.raises(ValueError, match="must give 9 x 3"):
        kernels.WindowModel(layer, (4, 4), (3, 2), 3, 6, rule)


def test_ticks(rng: Any) -> None:
    model, order = mixture_model(rng), kernels.wavefront(4, 5, CAUSAL)
    y, features = integers(rng, 4, 5)
    encoder, ticks = mixture.Encoder(), {"nets": 1}
    kernels.encode_latent(encoder, y, features, model, order)
    kernels.decode_latent(mixture.Decoder(encoder.finish()), features, model, order, ticks=ticks)
    assert set(ticks) == set(PARTS)
    assert min(ticks.values()) > 0


def test_a_replayed_latent(rng: Any) -> None:
    """Any coder with `put` and `get` will do, and models travel between processes."""

    class Counting(Replay):
        def put(self, symbols: Any, mixtures: Mixtures) -> None:
            super().put(symbols, np.arange(symbols.size, dtype=np.int32))

        def get(self, mixtures: Mixtures) -> Any:
            self.used += np.prod(mixtures.shape)
            return self.symbols[self.used - np.prod(mixtures.shape) : self.used].reshape(mixtures.shape)

    model = pickle.loads(pickle.dumps(mixture_model(rng)))
    y, features = integers(rng, 4, 5)
    order, coder = kernels.wavefront(4, 5, CAUSAL), Counting()
    kernels.encode_latent(coder, y, features, model, order)
    np.testing.assert_array_equal(kernels.decode_latent(coder, features, model, order), y)
