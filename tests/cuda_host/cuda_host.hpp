// CUDA C++ on a CPU, to test kernels without a GPU: include it before a .cu file and compile that with g++.
//
//     #include "cuda_host.hpp"
//     #include "rans.cu"
//     CUDA_HOST_EXPORT(decode_lanes)        // for each __global__ function that is to be launched
//
//     g++ -std=c++17 -O1 -ffp-contract=off -fPIC -shared -I tests/cuda_host -I kernels/cuda ... -ldl
//
// `emulator.py` builds such files, with checks for undefined behavior, and launches their kernels on NumPy
// arrays. What differs from CUDA:
//
// - Dynamic shared memory is declared by Q_DYNAMIC_SHARED(name): an array of unsigned char, aligned to 16. On
//   a device that is `extern __shared__ __align__(16) unsigned char name[]`. Static `__shared__` variables
//   are allowed in functions that are neither templates nor `inline`.
// - A loop that waits for another block must call __nanosleep in its body. Only a cooperative launch has all
//   its blocks alive at once; otherwise two are, taken in any order.
//
// Threads are fibers of one CPU thread. Each runs until it waits (at a barrier, a warp's exchange, an atomic
// operation now and then); which one runs next is drawn from the launch's seed, so a missing barrier shows as
// a result that depends on the seed. Shared memory starts poisoned. A launch fails, with a message that says
// where, instead of hanging or computing on: where threads of a warp or block wait at different lines, with
// different masks, or for one that has returned; where all wait for what never comes; at an access to
// memory that isn't there (guard pages end the dynamic shared memory; `emulator.py` has guarded arrays).
#pragma once

// glibc's fortified longjmp refuses to switch stacks.
#undef _FORTIFY_SOURCE
#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define CUDA_HOST 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static __attribute__((section("cuda_shared")))
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define Q_DYNAMIC_SHARED(name) unsigned char* const name = cuda_host::current_block().dynamic

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(16) ulonglong2 { unsigned long long x, y; };
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

extern "C" {
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
}

namespace cuda_host {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;
constexpr size_t kStack = 1 << 18, kPage = 4096, kMaxShared = 232448;
constexpr int kPoison = 0xA5;
// So many rounds of nothing but waiting in __nanosleep, and a launch is given up.
constexpr unsigned kPatience = 1000;

enum class State { kReady, kWarp, kBlock, kDone };

struct Fiber {
    jmp_buf resume;
    unsigned char* stack = nullptr;
    uint3 thread;
    unsigned number = 0;          // in its block
    State state = State::kDone;
    const char* operation = "";   // what it waits in, where, and for which lanes
    int line = 0;
    unsigned mask = 0;
    uint64_t given = 0;
    const uint64_t* seen = nullptr;   // what all gave
    uint64_t own[kWarp];
};

struct Block {
    uint3 index;
    unsigned char* dynamic = nullptr;
    std::vector<unsigned char> statics;
    std::vector<Fiber*> fibers, ready;
    std::vector<uint64_t> exchanged;   // of whole warps
    unsigned arrived = 0, done = 0;
};

// Everything about the launch under way; one at a time in a library.
struct Launch {
    void (*call)(void*, void**) = nullptr;
    void* kernel = nullptr;
    void** args = nullptr;
    uint64_t random = 0;
    jmp_buf scheduler;
    sigjmp_buf failure;
    char message[512];
    std::vector<Block*> alive;
    Block* block = nullptr;       // whose fibers run, whose static shared memory is in place
    Fiber* fiber = nullptr;
    uint64_t sleeps = 0;          // since anything else happened
};
static Launch launch_;

static inline Block& current_block() { return *launch_.block; }

static inline uint32_t draw(uint32_t below) {
    uint64_t z = (launch_.random += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return static_cast<uint32_t>((z ^ z >> 31) >> 32) % below;
}

[[noreturn]] __attribute__((format(printf, 1, 2), noinline)) static void fail(const char* format, ...) {
    va_list rest;
    va_start(rest, format);
    vsnprintf(launch_.message, sizeof launch_.message, format, rest);
    va_end(rest);
    siglongjmp(launch_.failure, 1);
}

// The instruction at fault as an offset in this library, for addr2line; 0 where it lies outside or isn't known.
static size_t fault_offset(const ucontext_t* context) {
#if defined(__x86_64__)
    const uintptr_t place = static_cast<uintptr_t>(context->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    const uintptr_t place = context->uc_mcontext.pc;
#else
    const uintptr_t place = 0;
#endif
    Dl_info here = {}, there = {};
    dladdr(reinterpret_cast<const void*>(&fault_offset), &here);
    dladdr(reinterpret_cast<const void*>(place), &there);
    return there.dli_fbase == here.dli_fbase ? place - reinterpret_cast<uintptr_t>(here.dli_fbase) : 0;
}

// Built with -fsanitize-undefined-trap-on-error, undefined behavior is an illegal instruction.
[[noreturn]] static void on_fault(int signal, siginfo_t* info, void* context) {
    const Block* block = launch_.block;
    const Fiber* fiber = launch_.fiber;
    const uint3 index = block ? block->index : uint3{0, 0, 0};
    fail("%s, address %p, by thread %u of block (%u, %u, %u), code at %#zx",
         signal == SIGILL ? "undefined behavior" : signal == SIGFPE ? "division by zero" : "illegal access",
         info->si_addr, fiber ? fiber->number : 0, index.x, index.y, index.z,
         fault_offset(static_cast<const ucontext_t*>(context)));
}

// Back to the scheduler; returns when the fiber is chosen again.
__attribute__((noinline)) static void leave() {
    Fiber* self = launch_.fiber;
    if (!_setjmp(self->resume)) _longjmp(launch_.scheduler, 1);
}

static void make_ready(Block& block, Fiber& fiber) {
    fiber.state = State::kReady;
    block.ready.push_back(&fiber);
    launch_.sleeps = 0;
}

static inline void yield() {
    make_ready(*launch_.block, *launch_.fiber);
    leave();
}

static void require_same(const Fiber& a, const Fiber& b) {
    if (a.operation != b.operation || a.line != b.line || a.mask != b.mask)
        fail("divergence: thread %u waits in %s of line %d for %08x, thread %u in %s of line %d for %08x",
             a.number, a.operation, a.line, a.mask, b.number, b.operation, b.line, b.mask);
}

__attribute__((noinline)) static void sync_block(int line) {
    Block& block = *launch_.block;
    Fiber& self = *launch_.fiber;
    static const char name[] = "__syncthreads";
    self.operation = name, self.line = line, self.mask = 0, self.state = State::kBlock;
    if (++block.arrived == block.fibers.size()) {
        block.arrived = 0;
        for (Fiber* other : block.fibers) {
            require_same(self, *other);
            make_ready(block, *other);
        }
    }
    leave();
}

// Waits for the lanes of the mask; `seen` of each then holds what all gave. The operation is told by its address.
__attribute__((noinline)) static const uint64_t* exchange(unsigned mask, uint64_t given, const char* operation,
                                                         int line) {
    Block& block = *launch_.block;
    Fiber& self = *launch_.fiber;
    const unsigned first = self.number / kWarp * kWarp;
    const unsigned size = static_cast<unsigned>(block.fibers.size());
    if (!(mask >> (self.number - first) & 1)) fail("thread %u isn't in its own mask %08x in %s of line %d",
                                                   self.number, mask, operation, line);
    if (size - first < kWarp && mask >> (size - first)) fail("mask %08x in %s of line %d, the warp has %u threads",
                                                             mask, operation, line, size - first);
    self.operation = operation, self.line = line, self.mask = mask, self.given = given;
    self.state = State::kWarp;
    bool complete = true;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        if (!(mask >> lane & 1)) continue;
        const Fiber& other = *block.fibers[first + lane];
        if (other.state == State::kDone)
            fail("thread %u waits in %s of line %d for thread %u, which has returned", self.number, operation,
                 line, other.number);
        if (other.state != State::kReady) require_same(self, other);
        complete = complete && other.state == State::kWarp;
    }
    if (complete) {
        // Whole warps share what was given: before the next exchange of all ends, all have seen it.
        uint64_t* const shared = &block.exchanged[first];
        for (unsigned lane = 0; lane < kWarp; ++lane) {
            if (!(mask >> lane & 1)) continue;
            Fiber& other = *block.fibers[first + lane];
            uint64_t* const seen = mask == 0xFFFFFFFFu ? shared : other.own;
            if (mask == 0xFFFFFFFFu)
                seen[lane] = other.given;
            else
                for (unsigned l = 0; l < kWarp; ++l) seen[l] = mask >> l & 1 ? block.fibers[first + l]->given : 0;
            other.seen = seen;
            make_ready(block, other);
        }
    }
    leave();
    return self.seen;
}

// Other fibers may come between two atomic operations, now and then.
static inline void maybe_yield() {
    if (draw(8) == 0) yield();
}

static void sleep_fiber() {
    const uint64_t sleeps = launch_.sleeps + 1;
    make_ready(*launch_.block, *launch_.fiber);
    launch_.sleeps = sleeps;
    leave();
}

static unsigned lane_id() { return launch_.fiber->number % kWarp; }

template <typename T> static inline uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "too wide to exchange");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T>
static T shuffle(unsigned mask, T value, unsigned source, const char* operation, int line) {
    const uint64_t* seen = exchange(mask, to_bits(value), operation, line);
    if (!(mask >> source & 1)) fail("thread %u reads lane %u, which isn't in mask %08x, in %s of line %d",
                                    launch_.fiber->number, source, mask, operation, line);
    T result;
    memcpy(&result, &seen[source], sizeof result);
    return result;
}

static const char kSyncWarp[] = "__syncwarp", kBallot[] = "__ballot_sync", kShuffle[] = "__shfl_sync",
                  kShuffleUp[] = "__shfl_up_sync", kShuffleDown[] = "__shfl_down_sync",
                  kShuffleXor[] = "__shfl_xor_sync", kReduce[] = "__reduce_sync", kMatch[] = "__match_any_sync";

static unsigned ballot(unsigned mask, bool holds, int line) {
    const uint64_t* seen = exchange(mask, holds, kBallot, line);
    unsigned result = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane) result |= static_cast<unsigned>(seen[lane] & 1) << lane;
    return result;
}

template <typename Join>
static unsigned reduce(unsigned mask, unsigned value, Join join, int line) {
    const uint64_t* seen = exchange(mask, value, kReduce, line);
    bool first = true;
    unsigned result = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        if (!(mask >> lane & 1)) continue;
        const unsigned other = static_cast<unsigned>(seen[lane]);
        result = first ? other : join(result, other);
        first = false;
    }
    return result;
}

// Memory that ends, but for 15 bytes, where a page begins that no one may touch; 16-aligned.
class Guarded {
public:
    explicit Guarded(size_t size) : whole_((size + kPage - 1) / kPage * kPage + 2 * kPage) {
        void* mapped = mmap(nullptr, whole_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                            -1, 0);
        if (mapped == MAP_FAILED) abort();
        base_ = static_cast<unsigned char*>(mapped);
        mprotect(base_, kPage, PROT_NONE);
        mprotect(base_ + whole_ - kPage, kPage, PROT_NONE);
        start = base_ + whole_ - kPage - (size + 15) / 16 * 16;
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    ~Guarded() { munmap(base_, whole_); }
    unsigned char* start;

private:
    size_t whole_;
    unsigned char* base_;
};

static void run_fiber() {
    launch_.call(launch_.kernel, launch_.args);
    Block& block = *launch_.block;
    Fiber& self = *launch_.fiber;
    self.state = State::kDone;
    launch_.sleeps = 0;
    ++block.done;
    // What has returned can't arrive where others wait; the scheduler finds those that then wait for ever.
    _longjmp(launch_.scheduler, 1);
}

static void enter(Block& block) {
    const size_t size = __stop_cuda_shared - __start_cuda_shared;
    if (launch_.block == &block) return;
    if (size && launch_.block) memcpy(launch_.block->statics.data(), __start_cuda_shared, size);
    if (size) memcpy(__start_cuda_shared, block.statics.data(), size);
    launch_.block = &block;
    blockIdx = block.index;
}

// Runs the fibers of the blocks alive until all have returned.
__attribute__((noinline)) static void schedule() {
    for (;;) {
        size_t with_ready = 0, unfinished = 0;
        for (const Block* block : launch_.alive) {
            with_ready += !block->ready.empty();
            unfinished += block->done < block->fibers.size();
        }
        if (unfinished == 0) break;
        if (with_ready == 0) {
            for (const Block* block : launch_.alive)
                for (const Fiber* fiber : block->fibers)
                    if (fiber->state != State::kDone)
                        fail("deadlock: thread %u of block (%u, %u, %u) waits in %s of line %d; %u of its %zu "
                             "threads have returned",
                             fiber->number, block->index.x, block->index.y, block->index.z, fiber->operation,
                             fiber->line, block->done, block->fibers.size());
        }
        // A block runs for a while: another's shared memory costs a copy.
        Block* block = launch_.block;
        if (!block || block->ready.empty() || draw(16) == 0) {
            size_t chosen = draw(static_cast<uint32_t>(with_ready));
            for (Block* other : launch_.alive)
                if (!other->ready.empty() && chosen-- == 0) block = other;
        }
        enter(*block);
        const size_t place = draw(static_cast<uint32_t>(block->ready.size()));
        Fiber* fiber = block->ready[place];
        block->ready[place] = block->ready.back();
        block->ready.pop_back();
        launch_.fiber = fiber;
        threadIdx = fiber->thread;
        if (launch_.sleeps > uint64_t{kPatience} * kMaxThreads)
            fail("livelock: thread %u of block (%u, %u, %u) waits in __nanosleep for what never comes",
                 fiber->number, block->index.x, block->index.y, block->index.z);
        if (!_setjmp(launch_.scheduler)) _longjmp(fiber->resume, 1);
    }
}

// Puts a fiber on its stack, where it waits to be chosen for the first time.
__attribute__((noinline)) static void start(Fiber& fiber) {
    launch_.fiber = &fiber;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack;
    context.uc_stack.ss_size = kStack;
    makecontext(&context, [] { leave(); run_fiber(); }, 0);
    if (!_setjmp(launch_.scheduler)) setcontext(&context);
}

static void run_blocks(const std::vector<Block*>& blocks, size_t shared) {
    launch_.alive = blocks;
    launch_.block = nullptr;
    for (Block* block : blocks) {
        memset(block->dynamic, kPoison, shared);
        block->statics.assign(__stop_cuda_shared - __start_cuda_shared, kPoison);
        block->arrived = block->done = 0;
        block->ready.clear();
        block->exchanged.resize((block->fibers.size() + kWarp - 1) / kWarp * kWarp);
        for (Fiber* fiber : block->fibers) {
            start(*fiber);
            make_ready(*block, *fiber);
        }
    }
    schedule();
    launch_.block = nullptr;
}

// All blocks in that order, as many at once as there are slots. Returns false where `fail` was called.
__attribute__((noinline)) static bool run_all(std::vector<Block>& slots, const std::vector<size_t>& order,
                                              dim3 grid, size_t shared) {
    if (sigsetjmp(launch_.failure, 1)) return false;
    for (size_t done = 0; done < order.size(); done += slots.size()) {
        std::vector<Block*> blocks;
        for (size_t i = done; i < std::min(done + slots.size(), order.size()); ++i) {
            slots[i - done].index = {static_cast<unsigned>(order[i] % grid.x),
                                     static_cast<unsigned>(order[i] / grid.x % grid.y),
                                     static_cast<unsigned>(order[i] / grid.x / grid.y)};
            blocks.push_back(&slots[i - done]);
        }
        run_blocks(blocks, shared);
    }
    return true;
}

// Returns nothing, or what went wrong, valid until the next launch.
static const char* run(void (*call)(void*, void**), void* kernel, dim3 grid, dim3 block, size_t shared,
                       bool cooperative, uint64_t seed, void** args) {
    const size_t threads = size_t{block.x} * block.y * block.z, blocks = size_t{grid.x} * grid.y * grid.z;
    const size_t statics = __stop_cuda_shared - __start_cuda_shared;
    if (threads == 0 || threads > kMaxThreads || blocks == 0 || grid.x > 0x7FFFFFFFu || grid.y > 65535 ||
        grid.z > 65535 || block.z > 64)
        return "illegal grid or block";
    if (shared + statics > kMaxShared) return "more shared memory than a block can have";
    launch_.call = call, launch_.kernel = kernel, launch_.args = args;
    launch_.random = seed, launch_.sleeps = 0, launch_.fiber = nullptr, launch_.message[0] = 0;
    blockDim = block, gridDim = grid;

    const size_t alive = cooperative ? blocks : std::min<size_t>(blocks, 2);
    std::vector<Block> slots(alive);
    std::vector<Fiber> fibers(alive * threads);
    std::vector<Guarded*> memory;
    for (size_t b = 0; b < alive; ++b) {
        memory.push_back(new Guarded(shared));
        slots[b].dynamic = memory.back()->start;
        for (size_t t = 0; t < threads; ++t) {
            Fiber& fiber = fibers[b * threads + t];
            memory.push_back(new Guarded(kStack));
            fiber.stack = memory.back()->start;
            fiber.number = static_cast<unsigned>(t);
            fiber.thread = {static_cast<unsigned>(t % block.x), static_cast<unsigned>(t / block.x % block.y),
                            static_cast<unsigned>(t / block.x / block.y)};
            slots[b].fibers.push_back(&fiber);
        }
    }
    std::vector<size_t> order(blocks);
    for (size_t b = 0; b < blocks; ++b) {
        order[b] = b;
        std::swap(order[b], order[draw(static_cast<uint32_t>(b + 1))]);
    }

    // A fault on a fiber's stack, or for want of one, is handled on another.
    Guarded signal_stack(1 << 16);
    stack_t own = {}, before = {};
    own.ss_sp = signal_stack.start, own.ss_size = 1 << 16;
    sigaltstack(&own, &before);
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction action = {}, replaced[4] = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &action, &replaced[i]);
    const bool finished = run_all(slots, order, grid, shared);
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &replaced[i], nullptr);
    sigaltstack(&before, nullptr);
    launch_.alive.clear();
    launch_.block = nullptr;
    for (Guarded* one : memory) delete one;
    return finished ? nullptr : launch_.message;
}

struct Kernel {
    std::string name;
    std::vector<size_t> sizes;
    void* function;
    void (*call)(void*, void**);
};

static std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}

template <typename... P, size_t... I>
static void unpack(void (*kernel)(P...), void** args, std::index_sequence<I...>) {
    (void)args;
    kernel(*static_cast<std::remove_const_t<P>*>(args[I])...);
}

template <typename... P> static int add(const char* name, void (*kernel)(P...)) {
    kernels().push_back({name, {sizeof(P)...}, reinterpret_cast<void*>(kernel), [](void* function, void** args) {
                             unpack(reinterpret_cast<void (*)(P...)>(function), args,
                                    std::index_sequence_for<P...>());
                         }});
    return 0;
}

static const Kernel* find(const char* name) {
    for (const Kernel& kernel : kernels())
        if (kernel.name == name) return &kernel;
    return nullptr;
}

}  // namespace cuda_host

#define CUDA_HOST_EXPORT(name) static const int cuda_host_export_##name = cuda_host::add(#name, &name);

extern "C" {

// As cuLaunchKernel: args[i] points to argument i. grid, block: three numbers each. Returns null, or a message.
const char* cuda_host_launch(const char* name, const unsigned* grid, const unsigned* block, size_t shared,
                             int cooperative, uint64_t seed, void** args) {
    const cuda_host::Kernel* kernel = cuda_host::find(name);
    if (!kernel) return "no such kernel";
    return cuda_host::run(kernel->call, kernel->function, dim3(grid[0], grid[1], grid[2]),
                          dim3(block[0], block[1], block[2]), shared, cooperative != 0, seed, args);
}

// The number of a kernel's parameters, whose sizes in bytes go to `sizes` (up to `room`); -1: no such kernel.
int cuda_host_parameters(const char* name, size_t* sizes, int room) {
    const cuda_host::Kernel* kernel = cuda_host::find(name);
    if (!kernel) return -1;
    const int count = static_cast<int>(kernel->sizes.size());
    for (int i = 0; i < count && i < room; ++i) sizes[i] = kernel->sizes[i];
    return count;
}

}  // extern "C"

// The line of the call tells one barrier from another.
#define CUDA_HOST_LINE int line = __builtin_LINE()

static inline void __syncthreads(CUDA_HOST_LINE) { cuda_host::sync_block(line); }
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, CUDA_HOST_LINE) {
    cuda_host::exchange(mask, 0, cuda_host::kSyncWarp, line);
}
static inline unsigned __ballot_sync(unsigned mask, int holds, CUDA_HOST_LINE) {
    return cuda_host::ballot(mask, holds != 0, line);
}
static inline int __any_sync(unsigned mask, int holds, CUDA_HOST_LINE) {
    return cuda_host::ballot(mask, holds != 0, line) != 0;
}
static inline int __all_sync(unsigned mask, int holds, CUDA_HOST_LINE) {
    return cuda_host::ballot(mask, holds == 0, line) == 0;
}
static inline int __syncthreads_or(int holds, CUDA_HOST_LINE) {
    __attribute__((section("cuda_shared"))) static int any;
    cuda_host::sync_block(line);
    any = 0;
    cuda_host::sync_block(line);
    if (holds) any = 1;
    cuda_host::sync_block(line);
    return any;
}
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_HOST_LINE) {
    const unsigned own = cuda_host::lane_id();
    return cuda_host::shuffle(mask, value, (own & ~(width - 1u)) | (source & (width - 1u)), cuda_host::kShuffle, line);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_HOST_LINE) {
    const unsigned own = cuda_host::lane_id();
    return cuda_host::shuffle(mask, value, (own & (width - 1u)) < delta ? own : own - delta, cuda_host::kShuffleUp, line);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_HOST_LINE) {
    const unsigned own = cuda_host::lane_id();
    const bool inside = (own & (width - 1u)) + delta < static_cast<unsigned>(width);
    return cuda_host::shuffle(mask, value, inside ? own + delta : own, cuda_host::kShuffleDown, line);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_HOST_LINE) {
    const unsigned own = cuda_host::lane_id(), other = own ^ static_cast<unsigned>(bits);
    const bool inside = (own & ~(width - 1u)) >= (other & ~(width - 1u));
    return cuda_host::shuffle(mask, value, inside ? other : own, cuda_host::kShuffleXor, line);
}
static inline unsigned __reduce_add_sync(unsigned mask, unsigned value, CUDA_HOST_LINE) {
    return cuda_host::reduce(mask, value, [](unsigned a, unsigned b) { return a + b; }, line);
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned value, CUDA_HOST_LINE) {
    return cuda_host::reduce(mask, value, [](unsigned a, unsigned b) { return a > b ? a : b; }, line);
}
static inline unsigned __reduce_min_sync(unsigned mask, unsigned value, CUDA_HOST_LINE) {
    return cuda_host::reduce(mask, value, [](unsigned a, unsigned b) { return a < b ? a : b; }, line);
}
template <typename T> static inline unsigned __match_any_sync(unsigned mask, T value, CUDA_HOST_LINE) {
    const uint64_t* seen = cuda_host::exchange(mask, cuda_host::to_bits(value), cuda_host::kMatch, line);
    unsigned result = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && seen[lane] == cuda_host::to_bits(value)) result |= 1u << lane;
    return result;
}

static inline void __threadfence() { cuda_host::maybe_yield(); }
static inline void __threadfence_block() { cuda_host::maybe_yield(); }
static inline void __nanosleep(unsigned) { cuda_host::sleep_fiber(); }

template <typename T, typename F> static inline T cuda_host_atomic(T* place, F change) {
    cuda_host::maybe_yield();
    const T before = *place;
    *place = change(before);
    return before;
}
template <typename T> struct cuda_host_same { using type = T; };
template <typename T> using cuda_host_as = typename cuda_host_same<T>::type;
template <typename T> static inline T atomicAdd(T* place, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T before) { return static_cast<T>(before + value); });
}
template <typename T> static inline T atomicSub(T* place, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T before) { return static_cast<T>(before - value); });
}
template <typename T> static inline T atomicExch(T* place, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T) { return value; });
}
template <typename T> static inline T atomicMax(T* place, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T before) { return before > value ? before : value; });
}
template <typename T> static inline T atomicMin(T* place, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T before) { return before < value ? before : value; });
}
template <typename T> static inline T atomicOr(T* place, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T before) { return before | value; });
}
template <typename T> static inline T atomicAnd(T* place, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T before) { return before & value; });
}
template <typename T>
static inline T atomicCAS(T* place, cuda_host_as<T> expected, cuda_host_as<T> value) {
    return cuda_host_atomic(place, [=](T before) { return before == expected ? value : before; });
}

template <typename T> static inline T __ldg(const T* place) { return *place; }
template <typename T> static inline T __ldcg(const T* place) { return *place; }
template <typename T> static inline T __ldcs(const T* place) { return *place; }
template <typename T> static inline void __stcg(T* place, cuda_host_as<T> value) { *place = value; }
template <typename T> static inline void __stcs(T* place, cuda_host_as<T> value) { *place = value; }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
static inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
template <typename To, typename From> static inline To cuda_host_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline int __float_as_int(float x) { return cuda_host_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return cuda_host_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return cuda_host_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return cuda_host_bits<float>(x); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
// Out of range it saturates, and NaN gives 0.
static inline int __float2int_rn(float x) {
    const float r = rintf(x);
    return r != r ? 0 : r >= 2147483648.0f ? INT32_MAX : r < -2147483648.0f ? INT32_MIN : static_cast<int>(r);
}
#define CUDA_HOST_MINMAX(T)                                     \
    static inline T min(T a, T b) { return b < a ? b : a; }     \
    static inline T max(T a, T b) { return a < b ? b : a; }
CUDA_HOST_MINMAX(int)
CUDA_HOST_MINMAX(unsigned)
CUDA_HOST_MINMAX(long long)
CUDA_HOST_MINMAX(unsigned long long)
static inline long min(long a, long b) { return b < a ? b : a; }
static inline long max(long a, long b) { return a < b ? b : a; }
static inline unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
static inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

// Time that passes: each look at the clock takes a cycle.
static inline long long clock64() {
    static long long cycles = 0;
    return ++cycles;
}
