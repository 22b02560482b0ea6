/* GPUs, contexts and peers of the simulated CUDA driver: a part of cuda.c, which includes it. */

/* Which GPUs CUDA_VISIBLE_DEVICES leaves, in its order: numbers, or UUIDs that may be cut short. */
static void look(void) {
    char uuid[LINE_BYTES];
    long long count = 0;
    const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
    number_of(NO_GPU, "count", &count);
    count = count < MAX_GPUS ? count : MAX_GPUS;
    for (int i = 0; i < MAX_GPUS; i++)
        gpus[i].index = i;
    visible_count = 0;
    for (int i = 0; !wanted && i < count; i++)
        visible[visible_count++] = i;
    while (wanted && *wanted && visible_count < MAX_GPUS) {
        size_t length = strcspn(wanted, ",");
        int found = -1;
        for (int i = 0; i < count; i++)
            if (isdigit((unsigned char)*wanted) ? atoi(wanted) == i
                                                : text_of(i, "uuid", uuid) && !strncmp(uuid, wanted, length))
                found = i;
        if (found < 0)
            return; /* as the driver does: what comes after one that is not there is not shown */
        visible[visible_count++] = found;
        wanted += length + (wanted[length] == ',');
    }
}

result cuInit(unsigned int flags) {
    (void)flags;
    result outcome = enter("cuInit", NULL);
    if (outcome != SUCCESS)
        return outcome;
    look();
    return visible_count ? SUCCESS : NO_DEVICE;
}

result cuDriverGetVersion(int *out) {
    long long version = 0;
    number_of(NO_GPU, "cuda", &version);
    *out = (int)version;
    return enter("cuDriverGetVersion", NULL);
}

result cuDeviceGetCount(int *out) {
    *out = visible_count;
    return enter("cuDeviceGetCount", NULL);
}

result cuDeviceGet(int *out, int ordinal) {
    if (ordinal < 0 || ordinal >= visible_count)
        return INVALID_DEVICE;
    *out = visible[ordinal];
    return enter("cuDeviceGet", &gpus[*out]);
}

result cuDeviceGetName(char *out, int size, int gpu) {
    char name[LINE_BYTES] = "";
    text_of(gpu, "name", name);
    snprintf(out, (size_t)size, "%s", name);
    return enter("cuDeviceGetName", &gpus[gpu]);
}

static result read_uuid(const char *name, unsigned char *out, int gpu) {
    char uuid[LINE_BYTES] = "";
    text_of(gpu, "uuid", uuid);
    const char *digit = uuid + strlen("GPU-");
    for (int i = 0; i < 16; i++, digit += 2) {
        digit += *digit == '-';
        unsigned int byte = 0;
        sscanf(digit, "%2x", &byte);
        out[i] = (unsigned char)byte;
    }
    return enter(name, &gpus[gpu]);
}

result cuDeviceGetUuid(unsigned char *out, int gpu) {
    return read_uuid("cuDeviceGetUuid", out, gpu);
}

result cuDeviceGetUuid_v2(unsigned char *out, int gpu) {
    return read_uuid("cuDeviceGetUuid_v2", out, gpu);
}

static int capability(int gpu) {
    char text[LINE_BYTES] = "0.0";
    int major = 0, minor = 0;
    text_of(gpu, "compute_capability", text);
    sscanf(text, "%d.%d", &major, &minor);
    return 10 * major + minor;
}

result cuDeviceGetAttribute(int *out, int attribute, int gpu) {
    enum { MULTIPROCESSORS = 16, COMPUTE_MODE = 20, MAJOR = 75, MINOR = 76, SHARED_OPTIN = 97 };
    long long count = 2, mode = 0;
    number_of(gpu, "cuda_sms", &count);
    number_of(gpu, "compute_mode", &mode);
    result outcome = enter("cuDeviceGetAttribute", &gpus[gpu]);
    if (outcome != SUCCESS)
        return outcome;
    switch (attribute) {
    case MULTIPROCESSORS:
        *out = (int)count;
        return SUCCESS;
    case COMPUTE_MODE:
        *out = (int)mode;
        return SUCCESS;
    case MAJOR:
        *out = capability(gpu) / 10;
        return SUCCESS;
    case MINOR:
        *out = capability(gpu) % 10;
        return SUCCESS;
    case SHARED_OPTIN:
        *out = MOST_SHARED;
        return SUCCESS;
    default:
        return INVALID_VALUE;
    }
}

result cuDeviceTotalMem_v2(size_t *out, int gpu) {
    result outcome = enter("cuDeviceTotalMem_v2", &gpus[gpu]);
    if (outcome == SUCCESS && !open_memory(&gpus[gpu]))
        return OUT_OF_MEMORY;
    *out = gpus[gpu].size;
    return outcome;
}

result cuDevicePrimaryCtxSetFlags_v2(int gpu, unsigned int flags) {
    (void)flags;
    return enter("cuDevicePrimaryCtxSetFlags_v2", &gpus[gpu]);
}

static result make_context(const char *name, void **context, int gpu) {
    enum { PROHIBITED = 2 };
    long long mode = 0;
    result outcome = enter(name, &gpus[gpu]);
    if (outcome == SUCCESS && number_of(gpu, "compute_mode", &mode) && mode == PROHIBITED)
        return UNKNOWN; /* as cuda.h says */
    if (outcome == SUCCESS && !open_memory(&gpus[gpu]))
        return OUT_OF_MEMORY;
    *context = &gpus[gpu];
    return outcome;
}

result cuDevicePrimaryCtxRetain(void **context, int gpu) {
    return make_context("cuDevicePrimaryCtxRetain", context, gpu);
}

result cuCtxCreate_v2(void **context, unsigned int flags, int gpu) {
    (void)flags;
    result outcome = make_context("cuCtxCreate_v2", context, gpu);
    if (outcome == SUCCESS)
        current = &gpus[gpu];
    return outcome;
}

result cuCtxSetCurrent(void *context) {
    current = context;
    return context ? enter("cuCtxSetCurrent", current) : SUCCESS;
}

static int sees(device gpu, device other) {
    char key[LINE_BYTES];
    long long status = 1;
    int first = gpu->index < other->index ? gpu->index : other->index;
    snprintf(key, sizeof key, "p2p_%d", first == gpu->index ? other->index : gpu->index);
    return number_of(first, key, &status) && status == 0;
}

result cuDeviceCanAccessPeer(int *out, int gpu, int other) {
    *out = gpu != other && sees(&gpus[gpu], &gpus[other]);
    return enter("cuDeviceCanAccessPeer", &gpus[gpu]);
}

result cuCtxEnablePeerAccess(void *other, unsigned int flags) {
    result outcome = enter_current("cuCtxEnablePeerAccess");
    if (outcome != SUCCESS || flags)
        return outcome ? outcome : INVALID_VALUE;
    u64 bit = 1ull << ((device)other)->index;
    if (!sees(current, other))
        return 217; /* cuda.h: CUDA_ERROR_PEER_ACCESS_UNSUPPORTED */
    if (current->peers & bit)
        return PEER_ALREADY_ENABLED;
    current->peers |= bit;
    return SUCCESS;
}
