/* Fills memory with patterns that can be told from the place alone, moves over it and verifies them. */
#include "gpu.cuh"

enum { FIXED, ADDRESS, WALKING, RANDOM };

/* What word `index` (of all that are filled) holds. */
INSIDE u32 pattern(u32 kind, u32 seed, u64 index) {
    u32 low = (u32)index, high = (u32)(index >> 32);
    if (kind == ADDRESS)
        return low ^ (high * 0x9e3779b9u) ^ seed;
    if (kind == WALKING) {
        u32 shift = (low + seed) & 31;
        return 1u << shift;
    }
    if (kind == RANDOM)
        return mix(low ^ mix(high ^ seed));
    return seed;
}

INSIDE uint4 four(u32 kind, u32 seed, u32 flip, u64 index) {
    uint4 words;
    words.x = pattern(kind, seed, index) ^ flip;
    words.y = pattern(kind, seed, index + 1) ^ flip;
    words.z = pattern(kind, seed, index + 2) ^ flip;
    words.w = pattern(kind, seed, index + 3) ^ flip;
    return words;
}

/* found: how many words are wrong, the first of them, the bits in which they differ. */
INSIDE void note(u64 *found, u64 index, u32 is, u32 should) {
    if (is == should)
        return;
    atomicAdd(&found[0], 1ull);
    atomicMin(&found[1], index);
    atomicOr(&found[2], (u64)(is ^ should));
}

INSIDE void compare(u64 *found, u64 index, uint4 is, uint4 should) {
    if (!((is.x ^ should.x) | (is.y ^ should.y) | (is.z ^ should.z) | (is.w ^ should.w)))
        return;
    note(found, index, is.x, should.x);
    note(found, index + 1, is.y, should.y);
    note(found, index + 2, is.z, should.z);
    note(found, index + 3, is.w, should.w);
}

/* `count`: of 16 bytes each; `first`: index of the block's first word; `flip` is xored to every word. */
KERNEL void fill(uint4 *to, u64 count, u32 kind, u32 seed, u32 flip, u64 first) {
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid())
        to[i] = four(kind, seed, flip, first + 4 * i);
}

KERNEL void verify(u64 *found, const uint4 *from, u64 count, u32 kind, u32 seed, u32 flip, u64 first) {
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid())
        compare(found, first + 4 * i, from[i], four(kind, seed, flip, first + 4 * i));
}

/* Verifies and leaves the opposite of every bit behind, from the end to the beginning when `down`. */
KERNEL void turn(u64 *found, uint4 *at, u64 count, u32 kind, u32 seed, u32 flip, u64 first, u32 down) {
    for (u64 n = thread_of_grid(); n < count; n += threads_in_grid()) {
        u64 i = down ? count - 1 - n : n;
        uint4 is = at[i];
        compare(found, first + 4 * i, is, four(kind, seed, flip, first + 4 * i));
        at[i] = four(kind, seed, ~flip, first + 4 * i);
    }
}

/* A block copies runs of 4 * threads pieces of 16 bytes: four reads are on their way before the first write. */
KERNEL void copy(uint4 *to, const uint4 *from, u64 count) {
    u64 run = 4ull * blockDim.x;
    for (u64 begin = blockIdx.x * run; begin < count; begin += gridDim.x * run) {
        u64 i = begin + threadIdx.x;
        if (begin + run <= count) {
            uint4 a = from[i], b = from[i + blockDim.x], c = from[i + 2 * blockDim.x], d = from[i + 3 * blockDim.x];
            to[i] = a;
            to[i + blockDim.x] = b;
            to[i + 2 * blockDim.x] = c;
            to[i + 3 * blockDim.x] = d;
        } else {
            for (; i < count; i += blockDim.x)
                to[i] = from[i];
        }
    }
}

/* to += from, word by word, modulo 2^32: any order gives the same bits. */
KERNEL void add(uint4 *to, const uint4 *from, u64 count) {
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid()) {
        uint4 a = to[i], b = from[i];
        a.x += b.x;
        a.y += b.y;
        a.z += b.z;
        a.w += b.w;
        to[i] = a;
    }
}

/* Whether `from` is the sum of the random patterns of the seeds seed, seed + 1, ... seed + ranks - 1. */
KERNEL void verify_sum(u64 *found, const uint4 *from, u64 count, u32 seed, u32 ranks) {
    for (u64 i = thread_of_grid(); i < count; i += threads_in_grid()) {
        uint4 sum = four(RANDOM, seed, 0, 4 * i);
        for (u32 rank = 1; rank < ranks; rank++) {
            uint4 one = four(RANDOM, seed + rank, 0, 4 * i);
            sum.x += one.x;
            sum.y += one.y;
            sum.z += one.z;
            sum.w += one.w;
        }
        compare(found, 4 * i, from[i], sum);
    }
}
