// The operations of a program (`program.Op`), and programs: each is worked on by all their blocks together.
//
// Every thread runs `run_program`, which takes the instructions in turn. What an instruction computes is divided among
// blocks and warps in a way that no result depends on, since every element's operations are fixed.
#pragma once
#include "convolution.cuh"

namespace program {

// What isn't a convolution: a warp for each position, its lanes along the channels.
struct Spot {
    i64 number;
    int image, row, column;
};

template <class F> Q_DEVICE void each_position(const i64* row, const Program& program, int n, F work) {
    const int height = row[TARGET_HEIGHT], width = row[TARGET_WIDTH];
    const i64 positions = static_cast<i64>(n) * height * width;
    for (i64 number = first_item(program.blocks); number < positions; number += item_step(program.blocks)) {
        const int at = static_cast<int>(number), image = at / (height * width), rest = at % (height * width);
        work(Spot{number, image, rest / width, rest % width});
    }
}

// target[channel] = value(channel) for the channels of a position.
template <class F>
Q_DEVICE void each_channel(const i64* row, float* memory, i64 position, F value) {
    float* const target = memory + row[TARGET] + position * row[TARGET_PITCH];
    const int channels = row[TARGET_CHANNELS];
    for (int c = lane_number(); c < channels; c += 32) target[c] = value(c);
}

static __device__ void window(const i64* row, const Program& program, const Step& step) {
    const i64* const taps = program.ints + row[OWN];
    const int count = row[OWN + 2] && !step.context ? 0 : row[OWN + 1];
    each_position(row, program, step.n, [&](const Spot& spot) {
        const int own = spot.row * static_cast<int>(row[TARGET_WIDTH]) + spot.column;
        i64 from = -1;
        for (int first = 0; first < count; first += 32) {
            const int tap = first + lane_number();
            const unsigned found = __ballot_sync(ALL_LANES, tap < count && __ldg(taps + 3 * tap) == own);
            if (!found) continue;
            const i64* const numbers = taps + 3 * (first + __ffs(found) - 1);
            const i64 r = step.rows[spot.image] + __ldg(numbers + 1), c = step.cols[spot.image] + __ldg(numbers + 2);
            if (r >= 0 && r < row[SOURCE_HEIGHT] && c >= 0 && c < row[SOURCE_WIDTH])
                from = row[SOURCE] + (r * row[SOURCE_WIDTH] + c) * row[SOURCE_PITCH];
        }
        each_channel(row, program.memory, spot.number,
                     [&](int c) { return from < 0 ? 0.0f : program.memory[from + c]; });
    });
}

static __device__ void depthwise(const i64* row, const Program& program, int n) {
    const int up = row[OWN + 2], down = row[OWN + 3], channels = row[TARGET_CHANNELS];
    const int height = row[SOURCE_HEIGHT], width = row[SOURCE_WIDTH];
    const float *const weights = program.floats + row[OWN + 4], *const bias = program.floats + row[OWN + 5];
    const int function = row[OWN + 6];
    const float slope = __int_as_float(static_cast<int>(row[OWN + 7]));
    each_position(row, program, n, [&](const Spot& spot) {
        const i64* const list = program.ints + row[PHASES] + 2 * (spot.row % down * down + spot.column % down);
        const int count = __ldg(list);
        const i64* const taps = program.ints + __ldg(list + 1);
        const float* const source = program.memory + row[SOURCE]
            + static_cast<i64>(spot.image) * height * width * row[SOURCE_PITCH];
        const int top = spot.row / down * up, left = spot.column / down * up;
        each_channel(row, program.memory, spot.number, [&](int k) {
            float sum = __ldg(bias + k);
            for (int tap = 0; tap < count; ++tap) {
                const int r = top + static_cast<int>(__ldg(taps + 3 * tap + 1));
                const int c = left + static_cast<int>(__ldg(taps + 3 * tap + 2));
                if (r < 0 || r >= height || c < 0 || c >= width) continue;
                const float x = source[(r * static_cast<i64>(width) + c) * row[SOURCE_PITCH] + k];
                sum = fma_(x, __ldg(weights + __ldg(taps + 3 * tap) * channels + k), sum);
            }
            return unary_(function, slope, sum);
        });
    });
}

// Section 3's sum; add(i, s) is the partial sum s with element i added. Lane j has s_j. All lanes get the sum.
template <class F> Q_DEVICE float reduce(int count, F add) {
    float sum = 0;
    for (int j = lane_number(); j < count; j += 32) sum = add(j, sum);
    for (int h = 16; h > 0; h /= 2) sum = add_(sum, __shfl_down_sync(ALL_LANES, sum, h));
    return __shfl_sync(ALL_LANES, sum, 0);
}

static __device__ void layer_norm(const i64* row, const Program& program, int n) {
    const float *const gamma = program.floats + row[OWN], *const beta = program.floats + row[OWN + 1];
    const float epsilon = __int_as_float(static_cast<int>(row[OWN + 2]));
    const int channels = row[TARGET_CHANNELS];
    const float count = __int2float_rn(channels);
    each_position(row, program, n, [&](const Spot& spot) {
        const float* const x = program.memory + row[SOURCE] + spot.number * row[SOURCE_PITCH];
        const float mean = div_(reduce(channels, [&](int c, float sum) { return add_(sum, x[c]); }), count);
        const float squares = reduce(channels, [&](int c, float sum) {
            const float d = sub_(x[c], mean);
            return fma_(d, d, sum);
        });
        const float r = div_(1.0f, sqrt_(add_(div_(squares, count), epsilon)));
        each_channel(row, program.memory, spot.number, [&](int c) {
            return fma_(mul_(sub_(x[c], mean), r), __ldg(gamma + c), __ldg(beta + c));
        });
    });
}

// A warp for each query of each head: its lanes take keys in turn, then channels in turn. The scores of keys that are
// more than a piece are computed three times: for the maximum, the sum, and the probabilities of each piece.
static __device__ void attend(const i64* row, const Program& program, int n, Shared* shared) {
    float* const memory = program.memory;
    const int queries = row[OWN + 4], keys = row[OWN + 5], heads = row[OWN + 6], dim = row[OWN + 7];
    const float scale = __int_as_float(static_cast<int>(row[OWN + 8]));
    const float* const bias = row[OWN + 9] < 0 ? nullptr : program.floats + row[OWN + 9];
    const float* const masks = row[OWN + 10] < 0 ? nullptr : program.floats + row[OWN + 10];
    const i64* const mask_numbers = masks ? program.ints + row[OWN + 11] : nullptr;
    const i64 sequences = row[TARGET_HEIGHT] * row[TARGET_WIDTH] / queries;
    const bool same_keys = row[OWN + 12];
    const i64 key_pitch = row[OWN + 1], value_pitch = row[OWN + 3];
    float* const p = reinterpret_cast<float*>(shared->warps) + warp_number() * PIECE_KEYS;
    const bool kept = keys <= PIECE_KEYS;
    const i64 positions = static_cast<i64>(n) * row[TARGET_HEIGHT] * row[TARGET_WIDTH], items = positions * heads;
    for (i64 item = first_item(program.blocks); item < items; item += item_step(program.blocks)) {
        const i64 position = item / heads, sequence = position / queries;
        const int head = static_cast<int>(item % heads), query = static_cast<int>(position % queries);
        const i64 first_key = same_keys ? 0 : sequence * keys;
        const float* const q = memory + row[SOURCE] + position * row[SOURCE_PITCH] + head * dim;
        const float* const k = memory + row[OWN] + first_key * key_pitch + head * dim;
        const float* const v = memory + row[OWN + 2] + first_key * value_pitch + head * dim;
        const float* const b = bias ? bias + (static_cast<i64>(head) * queries + query) * keys : nullptr;
        const float* const m =
            masks ? masks + (__ldg(mask_numbers + sequence % sequences) * queries + query) * keys : nullptr;
        const auto score_of = [&](int j) {
            float score = 0;
            for (int first = 0; first < dim; first += BLOCK_TERMS) {
                float sum = 0;
                const int end = min(dim, first + BLOCK_TERMS);
                for (int c = first; c < end; ++c) sum = fma_(q[c], k[j * key_pitch + c], sum);
                score = add_(score, sum);
            }
            score = mul_(score, scale);
            if (b) score = add_(score, __ldg(b + j));
            return m ? add_(score, __ldg(m + j)) : score;
        };
        float most = -__int_as_float(0x7f800000);
        for (int j = lane_number(); j < keys; j += 32) {
            const float score = score_of(j);
            most = score > most ? score : most;
            if (kept) p[j] = score;
        }
        // The order decides only the sign of a maximum that is 0, and nothing depends on that: exp(-0) = exp(+0).
        for (int h = 16; h > 0; h /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, most, h);
            most = other > most ? other : most;
        }
        const float total = reduce(keys, [&](int j, float sum) {
            const float e = exp_(sub_(kept ? p[j] : score_of(j), most));
            if (kept) p[j] = e;
            return add_(sum, e);
        });
        float* const target = memory + row[TARGET] + position * row[TARGET_PITCH] + head * dim;
        for (int piece = 0; piece < keys; piece += PIECE_KEYS) {
            const int count = min(PIECE_KEYS, keys - piece);
            for (int j = lane_number(); j < count; j += 32)
                p[j] = div_(kept ? p[j] : exp_(sub_(score_of(piece + j), most)), total);
            __syncwarp();
            for (int c = lane_number(); c < dim; c += 32) {
                // Lanes keep their channels, so a piece finds the sum that the one before it left.
                float out = piece ? target[c] : 0.0f;
                for (int first = 0; first < count; first += BLOCK_TERMS) {
                    float sum = 0;
                    const int end = min(count, first + BLOCK_TERMS);
                    for (int j = first; j < end; ++j)
                        sum = fma_(p[j], v[static_cast<i64>(piece + j) * value_pitch + c], sum);
                    out = add_(out, sum);
                }
                target[c] = out;
            }
            __syncwarp();
        }
    }
}

// The operations of which an element depends on one or two others.
static __device__ void move(const i64* row, const Program& program, int n) {
    float* const memory = program.memory;
    const int op = row[OP], own = row[OWN];
    const float slope = __int_as_float(static_cast<int>(row[OWN + 1]));
    const int height = row[SOURCE_HEIGHT], width = row[SOURCE_WIDTH];
    each_position(row, program, n, [&](const Spot& spot) {
        const i64 here = row[SOURCE] + spot.number * row[SOURCE_PITCH];
        const auto at = [&](int r, int c) {
            return memory + row[SOURCE]
                + ((spot.image * static_cast<i64>(height) + r) * width + c) * row[SOURCE_PITCH];
        };
        const auto put = [&](auto value) { each_channel(row, memory, spot.number, value); };
        if (op == UNARY) {
            put([&](int c) { return unary_(own, slope, memory[here + c]); });
        } else if (op == ADD || op == MULTIPLY) {
            const float* const second = memory + row[OWN] + spot.number * row[OWN + 1];
            if (op == ADD)
                put([&](int c) { return add_(memory[here + c], second[c]); });
            else
                put([&](int c) { return mul_(memory[here + c], second[c]); });
        } else if (op == SHUFFLE) {
            const float* const x = at(spot.row / own, spot.column / own);
            const int part = spot.row % own * own + spot.column % own;
            put([&](int c) { return x[c * own * own + part]; });
        } else if (op == UNSHUFFLE) {
            put([&](int c) {
                const int part = c % (own * own);
                return at(spot.row * own + part / own, spot.column * own + part % own)[c / (own * own)];
            });
        } else if (op == GATHER) {
            const i64 from = __ldg(program.ints + row[OWN] + spot.row * row[TARGET_WIDTH] + spot.column);
            const float* const x = at(0, 0) + from * row[SOURCE_PITCH];
            put([&](int c) { return from < 0 ? 0.0f : x[c]; });
        } else if (op == COPY) {
            put([&](int c) { return memory[here + c]; });
        } else {
            const float* const x = program.floats + row[OWN]
                + (spot.row * row[TARGET_WIDTH] + spot.column) * row[TARGET_CHANNELS];
            put([&](int c) { return __ldg(x + c); });
        }
    });
}

static __device__ void execute(const i64* row, const Program& program, const Step& step, Shared* shared) {
    switch (static_cast<int>(row[OP])) {
    case CONTEXT:
        if (!step.context) {
            each_position(row, program, step.n, [&](const Spot& spot) {
                each_channel(row, program.memory, spot.number, [](int) { return 0.0f; });
            });
            break;
        }
        [[fallthrough]];
    case CONV: convolve(row, program, step, shared); break;
    case WINDOW: window(row, program, step); break;
    case DEPTHWISE: depthwise(row, program, step.n); break;
    case LAYER_NORM: layer_norm(row, program, step.n); break;
    case ATTENTION: attend(row, program, step.n, shared); break;
    default: move(row, program, step.n);
    }
}

// All instructions of a program, by its blocks. Its last results are there after another `meet`. ticks: clock cycles
// of each instruction, as block 0 sees them, are added, unless null.
static __device__ void run_program(const Program& program, const Step& step, Shared* shared, unsigned* counter,
                                   unsigned& goal, i64* ticks) {
    i64 began = ticks ? clock64() : 0;
    if (threadIdx.x < ROW_COLUMNS && program.instructions > 0)
        shared->rows[0][threadIdx.x] = __ldg(program.table + threadIdx.x);
    __syncthreads();
    for (int number = 0; number < program.instructions; ++number) {
        execute(shared->rows[number & 1], program, step, shared);
        // The row before this one is no longer read: a barrier came between.
        const bool more = number + 1 < program.instructions;
        i64* const next = shared->rows[(number + 1) & 1];
        if (more && threadIdx.x < ROW_COLUMNS)
            next[threadIdx.x] = __ldg(program.table + static_cast<i64>(number + 1) * ROW_COLUMNS + threadIdx.x);
        __syncthreads();
        if (more && next[MEETS]) meet(counter, goal, program.blocks);
        if (ticks && blockIdx.x == 0 && threadIdx.x == 0) {
            const i64 now = clock64();
            ticks[number] += now - began;
            began = now;
        }
    }
}

}  // namespace program
