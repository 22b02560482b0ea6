/* The product of bf16 matrices on the tensor cores from sm_80 on; see matrix.cu for what lies where. */
#include "gpu.cuh"

enum { ROWS = 128, COLS = 256, DEEP = 32, STAGES = 4 };
enum { LEFT_BYTES = ROWS * DEEP * 2, STAGE_BYTES = (ROWS + COLS) * DEEP * 2, GROUP = 8 };

/* Where 16 bytes (`piece` 0 to 3 of a row of 64 bytes) lie: eight rows' same piece lie in eight different sets of banks. */
INSIDE u32 place(u32 row, u32 piece) {
    return row * 64 + ((piece ^ ((row >> 1) & 3)) * 16);
}

/* Stage by stage from device to shared memory: 128 rows of A and 256 columns of B, 32 deep. */
INSIDE void bring(u8 *stage, const u16 *a, const u16 *columns, u32 size, u32 k) {
    u32 row = threadIdx.x / 4, piece = threadIdx.x % 4;
#pragma unroll
    for (u32 i = 0; i < ROWS / 64; i++)
        copy_async(stage + place(row + 64 * i, piece), a + (u64)(row + 64 * i) * size + k + piece * 8);
#pragma unroll
    for (u32 i = 0; i < COLS / 64; i++)
        copy_async(
            stage + LEFT_BYTES + place(row + 64 * i, piece), columns + (u64)(row + 64 * i) * size + k + piece * 8);
}

/* A warp's 64 x 16 of A (four times 16 x 16) and 16 x 64 of B (eight times 16 x 8). */
INSIDE void take(u32 (&fa)[4][4], u32 (&fb)[4][4], const u8 *stage, u32 y, u32 x, u32 half) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 m = 0; m < 4; m++)
        load_matrices(fa[m], stage + place(y + 16 * m + lane % 16, 2 * half + lane / 16));
#pragma unroll
    for (u32 n = 0; n < 4; n++)
        load_matrices(
            fb[n], stage + LEFT_BYTES + place(x + 16 * n + lane % 8 + lane / 16 * 8, 2 * half + lane / 8 % 2));
}

/* A warp's 64 x 64 of C, 16 deep. */
INSIDE void multiply(float (&sums)[4][8][4], const u32 (&fa)[4][4], const u32 (&fb)[4][4]) {
#pragma unroll
    for (u32 m = 0; m < 4; m++)
#pragma unroll
        for (u32 n = 0; n < 8; n++)
            multiply_bf16(sums[m][n], fa[m], fb[n / 2][n % 2 * 2], fb[n / 2][n % 2 * 2 + 1]);
}

/* 256 threads make 128 x 256 of C: 2 x 4 warps of 64 x 64. Three stages are on their way while one is multiplied. */
KERNEL void __launch_bounds__(256, 1) product_bf16(float *c, const u16 *a, const u16 *columns, u32 size) {
    extern __shared__ __align__(128) u8 stages[];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, y = warp / 4 * 64, x = warp % 4 * 64;
    /* Blocks that run together share rows and columns, so that these stay in the cache: eight tiles high. */
    u32 high = size / ROWS, wide = size / COLS, group = blockIdx.x / (GROUP * wide);
    u32 rest = high - group * GROUP, height = rest < (u32)GROUP ? rest : (u32)GROUP, inside = blockIdx.x % (GROUP * wide);
    u32 row0 = (group * GROUP + inside % height) * ROWS, col0 = inside / height * COLS;
    a += (u64)row0 * size;
    columns += (u64)col0 * size;

    float sums[4][8][4] = {};
    u32 fa[2][4][4], fb[2][4][4];
    u32 tiles = size / DEEP;
#pragma unroll
    for (u32 i = 0; i < STAGES - 1; i++) {
        if (i < tiles)
            bring(stages + i * STAGE_BYTES, a, columns, size, i * DEEP);
        copy_commit();
    }
    copy_wait<STAGES - 2>();
    __syncthreads();
    take(fa[0], fb[0], stages, y, x, 0);
    for (u32 tile = 0; tile < tiles; tile++) {
        /* The next tile is there before this one begins: fragments of both are then taken while others are multiplied,
           and nothing waits behind the barrier. */
        copy_wait<STAGES - 3>();
        __syncthreads();
        take(fa[1], fb[1], stages + tile % STAGES * STAGE_BYTES, y, x, 1);
        multiply(sums, fa[0], fb[0]);
        if (tile + 1 < tiles)
            take(fa[0], fb[0], stages + (tile + 1) % STAGES * STAGE_BYTES, y, x, 0);
        /* Into the stage of the tile before, which everybody left before the barrier. */
        u32 next = tile + STAGES - 1;
        if (next < tiles)
            bring(stages + next % STAGES * STAGE_BYTES, a, columns, size, next * DEEP);
        copy_commit();
        multiply(sums, fa[1], fb[1]);
    }
    copy_wait<0>();
    float *to = c + (u64)(row0 + y + lane / 4) * size + col0 + x + lane % 4 * 2;
#pragma unroll
    for (u32 m = 0; m < 4; m++)
#pragma unroll
        for (u32 n = 0; n < 8; n++) {
            *(float2 *)(to + (u64)(16 * m) * size + 8 * n) = make_float2(sums[m][n][0], sums[m][n][1]);
            *(float2 *)(to + (u64)(16 * m + 8) * size + 8 * n) = make_float2(sums[m][n][2], sums[m][n][3]);
        }
}
