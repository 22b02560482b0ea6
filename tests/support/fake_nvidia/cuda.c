/*
 * A stand-in for libcuda.so.1 that copies for real, in main memory. FAKE_CUDA=<function>:<code> makes one call fail.
 */
#include <stdlib.h>
#include <string.h>

typedef int result;
typedef unsigned long long pointer;

static result enter(const char *function) {
    const char *fault = getenv("FAKE_CUDA");
    size_t length = strlen(function);
    return fault && !strncmp(fault, function, length) && fault[length] == ':' ? atoi(fault + length + 1) : 0;
}

result cuInit(unsigned int flags) {
    (void)flags;
    return enter("cuInit");
}

result cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return getenv("CUDA_VISIBLE_DEVICES") ? enter("cuDeviceGet") : 100;
}

result cuCtxCreate_v2(void **context, unsigned int flags, int device) {
    (void)flags, (void)device;
    *context = NULL;
    return enter("cuCtxCreate_v2");
}

result cuMemHostAlloc(void **block, size_t bytes, unsigned int flags) {
    (void)flags;
    *block = calloc(1, bytes);
    return *block ? enter("cuMemHostAlloc") : 2;
}

result cuMemAlloc_v2(pointer *block, size_t bytes) {
    *block = (pointer)calloc(1, bytes);
    return *block ? enter("cuMemAlloc_v2") : 2;
}

result cuMemcpyHtoD_v2(pointer to, const void *from, size_t bytes) {
    memcpy((void *)to, from, bytes);
    return enter("cuMemcpyHtoD_v2");
}

result cuMemcpyDtoH_v2(void *to, pointer from, size_t bytes) {
    memcpy(to, (void *)from, bytes);
    return enter("cuMemcpyDtoH_v2");
}

result cuMemcpyDtoD_v2(pointer to, pointer from, size_t bytes) {
    memcpy((void *)to, (void *)from, bytes);
    return enter("cuMemcpyDtoD_v2");
}

result cuCtxSynchronize(void) {
    return enter("cuCtxSynchronize");
}
