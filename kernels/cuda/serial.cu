// Latents of serial orders, and one step of others, in one cooperative launch.
#include "serial.cuh"

#ifndef Q_DYNAMIC_SHARED
#define Q_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// A grid of job's program_blocks + coder_blocks, all of them resident. job: as `serial.py` fills it.
extern "C" __global__ void __launch_bounds__(512)
walk_latent(const long long* job, unsigned* counters, long long* failure, long long* results, long long* ticks) {
    Q_DYNAMIC_SHARED(dynamic);
    serial::walk(job, counters, failure, results, ticks, dynamic);
}
