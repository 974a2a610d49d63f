// Between floats and the coder's integers: the last section of ARITHMETIC.md.
//
// An *offset* is what a symbol is counted from: the mean's integer part where the means have `bits` >= 0 fraction
// bits (integer mode), the mean itself where bits < 0 (residual mode).
#pragma once
#include "platform.cuh"

namespace latent {

// Symbols and latents up to here are exact in binary32.
constexpr float LATENT_LIMIT = 1 << 24, MEAN_LIMIT = 1 << 20;

struct Parameters {
    float offset;
    int index;
};

// thresholds: (count,) ascending.
Q_DEVICE Parameters parameters(float scale, float mean, const float* thresholds, int count, int bits) {
    int index = 0;
    for (int end = count; index < end;) {
        const int middle = (index + end) / 2;
        // NaN is above none.
        if (scale > __ldg(thresholds + middle))
            index = middle + 1;
        else
            end = middle;
    }
    const float m = mean == mean ? mean < -MEAN_LIMIT ? -MEAN_LIMIT : mean > MEAN_LIMIT ? MEAN_LIMIT : mean : 0.0f;
    if (bits < 0) return {m, index};
    const int unit = 1 << bits, half = unit >> 1;
    const int q = static_cast<int>(rintf(mul_(m, static_cast<float>(unit)))), k = (q + half) >> bits;
    return {static_cast<float>(k), index * unit + (q - k * unit) + half};
}

// y_hat = symbol + offset. Returns whether it is a legal latent.
Q_DEVICE bool reconstruct(int symbol, float offset, int bits, float& y_hat) {
    const int limit = LATENT_LIMIT;
    if (bits >= 0) {
        const long long whole = static_cast<long long>(symbol) + static_cast<int>(offset);
        y_hat = static_cast<float>(whole);
        return -limit <= whole && whole <= limit;
    }
    y_hat = add_(static_cast<float>(symbol), offset);
    return -limit <= symbol && symbol <= limit && fabsf(y_hat) <= LATENT_LIMIT;
}

// The symbol of y, and its y_hat. Returns whether both are legal; in integer mode y must be whole.
Q_DEVICE bool quantize(float y, float offset, int bits, int& symbol, float& y_hat) {
    const float rounded = rintf(bits >= 0 ? y : sub_(y, offset));
    symbol = 0, y_hat = 0;
    if (!(fabsf(rounded) <= LATENT_LIMIT) || (bits >= 0 && rounded != y)) return false;
    symbol = static_cast<int>(rounded) - (bits >= 0 ? static_cast<int>(offset) : 0);
    return reconstruct(symbol, offset, bits, y_hat);
}

// The n positions x channels of a launch, fewer than 2^31. Symbols and so on are in coding order, position by
// position. Parameters of positions lie `pitch` floats apart. Position p of a plane begins at places[p], or at
// p * channels where there are no places.
struct Shape {
    unsigned size, channels;
    long long pitch;
    const long long* places;

    Q_DEVICE long long parameter(unsigned i) const { return i / channels * pitch + i % channels; }
    Q_DEVICE long long plane(unsigned i) const { return places ? places[i / channels] + i % channels : i; }
};

}  // namespace latent
