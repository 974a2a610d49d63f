"""Latents coded by the GPU's kernels, emulated: the CPU's latents and streams, in every order and mode."""

from __future__ import annotations

import fake_cupy
import latent_cases as cases
import numpy as np
import pytest
from cuda_latents import check, decoded, emulated, on_cpu
from latent_cases import CAUSAL, context_model, latent, lee_model, orders, step_model, table

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream
from quadrans.kernels import cuda
from quadrans.kernels.cuda import network, plan, serial


@pytest.fixture(autouse=True)
def cp(monkeypatch):
    yield from emulated(monkeypatch)


@pytest.mark.parametrize("order", orders(5, 7), ids=lambda order: order.name)
def test_orders_of_positions(cp, order, model, bits, rng, assert_same_bits):
    check(cp, assert_same_bits, *latent(rng, bits, 5, 7), model, order)


@pytest.mark.parametrize("layout", [(1, 1), (2, 3), (32, 1), (64, 1), (16, 7), (64, 3)], ids=str)
def test_layouts(cp, layout, rng, assert_same_bits):
    """One lane is all tail; seven groups are more than the coder's blocks."""
    order = kernels.wavefront(6, 5, CAUSAL)
    check(cp, assert_same_bits, *latent(rng, 4, 6, 5), context_model(rng, 4), order, layout)


def test_extremes(cp, bits, rng, assert_same_bits):
    """Huge, tiny and infinite parameters, escapes of many nibbles."""
    order = kernels.raster(3, 4, CAUSAL)
    y, features = latent(rng, bits, 3, 4)
    y[rng.random(y.shape) < 0.2] *= 2.0**18
    model = context_model(rng, bits, extreme=0.3)
    check(cp, assert_same_bits, y, features, model, order)


def test_window_model(cp, bits, rng, assert_same_bits):
    order = kernels.wavefront(4, 5, kernels.window_taps())
    check(cp, assert_same_bits, *latent(rng, bits, 4, 5, f=3), lee_model(rng, bits), order)


@pytest.mark.parametrize(
    "order",
    [
        kernels.quadtree(5, 4, 8),
        kernels.slices(4, 5, (5, 3)),
        kernels.slices_checkerboard(3, 5, (1, 4, 3), kernels.checkerboard_mask(3)),
        kernels.slices_checkerboard(1, 1, (1, 4, 3), kernels.checkerboard_mask(3)),
    ],
    ids=lambda order: f"{order.name}-{order.height}x{order.width}",
)
def test_step_models(cp, order, bits, rng, assert_same_bits):
    # A single position's order has half the steps.
    larger = kernels.slices_checkerboard(2, 2, (1, 4, 3), kernels.checkerboard_mask(3))
    model = step_model(rng, bits, order if order.width > 1 else larger, 8)
    check(cp, assert_same_bits, *latent(rng, bits, order.height, order.width, 8, 4), model, order)


@pytest.mark.parametrize("name", ["CHUNK", "PIECE"])
def test_long_steps_are_taken_in_parts(cp, name, monkeypatch, rng, assert_same_bits):
    monkeypatch.setattr(plan if name == "CHUNK" else serial, name, {"CHUNK": 4, "PIECE": 17}[name])
    check(cp, assert_same_bits, *latent(rng, 4, 5, 7), context_model(rng, 4), cases.orders(5, 7)[3], (8, 2))


@pytest.mark.parametrize(("processors", "room"), [(2, 232448), (7, 232448), (12, 40000), (4, 24000)])
def test_devices(cp, processors, room, monkeypatch, rng, assert_same_bits):
    """Blocks fewer and more, with fewer threads where they have less memory; the table in it or not."""
    monkeypatch.setattr(fake_cupy, "PROCESSORS", processors)
    monkeypatch.setattr(fake_cupy, "_MOST_SHARED", room)
    network._shape.cache_clear()
    order = kernels.wavefront(4, 5, CAUSAL)
    check(cp, assert_same_bits, *latent(rng, None, 4, 5), context_model(rng, None), order, (16, 3))


@pytest.mark.parametrize("layout", [(8, 2), (4, 7), (64, 3)], ids=str)
def test_groups_are_shared_among_the_coders_blocks(cp, layout, monkeypatch, rng, assert_same_bits):
    monkeypatch.setattr(fake_cupy, "PROCESSORS", 7)
    monkeypatch.setattr(serial, "PROGRAM_SHARE", 1)
    network._shape.cache_clear()
    order = kernels.wavefront(4, 5, CAUSAL)
    check(cp, assert_same_bits, *latent(rng, 4, 4, 5), context_model(rng, 4), order, layout)
    order = kernels.quadtree(4, 5, 8)
    check(cp, assert_same_bits, *latent(rng, 4, 4, 5, 8, 4), step_model(rng, 4, order, 8), order, layout)


def test_a_device_too_small(cp, monkeypatch, rng):
    order, model = kernels.wavefront(4, 5, CAUSAL), context_model(rng, 4)
    y, features = latent(rng, 4, 4, 5)
    stream, expected = on_cpu(y, features, model, order)
    decoder = cuda.Decoder(stream, table(4))
    for name, value, message in (
        ("PROCESSORS", 1, "one multiprocessor"),
        ("_MOST_SHARED", 16000, "16000 bytes of shared memory"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(fake_cupy, name, value)
            network._shape.cache_clear()
            with pytest.raises(RuntimeError, match=message):
                serial.decode_latent(decoder, cp.asarray(features), model, order)
    network._shape.cache_clear()
    y_hat = serial.decode_latent(decoder, cp.asarray(features), model, order)
    np.testing.assert_array_equal(y_hat.get(), expected)


def test_parameters_of_a_whole_latent(cp, model, bits, rng, assert_same_bits):
    y, features = latent(rng, bits, 5, 7)
    for order in orders(5, 7):
        expected = kernels.latent_parameters(y, features, model, order)
        offsets, indexes = serial.latent_parameters(cp.asarray(y), cp.asarray(features), model, order)
        assert_same_bits(offsets.get(), expected[0])
        np.testing.assert_array_equal(indexes, expected[1])


def test_a_latent_goes_on_where_another_ended(cp, rng, assert_same_bits):
    """Two latents in one stream, whose second begins within a block of lanes."""
    model, order = context_model(rng, 4), kernels.wavefront(3, 5, CAUSAL)
    encoder, both = entropy.Encoder(table(4), 16, 2), [latent(rng, 4, 3, 5) for _ in range(2)]
    expected = [kernels.encode_latent(encoder, y, features, model, order) for y, features in both]
    decoder = cuda.Decoder(encoder.finish(), table(4))
    for (_, features), y_hat in zip(both, expected, strict=True):
        assert_same_bits(serial.decode_latent(decoder, cp.asarray(features), model, order).get(), y_hat)
    decoder.close()


def outcome(decode, stream, *arguments):
    """The latent, or None for a stream that is refused."""
    try:
        return decode(stream, *arguments).tobytes()
    except CorruptStream:
        return None


def cpu_decoded(stream, features, model, order):
    decoder = entropy.Decoder(stream, table(model.quantization.fraction_bits))
    y_hat = kernels.decode_latent(decoder, features, model, order)
    decoder.close()
    return y_hat


@pytest.mark.parametrize("steps", ["positions", "planes"])
def test_corrupt_streams(cp, steps, monkeypatch, rng):
    """What the CPU refuses is refused, and what it doesn't gives its latent."""
    monkeypatch.setattr(fake_cupy, "PROCESSORS", 4)
    monkeypatch.setattr(serial, "PROGRAM_SHARE", 1)
    monkeypatch.setattr(serial, "PIECE", 16)
    network._shape.cache_clear()
    order = kernels.wavefront(2, 5, CAUSAL) if steps == "positions" else kernels.quadtree(2, 5, 8)
    model = context_model(rng, 4) if steps == "positions" else step_model(rng, 4, order, 8)
    y, features = latent(rng, 4, 2, 5, model.channels, model.features)
    stream = bytearray(on_cpu(y, features, model, order, (4, 2))[0])
    refused = 0
    for number in range(16):
        changed = bytearray(stream)
        if number % 4 == 0:
            del changed[int(rng.integers(2, len(changed))) :]
        else:
            changed[int(rng.integers(2, len(changed)))] ^= 1 << int(rng.integers(8))
        expected = outcome(cpu_decoded, bytes(changed), features, model, order)
        assert outcome(lambda *given: decoded(cp, *given), bytes(changed), features, model, order) == expected
        refused += expected is None
    assert refused > 10


def test_a_failure_ends_the_launch(cp, rng):
    model, order = context_model(rng, 4), kernels.raster(5, 6, CAUSAL)
    y, features = latent(rng, 4, 5, 6)
    stream, _ = on_cpu(y, features, model, order)
    times = []
    for some in (stream, stream[:-6]):
        ticks: dict[str, int] = {}
        decoder = cuda.Decoder(some, table(4))
        if some == stream:
            serial.decode_latent(decoder, cp.asarray(features), model, order, ticks=ticks)
        else:
            decoder._streams.progress[:, 1] = decoder._streams.progress[:, 0]
            with pytest.raises(CorruptStream):
                serial.decode_latent(decoder, cp.asarray(features), model, order, ticks=ticks)
        times.append(ticks["nets"])
    assert times[1] < times[0] / 2


@pytest.mark.parametrize("symbol", [2**24 + 2**21, -(2**31), 2**31 - 1])
def test_latents_beyond_the_limit(cp, symbol, bits, rng):
    """The second position's symbol: the error says where, and ends the decoder."""
    model, order = context_model(rng, bits), kernels.raster(1, 3, CAUSAL)
    y, features = latent(rng, bits, 1, 3)
    replay = cases.Replay()
    kernels.encode_latent(replay, y, features, model, order)
    encoder = entropy.Encoder(table(bits), 2, 1)
    replay.symbols[4] = symbol
    encoder.put(replay.symbols, replay.indexes)
    decoder = cuda.Decoder(encoder.finish(), table(bits))
    with pytest.raises(CorruptStream, match=r"the latent at \(0, 1, 1\) lies beyond \+-16777216"):
        serial.decode_latent(decoder, cp.asarray(features), model, order)
    for use in (decoder.close, lambda: decoder.lend(1), lambda: decoder.get(cp.zeros(1, np.int32))):
        with pytest.raises(ValueError, match="the decoder is at the end of a corrupt stream"):
            use()


def test_a_launch_that_fails_ends_the_decoder(cp, monkeypatch, rng):
    """Nobody knows how far its states have come."""
    model, order = context_model(rng, 4), kernels.raster(2, 3, CAUSAL)
    y, features = latent(rng, 4, 2, 3)
    decoder = cuda.Decoder(on_cpu(y, features, model, order)[0], table(4))

    def launch(*arguments):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(serial, "launch", launch)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        serial.decode_latent(decoder, cp.asarray(features), model, order)
    for use in (decoder.close, lambda: decoder.lend(1), lambda: decoder.get(cp.zeros(1, np.int32))):
        with pytest.raises(ValueError, match="the decoder is lent"):
            use()


@pytest.mark.parametrize("steps", ["positions", "planes"])
def test_steps_of_more_elements_than_the_kernel_counts(cp, steps, monkeypatch, rng):
    """Refused before anything is launched, and the decoder is as before."""
    order = kernels.wavefront(3, 5, CAUSAL) if steps == "positions" else kernels.slices(3, 5, (5, 3))
    model = context_model(rng, 4) if steps == "positions" else step_model(rng, 4, order, 8)
    y, features = latent(rng, 4, 3, 5, model.channels, model.features)
    stream, expected = on_cpu(y, features, model, order)
    decoder = cuda.Decoder(stream, table(4))
    most, width = (2, 3) if steps == "positions" else (15, 5)
    monkeypatch.setattr(serial, "launch", None)
    monkeypatch.setattr(plan, "MAX_STEP", most * width - 1)
    with pytest.raises(ValueError, match=f"a step of {most} positions and {width} channels each, "):
        serial.decode_latent(decoder, cp.asarray(features), model, order)
    monkeypatch.undo()
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(plan, "MAX_STEP", most * width)
    y_hat = serial.decode_latent(decoder, cp.asarray(features), model, order)
    np.testing.assert_array_equal(y_hat.get(), expected)
    decoder.close()


def test_the_kernel_counts_up_to_a_piece_beyond_a_step():
    assert plan.MAX_STEP + plan.PIECE <= 2**31 - 1


def test_time_is_split(cp, rng):
    model, order = context_model(rng, 4), kernels.wavefront(3, 4, CAUSAL)
    y, features = latent(rng, 4, 3, 4)
    ticks: dict[str, int] = {}
    decoded(cp, on_cpu(y, features, model, order)[0], features, model, order, ticks=ticks)
    assert set(ticks) == set(serial.PARTS)
    assert min(ticks.values()) > 0


def test_plans_are_made_once(cp, monkeypatch, rng):
    model, order = context_model(rng, 4), kernels.wavefront(3, 4, CAUSAL)
    y, features = latent(rng, 4, 3, 4)
    stream, _ = on_cpu(y, features, model, order)
    decoded(cp, stream, features, model, order)
    monkeypatch.setattr(plan, "_make_plan", None)
    decoded(cp, stream, features, model, order)


def test_refused(cp, rng):
    model, order = context_model(rng, 4), kernels.wavefront(3, 4, CAUSAL)
    y, features = latent(rng, 4, 3, 4)
    stream, _ = on_cpu(y, features, model, order)
    encoder, decoder = cuda.Encoder(table(4)), cuda.Decoder(stream, table(4))

    def decode(features, model=model, order=order, decoder=decoder):
        serial.decode_latent(decoder, cp.asarray(features), model, order)

    def encode(y, features=features):
        serial.encode_latent(encoder, cp.asarray(y), cp.asarray(features), model, order)

    nan = features.copy()
    nan[1, 2, 3] = np.nan
    other_taps = kernels.raster(3, 4, kernels.causal_mask(3))
    cases_: list[tuple[type, str, object]] = [
        (ValueError, r"features of shape \(3, 4, 5\) must be \(3, 4, 6\)",
         lambda: decode(features[:, :, :5])),
        (TypeError, "features must be float32, not float64", lambda: decode(features.astype(np.float64))),
        (ValueError, r"features of shape .* has 1 values that are not finite", lambda: decode(nan)),
        (ValueError, "a table of 64 rows, where indexes need 1024",
         lambda: decode(features, decoder=cuda.Decoder(entropy.encode([0], [0], table(None)), table(None)))),
        (ValueError, r"a \(3, 3\) mask doesn't fit", lambda: decode(features, order=other_taps)),
        (ValueError, "needs a StepModel", lambda: decode(features, order=kernels.slices(3, 4, (1, 2)))),
        (TypeError, "features must be an array on a CUDA device",
         lambda: serial.decode_latent(decoder, features, model, order)),
        (ValueError, r"y of shape \(3, 4, 2\) must be \(3, 4, 3\)", lambda: encode(y[:, :, :2])),
        (ValueError, r"y holds 0.5 at \(1, 2, 0\), no integer", lambda: encode(changed(y, 0.5))),
        (ValueError, r"y holds 16777218.0 at \(1, 2, 0\)", lambda: encode(changed(y, 2.0**24 + 2))),
        (ValueError, r"y holds nan at \(1, 2, 0\)", lambda: encode(changed(y, np.nan))),
        (TypeError, "y must be numbers, not bool", lambda: encode(y > 0)),
    ]  # fmt: skip
    for error, message, action in cases_:
        with pytest.raises(error, match=message):
            action()
    decode(features)
    decoder.close()
    residual = context_model(rng, None)
    with pytest.raises(ValueError, match=r"y is 2000000000.0 at \(1, 2, 0\): a latent or its symbol would"):
        serial.encode_latent(encoder, cp.asarray(changed(y, 2e9)), cp.asarray(features), residual, order)


def changed(y: np.ndarray, value: float) -> np.ndarray:
    out = y.copy()
    out[1, 2, 0] = value
    return out


def test_integers_of_other_types(cp, rng, assert_same_bits):
    model, order = context_model(rng, 4), kernels.wavefront(3, 4, CAUSAL)
    y, features = latent(rng, 4, 3, 4)
    y[0, 0, 0] = -0.0
    stream, expected = on_cpu(y, features, model, order)
    for dtype in (np.int16, np.float64):
        encoder = cuda.Encoder(table(4), 8, 1)
        y_hat = serial.encode_latent(encoder, cp.asarray(y.astype(dtype)), cp.asarray(features), model, order)
        assert encoder.finish() == stream
        assert_same_bits(y_hat.get(), expected)
