// What the operations of a program share: instructions, the work of a step, a block's shared memory, waiting.
#pragma once
#include "platform.cuh"

namespace program {

typedef long long i64;

// Columns of an instruction, those of `program.Column` first; `table.py` appends the last ones.
enum {
    OP, SOURCE, SOURCE_PITCH, SOURCE_HEIGHT, SOURCE_WIDTH, SOURCE_CHANNELS,
    TARGET, TARGET_PITCH, TARGET_HEIGHT, TARGET_WIDTH, TARGET_CHANNELS, OWN,
    PHASES = 24,   // CONV, DEPTHWISE: ints of (taps, their ints) of each phase
    MEETS = 25,    // whether all blocks must have done what comes before
    ROW_COLUMNS = 32
};
enum { CONV, CONTEXT, WINDOW, DEPTHWISE, UNARY, ADD, MULTIPLY, LAYER_NORM, ATTENTION, SHUFFLE, UNSHUFFLE, GATHER,
       COPY, CONSTANT };

// Terms of a chain: ARITHMETIC.md, section 2.
constexpr int BLOCK_TERMS = 64;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct Program {
    const i64* table;      // (instructions, ROW_COLUMNS)
    int instructions;
    const i64* ints;
    const float* floats;
    float* memory;
    int blocks;            // of the grid, the first so many work on it
};

// What CONTEXT and WINDOW read: (n,) positions of planes.
struct Step {
    const i64 *rows, *cols;
    int n;
    bool context;
};

// A block's dynamic shared memory while it runs a program; `table.shared_bytes` is its size.
constexpr int STAGE_QUADS = 272, WARP_SUMS = 1280;
struct Shared {
    i64 rows[2][ROW_COLUMNS];     // of this instruction and the next
    float totals[WARP_SUMS];      // of the tile that is unfinished
    float4 warps[1];              // per warp, two stages of STAGE_QUADS; then per warp, WARP_SUMS floats
};
constexpr int WARP_BYTES = 2 * STAGE_QUADS * sizeof(float4) + WARP_SUMS * sizeof(float);
// What attention keeps for each query: the scores of so many of its keys, whole blocks of terms.
constexpr int PIECE_KEYS = WARP_BYTES / sizeof(float);
static_assert(PIECE_KEYS % BLOCK_TERMS == 0, "a piece is whole blocks");

Q_DEVICE int lane_number() { return threadIdx.x & 31; }
Q_DEVICE int warp_number() { return threadIdx.x >> 5; }
Q_DEVICE int warps_of_block() { return blockDim.x >> 5; }

// Items of which each warp takes one in turn. Neighbors go to different blocks: a few keep many processors busy.
Q_DEVICE i64 first_item(int blocks) { return warp_number() * static_cast<i64>(blocks) + blockIdx.x; }
Q_DEVICE i64 item_step(int blocks) { return static_cast<i64>(blocks) * warps_of_block(); }

// A counter, 0 at first, that blocks arrive at. What any thread of theirs wrote before is seen by those who have waited
// for them. Every thread of a block must call.
Q_DEVICE void arrive(unsigned* counter) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(counter, 1u);
    }
}
Q_DEVICE void await(const unsigned* counter, unsigned goal) {
    if (threadIdx.x == 0) {
        // Differences, since the counter may wrap around.
        while (static_cast<int>(*reinterpret_cast<const volatile unsigned*>(counter) - goal) < 0) {
#ifdef CUDA_HOST
            __nanosleep(32);
#endif
        }
        __threadfence();
    }
    __syncthreads();
}

// All of so many blocks. `goal` is the caller's, 0 at first.
Q_DEVICE void meet(unsigned* counter, unsigned& goal, int blocks) {
    goal += blocks;
    arrive(counter);
    await(counter, goal);
}

}  // namespace program
