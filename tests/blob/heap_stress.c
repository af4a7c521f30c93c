/* Random calls of malloc and friends; every block's content, alignment and neighbours are checked. Prints the number of
 * calls, or what is wrong. argv[1]: the seed. */
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

int main(int argc, char **argv) {
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
