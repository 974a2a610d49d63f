"""The loops between float parameters and the coder's integers equal the plain reference to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrans import entropy, kernels
from quadrans.kernels import reference
from quadrans.kernels.quantization import LATENT_LIMIT
from quadrans.nets.backend.quantize import Quantizer

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
EDGES = [0.0, -0.0, 1e-45, -1e-45, 2.0**-126, 3.4028234663852886e38, -3.4028234663852886e38]


def singles(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


@given(
    st.lists(FLOATS | st.sampled_from(EDGES), max_size=20, unique_by=lambda x: float(np.float32(x))),
    st.lists(FLOATS, max_size=40),
)
def test_indexes_under_any_thresholds(thresholds: list[float], values: list[float]) -> None:
    limits = np.sort(singles(thresholds))
    with np.errstate(all="ignore"):
        around = [np.nextafter(limits, np.float32(way)) for way in (-np.inf, np.inf)]
    scale = np.concatenate([singles(values + EDGES), limits, *around])
    scale = scale[np.isfinite(scale)]
    quantizer = Quantizer(kernels.Quantization(limits, None))
    _, indexes = quantizer.to_indexes(np.zeros_like(scale), scale)
    assert indexes.tolist() == [int((value > limits).sum()) for value in scale]


def test_crowded_thresholds() -> None:
    """Hundreds between neighbors of a bucket, some below 0."""
    limits = np.concatenate([-np.linspace(2, 1, 300), np.linspace(1, 1.05, 400), [np.inf]]).astype(np.float32)
    limits = np.unique(limits[np.isfinite(limits)])
    scale = np.concatenate([limits, np.linspace(-3, 3, 5001).astype(np.float32)])
    _, indexes = Quantizer(kernels.Quantization(limits, None)).to_indexes(scale, scale)
    assert indexes.tolist() == np.searchsorted(limits, scale).tolist()


@pytest.mark.parametrize("bits", [None, 0, 4, 8])
def test_rows_symbols_and_latents(bits: int | None) -> None:
    rng = np.random.default_rng(5)
    edges = singles([*EDGES, 0.5, -0.5, 1.5, 2.0**20, -(2.0**20), 2.0**20 + 1, -7.53125, 0.03125, -0.03125])
    mean = np.concatenate([np.repeat(edges, 3), rng.normal(0, 9, 2001).astype(np.float32)])
    scale = rng.uniform(0, 9, mean.size).astype(np.float32)
    y = (mean.clip(-3e6, 3e6) + rng.normal(0, 9, mean.size)).astype(np.float32)
    thresholds = entropy.scale_thresholds()
    quantizer = Quantizer(kernels.Quantization(thresholds, bits))
    offsets, indexes = quantizer.to_indexes(mean, scale)
    expected = reference.scale_index(scale, thresholds)
    if bits is None:
        assert offsets.tobytes() == reference.clamped_mean(mean).tobytes()
        symbols = reference.quantize(y, offsets)
        latent = reference.dequantize(symbols, offsets)
    else:
        y = np.rint(y)
        whole, fraction = reference.fixed_point_mean(mean, bits)
        expected = (expected << bits) + fraction + (1 << bits >> 1)
        assert offsets.tolist() == whole.tolist()
        symbols = y.astype(np.int64) - whole
        latent = y + np.float32(0)
    assert indexes.tolist() == expected.tolist()
    found, bad = quantizer.to_symbols(y, offsets)
    assert bad == -1
    assert found.tolist() == symbols.tolist()
    y_hat, legal = quantizer.to_latent(found, offsets)
    assert legal
    assert y_hat.tobytes() == latent.astype(np.float32).tobytes()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 2.0**24, 2.0**24 - 1, -(2.0**24), 2.0**24 + 2, 3e38, -3e38, 5.5]),
            st.sampled_from([0.0, 1.0, -1.0, 0.75, 2.0**20, -(2.0**20), 2.0**21]),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_limits(pairs: list[tuple[float, float]]) -> None:
    y, mean = singles(pairs).T.copy()
    quantizer = Quantizer(kernels.Quantization(entropy.scale_thresholds(), None))
    offsets, _ = quantizer.to_indexes(mean, np.ones_like(mean))
    symbols = np.rint(y - offsets)
    wrong = [i for i, s in enumerate(symbols) if abs(s) > LATENT_LIMIT or abs(s + offsets[i]) > LATENT_LIMIT]
    found, bad = quantizer.to_symbols(y, offsets)
    assert bad == (wrong[0] if wrong else -1)
    if not wrong:
        assert found.tolist() == symbols.tolist()
        assert quantizer.to_latent(found, offsets)[1]


@pytest.mark.parametrize("bits", [None, 4])
def test_symbols_of_a_forged_stream(bits: int | None) -> None:
    quantizer = Quantizer(kernels.Quantization(entropy.scale_thresholds(), bits))
    for symbol in (-(1 << 31), (1 << 31) - 1, (1 << 24) + 1, -(1 << 24) - 1):
        for offset in (0.0, 2.0**20, -(2.0**20)):
            _, legal = quantizer.to_latent(np.array([3, symbol], np.int32), singles([0, offset]))
            inside = bits is not None and abs(symbol + int(offset)) <= LATENT_LIMIT
            assert legal == inside
