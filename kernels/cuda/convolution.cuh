// Convolutions of any kind, by all blocks of a program together.
//
// A warp computes a *unit*: the sums of one block of 64 terms (of one tap) for a tile of positions and outputs. The
// units of a tile meet in shared memory, where one thread for each element adds them to its total in their order. So
// a tile's units keep many warps busy, and no thread needs another block's sums. A step of serial decoding, some 16
// positions x 384 outputs x 36 units, takes small tiles, that all blocks may have one; a whole plane takes large
// ones, that a value read once is used often. Weights lie as float4: [slot][quad of inputs][output].
#pragma once
#include "functions.cuh"
#include "instruction.cuh"

namespace program {

// 16 or 4 bytes to shared memory, of which the first `bytes` are read and the others 0; done after `arrived`.
Q_DEVICE void fetch16(float4* to, const float* from, int bytes) {
#ifdef CUDA_HOST
    if (reinterpret_cast<size_t>(from) % 16) __builtin_trap();
    float values[4] = {0, 0, 0, 0};
    for (int i = 0; 4 * i < bytes; ++i) values[i] = from[i];
    *to = make_float4(values[0], values[1], values[2], values[3]);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from), "r"(bytes) : "memory");
#endif
}
Q_DEVICE void fetch4(float* to, const float* from, int bytes) {
#ifdef CUDA_HOST
    *to = bytes ? *from : 0.0f;
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from), "r"(bytes) : "memory");
#endif
}
Q_DEVICE void fetched() {
#ifndef CUDA_HOST
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// All but the last group of this thread's fetches.
Q_DEVICE void arrived() {
#ifndef CUDA_HOST
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
}

// Lanes of a warp are 4 x 8 positions x outputs, each with PT x DT of them, 4 and 8 apart. A stage is QUADS * 4 terms.
// Strides are such that neither writing a stage (a lane's quads run first), nor reading it, nor writing sums has
// bank conflicts.
template <int PT, int DT, int QUADS> struct Tile {
    static constexpr int rows = PT, columns = DT, quads = QUADS;
    static constexpr int positions = 4 * PT, outputs = 8 * DT;
    static constexpr int x_stride = positions + (QUADS < 8 ? 2 : 1);
    static constexpr int sum_stride = DT == 1 ? outputs : outputs + 8;
    static constexpr int sums = positions * sum_stride;
    static constexpr int slots = WARP_SUMS / sums;      // units that a warp computes before sums are joined
    static_assert(QUADS * (x_stride + outputs) <= STAGE_QUADS && sums <= WARP_SUMS, "");
    static_assert(QUADS * positions == 128, "a lane fetches four quads of x");
};

// A convolution, or one phase of it: the target's rows and columns that equal (top, left) modulo `down`, which have
// the same taps. Positions count through these, image by image.
struct Conv {
    const float* source;
    i64 source_pitch;
    int source_height, source_width, channels;
    float* target;
    i64 target_pitch;
    int target_height, target_width, outputs;
    const i64* taps;       // (slot, row, column) each: position (i, j) of the phase reads (i * up + row, ...)
    int tap_count, up, down, top, left, height, width, positions;
    const float4* weights;
    const float* bias;
    int function;
    float slope;
    const i64 *rows, *cols;   // of the step, for CONTEXT
    bool aligned;
    int blocks;

    __device__ i64 target_at(int position) const {
        const int image = position / (height * width), rest = position % (height * width);
        const i64 row = top + rest / width * down, column = left + rest % width * down;
        return ((image * static_cast<i64>(target_height) + row) * target_width + column) * target_pitch;
    }
};

// The lane's view of a unit under way.
struct Unit {
    int rows[4];           // positions of the source that its rows are; -1: the tap is absent
    unsigned weights;      // quads before its first
    unsigned present;      // positions of the tile that have this tap
    int term, terms;
    int columns;           // outputs from the tile's first on
};

// What the lane knows of position `lane` of the tile.
struct Place {
    int image;             // its first position in the source; -1: there is no such position
    int row, column;
};

template <class T> struct Warp {
    const Conv& conv;
    float4* stages;
    int blocks, per_tile, output_tiles;
    i64 first_tile, placed;
    Place place;

    __device__ Warp(const Conv& conv, float4* stages, i64 first_tile)
        : conv(conv), stages(stages), first_tile(first_tile), placed(-1), place{-1, 0, 0} {
        blocks = (conv.channels + BLOCK_TERMS - 1) / BLOCK_TERMS;
        per_tile = max(1, conv.tap_count * blocks);
        output_tiles = (conv.outputs + T::outputs - 1) / T::outputs;
    }

    __device__ void find_place(i64 tile) {
        placed = tile;
        const int position = static_cast<int>(tile * T::positions) + lane_number();
        place.image = -1;
        if (lane_number() >= T::positions || position >= conv.positions) return;
        if (conv.rows) {
            place = {0, static_cast<int>(conv.rows[position]), static_cast<int>(conv.cols[position])};
            return;
        }
        const int image = position / (conv.height * conv.width), rest = position % (conv.height * conv.width);
        place.image = image * conv.source_height * conv.source_width;
        place.row = rest / conv.width * conv.up;
        place.column = rest % conv.width * conv.up;
    }

    __device__ Unit unit(i64 number) {
        const i64 tile = first_tile + number / per_tile;
        const int rest = static_cast<int>(number % per_tile), tap = rest / blocks, term = rest % blocks * BLOCK_TERMS;
        if (placed != tile / output_tiles) find_place(tile / output_tiles);
        Unit unit;
        const int column = static_cast<int>(tile % output_tiles) * T::outputs;
        unit.columns = min(T::outputs, conv.outputs - column);
        int from = -1;
        unit.term = term, unit.terms = 0, unit.weights = 0;
        if (tap < conv.tap_count) {
            const i64 *numbers = conv.taps + 3 * tap;
            const int row = place.row + static_cast<int>(__ldg(numbers + 1));
            const int at = place.column + static_cast<int>(__ldg(numbers + 2));
            unit.terms = min(BLOCK_TERMS, conv.channels - term);
            const unsigned quad = static_cast<unsigned>(__ldg(numbers)) * ((conv.channels + 3) / 4) + term / 4;
            unit.weights = quad * conv.outputs + column;
            if (place.image >= 0 && row >= 0 && row < conv.source_height && at >= 0 && at < conv.source_width)
                from = place.image + row * conv.source_width + at;
        }
        unit.present = __ballot_sync(ALL_LANES, from >= 0);
        for (int i = 0; i < 4; ++i)
            unit.rows[i] = __shfl_sync(ALL_LANES, from, (lane_number() + 32 * i) / T::quads);
        return unit;
    }

    // Where nothing is present zeros are fetched, and nothing comes of them.
    __device__ void fetch(const Unit& unit, int part, int stage) {
        float4* const x = stages + stage * STAGE_QUADS;
        float4* const w = x + T::quads * T::x_stride;
        const int quads = (unit.terms + 3) / 4 - part * T::quads, lane = lane_number();
        for (int i = 0; i < 4; ++i) {
            const int quad = lane % T::quads, row = (lane + 32 * i) / T::quads;
            if (quad >= quads) continue;
            const int term = (part * T::quads + quad) * 4;
            const int left = unit.rows[i] < 0 ? 0 : min(4, unit.terms - term);
            const float* from = conv.source;
            if (left > 0) from += unit.rows[i] * conv.source_pitch + unit.term + term;
            float4* to = x + quad * T::x_stride + row;
            if (conv.aligned) {
                fetch16(to, from, 4 * left);
            } else {
                for (int e = 0; e < 4; ++e)
                    fetch4(reinterpret_cast<float*>(to) + e, e < left ? from + e : conv.source, e < left ? 4 : 0);
            }
        }
        const float4* const from = conv.weights + unit.weights + part * T::quads * conv.outputs;
#pragma unroll
        for (int i = lane; i < T::quads * T::outputs; i += 32) {
            const int quad = i / T::outputs, column = i % T::outputs;
            if (quad < quads && column < unit.columns)
                fetch16(w + i, reinterpret_cast<const float*>(from + quad * conv.outputs + column), 16);
        }
    }

    // The chains go on through the terms of a stage. Terms that pad a quad are 0 * -0, which changes no sum.
    __device__ void multiply(const Unit& unit, int part, int stage, float (&sums)[T::rows][T::columns]) {
        const float4* const x = stages + stage * STAGE_QUADS + lane_number() / 8;
        const float4* const w = stages + stage * STAGE_QUADS + T::quads * T::x_stride + lane_number() % 8;
        const int quads = (unit.terms + 3) / 4 - part * T::quads;
#pragma unroll
        for (int quad = 0; quad < T::quads; ++quad) {
            if (quad >= quads) break;
            float4 b[T::columns];
#pragma unroll
            for (int j = 0; j < T::columns; ++j) b[j] = w[quad * T::outputs + 8 * j];
#pragma unroll
            for (int i = 0; i < T::rows; ++i) {
                const float4 a = x[quad * T::x_stride + 4 * i];
#pragma unroll
                for (int j = 0; j < T::columns; ++j) {
                    float sum = sums[i][j];
                    sum = fma_(a.x, b[j].x, sum);
                    sum = fma_(a.y, b[j].y, sum);
                    sum = fma_(a.z, b[j].z, sum);
                    sums[i][j] = fma_(a.w, b[j].w, sum);
                }
            }
        }
    }

    // The unit's sums, position by position. Where its tap is absent they are -0: added to a total, that changes none.
    __device__ void write(const Unit& unit, const float (&sums)[T::rows][T::columns], float* to) {
        const int position = lane_number() / 8, column = lane_number() % 8;
#pragma unroll
        for (int i = 0; i < T::rows; ++i) {
            const bool present = unit.present >> (position + 4 * i) & 1;
#pragma unroll
            for (int j = 0; j < T::columns; ++j)
                to[(position + 4 * i) * T::sum_stride + column + 8 * j] = present ? sums[i][j] : -0.0f;
        }
    }

    // Adds the units begin .. end - 1, in order, to the totals of their tiles.
    __device__ void join(i64 begin, i64 end, const float* sums, float* totals) {
        for (i64 number = begin / per_tile; number * per_tile < end; ++number) {
            const i64 from = max(begin, number * per_tile), to = min(end, (number + 1) * per_tile);
            const i64 tile = first_tile + number;
            for (int i = threadIdx.x; i < T::positions * T::outputs; i += blockDim.x) {
                const int row = i / T::outputs, column = i % T::outputs;
                const int position = static_cast<int>(tile / output_tiles) * T::positions + row;
                const int output = static_cast<int>(tile % output_tiles) * T::outputs + column;
                if (position >= conv.positions || output >= conv.outputs) continue;
                float total = from == number * per_tile ? __ldg(conv.bias + output) : totals[i];
                const float* sum = sums + (from - begin) * T::sums + row * T::sum_stride + column;
#pragma unroll 4
                for (int left = static_cast<int>(to - from); left > 0; --left, sum += T::sums)
                    total = add_(total, *sum);
                if (to == (number + 1) * per_tile)
                    conv.target[conv.target_at(position) + output] = unary_(conv.function, conv.slope, total);
                else
                    totals[i] = total;
            }
        }
    }
};

template <class T> Q_DEVICE i64 tiles_of(const Conv& conv) {
    const int across = (conv.outputs + T::outputs - 1) / T::outputs;
    return static_cast<i64>((conv.positions + T::positions - 1) / T::positions) * across;
}

template <class T> static __device__ __noinline__ void conv_tiles(const Conv& conv, Shared* shared) {
    const int warps = warps_of_block(), round = T::slots * warps;
    float4* const stages = shared->warps + 2 * STAGE_QUADS * warp_number();
    float* const sums = reinterpret_cast<float*>(shared->warps + 2 * STAGE_QUADS * warps);
    const i64 tiles = tiles_of<T>(conv);
    const i64 begin = tiles * blockIdx.x / conv.blocks, end = tiles * (blockIdx.x + 1) / conv.blocks;
    Warp<T> warp(conv, stages, begin);
    const i64 units = (end - begin) * warp.per_tile;

    i64 number = warp_number();
    Unit next;
    int stage = 0;
    if (number < units) {
        next = warp.unit(number);
        warp.fetch(next, 0, stage);
    }
    fetched();
    for (i64 first = 0; first < units; first += round) {
        for (int slot = 0; slot < T::slots && number < units; ++slot) {
            const Unit unit = next;
            float own[T::rows][T::columns] = {};
            for (int part = 0; part == 0 || part * T::quads * 4 < unit.terms; ++part) {
                if ((part + 1) * T::quads * 4 < unit.terms) {
                    warp.fetch(unit, part + 1, stage ^ 1);
                } else if (number + warps < units) {
                    next = warp.unit(number + warps);
                    warp.fetch(next, 0, stage ^ 1);
                }
                fetched();
                arrived();
                __syncwarp();
                warp.multiply(unit, part, stage, own);
                __syncwarp();
                stage ^= 1;
            }
            warp.write(unit, own, sums + (number - first) * T::sums);
            number += warps;
        }
        __syncthreads();
        warp.join(first, min(units, first + round), sums, shared->totals);
        __syncthreads();
    }
}

// Rounds of units that the block with most to do needs, times what a unit costs (its instructions, counted).
template <class T> static __device__ i64 cost(const Conv& conv, int unit_cost) {
    const i64 most = (tiles_of<T>(conv) + conv.blocks - 1) / conv.blocks;
    const i64 units = most * max(1, conv.tap_count * ((conv.channels + BLOCK_TERMS - 1) / BLOCK_TERMS));
    return (units + warps_of_block() - 1) / warps_of_block() * unit_cost;
}

static __device__ void conv_phase(const Conv& conv, Shared* shared) {
    using Small = Tile<2, 1, 16>;
    using Middle = Tile<4, 2, 8>;
    using Large = Tile<8, 4, 4>;
    const i64 small = cost<Small>(conv, 250), middle = cost<Middle>(conv, 700), large = cost<Large>(conv, 2400);
    if (small <= middle && small <= large)
        conv_tiles<Small>(conv, shared);
    else if (middle <= large)
        conv_tiles<Middle>(conv, shared);
    else
        conv_tiles<Large>(conv, shared);
}

static __device__ void convolve(const i64* row, const Program& program, const Step& step, Shared* shared) {
    Conv conv;
    const bool at_step = row[OP] == CONTEXT;
    conv.source = program.memory + row[SOURCE], conv.source_pitch = row[SOURCE_PITCH];
    conv.source_height = row[SOURCE_HEIGHT], conv.source_width = row[SOURCE_WIDTH];
    conv.channels = row[SOURCE_CHANNELS];
    conv.target = program.memory + row[TARGET], conv.target_pitch = row[TARGET_PITCH];
    conv.target_height = row[TARGET_HEIGHT], conv.target_width = row[TARGET_WIDTH];
    conv.outputs = row[TARGET_CHANNELS];
    conv.up = row[OWN + 2], conv.down = row[OWN + 3];
    conv.weights = reinterpret_cast<const float4*>(program.floats + row[OWN + 4]);
    conv.bias = program.floats + row[OWN + 5];
    conv.function = row[OWN + 6], conv.slope = __int_as_float(static_cast<int>(row[OWN + 7]));
    conv.rows = at_step ? step.rows : nullptr, conv.cols = at_step ? step.cols : nullptr;
    conv.blocks = program.blocks;
    conv.aligned = (row[SOURCE] | row[SOURCE_PITCH]) % 4 == 0;
    for (int phase = 0; phase < conv.down * conv.down; ++phase) {
        const i64* list = program.ints + row[PHASES] + 2 * phase;
        conv.tap_count = __ldg(list), conv.taps = program.ints + __ldg(list + 1);
        conv.top = phase / conv.down, conv.left = phase % conv.down;
        conv.height = (conv.target_height - conv.top + conv.down - 1) / conv.down;
        conv.width = (conv.target_width - conv.left + conv.down - 1) / conv.down;
        conv.positions = step.n * conv.height * conv.width;
        if (conv.positions > 0) conv_phase(conv, shared);
    }
}

}  // namespace program
