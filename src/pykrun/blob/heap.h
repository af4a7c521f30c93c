/* The heap that a snapshot can carry: one run of memory at a fixed address, right behind .bss. */
#ifndef PYKRUN_HEAP_H
#define PYKRUN_HEAP_H

#include <stddef.h>

/* The memory set aside behind .bss. Only what is touched costs anything; when it is used up, the kernel is asked. */
#define HEAP_RESERVE ((size_t)16 << 20)

/* First byte of the heap, and the first byte behind what is in use. */
char *heap_base(void);
char *heap_top(void);

/* Before the snapshot: wipe and forget every freed chunk. What the resumed program allocates then comes from fresh
 * memory behind the snapshot, dense, instead of from holes that each dirty a page of their own. */
void heap_seal(void);

#endif
