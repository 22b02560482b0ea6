/* What all kernels here share: PTX instructions as functions, and numbers that are the same on every machine. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define KERNEL extern "C" __global__
#define INSIDE static __device__ __forceinline__

INSIDE u32 shared_address(const void *at) {
    return (u32)__cvta_generic_to_shared(at);
}

/* 16 bytes from device to shared memory, in the background. */
INSIDE void copy_async(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

INSIDE void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `pending` of this thread's newest groups are on their way. */
template <int pending> INSIDE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Four 8x8 matrices of 16-bit numbers: lane 8 m + r gives the address of row r of matrix m. */
INSIDE void load_matrices(u32 (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* sums (16x8) += a (16x16, row) * b (16x8, col); bf16 in, float out. */
INSIDE void multiply_bf16(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Fragments of 16x16 matrices of fp16 in shared memory, as sm_70 has them; where an element lies is the GPU's secret.
   `stride`: elements from one row (of a) or column (of b) to the next. */
INSIDE void load_a(u32 (&to)[8], const u16 *at, u32 stride) {
    asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]), "=r"(to[4]), "=r"(to[5]), "=r"(to[6]),
                   "=r"(to[7])
                 : "r"(shared_address(at)), "r"(stride)
                 : "memory");
}

INSIDE void load_b(u32 (&to)[8], const u16 *at, u32 stride) {
    asm volatile("wmma.load.b.sync.aligned.col.m16n16k16.shared.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]), "=r"(to[4]), "=r"(to[5]), "=r"(to[6]),
                   "=r"(to[7])
                 : "r"(shared_address(at)), "r"(stride)
                 : "memory");
}

INSIDE void multiply_fp16(float (&s)[8], const u32 (&a)[8], const u32 (&b)[8]) {
    asm volatile("wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%0, %1, %2, %3, %4, %5, %6, %7}, "
                 "{%8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19, %20, %21, %22, %23}, "
                 "{%0, %1, %2, %3, %4, %5, %6, %7};"
                 : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]), "+f"(s[5]), "+f"(s[6]), "+f"(s[7])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]), "r"(b[0]),
                   "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(b[4]), "r"(b[5]), "r"(b[6]), "r"(b[7]));
}

/* 16x16 sums to device memory, row by row. */
INSIDE void store_sums(float *at, const float (&s)[8], u32 stride) {
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8}, %9;" ::"l"(
                     at),
                 "f"(s[0]), "f"(s[1]), "f"(s[2]), "f"(s[3]), "f"(s[4]), "f"(s[5]), "f"(s[6]), "f"(s[7]), "r"(stride)
                 : "memory");
}

INSIDE u16 fp16_of(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

INSIDE float power_of_two(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

INSIDE float inverse_root(float x) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

INSIDE float sine(float x) {
    float y;
    asm("sin.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* A number that looks random, the same on every machine: lowbias32 of C. Wellons' hash prospector. */
INSIDE u32 mix(u32 x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

INSIDE u64 thread_of_grid() {
    return (u64)blockIdx.x * blockDim.x + threadIdx.x;
}

INSIDE u64 threads_in_grid() {
    return (u64)gridDim.x * blockDim.x;
}

/* The sum over the 32 threads of a warp, in its first. */
INSIDE u64 warp_sum(u64 value) {
    for (int step = 16; step; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}
