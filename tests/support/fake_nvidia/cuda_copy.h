/* Copies of the simulated CUDA driver: a part of cuda.c, which includes it. */

static result copied(order *one) {
    return copy(one->name, (void *)one->to, (void *)one->from, one->size);
}

static result filled(order *one) {
    device owner;
    if (!holds(one->to, one->size, &owner))
        return INVALID_VALUE;
    memset((void *)one->to, one->value, one->size);
    return settle(owner);
}

#define COPY(given) ((order){.act = copied, .name = given, .to = (pointer)to, .from = (pointer)from, .size = size})
#define BLOCK(at) (holds((pointer)(at), size, NULL) != NULL)

/* `knows`: which of the two ends is to be a GPU's. */
#define AT_ONCE(call, To, From, knows)                                                                                 \
    result call(To to, From from, size_t size) {                                                                       \
        result outcome = enter_current(#call);                                                                         \
        if (outcome != SUCCESS || !(knows))                                                                            \
            return outcome != SUCCESS ? outcome : INVALID_VALUE;                                                       \
        give(NULL, COPY(#call));                                                                                       \
        return cuCtxSynchronize();                                                                                     \
    }
#define LATER(call, To, From, knows)                                                                                   \
    result call(To to, From from, size_t size, stream in) {                                                            \
        result outcome = enter_current(#call);                                                                         \
        if (outcome != SUCCESS || !(knows))                                                                            \
            return outcome != SUCCESS ? outcome : INVALID_VALUE;                                                       \
        return give(in, COPY(#call));                                                                                  \
    }

AT_ONCE(cuMemcpyHtoD_v2, pointer, const void *, BLOCK(to))
AT_ONCE(cuMemcpyDtoH_v2, void *, pointer, BLOCK(from))
LATER(cuMemcpyHtoDAsync_v2, pointer, const void *, BLOCK(to))
LATER(cuMemcpyDtoHAsync_v2, void *, pointer, BLOCK(from))
LATER(cuMemcpyDtoDAsync_v2, pointer, pointer, BLOCK(to) && BLOCK(from))

/* These two do not wait for the end, as the driver's do not. */
result cuMemcpyDtoD_v2(pointer to, pointer from, size_t size) {
    result outcome = enter_current("cuMemcpyDtoD_v2");
    if (outcome != SUCCESS || !BLOCK(to) || !BLOCK(from))
        return outcome != SUCCESS ? outcome : INVALID_VALUE;
    return give(NULL, COPY("cuMemcpyDtoD_v2"));
}

result cuMemsetD8_v2(pointer to, unsigned char value, size_t size) {
    result outcome = enter_current("cuMemsetD8_v2");
    if (outcome != SUCCESS || !BLOCK(to))
        return outcome != SUCCESS ? outcome : INVALID_VALUE;
    return give(NULL, (order){.act = filled, .to = to, .size = size, .value = value});
}

result cuMemcpyPeerAsync(pointer to, void *there, pointer from, void *here, size_t size, stream in) {
    device target;
    result outcome = enter_current("cuMemcpyPeerAsync");
    if (outcome != SUCCESS)
        return outcome;
    if (!there || !here)
        return INVALID_CONTEXT;
    if (!BLOCK(from) || !holds(to, size, &target) || target != there)
        return INVALID_VALUE;
    return give(in, COPY("cuMemcpyPeerAsync"));
}
