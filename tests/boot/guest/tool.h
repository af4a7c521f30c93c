/* The guest's side of the boot tests: one static program, many small commands. */
#ifndef TOOL_H
#define TOOL_H

#include <stddef.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; the result is the exit code */
};

/* An operation of a script returns the system call's result or -errno; data that it found lies in `scratch`, its length in
 * *size. */
#define ROOM (1 << 20)
extern char scratch[ROOM];

typedef long operation_function(char **args, size_t *size);

struct operation {
    const char *name;
    int args;
    operation_function *run;
};

extern const struct operation disk_operations[];       /* block devices */

extern const struct command report_commands[]; /* what arrived: arguments, environment, a script of operations */
extern const struct command stream_commands[]; /* what goes in and out */
extern const struct command disk_commands[];   /* block devices */
extern const struct command process_commands[]; /* signals, terminals, races, ends */
extern const struct command network_commands[]; /* flows, questions, forged frames */
extern const struct command vsock_commands[]; /* streams to the host and from it */

void say_hex(const void *data, size_t size);            /* lower-case hexadecimal on standard output, no line end */
int write_all(int fd, const void *data, size_t size);   /* 0, or -errno */
long number(const char *text);                          /* decimal, 0x or 0 octal; ends the program when it is none */

#endif
