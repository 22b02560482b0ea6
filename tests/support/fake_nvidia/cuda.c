/*
 * A stand-in for libcuda.so.1, for machines without a GPU: it copies for real, in main memory, and runs the PTX of the work
 * programs' kernels on the CPU (kernels.cc), on what lies in its memory. It reads the file that nvml.c describes;
 * what is only CUDA's:
 *
 *     gpu <index> cuda_mb <MiB>                its memory, 32 where it is absent: what is filled is truly filled
 *     gpu <index> cuda_sms <count>             its multiprocessors, 2 where it is absent
 *     gpu <index> cuda_stuck <offset> <bit>    a bit of its memory that is always 1; offset in bytes
 *     gpu <index> cuda_copies 0                nothing is copied, which takes no time on any machine
 *     gpu <index> cuda_link <MB/s>             how fast it exchanges bytes with the host and other GPUs, at most
 *     gpu <index> p2p_<other> 0                it sees the other's memory
 *     system kmsg <path>                       where the kernel's log is written, for faults of the verb xid
 *     fault launch_<kernel> <verb> ...         of one kernel's launches, beside those of the functions
 *     fault <copy or launch> flip [<n>]        one bit of what it writes is wrong, from the n-th call on
 *     fault <function> xid <number>            the kernel tells of it, and the GPU refuses everything from then on
 *
 * What is put into a stream is done as late as it may be (cuda_stream.h): who looks before he has waited finds what was
 * there before. `fault cuStreamQuery error 600` is a kernel that never ends.
 */
#include "profile.h"
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    PEER_ALREADY_ENABLED = 704,
    PEER_NOT_ENABLED = 705,
    LAUNCH_FAILED = 719,
    UNKNOWN = 999,
    FELL_OFF_THE_BUS = 79
};
enum { GAP = 256, SMALL_SHARED = 48 << 10, MOST_SHARED = 99 << 10, NAME_BYTES = 64 };

typedef u64 pointer;
typedef struct block {
    size_t at, size;
    struct block *next;
} block;
typedef struct gpu {
    int index;
    long calls;
    result broken; /* what every call says since a kernel failed */
    unsigned char *memory;
    size_t size;
    block *blocks; /* by where they lie */
    struct stream *own; /* the null stream */
    u64 peers;
} *device;
typedef struct {
    device gpu;
    char *text;
} *module;
typedef struct {
    device gpu;
    char name[NAME_BYTES];
    unsigned int shared;
    long launches;
} *function;
typedef struct stream *stream;
typedef struct event *event;

/* kernels.cc */
extern int kaalia_kernel_known(const char *name);
extern unsigned int kaalia_kernel_parameters(const char *name);
extern int kaalia_kernel_run(const char *name, unsigned int blocks, unsigned int threads, void **arguments);

static struct gpu gpus[MAX_GPUS];
static int visible[MAX_GPUS], visible_count = -1;
static __thread device current;

const int kaalia_simulated_cuda = 1;

/* --- faults --------------------------------------------------------------------------------------------------- */

static void tell_kernel(device gpu, long xid) {
    char path[LINE_BYTES], address[LINE_BYTES] = "";
    static int number = 1000000;
    text_of(gpu->index, "pci_address", address);
    FILE *log = text_of(NO_GPU, "kmsg", path) ? fopen(path, "ae") : NULL;
    if (!log)
        return;
    number++;
    fprintf(log, "3,%d,%d,-;NVRM: Xid (PCI:%s): %ld, pid=%d, name=python3, simulated\n", number, number, address, xid,
            (int)getpid());
    fclose(log);
}

static int fault_of(const char *name, device gpu, char *fault) {
    char prefix[LINE_BYTES];
    snprintf(prefix, sizeof prefix, "fault %s", name);
    if (find(prefix, fault))
        return 1;
    if (!gpu)
        return 0;
    snprintf(prefix, sizeof prefix, "fault %s[%d]", name, gpu->index);
    return find(prefix, fault);
}

/* What every function does first, as in nvml.c. */
static result enter(const char *name, device gpu) {
    char fault[LINE_BYTES];
    long long lost_after;
    long xid;
    if (!profile())
        return NO_DEVICE;
    if (gpu && gpu->broken)
        return gpu->broken;
    if (fault_of(name, gpu, fault)) {
        if (sscanf(fault, "xid %ld", &xid) == 1 && gpu) {
            tell_kernel(gpu, xid);
            return gpu->broken = xid == FELL_OFF_THE_BUS ? UNKNOWN : LAUNCH_FAILED;
        }
        result outcome = act(fault);
        if (outcome != SUCCESS)
            return outcome;
    }
    if (gpu && number_of(gpu->index, "lost_after", &lost_after) && gpu->calls++ >= lost_after)
        return gpu->broken = UNKNOWN;
    return SUCCESS;
}

static result enter_current(const char *name) {
    return current ? enter(name, current) : INVALID_CONTEXT;
}

/* One bit within what was written is wrong, where the file says so. `calls`: of these before this one. */
static void spoil(const char *name, device gpu, void *at, size_t size, long calls) {
    char fault[LINE_BYTES];
    long from = 0;
    if (!fault_of(name, gpu, fault) || strncmp(fault, "flip", 4) != 0)
        return;
    sscanf(fault, "flip %ld", &from);
    if (calls >= from && size)
        ((unsigned char *)at)[size / 4] ^= 4;
}

extern result cuCtxSynchronize(void); /* frees wait for what was begun */

/* --- memory --------------------------------------------------------------------------------------------------- */

static int open_memory(device gpu) {
    long long mb = 32;
    if (gpu->memory)
        return 1;
    number_of(gpu->index, "cuda_mb", &mb);
    gpu->size = (size_t)mb << 20;
    void *memory = mmap(NULL, gpu->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    gpu->memory = memory == MAP_FAILED ? NULL : memory;
    return gpu->memory != NULL;
}

static size_t used(device gpu) {
    size_t sum = 0;
    for (block *one = gpu->blocks; one; one = one->next)
        sum += one->size + GAP;
    return sum;
}

/* The block that holds all of it; NULL: there is none. */
static block *holds(pointer at, size_t size, device *owner) {
    for (int i = 0; i < MAX_GPUS; i++) {
        device gpu = &gpus[i];
        if (!gpu->memory || at < (pointer)gpu->memory || at - (pointer)gpu->memory >= gpu->size)
            continue;
        size_t offset = (size_t)(at - (pointer)gpu->memory);
        for (block *one = gpu->blocks; one; one = one->next)
            if (offset >= one->at && offset + size <= one->at + one->size) {
                if (owner)
                    *owner = gpu;
                return one;
            }
    }
    return NULL;
}

/* After each change: a worn bit goes back to what it is, and a write beyond a block's end is found out. */
static result settle(device gpu) {
    char text[LINE_BYTES];
    unsigned long long offset;
    int bit;
    if (text_of(gpu->index, "cuda_stuck", text) && sscanf(text, "%llu %d", &offset, &bit) == 2 && offset < gpu->size)
        gpu->memory[offset] |= (unsigned char)(1 << bit);
    for (block *one = gpu->blocks; one; one = one->next)
        for (int i = 0; i < GAP; i++)
            if (gpu->memory[one->at + one->size + i] != 0xCD && one->at + one->size + i != offset)
                return gpu->broken = ILLEGAL_ADDRESS;
    return SUCCESS;
}

result cuMemGetInfo_v2(size_t *is_free, size_t *total) {
    result outcome = enter_current("cuMemGetInfo_v2");
    if (outcome == SUCCESS) {
        *total = current->size;
        *is_free = current->size - used(current);
    }
    return outcome;
}

result cuMemAlloc_v2(pointer *out, size_t size) {
    result outcome = enter_current("cuMemAlloc_v2");
    if (outcome != SUCCESS)
        return outcome;
    if (!size)
        return INVALID_VALUE;
    size_t whole = (size + GAP - 1) / GAP * GAP, at = 0;
    block **place = &current->blocks;
    for (; *place && (*place)->at < at + whole + GAP; place = &(*place)->next)
        at = (*place)->at + (*place)->size + GAP;
    block *fresh = at + whole + GAP <= current->size ? malloc(sizeof *fresh) : NULL;
    if (!fresh)
        return OUT_OF_MEMORY;
    *fresh = (block){at, whole, *place};
    *place = fresh;
    memset(current->memory + at, 0xA5, whole);
    memset(current->memory + at + whole, 0xCD, GAP);
    *out = (pointer)(current->memory + at);
    return SUCCESS;
}

result cuMemFree_v2(pointer at) {
    result outcome = cuCtxSynchronize();
    outcome = outcome == SUCCESS ? enter_current("cuMemFree_v2") : outcome;
    device owner;
    block *one = holds(at, 1, &owner);
    if (outcome != SUCCESS)
        return outcome;
    if (!one || (pointer)(owner->memory + one->at) != at)
        return INVALID_VALUE;
    block **place = &owner->blocks;
    while (*place != one)
        place = &(*place)->next;
    *place = one->next;
    free(one);
    return SUCCESS;
}

result cuMemHostAlloc(void **out, size_t size, unsigned int flags) {
    (void)flags;
    result outcome = enter_current("cuMemHostAlloc");
    if (outcome != SUCCESS)
        return outcome;
    *out = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    return *out ? SUCCESS : OUT_OF_MEMORY;
}

result cuMemFreeHost(void *at) {
    result outcome = cuCtxSynchronize();
    free(at);
    return outcome == SUCCESS ? enter_current("cuMemFreeHost") : outcome;
}

/* 10^6 bytes a second are a byte in a microsecond. */
static void take_time(size_t size) {
    long long mb_per_s = 0;
    if (!number_of(current->index, "cuda_link", &mb_per_s) || mb_per_s <= 0)
        return;
    u64 us = size / (u64)mb_per_s;
    nanosleep(&(struct timespec){(time_t)(us / 1000000), (long)(us % 1000000 * 1000)}, NULL);
}

static result copy(const char *name, void *to, const void *from, size_t size) {
    static long copies;
    device changed = NULL;
    holds((pointer)to, size, &changed);
    long long is_wanted = 1;
    number_of(current->index, "cuda_copies", &is_wanted);
    if (!strstr(name, "DtoD"))
        take_time(size);
    if (is_wanted)
        memcpy(to, from, size);
    spoil(name, current, to, size, copies++);
    return changed ? settle(changed) : SUCCESS;
}

#include "cuda_stream.h"
#include "cuda_copy.h"
#include "cuda_device.h"
#include "cuda_launch.h"
