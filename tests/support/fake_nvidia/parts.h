/*
 * Identity and topology of the simulated GPUs; part of nvml.c, which includes it. Keys of the file beyond those there:
 *
 *     gpu <index> path_<other> <level>         NVML_TOPOLOGY_* between two GPUs; the smaller index first
 *     gpu <index> p2p_<other> <status>         NVML_P2P_STATUS_* of reading and writing; the smaller index first
 *     gpu <index> nvlink_remote_<link> <address>   what is at the other end; absent: not told
 */

TEXT(nvmlDeviceGetVbiosVersion, "vbios")
TEXT(nvmlDeviceGetInforomImageVersion, "inforom")
TEXT(nvmlDeviceGetBoardPartNumber, "part_number")
NUMBER(nvmlDeviceGetBrand, "brand")
NUMBER(nvmlDeviceGetArchitecture, "architecture")
NUMBER(nvmlDeviceGetNumGpuCores, "cores")
NUMBER(nvmlDeviceGetMemoryBusWidth, "bus_bits")
NUMBER(nvmlDeviceGetNumFans, "fans")
NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER(nvmlDeviceGetVirtualizationMode, "virtualization_mode")

result nvmlDeviceGetGspFirmwareVersion(device gpu, char *out) {
    return gpu ? copy_text("nvmlDeviceGetGspFirmwareVersion", gpu->index, "gsp", out, 0x40) : INVALID_ARGUMENT;
}

result nvmlDeviceGetPowerManagementLimitConstraints(device gpu, unsigned int *least, unsigned int *most) {
    long long value;
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = copy_number("nvmlDeviceGetPowerManagementLimitConstraints", gpu->index, "power_min_mw", least);
    if (outcome != SUCCESS)
        return outcome;
    if (!number_of(gpu->index, "power_max_mw", &value))
        return NOT_SUPPORTED;
    *most = (unsigned int)value;
    return SUCCESS;
}

struct bar1 {
    u64 total, free, used;
};

result nvmlDeviceGetBAR1MemoryInfo(device gpu, struct bar1 *out) {
    unsigned int total_mb;
    result outcome = gpu ? copy_number("nvmlDeviceGetBAR1MemoryInfo", gpu->index, "bar1_mb", &total_mb) : INVALID_ARGUMENT;
    if (outcome != SUCCESS)
        return outcome;
    out->total = (u64)total_mb << 20;
    out->used = 1u << 20;
    out->free = out->total - out->used;
    return SUCCESS;
}

/* Links from 0 on; those beyond the last are refused, as the real library does. */
static result link_of(const char *function, device gpu, unsigned int link) {
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter(function, gpu->index);
    int count = numbers_of(gpu->index, "nvlinks", NULL, 0);
    if (outcome != SUCCESS || count < 0)
        return outcome != SUCCESS ? outcome : NOT_SUPPORTED;
    return (int)link < count ? SUCCESS : INVALID_ARGUMENT;
}

result nvmlDeviceGetNvLinkVersion(device gpu, unsigned int link, unsigned int *out) {
    result outcome = link_of("nvmlDeviceGetNvLinkVersion", gpu, link);
    return outcome == SUCCESS ? copy_number("nvmlDeviceGetNvLinkVersion", gpu->index, "nvlink_version", out) : outcome;
}

result nvmlDeviceGetNvLinkRemotePciInfo_v2(device gpu, unsigned int link, struct pci_info *out) {
    char key[64], value[LINE_BYTES];
    result outcome = link_of("nvmlDeviceGetNvLinkRemotePciInfo_v2", gpu, link);
    if (outcome != SUCCESS)
        return outcome;
    snprintf(key, sizeof key, "nvlink_remote_%u", link);
    memset(out, 0, sizeof *out);
    if (!text_of(gpu->index, key, value) || sscanf(value, "%x:%x:%x", &out->domain, &out->bus, &out->device) != 3)
        return NOT_SUPPORTED;
    return SUCCESS;
}

static result between(const char *function, device a, device b, const char *key, unsigned int *out) {
    char name[64];
    if (!a || !b)
        return INVALID_ARGUMENT;
    int first = a->index < b->index ? a->index : b->index;
    snprintf(name, sizeof name, "%s_%d", key, first == a->index ? b->index : a->index);
    return copy_number(function, first, name, out);
}

result nvmlDeviceGetTopologyCommonAncestor(device a, device b, unsigned int *out) {
    return between("nvmlDeviceGetTopologyCommonAncestor", a, b, "path", out);
}

result nvmlDeviceGetP2PStatus(device a, device b, unsigned int index, unsigned int *out) {
    (void)index;
    return between("nvmlDeviceGetP2PStatus", a, b, "p2p", out);
}
