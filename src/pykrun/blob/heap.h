/* The heap that a snapshot can carry: one run of memory at a fixed address, right behind .bss. */
#ifndef PYKRUN_HEAP_H
#define PYKRUN_HEAP_H

#include <stddef.h>
#include <stdint.h>

/* The largest pages that a kernel for this machine may have: what is mapped begins at a multiple (targets.py). */
#if defined(__x86_64__)
#define LARGEST_PAGE ((uintptr_t)4096)
#elif defined(__aarch64__)
#define LARGEST_PAGE ((uintptr_t)65536)
#else
#error "how large are the pages of this machine?"
#endif

/* The memory set aside behind .bss. Only what is touched costs anything; when it is used up, the kernel is asked. */
#define HEAP_RESERVE ((size_t)16 << 20)

/* First byte of the heap, and the first byte behind what is in use. */
char *heap_base(void);
char *heap_top(void);

/* Before the snapshot: wipe and forget every freed chunk. What the resumed program allocates then comes from fresh
 * memory behind the snapshot, dense, instead of from holes that each dirty a page of their own. */
void heap_seal(void);

/* One allocation: its number among all (the first is 1), and the size of its chunk. */
struct heap_chunk {
    uint32_t number, size;
};

/* Before the first allocation: these, in the order of their numbers, get chunks side by side at the front of the heap.
 * The list ends with a size of 0 and is read until heap_seal(). */
void heap_want(const struct heap_chunk *list);

/* Before the first allocation: every chunk gets pages of its own, so that the pages a program touches tell the chunks.
 * Takes much memory, and cannot be saved. */
void heap_spread(void);

/* Of a spread heap: the chunk whose pages begin at `at`, and where the next one's do; the first's are at heap_base(). */
char *heap_next(char *at, struct heap_chunk *chunk);

/* The address space that a spread heap may take. */
#define HEAP_SPREAD ((size_t)2 << 30)

#endif
