"""Steps that remember, refine and read other inputs, on the emulated GPU: the CPU's latents and streams."""

from __future__ import annotations

from itertools import pairwise

import fake_cupy
import latent_cases as cases
import numpy as np
import pytest
from cuda_latents import check, decoded, emulated, on_cpu
from latent_cases import CAUSAL, latent, table
from random_layers import Grower
from step_cases import MASK, attending_model, inputs, remembering_model

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream
from quadrans.kernels import cuda
from quadrans.kernels.cuda import network, plan, serial


@pytest.fixture(autouse=True)
def cp(monkeypatch):
    yield from emulated(monkeypatch)


ORDERS = [
    kernels.quadtree(3, 4, 8),
    kernels.slices(4, 3, (5, 1, 2)),
    kernels.slices_checkerboard(3, 5, (1, 4, 3), MASK),
]


@pytest.mark.parametrize("names", [(), ("keys",), ("tokens", "keys")], ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
def test_memory_and_refinements(cp, order, names, bits, rng, assert_same_bits):
    model = remembering_model(rng, bits, order, 8, names=names)
    args = *latent(rng, bits, order.height, order.width, 8, 4), model, order
    check(cp, assert_same_bits, *args, inputs=inputs(rng, *names))


def test_a_single_position(cp, bits, rng, assert_same_bits):
    """Its order has half the steps, those of the checkerboard's non-anchors or anchors alone."""
    slices = (1, 4, 3)
    model = remembering_model(rng, bits, kernels.slices_checkerboard(2, 2, slices, MASK), 8)
    order = kernels.slices_checkerboard(1, 1, slices, MASK)
    check(cp, assert_same_bits, *latent(rng, bits, 1, 1, 8, 4), model, order)


@pytest.mark.parametrize("order", cases.orders(4, 5), ids=lambda order: order.name)
def test_inputs_of_positions(cp, order, bits, rng, assert_same_bits):
    model, given = attending_model(rng, bits), inputs(rng, "keys")
    y, features = latent(rng, bits, 4, 5)
    check(cp, assert_same_bits, y, features, model, order, inputs=given)
    expected = kernels.latent_parameters(y, features, model, order, inputs=given)
    device = {name: cp.asarray(array) for name, array in given.items()}
    found = serial.latent_parameters(cp.asarray(y), cp.asarray(features), model, order, inputs=device)
    assert_same_bits(found[0].get(), expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_inputs_of_other_shapes(cp, rng, assert_same_bits):
    """Each shape has a plan of its own."""
    model, order = attending_model(rng, 4), kernels.wavefront(3, 4, CAUSAL)
    for shape in ((1, 1), (2, 3), (1, 3), (3, 2)):
        given = {"keys": rng.standard_normal((*shape, 12)).astype(np.float32)}
        check(cp, assert_same_bits, *latent(rng, 4, 3, 4), model, order, inputs=given)


def test_values_that_lie_elsewhere_in_each_program(cp, rng, assert_same_bits):
    """Where steps' programs don't have planes and inputs at the same places, they are carried there."""
    weights, order = Grower(1), kernels.slices(3, 4, (2, 1, 2))
    tokens = kernels.CrossAttention(
        kernels.Constant(weights.weights(3, 4, 6)),
        kernels.Input("keys"),
        kernels.Linear(weights.weights(10, 6)),
        2,
    )
    attended = kernels.Sequential([tokens, kernels.Slice(2, 7)])
    plain = kernels.Conv2d(weights.weights(10, 7, 1, 1))
    model = kernels.StepModel(
        [plain, kernels.Residual(tokens, plain), plain],
        5,
        2,
        kernels.Quantization(cases.THRESHOLDS, None),
        inputs={"keys": 12},
        after=[None, None, kernels.Residual(kernels.Slice(0, 5), attended)],
    )
    given = inputs(rng, "keys")
    y, features = latent(rng, None, 3, 4, 5, 2)
    check(cp, assert_same_bits, y, features, model, order, inputs=given)
    own = plan.plan(model, order, {"keys": given["keys"].shape}, False)
    for name in ("planes", "keys"):
        assert any(a.program.places[name] != b.program.places[name] for a, b in pairwise(own.parts))


def test_parts_of_the_planes_themselves(cp, monkeypatch, rng, assert_same_bits):
    """What is remembered, added or read as parameters lies in the planes that are written to."""
    monkeypatch.setattr(serial, "PIECE", 4)
    order, memory = kernels.slices(5, 7, (3, 3)), 40
    planes = 6 + 6 + memory
    model = kernels.StepModel(
        [kernels.Slice(0, 12), kernels.Slice(2, 14)],
        6,
        6,
        kernels.Quantization(cases.THRESHOLDS, None),
        memory=memory,
        before=[kernels.Slice(1, 41), kernels.Slice(planes - memory - 1, planes - 1)],
        after=[kernels.Slice(1, 7), kernels.Slice(2, 8)],
    )
    check(cp, assert_same_bits, *latent(rng, None, 5, 7, 6, 6), model, order, (4, 3))


def test_memory_is_zero_at_first(cp, assert_same_bits):
    """And so is still what the first step didn't replace: parameters and refinements are the memory."""
    order, features = kernels.slices(2, 3, (1, 1)), np.zeros((2, 3, 1), np.float32)
    model = kernels.StepModel(
        [kernels.Slice(3, 7), kernels.Slice(3, 7)],
        2,
        1,
        kernels.Quantization(cases.THRESHOLDS, None),
        memory=4,
        before=[None, kernels.Slice(0, 3)],
        after=[kernels.Slice(3, 5), kernels.Slice(6, 7)],
    )
    y = np.zeros((2, 3, 2), np.float32)
    y[0, 1] = 3, -5
    check(cp, assert_same_bits, y, features, model, order)


@pytest.mark.parametrize(("processors", "layout"), [(2, (8, 1)), (7, (4, 7)), (12, (64, 3))], ids=str)
def test_blocks_and_layouts(cp, processors, layout, monkeypatch, rng, assert_same_bits):
    """Refinements are divided among all blocks, those that code as well."""
    monkeypatch.setattr(fake_cupy, "PROCESSORS", processors)
    monkeypatch.setattr(serial, "PROGRAM_SHARE", 1)
    network._shape.cache_clear()
    order = kernels.slices_checkerboard(6, 9, (3, 5), MASK)
    model = remembering_model(rng, None, order, 8)
    check(cp, assert_same_bits, *latent(rng, None, 6, 9, 8, 4), model, order, layout)


SLICES = 1, 2, 1


def refined(number, value, scale=1.0):
    """A model of SLICES: a step's last channel is refined by feature * value * scale."""
    width = SLICES[number]
    weight = np.zeros((width, 5, 1, 1), np.float32)
    weight[-1, 4] = value
    scaled = kernels.DepthwiseConv2d(np.full((width, 1, 1, 1), scale, np.float32))
    after = kernels.Sequential([kernels.Conv2d(weight), scaled])
    nets = [kernels.Conv2d(np.full((2 * count, 5, 1, 1), 0.1, np.float32)) for count in SLICES]
    afters = [after if at == number else None for at in range(3)]
    return kernels.StepModel(nets, 4, 1, kernels.Quantization(cases.THRESHOLDS, None), after=afters)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize(
    ("feature", "value", "scale"),
    [(1, 2.0**25, 1), (1, -3e38, 1), (3, -3e38, 1), (3, 3e38, 0)],
    ids=["beyond", "far beyond", "infinity", "nan"],
)
def test_refinements_that_are_no_latents(cp, number, feature, value, scale, rng):
    """Refused on either side of both, wherever they come; the decoder is ended."""
    order = kernels.slices(2, 3, SLICES)
    features = np.zeros((2, 3, 1), np.float32)
    y = rng.standard_normal((2, 3, 4)).astype(np.float32)
    stream, _ = on_cpu(y, features, refined(number, value, scale), order)
    features[1, 1] = feature
    model = refined(number, value, scale)
    place = rf"\(1, 1, {sum(SLICES[: number + 1]) - 1}\)"
    with pytest.raises(ValueError, match="16777216"):
        on_cpu(y, features, model, order)
    encoder = cuda.Encoder(table(None))
    with pytest.raises(ValueError, match=rf"at {place}: a latent or its symbol would lie beyond"):
        serial.encode_latent(encoder, cp.asarray(y), cp.asarray(features), model, order)
    with pytest.raises(CorruptStream):
        kernels.decode_latent(entropy.Decoder(stream, table(None)), features, model, order)
    decoder = cuda.Decoder(stream, table(None))
    with pytest.raises(CorruptStream, match=rf"the latent at {place} lies beyond \+-16777216"):
        serial.decode_latent(decoder, cp.asarray(features), model, order)
    with pytest.raises(ValueError, match="the decoder is at the end of a corrupt stream"):
        decoder.close()


def test_refinements_up_to_the_limit(cp, rng, assert_same_bits):
    """+-2^24 are latents."""
    order, model = kernels.slices(1, 2, SLICES), refined(1, 2.0**24)
    y = rng.standard_normal((1, 2, 4)).astype(np.float32)
    features = np.array([[[1], [-1]]], np.float32)
    # Their means are 0.1 and -0.1, which leaves no trace in the sum.
    y[0, :, 2] = 0
    assert list(on_cpu(y, features, model, order)[1][0, :, 2]) == [2**24, -(2**24)]
    check(cp, assert_same_bits, y, features, model, order)


def test_a_failure_ends_the_launches_behind_it(cp, rng):
    order = kernels.slices(4, 5, (2, 3, 3))
    model = remembering_model(rng, None, order, 8)
    y, features = latent(rng, None, 4, 5, 8, 4)
    stream, _ = on_cpu(y, features, model, order, (4, 1))
    times = []
    for cut in (False, True):
        ticks: dict[str, int] = {}
        decoder = cuda.Decoder(stream, table(None))
        if cut:
            decoder._streams.progress[:, 1] = decoder._streams.progress[:, 0]
            with pytest.raises(CorruptStream):
                serial.decode_latent(decoder, cp.asarray(features), model, order, ticks=ticks)
        else:
            serial.decode_latent(decoder, cp.asarray(features), model, order, ticks=ticks)
        times.append(ticks["nets"])
    assert times[1] < times[0] * 0.6


def test_corrupt_streams(cp, rng):
    """What the CPU refuses is refused, and what it doesn't gives its latent."""
    order = kernels.slices(2, 5, (2, 3, 3))
    model = remembering_model(rng, None, order, 8)
    y, features = latent(rng, None, 2, 5, 8, 4)
    stream = on_cpu(y, features, model, order, (4, 2))[0]

    def outcome(decode):
        try:
            return decode().tobytes()
        except CorruptStream:
            return None

    def by_cpu(changed):
        decoder = entropy.Decoder(changed, table(None))
        y_hat = kernels.decode_latent(decoder, features, model, order)
        decoder.close()
        return y_hat

    for number in range(12):
        changed = bytearray(stream)
        if number % 4 == 0:
            del changed[int(rng.integers(2, len(changed))) :]
        else:
            changed[int(rng.integers(2, len(changed)))] ^= 1 << int(rng.integers(8))
        given = bytes(changed)
        expected = outcome(lambda given=given: by_cpu(given))
        assert outcome(lambda given=given: decoded(cp, given, features, model, order)) == expected


def test_refused(cp, rng):
    model, order, given = attending_model(rng, 4), kernels.wavefront(3, 4, CAUSAL), inputs(rng, "keys")
    y, features = latent(rng, 4, 3, 4)
    stream, expected = on_cpu(y, features, model, order, inputs=given)
    decoder = cuda.Decoder(stream, table(4))
    nan = given["keys"].copy()
    nan[0, 1, 3] = np.inf
    keys, wide = cp.asarray(given["keys"]), cp.asarray(given["keys"].astype(np.float64))
    for error, message, wrong in (
        (ValueError, r"keys", None),
        (ValueError, r"keys.*other|other.*keys", {"keys": keys, "other": keys}),
        (ValueError, r"\(1, 3, 11\).*12", {"keys": cp.asarray(given["keys"][:, :, :11])}),
        (ValueError, r"\(1, 12\).*12", {"keys": keys[:, 0]}),
        (ValueError, r"\(1, 0, 12\)", {"keys": keys[:, :0]}),
        (ValueError, r"\(1, 3, 12\).* 1 values", {"keys": cp.asarray(nan)}),
        (TypeError, r"'keys' must be float32, not float64", {"keys": wide}),
        (TypeError, r"'keys' must be an array on a CUDA device", given),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            serial.decode_latent(decoder, cp.asarray(features), model, order, inputs=wrong)
    y_hat = serial.decode_latent(decoder, cp.asarray(features), model, order, inputs={"keys": keys})
    np.testing.assert_array_equal(y_hat.get(), expected)
    decoder.close()


def test_layers_of_other_sizes_are_refused(cp, rng):
    """What a layer gives for planes of this size is known only now."""
    order, weights = kernels.slices(4, 6, (2, 1)), Grower(1)
    features = cp.asarray(rng.standard_normal((4, 6, 2)).astype(np.float32))
    net = kernels.Conv2d(weights.weights(6, 7, 1, 1))
    down = kernels.Conv2d(weights.weights(2, 7, 2, 2), stride=2)
    for name in ("before", "after"):
        model = kernels.StepModel(
            [net, net],
            3,
            2,
            kernels.Quantization(cases.THRESHOLDS, None),
            memory=2,
            **{name: [None, down]},
        )
        decoder = cuda.Decoder(entropy.encode([0], [0], table(None)), table(None))
        with pytest.raises(ValueError, match=f"{name} 1 gives 2x3 positions of 2 channels"):
            serial.decode_latent(decoder, features, model, order)


def test_mixtures_are_refused(cp, rng):
    weights = Grower(1)
    model = kernels.ContextModel(
        weights.weights(4, 3, 5, 5),
        weights.weights(4),
        conv_head(weights),
        kernels.MixtureQuantization(2),
    )
    order = kernels.raster(2, 3, CAUSAL)
    y, features = latent(rng, 4, 2, 3)
    arrays = cp.asarray(y), cp.asarray(features)
    decoder = cuda.Decoder(entropy.encode([0], [0], table(4)), table(4))
    for use in (
        lambda: serial.decode_latent(decoder, arrays[1], model, order),
        lambda: serial.encode_latent(cuda.Encoder(table(4)), *arrays, model, order),
        lambda: serial.latent_parameters(*arrays, model, order),
    ):
        with pytest.raises(TypeError, match="mixtures are coded on the CPU"):
            use()
    np.testing.assert_array_equal(decoder.get(cp.zeros(1, np.int32)), [0])


def conv_head(weights):
    """From six features and four context channels to mixtures of two components for three channels."""
    return kernels.Conv2d(weights.weights(18, 10, 1, 1), weights.weights(18))
