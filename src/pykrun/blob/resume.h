/* The first thing a resumed program does: getting its memory at once instead of page by page. */
#ifndef PYKRUN_RESUME_H
#define PYKRUN_RESUME_H

#include <stdint.h>

/* Before the snapshot: remember where things lie. `text` begins the read-only segment, `data` the writable one, what is
 * used of that ends at `used`, what is set aside at `limit`. */
void resume_remember(uintptr_t text, uintptr_t data, uintptr_t used, uintptr_t limit);

/* In the resumed program. Never fails: what a kernel does not know, it does not do. */
void resume_prepare(void);

#endif
