/* A start touches some hundred objects of the ten thousands in the snapshot. Where they lie decides how many pages it
 * takes from the file and copies, and that is most of what it costs. So the build runs one start with a heap in which
 * every chunk has pages of its own, all protected: the faults tell the chunks.
 */
#define _GNU_SOURCE
#include "survey.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "heap.h"

#define PAGE ((uintptr_t)4096)

/* Larger chunks are tables, of which a start reads an entry or two: they stay where they are. */
#define LARGEST 20480

#define MOST 4096

static char *from, *to;
static unsigned char *touched; /* one for each page */

static int fail(const char *what) {
    dprintf(2, "survey: %s: %s\n", what, strerror(errno));
    return -1;
}

static void on_fault(int number, siginfo_t *about, void *context) {
    (void)context;
    char *page = (char *)((uintptr_t)about->si_addr & ~(PAGE - 1));
    if (page < from || page >= to || touched[(page - from) / PAGE]) {
        signal(number, SIG_DFL); /* a real one: it comes again */
        return;
    }
    touched[(page - from) / PAGE] = 1;
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}

int survey_begin(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    from = heap_base();
    to = heap_top();
    touched = mmap(NULL, (size_t)(to - from) / PAGE + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (touched == MAP_FAILED || sigaction(SIGSEGV, &action, NULL))
        return fail("watching");
    return mprotect(from, (size_t)(to - from), PROT_NONE) ? fail("mprotect") : 0;
}

static int is_touched(const char *at, const char *next) {
    return memchr(touched + (at - from) / PAGE, 1, (size_t)(next - at) / PAGE) != NULL;
}

static int compare(const void *one, const void *other) {
    const struct heap_chunk *a = one, *b = other;
    return a->number < b->number ? -1 : a->number > b->number;
}

int survey_write(const char *path) {
    struct heap_chunk found[MOST];
    size_t count = 0;
    if (mprotect(from, (size_t)(to - from), PROT_READ))
        return fail("mprotect");
    for (char *at = from, *next; at < to && count < MOST - 1; at = next) {
        struct heap_chunk chunk;
        next = heap_next(at, &chunk);
        if (chunk.size <= LARGEST && is_touched(at, next))
            found[count++] = chunk;
    }
    qsort(found, count, sizeof *found, compare);
    found[count++] = (struct heap_chunk){0, 0};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, found, count * sizeof *found) != (ssize_t)(count * sizeof *found))
        return fail(path);
    return close(fd) ? fail(path) : 0;
}
