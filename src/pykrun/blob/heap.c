/* malloc for a program that is saved to a file and resumed: no state outside .data, .bss and the heap itself, the same
 * addresses in every run, nothing random. Replaces musl's through the symbols it documents as replaceable.
 *
 * Chunks are cut from the front of fresh memory and, when freed, go to a list of chunks of the same size class. Nothing
 * is joined again. Before the snapshot, large ones that were freed are cut up, or the tables that CPython grew out of on
 * the way would be holes in the file. Blocks over LARGE have a mapping of their own, which free gives back. There are no
 * locks: the program has one thread.
 *
 * A chunk is 8 bytes of header (its size, and MAPPED) and the payload, which is aligned to 16.
 */
#define _GNU_SOURCE
#include "heap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE ((size_t)4096) /* of the machine that builds; elsewhere only a size */
#define HEADER ((size_t)8)
#define SMALL ((size_t)1024)       /* chunks up to this size: a class every 16 bytes */
#define LARGE ((size_t)128 << 10)  /* chunks up to this size: four classes per power of two */
#define SLAB ((size_t)1 << 20)     /* asked of the kernel at a time once the reserve is used up */
#define ROOM ((size_t)1536)        /* at least, behind the chunks at the front, for what the resumed program allocates */
#define CLASSES (SMALL / 16 + 4 * 7 + 1)
#define MAPPED ((size_t)1)
#define SCRAP ((size_t)1024)       /* freed chunks from this size on may be cut up */

struct freed {
    struct freed *next;
};

extern char end[]; /* set by the linker: the end of .bss */

static char *fresh, *fresh_end;
static char *later, *later_end; /* taken when that is used up; NULL when it is */
static char *reserve; /* NULL before the first allocation */
static struct freed *lists[CLASSES];

/* At build time: every allocation has a number, and those that are wanted side by side get the front of the heap. */
static uint32_t allocations;
static const struct heap_chunk *wanted; /* the next of them; NULL when there are no more */
static char *front, *front_end;         /* where the next of them goes; NULL when none was ever wanted */
static int spread;                      /* every chunk on pages of its own: heap_spread() */
static char *scrap, *scrap_end;         /* a freed chunk that is being cut up */
static int sealed;                      /* not any more: this is the resumed program */

static size_t *header_of(void *payload) { return (size_t *)((char *)payload - HEADER); }

static size_t page_up(size_t size) { return (size + PAGE - 1) & ~(PAGE - 1); }

char *heap_base(void) { return (char *)(((uintptr_t)end + LARGEST_PAGE - 1) & ~(LARGEST_PAGE - 1)); }

char *heap_top(void) { return later ? later : fresh; }

static void *map(void *where, size_t size, int flags) {
    void *area = mmap(where, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return area == MAP_FAILED ? NULL : area;
}

/* The class of a chunk of at least `want` bytes, and in `*size` the size all chunks of that class have. */
static size_t class_of(size_t want, size_t *size) {
    if (want <= SMALL) {
        *size = (want + 15) & ~(size_t)15;
        return *size / 16;
    }
    unsigned top = 63 - __builtin_clzl(want - 1); /* 2^top < want <= 2^(top+1) */
    size_t quarter = (size_t)1 << (top - 2);
    size_t quarters = (want - 1) / quarter - 3; /* 1 to 4 */
    *size = (4 + quarters) * quarter;
    return SMALL / 16 + 4 * (size_t)(top - 10) + quarters;
}

static void reserve_at_first(void) {
    size_t room = spread ? HEAP_SPREAD : HEAP_RESERVE;
    reserve = map(heap_base(), room, MAP_FIXED_NOREPLACE | MAP_NORESERVE);
    if (reserve != heap_base())
        _exit(125); /* only at build time: somebody else's mapping behind .bss */
    fresh = reserve + HEADER; /* headers sit 8 before a multiple of 16 */
    fresh_end = reserve + room;
    if (!wanted)
        return;
    size_t together = HEADER + ROOM;
    for (const struct heap_chunk *one = wanted; one->size; one++)
        together += one->size;
    front = fresh;
    fresh += page_up(together);
    front_end = fresh - HEADER;
}

/* A chunk that begins 8 bytes into a page, where allocate() leaves its number. */
static char *cut_spread(size_t size) {
    size_t pages = page_up(HEADER + size);
    if ((size_t)(fresh_end - fresh) < pages)
        _exit(125);
    char *chunk = fresh;
    fresh += pages;
    return chunk;
}

/* Room for one chunk that was never used, zeroed by the kernel. NULL: there is no memory. */
static char *cut(size_t size) {
    if (!reserve)
        reserve_at_first();
    if (spread)
        return cut_spread(size);
    if ((size_t)(fresh_end - fresh) < size && later) {
        fresh = later;
        fresh_end = later_end;
        later = NULL;
    }
    if ((size_t)(fresh_end - fresh) < size) {
        char *slab = map(NULL, SLAB, 0);
        if (!slab)
            return NULL;
        fresh = slab + HEADER;
        fresh_end = slab + SLAB;
    }
    char *chunk = fresh;
    fresh += size;
    return chunk;
}

/* The same from freed memory, zeroed here. NULL: there is none. */
static char *cut_scrap(size_t size) {
    if (sealed || spread)
        return NULL;
    if ((size_t)(scrap_end - scrap) < size) {
        size_t class = class_of(size > SCRAP ? size : SCRAP, &(size_t){0});
        while (class < CLASSES && !lists[class])
            class++;
        if (class >= CLASSES)
            return NULL;
        scrap = (char *)header_of(lists[class]);
        lists[class] = lists[class]->next;
        scrap_end = scrap + *(size_t *)scrap;
        memset(scrap, 0, (size_t)(scrap_end - scrap));
    }
    char *chunk = scrap;
    scrap += size;
    return chunk;
}

/* The same for an allocation that is wanted at the front. NULL: it is not, or not of that size. */
static char *cut_front(size_t size) {
    if (!wanted || wanted->number != allocations)
        return NULL;
    const struct heap_chunk *want = wanted;
    wanted = want[1].size ? want + 1 : NULL;
    if (want->size != size)
        return NULL;
    if (!reserve)
        reserve_at_first();
    char *chunk = front;
    front += size;
    return chunk;
}

static void *allocate_mapped(size_t n) {
    size_t size = page_up(n + 16);
    char *area = map(NULL, size, 0);
    if (!area) {
        errno = ENOMEM;
        return NULL;
    }
    *header_of(area + 16) = size | MAPPED;
    return area + 16;
}

/* `*zeroed` tells whether the payload is known to be zero. */
static void *allocate(size_t n, int *zeroed) {
    *zeroed = 1;
    if (n > PTRDIFF_MAX - 2 * PAGE) {
        errno = ENOMEM;
        return NULL;
    }
    if (n + HEADER > LARGE)
        return allocate_mapped(n);
    size_t size;
    size_t class = class_of(n + HEADER, &size);
    allocations++;
    char *chunk = cut_front(size);
    struct freed *old = lists[class];
    if (!chunk && old) {
        lists[class] = old->next;
        *zeroed = 0;
        chunk = (char *)header_of(old);
    }
    if (!chunk)
        chunk = cut_scrap(size);
    if (!chunk)
        chunk = cut(size);
    if (!chunk) {
        errno = ENOMEM;
        return NULL;
    }
    *(size_t *)chunk = size;
    if (spread)
        *(size_t *)(chunk - HEADER) = allocations;
    return chunk + HEADER;
}

void *malloc(size_t n) {
    int zeroed;
    return allocate(n, &zeroed);
}

void *calloc(size_t count, size_t each) {
    size_t n;
    if (__builtin_mul_overflow(count, each, &n)) {
        errno = ENOMEM;
        return NULL;
    }
    int zeroed;
    void *payload = allocate(n, &zeroed);
    if (payload && !zeroed)
        memset(payload, 0, n);
    return payload;
}

void free(void *payload) {
    if (!payload)
        return;
    size_t size = *header_of(payload);
    if (size & MAPPED) {
        int saved = errno; /* free must not change it */
        munmap((char *)payload - 16, size & ~MAPPED);
        errno = saved;
        return;
    }
    size_t class = class_of(size, &size);
    struct freed *chunk = payload;
    chunk->next = lists[class];
    lists[class] = chunk;
}

void *realloc(void *payload, size_t n) {
    if (!payload)
        return malloc(n);
    size_t size = *header_of(payload);
    size_t room = size & MAPPED ? (size & ~MAPPED) - 16 : size - HEADER;
    if (n <= room && (room <= 64 || n > room / 4))
        return payload;
    void *moved = malloc(n);
    if (moved) {
        memcpy(moved, payload, n < room ? n : room);
        free(payload);
    }
    return moved;
}

/* Nothing here asks for more than malloc's alignment; whoever does is told no. */
void *aligned_alloc(size_t alignment, size_t n) {
    if (alignment > 16) {
        errno = ENOMEM;
        return NULL;
    }
    return malloc(n);
}

void heap_seal(void) {
    for (size_t class = 0; class < CLASSES; class++) {
        for (struct freed *chunk = lists[class]; chunk;) {
            struct freed *next = chunk->next;
            memset(chunk, 0, *header_of(chunk) - HEADER);
            chunk = next;
        }
        lists[class] = NULL;
    }
    wanted = NULL;
    allocations = 0;
    scrap = scrap_end = NULL;
    sealed = 1;
    if (!front)
        return;
    later = fresh;
    later_end = fresh_end;
    fresh = front;
    fresh_end = front_end;
    front = NULL;
}

void heap_spread(void) { spread = 1; }

void heap_want(const struct heap_chunk *list) { wanted = list->size ? list : NULL; }

char *heap_next(char *at, struct heap_chunk *chunk) {
    size_t size = *header_of(at + 2 * HEADER);
    *chunk = (struct heap_chunk){(uint32_t)*(size_t *)at, (uint32_t)size};
    return at + page_up(HEADER + size);
}
