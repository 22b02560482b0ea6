/*
 * Streams and events of the simulated CUDA driver: a part of cuda.c, which includes it.
 *
 * What is put into a stream waits there until somebody asks for its end, or for an event behind it, and goes on no further
 * than that: streams that forget to wait for each other, and a host that does, find what was there before.
 */

enum { MOST_PARAMETERS = 16 };

typedef struct order {
    result (*act)(struct order *);
    struct order *next;
    function kernel; /* of a launch */
    unsigned int blocks, threads;
    u64 given[MOST_PARAMETERS];
    const char *name; /* of a copy, or of what fills with a value */
    pointer to, from;
    size_t size;
    unsigned char value;
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

static stream fresh_stream(void) {
    stream made = calloc(1, sizeof *made);
    made->gpu = current;
    made->last = &made->first;
    return made;
}

/* NULL is the null stream of the GPU that is current. */
static stream named_stream(stream in) {
    if (!in && !current->own)
        current->own = fresh_stream();
    return in ? in : current->own;
}

static result give(stream in, order one) {
    in = named_stream(in);
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
    result outcome = enter_current("cuStreamCreate");
    *out = outcome == SUCCESS ? fresh_stream() : NULL;
    return outcome;
}

static result through(const char *name, stream of) {
    if (!of && !current)
        return INVALID_CONTEXT;
    of = named_stream(of);
    while (of->first)
        advance(of);
    return enter(name, of->gpu);
}

/* Nobody here waits by it for what is in streams of their own. */
result cuCtxSynchronize(void) {
    return through("cuCtxSynchronize", NULL);
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
    moment->in = named_stream(in);
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
