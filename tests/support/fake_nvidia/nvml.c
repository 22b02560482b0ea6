/*
 * A stand-in for libnvidia-ml.so.1, for machines without a GPU. The real pynvml loads it like the real library.
 *
 * Every call reads the text file named by KAALIA_FAKE_NVML, so a test changes the machine by replacing the file:
 *
 *     system <key> <value>                     driver, nvml, cuda (12080 = 12.8), count
 *     gpu <index> <key> <value>                see the getters below for the keys; an absent key is "not supported"
 *     gpu <index> processes <pid> ...          what computes there; an absent key is none; graphics_processes likewise
 *     gpu <index> lost_after <calls>           from that call on (per process) everything says "GPU is lost"
 *     fault <function> <verb> [argument]       verbs: error <code>, sleep_ms <n>, hang, abort, exit <code>, print <text>
 *     fault <function>[<index>] <verb> ...     the same, for one GPU only
 *
 * It exports kaalia_simulated_driver, by which the probe knows that these GPUs are not real.
 */
#include "profile.h"

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25
};

typedef struct gpu {
    int index;
    long calls;
} *device;

static struct gpu gpus[MAX_GPUS];

const int kaalia_simulated_driver = 1;

/* What every function does first: be missing a driver, fail, wait or die as the file says, or be a lost GPU. */
static result enter(const char *function, int gpu) {
    char prefix[LINE_BYTES], fault[LINE_BYTES];
    if (!profile())
        return DRIVER_NOT_LOADED;
    result outcome = SUCCESS;
    snprintf(prefix, sizeof prefix, "fault %s", function);
    if (find(prefix, fault))
        outcome = act(fault);
    if (gpu == NO_GPU || outcome != SUCCESS)
        return outcome;
    snprintf(prefix, sizeof prefix, "fault %s[%d]", function, gpu);
    if (find(prefix, fault) && (outcome = act(fault)) != SUCCESS)
        return outcome;
    long long lost_after;
    long calls = gpus[gpu].calls++;
    return number_of(gpu, "lost_after", &lost_after) && calls >= lost_after ? GPU_IS_LOST : SUCCESS;
}

/* --- shapes of getters ---------------------------------------------------------------------------------------- */

static result copy_text(const char *function, int gpu, const char *key, char *out, unsigned int size) {
    char value[LINE_BYTES];
    result outcome = enter(function, gpu);
    if (outcome != SUCCESS)
        return outcome;
    if (!text_of(gpu, key, value))
        return NOT_SUPPORTED;
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static result copy_number(const char *function, int gpu, const char *key, unsigned int *out) {
    long long value;
    result outcome = enter(function, gpu);
    if (outcome != SUCCESS)
        return outcome;
    if (!number_of(gpu, key, &value))
        return NOT_SUPPORTED;
    *out = (unsigned int)value;
    return SUCCESS;
}

#define TEXT(function, key)                                                                                            \
    result function(device gpu, char *out, unsigned int size) {                                                        \
        return gpu ? copy_text(#function, gpu->index, key, out, size) : INVALID_ARGUMENT;                              \
    }
#define NUMBER(function, key)                                                                                          \
    result function(device gpu, unsigned int *out) {                                                                   \
        return gpu ? copy_number(#function, gpu->index, key, out) : INVALID_ARGUMENT;                                  \
    }
/* A getter that takes a selector; `keys` is indexed by it. */
#define CHOICE(function, ...)                                                                                          \
    result function(device gpu, unsigned int selector, unsigned int *out) {                                            \
        static const char *const keys[] = {__VA_ARGS__};                                                               \
        if (!gpu || selector >= sizeof keys / sizeof *keys)                                                            \
            return INVALID_ARGUMENT;                                                                                   \
        return copy_number(#function, gpu->index, keys[selector], out);                                                \
    }

/* --- the library ---------------------------------------------------------------------------------------------- */

result nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    return enter("nvmlInitWithFlags", NO_GPU);
}

result nvmlInit_v2(void) {
    return enter("nvmlInit_v2", NO_GPU);
}

result nvmlShutdown(void) {
    return enter("nvmlShutdown", NO_GPU);
}

const char *nvmlErrorString(result code) {
    return code == SUCCESS ? "Success" : "Error of the simulated driver";
}

result nvmlSystemGetDriverVersion(char *out, unsigned int size) {
    return copy_text("nvmlSystemGetDriverVersion", NO_GPU, "driver", out, size);
}

result nvmlSystemGetNVMLVersion(char *out, unsigned int size) {
    return copy_text("nvmlSystemGetNVMLVersion", NO_GPU, "nvml", out, size);
}

result nvmlSystemGetCudaDriverVersion_v2(int *out) {
    return copy_number("nvmlSystemGetCudaDriverVersion_v2", NO_GPU, "cuda", (unsigned int *)out);
}

result nvmlSystemGetCudaDriverVersion(int *out) {
    return copy_number("nvmlSystemGetCudaDriverVersion", NO_GPU, "cuda", (unsigned int *)out);
}

result nvmlDeviceGetCount_v2(unsigned int *out) {
    return copy_number("nvmlDeviceGetCount_v2", NO_GPU, "count", out);
}

result nvmlDeviceGetHandleByIndex_v2(unsigned int index, device *out) {
    long long count = 0;
    number_of(NO_GPU, "count", &count);
    if (index >= MAX_GPUS || index >= count)
        return INVALID_ARGUMENT;
    gpus[index].index = (int)index;
    result outcome = enter("nvmlDeviceGetHandleByIndex_v2", (int)index);
    *out = &gpus[index];
    return outcome;
}

result nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
    char value[LINE_BYTES];
    for (int index = 0; index < MAX_GPUS; index++)
        if (text_of(index, "uuid", value) && !strcmp(value, uuid))
            return nvmlDeviceGetHandleByIndex_v2((unsigned int)index, out);
    return NOT_FOUND;
}

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
NUMBER(nvmlDeviceGetMinorNumber, "minor")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pci_gen_max")
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pci_gen_max")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pci_gen")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pci_width_max")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pci_width")
NUMBER(nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_default_mw")
NUMBER(nvmlDeviceGetPowerUsage, "power_mw")
NUMBER(nvmlDeviceGetDisplayActive, "display_active")
NUMBER(nvmlDeviceGetPersistenceMode, "persistence_mode")
CHOICE(nvmlDeviceGetTemperature, "temperature_c")
CHOICE(nvmlDeviceGetTemperatureThreshold, "shutdown_c", "slowdown_c", "memory_max_c", "gpu_max_c")
CHOICE(nvmlDeviceGetClockInfo, "graphics_mhz", "sm_mhz", "memory_mhz", "video_mhz")
CHOICE(nvmlDeviceGetMaxClockInfo, "graphics_max_mhz", "sm_max_mhz", "memory_max_mhz", "video_max_mhz")

struct temperature_v1 {
    unsigned int version;
    unsigned int sensor;
    int temperature;
};

result nvmlDeviceGetTemperatureV(device gpu, struct temperature_v1 *out) {
    if (!gpu || out->sensor != 0)
        return INVALID_ARGUMENT;
    if (out->version != (sizeof *out | 1u << 24))
        return VERSION_MISMATCH;
    return copy_number("nvmlDeviceGetTemperatureV", gpu->index, "temperature_c", (unsigned int *)&out->temperature);
}

struct utilization {
    unsigned int gpu;
    unsigned int memory;
};

result nvmlDeviceGetUtilizationRates(device gpu, struct utilization *out) {
    long long memory = 0;
    if (!gpu)
        return INVALID_ARGUMENT;
    number_of(gpu->index, "memory_utilization_percent", &memory);
    out->memory = (unsigned int)memory;
    return copy_number("nvmlDeviceGetUtilizationRates", gpu->index, "utilization_percent", &out->gpu);
}

static result memory(const char *function, device gpu, u64 *total, u64 *reserved, u64 *used) {
    long long total_mb, reserved_mb = 0, used_mb = 0;
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter(function, gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    if (!number_of(gpu->index, "vram_mb", &total_mb))
        return NOT_SUPPORTED;
    number_of(gpu->index, "vram_used_mb", &used_mb);
    number_of(gpu->index, "vram_reserved_mb", &reserved_mb);
    *total = (u64)total_mb << 20;
    *reserved = (u64)reserved_mb << 20;
    *used = (u64)used_mb << 20;
    return SUCCESS;
}

struct memory_v1 {
    u64 total, free, used;
};

result nvmlDeviceGetMemoryInfo(device gpu, struct memory_v1 *out) {
    u64 reserved = 0;
    result outcome = memory("nvmlDeviceGetMemoryInfo", gpu, &out->total, &reserved, &out->used);
    out->used += reserved;
    out->free = out->total - out->used;
    return outcome;
}

struct memory_v2 {
    unsigned int version;
    u64 total, reserved, free, used;
};

result nvmlDeviceGetMemoryInfo_v2(device gpu, struct memory_v2 *out) {
    if (out->version != (sizeof *out | 2u << 24))
        return VERSION_MISMATCH;
    result outcome = memory("nvmlDeviceGetMemoryInfo_v2", gpu, &out->total, &out->reserved, &out->used);
    out->free = out->total - out->reserved - out->used;
    return outcome;
}

struct pci_info {
    char legacy_address[16];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char address[32];
};

result nvmlDeviceGetPciInfo_v3(device gpu, struct pci_info *out) {
    char value[LINE_BYTES];
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter("nvmlDeviceGetPciInfo_v3", gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    if (!text_of(gpu->index, "pci_address", value))
        return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    if (sscanf(value, "%x:%x:%x", &out->domain, &out->bus, &out->device) != 3)
        return NOT_SUPPORTED;
    snprintf(out->address, sizeof out->address, "%08X:%02X:%02X.0", out->domain, out->bus, out->device);
    snprintf(out->legacy_address, sizeof out->legacy_address, "%04X:%02X:%02X.0", out->domain & 0xFFFF, out->bus & 0xFF,
             out->device & 0xFF);
    if (text_of(gpu->index, "pci_device_id", value))
        out->device_id = (unsigned int)strtoul(value, NULL, 16);
    if (text_of(gpu->index, "pci_subsystem_id", value))
        out->subsystem_id = (unsigned int)strtoul(value, NULL, 16);
    return SUCCESS;
}

result nvmlDeviceGetCudaComputeCapability(device gpu, int *major, int *minor) {
    char value[LINE_BYTES];
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter("nvmlDeviceGetCudaComputeCapability", gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    if (!text_of(gpu->index, "compute_capability", value) || sscanf(value, "%d.%d", major, minor) != 2)
        return NOT_SUPPORTED;
    return SUCCESS;
}

struct process {
    unsigned int pid;
    u64 used_bytes;
    unsigned int gpu_instance, compute_instance;
};

/* NVML's protocol: `count` is the room in, the number out; too little room is INSUFFICIENT_SIZE with the number. */
static result processes(const char *function, device gpu, const char *key, unsigned int *count, struct process *out) {
    char value[LINE_BYTES] = "", *rest = value, *end;
    unsigned int room, found = 0;
    if (!gpu || !count)
        return INVALID_ARGUMENT;
    result outcome = enter(function, gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    text_of(gpu->index, key, value);
    room = out ? *count : 0;
    for (unsigned long pid; (pid = strtoul(rest, &end, 10)), end != rest; rest = end, found++)
        if (found < room)
            out[found] = (struct process){(unsigned int)pid, 1u << 20, ~0u, ~0u};
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

#define PROCESSES(function, key)                                                                                       \
    result function(device gpu, unsigned int *count, struct process *out) {                                            \
        return processes(#function, gpu, key, count, out);                                                             \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "processes")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics_processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics_processes")

/* --- counters and faults ---------------------------------------------------------------------------------------- */

#include "health.h"

/* --- power limits and clocks -------------------------------------------------------------------------------------- */

#include "power.h"

/* --- identity and topology -------------------------------------------------------------------------------------- */

#include "parts.h"
