"""Latents that can't be coded, streams and arrays that lie: clear errors, and coders that stay defined."""

from __future__ import annotations

import threading
from typing import Any

import latent_cases as cases
import numpy as np
import pytest
from latent_cases import CAUSAL, CHECKERBOARD, Plain, Replay, context_model, latent, table
from numpy.typing import NDArray

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream
from quadrans.kernels import cpu
from quadrans.kernels.models import own_steps

Model = kernels.ContextModel
IntArray = NDArray[np.int32]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_latents_that_cannot_be_coded(kind: Any, rng: Any) -> None:
    y, features = latent(rng, 4, 3, 3)
    order = kernels.wavefront(3, 3, CAUSAL)
    encoder = entropy.Encoder(table(4))
    for bad in (0.5, np.nan, np.inf, -np.inf, 2.0**24 + 2, -(2.0**24) - 2, 1e300):
        with np.errstate(over="ignore"):
            wrong = y.astype(kind)
            wrong[1, 2, 0] = bad
        with pytest.raises(ValueError, match=r"at \(1, 2, 0\)"):
            kernels.encode_latent(encoder, wrong, features, context_model(rng, 4), order)
        if bad != 0.5:
            with pytest.raises(ValueError, match=r"\(1, 2, 0\)"):
                kernels.encode_latent(encoder, wrong, features, context_model(rng, None), order)
    for nothing in (y > 0, y.astype(str), y.astype(complex), y.astype(object)):
        with pytest.raises(TypeError, match="must be numbers"):
            kernels.encode_latent(encoder, nothing, features, context_model(rng, 4), order)
    _still_usable(encoder, y, features, context_model(rng, 4), order)


def _still_usable(encoder: Any, y: Any, features: Any, model: Any, order: Any) -> None:
    """An encoder that was given bad latents has coded nothing of them."""
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    decoder = entropy.Decoder(encoder.finish(), table(4))
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
    decoder.close()


@pytest.mark.parametrize("symbol", [2**31 - 1, -(2**31), 2**24 + 2**20 + 1])
def test_forged_symbols(symbol: int, model: Model, bits: int | None, rng: Any) -> None:
    """Symbols that give no latent: the decoder ends; one that the loop can't end has decoded the step's."""
    _, features = latent(rng, bits, 2, 3)
    order = kernels.wavefront(2, 3, CAUSAL)
    replay = Replay()
    kernels.encode_latent(replay, np.zeros((2, 3, 3), np.float32), features, model, order)
    # The second step's distributions follow from the first's latent, which stays what it was.
    symbols, rows = np.full(18, symbol, np.int32), replay.indexes.copy()
    symbols[:3], rows[6:] = replay.symbols[:3], 0
    stream = entropy.encode(symbols, rows, table(bits), 8, 2)
    for wrap in (lambda decoder: decoder, Plain):
        decoder = entropy.Decoder(stream, table(bits))
        with pytest.raises(CorruptStream, match="16777216"):
            kernels.decode_latent(wrap(decoder), features, model, order)
        if wrap is Plain:
            np.testing.assert_array_equal(decoder.get(rows[6:]), symbols[6:])
            decoder.close()
        else:
            with pytest.raises(ValueError, match="at the end of a corrupt stream"):
                decoder.get(rows[6:])


def test_forged_residuals() -> None:
    """In residual mode a symbol beyond the limit is refused even where the latent would be within."""
    order = kernels.parallel(1, 1)
    for symbol, mean in ((2**24 + 2**19, -(2.0**20)), (2**24 - 2**19, 2.0**20), (-(2**24) - 1, 2.0**20)):
        stream = entropy.encode([symbol], [0], table(None))
        features = np.array([[[0, mean]]], np.float32)
        for wrap in (lambda decoder: decoder, Plain):
            decoder = wrap(entropy.Decoder(stream, table(None)))
            with pytest.raises(CorruptStream, match="16777216"):
                kernels.decode_latent(decoder, features, cases.Copying(1, None), order)


def test_corrupt_streams(model: Model, bits: int | None, rng: Any) -> None:
    """Damaged streams end as they do with a call for each step: in the same error, or in the same latent."""
    y, features = latent(rng, bits, 6, 7)
    outcomes = []
    for lanes, groups in ((1, 1), (8, 2)):
        encoder = entropy.Encoder(table(bits), lanes, groups)
        order = kernels.wavefront(6, 7, CAUSAL)
        kernels.encode_latent(encoder, y, features, model, order)
        stream = encoder.finish()
        damaged = [stream[:cut] for cut in range(20, len(stream), 7)] + [stream + b"\0\0"]
        for _ in range(60):
            one = bytearray(stream)
            for at in rng.integers(15, len(stream), rng.integers(1, 4)):
                one[at] ^= int(rng.integers(1, 256))
            damaged.append(bytes(one))
        for bad in damaged:
            results = [_outcome(wrap, bad, features, model, order) for wrap in (lambda d: d, Plain)]
            assert results[0] == results[1]
            outcomes.append(results[0])
    assert any("ends before its symbols do" in outcome for outcome in outcomes)
    assert any("words are left" in outcome for outcome in outcomes)


def _outcome(wrap: Any, stream: bytes, features: np.ndarray, model: Model, order: kernels.Order) -> str:
    """What comes of decoding: the latent, or an error. After one the decoder is of no more use."""
    try:
        decoder = entropy.Decoder(stream, table(model.quantization.fraction_bits))
    except CorruptStream as error:
        return str(error)
    try:
        y_hat = kernels.decode_latent(wrap(decoder), features, model, order)
        decoder.close()
    except CorruptStream as error:
        if "beyond" not in str(error):
            with pytest.raises(ValueError, match="the decoder is"):
                decoder.get(np.zeros(1, np.int32))
        return str(error).rpartition("beyond")[2]
    return str(y_hat.tobytes())


def test_tables(model: Model, bits: int | None, rng: Any) -> None:
    """One with too few rows is refused before anything is decoded; more rows than needed do no harm."""
    y, features = latent(rng, bits, 4, 5)
    order = kernels.wavefront(4, 5, CAUSAL)
    rows = model.quantization.rows
    scales = np.geomspace(0.11, 256, rows + 1)
    few, many = entropy.gaussian_table(scales[: rows - 1]), entropy.gaussian_table(scales)
    encoder = entropy.Encoder(many)
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    stream = encoder.finish()
    decoder = entropy.Decoder(stream, many)
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
    decoder.close()
    decoder = entropy.Decoder(stream, few)
    with pytest.raises(ValueError, match=f"table of {rows - 1} rows, where indexes need {rows}"):
        kernels.decode_latent(decoder, features, model, order)
    # It is where it was.
    replay = Replay()
    kernels.encode_latent(replay, y, features, model, order)
    first = replay.indexes[:1]
    np.testing.assert_array_equal(decoder.get(first), entropy.Decoder(stream, few).get(first))


def test_what_does_not_fit(model: Model, bits: int | None, rng: Any) -> None:
    y, features = latent(rng, bits, 3, 4)
    order = kernels.wavefront(3, 4, CAUSAL)
    decoder = entropy.Decoder(entropy.encode([], [], table(bits)), table(bits))
    encoder = entropy.Encoder(table(bits))

    def refused(match: str, features: Any = features, order: Any = order, y: Any = y, **options: Any) -> None:
        for coder, call in ((decoder, kernels.decode_latent), (Plain(decoder), kernels.decode_latent)):
            with pytest.raises(ValueError, match=match):
                call(coder, features, model, order, **options)
        with pytest.raises(ValueError, match=match):
            kernels.encode_latent(encoder, y, features, model, order, **options)
        with pytest.raises(ValueError, match=match):
            kernels.latent_symbols(y, features, model, order, **options)
        with pytest.raises(ValueError, match=match):
            kernels.latent_parameters(y, features, model, order, **options)

    refused(r"\(3, 4, 5\), float32, must be \(3, 4, 6\)", features[..., :5])
    refused(r"\(3, 4, 6\), float64, must be", features.astype(np.float64))
    refused(r"float16, must be", features.astype(np.float16))
    refused(r"\(3, 4, 6\), float32, must be \(4, 3, 6\)|y(_hat)? of shape", order=kernels.parallel(4, 3))
    refused(r"\(3, 3\) mask doesn't fit the \(5, 5\)", order=kernels.raster(3, 4, kernels.causal_mask(3)))
    refused("needs a StepModel", order=kernels.slices(3, 4, [1, 2]))
    refused("codes 4 channels, the model 3|needs a StepModel", order=kernels.slices(3, 4, [4]))
    refused("thread", threads=0)
    refused("thread", threads=-1)
    for bad in (np.nan, np.inf, -np.inf):
        wrong = features.copy()
        wrong[2, 1, 3] = wrong[2, 2, 0] = bad
        refused(r"features of shape \(3, 4, 6\): 2 values aren't finite, the first at \(2, 1, 3\)", wrong)
    with pytest.raises(ValueError, match=r"y of shape \(3, 4, 2\) must be \(3, 4, 3\)"):
        kernels.encode_latent(encoder, y[..., :2], features, model, order)
    with pytest.raises(ValueError, match=r"y_hat of shape \(3, 4, 2\) must be \(3, 4, 3\)"):
        kernels.latent_parameters(y[..., :2], features, model, order)
    # Nothing was coded, and nothing decoded.
    assert encoder.finish() == entropy.encode([], [], table(bits))
    decoder.close()


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("rows", 5, 10**9),
        ("rows", 0, -1),
        ("cols", 3, 2**62),
        ("cols", -1, -(2**63)),
        ("starts", 0, 1),
        ("starts", 0, -1),
        ("starts", -1, 2**40),
        ("starts", 2, -5),
        ("starts", 1, 10),
        ("first", 2, 1),
    ],
)
def test_changed_orders(name: str, at: int, value: int, model: Model, bits: int | None, rng: Any) -> None:
    """An order's arrays can be written to: compiled loops don't follow them out of the latent."""
    y, features = latent(rng, bits, 3, 4)
    order = kernels.wavefront(3, 4, CAUSAL)
    getattr(order.flat, name)[at] = value
    decoder = entropy.Decoder(entropy.encode([0], [0], table(bits)), table(bits))
    steps = cases.step_model(rng, bits, kernels.parallel(3, 4), 3, 6)
    steps = kernels.StepModel(steps.nets * len(order), 3, 6, steps.quantization)
    for one in (model, steps):
        for coder in (decoder, Plain(decoder)):
            with pytest.raises(ValueError, match="wavefront: arrays of its steps were changed"):
                kernels.decode_latent(coder, features, one, order)
        with pytest.raises(ValueError, match="wavefront: arrays of its steps were changed"):
            kernels.encode_latent(Replay(), y, features, one, order)
    with pytest.raises(ValueError, match="wavefront: arrays of its steps were changed"):
        kernels.latent_parameters(y, features, model, order)


def test_own_steps_are_copies() -> None:
    order = kernels.checkerboard(3, 4, CHECKERBOARD)
    for joined in (False, True):
        own = own_steps(order, joined)
        for name in ("starts", "rows", "cols", "first", "context", "width", "known"):
            array = getattr(own, name)
            assert array.flags.carray
            for steps in (order.flat, order.runs()):
                assert not np.shares_memory(array, getattr(steps, name))


def test_symbols_must_be_int32(model: Model, bits: int | None, rng: Any) -> None:
    class Wrong:
        def __init__(self, symbols: Any) -> None:
            self.get = lambda indexes: symbols(indexes.shape)

    _, features = latent(rng, bits, 1, 2)
    for symbols, error in (
        (lambda shape: np.full(shape, 2**40), "exceed int32"),
        (lambda shape: np.zeros((*shape, 1), np.int32), "shape"),
        (lambda shape: np.zeros(1, np.int32), "shape"),
    ):
        with pytest.raises(ValueError, match=error):
            kernels.decode_latent(Wrong(symbols), features, model, kernels.parallel(1, 2))
    with pytest.raises(TypeError, match="float64 where integers are needed"):
        kernels.decode_latent(Wrong(np.zeros), features, model, kernels.parallel(1, 2))
    strided = Wrong(lambda shape: np.zeros((shape[0], 2 * shape[1]), np.int16)[:, ::2])
    kernels.decode_latent(strided, features, model, kernels.parallel(1, 2))


def test_a_failing_member(model: Model, bits: int | None, rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in one thread is raised, and nobody waits forever or goes on with half a latent."""
    y, features = latent(rng, bits, 5, 6)
    order = kernels.wavefront(5, 6, CAUSAL)
    encoder = entropy.Encoder(table(bits))
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    stream = encoder.finish()

    def fail() -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("this thread can't")

    monkeypatch.setattr(cpu, "check_arithmetic", fail)
    encoder, decoder = entropy.Encoder(table(bits)), entropy.Decoder(stream, table(bits))
    for call in (
        lambda: kernels.encode_latent(encoder, y, features, model, order, threads=3),
        lambda: kernels.decode_latent(decoder, features, model, order, threads=3),
    ):
        with pytest.raises(RuntimeError, match="this thread can't"):
            call()
    with pytest.raises(ValueError, match="the decoder is lent"):
        decoder.get(np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="the decoder is lent"):
        kernels.decode_latent(decoder, features, model, order)
    decoder = entropy.Decoder(stream, table(bits))
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
    assert encoder.finish() == entropy.encode([], [], table(bits))


def test_wrong_floating_point_mode(
    model: Model, bits: int | None, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found before the decoder is touched."""
    y, features = latent(rng, bits, 2, 3)
    order = kernels.wavefront(2, 3, CAUSAL)
    encoder = entropy.Encoder(table(bits))
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    decoder = entropy.Decoder(encoder.finish(), table(bits))

    def fail() -> None:
        raise RuntimeError("flushes subnormals")

    with monkeypatch.context() as patch:
        patch.setattr(cpu, "check_arithmetic", fail)
        with pytest.raises(RuntimeError, match="flushes"):
            kernels.decode_latent(decoder, features, model, order)
        with pytest.raises(RuntimeError, match="flushes"):
            kernels.encode_latent(Replay(), y, features, model, order)
    np.testing.assert_array_equal(kernels.decode_latent(decoder, features, model, order), y_hat)
    decoder.close()
