/* Operations on block devices, for scripts (see report.c), and a command that waits to be killed after an fsync. */
#define _GNU_SOURCE
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#ifndef BLKDISCARD /* linux/fs.h, which musl does not bring */
#define BLKDISCARD _IO(0x12, 119)
#define BLKZEROOUT _IO(0x12, 127)
#endif

static long result(long value)
{
    return value < 0 ? -errno : value;
}

/* devinfo DEVICE: whether it is read-only; its size in bytes, sector size and largest discard as text */
static long op_devinfo(char **args, size_t *size)
{
    uint64_t bytes = 0;
    int read_only = 0, sector = 0;
    int fd = open(args[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ioctl(fd, BLKGETSIZE64, &bytes) < 0 || ioctl(fd, BLKROGET, &read_only) < 0 || ioctl(fd, BLKSSZGET, &sector) < 0)
        read_only = -errno;
    close(fd);
    *size = (size_t)snprintf(scratch, ROOM, "%llu %d", (unsigned long long)bytes, sector);
    return read_only;
}

/* pour DEVICE OFFSET COUNT BYTE: write COUNT times BYTE, then fsync */
static long op_pour(char **args, size_t *size)
{
    (void)size;
    long count = number(args[2]);
    int fd = open(args[0], O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    memset(scratch, (int)number(args[3]), ROOM);
    off_t at = number(args[1]);
    long failed = 0;
    while (count > 0 && failed == 0) {
        ssize_t done = pwrite(fd, scratch, (size_t)(count < ROOM ? count : ROOM), at);
        if (done <= 0) {
            failed = result(done);
        } else {
            at += done;
            count -= done;
        }
    }
    if (failed == 0)
        failed = result(fsync(fd));
    close(fd);
    return failed;
}

/* flush DEVICE COUNT: COUNT times a sector of its own and fdatasync */
static long op_flush(char **args, size_t *size)
{
    (void)size;
    int fd = open(args[0], O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    long failed = 0;
    for (long at = 0; at < number(args[1]) && failed == 0; at++)
        failed = pwrite(fd, "flushed", 7, at * 512) < 0 || fdatasync(fd) < 0 ? -errno : 0;
    close(fd);
    return failed;
}

static long range(const char *device, unsigned long request, long offset, long count)
{
    uint64_t wanted[2] = {(uint64_t)offset, (uint64_t)count};
    int fd = open(device, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    long failed = result(ioctl(fd, request, wanted));
    close(fd);
    return failed;
}

/* discard DEVICE OFFSET COUNT */
static long op_discard(char **args, size_t *size)
{
    (void)size;
    return range(args[0], BLKDISCARD, number(args[1]), number(args[2]));
}

/* zero DEVICE OFFSET COUNT */
static long op_zero(char **args, size_t *size)
{
    (void)size;
    return range(args[0], BLKZEROOUT, number(args[1]), number(args[2]));
}

const struct operation disk_operations[] = {
    {"devinfo", 1, op_devinfo}, {"pour", 4, op_pour}, {"flush", 2, op_flush},
    {"discard", 3, op_discard}, {"zero", 3, op_zero}, {NULL, 0, NULL},
};

/* synced DEVICE COUNT BYTE: as pour, then say so and wait for ever */
static int synced(int argc, char **argv)
{
    size_t size = 0;
    char *args[] = {argv[1], "0", argv[2], argv[3]};
    if (argc != 4 || op_pour(args, &size) != 0)
        return 1;
    puts("synced");
    fflush(stdout);
    for (;;)
        pause();
}

const struct command disk_commands[] = {
    {"synced", synced},
    {NULL, NULL},
};
