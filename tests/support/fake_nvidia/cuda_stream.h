/*
 * Streams and events of the simulated CUDA driver, and copies between GPUs: a part of cuda.c, which includes it.
 *
 * The null stream does all at once. What is put into a stream that was made waits there until somebody asks for its end,
 * or for an event behind it, and goes on no further than that: streams that forget to wait for each other find what was
 * there before.
 */

enum { MOST_PARAMETERS = 16 };

typedef struct order {
    result (*act)(struct order *);
    struct order *next;
    function kernel; /* of a launch */
    unsigned int blocks, threads;
    u64 given[MOST_PARAMETERS];
    pointer to, from; /* of a copy */
    size_t size;
    event moment; /* of a record, and of what waits for one; `turn`: which of its records */
    u64 turn;
} order;
struct stream {
    device gpu;
    order *first, **last;
};
struct event {
    double at_s;
    stream in;
    u64 asked, came; /* how often it was recorded, and how many of these have come */
};

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static result give(stream in, order one) {
    if (!in)
        return one.act(&one);
    order *kept = malloc(sizeof *kept);
    *kept = one;
    kept->next = NULL;
    *in->last = kept;
    in->last = &kept->next;
    return SUCCESS;
}

/* One order; what fails there breaks the GPU, as it does behind a true driver's back. */
static void advance(stream of) {
    device before = current;
    order *one = of->first;
    of->first = one->next;
    of->last = of->first ? of->last : &of->first;
    current = of->gpu;
    result outcome = one->act(one);
    if (outcome != SUCCESS && !of->gpu->broken)
        of->gpu->broken = outcome;
    current = before;
    free(one);
}

static result come(order *one) {
    one->moment->at_s = now_s();
    one->moment->came = one->turn;
    return SUCCESS;
}

static result await(order *one) {
    while (one->moment->came < one->turn)
        advance(one->moment->in);
    return SUCCESS;
}

result cuStreamCreate(stream *out, unsigned int flags) {
    (void)flags;
    stream made = calloc(1, sizeof *made);
    made->gpu = current;
    made->last = &made->first;
    *out = made;
    return enter_current("cuStreamCreate");
}

static result through(const char *name, stream of) {
    while (of && of->first)
        advance(of);
    return enter(name, of ? of->gpu : current);
}

result cuStreamQuery(stream of) {
    return through("cuStreamQuery", of);
}

result cuStreamSynchronize(stream of) {
    return through("cuStreamSynchronize", of);
}

result cuEventCreate(event *out, unsigned int flags) {
    (void)flags;
    *out = calloc(1, sizeof **out);
    return enter_current("cuEventCreate");
}

result cuEventRecord(event moment, stream in) {
    moment->in = in;
    give(in, (order){.act = come, .moment = moment, .turn = ++moment->asked});
    return enter_current("cuEventRecord");
}

result cuStreamWaitEvent(stream of, event moment, unsigned int flags) {
    (void)flags;
    give(of, (order){.act = await, .moment = moment, .turn = moment->asked});
    return enter_current("cuStreamWaitEvent");
}

result cuEventQuery(event moment) {
    await(&(order){.moment = moment, .turn = moment->asked});
    return enter_current("cuEventQuery");
}

result cuEventElapsedTime(float *out, event begin, event end) {
    *out = (float)((end->at_s - begin->at_s) * 1e3);
    return enter_current("cuEventElapsedTime");
}

static result copy_over(order *one) {
    device target;
    if (!holds(one->from, one->size, NULL) || !holds(one->to, one->size, &target))
        return INVALID_VALUE;
    return copy("cuMemcpyPeerAsync", (void *)one->to, (void *)one->from, one->size, target);
}

result cuMemcpyPeerAsync(pointer to, void *there, pointer from, void *here, size_t size, stream in) {
    device target;
    result outcome = enter_current("cuMemcpyPeerAsync");
    if (outcome != SUCCESS)
        return outcome;
    if (!there || !here)
        return INVALID_CONTEXT;
    if (!holds(from, size, NULL) || !holds(to, size, &target) || target != there)
        return INVALID_VALUE;
    return give(in, (order){.act = copy_over, .to = to, .from = from, .size = size});
}
