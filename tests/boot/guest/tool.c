#include "tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void say_hex(const void *data, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) {
        putchar(digits[bytes[i] >> 4]);
        putchar(digits[bytes[i] & 15]);
    }
}

int write_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t written = write(fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        at += written;
        size -= (size_t)written;
    }
    return 0;
}

long number(const char *text)
{
    char *end;
    long value = strtol(text, &end, 0);
    if (*text == '\0' || *end != '\0') {
        fprintf(stderr, "tool: not a number: %s\n", text);
        exit(64);
    }
    return value;
}

static const struct command *find(const struct command *table, const char *name)
{
    for (; table->name != NULL; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

int main(int argc, char **argv)
{
    const struct command *tables[] = {
        report_commands, stream_commands, process_commands, disk_commands, network_commands, vsock_commands,
    };
    for (size_t i = 0; argc > 1 && i < sizeof tables / sizeof *tables; i++) {
        const struct command *command = find(tables[i], argv[1]);
        if (command != NULL) {
            int code = command->run(argc - 1, argv + 1);
            fflush(stdout);
            return code;
        }
    }
    fprintf(stderr, "tool: unknown command\n");
    return 64;
}
