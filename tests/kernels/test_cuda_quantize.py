"""Quantization and indexes on the emulated GPU: the same integers and bits as the compiled loops'."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest

from quadrans.kernels import _quantize as compiled
from quadrans.kernels import cuda
from quadrans.kernels.cuda import _module
from quadrans.kernels.cuda.quantization import RESIDUAL, dequantize, quantize, to_indexes

THRESHOLDS = np.geomspace(0.11, 256, 64)[:-1].astype(np.float32)


@pytest.fixture(autouse=True)
def cp(monkeypatch):
    """CuPy, on the emulator."""
    fake = fake_cupy.install(monkeypatch)
    _module._module.cache_clear()
    yield fake
    _module._module.cache_clear()


def parameters(rng, n, channels):
    """(n, 2 * channels) scales and means: thresholds and halves themselves, extremes, NaN."""
    scales = np.exp(rng.normal(0, 3, (n, channels)))
    means = rng.normal(0, 1, (n, channels)) * 2.0 ** rng.integers(-20, 22, (n, channels))
    odd = [
        0.0,
        -0.0,
        1e-45,
        -1e-40,
        np.inf,
        -np.inf,
        np.nan,
        2**20,
        -(2**20),
        0.46875,
        0.40625,
        -0.5,
        -0.53125,
    ]
    for array, special in ((scales, [*THRESHOLDS, *odd]), (means, odd)):
        chosen = rng.random(array.shape) < 0.3
        array[chosen] = rng.choice(special, chosen.sum())
    return np.concatenate([scales, means], 1).astype(np.float32)


def places_of(rng, n, channels):
    """Positions in a plane that has gaps: (rows, cols, firsts, places, shape)."""
    height, width, depth = 5, n, channels + 3
    cells = rng.permutation(height * width)[:n]
    firsts = rng.integers(0, 4, n)
    return cells // width, cells % width, firsts, cells * depth + firsts, (height, width, depth)


@pytest.mark.parametrize("bits", [RESIDUAL, 0, 4, 8])
@pytest.mark.parametrize(("n", "channels"), [(1, 1), (7, 3), (300, 5)])
def test_equal_to_the_compiled_loops(cp, bits, n, channels):
    rng = np.random.default_rng(n)
    both = parameters(rng, n, channels)
    offsets, indexes = np.empty(n * channels, np.float32), np.empty(n * channels, np.int32)
    compiled.to_indexes(
        both.reshape(-1), 0, channels, 2 * channels, n, channels, THRESHOLDS, bits, offsets, indexes
    )
    on_device = cp.asarray(both), cp.asarray(THRESHOLDS), bits
    found_offsets, found_indexes = to_indexes(*on_device)
    np.testing.assert_array_equal(found_indexes.get().reshape(-1), indexes)
    np.testing.assert_array_equal(found_offsets.get().reshape(-1).view(np.uint32), offsets.view(np.uint32))

    rows, cols, firsts, places, shape = places_of(rng, n, channels)
    values = rng.normal(0, 50, shape) + np.where(rng.random(shape) < 0.2, 0.5, 0)
    y = (np.rint(values) if bits >= 0 else np.round(2 * values) / 2).astype(np.float32)
    flat, width, depth = y.reshape(-1), shape[1], shape[2]
    symbols, y_hat = np.empty(n * channels, np.int32), np.zeros(y.size, np.float32)
    # The compiled loops stop at what is too large; the test stays below.
    where = (0, width, depth, rows, cols, firsts, channels)
    assert compiled.quantize(flat, *where, offsets, bits, symbols) == -1
    assert compiled.store(y_hat, *where, symbols, offsets, bits) == -1
    found = quantize(cp.asarray(y), *on_device, cp.asarray(places))
    np.testing.assert_array_equal(found[0].get().reshape(-1), symbols)
    np.testing.assert_array_equal(found[1].get().reshape(-1), indexes)
    np.testing.assert_array_equal(found[2].get().reshape(-1).view(np.uint32), y_hat.view(np.uint32))
    again = cp.zeros(shape, np.float32)
    dequantize(found[0], found_offsets, bits, again, cp.asarray(places))
    np.testing.assert_array_equal(again.get().reshape(-1).view(np.uint32), y_hat.view(np.uint32))

    dense = np.ascontiguousarray(flat[places[:, None] + np.arange(channels)])
    in_order = quantize(cp.asarray(dense), *on_device)
    np.testing.assert_array_equal(in_order[0].get().reshape(-1), symbols)
    np.testing.assert_array_equal(in_order[2].get(), y_hat[places[:, None] + np.arange(channels)])


@pytest.mark.parametrize("bits", [RESIDUAL, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2**24 + 2, -(2**24) - 2, 3e38])
def test_illegal_latents_are_refused(cp, bits, value):
    both = cp.zeros((6, 4), np.float32)
    y = np.zeros((6, 2), np.float32)
    y[3, 1] = value
    with pytest.raises(ValueError, match="no legal latent: position 3, channel 1"):
        quantize(cp.asarray(y), both, cp.asarray(THRESHOLDS), bits)
    y[3, 1], y[4, 0] = np.sign(value) * 2**24 if value == value else 0, 0.5
    if bits >= 0:
        with pytest.raises(ValueError, match="position 4, channel 0"):
            quantize(cp.asarray(y), both, cp.asarray(THRESHOLDS), bits)
    else:
        symbols, _, y_hat = quantize(cp.asarray(y), both, cp.asarray(THRESHOLDS), bits)
        assert symbols.get()[3, 1] == y_hat.get()[3, 1] == y[3, 1]


@pytest.mark.parametrize("bits", [RESIDUAL, 4])
@pytest.mark.parametrize(("symbol", "offset", "legal"), [
    (2**24, 0, True), (2**24 + 1, 0, False), (-(2**24), 0, True), (2**24 - 5, 5, True), (2**24 - 5, 7, False),
    (2**31 - 1, 2**20, False), (-(2**31), -(2**20), False),
])  # fmt: skip
def test_illegal_reconstructions_are_refused(cp, bits, symbol, offset, legal):
    arrays = cp.asarray(np.array([[symbol]], np.int32)), cp.asarray(np.array([[offset]], np.float32))
    y_hat = cp.zeros((1, 1), np.float32)
    if legal:
        dequantize(*arrays, bits, y_hat)
        assert y_hat.get()[0, 0] == symbol + offset
        return
    with pytest.raises(ValueError, match=r"beyond \+-2\*\*24: position 0, channel 0"):
        dequantize(*arrays, bits, y_hat)


def test_wrong_arguments(cp):
    both, thresholds, y = cp.zeros((6, 4), np.float32), cp.asarray(THRESHOLDS), cp.zeros((6, 2), np.float32)
    places = cp.asarray(np.arange(6) * 2)
    with pytest.raises(TypeError, match="y must be a CuPy array of float32"):
        quantize(np.zeros((6, 2)), both, thresholds, 4)
    with pytest.raises(ValueError, match=r"y of shape \(6, 3\) for 6 positions of 2 channels"):
        quantize(cp.zeros((6, 3), np.float32), both, thresholds, 4)
    with pytest.raises(ValueError, match=r"places 0\.\.11 of 2 floats in a y of 12"):
        quantize(y, both, thresholds, 4, places + (places == 10))
    with pytest.raises(ValueError, match=r"places -2\.\."):
        quantize(y, both, thresholds, 4, places - 2)
    with pytest.raises(ValueError, match="bits 9"):
        to_indexes(both, thresholds, 9)
    with pytest.raises(ValueError, match="not \\(n, 2M\\)"):
        to_indexes(cp.zeros((6, 3), np.float32), thresholds, 4)
    empty = to_indexes(cp.zeros((0, 4), np.float32), thresholds, 4)
    assert empty[0].shape == empty[1].shape == (0, 2)


def test_names_of_the_package(cp):
    assert (cuda.quantize, cuda.to_indexes, cuda.dequantize) == (quantize, to_indexes, dequantize)
    assert cuda.import_cupy() is cp
    assert {"quantize", "to_indexes", "dequantize", "import_cupy"} <= set(dir(cuda))
