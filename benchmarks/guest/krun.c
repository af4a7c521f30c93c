/*
 * What loading libkrun.so.1 and calling it costs. argv[1] is the library; prints, in microseconds of this process' CPU
 * time, which says more than the clock on a busy machine, one a line: the dlopen, the first call (it makes a context),
 * the second context, and the mean of many calls of five functions.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CALLS 2000

static void *library;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void *find(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

int main(int argc, char **argv)
{
    const char *const words[] = {"-c", "exit 3", NULL}, *const variables[] = {"HOME=/", "PATH=/bin", NULL};
    double began = now(), loaded, first, second;
    int32_t (*create)(void), (*config)(uint32_t, uint8_t, uint32_t), (*workdir)(uint32_t, const char *);
    int32_t (*execute)(uint32_t, const char *, const char *const *, const char *const *);
    int32_t (*overlay)(uint32_t, const char *, const char *, const uint8_t *, size_t, uint32_t, bool);
    int32_t (*feature)(uint64_t), (*share)(uint32_t, const char *, const char *);
    char name[32];
    uint32_t ctx;

    library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    loaded = now();
    create = find("krun_create_ctx");
    ctx = (uint32_t)create();
    first = now();
    create();
    second = now();
    printf("%.3f\n%.3f\n%.3f\n", loaded - began, first - loaded, second - first);

    config = find("krun_set_vm_config");
    workdir = find("krun_set_workdir");
    execute = find("krun_set_exec");
    overlay = find("krun_fs_add_overlay_file");
    feature = find("krun_has_feature");
    share = find("krun_add_virtiofs");
#define MEASURE(call)                                \
    do {                                             \
        double start = now();                        \
        for (int i = 0; i < CALLS; i++)              \
            (void)(call);                            \
        printf("%.3f\n", (now() - start) / CALLS);   \
    } while (0)
    MEASURE(feature(0));
    MEASURE(config(ctx, 1, 256));
    MEASURE(workdir(ctx, "/tmp"));
    MEASURE(execute(ctx, "/bin/sh", words, variables));
    share(ctx, "tag", NULL);
    MEASURE(overlay(ctx, "tag", (snprintf(name, sizeof name, "file-%d", i), name), (const uint8_t *)"text", 4, 0644, false));
    return 0;
}
