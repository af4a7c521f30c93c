/* What goes in and out: copies, counters that show every lost or doubled byte, pipes that break. */
#define _GNU_SOURCE
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned char room[1 << 16];

/* cat: standard input to standard output until its end */
static int cat(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    for (;;) {
        ssize_t got = read(0, room, sizeof room);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? 65 : 0;
        if (write_all(1, room, (size_t)got) < 0)
            return 66;
    }
}

/* count: read standard input to its end; say how much came, or the error */
static int count(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    long long total = 0;
    for (;;) {
        ssize_t got = read(0, room, sizeof room);
        if (got <= 0) {
            printf("%lld %d\n", total, got < 0 ? errno : 0);
            return 0;
        }
        total += got;
    }
}

/* gen BYTES [FD]: that many bytes of 64-bit little-endian counters, in chunks of odd sizes */
static int gen(int argc, char **argv)
{
    long left = number(argv[1]);
    int fd = argc > 2 ? (int)number(argv[2]) : 1;
    uint64_t next = 0;
    while (left > 0) {
        uint64_t block[4096];
        for (size_t i = 0; i < sizeof block / sizeof *block; i++)
            block[i] = next++;
        size_t size = left < (long)sizeof block ? (size_t)left : sizeof block;
        size_t first = size > 1021 ? 1021 : size;
        if (write_all(fd, block, first) < 0 || write_all(fd, (char *)block + first, size - first) < 0)
            return 66;
        left -= (long)size;
    }
    return 0;
}

/* yes: for ever; the default action of SIGPIPE is what ends it */
static int yes(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    memset(room, 'y', sizeof room);
    for (;;)
        if (write_all(1, room, 4096) < 0)
            return 66;
}

/* epipe: for ever, SIGPIPE ignored; exit code 42 when write fails with EPIPE */
static int epipe(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int failed = write_all(1, room, 4096);
        if (failed < 0) {
            dprintf(2, "write: %d\n", -failed);
            return failed == -EPIPE ? 42 : 66;
        }
    }
    (void)argc;
    (void)argv;
}

/* interleave LINES: a line to each stream in turn, numbered through */
static int interleave(int argc, char **argv)
{
    (void)argc;
    long lines = number(argv[1]);
    for (long i = 0; i < lines; i++)
        dprintf(1 + (int)(i & 1), "%ld\n", i);
    return 0;
}

/* reopen TEXT: through the names /dev/stdout and /dev/stderr, and read a line from /dev/stdin */
static int reopen(int argc, char **argv)
{
    (void)argc;
    const char *names[] = {"/dev/stdout", "/dev/stderr"};
    for (int i = 0; i < 2; i++) {
        int fd = open(names[i], O_WRONLY);
        if (fd < 0) {
            dprintf(2, "%s: %d\n", names[i], errno);
            return 67;
        }
        if (write_all(fd, argv[1], strlen(argv[1])) < 0 || write_all(fd, "\n", 1) < 0)
            return 66;
        close(fd);
    }
    int fd = open("/dev/stdin", O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, room, sizeof room);
    if (got < 0) {
        dprintf(2, "/dev/stdin: %d\n", errno);
        return 68;
    }
    return write_all(1, room, (size_t)got) < 0 ? 66 : 0;
}

/* fds: every open descriptor of this program and the type of file it is */
static int fds(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    for (int fd = 0; fd < 4096; fd++) {
        struct stat st;
        if (fstat(fd, &st) == 0)
            printf("%d %o\n", fd, st.st_mode & S_IFMT);
    }
    return 0;
}

/* echo TEXT FD: the text, exactly */
static int echo(int argc, char **argv)
{
    return write_all(argc > 2 ? (int)number(argv[2]) : 1, argv[1], strlen(argv[1])) < 0 ? 66 : 0;
}

const struct command stream_commands[] = {
    {"cat", cat},       {"count", count},           {"gen", gen},       {"yes", yes}, {"epipe", epipe},
    {"reopen", reopen}, {"interleave", interleave}, {"fds", fds},       {"echo", echo},
    {NULL, NULL},
};
