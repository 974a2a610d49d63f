"""Models with further inputs, and steps that remember and refine: equal to the reference, both ways."""

from __future__ import annotations

import pickle
from typing import Any

import latent_cases as cases
import numpy as np
import pytest
from latent_cases import CAUSAL, CHECKERBOARD, Plain, Replay, latent, table
from random_layers import Grower

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream
from quadrans.entropy import reference as reference_coder
from quadrans.kernels import Layer, cpu, reference_latent
from quadrans.kernels.models import Inputs

SIZES = [(1, 1), (1, 6), (5, 1), (3, 5), (7, 4)]
M, F, S = 8, 4, 3
TOKENS, SIDE = 5, 2
LIMIT = 2.0**24
TANH = kernels.Tanh()

FloatArray = cases.FloatArray


def steps(h: int, w: int) -> list[kernels.Order]:
    return [
        kernels.quadtree(h, w, M),
        kernels.slices(h, w, (1, 5, 2)),
        kernels.slices_checkerboard(h, w, (3, 5), CHECKERBOARD, "even"),
        kernels.slices_checkerboard(h, w, (3, 5), CHECKERBOARD, "odd"),
    ]


def others(rng: Any, h: int, w: int) -> dict[str, FloatArray]:
    """A few tokens, and a plane."""
    shapes = {"tokens": (1, 3, TOKENS), "side": (h, w, SIDE)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def net(weights: Grower, given: int, outputs: int, reads: int) -> Layer:
    """A 3x3 convolution and a 1x1; reads: bit 0, attention to the tokens between; bit 1, the plane, too."""
    side = SIDE if reads & 2 else 0
    layers: list[Layer] = [kernels.Concat([kernels.Sequential(), kernels.Input("side")])] if side else []
    layers.append(kernels.Conv2d(weights.weights(6, given + side, 3, 3), weights.weights(6), padding=1))
    if reads & 1:
        keys = kernels.Sequential([kernels.Input("tokens"), kernels.Linear(weights.weights(12, TOKENS))])
        query, proj = (kernels.Linear(weights.weights(6, 6)) for _ in range(2))
        layers.append(kernels.Residual(kernels.CrossAttention(query, keys, proj, 2)))
    layers += [kernels.LeakyReLU(), kernels.Linear(weights.weights(outputs, 6), weights.weights(outputs))]
    return kernels.Sequential(layers)


def model_of(
    rng: Any,
    bits: int | None,
    order: kernels.Order,
    extreme: float = 0,
    last: Layer = TANH,
) -> kernels.StepModel:
    """Some steps remember 1 .. S channels; most refine, by all channels or their own, `last` at the end."""
    weights = Grower(int(rng.integers(2**31)), extreme)
    given = M + F + S
    widths = [step.width or M for step in order]
    nets = [net(weights, given, 2 * (width if i % 2 else M), i % 4) for i, width in enumerate(widths)]
    before = [
        None if i % 3 == 1 else net(weights, given, 1 + i % S, (i + 1) % 4) for i, _ in enumerate(widths)
    ]
    after: list[Layer | None] = []
    for i, width in enumerate(widths):
        residual = kernels.Sequential([net(weights, given, M if i % 2 else width, (i + 2) % 4), last])
        after.append(None if i % 4 == 2 else residual)
    return kernels.StepModel(
        nets,
        M,
        F,
        kernels.Quantization(cases.THRESHOLDS, bits),
        inputs={"tokens": TOKENS, "side": SIDE},
        memory=S,
        before=before,
        after=after if bits is None else (),
    )


def check(y: Any, features: Any, model: Any, order: kernels.Order, inputs: Inputs) -> FloatArray:
    """Symbols, indexes, bytes and latent are the reference's, with any number of threads. Returns y_hat."""
    bits = model.quantization.fraction_bits
    symbols, indexes, expected = reference_latent.encode(y, features, model, order, inputs=inputs)
    for threads, wrap in ((1, Plain), (2, lambda decoder: decoder)):
        encoder, replay = entropy.Encoder(table(bits), 8, 1), Replay()
        for coder in (encoder, replay):
            y_hat = kernels.encode_latent(coder, y, features, model, order, inputs=inputs, threads=threads)
            np.testing.assert_array_equal(y_hat, expected)
        np.testing.assert_array_equal(replay.symbols, symbols)
        np.testing.assert_array_equal(replay.indexes, indexes)
        stream = encoder.finish()
        assert stream == reference_coder.encode_lanes(symbols, indexes, table(bits), 8)
        decoder = entropy.Decoder(stream, table(bits))
        y_hat = kernels.decode_latent(wrap(decoder), features, model, order, inputs=inputs, threads=threads)
        decoder.close()
        np.testing.assert_array_equal(y_hat, expected)
        assert not np.signbit(y_hat[y_hat == 0]).any()
    placed = kernels.latent_symbols(y, features, model, order, inputs=inputs)
    for step in order:
        at, count = step.elements(model.channels), step.elements(model.channels)[2].size
        for array, flat in zip(placed, (symbols, indexes), strict=True):
            np.testing.assert_array_equal(array[at].reshape(-1), flat[:count])
        symbols, indexes = symbols[count:], indexes[count:]
    return expected


@pytest.mark.parametrize("size", SIZES)
def test_steps_equal_the_reference(size: tuple[int, int], bits: int | None, rng: Any) -> None:
    whole = steps(2, 2)
    for number, order in enumerate(steps(*size)):
        # Of a single position, some orders have fewer steps than the model.
        model = model_of(rng, bits, whole[number])
        assert model.width == M + F + S
        y, features = latent(rng, bits, *size, m=M, f=F)
        y_hat = check(y, features, model, order, others(rng, *size))
        if bits is None:
            assert not np.array_equal(y_hat, np.rint(y_hat))


@pytest.mark.parametrize("seed", range(3))
def test_extreme_weights(seed: int) -> None:
    """Infinities and NaN in networks and memory; what is refined beyond the limits is refused alike."""
    rng, refused = np.random.default_rng(seed), 0
    for number in range(24):
        bits = [None, 4, None][number % 3]
        order = steps(3, 2)[number % 4]
        # ReLU makes a number of NaN, too.
        last = [TANH, kernels.Sequential([TANH, kernels.ReLU()])][number // 3 % 2]
        model = model_of(rng, bits, order, [0.02, 0.1, 0.5][number % 3], last)
        y, features = latent(rng, bits, 3, 2, m=M, f=F)
        inputs = others(rng, 3, 2)
        inputs["tokens"][0, 1, 1:3] = [3e38, -1e-42]
        try:
            with np.errstate(all="ignore"):
                reference_latent.encode(y, features, model, order, inputs=inputs)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match="16777216"):
                kernels.encode_latent(Replay(), y, features, model, order, inputs=inputs)
        else:
            check(y, features, model, order, inputs)
    assert 0 < refused <= 8


def test_nothing_unwritten_is_read(bits: int | None, rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose memory was full of NaN give the same."""
    clean = cpu.new_memory

    def poisoned(size: int) -> FloatArray:
        memory = clean(size)
        memory[:] = np.nan
        return memory

    monkeypatch.setattr(cpu, "new_memory", poisoned)
    for order in steps(3, 5):
        check(*latent(rng, bits, 3, 5, M, F), model_of(rng, bits, order), order, others(rng, 3, 5))


def constant(*values: float) -> Layer:
    """From the five channels of `small`'s planes to these at every position."""
    return kernels.Linear(np.zeros((len(values), 5), np.float32), np.array(values, np.float32))


def picked(*channels: int) -> Layer:
    """These of the five channels."""
    return kernels.Linear(np.eye(5, dtype=np.float32)[list(channels)])


def small(nets: Any, **fields: Any) -> kernels.StepModel:
    """Of one channel, one feature and a memory of three."""
    return kernels.StepModel(nets, 1, 1, kernels.Quantization(cases.THRESHOLDS, None), memory=3, **fields)


def test_memory_by_hand() -> None:
    """What is remembered stays until it is replaced, and only as many channels are as a layer gives."""
    order = kernels.raster(1, 4, CAUSAL)
    left = np.zeros((1, 5, 1, 3), np.float32)
    left[0, 0, 0, 0] = 1
    before = [constant(5, 6, 7), kernels.Conv2d(left, padding=(0, 1)), constant(8, 9), None]
    model = small([picked(0, mean) for mean in (2, 2, 3, 4)], before=before)
    y, features = np.float32([[[5.25], [5.25], [9], [7]]]), np.zeros((1, 4, 1), np.float32)
    replay = Replay()
    y_hat = kernels.encode_latent(replay, y, features, model, order)
    assert y_hat.reshape(-1).tolist() == [5, 5, 9, 7]
    assert replay.symbols.tolist() == [0, 0, 0, 0]
    check(y, features, model, order, {})
    planes = np.concatenate([y_hat, features, np.zeros((1, 4, 3), np.float32)], axis=2)
    model.remember(planes, order, 0)
    model.remember(planes, order, 1)
    assert planes[0, :, 2].tolist() == [0, 5, 5, 9]
    assert planes[0, :, 3:].tolist() == [[6, 7]] * 4


def test_steps_that_are_left_out_remember() -> None:
    """A single position has one step of a checkerboard's two; its mean counts what ran before it."""
    counter = np.zeros((4, 6), np.float32)
    counter[:, 3] = 0, 0, 1, 1
    count = kernels.Linear(counter[2:3], np.ones(1, np.float32))
    quantization = kernels.Quantization(cases.THRESHOLDS, None)
    model = kernels.StepModel([kernels.Linear(counter)] * 4, 2, 1, quantization, memory=3, before=[count] * 4)
    y, features = np.zeros((1, 1, 2), np.float32), np.zeros((1, 1, 1), np.float32)
    for parity, means in (("even", [1, 3]), ("odd", [2, 4])):
        order = kernels.slices_checkerboard(1, 1, (1, 1), CHECKERBOARD, parity)
        assert [len(model.layers(order, step)[0]) for step in range(2)] == [means[0], 2]
        replay = Replay()
        kernels.encode_latent(replay, y, features, model, order)
        assert replay.symbols.tolist() == [-mean for mean in means]
        check(y, features, model, order, {})


def test_refinement_by_hand() -> None:
    """Of all channels that a layer gives, those that the step coded are added, to these alone."""
    order = kernels.slices(1, 2, (1, 1))
    net = kernels.Linear(np.zeros((4, 3), np.float32), np.float32([1, 1, 0.25, 0.25]))
    after = kernels.Linear(np.float32([[0.5, 0, 0], [0.5, 0.5, 0]]))
    quantization = kernels.Quantization(cases.THRESHOLDS, None)
    model = kernels.StepModel([net, net], 2, 1, quantization, after=[after, after])
    y, features = np.float32([[[4, 7], [-3, 0]]]), np.zeros((1, 2, 1), np.float32)
    first = np.float32([4.25, -2.75]) * 1.5
    second = np.float32([7.25, 0.25]) * 1.5 + first * 0.5
    assert check(y, features, model, order, {})[0].T.tolist() == [first.tolist(), second.tolist()]


HUGE = kernels.Linear(np.float32([[3e38, 0, 0, 0, 0]]))
BEYOND = {
    "large": (kernels.Linear(np.float32([[1e38, 0, 0, 0, 0]])), 2),
    "infinite": (HUGE, 2),
    "negative": (HUGE, -2),
    "nan": (kernels.Multiply(HUGE, constant(0)), 2),
    "above": (constant(LIMIT), 2),
    "below": (constant(-LIMIT), -2),
}


@pytest.mark.parametrize("case", BEYOND)
def test_refined_beyond_the_limits(case: str) -> None:
    """Encoders refuse it and have put nothing; for a decoder the stream is corrupt. The limits are legal."""
    after, value = BEYOND[case]
    order, model, plain = (
        kernels.parallel(2, 3),
        small([constant(1, 0)], after=[after]),
        small([constant(1, 0)]),
    )
    y, features = np.zeros((2, 3, 1), np.float32), np.zeros((2, 3, 1), np.float32)
    check(y, features, model, order, {})
    y[1, 1] = value
    encoder, none = (entropy.Encoder(table(None)) for _ in range(2))
    match = r"latent at \(1, 1, 0\) is refined to .*16777216"
    with pytest.raises(ValueError, match=match):
        kernels.encode_latent(encoder, y, features, model, order)
    assert encoder.finish() == none.finish()
    with pytest.raises(ValueError, match="beyond"):
        reference_latent.encode(y, features, model, order)
    # Symbols that a model without the refinement can code.
    encoder = entropy.Encoder(table(None))
    kernels.encode_latent(encoder, y, features, plain, order)
    with pytest.raises(CorruptStream, match=match):
        kernels.decode_latent(entropy.Decoder(encoder.finish(), table(None)), features, model, order)


def test_memory_may_hold_anything(rng: Any) -> None:
    """NaN and infinities that are remembered are values like any other."""
    order = kernels.raster(1, 3, CAUSAL)
    wild = kernels.Concat([kernels.Multiply(HUGE, HUGE), kernels.Multiply(HUGE, constant(0))])
    model = small([picked(2, 3)] * 3, before=[None, wild, wild])
    y, features = np.float32([[[7], [3], [-2]]]), np.zeros((1, 3, 1), np.float32)
    assert check(y, features, model, order, {}).reshape(-1).tolist() == [7, 3, -2]


def test_corrupt_streams(rng: Any) -> None:
    """Damaged bytes end in the same error, or the same latent, with either decoder."""
    order = kernels.slices_checkerboard(4, 5, (3, 5), CHECKERBOARD)
    model, inputs = model_of(rng, None, order), others(rng, 4, 5)
    y, features = latent(rng, None, 4, 5, M, F)
    encoder = entropy.Encoder(table(None))
    kernels.encode_latent(encoder, y, features, model, order, inputs=inputs)
    stream, found = encoder.finish(), set()
    for number in range(40):
        damaged = bytearray(stream[: len(stream) - number % 3])
        damaged[int(rng.integers(15, len(damaged)))] ^= int(rng.integers(1, 256))
        outcomes = []
        for wrap in (Plain, lambda decoder: decoder):
            try:
                decoder = entropy.Decoder(bytes(damaged), table(None))
                y_hat = kernels.decode_latent(wrap(decoder), features, model, order, inputs=inputs)
                assert (np.abs(y_hat) <= LIMIT).all()
                decoder.close()
                outcomes.append(str(y_hat.tobytes()))
            except CorruptStream as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        found.add(outcomes[0])
    assert any("ends before" in one or "words are left" in one for one in found)


def tokens_context_model(
    rng: Any, bits: int | None, m: int = 3, f: int = 6, d: int = 8
) -> kernels.ContextModel:
    """Informer's: the context feature asks tokens, whose keys and values are given, behind the features."""
    weights = Grower(int(rng.integers(2**31)))
    context = kernels.Slice(f, f + d)
    norm = kernels.LayerNorm(weights.weights(d), weights.weights(d))
    query = kernels.Sequential([norm, kernels.Linear(weights.weights(d, d), weights.weights(d))])
    attention = kernels.CrossAttention(
        query, kernels.Input("pairs"), kernels.Linear(weights.weights(d, d)), 2
    )
    heard = kernels.Sequential([context, kernels.Residual(attention)])
    # A layer that says how many channels it takes.
    whole = kernels.Linear(np.eye(f + d, dtype=np.float32))
    both = kernels.Sequential([whole, kernels.Concat([kernels.Slice(0, f), heard])])
    head = kernels.Sequential([both, cases.head(weights, f + d, 9, 2 * m)])
    context_weights = weights.weights(d, m, 5, 5), weights.weights(d)
    quantization = kernels.Quantization(cases.THRESHOLDS, bits)
    return kernels.ContextModel(*context_weights, head, quantization, inputs={"pairs": 2 * d})


def tokens_window_model(rng: Any, bits: int | None, m: int = 3, f: int = 6) -> kernels.WindowModel:
    weights = Grower(int(rng.integers(2**31)))
    conv = kernels.Conv2d(weights.weights(8, m + f, 4, 4), weights.weights(8))
    query, proj = (kernels.Linear(weights.weights(8, 8)) for _ in range(2))
    attention = kernels.Residual(kernels.CrossAttention(query, kernels.Input("pairs"), proj, 4))
    estimator = kernels.Sequential([conv, attention, cases.head(weights, 8, 2 * m)])
    quantization = kernels.Quantization(cases.THRESHOLDS, bits)
    return kernels.WindowModel(estimator, (4, 4), (3, 2), m, f, quantization, inputs={"pairs": 16})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [tokens_context_model, tokens_window_model])
def test_positions_ask_tokens(
    kind: Any, size: tuple[int, int], bits: int | None, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each order; one pass over a complete latent finds what decoding does, and the tokens matter."""
    model = kind(rng, bits)
    y, features = latent(rng, bits, *size)
    inputs = {"pairs": rng.standard_normal((2, 3, 16)).astype(np.float32)}
    own = kind is tokens_window_model
    mask = kernels.window_taps() if own else CAUSAL
    clean = cpu.new_memory

    def poisoned(count: int) -> FloatArray:
        memory = clean(count)
        memory[:] = np.nan
        return memory

    orders = [kernels.raster(*size, mask), kernels.wavefront(*size, mask), kernels.parallel(*size)]
    for order in orders if own else [*orders, kernels.checkerboard(*size, CHECKERBOARD)]:
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "new_memory", poisoned)
            y_hat = check(y, features, model, order, inputs)
        offsets, indexes = kernels.latent_parameters(y_hat, features, model, order, inputs=inputs, threads=2)
        symbols, placed = kernels.latent_symbols(y, features, model, order, inputs=inputs)
        np.testing.assert_array_equal(indexes, placed)
        np.testing.assert_array_equal(symbols.astype(np.float32) + offsets, y_hat)
        changed = {"pairs": inputs["pairs"] + np.float32(1)}
        other = kernels.latent_parameters(y_hat, features, model, order, inputs=changed)
        assert not np.array_equal(offsets, other[0]) or not np.array_equal(indexes, other[1])


def test_models_can_be_pickled(bits: int | None, rng: Any) -> None:
    order = kernels.quadtree(3, 5, M)
    y, features = latent(rng, bits, 3, 5, M, F)
    inputs, model = others(rng, 3, 5), model_of(rng, bits, order)
    expected = kernels.latent_symbols(y, features, model, order, inputs=inputs)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(kernels.latent_symbols(y, features, again, order, inputs=inputs), expected)
    y, features = latent(rng, bits, 3, 5)
    pairs = {"pairs": inputs["tokens"].repeat(16, axis=2)[:, :, :16]}
    for kind in (tokens_context_model, tokens_window_model):
        position, raster = kind(rng, bits), kernels.parallel(3, 5)
        expected = kernels.latent_symbols(y, features, position, raster, inputs=pairs)
        again = pickle.loads(pickle.dumps(position))
        np.testing.assert_array_equal(
            kernels.latent_symbols(y, features, again, raster, inputs=pairs), expected
        )


def test_inputs_that_do_not_fit(bits: int | None, rng: Any) -> None:
    order = kernels.quadtree(3, 5, M)
    whole = latent(rng, bits, 3, 5, M, F), model_of(rng, bits, order), order, others(rng, 3, 5)
    pairs = {"pairs": rng.standard_normal((1, 4, 16)).astype(np.float32)}
    around = latent(rng, bits, 3, 5), tokens_context_model(rng, bits), kernels.parallel(3, 5), pairs
    for (y, features), model, coding, good in (whole, around):
        name, array = next(iter(good.items()))
        bad = array.copy()
        bad[0, 1, 2] = np.inf

        def refused(
            kind: type[Exception],
            match: str,
            inputs: Any,
            y: Any = y,
            fixed: Any = (features, model, coding),
        ) -> None:
            with pytest.raises(kind, match=match):
                kernels.encode_latent(Replay(), y, *fixed, inputs=inputs)
            with pytest.raises(kind, match=match):
                kernels.latent_symbols(y, *fixed, inputs=inputs)
            with pytest.raises(kind, match=match):
                kernels.decode_latent(Replay(), *fixed, inputs=inputs)
            if isinstance(fixed[1], kernels.PositionModel):
                with pytest.raises(kind, match=match):
                    kernels.latent_parameters(np.zeros_like(y), *fixed, inputs=inputs)

        for inputs in (None, {}, good | {"more": array}):
            refused(ValueError, rf"inputs \[.*\], the model reads \[.*'{name}'.*\]", inputs)
        count = array.shape[2]
        for wrong in (array[:, :, 1:], array[:0], array[:, :, :0]):
            shape = ", ".join(map(str, wrong.shape))
            refused(
                ValueError,
                rf"input '{name}' of shape \({shape}\) must be \(H, W, {count}\)",
                good | {name: wrong},
            )
        refused(ValueError, "3 dimensions", good | {name: array[0]})
        refused(TypeError, "must be float32, not float64", good | {name: array.astype(np.float64)})
        refused(ValueError, r"1 values aren't finite, the first at \(0, 1, 2\)", good | {name: bad})
    (y, features), model, coding, good = whole
    with pytest.raises(ValueError, match="sizes"):
        kernels.encode_latent(Replay(), y, features, model, coding, inputs=good | {"side": good["side"][:2]})


def test_models_that_do_not_fit(rng: Any) -> None:
    two = [constant(1, 0)] * 2

    def refused(match: str, nets: Any = two, **fields: Any) -> None:
        with pytest.raises(ValueError, match=match):
            small(nets, **fields)

    refused("1 layers before the steps of 2 nets", before=[None])
    refused("3 layers after the steps of 2 nets", after=[None] * 3)
    refused("before 1 gives 4 channels for a memory of 3", before=[None, constant(1, 2, 3, 4)])
    refused("after 0 gives 2 channels for a latent of 1", after=[constant(1, 2), None])
    refused(r"after 1: .* 6 channels, not 5", after=[None, kernels.Linear(np.ones((1, 6), np.float32))])
    refused(r"before 0: .* 6 channels, not 5", before=[kernels.Linear(np.ones((1, 6), np.float32)), None])
    refused(
        r"read the inputs \['t'\], the model's are \['u'\]",
        before=[kernels.Input("t"), None],
        inputs={"u": 3},
    )
    for name in ("x", "result", "planes", "y_hat", "features", ""):
        refused(rf"named '{name}' and have 3 channels", inputs={name: 3})
    refused("named 't' and have 0 channels", inputs={"t": 0})
    residual = kernels.Quantization(cases.THRESHOLDS, None)
    integer = kernels.Quantization(cases.THRESHOLDS, 4)
    with pytest.raises(ValueError, match="which integer mode can't code"):
        kernels.StepModel(two, 1, 1, integer, memory=3, after=[constant(1), None])
    kernels.StepModel(two, 1, 1, integer, memory=3, after=[None, None])
    with pytest.raises(ValueError, match="-1 of memory"):
        kernels.StepModel(two, 1, 1, residual, memory=-1)
    with pytest.raises(TypeError, match="integer"):
        kernels.StepModel(two, 1, 1, residual, memory=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="before 0 gives 1 channels for a memory of 0"):
        kernels.StepModel([picked(0, 1)], 1, 4, residual, before=[constant(1)])
    # What is known only when they run.
    order, y, features = kernels.parallel(2, 3), *np.zeros((2, 2, 3, 1), np.float32)
    larger, token = (
        kernels.Conv2d(np.ones((1, 5, 1, 1), np.float32), padding=1),
        np.ones((2, 3, 4), np.float32),
    )
    given = {"inputs": {"t": 4}}, {"t": token}
    for match, fields, inputs in (
        (r"before 0 gives \(4, 5, 1\) for planes of \(2, 3, 5\)", {"before": [larger]}, None),
        (
            r"before 0 gives \(2, 3, 4\) .* up to 3 channels",
            {"before": [kernels.Input("t")]} | given[0],
            given[1],
        ),
        (r"after 0 gives \(4, 5, 1\) for planes of \(2, 3, 5\)", {"after": [larger]}, None),
        (
            r"after 0 gives \(2, 3, 4\) .* give 1 channels",
            {"after": [kernels.Input("t")]} | given[0],
            given[1],
        ),
    ):
        model = small(two[:1], **fields)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=match):
            kernels.encode_latent(Replay(), y, features, model, order, inputs=inputs)
    # Models of positions: names that aren't declared, and tokens where only keys may be.
    good = tokens_context_model(rng, None)
    with pytest.raises(ValueError, match=r"read the inputs \['pairs'\], the model's are \[\]"):
        kernels.ContextModel(good.weight, good.bias, good.head, good.quantization)
    window = tokens_window_model(rng, None)
    with pytest.raises(ValueError, match=r"read the inputs \['pairs'\], the model's are \['t'\]"):
        kernels.WindowModel(window.estimator, (4, 4), (3, 2), 3, 6, residual, inputs={"t": 1})
    joined = kernels.Sequential(
        [kernels.Concat([window.estimator, kernels.Input("pairs")]), kernels.Slice(0, 6)]
    )
    wrong = kernels.WindowModel(joined, (4, 4), (3, 2), 3, 6, residual, inputs={"pairs": 16})
    y, features = latent(rng, None, 1, 1)
    with pytest.raises(ValueError, match="can't read a plane"):
        kernels.latent_parameters(
            y, features, wrong, kernels.parallel(1, 1), inputs={"pairs": np.ones((1, 1, 16), np.float32)}
        )
