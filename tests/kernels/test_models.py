"""The models of distributions, each through the loop against the reference, and what they refuse."""

from __future__ import annotations

import pickle
from typing import Any

import latent_cases as cases
import numpy as np
import pytest
from latent_cases import CAUSAL, CHECKERBOARD, Copying, Plain, Replay, latent, lee_model, step_model, table
from numpy.typing import NDArray

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream
from quadrans.kernels import reference_latent
from quadrans.kernels.builder import Builder
from quadrans.kernels.placement import Value
from quadrans.kernels.program import WeightStore

Model = kernels.ContextModel | kernels.WindowModel | kernels.StepModel
SIZES = [(1, 1), (1, 6), (5, 1), (3, 5), (7, 4)]


def check(y: Any, features: Any, model: Model, order: kernels.Order, undecoded: float) -> tuple[Any, Replay]:
    """Both ways equal the reference. Returns y_hat and what was put."""
    bits = model.quantization.fraction_bits
    symbols, indexes, expected = reference_latent.encode(y, features, model, order, undecoded)
    replay, encoder = Replay(), entropy.Encoder(table(bits))
    for coder in (replay, encoder):
        np.testing.assert_array_equal(kernels.encode_latent(coder, y, features, model, order), expected)
    np.testing.assert_array_equal(replay.symbols, symbols)
    np.testing.assert_array_equal(replay.indexes, indexes)
    stream = encoder.finish()
    for threads, wrap in ((1, Plain), (2, lambda decoder: decoder)):
        decoder = entropy.Decoder(stream, table(bits))
        y_hat = kernels.decode_latent(wrap(decoder), features, model, order, threads=threads)
        np.testing.assert_array_equal(y_hat, expected)
        decoder.close()
    placed = kernels.latent_symbols(y, features, model, order)
    for step in order:
        at, count = step.elements(model.channels), step.elements(model.channels)[2].size
        for array, flat in zip(placed, (symbols, indexes), strict=True):
            np.testing.assert_array_equal(array[at].reshape(-1), flat[:count])
        symbols, indexes = symbols[count:], indexes[count:]
    return expected, replay


@pytest.mark.parametrize("size", SIZES)
def test_lee(size: tuple[int, int], bits: int | None, rng: Any) -> None:
    """Its window in raster scan and in wavefronts of lag 2: one set of parameters."""
    model = lee_model(rng, bits)
    taps = kernels.window_taps()
    assert kernels.wavefront_lag(taps) == 2
    y, features = latent(rng, bits, *size, f=3)
    found = []
    for order in (kernels.raster(*size, taps), kernels.wavefront(*size, taps), kernels.parallel(*size)):
        check(y, features, model, order, np.nan)
        found.append(kernels.latent_symbols(y, features, model, order))
    for a, b in zip(*found[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_lee_sees_its_window(rng: Any) -> None:
    """An estimator that picks one place of the windows: y_hat at the taps, features everywhere, else zero."""
    y, features = latent(rng, 4, 5, 6, m=1, f=1)
    y[y == 0], features[...] = 1, np.arange(1, 31).reshape(5, 6, 1)
    order = kernels.wavefront(5, 6, kernels.window_taps())
    for row in range(4):
        for col in range(4):
            for source in (0, 1):
                weight = np.zeros((2, 2, 4, 4), np.float32)
                weight[1, source, row, col] = 1
                model = kernels.WindowModel(
                    kernels.Conv2d(weight), (4, 4), (3, 2), 1, 1, kernels.Quantization(cases.THRESHOLDS)
                )
                means, _ = kernels.latent_parameters(y, features, model, order)
                padded = np.pad((y, features)[source][..., 0], ((3, 0), (2, 1)))
                expected = padded[row : row + 5, col : col + 6]
                if source == 0 and row == 3 and col >= 2:
                    expected = np.zeros_like(expected)
                np.testing.assert_array_equal(means[..., 0], expected)


def test_windows_of_other_shapes(bits: int | None, rng: Any) -> None:
    """A 5x5 causal mask's window, in an order with anchors that see no context."""
    weights = rng.standard_normal((6, 5, 5, 5)).astype(np.float32) / 3
    quantization = kernels.Quantization(cases.THRESHOLDS, bits)
    model = kernels.WindowModel(kernels.Conv2d(weights), (5, 5), (2, 2), 3, 2, quantization)
    y, features = latent(rng, bits, 4, 5, f=2)
    for order in (kernels.wavefront(4, 5, CAUSAL), kernels.checkerboard(4, 5, CHECKERBOARD)):
        check(y, features, model, order, np.nan)


def step_orders(h: int, w: int) -> list[kernels.Order]:
    """ELIC's, ChARM's, MLIC++'s, DCVC-DC's; also orders of positions, and one whose steps differ in kind."""
    mask = kernels.checkerboard_mask(5)
    rows, cols = (axis.reshape(-1) for axis in np.indices((h, w)))
    half = rows.size // 2
    mixed = [
        kernels.Step(rows[:half], cols[:half], False),
        kernels.Step(rows[half:], cols[half:], False, np.array([3]), 5),
        kernels.Step(rows[half:], cols[half:], True, np.array([0]), 3),
    ]
    no_taps = kernels.mask_taps(kernels.empty_mask(1))
    return [
        kernels.slices_checkerboard(h, w, (1, 1, 2, 4), mask),
        kernels.slices(h, w, kernels.even_slices(8, 4)),
        kernels.slices_checkerboard(h, w, kernels.even_slices(8, 2), mask, "odd"),
        kernels.quadtree(h, w, 8),
        kernels.checkerboard(h, w, mask),
        kernels.parallel(h, w),
        *([kernels.Order("mixed", h, w, no_taps, mixed, 8, partial=True)] if half else []),
    ]


@pytest.mark.parametrize("size", SIZES)
def test_step_models(size: tuple[int, int], bits: int | None, rng: Any) -> None:
    for order in step_orders(*size):
        model = step_model(rng, bits, order, 8)
        check(*latent(rng, bits, *size, m=8, f=4), model, order, 0)


def test_a_single_position_leaves_steps_out(bits: int | None, rng: Any) -> None:
    """Of a checkerboard's two nets for each slice it has the one of the position's parity."""
    whole = {name: kernels.slices_checkerboard(2, 2, (3, 5), CHECKERBOARD, name) for name in ("even", "odd")}
    model = step_model(rng, bits, whole["even"], 8)
    y, features = latent(rng, bits, 1, 1, m=8, f=4)
    nets = []
    for parity, order in whole.items():
        single = kernels.slices_checkerboard(1, 1, (3, 5), CHECKERBOARD, parity)
        assert len(single) == 2
        check(y, features, model, single, 0)
        nets.append([model.nets.index(model.net(single, step)) for step in range(2)])
        assert [model.net(order, step) for step in range(4)] == list(model.nets)
    assert nets == [[0, 2], [1, 3]]


def test_elic() -> None:
    """Five uneven groups of 320 channels, two steps each, at the size of a small image."""
    rng = np.random.default_rng(2)
    sizes = (16, 16, 32, 64, 192)
    order = kernels.slices_checkerboard(5, 7, sizes, CHECKERBOARD, "odd")
    assert len(order) == 10
    nets = []
    for step in order:
        weight = (rng.standard_normal((2 * step.width, 330, 1, 1)) / 20).astype(np.float32)
        nets.append(kernels.Conv2d(weight, np.ones(2 * step.width, np.float32)))
    model = kernels.StepModel(nets, 320, 10, kernels.Quantization(cases.THRESHOLDS, None))
    y, features = latent(rng, None, 5, 7, 320, 10)
    encoder = entropy.Encoder(table(None))
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    decoder = entropy.Decoder(encoder.finish(), table(None))
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order, threads=2), y_hat)
    decoder.close()
    assert np.abs(y_hat - y).max() <= 0.5
    # What a step finds is what the reference finds of the latent as it was by then.
    seen = y_hat.copy()
    for number, step in reversed(list(enumerate(order))):
        seen[step.elements(320)] = 0
        planes = np.concatenate([seen, features], axis=2)
        if number in (0, 3, 9):
            found = model.parameters(planes, order, number)
            expected = reference_latent.step_parameters(model, features, seen, order, number)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("symbol", [2**31 - 1, -(2**31), 2**24 + 2**20 + 1])
def test_step_models_refuse_forged_symbols(symbol: int, bits: int | None, rng: Any) -> None:
    class Forged:
        def get(self, indexes: NDArray[np.int32]) -> NDArray[np.int32]:
            return np.full(indexes.shape, symbol, np.int32)

    order = kernels.quadtree(3, 5, 8)
    model = step_model(rng, bits, order, 8)
    with pytest.raises(CorruptStream, match="16777216"):
        kernels.decode_latent(Forged(), latent(rng, bits, 3, 5, 8, 4)[1], model, order)


def test_step_models_refuse_large_latents(rng: Any) -> None:
    order = kernels.quadtree(3, 5, 8)
    model = step_model(rng, None, order, 8)
    y, features = latent(rng, None, 3, 5, 8, 4)
    for at in ((0, 0, 0), (2, 4, 7), (1, 3, 2)):
        bad = y.copy()
        bad[at] = 2.0**26
        where = r"y is 67108864.0 at \({}, {}, {}\)".format(*at)
        with pytest.raises(ValueError, match=where):
            kernels.encode_latent(Replay(), bad, features, model, order)


def test_step_models_near_the_limit() -> None:
    """A mean far out lets a legal symbol make an illegal latent, and the other way round."""
    order, features = kernels.parallel(1, 2), np.zeros((1, 2, 1), np.float32)
    for mean in (2.0**20, -(2.0**20)):
        net = kernels.Conv2d(np.zeros((2, 2, 1, 1), np.float32), np.array([1, mean], np.float32))
        model = kernels.StepModel([net], 1, 1, kernels.Quantization(cases.THRESHOLDS, None))
        for value, legal in ((2.0**24, mean > 0), (2.0**24 - 2.0**20, True), (2.0**24 + 2, False)):
            y = np.array([[[0], [value]]], np.float32)
            if legal:
                check(y, features, model, order, 0)
            else:
                with pytest.raises(ValueError, match=r"at \(0, 1, 0\)"):
                    kernels.encode_latent(Replay(), y, features, model, order)


def test_step_models_that_do_not_fit(bits: int | None, rng: Any) -> None:
    order = kernels.quadtree(3, 5, 8)
    good = step_model(rng, bits, order, 8)
    y, features = latent(rng, bits, 3, 5, 8, 4)
    weight = rng.standard_normal((16, 12, 3, 3)).astype(np.float32)

    def refused(match: str, nets: Any, order: kernels.Order = order) -> None:
        model = kernels.StepModel(nets, 8, 4, good.quantization)
        with pytest.raises(ValueError, match=match):
            kernels.decode_latent(Replay(), features, model, order)
        with pytest.raises(ValueError, match=match):
            kernels.encode_latent(Replay(), y, features, model, order)

    refused("quadtree has 4 steps, the model 3 nets", good.nets[:3])
    refused("slices has 2 steps, the model 4 nets", good.nets, kernels.slices(3, 5, (4, 4)))
    refused(r"codes 4 channels, the model 8", good.nets, kernels.slices(3, 5, (1, 1, 1, 1)))
    # Another size than the plane's: nothing is read beside it.
    for net in (
        kernels.Conv2d(weight),
        kernels.Conv2d(weight, stride=2, padding=1),
        kernels.Conv2d(weight, padding=2),
    ):
        refused(r"net 0 gives \(\d, \d, 16\) for planes of \(3, 5, 12\)", [net, *good.nets[1:]])
    # Channels of neither the latent nor the step.
    refused(
        "net 0 gives .* 2 x 8 channels of each position, or 2 x 2",
        [kernels.Conv2d(weight[:6], padding=1)] * 4,
    )

    class Odd(kernels.Layer):
        def channels(self, given: int | None) -> None:
            return None

        def emit(self, builder: Builder, x: Value) -> Value:
            return x.part(0, 5)

    refused(r"net 0 gives \(3, 5, 5\)", [Odd()] * 4)
    for given in (7, 18):
        wrong = kernels.Conv2d(np.ones((given, 12, 1, 1), np.float32))
        with pytest.raises(ValueError, match=f"net 1 gives {given} channels for a latent of 8"):
            kernels.StepModel([good.nets[0], wrong], 8, 4, good.quantization)
    with pytest.raises(ValueError, match=r"net 0: .* 12 channels, not 11"):
        kernels.StepModel(good.nets, 8, 3, good.quantization)


def test_quantization_refuses() -> None:
    thresholds = cases.THRESHOLDS
    assert kernels.Quantization(thresholds).rows == 64 * 16
    assert kernels.Quantization(thresholds, None).rows == 64
    assert kernels.Quantization(thresholds[:0], 0).rows == 1
    for bad in (thresholds[::-1], np.array([1, 1], np.float32), np.array([1, np.inf], np.float32)):
        with pytest.raises(ValueError, match="finite and ascending"):
            kernels.Quantization(bad)
    with pytest.raises(ValueError, match="finite"):
        kernels.Quantization(np.array([np.nan], np.float32))
    with pytest.raises(TypeError, match="float64"):
        kernels.Quantization(thresholds.astype(np.float64))
    for bits in (-1, 9):
        with pytest.raises(ValueError, match=r"fraction_bits must be in 0\.\.8"):
            kernels.Quantization(thresholds, bits)
    for odd in (4.0, 2.5):
        with pytest.raises(TypeError, match="integer"):
            kernels.Quantization(thresholds, odd)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="65792 rows of a table, which has at most 65536"):
        kernels.Quantization(np.arange(256, dtype=np.float32), 8)


def test_thresholds_are_copied(bits: int | None) -> None:
    given = cases.THRESHOLDS.copy()
    quantization = kernels.Quantization(given, bits)
    given[:] = 0
    np.testing.assert_array_equal(quantization.thresholds, cases.THRESHOLDS)


def test_context_model_refuses(model: kernels.ContextModel) -> None:
    def build(**changes: Any) -> kernels.ContextModel:
        same = {name: getattr(model, name) for name in ("weight", "bias", "head", "quantization")}
        return kernels.ContextModel(**{**same, **changes})

    first, *others = model.head.layers
    for wrong, outputs in ((others[:2], 5), ((first,), 18)):
        with pytest.raises(
            ValueError, match=f"has 1[38] inputs and {outputs} outputs; .* 7 context .* 2 x 3"
        ):
            build(head=kernels.Sequential(wrong))
    with pytest.raises(ValueError, match="the head has None inputs"):
        build(head=kernels.ReLU())
    with pytest.raises(ValueError, match="the head has 7 inputs"):
        build(head=kernels.Conv2d(np.ones((6, 7, 1, 1), np.float32)))
    with pytest.raises(ValueError, match="2 x 4"):
        build(weight=np.ones((7, 4, 5, 5), np.float32))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="has 1 values that are not finite"):
            build(bias=np.array([bad, *model.bias[1:]], np.float32))
        weight = model.weight.copy()
        weight[1, 2, 3, 4] = bad
        with pytest.raises(
            ValueError, match=r"weight of shape \(7, 3, 5, 5\) has 1 values that are not finite"
        ):
            build(weight=weight)
    with pytest.raises(TypeError, match="float64"):
        build(weight=model.weight.astype(np.float64))


def test_heads_that_do_not_keep_to_the_position(rng: Any) -> None:
    """A head that looks at neighbors or makes several positions of one: found before anything runs."""
    quantization = kernels.Quantization(cases.THRESHOLDS)
    many = kernels.ConvTranspose2d(rng.standard_normal((4, 4, 2, 2)).astype(np.float32), None, 2, 0, 0)
    padded = kernels.Conv2d(rng.standard_normal((4, 4, 3, 3)).astype(np.float32), padding=1)
    context = np.ones((2, 2, 5, 5), np.float32), np.zeros(2, np.float32)
    for head in (many, padded, kernels.Sequential([padded, kernels.GELU()]), kernels.Residual(padded)):
        with pytest.raises(ValueError, match="the head isn't pointwise"):
            kernels.ContextModel(*context, head, quantization)
    features = np.ones((2, 3, 2), np.float32)
    pointwise = kernels.Conv2d(rng.standard_normal((4, 4, 1, 1)).astype(np.float32))
    window = kernels.WindowModel(pointwise, (4, 4), (3, 2), 2, 2, quantization)
    order = kernels.raster(2, 3, kernels.window_taps())
    with pytest.raises(ValueError, match="the model gives 4x4 positions of 4 channels, not one of 2 x 2"):
        kernels.encode_latent(Replay(), np.zeros((2, 3, 2)), features, window, order)


def test_lags_are_integers() -> None:
    with pytest.raises(TypeError, match="integer"):
        kernels.wavefront(2, 3, CAUSAL, lag=3.0)  # type: ignore[arg-type]


def test_window_model_refuses(bits: int | None, rng: Any) -> None:
    model = lee_model(rng, bits)
    y, features = latent(rng, bits, 3, 3, f=3)
    for order in (
        kernels.raster(3, 3, CAUSAL),
        kernels.raster(3, 3, kernels.mask_taps(np.eye(4, dtype=bool)[:, ::-1] & (np.arange(4) < 2), (3, 1))),
    ):
        with pytest.raises(ValueError, match="mask don't fit a"):
            kernels.encode_latent(Replay(), y, features, model, order)
    same = model.estimator, (4, 4), (3, 2), 3, 3, model.quantization
    for number, value, match in (
        (1, (65, 4), "window of"),
        (2, (4, 2), "window of"),
        (2, (3, -1), "window of"),
        (3, 2, "6 channels, not 5|from 5"),
        (4, 0, "estimator|channels"),
    ):
        with pytest.raises(ValueError, match=match):
            kernels.WindowModel(*same[:number], value, *same[number + 1 :])


def test_models_of_ones_own(bits: int | None, rng: Any) -> None:
    """What says how parameters follow from the planes need not be one of ours."""
    y, features = latent(rng, bits, 3, 4, 2, 4)
    order = kernels.checkerboard(3, 4, CHECKERBOARD)
    encoder = entropy.Encoder(table(bits))
    y_hat = kernels.encode_latent(encoder, y, features, Copying(2, bits), order)
    decoder = entropy.Decoder(encoder.finish(), table(bits))
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, Copying(2, bits), order), y_hat)
    decoder.close()
    offsets, _ = kernels.latent_parameters(y_hat, features, Copying(2, bits), order)
    means = features[..., 2:]
    np.testing.assert_array_equal(offsets, means if bits is None else np.floor(means + 8.5 / 16))


def test_stored_weights_are_complete(model: kernels.ContextModel, rng: Any) -> None:
    """Programs of any order find all their weights in the store, so that threads can share it."""
    for one in (model, lee_model(rng, 4)):
        store = one.store
        assert isinstance(store, WeightStore)
        size = len(store.floats)
        taps = kernels.window_taps() if one is not model else CAUSAL
        y, features = latent(rng, 4, 5, 6, 3, one.features)
        for order in (kernels.raster(5, 6, taps), kernels.parallel(5, 6)):
            kernels.encode_latent(Replay(), y, features, one, order)
        assert one.store is store
        assert len(store.floats) == size


def test_pickled_models(model: kernels.ContextModel, bits: int | None, rng: Any) -> None:
    """A model that was used already travels without what is packed for this machine."""
    order = kernels.quadtree(2, 3, 4)
    for one, where in ((model, kernels.raster(2, 3, CAUSAL)), (step_model(rng, bits, order, 4), order)):
        values = latent(rng, bits, 2, 3, one.channels, one.features)
        expected = kernels.latent_symbols(*values, one, where)
        copy = pickle.loads(pickle.dumps(one))
        for a, b in zip(kernels.latent_symbols(*values, copy, where), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        assert "store" not in vars(pickle.loads(pickle.dumps(copy)))
