/* "Unexec" for one known kind of program: static, at fixed addresses, musl, one thread, all memory in .data, .bss and
 * the heap behind them (heap.c). The file is the program's own, with its writable segment replaced by the memory.
 *
 * The C library's start-up runs again in the copy and sets its own variables anew (environ, auxiliary vector, thread
 * pointer). Here they are wiped, with everything else that depends on this run, so that equal inputs give equal bytes.
 */
#define _GNU_SOURCE
#include "snapshot.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "heap.h"
#include "resume.h"

#define PAGE LARGEST_PAGE
#define MAX_HEADERS 16
#define MAX_MAPS (64 << 10)

struct area {
    uintptr_t from, to;
};

/* musl's own, not declared in its headers */
extern size_t __hwcap;
extern uintptr_t __stack_chk_guard;

static int fail(const char *what) {
    dprintf(2, "snapshot: %s\n", what);
    return -1;
}

static int fail_errno(const char *what) {
    dprintf(2, "snapshot: %s: %s\n", what, strerror(errno));
    return -1;
}

static uintptr_t page_up(uintptr_t address) { return (address + PAGE - 1) & ~(PAGE - 1); }

/* ---- what this run left behind ---- */

/* musl's description of the thread (struct pthread): between which words of the thread pointer it lies, and where the
 * ABI has the copy of the stack protector's canary. */
#if defined(__x86_64__)
enum { THREAD_FROM = 0, THREAD_TO = 64, CANARY = 5 }; /* fs:0x28 */
#elif defined(__aarch64__)
enum { THREAD_FROM = -50, THREAD_TO = 0, CANARY = -2 }; /* it ends at the pointer: TLS_ABOVE_TP */
#else
#error "where does the C library keep the thread's id on this machine?"
#endif

/* One thread-local word of the C library holds the thread's id; set again at start. */
static int wipe_thread_id(void) {
    int32_t *words = __builtin_thread_pointer(), *found = NULL;
    for (int i = THREAD_FROM; i < THREAD_TO; i++) {
        if (words[i] != getpid())
            continue;
        if (found)
            return fail("the thread id is there twice");
        found = &words[i];
    }
    if (!found)
        return fail("the thread id is not where it is expected");
    *found = 0;
    return 0;
}

static void wipe_start_up(void) {
    environ = NULL;
    program_invocation_name = program_invocation_short_name = NULL;
    __hwcap = 0;
    __stack_chk_guard = 0;
    ((uintptr_t *)__builtin_thread_pointer())[CANARY] = 0;
}

/* Pointers into memory that will not exist (stack, vDSO). Few and known: the auxiliary vector and vDSO entry in the C
 * library. More would be a state nobody thought of. */
#define MAX_STRAY 8

static int wipe_strays(struct area image, const struct area *gone, int count) {
    int strays = 0;
    for (uintptr_t *word = (uintptr_t *)image.from; word < (uintptr_t *)image.to; word++)
        for (int i = 0; i < count; i++)
            if (*word >= gone[i].from && *word < gone[i].to) {
                *word = 0;
                strays++;
            }
    return strays > MAX_STRAY ? fail("too many pointers to memory outside of the program") : 0;
}

/* ---- what is mapped ---- */

static ssize_t read_all(const char *path, char *into, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size_t have = 0;
    for (;;) {
        ssize_t n = read(fd, into + have, room - 1 - have);
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    close(fd);
    into[have] = 0;
    return have == room - 1 ? -1 : (ssize_t)have;
}

/* Every mapping outside the image is listed in `gone`. Writable ones other than the stack would be lost: an error. */
static int survey(struct area image, struct area *gone, int room) {
    static const char *const expected[] = {"[stack]", "[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"};
    char text[MAX_MAPS]; /* on the stack: a mapping of its own could merge with one that is to be found */
    if (read_all("/proc/self/maps", text, sizeof text) < 0)
        return fail_errno("/proc/self/maps");
    int count = 0;
    for (char *line = text, *next; *line; line = next) {
        next = strchr(line, '\n');
        if (!next)
            break;
        *next++ = 0;
        struct area area;
        char mode[5];
        if (sscanf(line, "%lx-%lx %4s", &area.from, &area.to, mode) != 3)
            return fail("/proc/self/maps is not as expected");
        if (area.from < image.to)
            continue;
        int known = 0;
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
            known |= strstr(line, expected[i]) != NULL;
        if (!known && mode[1] == 'w') {
            dprintf(2, "snapshot: memory that would be lost: %s\n", line);
            return -1;
        }
        if (count == room)
            return fail("too many mappings");
        gone[count++] = area;
    }
    return count;
}

/* ---- the file ---- */

struct program {
    int fd;
    Elf64_Ehdr elf;
    Elf64_Phdr headers[MAX_HEADERS];
    Elf64_Phdr *text, *data; /* the two segments: read-only and writable */
};

static int open_program(struct program *self) {
    self->fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (self->fd < 0 || pread(self->fd, &self->elf, sizeof self->elf, 0) != sizeof self->elf)
        return fail_errno("/proc/self/exe");
    size_t size = self->elf.e_phnum * sizeof *self->headers;
    if (self->elf.e_phnum > MAX_HEADERS || pread(self->fd, self->headers, size, (off_t)self->elf.e_phoff) != (ssize_t)size)
        return fail("program headers");
    self->text = self->data = NULL;
    for (int i = 0; i < self->elf.e_phnum; i++) {
        Elf64_Phdr *header = &self->headers[i];
        if (header->p_type == PT_GNU_RELRO || header->p_type == PT_INTERP || header->p_type == PT_TLS)
            return fail("this program cannot be saved: it has RELRO, an interpreter or thread-local data");
        if (header->p_type != PT_LOAD)
            continue;
        Elf64_Phdr **place = header->p_flags & PF_W ? &self->data : &self->text;
        if (*place)
            return fail("more than two segments");
        *place = header;
    }
    if (!self->text || !self->data)
        return fail("not two segments");
    if (self->text->p_align != PAGE || self->data->p_align != PAGE)
        return fail("linked for pages of another size");
    if (page_up(self->text->p_vaddr + self->text->p_memsz) != (self->data->p_vaddr & ~(PAGE - 1)))
        return fail("a hole between the segments");
    if (page_up(self->data->p_vaddr + self->data->p_memsz) != (uintptr_t)heap_base())
        return fail("the heap does not follow the writable segment");
    return 0;
}

static int put(int fd, const void *bytes, size_t size) {
    for (const char *at = bytes; size;) {
        ssize_t n = write(fd, at, size);
        if (n <= 0)
            return fail_errno("write");
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

/* The file up to the writable segment, with the changed headers, then the memory. Section headers are left out. */
static int write_file(struct program *self, struct area image, const char *path) {
    size_t front = self->data->p_offset;
    char *bytes = mmap(NULL, front + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED || pread(self->fd, bytes, front, 0) != (ssize_t)front)
        return fail_errno("/proc/self/exe");
    self->text->p_flags = self->data->p_flags = PF_R | PF_W | PF_X; /* resume.c tells why, and takes it back */
    self->data->p_filesz = image.to - image.from;
    self->data->p_memsz = (uintptr_t)heap_base() + HEAP_RESERVE - image.from;
    self->elf.e_shoff = self->elf.e_shnum = self->elf.e_shstrndx = 0;
    memcpy(bytes, &self->elf, sizeof self->elf);
    memcpy(bytes + self->elf.e_phoff, self->headers, self->elf.e_phnum * sizeof *self->headers);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    if (fd < 0)
        return fail_errno(path);
    if (put(fd, bytes, front) || put(fd, (void *)image.from, image.to - image.from))
        return -1;
    munmap(bytes, front + PAGE);
    return close(fd) ? fail_errno(path) : 0;
}

int snapshot_write(const char *path) {
    struct program self;
    if (open_program(&self))
        return -1;
    /* whole pages: the rest of the last one would be cleared by the kernel at every start, a page touched for nothing */
    struct area image = {self.data->p_vaddr, page_up((uintptr_t)heap_top())};
    struct area reserve = {image.from, (uintptr_t)heap_base() + HEAP_RESERVE};
    resume_remember(self.text->p_vaddr, image.from, image.to, reserve.to);
    struct area gone[MAX_HEADERS];
    int count = survey(reserve, gone, MAX_HEADERS);
    if (count < 0 || wipe_thread_id())
        return -1;
    wipe_start_up();
    if (wipe_strays(image, gone, count))
        return -1;
    return write_file(&self, image, path);
}
