/* The product of fp16 matrices on the tensor cores of sm_70 and sm_75; see matrix.cu for what lies where. */
#include "gpu.cuh"

enum { TILE = 128, DEEP = 32, STRIDE = DEEP + 8 };

/* 256 threads make 128 x 128 of C: 2 x 4 warps of 64 x 32. The next 32 columns are read while these are multiplied. */
KERNEL void __launch_bounds__(256, 1) product_fp16(float *c, const u16 *a, const u16 *columns, u32 size) {
    __shared__ __align__(32) u16 left[2][TILE * STRIDE], right[2][TILE * STRIDE];
    u32 t = threadIdx.x, warp = t / 32, wide = size / TILE;
    u32 row0 = blockIdx.x / wide * TILE, col0 = blockIdx.x % wide * TILE;
    u32 y = warp / 4 * 64, x = warp % 4 * 32;
    u32 line = t / 4, part = t % 4 * 8;
    float sums[4][2][8] = {};
    uint4 next[4];
    for (u32 k = 0; k <= size; k += DEEP) {
        if (k < size)
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                next[i] = *(const uint4 *)(a + (u64)(row0 + line + 64 * i) * size + k + part);
                next[2 + i] = *(const uint4 *)(columns + (u64)(col0 + line + 64 * i) * size + k + part);
            }
        if (k > 0) {
            const u16 *l = left[(k / DEEP - 1) % 2], *r = right[(k / DEEP - 1) % 2];
#pragma unroll
            for (u32 deep = 0; deep < DEEP; deep += 16) {
                u32 fa[4][8], fb[2][8];
#pragma unroll
                for (u32 m = 0; m < 4; m++)
                    load_a(fa[m], l + (y + 16 * m) * STRIDE + deep, STRIDE);
#pragma unroll
                for (u32 n = 0; n < 2; n++)
                    load_b(fb[n], r + (x + 16 * n) * STRIDE + deep, STRIDE);
#pragma unroll
                for (u32 m = 0; m < 4; m++)
#pragma unroll
                    for (u32 n = 0; n < 2; n++)
                        multiply_fp16(sums[m][n], fa[m], fb[n]);
            }
        }
        if (k < size) {
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                *(uint4 *)(left[k / DEEP % 2] + (line + 64 * i) * STRIDE + part) = next[i];
                *(uint4 *)(right[k / DEEP % 2] + (line + 64 * i) * STRIDE + part) = next[2 + i];
            }
            __syncthreads();
        }
    }
#pragma unroll
    for (u32 m = 0; m < 4; m++)
#pragma unroll
        for (u32 n = 0; n < 2; n++)
            store_sums(c + (u64)(row0 + y + 16 * m) * size + col0 + x + 16 * n, sums[m][n], size);
}
