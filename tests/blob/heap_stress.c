/* Random calls of malloc and friends; every block's content, alignment and neighbours are checked. Prints the number of
 * calls, or what is wrong. The last argument is the seed;
 * with one before it, the front of the heap is tried first. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"

#define BLOCKS 2000
#define ROUNDS 200000

static struct {
    unsigned char *at, mark;
    size_t size;
} blocks[BLOCKS];

static uint64_t state;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static size_t some_size(void) {
    switch (next() % 20) {
    case 0:
        return next() % 400000;
    case 1:
    case 2:
        return next() % 5000;
    default:
        return next() % 300;
    }
}

static void die(const char *what) {
    printf("%s\n", what);
    exit(1);
}

static void check(int i, size_t size) {
    for (size_t k = 0; k < size; k++)
        if (blocks[i].at[k] != blocks[i].mark)
            die("content was changed");
}

static void fill(int i, size_t size) {
    if ((uintptr_t)blocks[i].at % 16)
        die("not aligned");
    blocks[i].size = size;
    blocks[i].mark = (unsigned char)next();
    memset(blocks[i].at, blocks[i].mark, size);
}

static void step(void) {
    int i = (int)(next() % BLOCKS);
    size_t size = some_size();
    if (!blocks[i].at) {
        if (next() % 2) {
            blocks[i].at = malloc(size);
        } else {
            blocks[i].at = calloc(1, size);
            for (size_t k = 0; k < size; k++)
                if (blocks[i].at[k])
                    die("calloc is not zero");
        }
        fill(i, size);
        return;
    }
    check(i, blocks[i].size);
    if (next() % 3) {
        errno = 77;
        free(blocks[i].at);
        if (errno != 77)
            die("free changed errno");
        blocks[i].at = NULL;
        return;
    }
    blocks[i].at = realloc(blocks[i].at, size);
    check(i, size < blocks[i].size ? size : blocks[i].size);
    fill(i, size);
}

/* Wanted allocations lie at the front, in order; what comes after heap_seal() lies right behind them. */
static void try_front(void) {
    static const struct heap_chunk list[] = {{2, 64}, {3, 48}, {5, 4096}, {0, 0}}; /* 3 is of another size */
    heap_want(list);
    char *at[7];
    for (int i = 1; i < 6; i++)
        at[i] = malloc(i == 5 ? 3600 : 50);
    heap_seal();
    at[6] = malloc(50);
    if (at[2] != heap_base() + 16 || at[5] != at[2] + 64 || at[6] != at[5] + 4096)
        die("what is wanted is not at the front");
    if (at[3] != at[1] + 64 || at[4] != at[3] + 64 || at[1] < at[6] + 1024)
        die("what is not wanted is at the front");
    for (int i = 1; i < 7; i++)
        free(at[i]);
}

/* Before the snapshot a large chunk that was freed is cut up for small ones; afterwards it stays what it is. */
static void try_scrap(void) {
    void *volatile large = malloc(50000); /* volatile: compilers know better */
    char *volatile small = malloc(100);
    char *top = heap_top();
    free(large);
    for (int i = 0; i < 400; i++) {
        small = malloc(100);
        for (int k = 0; k < 100; k++)
            if (small[k])
                die("not zeroed");
        memset(small, 255, 100);
    }
    if (heap_top() != top || (char *)small < (char *)large || (char *)small >= (char *)large + 50000)
        die("freed memory is left unused");
    large = malloc(50000);
    free(large);
    heap_seal();
    large = malloc(50000);
    free(large);
    small = malloc(100);
    if ((char *)small >= (char *)large && (char *)small < (char *)large + 50000)
        die("cut up although sealed");
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "scrap")) {
        try_scrap();
        return 0;
    }
    if (argc > 2)
        try_front();
    state = strtoull(argv[argc - 1], NULL, 10) * 2 + 1;
    for (int round = 0; round < ROUNDS; round++) {
        step();
        if (round == ROUNDS / 2)
            heap_seal(); /* what is in use stays */
    }
    volatile size_t huge = SIZE_MAX, large = SIZE_MAX / 4; /* volatile: compilers know better */
    if (malloc(huge) || malloc(huge - 4096) || calloc(large, 8) || realloc(NULL, huge) || aligned_alloc(64, 64))
        die("the impossible was allocated");
    if (errno != ENOMEM)
        die("no ENOMEM");
    if (heap_top() < heap_base())
        die("the heap ends before it begins");
    printf("%d\n", ROUNDS);
    return 0;
}
