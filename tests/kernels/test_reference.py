"""The reference itself: its fused multiply-add against exact rationals, its sums term by term."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quadrans.kernels import reference, reference_functions
from quadrans.kernels.taps import Taps, causal_mask, checkerboard_mask, mask_taps

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def nearest_float32(value: Fraction) -> float:
    """The binary32 nearest to a rational, ties to even, by integer arithmetic."""
    size = abs(value)
    if size == 0:
        return 0.0
    exponent = -149
    while size >= Fraction(2) ** (exponent + 24):
        exponent += 1
    scaled = size / Fraction(2) ** exponent
    whole = scaled.numerator // scaled.denominator
    rest = scaled - whole
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    rounded = Fraction(whole) * Fraction(2) ** exponent
    result = math.inf if rounded >= Fraction(2) ** 128 else float(rounded)
    return math.copysign(result, value)


def fma(a: float, b: float, c: float) -> float:
    return float(reference.fma(*np.array([a, b, c], np.float32)[:, None])[0])


@given(FINITE, FINITE, FINITE)
@example(1.0, 1.0, 2.0**-24)
@example(1.0 + 2.0**-23, 1.0, 2.0**-24)
@example(1.0, 1.0, 2.0**-24 + 2.0**-47)
@example(2.0**-75, 2.0**-75, 2.0**-149)
@example(2.0**-75, -(2.0**-75), 2.0**-149)
@example(2.0**-100, 2.0**-100, 1.0 + 2.0**-23)
@example(1.0 + 2.0**-12, 1.0 + 2.0**-12, 2.0**-126)
@example(1.0 + 2.0**-23, 1.0 - 2.0**-24, -1.0)
@example(2.0**127, 2.0, -(2.0**127))
@example(3.4028234663852886e38, 1.0, 2.0**103)
@example(3.4028234663852886e38, 1.0, 2.0**102)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    assert fma(a, b, c) == nearest_float32(Fraction(a) * Fraction(b) + Fraction(c))


@given(FINITE, FINITE)
def test_fma_after_cancellation(a: float, b: float) -> None:
    with np.errstate(over="ignore"):
        c = -np.float32(a) * np.float32(b)
    if np.isfinite(c):
        exact = Fraction(a) * Fraction(b) + Fraction(float(c))
        assert fma(a, b, float(c)) == nearest_float32(exact)


def test_fma_of_random_bits() -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, (3, 4000), dtype=np.uint32)
    a, b, c = bits.view(np.float32)
    with np.errstate(all="ignore"):
        c[::2] = (-(a.astype(np.float64) * b) * (1 + 2.0**-24))[::2].astype(np.float32)
    result = reference.fma(a, b, c)
    for x, y, z, r in zip(a.tolist(), b.tolist(), c.tolist(), result.tolist(), strict=True):
        if math.isfinite(x) and math.isfinite(y) and math.isfinite(z):
            assert r == nearest_float32(Fraction(x) * Fraction(y) + Fraction(z))


def test_fma_special_values() -> None:
    inf, nan = math.inf, math.nan
    assert fma(inf, 1, 1) == inf
    assert fma(-inf, 1, 1) == -inf
    assert fma(2, 3, -inf) == -inf
    assert all(math.isnan(fma(*abc)) for abc in ((inf, 0, 1), (inf, 1, -inf), (nan, 1, 1), (1, 1, nan)))
    assert [
        math.copysign(1, fma(*abc)) for abc in ((0, 1, -0.0), (-0.0, 1, -0.0), (1, 1, -1), (-1e-30, 1e-30, 0))
    ] == [
        1,
        -1,
        1,
        -1,
    ]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="math.fma is new in Python 3.13")
@given(FINITE, FINITE, FINITE)
def test_fma_against_double(a: float, b: float, c: float) -> None:
    """Where the binary64 result is exact in binary32, both agree."""
    wide = math.fma(a, b, c)  # type: ignore[attr-defined,unused-ignore]
    with np.errstate(over="ignore"):
        narrow = float(np.float32(wide))
    if narrow == wide and Fraction(a) * Fraction(b) + Fraction(c) == Fraction(wide):
        assert fma(a, b, c) == narrow


def test_activations() -> None:
    x = np.array([2, -2, 0.0, -0.0, np.inf, -np.inf, np.nan, -(2.0**-149)], np.float32)
    leaky = reference_functions.leaky_relu(x)
    assert leaky[:2].tolist() == [2, -float(np.float32(0.01)) * 2]
    assert leaky[4:6].tolist() == [math.inf, -math.inf]
    assert np.isnan(leaky[6])
    assert np.signbit(leaky).tolist()[7]
    relu = reference_functions.relu(x)
    assert relu.tolist() == [2, 0, 0, 0, math.inf, 0, 0, 0]
    assert not np.signbit(relu).any()


Normal = Callable[..., np.ndarray]
Same = Callable[[np.ndarray, np.ndarray], None]


def sum_of_products(bias: float, taps: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """ARITHMETIC.md's section 2 for one output: taps of (x, weight), each of the input channels."""
    total = np.float32(bias)
    for x, weight in taps:
        for first in range(0, len(x), 64):
            acc = 0.0
            for k in range(first, min(first + 64, len(x))):
                acc = fma(x[k], weight[k], acc)
            total = np.float32(total + np.float32(acc))
    return float(total)


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 130])
def test_linear(channels: int, normal: Normal, assert_same_bits: Same) -> None:
    x, weight, bias = normal(3, channels), normal(4, channels), normal(4)
    x[1] *= np.float32(2.0**-120)
    expected = [[sum_of_products(b, [(row, w)]) for b, w in zip(bias, weight, strict=True)] for row in x]
    assert_same_bits(reference.linear(x, weight, bias), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((1, 1), (3, 3), (1, 1), (1, 1)),
        ((4, 5), (3, 2), (2, 1), (0, 1)),
        ((5, 4), (1, 3), (1, 3), (2, 1)),
        ((6, 6), (2, 2), (3, 3), (0, 0)),
    ],
)
def test_conv2d(  # type: ignore[no-untyped-def]
    size, kernel, stride, padding, normal: Normal, rng, assert_same_bits: Same
) -> None:
    x, weight, bias = normal(*size, 3), normal(2, 3, *kernel), normal(2)
    mask = rng.random(kernel) < 0.8
    out = reference.conv2d(x, weight, bias, stride, padding, mask)
    assert out.shape[:2] == tuple((size[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in (0, 1))
    expected = np.empty_like(out)
    single = np.empty((*out.shape[:2], 3), np.float32)
    for r, c, d in np.ndindex(out.shape):
        taps = [
            ((i, j), x[r * stride[0] + i - padding[0], c * stride[1] + j - padding[1]])
            for i, j in np.ndindex(*kernel)
            if 0 <= r * stride[0] + i - padding[0] < size[0] and 0 <= c * stride[1] + j - padding[1] < size[1]
        ]
        present = [(value, weight[d, :, i, j]) for (i, j), value in taps if mask[i, j]]
        expected[r, c, d] = sum_of_products(bias[d], present)
        for k in range(3):
            single[r, c, k] = bias[0]
            for (i, j), value in taps:
                single[r, c, k] = fma(value[k], weight[0, k, i, j], single[r, c, k])
    assert_same_bits(out, expected)
    depthwise = weight[0][:, None]
    assert_same_bits(reference.depthwise_conv2d(x, depthwise, np.repeat(bias[0], 3), stride, padding), single)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "extra"),
    [
        ((1, 1), (5, 5), 2, (2, 2), (1, 1)),
        ((3, 2), (3, 4), 3, (0, 1), (2, 0)),
        ((2, 3), (2, 2), 1, (1, 0), (0, 0)),
        ((2, 2), (2, 1), 4, (1, 0), (3, 3)),
    ],
)
def test_conv_transpose2d(  # type: ignore[no-untyped-def]
    size, kernel, stride, padding, extra, normal: Normal, assert_same_bits: Same
) -> None:
    """Every input adds to the outputs at stride times its position, tap by tap in ascending order."""
    x, weight, bias = normal(*size, 3), normal(3, 2, *kernel), normal(2)
    out = reference.conv_transpose2d(x, weight, bias, stride, padding, extra)
    expected = np.empty_like(out)
    assert out.shape[:2] == tuple(
        (size[a] - 1) * stride - 2 * padding[a] + kernel[a] + extra[a] for a in (0, 1)
    )
    for r, c, d in np.ndindex(out.shape):
        taps = [
            (x[y, z], weight[:, d, i, j])
            for i, j in np.ndindex(*kernel)
            for y, z in np.ndindex(*size)
            if (y * stride + i - padding[0], z * stride + j - padding[1]) == (r, c)
        ]
        expected[r, c, d] = sum_of_products(bias[d], taps)
    assert_same_bits(out, expected)


def test_convolutions_against_torch(normal: Normal) -> None:
    """The same operations as PyTorch's, up to its rounding: layouts, flips and paddings are right."""
    import torch
    from torch.nn.functional import conv2d, conv_transpose2d, pixel_shuffle, pixel_unshuffle

    x, weight, bias = normal(5, 4, 3), normal(6, 3, 5, 5), normal(6)
    image, w, b = torch.from_numpy(x).permute(2, 0, 1)[None], torch.from_numpy(weight), torch.from_numpy(bias)
    single, wide = normal(3, 1, 3, 3), normal(4, 6, 12)
    wide_image = torch.from_numpy(wide).permute(2, 0, 1)[None]
    pairs = [
        (reference.conv2d(x, weight, bias, (2, 1), (2, 1)), conv2d(image, w, b, (2, 1), (2, 1))),
        (
            reference.conv_transpose2d(x, weight.swapaxes(0, 1), bias, 2, (2, 1), (1, 0)),
            conv_transpose2d(image, w.transpose(0, 1), b, 2, (2, 1), (1, 0)),
        ),
        (
            reference.depthwise_conv2d(x, single, bias[:3], 2, 1),
            conv2d(image, torch.from_numpy(single), b[:3], 2, 1, groups=3),
        ),
        (reference.pixel_shuffle(wide, 2), pixel_shuffle(wide_image, 2)),
        (reference.pixel_unshuffle(wide, 2), pixel_unshuffle(wide_image, 2)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(reference.pixel_unshuffle(reference.pixel_shuffle(wide, 2), 2), wide)


@pytest.mark.parametrize("mask", [causal_mask(5), checkerboard_mask(3)])
def test_context_is_a_convolution(mask: np.ndarray, normal: Normal, assert_same_bits: Same) -> None:
    kernel = len(mask)
    y_hat, weight, bias = normal(4, 6, 2), normal(3, 2, kernel, kernel), normal(3)
    rows, cols = np.divmod(np.random.default_rng(1).permutation(24), 6)
    whole = reference.conv2d(y_hat, weight, bias, 1, kernel // 2, mask)
    assert_same_bits(
        reference.context_at(y_hat, weight, bias, mask_taps(mask), rows, cols), whole[rows, cols]
    )


def test_window(normal: Normal, assert_same_bits: Same) -> None:
    """Lee 2019's: three rows above and two columns to the left, one to the right; the last two unread."""
    y_hat, size = normal(5, 6, 2), (4, 4)
    read = [(i, j) for i, j in np.ndindex(*size) if (i, j) not in ((3, 2), (3, 3))]
    rows, cols = np.array(read).T
    taps = Taps(rows * 4 + cols, rows - 3, cols - 2, size)
    padded = np.pad(y_hat, ((3, 0), (2, 1), (0, 0)))
    for r, c in np.ndindex(5, 6):
        expected = padded[r : r + 4, c : c + 4].copy()
        expected[3, 2:] = 0
        assert_same_bits(reference.window_at(y_hat, taps, np.array([r]), np.array([c]))[0], expected)
    around = mask_taps(np.ones((3, 5), np.bool_))
    padded = np.pad(y_hat, ((1, 1), (2, 2), (0, 0)))
    rows, cols = np.divmod(np.arange(30), 6)
    for r, c, window in zip(rows, cols, reference.window_at(y_hat, around, rows, cols), strict=True):
        assert_same_bits(window, padded[r : r + 3, c : c + 5])


def test_scale_index() -> None:
    thresholds = np.array([0.5, 1, 2], np.float32)
    scales = np.array([-1, 0.5, 0.50001, 1, 1.5, 2, 3, np.inf, -np.inf, np.nan], np.float32)
    assert reference.scale_index(scales, thresholds).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0]


def test_fixed_point_mean() -> None:
    means = [0.46875, 0.40625, -0.5, -0.53125, -0.59375, 2**21, -np.inf, np.nan]
    k, f = reference.fixed_point_mean(np.array(means, np.float32))
    assert k.tolist() == [1, 0, 0, 0, -1, 2**20, -(2**20), 0]
    assert f.tolist() == [-8, 6, -8, -8, 6, 0, 0, 0]
    k, f = reference.fixed_point_mean(np.array([0.5, 1.5, -2.5], np.float32), fraction_bits=0)
    assert k.tolist() == [0, 2, -2]
    assert f.tolist() == [0, 0, 0]


def test_residuals() -> None:
    y = np.array([2.5, -0.5, 0.25, 7, 1e7], np.float32)
    mean = np.array([0, 0, np.nan, np.inf, -np.inf], np.float32)
    symbols = reference.quantize(y, mean)
    assert symbols.tolist() == [2, 0, 0, 7 - 2**20, 10**7 + 2**20]
    assert reference.dequantize(symbols, mean).tolist() == [2, 0, 0, 7, 10**7]
    assert reference.quantize(
        np.array([2.5, -2.5], np.float32), np.array([0.3, 0.3], np.float32)
    ).tolist() == [2, -3]
    third = np.array([1 / 3], np.float32)
    assert reference.dequantize(np.array([2**24], np.int32), -third)[0] == 2**24
    assert reference.dequantize(np.array([1], np.int32), third)[0] == np.float32(4 / 3)
    for value in (2.0**24 + 2, -(2.0**25), np.inf, np.nan):
        with pytest.raises(ValueError, match="beyond"):
            reference.quantize(np.array([value], np.float32), np.zeros(1, np.float32))
    for symbol, mean_value in ((2**24 + 1, 0), (-(2**31), 0), (2**24, 2)):
        with pytest.raises(ValueError, match="beyond"):
            reference.dequantize(np.array([symbol], np.int32), np.array([mean_value], np.float32))
