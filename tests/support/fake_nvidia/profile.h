/*
 * The file that drives the simulated driver, and the faults that it names: what its two libraries (nvml.c, cuda.c) share.
 */
#pragma once
#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_GPUS 64
#define LINE_BYTES 512
#define NO_GPU -1

typedef int result;
typedef unsigned long long u64;

/* --- the file ------------------------------------------------------------------------------------------------- */

static FILE *open_profile(void) {
    const char *path = getenv("KAALIA_FAKE_NVML");
    return path ? fopen(path, "re") : NULL;
}

/* What the newest look at the file found: its text, whether it names faults, and whether a GPU is ever lost. */
static const char *seen;
static int has_faults, has_losses;

/* Its text, read again only when it was replaced: a call costs about what a real one does. NULL: there is none. */
static const char *profile(void) {
    static char *text;
    static struct stat known;
    const char *path = getenv("KAALIA_FAKE_NVML");
    struct stat now;
    if (!path || stat(path, &now) != 0)
        return NULL;
    if (text && now.st_ino == known.st_ino && now.st_size == known.st_size &&
        now.st_mtim.tv_sec == known.st_mtim.tv_sec && now.st_mtim.tv_nsec == known.st_mtim.tv_nsec)
        return text;
    FILE *file = open_profile();
    if (!file)
        return NULL;
    free(text);
    text = calloc(1, (size_t)now.st_size + 1);
    size_t length = text ? fread(text, 1, (size_t)now.st_size, file) : 0;
    fclose(file);
    if (text)
        text[length] = 0;
    known = now;
    seen = text;
    has_faults = text && (!strncmp(text, "fault ", 6) || strstr(text, "\nfault "));
    has_losses = text && strstr(text, " lost_after ");
    return text;
}

/* The rest of the first line that begins with `prefix` and a blank; 0 when there is none. Every call looks at the file
 * once, by `enter`. */
static int find(const char *prefix, char *rest) {
    size_t length = strlen(prefix);
    const char *line = seen ? seen : profile();
    if ((!has_faults && !strncmp(prefix, "fault ", 6)) || (!has_losses && strstr(prefix, " lost_after")))
        return 0;
    for (; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        if (strncmp(line, prefix, length) != 0 || !isspace((unsigned char)line[length]))
            continue;
        const char *value = line + length + strspn(line + length, " \t");
        size_t bytes = strcspn(value, "\r\n");
        bytes = bytes < LINE_BYTES ? bytes : LINE_BYTES - 1;
        memcpy(rest, value, bytes);
        rest[bytes] = 0;
        return 1;
    }
    return 0;
}

static int text_of(int gpu, const char *key, char *value) {
    char prefix[LINE_BYTES];
    if (gpu == NO_GPU)
        snprintf(prefix, sizeof prefix, "system %s", key);
    else
        snprintf(prefix, sizeof prefix, "gpu %d %s", gpu, key);
    return find(prefix, value);
}

static int number_of(int gpu, const char *key, long long *number) {
    char value[LINE_BYTES];
    if (!text_of(gpu, key, value))
        return 0;
    *number = atoll(value);
    return 1;
}

/* --- faults --------------------------------------------------------------------------------------------------- */

static result act(const char *fault) {
    char verb[32] = "", argument[LINE_BYTES] = "";
    sscanf(fault, "%31s %511[^\n]", verb, argument);
    long number = atol(argument);
    if (!strcmp(verb, "error"))
        return (result)number;
    if (!strcmp(verb, "sleep_ms")) {
        struct timespec wait = {number / 1000, (number % 1000) * 1000000L};
        nanosleep(&wait, NULL);
    } else if (!strcmp(verb, "hang")) {
        for (;;)
            pause();
    } else if (!strcmp(verb, "abort")) {
        abort();
    } else if (!strcmp(verb, "exit")) {
        _exit((int)number);
    } else if (!strcmp(verb, "print")) {
        printf("%s\n", argument);
        fflush(stdout);
    }
    return 0;
}
