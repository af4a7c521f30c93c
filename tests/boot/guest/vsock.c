/* vsock: streams to the host and from it. */
#define _GNU_SOURCE
#include "tool.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct address { /* struct sockaddr_vm of <linux/vm_sockets.h> */
    uint16_t family, reserved;
    uint32_t port, cid;
    unsigned char flags, zero[3];
};

#define HOST 2
#define ANY 0xffffffffu

static unsigned char room[1 << 16];

static int reach(uint32_t cid, uint32_t port)
{
    struct address to = {.family = AF_VSOCK, .port = port, .cid = cid};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        int number = errno;
        if (fd >= 0)
            close(fd);
        return -number;
    }
    return fd;
}

/* Copy both ways until the other side has sent everything; our end is passed on as a half close. */
static int join(int in, int out, int fd)
{
    struct pollfd waits[] = {{.fd = in, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    for (;;) {
        if (poll(waits, 2, 60000) <= 0)
            return 71;
        for (int from = 0; from < 2; from++) {
            if (!waits[from].revents)
                continue;
            ssize_t size = read(waits[from].fd, room, sizeof room);
            if (size < 0) {
                printf("read: %s\n", strerror(errno));
                return 72;
            }
            if (size == 0 && from == 1)
                return 0;
            if (size == 0) {
                shutdown(fd, SHUT_WR);
                waits[0].fd = -1;
            } else if (write_all(from ? out : fd, room, (size_t)size) < 0) {
                return 73;
            }
        }
    }
}

/* vsock-cat PORT [CID]: standard input there, what comes from there on standard output */
static int cat(int argc, char **argv)
{
    int fd = reach(argc > 2 ? (uint32_t)number(argv[2]) : HOST, (uint32_t)number(argv[1]));
    if (fd < 0) {
        printf("%s\n", strerror(-fd));
        return 3;
    }
    return join(0, 1, fd);
}

/* vsock-echo PORT CONNECTIONS: says "listening", returns to each what it sends, all at a time */
static int echo(int argc, char **argv)
{
    struct address here = {.family = AF_VSOCK, .port = (uint32_t)number(argv[1]), .cid = ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0), bad = 0;
    if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0 || listen(fd, 64) < 0)
        return 70;
    printf("listening\n");
    fflush(stdout);
    long left = argc > 2 ? number(argv[2]) : 1;
    for (long i = 0; i < left; i++) {
        int one = accept(fd, NULL, NULL);
        if (one < 0)
            return 74;
        if (fork() == 0) {
            ssize_t size;
            while ((size = read(one, room, sizeof room)) > 0)
                if (write_all(one, room, (size_t)size) < 0)
                    _exit(75);
            _exit(size < 0);
        }
        close(one);
    }
    int status;
    while (wait(&status) > 0)
        bad |= status;
    return bad != 0;
}

/* vsock-many PORT COUNT: how many connections there can be at a time, and why not one more */
static int many(int argc, char **argv)
{
    (void)argc;
    long count = 0, most = number(argv[2]);
    int fd = 0;
    while (count < most && (fd = reach(HOST, (uint32_t)number(argv[1]))) >= 0)
        count++;
    printf("%ld %s\n", count, fd < 0 ? strerror(-fd) : "all");
    return 0;
}

/* vsock-rate PORT MIB in|out: how many milliseconds so much takes */
static int rate(int argc, char **argv)
{
    (void)argc;
    int fd = reach(HOST, (uint32_t)number(argv[1]));
    long left = number(argv[2]) << 20;
    struct timespec before, after;
    if (fd < 0)
        return 3;
    clock_gettime(CLOCK_MONOTONIC, &before);
    while (left > 0) {
        ssize_t size = strcmp(argv[3], "in") ? write(fd, room, sizeof room) : read(fd, room, sizeof room);
        if (size <= 0)
            return 4;
        left -= size;
    }
    shutdown(fd, SHUT_WR);
    if (strcmp(argv[3], "in"))
        (void)!read(fd, room, 1); /* until the other side has it all */
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("%ld\n", (long)((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000));
    return 0;
}

const struct command vsock_commands[] = {
    {"vsock-cat", cat}, {"vsock-echo", echo}, {"vsock-many", many}, {"vsock-rate", rate}, {NULL, NULL},
};
