/*
 * What is set on the simulated GPUs: a part of nvml.c, which includes it at its end. A set value becomes the first line
 * of the profile, so that every process sees it, and the test reads it there.
 *
 *     gpu <index> locked_clocks_mhz <min> <max>   0 0: not locked
 */

static result prepend(int gpu, const char *key, const char *value) {
    const char *path = getenv("KAALIA_FAKE_NVML");
    char part[LINE_BYTES], line[LINE_BYTES];
    FILE *file = open_profile(), *changed;
    snprintf(part, sizeof part, "%s.%d", path ? path : "", (int)getpid());
    if (!file || !(changed = fopen(part, "we")))
        return DRIVER_NOT_LOADED;
    fprintf(changed, "gpu %d %s %s\n", gpu, key, value);
    while (fgets(line, sizeof line, file))
        fputs(line, changed);
    fclose(file);
    fclose(changed);
    return rename(part, path) == 0 ? SUCCESS : DRIVER_NOT_LOADED;
}

result nvmlDeviceSetPowerManagementLimit(device gpu, unsigned int limit_mw) {
    char value[LINE_BYTES];
    long long min = 0, max = 0;
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter("nvmlDeviceSetPowerManagementLimit", gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    if (!number_of(gpu->index, "power_min_mw", &min) || !number_of(gpu->index, "power_max_mw", &max))
        return NOT_SUPPORTED;
    if (limit_mw < min || limit_mw > max)
        return INVALID_ARGUMENT;
    snprintf(value, sizeof value, "%u", limit_mw);
    return prepend(gpu->index, "power_limit_mw", value);
}

result nvmlDeviceSetGpuLockedClocks(device gpu, unsigned int min_mhz, unsigned int max_mhz) {
    char value[LINE_BYTES];
    if (!gpu || min_mhz > max_mhz)
        return INVALID_ARGUMENT;
    result outcome = enter("nvmlDeviceSetGpuLockedClocks", gpu->index);
    if (outcome != SUCCESS)
        return outcome;
    snprintf(value, sizeof value, "%u %u", min_mhz, max_mhz);
    return prepend(gpu->index, "locked_clocks_mhz", value);
}

result nvmlDeviceResetGpuLockedClocks(device gpu) {
    if (!gpu)
        return INVALID_ARGUMENT;
    result outcome = enter("nvmlDeviceResetGpuLockedClocks", gpu->index);
    return outcome != SUCCESS ? outcome : prepend(gpu->index, "locked_clocks_mhz", "0 0");
}
