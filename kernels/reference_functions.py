"""The functions and reductions of the arithmetic contract in plain NumPy, in the order of ARITHMETIC.md.

Slow, literal, the oracle, as `reference` is. Arrays are float32 of any shape unless stated.
"""

from __future__ import annotations

import numpy as np

from .reference import FloatArray, fma

_ZERO, _HALF, _ONE, _TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
_SHIFT = np.float32(1.5 * 2**23)

# The operations make infinities and NaNs where the page says so, and not by mistake.
_quiet = np.errstate(all="ignore")


def _numbers(text: str) -> list[np.float32]:
    """The binary32 numbers whose bits are listed in hexadecimal."""
    return list(np.array([int(word, 16) for word in text.split()], np.uint32).view(np.float32))


_LOG2_E, _LN2_HIGH, _LN2_LOW = _numbers("3FB8AA3B 3F317200 35BFBE8E")
_EXP = _numbers("3EFFFFFE 3E2AAA49 3D2AAC58 3C091CC7 3AB526B0")
_LOG1P = _numbers("BEFFFFFC 3EAAA9DB BE7FE2CF 3E4BC5AB BE253962 3DFF94AD BDAA792F 3D2C8098 BC605308 3B089CDA")
_TANH = _numbers("BEAAAAA4 3E08862F BD5C82E2 3CAC08FB BBCA2A79")
_TAIL = _numbers("3DD91089 3DD82508 3DD208F2 3D7D800E 3E093CCB BDE209AB 3E5902D9 BE119B80 3CFB0B67")
_ERF = _numbers("3E0375D4 BEC0939F 3DE71673 BCDBFB8D 3BA9F912 BA51A8AF 38A3B8FE")
(_SQRT_2,) = _numbers("3FB504F3")
_GELU_1, _GELU_3 = _numbers("3FCC422A 3D922279")


def polynomial(x: FloatArray, coefficients: list[np.float32]) -> FloatArray:
    """c_0 + c_1 x + ... by Horner's rule, one fma a step."""
    p = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        p = fma(x, p, c)
    return p


def _at_most(x: FloatArray, limit: float) -> FloatArray:
    return np.where(x > np.float32(limit), np.float32(limit), x)


def _at_least(x: FloatArray, limit: float) -> FloatArray:
    return np.where(x < np.float32(limit), np.float32(limit), x)


def absolute(x: FloatArray) -> FloatArray:
    """x with its sign bit cleared."""
    return (np.asarray(x).view(np.uint32) & np.uint32(0x7FFFFFFF)).view(np.float32)


def _with_sign(x: FloatArray, sign: FloatArray) -> FloatArray:
    bits = sign.view(np.uint32) & np.uint32(0x80000000)
    return (absolute(x).view(np.uint32) | bits).view(np.float32)


def relu(x: FloatArray) -> FloatArray:
    """x > 0 ? x : +0."""
    return np.where(x > _ZERO, x, _ZERO)


@_quiet
def leaky_relu(x: FloatArray, slope: float = 0.01) -> FloatArray:
    """x > t ? x : t with t = slope * x, slope rounded to binary32."""
    t = np.float32(slope) * x
    return np.where(x > t, x, t)


@_quiet
def sqrt(x: FloatArray) -> FloatArray:
    """x <= 0 ? +0 : the root of x."""
    return np.sqrt(np.where(x <= _ZERO, _ZERO, x))


@_quiet
def exp(x: FloatArray) -> FloatArray:
    """e^x."""
    vanishes = x < np.float32(-104)
    x = np.where(vanishes, _ZERO, _at_most(x, 89))
    n = fma(x, _LOG2_E, _SHIFT) - _SHIFT
    w = fma(n, -_LN2_HIGH, x)
    r = fma(n, -_LN2_LOW, w)
    h = _ONE + w
    rest = fma(n, -_LN2_LOW, (_ONE - h) + w)
    y = h + fma(r * r, polynomial(r, _EXP), rest)
    # In binary64 the product with 2^n is exact, so that it is rounded once.
    power = (y * np.exp2(n.astype(np.float64))).astype(np.float32)
    return np.where(vanishes, _ZERO, power)


@_quiet
def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + e^-x)."""
    e = exp(-absolute(x))
    m = np.where(x < _ZERO, e, _ONE)
    return fma(-m, e / (_ONE + e), m)


@_quiet
def softplus(x: FloatArray) -> FloatArray:
    """log(1 + e^x)."""
    u = exp(-absolute(x))
    return relu(x) + fma(u * u, polynomial(u, _LOG1P), u)


@_quiet
def tanh(x: FloatArray) -> FloatArray:
    """The hyperbolic tangent."""
    a = absolute(x)
    z = a * a
    small = fma(a * z, polynomial(z, _TANH), a)
    large = _ONE - _TWO / (exp(a + a) + _ONE)
    return _with_sign(np.where(a < np.float32(0.5625), small, large), x)


@_quiet
def normal_tail(a: FloatArray) -> FloatArray:
    """The standard normal distribution's mass beyond a, for 0 <= a <= 14.5."""
    c = np.float32(17 / 64)
    d = fma(a, c, _ONE)
    t = _ONE / d
    d_rest = fma(a, c, _ONE - d)
    t_rest = fma(-t, d_rest, fma(-d, t, _ONE))
    p = polynomial(t, _TAIL) * t
    square = a * a
    a_rest = fma(a, a, -square)
    correction = fma(fma(_TWO, t, _ONE), t_rest, -_HALF * a_rest)
    return fma(p, correction, p) * exp(-_HALF * square)


@_quiet
def erf(x: FloatArray) -> FloatArray:
    """The error function."""
    a = absolute(x)
    small = fma(a, polynomial(a * a, _ERF), a)
    large = fma(-_TWO, normal_tail(_at_most(_SQRT_2 * a, 14.5)), _ONE)
    return _with_sign(np.where(a < _ONE, small, large), x)


@_quiet
def gelu(x: FloatArray) -> FloatArray:
    """x times the standard normal distribution function of x."""
    a = _at_most(absolute(x), 14.5)
    return fma(-a, normal_tail(a), relu(x))


@_quiet
def gelu_tanh(x: FloatArray) -> FloatArray:
    """The tanh approximation of GELU."""
    x = _at_least(x, -16)
    return x * sigmoid(x * fma(x * x, _GELU_3, _GELU_1))


def _partial_sums(x: FloatArray, squares: bool) -> FloatArray:
    partial = np.zeros((*x.shape[:-1], 32), np.float32)
    for first in range(0, x.shape[-1], 32):
        piece = x[..., first : first + 32]
        part = partial[..., : piece.shape[-1]]
        part[...] = fma(piece, piece, part) if squares else part + piece
    for h in (16, 8, 4, 2, 1):
        partial[..., :h] = partial[..., :h] + partial[..., h : 2 * h]
    return partial[..., 0]


@_quiet
def reduce_sum(x: FloatArray) -> FloatArray:
    """The sum over the last axis in 32 strided partial sums."""
    return _partial_sums(x, squares=False)


@_quiet
def reduce_sum_squares(x: FloatArray) -> FloatArray:
    """The sum of squares over the last axis; each term enters its partial sum by an fma."""
    return _partial_sums(x, squares=True)


@_quiet
def layer_norm(x: FloatArray, gamma: FloatArray, beta: FloatArray, eps: float = 1e-5) -> FloatArray:
    """LayerNorm of x (..., C) over its last axis, with gamma, beta (C,); eps is rounded to binary32."""
    count = np.float32(x.shape[-1])
    d = x - (reduce_sum(x) / count)[..., None]
    variance = reduce_sum_squares(d) / count
    r = _ONE / np.sqrt(variance + np.float32(eps))
    return fma(d * r[..., None], gamma, beta)


@_quiet
def softmax(x: FloatArray) -> FloatArray:
    """Softmax over the last axis."""
    peak = np.full(x.shape[:-1], -np.inf, np.float32)
    for i in range(x.shape[-1]):
        peak = np.where(x[..., i] > peak, x[..., i], peak)
    e = exp(x - peak[..., None])
    return e / reduce_sum(e)[..., None]


@_quiet
def dot_products(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n, m) sums of products of the rows of a (n, K) and b (m, K), in blocks of 64 terms."""
    total = np.zeros((len(a), len(b)), np.float32)
    for first in range(0, a.shape[1], 64):
        acc = np.zeros_like(total)
        for k in range(first, min(first + 64, a.shape[1])):
            acc = fma(a[:, k, None], b[:, k], acc)
        total = total + acc
    return total


@_quiet
def attention(
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    heads: int,
    scale: float,
    bias: FloatArray | None = None,
    mask: FloatArray | None = None,
) -> FloatArray:
    """Attention of q (T, D) to k, v (S, D): (T, D). Added to scores: bias (heads, T, S), mask (T, S)."""
    out = np.empty_like(q)
    for head in range(heads):
        part = np.s_[:, head * q.shape[1] // heads : (head + 1) * q.shape[1] // heads]
        s = dot_products(q[part], k[part]) * np.float32(scale)
        if bias is not None:
            s = s + bias[head]
        if mask is not None:
            s = s + mask
        out[part] = dot_products(softmax(s), np.ascontiguousarray(v[part].T))
    return out
