"""The arithmetic contract in plain NumPy, in the order of ARITHMETIC.md: slow, literal, the oracle.

Every fast version, on any device, must equal these functions to the bit (NaN payloads apart).
Arrays are float32; an image is (height, width, channels); weights have PyTorch's layouts. Functions of
one number, normalization and attention are in `reference_functions`, whole networks in `reference_network`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .taps import Taps

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
Pair = int | tuple[int, int]
"""The same for rows and columns, or (rows, columns)."""

BLOCK = 64
"""Terms of a sum of products that are one chain."""

MEAN_LIMIT = np.float32(2**20)
LATENT_LIMIT = 2**24


def fma(a: FloatArray | np.float32, b: FloatArray | np.float32, c: FloatArray | np.float32) -> FloatArray:
    """a * b + c rounded once to binary32, elementwise with broadcasting.

    The product of two 24-bit significands is exact in binary64. TwoSum gives product + c as
    s + e exactly, with s the nearest binary64 (every term is a multiple of 2^-298 and below
    2^257, so nothing under- or overflows). s is then rounded to odd: if e != 0 and the last bit
    of s is 0, the neighbour of s on the side of e is taken, whose last bit is 1. Rounding a value
    that was rounded to odd with at least 2 bits to spare (53 >= 24 + 2) equals rounding the exact
    one, ties, subnormals and overflow included (Boldo and Melquiond 2008).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
        addend = np.asarray(c, np.float64)
        s = np.asarray(product + addend)
        back = s - product
        e = (product - (s - back)) + (addend - back)
        inexact = np.isfinite(s) & (e != 0)
        away = np.where((e > 0) == (s > 0), 1, -1)
        bits = s.view(np.int64)
        odd = np.where(inexact & (bits & 1 == 0), bits + away, bits)
        return odd.view(np.float64).astype(np.float32)


def add_products(total: FloatArray, x: FloatArray, weight: FloatArray) -> FloatArray:
    """A tap's blocks joined to the totals: total (..., D), x (..., C), weight (D, C)."""
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, x.shape[-1], BLOCK):
            acc = np.zeros_like(total)
            for k in range(first, min(first + BLOCK, x.shape[-1])):
                acc = fma(x[..., k, None], weight[:, k], acc)
            total = total + acc
    return total


def _both(value: Pair) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _present(rows: NDArray, cols: NDArray, size: tuple[int, ...]) -> tuple[Any, Any]:
    """Index of the outputs (r, c) whose tap (rows[r], cols[c]) is inside an image, and of those positions."""
    r, c = (rows >= 0) & (rows < size[0]), (cols >= 0) & (cols < size[1])
    return np.ix_(r, c), np.ix_(rows[r], cols[c])


def _taps(
    size: tuple[int, ...], out: tuple[int, int], kernel: tuple[int, ...], stride: Pair, padding: Pair
) -> Iterator[tuple[int, int, Any, Any]]:
    """Taps (i, j) of a convolution from `size` to `out` positions, each with `_present`'s indexes."""
    s, p = _both(stride), _both(padding)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows, cols = s[0] * np.arange(out[0]) + i - p[0], s[1] * np.arange(out[1]) + j - p[1]
            yield i, j, *_present(rows, cols, size)


def _size(size: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, padding: Pair) -> tuple[int, int]:
    s, p = _both(stride), _both(padding)
    return (size[0] + 2 * p[0] - kernel[0]) // s[0] + 1, (size[1] + 2 * p[1] - kernel[1]) // s[1] + 1


def conv2d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray,
    stride: Pair = 1,
    padding: Pair = 0,
    mask: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """(H, W, C) -> (H', W', D) with weight (D, C, kh, kw), bias (D,), mask (kh, kw) or None."""
    kernel = weight.shape[2:]
    out = np.tile(bias, (*_size(x.shape, kernel, stride, padding), 1))
    for i, j, at, source in _taps(x.shape, out.shape[:2], kernel, stride, padding):
        if mask is None or mask[i, j]:
            out[at] = add_products(out[at], x[source], weight[:, :, i, j])
    return out


def depthwise_conv2d(
    x: FloatArray, weight: FloatArray, bias: FloatArray, stride: Pair = 1, padding: Pair = 0
) -> FloatArray:
    """(H, W, C) -> (H', W', C) with weight (C, 1, kh, kw), bias (C,)."""
    kernel = weight.shape[2:]
    out = np.tile(bias, (*_size(x.shape, kernel, stride, padding), 1))
    for i, j, at, source in _taps(x.shape, out.shape[:2], kernel, stride, padding):
        out[at] = fma(x[source], weight[:, 0, i, j], out[at])
    return out


def conv_transpose2d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray,
    stride: int = 2,
    padding: Pair = 2,
    output_padding: Pair = 1,
) -> FloatArray:
    """(H, W, C) -> (H', W', D) with weight (C, D, kh, kw), bias (D,)."""
    kernel, p, q = weight.shape[2:], _both(padding), _both(output_padding)
    size = [(x.shape[a] - 1) * stride - 2 * p[a] + kernel[a] + q[a] for a in (0, 1)]
    out = np.tile(bias, (*size, 1))

    def quotients(axis: int, tap: int) -> NDArray:
        whole, rest = np.divmod(np.arange(size[axis]) + p[axis] - tap, stride)
        return np.where(rest == 0, whole, -1)

    for i in range(kernel[0]):
        for j in range(kernel[1]):
            at, source = _present(quotients(0, i), quotients(1, j), x.shape)
            out[at] = add_products(out[at], x[source], weight[:, :, i, j].T)
    return out


def linear(x: FloatArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    """(..., C) -> (..., D) with weight (D, C): a 1x1 convolution."""
    return add_products(np.tile(bias, (*x.shape[:-1], 1)), x, weight)


def pixel_shuffle(x: FloatArray, f: int) -> FloatArray:
    """(H, W, C f^2) -> (H f, W f, C)."""
    y = np.empty((x.shape[0] * f, x.shape[1] * f, x.shape[2] // f**2), np.float32)
    for i in range(f):
        for j in range(f):
            y[i::f, j::f] = x[:, :, i * f + j :: f * f]
    return y


def pixel_unshuffle(y: FloatArray, f: int) -> FloatArray:
    """(H f, W f, C) -> (H, W, C f^2): pixel_shuffle's inverse."""
    x = np.empty((y.shape[0] // f, y.shape[1] // f, y.shape[2] * f**2), np.float32)
    for i in range(f):
        for j in range(f):
            x[:, :, i * f + j :: f * f] = y[i::f, j::f]
    return x


def context_at(
    y_hat: FloatArray, weight: FloatArray, bias: FloatArray, taps: Taps, rows: NDArray, cols: NDArray
) -> FloatArray:
    """Masked convolution of y_hat (H, W, M) at n positions: (n, D), weight (D, M, kh, kw)."""
    flat = weight.reshape(*weight.shape[:2], -1)
    total = np.tile(bias, (len(rows), 1))
    for index, dr, dc in zip(taps.index, taps.dr, taps.dc, strict=True):
        r, c = rows + dr, cols + dc
        here = (r >= 0) & (r < y_hat.shape[0]) & (c >= 0) & (c < y_hat.shape[1])
        total[here] = add_products(total[here], y_hat[r[here], c[here]], flat[:, :, index])
    return total


def window_at(y_hat: FloatArray, taps: Taps, rows: NDArray, cols: NDArray) -> FloatArray:
    """The taps around n positions of y_hat (H, W, M): (n, kh, kw, M), +0 elsewhere and outside."""
    windows = np.zeros((len(rows), taps.shape[0] * taps.shape[1], y_hat.shape[2]), np.float32)
    for index, dr, dc in zip(taps.index, taps.dr, taps.dc, strict=True):
        r, c = rows + dr, cols + dc
        here = (r >= 0) & (r < y_hat.shape[0]) & (c >= 0) & (c < y_hat.shape[1])
        windows[here, index] = y_hat[r[here], c[here]]
    return windows.reshape(len(rows), *taps.shape, y_hat.shape[2])


def scale_index(scale: FloatArray, thresholds: FloatArray) -> IntArray:
    """The number of thresholds t with scale > t; 0 for NaN."""
    return (scale[..., None] > thresholds).sum(-1, dtype=np.int32)


def clamped_mean(mean: FloatArray) -> FloatArray:
    """The mean within +-2^20; NaN becomes 0."""
    return np.where(np.isnan(mean), np.float32(0), np.clip(mean, -MEAN_LIMIT, MEAN_LIMIT))


def fixed_point_mean(mean: FloatArray, fraction_bits: int = 4) -> tuple[IntArray, IntArray]:
    """Integer mode: (integer part k, fraction f), with k * 2^b + f the mean in units of 2^-b.

    Rounded half to even; f is in [-2^b/2, 2^b/2).
    """
    q = np.rint(clamped_mean(mean) * np.float32(2**fraction_bits)).astype(np.int32)
    k = (q + (2**fraction_bits >> 1)) >> fraction_bits
    return k, q - (k << fraction_bits)


def quantize(y: FloatArray, mean: FloatArray) -> IntArray:
    """Residual mode: the symbols of a latent, int32. ValueError for one beyond +-2^24."""
    with np.errstate(invalid="ignore"):
        symbol = np.rint(y - clamped_mean(mean))
    if not (np.abs(symbol) <= LATENT_LIMIT).all():
        raise ValueError(f"a symbol is beyond +-{LATENT_LIMIT}")
    return symbol.astype(np.int32)


def dequantize(symbol: IntArray, mean: FloatArray) -> FloatArray:
    """Residual mode: the latent of symbols. ValueError for a symbol or a result beyond +-2^24."""
    if not (np.abs(symbol.astype(np.int64)) <= LATENT_LIMIT).all():
        raise ValueError(f"a symbol is beyond +-{LATENT_LIMIT}")
    y_hat = symbol.astype(np.float32) + clamped_mean(mean)
    if not (np.abs(y_hat) <= LATENT_LIMIT).all():
        raise ValueError(f"a latent is beyond +-{LATENT_LIMIT}")
    return y_hat
