/* Modules and launches of the simulated CUDA driver: a part of cuda.c, which includes it. */

/* As the driver: text that is not for this GPU, or newer than the driver, is refused, and the log says why. */
result cuModuleLoadDataEx(void **out, const char *text, unsigned int count, const int *options, void **values) {
    enum { ERROR_LOG = 5, ERROR_LOG_BYTES = 6 };
    char *log = NULL;
    size_t log_bytes = 0;
    int major, minor, target;
    long long cuda = 0;
    result outcome = enter_current("cuModuleLoadDataEx");
    for (unsigned int i = 0; i < count; i++) {
        log = options[i] == ERROR_LOG ? values[i] : log;
        log_bytes = options[i] == ERROR_LOG_BYTES ? (size_t)(uintptr_t)values[i] : log_bytes;
    }
    const char *version = strstr(text, "\n.version "), *wanted = strstr(text, "\n.target sm_");
    number_of(NO_GPU, "cuda", &cuda);
    if (outcome == SUCCESS && (!version || !wanted || sscanf(version, " .version %d.%d", &major, &minor) != 2 ||
                               sscanf(wanted, " .target sm_%d", &target) != 1))
        outcome = INVALID_PTX;
    else if (outcome == SUCCESS && 10 * major + minor > 70 + 10 * (cuda / 1000 - 11) + cuda % 1000 / 10)
        outcome = UNSUPPORTED_PTX_VERSION; /* PTX 7.0 came with CUDA 11.0, 8.0 with 12.0 */
    else if (outcome == SUCCESS && target > capability(current->index))
        outcome = NO_BINARY_FOR_GPU;
    if (outcome != SUCCESS) {
        if (log && log_bytes)
            snprintf(log, log_bytes, "simulated: error %d", outcome);
        return outcome;
    }
    module made = malloc(sizeof *made);
    made->gpu = current;
    made->text = strdup(text);
    *out = made;
    return SUCCESS;
}

result cuModuleGetFunction(void **out, module from, const char *name) {
    char entry[2 * NAME_BYTES];
    result outcome = enter_current("cuModuleGetFunction");
    if (outcome != SUCCESS)
        return outcome;
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (strlen(name) >= NAME_BYTES || !strstr(from->text, entry) || !kaalia_kernel_known(name))
        return NOT_FOUND;
    function made = calloc(1, sizeof *made);
    made->gpu = from->gpu;
    made->shared = SMALL_SHARED;
    strcpy(made->name, name);
    *out = made;
    return SUCCESS;
}

result cuFuncSetAttribute(function kernel, int attribute, int value) {
    enum { MAX_DYNAMIC_SHARED = 8 };
    result outcome = enter_current("cuFuncSetAttribute");
    if (outcome != SUCCESS)
        return outcome;
    if (attribute != MAX_DYNAMIC_SHARED || value < 0 || value > MOST_SHARED)
        return INVALID_VALUE;
    kernel->shared = (unsigned int)value;
    return SUCCESS;
}

static result launch(order *one) {
    char name[2 * NAME_BYTES];
    device owner;
    function kernel = one->kernel;
    void *arguments[MOST_PARAMETERS];
    for (int i = 0; i < MOST_PARAMETERS; i++)
        arguments[i] = &one->given[i];
    snprintf(name, sizeof name, "launch_%s", kernel->name);
    result outcome = enter(name, current);
    if (outcome != SUCCESS)
        return outcome;
    pointer out = one->given[0]; /* by agreement, what a kernel writes is its first argument */
    block *written = holds(out, 1, &owner);
    if (!written || (owner != current && !(current->peers >> owner->index & 1)))
        return current->broken = ILLEGAL_ADDRESS;
    if (!kaalia_kernel_run(kernel->name, one->blocks, one->threads, arguments))
        return current->broken = ILLEGAL_ADDRESS;
    size_t rest = (size_t)((pointer)(owner->memory + written->at + written->size) - out);
    spoil(name, current, (void *)out, rest, kernel->launches++);
    return settle(current);
}

result cuLaunchKernel(
    function kernel, unsigned int blocks, unsigned int blocks_y, unsigned int blocks_z, unsigned int threads,
    unsigned int threads_y, unsigned int threads_z, unsigned int shared, void *in, void **arguments, void **extra) {
    result outcome = enter_current("cuLaunchKernel");
    if (outcome != SUCCESS)
        return outcome;
    if (kernel->gpu != current)
        return INVALID_CONTEXT;
    if (!blocks || !threads || threads > 1024 || blocks_y * blocks_z * threads_y * threads_z != 1 ||
        shared > kernel->shared || extra)
        return INVALID_VALUE;
    order one = {.act = launch, .kernel = kernel, .blocks = blocks, .threads = threads};
    for (unsigned int i = 0; i < kaalia_kernel_parameters(kernel->name) && i < MOST_PARAMETERS; i++)
        memcpy(&one.given[i], arguments[i], sizeof one.given[i]);
    return give(in, one);
}
