/* Saving the running program as an ELF file that resumes in main(). */
#ifndef PYKRUN_SNAPSHOT_H
#define PYKRUN_SNAPSHOT_H

/* Write the program, its .data, .bss and heap as they are now, to `path` (created, mode 0755). The copy starts like any
 * program: the C library's own start-up runs, then main() with all variables as they were. 0, or -1 with a message on
 * standard error. Temporary mappings must have been given back before. */
int snapshot_write(const char *path);

#endif
