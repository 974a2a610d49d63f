"""The arithmetic contract in plain NumPy, in the order of ARITHMETIC.md: slow, literal, the oracle.

Every fast version, on any device, must equal these functions to the bit (NaN payloads apart).
Arrays are float32; an image is (height, width, channels); weights have PyTorch's layouts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .orders import Taps, mask_taps

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

MEAN_LIMIT = np.float32(2**20)


def fma(a: FloatArray | np.float32, b: FloatArray, c: FloatArray) -> FloatArray:
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


def conv2d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray,
    stride: int = 1,
    padding: int = 0,
    mask: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """(H, W, C) -> (H', W', D) with weight (D, C, kh, kw), bias (D,), mask (kh, kw) or None."""
    height, width, channels = x.shape
    depth, _, kh, kw = weight.shape
    out_h = (height + 2 * padding - kh) // stride + 1
    out_w = (width + 2 * padding - kw) // stride + 1
    out = np.empty((out_h, out_w, depth), np.float32)
    for r in range(out_h):
        for c in range(out_w):
            acc = bias.copy()
            for i in range(kh):
                for j in range(kw):
                    y, z = r * stride + i - padding, c * stride + j - padding
                    if 0 <= y < height and 0 <= z < width and (mask is None or mask[i, j]):
                        for k in range(channels):
                            acc = fma(x[y, z, k], weight[:, k, i, j], acc)
            out[r, c] = acc
    return out


def conv_transpose2d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray,
    stride: int = 2,
    padding: int = 2,
    output_padding: int = 1,
) -> FloatArray:
    """(H, W, C) -> (H', W', D) with weight (C, D, kh, kw), bias (D,)."""
    height, width, channels = x.shape
    _, depth, kh, kw = weight.shape
    out_h = (height - 1) * stride - 2 * padding + kh + output_padding
    out_w = (width - 1) * stride - 2 * padding + kw + output_padding
    out = np.empty((out_h, out_w, depth), np.float32)
    for r in range(out_h):
        for c in range(out_w):
            acc = bias.copy()
            for i in range(kh):
                for j in range(kw):
                    y, y_rest = divmod(r + padding - i, stride)
                    z, z_rest = divmod(c + padding - j, stride)
                    if y_rest == 0 and z_rest == 0 and 0 <= y < height and 0 <= z < width:
                        for k in range(channels):
                            acc = fma(x[y, z, k], weight[k, :, i, j], acc)
            out[r, c] = acc
    return out


def linear(x: FloatArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    """(n, C) -> (n, D) with weight (D, C): a 1x1 convolution at n positions."""
    acc = np.broadcast_to(bias, (len(x), len(bias))).copy()
    for k in range(x.shape[1]):
        acc = fma(x[:, k, None], weight[:, k], acc)
    return acc


def leaky_relu(x: FloatArray, slope: float = 0.01) -> FloatArray:
    """x > t ? x : t with t = slope * x, slope rounded to binary32; NaN stays NaN."""
    t = np.float32(slope) * x
    return np.where(x > t, x, t)


def relu(x: FloatArray) -> FloatArray:
    """x > 0 ? x : +0; NaN and -0 become +0."""
    return np.where(x > 0, x, np.float32(0))


def context_at(
    y_hat: FloatArray, weight: FloatArray, bias: FloatArray, taps: Taps, rows: NDArray, cols: NDArray
) -> FloatArray:
    """Masked convolution of y_hat (H, W, M) at n positions: (n, D), weight (D, M, kh, kw)."""
    height, width, channels = y_hat.shape
    flat = weight.reshape(*weight.shape[:2], -1)
    out = np.empty((len(rows), len(bias)), np.float32)
    for n, (r, c) in enumerate(zip(rows, cols, strict=True)):
        acc = bias.copy()
        for index, dr, dc in zip(taps.index, taps.dr, taps.dc, strict=True):
            if 0 <= r + dr < height and 0 <= c + dc < width:
                for k in range(channels):
                    acc = fma(y_hat[r + dr, c + dc, k], flat[:, k, index], acc)
        out[n] = acc
    return out


def scale_index(scale: FloatArray, thresholds: FloatArray) -> IntArray:
    """The number of thresholds t with scale > t; 0 for NaN."""
    return (scale[..., None] > thresholds).sum(-1, dtype=np.int32)


def fixed_point_mean(mean: FloatArray, fraction_bits: int = 4) -> tuple[IntArray, IntArray]:
    """(integer part k, fraction f), with k * 2^b + f the mean in units of 2^-b, f in [-2^b/2, 2^b/2).

    The mean is clamped to [-2^20, 2^20] first (NaN becomes 0) and rounded half to even.
    """
    number = np.where(np.isnan(mean), np.float32(0), np.clip(mean, -MEAN_LIMIT, MEAN_LIMIT))
    q = np.rint(number * np.float32(2**fraction_bits)).astype(np.int32)
    k = (q + (2**fraction_bits >> 1)) >> fraction_bits
    return k, q - (k << fraction_bits)


def parameters(
    features: FloatArray,
    y_hat: FloatArray,
    rows: NDArray,
    cols: NDArray,
    mask: NDArray[np.bool_] | Taps,
    read_context: bool,
    context: tuple[FloatArray, FloatArray],
    head: list[tuple[FloatArray, FloatArray]],
    thresholds: FloatArray,
    fraction_bits: int = 4,
) -> tuple[IntArray, IntArray]:
    """(means, indexes), (n, M) each, of a step; context and head layers are (weight, bias) pairs."""
    weight, bias = context
    if read_context:
        feature = context_at(y_hat, weight, bias, mask_taps(mask), rows, cols)
    else:
        feature = np.zeros((len(rows), len(bias)), np.float32)
    x = np.concatenate([features[rows, cols], feature], axis=1)
    for number, (w, b) in enumerate(head):
        x = linear(leaky_relu(x) if number else x, w, b)
    scales, means = np.split(x, 2, axis=1)
    k, f = fixed_point_mean(means, fraction_bits)
    indexes = (scale_index(scales, thresholds) << fraction_bits) + f + (2**fraction_bits >> 1)
    return k, indexes.astype(np.int32)
