/*
 * What stands in for a GPU where the kernels are compiled by g++ (see gpu.cuh): a block's threads are coroutines that
 * change at barriers and warp instructions; the instructions do what NVIDIA's PTX ISA says of each lane's registers.
 */
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define KERNEL extern "C"
#define INSIDE static inline
#define SHARED static
#define DYNAMIC_SHARED(name) u8 *name = cpu::dynamic_shared
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Place {
    u32 x, y, z;
};
extern Place threadIdx, blockIdx, blockDim, gridDim;

struct uint4 {
    u32 x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
struct float2 {
    float x, y;
};
INSIDE float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
INSIDE float2 make_float2(float x, float y) {
    return {x, y};
}

namespace cpu {
extern u8 *dynamic_shared;
/* Waits for the block, or the warp. */
void block_barrier();
/* What each of the warp's 32 lanes gave, `size` bytes each; good until the second next call. */
const u8 *gathered(const void *mine, size_t size);
/* A copy that happens when it is waited for, as late as the GPU may do it. */
void copy_later(void *to, const void *from);
void copy_commit();
void copy_wait(int pending);

template <class T> const T *gather(const T &mine) {
    return (const T *)gathered(&mine, sizeof(T));
}

template <class To, class From> To same_bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from, "two sizes");
    memcpy(&to, &from, sizeof to);
    return to;
}

INSIDE float of_bf16(u32 pair, u32 half) {
    return same_bits<float>(half ? pair & 0xffff0000u : pair << 16);
}

INSIDE float of_fp16(u16 bits) {
    float size = same_bits<float>((bits & 0x7fffu) << 13) * 0x1p112f;
    return bits & 0x8000 ? -size : size;
}
} // namespace cpu

INSIDE void __syncthreads() {
    cpu::block_barrier();
}
template <class T> INSIDE T __shfl_xor_sync(u32, T value, int mask) {
    return cpu::gather(value)[(threadIdx.x & 31) ^ (u32)mask];
}
template <class T> INSIDE T atomicAdd(T *at, T value) {
    T old = *at;
    *at = old + value;
    return old;
}
template <class T> INSIDE T atomicMin(T *at, T value) {
    T old = *at;
    *at = value < old ? value : old;
    return old;
}
template <class T> INSIDE T atomicMax(T *at, T value) {
    T old = *at;
    *at = value > old ? value : old;
    return old;
}
template <class T> INSIDE T atomicOr(T *at, T value) {
    T old = *at;
    *at = old | value;
    return old;
}

INSIDE u32 __umulhi(u32 a, u32 b) {
    return (u32)((u64)a * b >> 32);
}
INSIDE u32 __popc(u32 value) {
    return (u32)__builtin_popcount(value);
}
INSIDE u32 __brev(u32 value) {
    u32 turned = 0;
    for (int i = 0; i < 32; i++)
        turned |= (value >> i & 1u) << (31 - i);
    return turned;
}
INSIDE u32 __float_as_uint(float value) {
    return cpu::same_bits<u32>(value);
}
INSIDE s64 __double_as_longlong(double value) {
    return cpu::same_bits<s64>(value);
}

#define ARITHMETIC(letter, type)                                                                                       \
    INSIDE type __##letter##mul_rn(type a, type b) { return a * b; }                                                   \
    INSIDE type __##letter##add_rn(type a, type b) { return a + b; }                                                   \
    INSIDE type __##letter##sub_rn(type a, type b) { return a - b; }                                                   \
    INSIDE type __##letter##div_rn(type a, type b) { return a / b; }                                                   \
    INSIDE type __##letter##sqrt_rn(type a) { return std::sqrt(a); }
ARITHMETIC(f, float)
ARITHMETIC(d, double)
INSIDE float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
INSIDE double __fma_rn(double a, double b, double c) {
    return fma(a, b, c);
}
INSIDE float power_of_two(float x) {
    return exp2f(x);
}
INSIDE float inverse_root(float x) {
    return 1.0f / sqrtf(x);
}
INSIDE float sine(float x) {
    return sinf(x);
}
/* Of whole numbers up to 2048, which fp16 holds exactly. */
INSIDE u16 fp16_of(float value) {
    u32 bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
    return (u16)(value == 0 ? sign : sign | ((bits >> 23 & 255u) - 112u) << 10 | (bits >> 13 & 1023u));
}

INSIDE void copy_async(void *to, const void *from) {
    cpu::copy_later(to, from);
}
INSIDE void copy_commit() {
    cpu::copy_commit();
}
template <int pending> INSIDE void copy_wait() {
    cpu::copy_wait(pending);
}

/* ldmatrix: lane 8 m + r names row r of matrix m; lane l gets the two numbers 2 (l % 4) of row l / 4 of each. */
INSIDE void load_matrices(u32 (&to)[4], const void *row) {
    const void *const *rows = cpu::gather(row);
    u32 lane = threadIdx.x & 31;
    for (u32 m = 0; m < 4; m++)
        memcpy(&to[m], (const u8 *)rows[8 * m + lane / 4] + lane % 4 * 4, 4);
}

/* mma.m16n8k16. A: row g or g + 8 (odd registers), column 2 t or 2 t + 8 (registers 2 and 3). B: row 2 t or 2 t + 8,
   column g. C: row g or g + 8 (registers 2 and 3), column 2 t or 2 t + 1. g = lane / 4, t = lane % 4. */
INSIDE void multiply_bf16(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Given {
        u32 a[4], b[2];
    };
    const Given *all = cpu::gather(Given{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    u32 lane = threadIdx.x & 31;
    for (u32 i = 0; i < 4; i++) {
        u32 row = lane / 4, column = lane % 4 * 2 + i % 2, lower = i / 2;
        for (u32 k = 0; k < 16; k++) {
            const Given &left = all[row * 4 + k % 8 / 2], &right = all[column * 4 + k % 8 / 2];
            sums[i] += cpu::of_bf16(left.a[lower + k / 8 * 2], k % 2) * cpu::of_bf16(right.b[k / 8], k % 2);
        }
    }
}

/* wmma: where an element lies is open. Here lane l has elements 8 (l / 16) to + 7 of row (of b: column) l % 16. */
INSIDE void load_line(u32 (&to)[8], const u16 *at, u32 stride) {
    u32 lane = threadIdx.x & 31;
    (void)cpu::gather(lane);
    memcpy(to, at + lane % 16 * stride + lane / 16 * 8, 16);
    memset(to + 4, 0, 16);
}
INSIDE void load_a(u32 (&to)[8], const u16 *at, u32 stride) {
    load_line(to, at, stride);
}
INSIDE void load_b(u32 (&to)[8], const u16 *at, u32 stride) {
    load_line(to, at, stride);
}
INSIDE void multiply_fp16(float (&s)[8], const u32 (&a)[8], const u32 (&b)[8]) {
    struct Given {
        u16 a[8], b[8];
    } mine;
    memcpy(mine.a, a, 16);
    memcpy(mine.b, b, 16);
    const Given *all = cpu::gather(mine);
    u32 lane = threadIdx.x & 31, row = lane % 16;
    for (u32 i = 0; i < 8; i++) {
        u32 column = lane / 16 * 8 + i;
        for (u32 k = 0; k < 16; k++)
            s[i] += cpu::of_fp16(all[row + k / 8 * 16].a[k % 8]) * cpu::of_fp16(all[column + k / 8 * 16].b[k % 8]);
    }
}
INSIDE void store_sums(float *at, const float (&s)[8], u32 stride) {
    u32 lane = threadIdx.x & 31;
    memcpy(at + (size_t)(lane % 16) * stride + lane / 16 * 8, s, 32);
}
