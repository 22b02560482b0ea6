/*
 * The counters and faults of the simulated driver: a part of nvml.c, which includes it at its end.
 *
 *     gpu <index> ecc <current> <pending>         modes, 1 is on; needed by the ECC counters as in the real library
 *     gpu <index> nvlinks <state> ...             one for each link, 1 is up; replays, recoveries, crc: nvlink_<name>
 *     gpu <index> remapped_rows <corrected> <uncorrected> <pending> <failed>
 *     gpu <index> fabric <state> <status> <health mask>
 *     gpu <index> mig <current> <pending>
 *     gpu <index> thermal_ns, power_ns            how long it was slowed down for that, ever
 *     gpu <index> unknown_field <code>            the error of numbered fields that have no key; 3 without it
 *
 * The keys of the other getters stand beside them.
 */

/* Up to `room` numbers of a key; how many there are, -1 without the key. */
static int numbers_of(int gpu, const char *key, unsigned int *out, int room) {
    char value[LINE_BYTES], *rest = value, *end;
    int found = 0;
    if (!text_of(gpu, key, value))
        return -1;
    for (unsigned long number; (number = strtoul(rest, &end, 0)), end != rest; rest = end, found++)
        if (found < room)
            out[found] = (unsigned int)number;
    return found;
}

static result copy_numbers(const char *function, device gpu, const char *key, unsigned int *out, int count) {
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter(function, gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    return numbers_of(gpu->index, key, out, count) < count ? NOT_SUPPORTED : SUCCESS;
}

static result copy_u64(const char *function, device gpu, const char *key, u64 *out) {
    long long value;
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter(function, gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    if (!number_of(gpu->index, key, &value))
        return NOT_SUPPORTED;
    *out = (u64)value;
    return SUCCESS;
}

#define PAIR(function, key)                                                                                            \
    result function(device gpu, unsigned int *current, unsigned int *pending) {                                        \
        unsigned int values[2];                                                                                        \
        result outcome = copy_numbers(#function, gpu, key, values, 2);                                                 \
        if (outcome == SUCCESS)                                                                                        \
            *current = values[0], *pending = values[1];                                                                \
        return outcome;                                                                                                \
    }
PAIR(nvmlDeviceGetEccMode, "ecc")
PAIR(nvmlDeviceGetMigMode, "mig")
NUMBER(nvmlDeviceGetPcieReplayCounter, "pcie_replays")
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pages_pending")

/* type: 0 corrected, 1 not; counter: 0 since the driver was loaded, 1 ever */
result nvmlDeviceGetTotalEccErrors(device gpu, unsigned int type, unsigned int counter, u64 *out) {
    static const char *const keys[2][2] = {{"ecc_volatile_corrected", "ecc_aggregate_corrected"},
                                           {"ecc_volatile_uncorrected", "ecc_aggregate_uncorrected"}};
    if (type > 1 || counter > 1)
        return INVALID_ARGUMENT;
    return copy_u64("nvmlDeviceGetTotalEccErrors", gpu, keys[type][counter], out);
}

struct sram_status_v1 {
    unsigned int version;
    u64 counters[11];
    unsigned int threshold_exceeded;
};

result nvmlDeviceGetSramEccErrorStatus(device gpu, struct sram_status_v1 *out) {
    if (out->version != (sizeof *out | 1u << 24))
        return VERSION_MISMATCH;
    return copy_numbers("nvmlDeviceGetSramEccErrorStatus", gpu, "sram_threshold_exceeded", &out->threshold_exceeded, 1);
}

result nvmlDeviceGetRemappedRows(device gpu, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending,
                                 unsigned int *failed) {
    unsigned int values[4];
    result outcome = copy_numbers("nvmlDeviceGetRemappedRows", gpu, "remapped_rows", values, 4);
    if (outcome == SUCCESS)
        *corrected = values[0], *uncorrected = values[1], *pending = values[2], *failed = values[3];
    return outcome;
}

/* cause: 0 several single bit errors, 1 a double bit error */
result nvmlDeviceGetRetiredPages(device gpu, unsigned int cause, unsigned int *count, u64 *addresses) {
    unsigned int pages = 0, room = addresses ? *count : 0;
    result outcome = copy_numbers("nvmlDeviceGetRetiredPages", gpu, cause ? "retired_double" : "retired_single", &pages, 1);
    if (outcome != SUCCESS)
        return outcome;
    for (unsigned int page = 0; page < pages && page < room; page++)
        addresses[page] = (u64)page << 16;
    *count = pages;
    return pages > room ? INSUFFICIENT_SIZE : SUCCESS;
}

/* millijoules since the driver was loaded */
result nvmlDeviceGetTotalEnergyConsumption(device gpu, u64 *out) {
    return copy_u64("nvmlDeviceGetTotalEnergyConsumption", gpu, "energy_mj", out);
}

result nvmlDeviceGetCurrentClocksEventReasons(device gpu, u64 *out) {
    return copy_u64("nvmlDeviceGetCurrentClocksEventReasons", gpu, "clock_reasons", out);
}

result nvmlDeviceGetCurrentClocksThrottleReasons(device gpu, u64 *out) {
    return copy_u64("nvmlDeviceGetCurrentClocksThrottleReasons", gpu, "clock_reasons", out);
}

struct violation {
    u64 reference_us, violation_ns;
};

result nvmlDeviceGetViolationStatus(device gpu, unsigned int policy, struct violation *out) {
    static const char *const keys[] = {"power_ns", "thermal_ns"};
    if (policy >= sizeof keys / sizeof *keys)
        return NOT_SUPPORTED;
    return copy_u64("nvmlDeviceGetViolationStatus", gpu, keys[policy], &out->violation_ns);
}

result nvmlDeviceGetNvLinkState(device gpu, unsigned int link, unsigned int *out) {
    unsigned int states[MAX_GPUS];
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter("nvmlDeviceGetNvLinkState", gpu->index);
    int count = numbers_of(gpu->index, "nvlinks", states, MAX_GPUS);
    if (outcome != SUCCESS || count < 0)
        return outcome != SUCCESS ? outcome : NOT_SUPPORTED;
    if ((int)link >= count)
        return INVALID_ARGUMENT;
    *out = states[link];
    return SUCCESS;
}

struct field {
    unsigned int id, scope;
    long long timestamp, latency_us;
    unsigned int type;
    result outcome;
    u64 value;
};

static const struct {
    unsigned int id;
    const char *key;
} FIELDS[] = {{38, "nvlink_crc"},     {52, "nvlink_replays"}, {59, "nvlink_recoveries"},
              {82, "memory_c"},       {230, "recovery_action"}};

result nvmlDeviceGetFieldValues(device gpu, int count, struct field *out) {
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter("nvmlDeviceGetFieldValues", gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    for (int index = 0; index < count; index++) {
        long long value = 0;
        out[index].outcome = number_of(gpu->index, "unknown_field", &value) ? (result)value : NOT_SUPPORTED;
        for (size_t known = 0; known < sizeof FIELDS / sizeof *FIELDS; known++)
            if (FIELDS[known].id == out[index].id && number_of(gpu->index, FIELDS[known].key, &value))
                out[index].outcome = SUCCESS;
        out[index].type = 3; /* unsigned long long */
        out[index].value = (u64)value;
    }
    return SUCCESS;
}

struct fabric_v2 {
    unsigned int version;
    unsigned char cluster[16];
    result status;
    unsigned int clique, state, health;
};

result nvmlDeviceGetGpuFabricInfoV(device gpu, struct fabric_v2 *out) {
    unsigned int values[3];
    if (out->version != (sizeof *out | 2u << 24))
        return VERSION_MISMATCH;
    result outcome = copy_numbers("nvmlDeviceGetGpuFabricInfoV", gpu, "fabric", values, 3);
    if (outcome == SUCCESS)
        out->state = values[0], out->status = (result)values[1], out->health = values[2];
    return outcome;
}
