// Exact binary32 operations, on a device and on a host: each rounds once, to nearest even, and no compiler may
// join two of them. A host's compiler must be given -ffp-contract=off.
#pragma once

#if defined(__CUDACC__) || defined(CUDA_HOST)

#define Q_DEVICE __device__ __forceinline__

// CUDA's plain operators may be contracted to fused ones; these intrinsics never are.
Q_DEVICE float fma_(float a, float b, float c) { return __fmaf_rn(a, b, c); }
Q_DEVICE float mul_(float a, float b) { return __fmul_rn(a, b); }
Q_DEVICE float add_(float a, float b) { return __fadd_rn(a, b); }
Q_DEVICE float sub_(float a, float b) { return __fsub_rn(a, b); }
Q_DEVICE float div_(float a, float b) { return __fdiv_rn(a, b); }
Q_DEVICE float sqrt_(float x) { return __fsqrt_rn(x); }
Q_DEVICE unsigned bits_(float x) { return __float_as_uint(x); }
Q_DEVICE float float_(unsigned bits) { return __uint_as_float(bits); }

#else

#include <cmath>
#include <cstring>

#define Q_DEVICE static inline

Q_DEVICE float fma_(float a, float b, float c) { return std::fmaf(a, b, c); }
Q_DEVICE float mul_(float a, float b) { return a * b; }
Q_DEVICE float add_(float a, float b) { return a + b; }
Q_DEVICE float sub_(float a, float b) { return a - b; }
Q_DEVICE float div_(float a, float b) { return a / b; }
Q_DEVICE float sqrt_(float x) { return std::sqrt(x); }
Q_DEVICE unsigned bits_(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
Q_DEVICE float float_(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
