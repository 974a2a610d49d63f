// A latent's steps, one after the other, in one launch: networks, indexes, symbols, write-back.
//
// Most blocks run the program; a few, the coder's, hold the table in their shared memory and have the groups among
// them. They take turns through two counters: `READY` counts the program's blocks that have done a step's part,
// `STORED` the coder's. So a step costs a barrier for each instruction that must wait, and the two handovers. Without a
// stream, for the other tasks, all blocks run the program, and then divide the step's elements.
#pragma once
#include "program.cuh"
#include "quantize.cuh"
#include "rans.cuh"

namespace serial {

typedef long long i64;

enum Task { DECODE, QUANTIZE, PARAMETERS, REFINE };
enum Counter { MEETING, READY, STORED };
// What is told of a failure: the first step that has one; the least element, in coding order, that is no legal latent.
enum Failure { FAILED_STEP, ELEMENT };
// Clock cycles, before those of the program's instructions.
enum Tick { INDEX, CODER, TICKS };

// All that a launch works on, in fields of 8 bytes; `serial.py` has the same. Offsets count floats of the memory.
struct Job {
    i64 task, ticking;
    // The program. images: 0 for one of each of a step's positions.
    const i64* table;
    i64 instructions;
    const i64* ints;
    const float* floats;
    float* memory;
    i64 images, program_blocks;
    // Steps: positions starts[s] .. starts[s + 1] - 1; they code `width` channels from first[p] on, 0 without `first`.
    i64 steps;
    const i64 *starts, *context, *rows, *cols, *first;
    i64 width;
    // Parameters of position p of the step; or, with `images`, of each position of the plane. by_channel: of all
    // channels, not only of those that are coded. REFINE's are one array, that of the scales.
    i64 scales, means, pitch, by_channel;
    // y_hat, and what it is quantized from, (.., plane_width, y_pitch).
    i64 plane, plane_width, plane_pitch;
    const float* y;
    i64 y_pitch;
    const float* thresholds;
    i64 threshold_count, bits;
    // Of the first step: its number among those of all launches, and of its first element, in coding order. Results of
    // QUANTIZE and PARAMETERS, (elements,) each, of all steps.
    i64 first_step, first_element;
    float* offsets;
    int *indexes, *symbols;
    // The coder: its table, of whose cells `near_room` fit in shared memory beside the rows and `room`
    // elements; the stream.
    i64 coder_blocks, room, near_room;
    const uint4* table_rows;
    const unsigned* table_cells;
    i64 row_count, precision, cell_count, lanes, groups;
    i64 first_number;      // in the stream, of element 0
    unsigned* states;
    i64* progress;
    unsigned short* words;
    // What the kernel is given beside it. 0 at first: counters, ticks. results: (groups, 2), status and detail;
    // failure: at first beyond all.
    unsigned* counters;
    i64 *failure, *results, *ticks;
};
constexpr int JOB_BYTES = (sizeof(Job) + 15) / 16 * 16;

// A step's elements.
struct Elements {
    const Job& job;
    i64 first;             // of its positions
    int count;             // at most MAX_STEP of `serial.py`

    __device__ Elements(const Job& job, i64 step)
        : job(job), first(job.starts[step]), count((job.starts[step + 1] - first) * job.width) {}

    // Of the step's first element, in coding order.
    __device__ i64 number() const { return job.first_element + (first - job.starts[0]) * job.width; }

    struct Place {
        i64 position;      // of the plane
        int channel, nth;  // nth: of the step's positions
    };
    __device__ Place place(int element) const {
        const int width = job.width, nth = element / width;
        const i64 at = first + nth, channel = (job.first ? job.first[at] : 0) + element % width;
        return {job.rows[at] * job.plane_width + job.cols[at], static_cast<int>(channel), nth};
    }
    // Where what the program gives for an element is, from that of the first.
    __device__ i64 given(int element) const {
        const Place at = place(element);
        const i64 position = job.images ? at.position : at.nth;
        return position * job.pitch + (job.by_channel ? at.channel : element % static_cast<int>(job.width));
    }
    __device__ latent::Parameters parameters(int element) const {
        const i64 own = given(element);
        return latent::parameters(job.memory[job.scales + own], job.memory[job.means + own], job.thresholds,
                                  job.threshold_count, job.bits);
    }
    __device__ float* y_hat(const Place& at) const {
        return job.memory + job.plane + at.position * job.plane_pitch + at.channel;
    }
};

Q_DEVICE void fail(const Job& job, i64 step, i64 element) {
    atomicMin(job.failure + FAILED_STEP, job.first_step + step);
    if (element >= 0) atomicMin(job.failure + ELEMENT, element);
}

// After all have done their part of a step: whether it or one before failed. A later step's failure may be there
// already, but never changes what this says.
Q_DEVICE bool failed(const Job& job, i64 step) {
    return *reinterpret_cast<const volatile i64*>(job.failure + FAILED_STEP) <= job.first_step + step;
}

// ---- the coder's blocks ----

// work(i) for the pass's elements i that belong to groups own, own + blocks, ...
template <class F> Q_DEVICE void each_own(const Job& job, int own, i64 first, int size, F work) {
    const int lanes = job.lanes, groups = job.groups, blocks = job.coder_blocks;
    const i64 cycle_size = static_cast<i64>(lanes) * groups, begin = first / cycle_size;
    const int cycles = (first + size + cycle_size - 1) / cycle_size - begin;
    const int owned = (groups - own + blocks - 1) / blocks, share = owned * lanes;
    for (int i = threadIdx.x; i < cycles * share; i += blockDim.x) {
        const int group = own + i % share / lanes * blocks;
        const i64 element = (begin + i / share) * cycle_size + group * lanes + i % lanes - first;
        if (element >= 0 && element < size) work(static_cast<int>(element));
    }
}

struct CoderMemory {
    int* numbers;          // a piece's indexes, then its symbols: a symbol is written after its index is read
    float* offsets;
    rans::Table table;
};

// The first rows, of small scales, are the most used: the cells of as many of them as there is room for are copied.
static __device__ CoderMemory stage(const Job& job, unsigned char* dynamic) {
    CoderMemory memory;
    uint4* const rows = reinterpret_cast<uint4*>(dynamic);
    unsigned* const near = reinterpret_cast<unsigned*>(rows + job.row_count);
    memory.numbers = reinterpret_cast<int*>(near + job.near_room);
    memory.offsets = reinterpret_cast<float*>(memory.numbers + job.room);
    for (int i = threadIdx.x; i < job.row_count; i += blockDim.x) rows[i] = job.table_rows[i];
    __syncthreads();
    int size = job.cell_count;
    if (size > job.near_room) {
        // Where the last row begins that begins within the room.
        int begin = 0;
        for (int end = job.row_count; end - begin > 1;) {
            const int middle = (begin + end) / 2;
            (static_cast<i64>(rows[middle].x) <= job.near_room ? begin : end) = middle;
        }
        size = rows[begin].x;
    }
    for (int i = threadIdx.x; i < size; i += blockDim.x) near[i] = job.table_cells[i];
    memory.table = {rows, job.table_cells, static_cast<int>(job.row_count), static_cast<int>(job.precision), near,
                    static_cast<unsigned>(size)};
    return memory;
}

// The block's groups' symbols among the step's elements begin .. begin + size - 1, and their y_hat.
static __device__ void decode_piece(const Job& job, const CoderMemory& memory, int own, i64 step,
                                    const Elements& elements, int begin, int size) {
    const i64 first = job.first_number + elements.number() + begin;
    const bool ticking = job.ticking && own == 0 && threadIdx.x == 0;
    const i64 began = ticking ? clock64() : 0;
    each_own(job, own, first, size, [&](int i) {
        const latent::Parameters one = elements.parameters(begin + i);
        memory.numbers[i] = one.index;
        memory.offsets[i] = one.offset;
    });
    __syncthreads();
    const i64 indexed = ticking ? clock64() : 0;
    const rans::Pass pass{memory.numbers, memory.numbers, first, size};
    const int warps = blockDim.x / rans::WARP, warp = threadIdx.x / rans::WARP;
    for (int number = own + warp * job.coder_blocks; number < job.groups; number += warps * job.coder_blocks) {
        i64* const result = job.results + 2 * number;
        if (result[0] != rans::OK) continue;
        unsigned* const states = job.states + static_cast<i64>(number) * rans::MAX_LANES;
        i64* const progress = job.progress + static_cast<i64>(number) * rans::PROGRESS;
        const rans::Layout layout{static_cast<int>(job.lanes), static_cast<int>(job.groups), number};
        rans::Group group;
        rans::load_group(group, states, progress, job.words, layout.lanes);
        const rans::Status status = rans::decode_pass(group, memory.table, pass, layout);
        rans::store_group(group, states, progress, layout.lanes);
        if (status != rans::OK && rans::own_lane() == 0) {
            result[0] = status, result[1] = group.detail;
            fail(job, step, -1);
        }
    }
    __syncthreads();
    each_own(job, own, first, size, [&](int i) {
        const Elements::Place at = elements.place(begin + i);
        if (!latent::reconstruct(memory.numbers[i], memory.offsets[i], job.bits, *elements.y_hat(at)))
            fail(job, step, elements.number() + begin + i);
    });
    __syncthreads();
    if (ticking) {
        job.ticks[INDEX] += indexed - began;
        job.ticks[CODER] += clock64() - indexed;
    }
}

static __device__ void decode_steps(const Job& job, unsigned char* dynamic) {
    const int own = blockIdx.x - job.program_blocks, room = job.room;
    const CoderMemory memory = stage(job, dynamic);
    for (i64 step = 0; step < job.steps; ++step) {
        program::await(job.counters + READY, job.program_blocks * (step + 1));
        const Elements elements(job, step);
        for (int begin = 0; begin < elements.count; begin += room)
            decode_piece(job, memory, own, step, elements, begin, min(room, elements.count - begin));
        program::arrive(job.counters + STORED);
        program::await(job.counters + STORED, job.coder_blocks * (step + 1));
        if (failed(job, step)) return;
    }
}

// ---- the program's blocks ----

// work(i) for the step's elements i, divided among all blocks.
template <class F> Q_DEVICE void each_element(const Job& job, const Elements& elements, F work) {
    for (i64 i = blockIdx.x * static_cast<i64>(blockDim.x) + threadIdx.x; i < elements.count;
         i += static_cast<i64>(job.program_blocks) * blockDim.x)
        work(static_cast<int>(i));
}

static __device__ void quantize_step(const Job& job, i64 step, const Elements& elements) {
    const i64 base = elements.number();
    each_element(job, elements, [&](int i) {
        const latent::Parameters one = elements.parameters(i);
        job.offsets[base + i] = one.offset, job.indexes[base + i] = one.index;
        if (job.task != QUANTIZE) return;
        const Elements::Place at = elements.place(i);
        float y_hat;
        const float y = job.y[at.position * job.y_pitch + at.channel];
        if (!latent::quantize(y, one.offset, job.bits, job.symbols[base + i], y_hat))
            fail(job, step, base + i);
        *elements.y_hat(at) = y_hat;
    });
}

static __device__ void refine_step(const Job& job, i64 step, const Elements& elements) {
    each_element(job, elements, [&](int i) {
        float& y_hat = *elements.y_hat(elements.place(i));
        // A latent has no -0.
        y_hat = add_(add_(y_hat, job.memory[job.scales + elements.given(i)]), 0.0f);
        if (!(fabsf(y_hat) <= latent::LATENT_LIMIT)) fail(job, step, elements.number() + i);
    });
}

// `given` has all but the last four fields.
static __device__ void walk(const i64* given, unsigned* counters, i64* failure, i64* results, i64* ticks,
                            unsigned char* dynamic) {
    Job& job = *reinterpret_cast<Job*>(dynamic);
    for (int i = threadIdx.x; i < static_cast<int>(sizeof(Job) / sizeof(i64)) - 4; i += blockDim.x)
        reinterpret_cast<i64*>(dynamic)[i] = given[i];
    if (threadIdx.x == 0) job.counters = counters, job.failure = failure, job.results = results, job.ticks = ticks;
    __syncthreads();
    // Whatever a launch before this one found. What this one finds has later steps, so all blocks agree.
    if (failed(job, -1)) return;
    dynamic += JOB_BYTES;
    if (static_cast<i64>(blockIdx.x) >= job.program_blocks) return decode_steps(job, dynamic);
    program::Shared* const shared = reinterpret_cast<program::Shared*>(dynamic);
    const int blocks = job.program_blocks;
    const program::Program own{job.table, static_cast<int>(job.instructions), job.ints, job.floats, job.memory, blocks};
    unsigned goal = 0;
    for (i64 step = 0; step < job.steps; ++step) {
        const i64 first = job.starts[step], positions = job.starts[step + 1] - first;
        const int n = job.images ? job.images : positions;
        program::run_program(own, {job.rows + first, job.cols + first, n, job.context[step] != 0}, shared,
                             job.counters + MEETING, goal, job.ticking ? job.ticks + TICKS : nullptr);
        if (job.task == DECODE) {
            program::arrive(job.counters + READY);
            program::await(job.counters + STORED, job.coder_blocks * (step + 1));
        } else {
            program::meet(job.counters + MEETING, goal, blocks);
            if (job.task == REFINE)
                refine_step(job, step, Elements(job, step));
            else
                quantize_step(job, step, Elements(job, step));
            program::meet(job.counters + MEETING, goal, blocks);
        }
        if (failed(job, step)) return;
    }
}

}  // namespace serial
