"""Elementwise functions of the arithmetic contract, compiled by Numba.

Each is a fixed sequence of correctly rounded operations without a branch, so that LLVM runs it in
vectors. ARITHMETIC.md has the steps and the errors; the coefficients are minimax fits, made so:
Lawson's iteration on 1500 Chebyshev nodes for the weight that gives the relative error of the
result, each coefficient rounded to binary32 in turn, from the first, and the others fitted again.

`machine` (`_fma.machine`) says whether there is an instruction for fma.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from numba import njit

from ._floats import fma, magnitude, times_power, with_sign

IDENTITY, RELU, LEAKY_RELU, GELU, GELU_TANH, EXP, SOFTPLUS, TANH, SIGMOID, ABS, SQRT = range(11)

_ZERO, _HALF, _ONE, _TWO = (np.float32(value) for value in (0, 0.5, 1, 2))


def _floats(*bits):
    """The binary32 numbers with these bits."""
    return tuple(np.array(bits, np.uint32).view(np.float32))


# 1.5 * 2^23: adding it to |x| < 2^22 rounds x to an integer, which the low bits of the sum then hold.
SHIFT = np.float32(12582912)
EXP_LOW, EXP_HIGH = np.float32(-104), np.float32(89)
LOG2_E, LN2_HIGH, LN2_LOW = _floats(0x3FB8AA3B, 0x3F317200, 0x35BFBE8E)
_E0, _E1, _E2, _E3, _E4 = _floats(0x3EFFFFFE, 0x3E2AAA49, 0x3D2AAC58, 0x3C091CC7, 0x3AB526B0)

TANH_SMALL = np.float32(0.5625)
_T0, _T1, _T2, _T3, _T4 = _floats(0xBEAAAAA4, 0x3E08862F, 0xBD5C82E2, 0x3CAC08FB, 0xBBCA2A79)

_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8, _L9 = _floats(
    0xBEFFFFFC,
    0x3EAAA9DB,
    0xBE7FE2CF,
    0x3E4BC5AB,
    0xBE253962,
    0x3DFF94AD,
    0xBDAA792F,
    0x3D2C8098,
    0xBC605308,
    0x3B089CDA,
)

_ERF_SMALL = np.float32(1)
_R0, _R1, _R2, _R3, _R4, _R5, _R6 = _floats(
    0x3E0375D4, 0xBEC0939F, 0x3DE71673, 0xBCDBFB8D, 0x3BA9F912, 0xBA51A8AF, 0x38A3B8FE
)
SQRT_2 = np.float32(2**0.5)

TAIL_END, _TAIL_SCALE = np.float32(14.5), np.float32(17 / 64)
_N0, _N1, _N2, _N3, _N4, _N5, _N6, _N7, _N8 = _floats(
    0x3DD91089,
    0x3DD82508,
    0x3DD208F2,
    0x3D7D800E,
    0x3E093CCB,
    0xBDE209AB,
    0x3E5902D9,
    0xBE119B80,
    0x3CFB0B67,
)

_GELU_TANH_END = np.float32(-16)
_G1, _G3 = _floats(0x3FCC422A, 0x3D922279)

# Elements that a loop over an array takes at a time.
_PIECE = 2048

_inline = njit(nogil=True, cache=True, forceinline=True, error_model="numpy")


@_inline
def relu(x):
    """x > 0 ? x : +0."""
    return x if x > _ZERO else _ZERO


@_inline
def leaky_relu(x, slope):
    """x > t ? x : t with t = slope * x."""
    t = slope * x
    return x if x > t else t


@_inline
def exp(machine, x):
    """e^x = 2^n e^r with r = x - n ln 2, |r| <= ln 2 / 2. h + rest is 1 + r in more than 24 bits.

    n and the high part of ln 2 have 8 and 15 bits, so that w is exact, and (1 - h) + w as well. Where the
    result is 0, as it is for what attention masks, it is not made by an underflow: those take CPUs long.
    """
    vanishes = x < EXP_LOW
    x = EXP_HIGH if x > EXP_HIGH else x
    x = _ZERO if vanishes else x
    shifted = fma(machine, x, LOG2_E, SHIFT)
    n = shifted - SHIFT
    w = fma(machine, n, -LN2_HIGH, x)
    r = fma(machine, n, -LN2_LOW, w)
    h = _ONE + w
    rest = fma(machine, n, -LN2_LOW, (_ONE - h) + w)
    p = fma(machine, r, _E4, _E3)
    p = fma(machine, r, p, _E2)
    p = fma(machine, r, p, _E1)
    p = fma(machine, r, p, _E0)
    power = times_power(h + fma(machine, r * r, p, rest), shifted)
    return _ZERO if vanishes else power


@_inline
def sigmoid(machine, x):
    """1 / (1 + e^-x) = m (1 - e / (1 + e)) with e = e^-|x|, m = e where x is negative, else 1."""
    e = exp(machine, -magnitude(x))
    m = e if x < _ZERO else _ONE
    return fma(machine, -m, e / (_ONE + e), m)


@_inline
def softplus(machine, x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    u = exp(machine, -magnitude(x))
    p = fma(machine, u, _L9, _L8)
    p = fma(machine, u, p, _L7)
    p = fma(machine, u, p, _L6)
    p = fma(machine, u, p, _L5)
    p = fma(machine, u, p, _L4)
    p = fma(machine, u, p, _L3)
    p = fma(machine, u, p, _L2)
    p = fma(machine, u, p, _L1)
    p = fma(machine, u, p, _L0)
    return relu(x) + fma(machine, u * u, p, u)


@_inline
def tanh(machine, x):
    """An odd polynomial near 0, else 1 - 2 / (e^2|x| + 1) with the sign of x."""
    a = magnitude(x)
    z = a * a
    p = fma(machine, z, _T4, _T3)
    p = fma(machine, z, p, _T2)
    p = fma(machine, z, p, _T1)
    p = fma(machine, z, p, _T0)
    small = fma(machine, a * z, p, a)
    large = _ONE - _TWO / (exp(machine, a + a) + _ONE)
    return with_sign(small if a < TANH_SMALL else large, x)


@_inline
def normal_tail(machine, a):
    """The standard normal distribution's mass beyond a, for 0 <= a <= 14.5.

    e^(-a^2 / 2) t Q(t), t = 1 / (1 + 17 a / 64): with that 17 / 64, Q needs no constant term. Two
    roundings are made good, to first order: t is short of its value by the part `t_rest`, which t Q(t)
    multiplies by about 1 + 2 t, and a^2 by `a_rest`.
    """
    d = fma(machine, a, _TAIL_SCALE, _ONE)
    t = _ONE / d
    d_rest = fma(machine, a, _TAIL_SCALE, _ONE - d)
    t_rest = fma(machine, -t, d_rest, fma(machine, -d, t, _ONE))
    p = fma(machine, t, _N8, _N7)
    p = fma(machine, t, p, _N6)
    p = fma(machine, t, p, _N5)
    p = fma(machine, t, p, _N4)
    p = fma(machine, t, p, _N3)
    p = fma(machine, t, p, _N2)
    p = fma(machine, t, p, _N1)
    p = fma(machine, t, p, _N0) * t
    square = a * a
    a_rest = fma(machine, a, a, -square)
    correction = fma(machine, fma(machine, _TWO, t, _ONE), t_rest, -_HALF * a_rest)
    return fma(machine, p, correction, p) * exp(machine, -_HALF * square)


@_inline
def erf(machine, x):
    """An odd polynomial up to 1, beyond it 1 - 2 tail(sqrt(2) |x|) with the sign of x."""
    a = magnitude(x)
    z = a * a
    p = fma(machine, z, _R6, _R5)
    p = fma(machine, z, p, _R4)
    p = fma(machine, z, p, _R3)
    p = fma(machine, z, p, _R2)
    p = fma(machine, z, p, _R1)
    p = fma(machine, z, p, _R0)
    small = fma(machine, a, p, a)
    b = SQRT_2 * a
    b = TAIL_END if b > TAIL_END else b
    large = fma(machine, -_TWO, normal_tail(machine, b), _ONE)
    return with_sign(small if a < _ERF_SMALL else large, x)


@_inline
def gelu(machine, x):
    """x Phi(x) = max(x, 0) - |x| tail(|x|)."""
    a = magnitude(x)
    a = TAIL_END if a > TAIL_END else a
    return fma(machine, -a, normal_tail(machine, a), relu(x))


@_inline
def gelu_tanh(machine, x):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 = x sigmoid(x (G1 + G3 x^2))."""
    x = _GELU_TANH_END if x < _GELU_TANH_END else x
    return x * sigmoid(machine, x * fma(machine, x * x, _G3, _G1))


@_inline
def sqrt(x):
    """The root of x, +0 where x is negative."""
    return np.sqrt(_ZERO if x <= _ZERO else x)


@njit(nogil=True, cache=True, error_model="numpy")
def unary(machine, kind, slope, x, out):
    """out = f(x) for the function of that kind, IDENTITY .. SQRT, or False if it is none of these.

    x, out: contiguous 1-D float32 of one length, the same memory or apart; slope float32, of
    LEAKY_RELU. The loops run in place, on a piece that is in the cache: LLVM would run those over two
    arrays one by one where the arrays are the same.
    """
    if kind < IDENTITY or kind > SQRT or len(x) != len(out):
        return False
    apart = x.ctypes.data != out.ctypes.data
    for start in range(0, len(x), _PIECE):
        piece = out[start : start + _PIECE]
        if apart:
            source = x[start : start + _PIECE]
            for i in range(len(piece)):
                piece[i] = source[i]
        if kind == RELU:
            for i in range(len(piece)):
                piece[i] = relu(piece[i])
        elif kind == LEAKY_RELU:
            for i in range(len(piece)):
                piece[i] = leaky_relu(piece[i], slope)
        elif kind == GELU:
            for i in range(len(piece)):
                piece[i] = gelu(machine, piece[i])
        elif kind == GELU_TANH:
            for i in range(len(piece)):
                piece[i] = gelu_tanh(machine, piece[i])
        elif kind == EXP:
            for i in range(len(piece)):
                piece[i] = exp(machine, piece[i])
        elif kind == SOFTPLUS:
            for i in range(len(piece)):
                piece[i] = softplus(machine, piece[i])
        elif kind == TANH:
            for i in range(len(piece)):
                piece[i] = tanh(machine, piece[i])
        elif kind == SIGMOID:
            for i in range(len(piece)):
                piece[i] = sigmoid(machine, piece[i])
        elif kind == ABS:
            for i in range(len(piece)):
                piece[i] = magnitude(piece[i])
        elif kind == SQRT:
            for i in range(len(piece)):
                piece[i] = sqrt(piece[i])
    return True
