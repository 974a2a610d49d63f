// Programs, one instruction a launch or all in one cooperative launch.
#include "program.cuh"

#ifndef Q_DYNAMIC_SHARED
#define Q_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// Instruction `number` for n images or positions; rows, cols: (n,) of a step that reads its context or not.
extern "C" __global__ void __launch_bounds__(512)
one_instruction(const long long* table, int number, const long long* ints, const float* floats, float* memory, int n,
                const long long* rows, const long long* cols, int context) {
    using namespace program;
    Q_DYNAMIC_SHARED(dynamic);
    Shared* const shared = reinterpret_cast<Shared*>(dynamic);
    const Program program{table, 0, ints, floats, memory, static_cast<int>(gridDim.x)};
    if (threadIdx.x < ROW_COLUMNS)
        shared->rows[0][threadIdx.x] = table[static_cast<i64>(number) * ROW_COLUMNS + threadIdx.x];
    __syncthreads();
    execute(shared->rows[0], program, Step{rows, cols, n, context != 0}, shared);
}

// All instructions. counter: 0 before the launch, of which all blocks must be resident; ticks: (instructions,) or null.
extern "C" __global__ void __launch_bounds__(512)
all_instructions(const long long* table, int instructions, const long long* ints, const float* floats, float* memory, int n,
                 const long long* rows, const long long* cols, int context, unsigned* counter, long long* ticks) {
    using namespace program;
    Q_DYNAMIC_SHARED(dynamic);
    const Program program{table, instructions, ints, floats, memory, static_cast<int>(gridDim.x)};
    unsigned goal = 0;
    run_program(program, Step{rows, cols, n, context != 0}, reinterpret_cast<Shared*>(dynamic), counter, goal, ticks);
}
