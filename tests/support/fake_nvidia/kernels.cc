/* The self-test's kernels on the CPU: their PTX as C++ (translate.py), a runner of blocks, and what cuda.c asks of them. */
#include "cpu.h"

#include <csetjmp>
#include <cstdlib>
#include <ucontext.h>
#include <vector>

namespace cpu {

namespace {
enum { STACK_BYTES = 64 << 10, MOST_THREADS = 1024, ROOM_BYTES = 64 };

struct Copy {
    void *to;
    const void *from;
    u32 group;
};
struct Thread {
    ucontext_t first;
    jmp_buf at;
    bool is_begun, is_done;
    u32 turns; /* of gathered() */
    u32 groups;
    std::vector<Copy> copies;
};
struct Barrier {
    u32 arrived, opened;
};
struct Warp {
    Barrier barrier;
    u8 room[2][LANES * ROOM_BYTES];
};

Thread threads[MOST_THREADS];
Warp warps[MOST_THREADS / LANES];
Barrier whole;
u32 events; /* barriers opened and threads ended: while there are none, all wait */
jmp_buf runner;
/* Pages that no thread ever used cost nothing. */
u8 *const stacks = (u8 *)malloc((size_t)MOST_THREADS * STACK_BYTES);
void (*body)(void **);
void **given;

void yield() {
    Thread &mine = threads[threadIdx.x];
    if (!_setjmp(mine.at))
        _longjmp(runner, 1);
}

void pass(Barrier &barrier, u32 expected) {
    u32 seen = barrier.opened;
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        barrier.opened++;
        events++;
        return;
    }
    while (barrier.opened == seen)
        yield();
}

void begin() {
    body(given);
    threads[threadIdx.x].is_done = true;
    events++;
    _longjmp(runner, 1);
}

void step(u32 number) {
    Thread &one = threads[number];
    threadIdx.x = number;
    if (_setjmp(runner))
        return;
    if (one.is_begun)
        _longjmp(one.at, 1);
    one.is_begun = true;
    getcontext(&one.first);
    one.first.uc_stack.ss_sp = stacks + (size_t)number * STACK_BYTES;
    one.first.uc_stack.ss_size = STACK_BYTES;
    one.first.uc_link = nullptr;
    makecontext(&one.first, begin, 0);
    setcontext(&one.first);
}

void run_warp(u32 warp) {
    for (volatile u32 before = events - 1; before != events;) {
        before = events;
        for (volatile u32 lane = 0; lane < LANES; lane = lane + 1) {
            u32 number = warp * LANES + lane;
            if (number < blockDim.x && !threads[number].is_done)
                step(number);
        }
    }
}

/* A warp goes on alone until its block's barrier holds it, and only then the next: upwards in even blocks, downwards in odd
   ones. A barrier that is missing shows. */
void run_block() {
    for (u32 i = 0; i < blockDim.x; i++) {
        threads[i].is_begun = threads[i].is_done = false;
        threads[i].turns = threads[i].groups = 0;
        threads[i].copies.clear();
    }
    u32 count = (blockDim.x + LANES - 1) / LANES;
    for (u32 before = events - 1; before != events;) {
        before = events;
        for (volatile u32 i = 0; i < count; i = i + 1)
            run_warp(blockIdx.x % 2 ? count - 1 - i : i);
    }
}
} // namespace

static void block_barrier() {
    pass(whole, blockDim.x);
}

static const u8 *gathered(const void *mine, size_t size) {
    u32 lane = threadIdx.x % LANES;
    Warp &warp = warps[threadIdx.x / LANES];
    u8 *room = warp.room[threads[threadIdx.x].turns++ % 2];
    memcpy(room + lane * size, mine, size);
    pass(warp.barrier, LANES);
    return room;
}

static void copy_later(void *to, const void *from) {
    Thread &mine = threads[threadIdx.x];
    mine.copies.push_back({to, from, mine.groups});
}

static void copy_commit() {
    threads[threadIdx.x].groups++;
}

static void copy_wait(u32 pending) {
    Thread &mine = threads[threadIdx.x];
    std::vector<Copy> later;
    for (const Copy &one : mine.copies)
        if (one.group + pending < mine.groups)
            memcpy(one.to, one.from, 16);
        else
            later.push_back(one);
    mine.copies.swap(later);
}
} // namespace cpu

namespace {
#include "kernels.inc"

const Kernel *named(const char *name) {
    for (const Kernel &one : KERNELS)
        if (!strcmp(one.name, name))
            return &one;
    return nullptr;
}
} // namespace

extern "C" int kaalia_kernel_known(const char *name) {
    return named(name) != nullptr;
}

extern "C" u32 kaalia_kernel_parameters(const char *name) {
    return named(name)->parameters;
}

/* 0: it used an address that is none. */
extern "C" int kaalia_kernel_run(const char *name, u32 blocks, u32 threads, void **arguments) {
    const Kernel &kernel = *named(name);
    static u8 *const room = (u8 *)aligned_alloc(128, cpu::SHARED_BYTES);
    cpu::shared = room;
    cpu::body = kernel.call;
    cpu::given = arguments;
    cpu::broke = false;
    blockDim = {threads};
    gridDim = {blocks};
    for (u32 b = 0; b < blocks && !cpu::broke; b++) {
        blockIdx = {b};
        memset(cpu::shared, 0xA5, kernel.is_joint ? cpu::SHARED_BYTES : 0);
        if (kernel.is_joint)
            cpu::run_block();
        else
            for (u32 t = 0; t < threads; t++) {
                threadIdx = {t};
                kernel.call(arguments);
            }
    }
    return !cpu::broke;
}
