"""The reference itself: its fused multiply-add against exact rationals, its small functions by hand."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quadrans.kernels import reference

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
    leaky = reference.leaky_relu(x)
    assert leaky[:2].tolist() == [2, -float(np.float32(0.01)) * 2]
    assert leaky[4:6].tolist() == [math.inf, -math.inf]
    assert np.isnan(leaky[6])
    assert np.signbit(leaky).tolist()[7]
    relu = reference.relu(x)
    assert relu.tolist() == [2, 0, 0, 0, math.inf, 0, 0, 0]
    assert not np.signbit(relu).any()


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
