"""The emulator finds what goes wrong on a GPU, and computes what one computes."""

import numpy as np
import pytest
from emulator import LaunchError, build
from guarded import Guarded

CODE = r"""
#ifndef Q_DYNAMIC_SHARED
#define Q_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// out[b] = the sum of block b's part of `in`, found in two ways, or 1 where they differ.
extern "C" __global__ void __launch_bounds__(128)
block_sums(const unsigned* in, unsigned* out, int n, int barrier) {
    __shared__ unsigned parts[32];
    Q_DYNAMIC_SHARED(memory);
    unsigned* all = reinterpret_cast<unsigned*>(memory);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned sum = all[threadIdx.x] = i < n ? in[i] : 0;
    for (int h = 16; h; h >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, h);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    if (barrier) __syncthreads();
    if (threadIdx.x == 0) {
        unsigned total = 0, other = 0;
        for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += parts[warp];
        for (unsigned thread = 0; thread < blockDim.x; ++thread) other += all[thread];
        out[blockIdx.x] = total == other ? total : 1;
    }
}

// Each step adds 1 to what the next block had; a barrier for all blocks ends it.
extern "C" __global__ void around(unsigned* arrived, int* values, int steps) {
    __shared__ int kept;
    for (int step = 0; step < steps; ++step) {
        if (threadIdx.x == 0) kept = values[(step & 1) * gridDim.x + (blockIdx.x + 1) % gridDim.x];
        __syncthreads();
        if (threadIdx.x == blockDim.x - 1) values[((step + 1) & 1) * gridDim.x + blockIdx.x] = kept + 1;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            const unsigned goal = (atomicAdd(arrived, 1u) / gridDim.x + 1) * gridDim.x;
            while (*reinterpret_cast<volatile unsigned*>(arrived) < goal) __nanosleep(32);
            __threadfence();
        }
        __syncthreads();
    }
}

extern "C" __global__ void wrong(int* out, int what) {
    const bool some = threadIdx.x < 7;
    volatile int big = 0x7fffffff, zero = 0;
    if (what == 0 && some) __syncthreads();
    if (what == 1 && some) return;
    if (what == 1) __syncthreads();
    if (what == 2) {
        if (some)
            out[0] = __ballot_sync(0xffffffffu, 1);
        else
            out[1] = __ballot_sync(0xffffffffu, 0);
    }
    if (what == 3) out[some ? 0 : 1024] = 1;
    if (what == 4) while (*reinterpret_cast<volatile int*>(out) == 0) __nanosleep(20);
    if (what == 5 && some) out[0] = __any_sync(0xffffffffu, 1);
    if (what == 6) out[0] = __shfl_sync(0xffu, 1, 9);
    if (what == 7) out[0] = big + 1;
    if (what == 8) out[0] = 7 / zero;
    if (what == 9) {
        Q_DYNAMIC_SHARED(memory);
        memory[64] = 1;
    }
}

extern "C" __global__ void exchanges(unsigned* out) {
    const unsigned lane = threadIdx.x % 32, all = 0xffffffffu;
    const unsigned values[] = {
        __shfl_up_sync(all, lane, 3), __shfl_down_sync(all, lane, 30), __shfl_xor_sync(all, lane, 5),
        __shfl_sync(all, lane, 37), __shfl_up_sync(all, lane, 1, 8), __ballot_sync(all, lane % 3 == 0),
        __reduce_add_sync(all, lane), __match_any_sync(all, lane / 8),
        (unsigned)__popc(__ballot_sync(all, 1)), (unsigned)__shfl_sync(all, 1.0 * lane, 4),
        (unsigned)__all_sync(all, lane < 32),
    };
    for (int i = 0; i < 11; ++i) out[i * 32 + lane] = values[i];
}
"""


@pytest.fixture(scope="module")
def emulator():
    return build(CODE)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_and_warps(emulator, seed):
    values = np.arange(1000, dtype=np.uint32)
    sums = np.zeros(8, np.uint32)
    args = values, sums, np.int32(values.size), np.int32(1)
    emulator.launch("block_sums", (8,), (128,), args, shared=512, seed=seed)
    np.testing.assert_array_equal(sums, np.add.reduceat(values, np.arange(0, 1000, 128)))


def test_a_missing_barrier_shows(emulator):
    values, wrong = np.ones(1024, np.uint32), 0
    for seed in range(5):
        sums = np.zeros(8, np.uint32)
        emulator.launch(
            "block_sums", (8,), (128,), (values, sums, np.int32(1024), np.int32(0)), shared=512, seed=seed
        )
        wrong += np.count_nonzero(sums != 128)
    assert wrong > 15


@pytest.mark.parametrize("seed", range(3))
def test_blocks_that_wait_for_each_other(emulator, seed):
    arrived, values = np.zeros(1, np.uint32), np.zeros((2, 5), np.int32)
    args = arrived, values, np.int32(9)
    emulator.launch("around", (5,), (40,), args, cooperative=True, seed=seed)
    np.testing.assert_array_equal(values[1], 9)
    with pytest.raises(LaunchError, match="livelock"):
        emulator.launch("around", (5,), (40,), (np.zeros(1, np.uint32), values, np.int32(9)), seed=seed)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (0, "deadlock.*__syncthreads.*25 of its 32 threads have returned"),
        (1, "deadlock.*7 of its 32"),
        (2, "divergence.*__ballot_sync"),
        (3, "illegal access"),
        (4, "livelock"),
        (5, "__ballot_sync.*has returned|deadlock"),
        (6, "reads lane 9|isn't in its own mask"),
        (7, rf"undefined behavior(.|\n)*kernels.cu:{CODE[: CODE.index('big + 1')].count(chr(10)) + 1}\b"),
        (8, "undefined behavior|division"),
        (9, "illegal access"),
    ],
)
def test_what_goes_wrong_is_told(emulator, what, message):
    out = Guarded().empty(64, np.int32)
    out[:] = 0
    for seed in range(4):
        with pytest.raises(LaunchError, match=message):
            emulator.launch("wrong", (1,), (32,), (out, np.int32(what)), shared=64, seed=seed)


def test_exchanges(emulator):
    out = np.zeros((11, 32), np.uint32)
    emulator.launch("exchanges", (1,), (32,), (out,))
    lane = np.arange(32)
    expected = [
        np.where(lane < 3, lane, lane - 3),
        np.where(lane + 30 < 32, lane + 30, lane),
        lane ^ 5,
        5 + 0 * lane,
        np.where(lane % 8 == 0, lane, lane - 1),
        np.full(32, sum(1 << i for i in range(0, 32, 3))),
        np.full(32, 496),
        0xFF << lane // 8 * 8,
        np.full(32, 32),
        np.full(32, 4),
        np.ones(32),
    ]
    np.testing.assert_array_equal(out, np.array(expected, np.uint32))


def test_arguments_are_checked(emulator):
    with pytest.raises(TypeError, match="parameters of"):
        emulator.launch("wrong", (1,), (32,), (np.zeros(1, np.int32), np.int64(0)))
    with pytest.raises(KeyError):
        emulator.launch("right", (1,), (32,), ())
    with pytest.raises(LaunchError, match="shared memory"):
        emulator.launch("wrong", (1,), (32,), (np.zeros(1, np.int32), np.int32(99)), shared=1 << 20)
    with pytest.raises(RuntimeError, match="error"):
        build("int f( {")
