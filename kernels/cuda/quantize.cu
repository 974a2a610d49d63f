// Kernels between floats and the coder's integers, a thread for each value. bad: keeps the least number of a value
// that is no legal latent.
#include "quantize.cuh"

#define EACH(i, size) \
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < (size); i += gridDim.x * blockDim.x)

// y of a plane to symbols, indexes and y_hat of a plane, from scales and means.
extern "C" __global__ void __launch_bounds__(256)
quantize_latent(int size, int channels, long long pitch, const long long* places, const float* scales,
                const float* means, const float* thresholds, int threshold_count, int bits, const float* y,
                int* symbols, int* indexes, float* y_hat, unsigned long long* bad) {
    const latent::Shape shape{static_cast<unsigned>(size), static_cast<unsigned>(channels), pitch, places};
    EACH(i, shape.size) {
        const long long at = shape.parameter(i), plane = shape.plane(i);
        const latent::Parameters own = latent::parameters(scales[at], means[at], thresholds, threshold_count, bits);
        indexes[i] = own.index;
        if (!latent::quantize(y[plane], own.offset, bits, symbols[i], y_hat[plane]))
            atomicMin(bad, static_cast<unsigned long long>(i));
    }
}

// What a decoder needs first: indexes, and the offsets that `dequantize_latent` takes.
extern "C" __global__ void __launch_bounds__(256)
index_latent(int size, int channels, long long pitch, const float* scales, const float* means,
             const float* thresholds, int threshold_count, int bits, float* offsets, int* indexes) {
    const latent::Shape shape{static_cast<unsigned>(size), static_cast<unsigned>(channels), pitch, nullptr};
    EACH(i, shape.size) {
        const long long at = shape.parameter(i);
        const latent::Parameters own = latent::parameters(scales[at], means[at], thresholds, threshold_count, bits);
        offsets[i] = own.offset;
        indexes[i] = own.index;
    }
}

// Symbols and offsets to y_hat of a plane.
extern "C" __global__ void __launch_bounds__(256)
dequantize_latent(int size, int channels, const long long* places, const int* symbols, const float* offsets,
                  int bits, float* y_hat, unsigned long long* bad) {
    const latent::Shape shape{static_cast<unsigned>(size), static_cast<unsigned>(channels), 0, places};
    EACH(i, shape.size) {
        if (!latent::reconstruct(symbols[i], offsets[i], bits, y_hat[shape.plane(i)]))
            atomicMin(bad, static_cast<unsigned long long>(i));
    }
}
