/* Init of a benchmark's guest: reads and writes the block device that BLOCK_DEVICE names, one request at a time past the
 * guest's page cache, or many through it and then an fsync. Prints "begin NAME" and "end NAME MICROSECONDS" for each kind
 * of work. Loads /virtio_blk.ko if it is there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 4096, LARGE = 1 << 20, SPAN = 128 << 20 };

static char room[LARGE] __attribute__((aligned(4096)));
static int device, cached;

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

/* COUNT requests of SIZE bytes, in order or all over the device; returns 0 when all went well */
static int work(const char *name, int fd, int writing, size_t size, int count, int scattered)
{
    uint64_t seed = 88172645463325252ull;
    printf("begin %s\n", name);
    double start = now();
    for (int i = 0; i < count; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17; /* xorshift64 */
        off_t at = (off_t)(scattered ? seed % (SPAN / size) : (uint64_t)i % (SPAN / size)) * (off_t)size;
        ssize_t done = writing ? pwrite(fd, room, size, at) : pread(fd, room, size, at);
        if (done != (ssize_t)size) {
            perror(name);
            return 1;
        }
    }
    if (fd == cached && fsync(fd) != 0)
        return 1;
    printf("end %s %.3f\n", name, (now() - start) / count);
    return 0;
}

int main(void)
{
    char path[64];
    const char *name = getenv("BLOCK_DEVICE");
    setvbuf(stdout, NULL, _IONBF, 0);
    mkdir("/dev", 0755);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    int module = open("/virtio_blk.ko", O_RDONLY);
    if (module >= 0)
        syscall(SYS_finit_module, module, "", 0);
    snprintf(path, sizeof path, "/dev/%s", name ? name : "vda");
    device = open(path, O_RDWR | O_DIRECT);
    cached = open(path, O_RDWR);
    if (device < 0 || cached < 0)
        perror(path);
    else if (work("warm", device, 0, LARGE, 128, 0) == 0 && work("read4k", device, 0, SMALL, 2000, 1) == 0 &&
             work("write4k", device, 1, SMALL, 2000, 1) == 0 && work("sync4k", cached, 1, SMALL, 4000, 1) == 0 &&
             work("read1m", device, 0, LARGE, 256, 0) == 0 && work("write1m", device, 1, LARGE, 256, 0) == 0)
        puts("done");
    sync();
    reboot(RB_POWER_OFF);
    return 1;
}
