/*
 * Chains of operations whose results are known bit by bit: every block computes the same, so that every multiprocessor
 * is tried. The references in compute.py do the same steps; each operation of singles and doubles rounds as IEEE 754 says.
 */
#include "gpu.cuh"

INSIDE u32 bits_of(float value) {
    return __float_as_uint(value);
}

/* Multiplies, 64-bit products, shifts, bit counts, divisions. */
KERNEL void integers(u32 *out, u32 seed, u32 steps) {
    u32 a = mix(threadIdx.x ^ seed), b = mix(a + 1);
    for (u32 i = 0; i < steps; i++) {
        a = a * 1664525u + 1013904223u;
        b ^= __umulhi(a, b | 1u);
        b = (b << 7) | (b >> 25);
        a += __popc(b);
        b += a / ((b >> 24) + 3u);
        u64 wide = (u64)a * b + i;
        a ^= (u32)(wide >> 32);
        b += __brev((u32)wide);
    }
    out[thread_of_grid()] = a ^ b;
}

/* x runs through the chaotic logistic map, so that one wrong bit changes all that come after it. */
KERNEL void singles(u32 *out, u32 seed, u32 steps) {
    float x = __fdiv_rn((float)(mix(threadIdx.x ^ seed) >> 8) + 1.0f, 16777218.0f), s = 0.0f;
    for (u32 i = 0; i < steps; i++) {
        x = __fmul_rn(__fmul_rn(3.9f, x), __fsub_rn(1.0f, x));
        float root = __fsqrt_rn(x);
        float part = __fdiv_rn(x, __fadd_rn(1.0f, root));
        s = __fmaf_rn(part, root, __fmul_rn(0.5f, s));
    }
    out[thread_of_grid()] = bits_of(x) ^ (bits_of(s) * 3u);
}

KERNEL void doubles(u64 *out, u32 seed, u32 steps) {
    double x = __ddiv_rn((double)mix(threadIdx.x ^ seed) + 1.0, 4294967298.0), s = 0.0;
    for (u32 i = 0; i < steps; i++) {
        x = __dmul_rn(__dmul_rn(3.9, x), __dsub_rn(1.0, x));
        double root = __dsqrt_rn(x);
        double part = __ddiv_rn(x, __dadd_rn(1.0, root));
        s = __fma_rn(part, root, __dmul_rn(0.5, s));
    }
    out[thread_of_grid()] = (u64)__double_as_longlong(x) ^ ((u64)__double_as_longlong(s) * 3u);
}

/* Shared memory, barriers and shuffles: numbers wander through the block. 256 threads. */
KERNEL void exchange(u32 *out, u32 seed, u32 steps) {
    __shared__ u32 room[256];
    u32 mine = mix(threadIdx.x ^ seed);
    for (u32 i = 0; i < steps; i++) {
        room[threadIdx.x] = mine;
        __syncthreads();
        u32 other = room[(threadIdx.x * 33 + 17 + i) & 255];
        __syncthreads();
        mine = mine * 5u + other;
        mine ^= __shfl_xor_sync(0xffffffffu, mine, (i & 31) | 1);
    }
    out[thread_of_grid()] = mine;
}

/* Atomics of device memory, all blocks on 32 places. */
KERNEL void counters(u64 *out, u32 seed, u32 steps) {
    u32 mine = mix(threadIdx.x ^ seed);
    for (u32 i = 0; i < steps; i++) {
        u32 place = (threadIdx.x + i) & 31;
        atomicAdd(&out[place], (u64)mine);
        atomicMax(&out[32 + place], (u64)mine + i);
    }
}

/* The units of special functions; their results are approximate. Three numbers a thread. */
KERNEL void functions(float *out, u32 seed) {
    float x = (float)(mix(threadIdx.x ^ seed) >> 8) * (1.0f / 16777216.0f);
    float *mine = out + 3 * thread_of_grid();
    mine[0] = power_of_two(x);
    mine[1] = inverse_root(x + 0.5f);
    mine[2] = sine(6.0f * x - 3.0f);
}
