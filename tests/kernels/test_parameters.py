"""The context model and the latent loop: exact, equal in every order, safe against bad streams."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from quadrans import entropy, kernels
from quadrans.entropy.errors import CorruptStream
from quadrans.kernels import reference

Normal = Callable[..., np.ndarray]
Model = kernels.ContextModel
CAUSAL, CHECKERBOARD = kernels.causal_mask(5), kernels.checkerboard_mask(5)
SIZES = [(1, 1), (1, 6), (5, 1), (4, 7)]


def orders(h: int, w: int) -> list[kernels.Order]:
    return [
        kernels.raster(h, w, CAUSAL),
        kernels.wavefront(h, w, CAUSAL),
        kernels.wavefront(h, w, CAUSAL, lag=5),
        kernels.checkerboard(h, w, CHECKERBOARD),
        kernels.checkerboard(h, w, CHECKERBOARD, "odd"),
        kernels.parallel(h, w),
    ]


class Replay:
    """An encoder that keeps what it's given, and the decoder that hands it out again."""

    def put(self, symbols: NDArray[np.int32], indexes: NDArray[np.int32]) -> None:
        self.symbols, self.indexes = symbols.ravel(), indexes.ravel()
        self.used = 0

    def get(self, indexes: NDArray[np.int32]) -> NDArray[np.int32]:
        part = slice(self.used, self.used + indexes.size)
        np.testing.assert_array_equal(indexes.ravel(), self.indexes[part])
        self.used = part.stop
        return self.symbols[part].reshape(indexes.shape)


def expected_parameters(model: Model, features: np.ndarray, y_hat: np.ndarray, step: kernels.Step, taps):  # type: ignore[no-untyped-def]
    """`reference.parameters`, layer by layer for the two slopes of the fixture's head."""
    if step.context:
        x = reference.context_at(y_hat, model.weight, model.bias, taps, step.rows, step.cols)
    else:
        x = np.zeros((len(step), len(model.bias)), np.float32)
    x = np.concatenate([features[step.rows, step.cols], x], axis=1)
    for layer in model.head.layers:
        if isinstance(layer, kernels.Conv2d):
            x = reference.linear(x, layer.weight[:, :, 0, 0], layer.bias)
        else:
            x = reference.leaky_relu(x, layer.slope)  # type: ignore[attr-defined]
    scales, means = np.split(x, 2, axis=1)
    k, f = reference.fixed_point_mean(means)
    return k, reference.scale_index(scales, model.thresholds) * 16 + f + 8


def latent(normal: Normal, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    return np.rint(4 * normal(h, w, 3)), normal(h, w, 6)


@pytest.mark.parametrize("size", SIZES)
def test_step_equals_reference(size: tuple[int, int], model: Model, normal: Normal) -> None:
    """Step by step on a latent whose undecoded positions are NaN: nothing is read too early."""
    y_hat, features = latent(normal, *size)
    for order in orders(*size):
        partial = np.full_like(y_hat, np.nan)
        for step in order:
            at = step.rows, step.cols
            got = model.step(features, partial, *at, order.taps, step.context)
            for a, b in zip(got, expected_parameters(model, features, y_hat, step, order.taps), strict=True):
                np.testing.assert_array_equal(a, b)
            partial[at] = y_hat[at]


def test_reference_parameters(model: Model, normal: Normal) -> None:
    """The reference's own composition, on a head with the default slope."""
    convs = model.head.layers[0::2]
    leaky = kernels.LeakyReLU()
    plain = Model(
        model.weight,
        model.bias,
        kernels.Sequential([convs[0], leaky, convs[1], leaky, convs[2]]),
        model.thresholds,
    )
    y_hat, features = latent(normal, 3, 4)
    rows, cols = np.array([0, 2, 1]), np.array([3, 1, 2])
    pairs = [(conv.weight[:, :, 0, 0], conv.bias) for conv in convs if isinstance(conv, kernels.Conv2d)]
    for read in (False, True):
        expected = reference.parameters(
            features, y_hat, rows, cols, CAUSAL, read, (model.weight, model.bias), pairs, model.thresholds
        )
        got = plain.step(features, y_hat, rows, cols, kernels.mask_taps(CAUSAL), read)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_extreme_features(model: Model, rng: np.random.Generator) -> None:
    """Infinities, NaN, subnormals and overflow end in integers, the reference's."""
    features = rng.integers(0, 2**32, (15, 15, 6), dtype=np.uint32).view(np.float32)
    features[0, :5] = [[np.inf], [-np.inf], [np.nan], [1e7], [-1e-42]]
    y_hat = rng.integers(-(2**24), 2**24, (15, 15, 3)).astype(np.float32)
    order = kernels.parallel(15, 15)
    means, indexes = kernels.latent_parameters(y_hat, features, model, order)
    k, index = expected_parameters(model, features, y_hat, order.steps[0], order.taps)
    np.testing.assert_array_equal(means.reshape(k.shape), k)
    np.testing.assert_array_equal(indexes.reshape(k.shape), index)
    assert np.abs(means).max() == 2**20
    assert indexes.min() >= 0
    assert indexes.max() < 64 * 16


@pytest.mark.parametrize("size", [*SIZES, (16, 17)])
def test_round_trip_in_every_order(size: tuple[int, int], model: Model, normal: Normal) -> None:
    """The one-pass encoder's parameters are the step-by-step decoder's, and the latent comes back."""
    y_hat, features = latent(normal, *size)
    for order in orders(*size):
        coder = Replay()
        kernels.encode_latent(coder, y_hat, features, model, order)
        decoded = kernels.decode_latent(coder, features, model, order)
        assert decoded.dtype == np.float32
        np.testing.assert_array_equal(decoded, y_hat)
        assert coder.used == y_hat.size


def test_through_the_coder(model: Model, normal: Normal) -> None:
    y_hat, features = latent(normal, 6, 9)
    table = entropy.gaussian_table(entropy.default_scales()[:, None], np.arange(-8, 8) / 16)
    for order in orders(6, 9):
        encoder = entropy.Encoder(table)
        kernels.encode_latent(encoder, y_hat, features, model, order)
        decoder = entropy.Decoder(encoder.finish(), table)
        np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
        decoder.close()


def test_serial_equals_wavefront(model: Model, normal: Normal) -> None:
    y_hat, features = latent(normal, 6, 9)
    raster, *others = orders(6, 9)[:3]
    expected = kernels.latent_parameters(y_hat, features, model, raster)
    for order in others:
        for a, b in zip(kernels.latent_parameters(y_hat, features, model, order), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_context_matters_only_where_read(model: Model, normal: Normal) -> None:
    y_hat, features = latent(normal, 4, 4)
    changed = y_hat + 3
    for order, same in ((kernels.parallel(4, 4), True), (kernels.raster(4, 4, CAUSAL), False)):
        a, b = (kernels.latent_parameters(y, features, model, order)[0] for y in (y_hat, changed))
        assert np.array_equal(a, b) is same


def test_threads(model: Model, normal: Normal) -> None:
    jobs = [latent(normal, 7, 8) for _ in range(8)]
    order = kernels.wavefront(7, 8, CAUSAL)

    def round_trip(job: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        coder = Replay()
        kernels.encode_latent(coder, *job, model, order)
        return kernels.decode_latent(coder, job[1], model, order)

    with ThreadPoolExecutor(4) as pool:
        for (y_hat, _), decoded in zip(jobs, pool.map(round_trip, jobs), strict=True):
            np.testing.assert_array_equal(decoded, y_hat)


def test_encoder_input(model: Model, normal: Normal) -> None:
    y_hat, features = latent(normal, 3, 3)
    order = kernels.wavefront(3, 3, CAUSAL)
    expected = kernels.latent_symbols(y_hat, features, model, order)
    y_hat[y_hat == 0] = -0.0
    for same in (y_hat, y_hat.astype(np.int64), y_hat.astype(np.float64)):
        for a, b in zip(kernels.latent_symbols(same, features, model, order), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    for bad in (0.5, np.nan, np.inf, 2.0**24 + 2, -(2.0**24) - 2):
        y_hat[1, 2, 0] = bad
        with pytest.raises(ValueError, match=r"at \(1, 2, 0\)"):
            kernels.encode_latent(Replay(), y_hat, features, model, order)


@pytest.mark.parametrize("symbol", [2**31 - 1, -(2**31), 2**24 + 2**20 + 1])
def test_values_beyond_float32_are_corrupt(symbol: int, model: Model, normal: Normal) -> None:
    class Hostile:
        def get(self, indexes: NDArray[np.int32]) -> NDArray[np.int32]:
            return np.full(indexes.shape, symbol, np.int32)

    with pytest.raises(CorruptStream, match="16777216"):
        kernels.decode_latent(Hostile(), normal(2, 2, 6), model, kernels.raster(2, 2, CAUSAL))


def test_refusals(model: Model, normal: Normal) -> None:
    y_hat, features = latent(normal, 3, 4)
    taps = kernels.mask_taps(CAUSAL)
    zero = np.zeros(1, np.int64)
    for rows, cols in (([3], [0]), ([0], [4]), ([-1], [0]), ([0], [-1])):
        with pytest.raises(ValueError, match=r"outside \(3, 4\)"):
            model.step(features, y_hat, np.array(rows), np.array(cols), taps, True)
    beyond = kernels.Taps(zero + 25, zero, zero - 1, (6, 5))
    with pytest.raises(ValueError, match=r"a \(6, 5\) mask doesn't fit the \(5, 5\) kernel"):
        model.step(features, y_hat, zero, zero, beyond, True)
    with pytest.raises(ValueError, match=r"\(3, 3\) mask doesn't fit"):
        model.step(features, y_hat, zero, zero, kernels.mask_taps(kernels.causal_mask(3)), True)
    with pytest.raises(ValueError, match="one length"):
        model.step(features, y_hat, zero, np.arange(2), taps, True)
    with pytest.raises(ValueError, match="don't fit 6 features"):
        model.step(features[..., :5], y_hat, zero, zero, taps, True)
    with pytest.raises(TypeError, match="float64"):
        model.step(features.astype(np.float64), y_hat, zero, zero, taps, True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be \(4, 4, 6\)"):
        kernels.decode_latent(Replay(), features, model, kernels.parallel(4, 4))


def test_model_refusals(model: Model, normal: Normal) -> None:
    def build(**changes: object) -> None:
        same = {name: getattr(model, name) for name in ("weight", "bias", "head", "thresholds")}
        Model(**{**same, **changes})  # type: ignore[arg-type]

    layers = model.head.layers
    for bad in (layers[:2], (), layers[::2], (kernels.ReLU(),), (*layers[:1], kernels.ReLU(), *layers[2:])):
        with pytest.raises(ValueError, match="1x1 convolutions with LeakyReLUs"):
            build(head=kernels.Sequential(bad))
    with pytest.raises(ValueError, match=r"\[13, 5\] inputs and \[18, 6\] outputs"):
        build(head=kernels.Sequential([layers[0], layers[1], layers[4]]))
    with pytest.raises(ValueError, match="2 x 4"):
        build(weight=normal(7, 4, 5, 5))
    with pytest.raises(ValueError, match="ascending"):
        build(thresholds=model.thresholds[::-1])
    with pytest.raises(ValueError, match="finite"):
        build(thresholds=np.array([1, np.inf], np.float32))
    with pytest.raises(ValueError, match="fraction_bits"):
        build(fraction_bits=9)


def test_golden() -> None:
    """Arithmetic 1 on every machine: weights from integers, a digest that must never change."""

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
    head: list[kernels.Layer] = [kernels.Conv2d(weights(9, 4 * m, 1, 1), weights(9)), kernels.LeakyReLU()]
    head.append(kernels.Conv2d(weights(2 * m, 9, 1, 1), weights(2 * m)))
    thresholds = np.ldexp(np.float32(1), np.arange(-3, 8))
    golden = Model(weights(2 * m, m, 5, 5), weights(2 * m), kernels.Sequential(head), thresholds)
    features = h_s(weights(3, 4, 3))
    y_hat = np.rint(6 * weights(6, 8, m))
    digest = hashlib.sha256(features.astype("<f4").tobytes())
    for order in orders(6, 8):
        for values in kernels.latent_symbols(y_hat, features, golden, order):
            digest.update(values.astype("<i4").tobytes())
    assert digest.hexdigest() == "63272769e25e22ce8cc8242c86bb56d7821970513ace44ce5dddf7956c844f94"


def test_taps_that_could_read_outside_are_refused() -> None:
    one = np.zeros(1, np.int64)
    for index, dr, dc in (
        (np.array([2**58 + 2**30]), one, one),
        (np.array([25]), one, one),
        (one - 1, one, one),
        (np.zeros(3, np.int64), one, one),
        (one, np.array([2**40]), one),
        (one.astype(np.int32), one, one),
    ):
        with pytest.raises(ValueError, match=r"tap|int64"):
            kernels.Taps(index, dr, dc, (5, 5))


def test_positions_must_be_integers(model: Model, normal: Normal) -> None:
    features, y_hat = normal(4, 4, 6), np.zeros((4, 4, 3), np.float32)
    taps = kernels.mask_taps(CAUSAL)
    for rows in (np.array([1.7]), np.array([True]), np.array(["1"])):
        with pytest.raises(TypeError, match="integers"):
            model.step(features, y_hat, rows, np.array([1]), taps, True)


def test_symbols_must_be_int32(model: Model, normal: Normal) -> None:
    class Wide:
        def get(self, indexes: NDArray[np.int32]) -> NDArray[np.int64]:
            return np.full(indexes.shape, 2**40)

    with pytest.raises(ValueError, match="exceed int32"):
        kernels.decode_latent(Wide(), normal(1, 2, 6), model, kernels.parallel(1, 2))  # type: ignore[arg-type]
