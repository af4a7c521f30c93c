/* Page faults are most of what the start of the blob costs. Under User Mode Linux each takes some 60 us (a signal in
 * the host, two switches, one mmap), and PID 1 touches several hundred pages on its way to the workload. One madvise
 * lets the kernel take all of them in one go.
 *
 * User Mode Linux before 6.11 then knows the pages, but maps each into the host's process only when it faults, or when
 * the protection of the range changes: mprotect maps all of it, in batches. So the file asks for segments that may be
 * written and executed (snapshot.c), and here they get the protection they are meant to have. Elsewhere that is two
 * cheap calls.
 *
 * Any other process than PID 1 only says what it is and ends: it takes the few faults that needs.
 */
#define _GNU_SOURCE
#include "resume.h"

#include "heap.h"

#include <sys/mman.h>
#include <unistd.h>

/* Linux 5.14; not in every libc's headers */
#define POPULATE_READ 22
#define POPULATE_WRITE 23

#define PAGE LARGEST_PAGE

/* Fresh heap that PID 1 will use anyway, behind the snapshot's. */
#define FRESH ((uintptr_t)128 << 10)

static uintptr_t text, data, used, limit;

static uintptr_t page_down(uintptr_t address) { return address & ~(PAGE - 1); }

static uintptr_t page_up(uintptr_t address) { return page_down(address + PAGE - 1); }

void resume_remember(uintptr_t text_at, uintptr_t data_at, uintptr_t used_to, uintptr_t limit_at) {
    text = page_down(text_at);
    data = page_down(data_at);
    used = page_up(used_to);
    limit = page_up(limit_at);
}

void resume_prepare(void) {
    if (getpid() != 1)
        return;
    madvise((void *)data, used + FRESH - data, POPULATE_WRITE);
    madvise((void *)text, data - text, POPULATE_READ);
    mprotect((void *)data, limit - data, PROT_READ | PROT_WRITE);
    mprotect((void *)text, data - text, PROT_READ | PROT_EXEC);
}
