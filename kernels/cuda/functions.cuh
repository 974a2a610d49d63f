// Elementwise functions of ARITHMETIC.md: the sequences of kernels/functions.py, which derives them, without a
// branch. Names end in _ because CUDA has functions of its own that are called exp, erf, tanh.
#pragma once

#include "platform.cuh"

enum Function { kIdentity, kRelu, kLeakyRelu, kGelu, kGeluTanh, kExp, kSoftplus, kTanh, kSigmoid, kAbs, kSqrt };

Q_DEVICE float abs_(float x) { return float_(bits_(x) & 0x7FFFFFFFu); }

Q_DEVICE float with_sign_(float x, float sign) {
    return float_((bits_(x) & 0x7FFFFFFFu) | (bits_(sign) & 0x80000000u));
}

Q_DEVICE float relu_(float x) { return x > 0.0f ? x : 0.0f; }

Q_DEVICE float root_(float x) { return sqrt_(x <= 0.0f ? 0.0f : x); }

Q_DEVICE float leaky_relu_(float x, float slope) {
    const float t = mul_(slope, x);
    return x > t ? x : t;
}

// x * 2^k rounded once, where shifted is 1.5 * 2^23 + k: by 2^floor(k / 2), exactly, then by the rest.
// REQUIRES: |k| <= 250 and x * 2^floor(k / 2) normal, or x NaN.
Q_DEVICE float times_power_(float x, float shifted) {
    const unsigned k = bits_(shifted) - 0x4B400000u;
    const unsigned half = static_cast<unsigned>(static_cast<int>(k) >> 1);
    return mul_(mul_(x, float_((half + 127u) << 23)), float_((k - half + 127u) << 23));
}

Q_DEVICE float exp_(float x) {
    const float shift = 12582912.0f;
    const float minus_ln2_high = float_(0xBF317200u), minus_ln2_low = float_(0xB5BFBE8Eu);
    const bool vanishes = x < -104.0f;
    x = x > 89.0f ? 89.0f : x;
    x = vanishes ? 0.0f : x;
    const float shifted = fma_(x, float_(0x3FB8AA3Bu), shift);
    const float n = sub_(shifted, shift);
    const float w = fma_(n, minus_ln2_high, x);
    const float r = fma_(n, minus_ln2_low, w);
    const float h = add_(1.0f, w);
    const float rest = fma_(n, minus_ln2_low, add_(sub_(1.0f, h), w));
    float p = fma_(r, float_(0x3AB526B0u), float_(0x3C091CC7u));
    p = fma_(r, p, float_(0x3D2AAC58u));
    p = fma_(r, p, float_(0x3E2AAA49u));
    p = fma_(r, p, float_(0x3EFFFFFEu));
    const float power = times_power_(add_(h, fma_(mul_(r, r), p, rest)), shifted);
    return vanishes ? 0.0f : power;
}

Q_DEVICE float sigmoid_(float x) {
    const float e = exp_(-abs_(x));
    const float m = x < 0.0f ? e : 1.0f;
    return fma_(-m, div_(e, add_(1.0f, e)), m);
}

Q_DEVICE float softplus_(float x) {
    const float u = exp_(-abs_(x));
    float p = fma_(u, float_(0x3B089CDAu), float_(0xBC605308u));
    p = fma_(u, p, float_(0x3D2C8098u));
    p = fma_(u, p, float_(0xBDAA792Fu));
    p = fma_(u, p, float_(0x3DFF94ADu));
    p = fma_(u, p, float_(0xBE253962u));
    p = fma_(u, p, float_(0x3E4BC5ABu));
    p = fma_(u, p, float_(0xBE7FE2CFu));
    p = fma_(u, p, float_(0x3EAAA9DBu));
    p = fma_(u, p, float_(0xBEFFFFFCu));
    return add_(relu_(x), fma_(mul_(u, u), p, u));
}

Q_DEVICE float tanh_(float x) {
    const float a = abs_(x);
    const float z = mul_(a, a);
    float p = fma_(z, float_(0xBBCA2A79u), float_(0x3CAC08FBu));
    p = fma_(z, p, float_(0xBD5C82E2u));
    p = fma_(z, p, float_(0x3E08862Fu));
    p = fma_(z, p, float_(0xBEAAAAA4u));
    const float small = fma_(mul_(a, z), p, a);
    const float large = sub_(1.0f, div_(2.0f, add_(exp_(add_(a, a)), 1.0f)));
    return with_sign_(a < 0.5625f ? small : large, x);
}

Q_DEVICE float normal_tail_(float a) {
    const float c = 0.265625f;
    const float d = fma_(a, c, 1.0f);
    const float t = div_(1.0f, d);
    const float d_rest = fma_(a, c, sub_(1.0f, d));
    const float t_rest = fma_(-t, d_rest, fma_(-d, t, 1.0f));
    float p = fma_(t, float_(0x3CFB0B67u), float_(0xBE119B80u));
    p = fma_(t, p, float_(0x3E5902D9u));
    p = fma_(t, p, float_(0xBDE209ABu));
    p = fma_(t, p, float_(0x3E093CCBu));
    p = fma_(t, p, float_(0x3D7D800Eu));
    p = fma_(t, p, float_(0x3DD208F2u));
    p = fma_(t, p, float_(0x3DD82508u));
    p = mul_(fma_(t, p, float_(0x3DD91089u)), t);
    const float square = mul_(a, a);
    const float a_rest = fma_(a, a, -square);
    const float correction = fma_(fma_(2.0f, t, 1.0f), t_rest, mul_(-0.5f, a_rest));
    return mul_(fma_(p, correction, p), exp_(mul_(-0.5f, square)));
}

Q_DEVICE float erf_(float x) {
    const float a = abs_(x);
    const float z = mul_(a, a);
    float p = fma_(z, float_(0x38A3B8FEu), float_(0xBA51A8AFu));
    p = fma_(z, p, float_(0x3BA9F912u));
    p = fma_(z, p, float_(0xBCDBFB8Du));
    p = fma_(z, p, float_(0x3DE71673u));
    p = fma_(z, p, float_(0xBEC0939Fu));
    p = fma_(z, p, float_(0x3E0375D4u));
    const float small = fma_(a, p, a);
    const float b = mul_(float_(0x3FB504F3u), a);
    const float large = fma_(-2.0f, normal_tail_(b > 14.5f ? 14.5f : b), 1.0f);
    return with_sign_(a < 1.0f ? small : large, x);
}

Q_DEVICE float gelu_(float x) {
    float a = abs_(x);
    a = a > 14.5f ? 14.5f : a;
    return fma_(-a, normal_tail_(a), relu_(x));
}

Q_DEVICE float gelu_tanh_(float x) {
    x = x < -16.0f ? -16.0f : x;
    return mul_(x, sigmoid_(mul_(x, fma_(mul_(x, x), float_(0x3D922279u), float_(0x3FCC422Au)))));
}

// The function of that kind; slope is that of kLeakyRelu. REQUIRES: a kind of the enumeration.
Q_DEVICE float unary_(int kind, float slope, float x) {
    switch (kind) {
        case kRelu: return relu_(x);
        case kLeakyRelu: return leaky_relu_(x, slope);
        case kGelu: return gelu_(x);
        case kGeluTanh: return gelu_tanh_(x);
        case kExp: return exp_(x);
        case kSoftplus: return softplus_(x);
        case kTanh: return tanh_(x);
        case kSigmoid: return sigmoid_(x);
        case kAbs: return abs_(x);
        case kSqrt: return root_(x);
        default: return x;
    }
}
