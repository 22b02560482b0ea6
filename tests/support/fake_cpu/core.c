/*
 * A processor with a bad core, for LD_PRELOAD: it strikes only the self-test's program `cpu`, whatever else inherits it.
 *
 * The file named by KAALIA_FAKE_CPU says how, and may change meanwhile: `wrong <core>` (a bit of each SHA-256 is wrong
 * there), `slow <core> <n>` (each after its n-th takes that core several times as long), `die <core>`; empty: it is well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int (*digest_final)(void *, unsigned char *, unsigned int *);

/* Set where the program itself runs and not one of its cores, which are forks of it: 0 in any other program. */
static pid_t program;

__attribute__((constructor)) static void look(void) {
    char line[4096] = "";
    int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = read(file, line, sizeof line - 1);
    close(file);
    if (length > 0 && memmem(line, (size_t)length, "/work/cpu.py", 12))
        program = getpid();
}

static double seconds(clockid_t which) {
    struct timespec now;
    clock_gettime(which, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void strike(unsigned char *digest) {
    static long digests; /* of this process: one core's */
    char how[16] = "";
    int core = -1;
    long after = 0;
    const char *path = getenv("KAALIA_FAKE_CPU");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file)
        return;
    int found = fscanf(file, "%15s %d %ld", how, &core, &after);
    fclose(file);
    digests++;
    if (found < 2 || sched_getcpu() != core)
        return;
    if (!strcmp(how, "wrong"))
        digest[0] ^= 1;
    if (!strcmp(how, "die"))
        raise(SIGSEGV);
    if (!strcmp(how, "slow") && digests > after) {
        double until = seconds(CLOCK_THREAD_CPUTIME_ID) + 0.0015;
        while (seconds(CLOCK_THREAD_CPUTIME_ID) < until)
            ;
    }
}

int EVP_DigestFinal(void *context, unsigned char *digest, unsigned int *length) {
    static digest_final real;
    if (!real)
        real = (digest_final)dlsym(dlopen("libcrypto.so.3", RTLD_LAZY), "EVP_DigestFinal");
    int result = real(context, digest, length);
    if (program && program != getpid())
        strike(digest);
    return result;
}
