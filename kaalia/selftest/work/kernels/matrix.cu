/*
 * What the matrix products share: operands, how a product is verified, and a product in single precision for any GPU.
 *
 * C (size x size) = A (size x size) * B, where B lies as its columns: B[k][n] is at columns[n * size + k].
 * Operands are whole numbers from -127 to 127, which fp16, bf16 and fp32 hold exactly; a sum of `size` products of them
 * stays below 2^24 (at size 8192 that is 34 standard deviations away), so that float sums are exact in any order.
 */
#include "gpu.cuh"

INSIDE int operand(u32 seed, u32 index) {
    return (int)((mix(index ^ seed) >> 8) % 255u) - 127;
}

/* Of x: never 0, so that one wrong element of a row always shows. */
INSIDE int factor(u32 seed, u32 index) {
    return operand(seed, index) | 1;
}

KERNEL void operands_fp32(float *to, u32 count, u32 seed) {
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid())
        to[i] = (float)operand(seed, (u32)i);
}

KERNEL void operands_fp16(u16 *to, u32 count, u32 seed) {
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid())
        to[i] = fp16_of((float)operand(seed, (u32)i));
}

/* The upper half of a float is its bf16; whole numbers up to 256 lose nothing by that. */
KERNEL void operands_bf16(u16 *to, u32 count, u32 seed) {
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid())
        to[i] = (u16)(__float_as_uint((float)operand(seed, (u32)i)) >> 16);
}

/* A product is right when C x = A (B x) for a random x of odd numbers: a row with one wrong element always shows, one with
   more in 126 cases of 127. The operands are told from their place, not read: what lies wrong in memory shows too. All
   sums are whole, in 64 bits. `inner`: B x, cleared before; blocks share the columns. */
KERNEL void check_inner(s64 *inner, u32 size, u32 seed_b, u32 seed_x) {
    u32 rows = size / 32, first = blockIdx.x % 32 * rows, k = blockIdx.x / 32 * blockDim.x + threadIdx.x;
    s64 sum = 0;
    for (u32 n = first; n < first + rows; n++)
        sum += (s64)operand(seed_b, n * size + k) * factor(seed_x, n);
    atomicAdd((u64 *)&inner[k], (u64)sum);
}

/* One warp a row. found: how many rows are wrong, the first of them. */
KERNEL void check_rows(u64 *found, const float *c, const s64 *inner, u32 size, u32 seed_a, u32 seed_x) {
    u32 row = (u32)(thread_of_grid() / 32), lane = threadIdx.x % 32;
    s64 should = 0, is = 0;
    bool whole = true;
    for (u32 i = lane; i < size; i += 32) {
        float value = c[(u64)row * size + i];
        whole = whole && value == (float)(int)value;
        should += (s64)operand(seed_a, row * size + i) * inner[i];
        is += (s64)(int)value * factor(seed_x, i);
    }
    u64 wrong = warp_sum(whole ? 0 : 1);
    u64 difference = warp_sum((u64)(should - is));
    if (lane == 0 && (wrong || difference)) {
        atomicAdd(&found[0], 1ull);
        atomicMin(&found[1], (u64)row);
    }
}

/* Adds to out[0] a number that changes with each bit of C and its place; the order of adding does not matter. */
KERNEL void digest(u64 *out, const uint4 *c, u64 count) {
    u64 sum = 0;
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid()) {
        uint4 is = c[i];
        u32 at = mix((u32)i ^ (u32)(i >> 32));
        sum += ((u64)mix(is.x ^ at) << 32 | mix(is.y + at)) + ((u64)mix(is.z ^ ~at) << 32 | mix(is.w + ~at));
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        atomicAdd(&out[0], sum);
}

/* 256 threads make 128 x 128 of C, 8 x 8 each. The next 8 columns are read while these are multiplied. */
KERNEL void __launch_bounds__(256, 1) product_fp32(float *c, const float *a, const float *columns, u32 size) {
    __shared__ __align__(16) float left[2][8][132], right[2][8][132];
    u32 t = threadIdx.x, wide = size / 128;
    u32 row0 = blockIdx.x / wide * 128, col0 = blockIdx.x % wide * 128;
    u32 line = t / 2, part = t % 2 * 4, y = t / 16 * 4, x = t % 16 * 4;
    const float *from_a = a + (u64)(row0 + line) * size + part;
    const float *from_b = columns + (u64)(col0 + line) * size + part;
    float sums[8][8] = {};
    float4 next_a = *(const float4 *)from_a, next_b = *(const float4 *)from_b;
    for (u32 k = 0; k < size; k += 8) {
        u32 half = k / 8 % 2;
        left[half][part][line] = next_a.x, left[half][part + 1][line] = next_a.y;
        left[half][part + 2][line] = next_a.z, left[half][part + 3][line] = next_a.w;
        right[half][part][line] = next_b.x, right[half][part + 1][line] = next_b.y;
        right[half][part + 2][line] = next_b.z, right[half][part + 3][line] = next_b.w;
        __syncthreads();
        if (k + 8 < size) {
            next_a = *(const float4 *)(from_a + k + 8);
            next_b = *(const float4 *)(from_b + k + 8);
        }
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            float4 a0 = *(const float4 *)&left[half][i][y], a1 = *(const float4 *)&left[half][i][y + 64];
            float4 b0 = *(const float4 *)&right[half][i][x], b1 = *(const float4 *)&right[half][i][x + 64];
            float av[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
            float bv[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
            for (u32 m = 0; m < 8; m++)
#pragma unroll
                for (u32 n = 0; n < 8; n++)
                    sums[m][n] = fmaf(av[m], bv[n], sums[m][n]);
        }
    }
#pragma unroll
    for (u32 m = 0; m < 8; m++) {
        float *to = c + (u64)(row0 + y + m % 4 + m / 4 * 64) * size + col0 + x;
        *(float4 *)to = make_float4(sums[m][0], sums[m][1], sums[m][2], sums[m][3]);
        *(float4 *)(to + 64) = make_float4(sums[m][4], sums[m][5], sums[m][6], sums[m][7]);
    }
}
