/*
 * What stands in for a GPU where PTX is run as C++ (translate.py): a block's threads are coroutines that change at barriers
 * and warp instructions; the instructions do what NVIDIA's PTX ISA says of each lane's registers.
 */
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef short s16;
typedef int s32;
typedef long long s64;

struct Place {
    u32 x;
};
static Place threadIdx, blockIdx, blockDim, gridDim;

struct Kernel {
    const char *name;
    void (*call)(void **);
    bool is_joint; /* its threads wait for each other */
    u32 parameters;
};

namespace cpu {
enum { LANES = 32, SHARED_BYTES = 128 << 10 };
static u8 *shared;
static bool broke; /* an address that is none, or that a type may not have */
/* Waits for the block. */
static void block_barrier();
/* What each of the warp's 32 lanes gave, `size` bytes each; good until the second next call. */
static const u8 *gathered(const void *mine, size_t size);
/* A copy of 16 bytes that happens when it is waited for, as late as the GPU may do it. */
static void copy_later(void *to, const void *from);
static void copy_commit();
static void copy_wait(u32 pending);

template <class T> const T *gather(const T &mine) {
    return (const T *)gathered(&mine, sizeof(T));
}
} // namespace cpu

/* --- registers ------------------------------------------------------------------------------------------------- */

/* A register's bits as another type of its size; whole numbers grow and shrink by their signs. */
template <class To, class From> static inline To as(From from) {
    if constexpr (std::is_floating_point_v<To> != std::is_floating_point_v<From>) {
        static_assert(sizeof(To) == sizeof(From), "two sizes");
        To to;
        memcpy(&to, &from, sizeof to);
        return to;
    } else {
        return (To)from;
    }
}
template <class Register, class Value> static inline void put(Register &to, Value value) {
    to = as<Register>(value);
}
template <class T> static inline T least(T a, T b) {
    return a < b ? a : b;
}
template <class T> static inline T most(T a, T b) {
    return a > b ? a : b;
}
template <class T> static inline T shifted_left(T value, u64 by) {
    return (by & 0xffffffffu) < sizeof(T) * 8 ? (T)(value << (by & 63)) : 0;
}
template <class T> static inline T shifted_right(T value, u64 by) {
    return (by & 0xffffffffu) < sizeof(T) * 8 ? (T)(value >> (by & 63)) : 0;
}
static inline u32 reversed(u32 value) {
    u32 turned = 0;
    for (int i = 0; i < 32; i++)
        turned |= (value >> i & 1u) << (31 - i);
    return turned;
}
static inline u32 field(u32 value, u32 from, u32 bits) {
    return (u32)((u64)value >> (from & 255) & ((1ull << (bits & 63)) - 1));
}
template <class T> static inline T with_field(T piece, T value, u64 from, u64 bits) {
    T mask = (T)(((bits & 255) >= sizeof(T) * 8 ? ~0ull : (1ull << (bits & 63)) - 1) << (from & 63));
    return (T)((value & ~mask) | ((T)(piece << (from & 63)) & mask));
}
static inline s32 truncated(float value) {
    return value != value ? 0 : value >= 0x1p31f ? 0x7fffffff : value < -0x1p31f ? (s32)0x80000000 : (s32)value;
}

/* --- memory ---------------------------------------------------------------------------------------------------- */

static u8 nowhere[16] __attribute__((aligned(16)));

static inline u8 *in_global(u64 address, size_t size) {
    if (address % size == 0 && address > 4096)
        return (u8 *)address;
    cpu::broke = true;
    return nowhere;
}
static inline u8 *in_shared(u64 address, size_t size) {
    if (address % size == 0 && address + size <= cpu::SHARED_BYTES)
        return cpu::shared + address;
    cpu::broke = true;
    return nowhere;
}
template <class T> static inline T loaded(const u8 *at, u32 index) {
    T value;
    memcpy(&value, at + index * sizeof(T), sizeof value);
    return value;
}
template <class T> static inline void store(u8 *at, u32 index, T value) {
    memcpy(at + index * sizeof(T), &value, sizeof value);
}

/* --- a warp ---------------------------------------------------------------------------------------------------- */

static inline u32 lane() {
    return threadIdx.x % cpu::LANES;
}
static inline u32 shuffled(u32 value, u32 mask) {
    return cpu::gather(value)[lane() ^ mask];
}

/* ldmatrix: lane 8 m + r names row r of matrix m; lane l gets the two numbers 2 (l % 4) of row l / 4 of each. */
static inline void load_matrices(u32 *to, u64 row) {
    const u64 *rows = cpu::gather(row);
    for (u32 m = 0; m < 4; m++)
        to[m] = loaded<u32>(in_shared(rows[8 * m + lane() / 4], 16), lane() % 4);
}

static inline float of_bf16(u32 pair, u32 half) {
    return as<float>(half ? pair & 0xffff0000u : pair << 16);
}
static inline float of_fp16(u16 bits) {
    float size = as<float>((bits & 0x7fffu) << 13) * 0x1p112f;
    return bits & 0x8000 ? -size : size;
}
/* Of whole numbers up to 2048, which fp16 holds exactly. */
static inline u16 fp16_of(float value) {
    u32 bits = as<u32>(value), sign = bits >> 16 & 0x8000u;
    return (u16)(value == 0 ? sign : sign | ((bits >> 23 & 255u) - 112u) << 10 | (bits >> 13 & 1023u));
}

/* mma.m16n8k16. A: row g or g + 8 (odd registers), column 2 t or 2 t + 8 (registers 2 and 3). B: row 2 t or 2 t + 8,
   column g. C: row g or g + 8 (registers 2 and 3), column 2 t or 2 t + 1. g = lane / 4, t = lane % 4. */
static inline void multiply_bf16(float *sums, const u32 *a, const u32 *b, const float *before) {
    struct Given {
        u32 a[4], b[2];
    };
    const Given *all = cpu::gather(Given{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
    for (u32 i = 0; i < 4; i++) {
        u32 row = lane() / 4, column = lane() % 4 * 2 + i % 2, lower = i / 2;
        sums[i] = before[i];
        for (u32 k = 0; k < 16; k++) {
            const Given &left = all[row * 4 + k % 8 / 2], &right = all[column * 4 + k % 8 / 2];
            sums[i] += of_bf16(left.a[lower + k / 8 * 2], k % 2) * of_bf16(right.b[k / 8], k % 2);
        }
    }
}

/* wmma: where an element lies is open. Here lane l has elements 8 (l / 16) to + 7 of row (of b: column) l % 16. */
static inline void load_line(u32 *to, u64 at, u32 stride) {
    if (at % 32 || stride % 8)
        cpu::broke = true;
    u64 mine = at + 2 * (lane() % 16 * stride + lane() / 16 * 8);
    (void)cpu::gather(mine);
    memcpy(to, in_shared(mine, 16), 16);
    memset(to + 4, 0, 16);
}
static inline void multiply_fp16(float *s, const u32 *a, const u32 *b, const float *before) {
    struct Given {
        u16 a[8], b[8];
    } mine;
    memcpy(mine.a, a, 16);
    memcpy(mine.b, b, 16);
    const Given *all = cpu::gather(mine);
    for (u32 i = 0; i < 8; i++) {
        u32 row = lane() % 16, column = lane() / 16 * 8 + i;
        s[i] = before[i];
        for (u32 k = 0; k < 16; k++)
            s[i] += of_fp16(all[row + k / 8 * 16].a[k % 8]) * of_fp16(all[column + k / 8 * 16].b[k % 8]);
    }
}
static inline void store_sums(u64 at, const float *s, u32 stride) {
    memcpy(in_global(at + 4 * (lane() % 16 * (u64)stride + lane() / 16 * 8), 16), s, 32);
}
