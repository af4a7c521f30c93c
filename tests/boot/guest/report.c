/* What arrived in the guest: arguments, environment, and a script of file operations with their exact results. */
#define _GNU_SOURCE
#include "tool.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

char scratch[ROOM];

static int list(char **strings)
{
    for (; *strings != NULL; strings++) {
        say_hex(*strings, strlen(*strings));
        putchar('\n');
    }
    return 0;
}

static int say_argv(int argc, char **argv)
{
    (void)argc;
    return list(argv + 1);
}

static int say_env(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return list(environ);
}

static long result(long value)
{
    return value < 0 ? -errno : value;
}

static int open_flags(const char *words)
{
    static const struct {
        const char *name;
        int flags;
    } table[] = {
        {"r", O_RDONLY},          {"w", O_WRONLY},           {"rw", O_RDWR},
        {"trunc", O_RDONLY | O_TRUNC}, {"wtrunc", O_WRONLY | O_TRUNC}, {"append", O_WRONLY | O_APPEND},
        {"create", O_WRONLY | O_CREAT}, {"excl", O_WRONLY | O_CREAT | O_EXCL},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, words) == 0)
            return table[i].flags;
    return (int)number(words);
}

static long op_open(char **args, size_t *size)
{
    (void)size;
    int fd = open(args[0], open_flags(args[1]) | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static long op_read(char **args, size_t *size)
{
    int fd = open(args[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (;;) {
        ssize_t got = read(fd, scratch + *size, ROOM - *size);
        if (got <= 0) {
            long failed = result(got);
            close(fd);
            return failed < 0 ? failed : (long)*size;
        }
        *size += (size_t)got;
    }
}

static long op_pread(char **args, size_t *size)
{
    int fd = open(args[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    long got = result(pread(fd, scratch, (size_t)number(args[2]), number(args[1])));
    close(fd);
    *size = got > 0 ? (size_t)got : 0;
    return got;
}

static long op_write(char **args, size_t *size)
{
    (void)size;
    int fd = open(args[0], O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    long failed = result(write(fd, args[1], strlen(args[1])));
    close(fd);
    return failed;
}

static long op_stat(char **args, size_t *size)
{
    struct stat st;
    if (stat(args[0], &st) < 0)
        return -errno;
    *size = (size_t)snprintf(scratch, ROOM, "%o %u %u %lld %lu %lu", st.st_mode, st.st_uid, st.st_gid,
                             (long long)st.st_size, (unsigned long)st.st_nlink, (unsigned long)st.st_blksize);
    return 0;
}

static long op_ls(char **args, size_t *size)
{
    DIR *dir = opendir(args[0]);
    if (dir == NULL)
        return -errno;
    struct dirent *entry;
    long count = 0;
    while ((entry = readdir(dir)) != NULL) {
        size_t length = strlen(entry->d_name) + 1;
        if (*size + length > ROOM)
            break;
        memcpy(scratch + *size, entry->d_name, length);
        *size += length;
        count++;
    }
    closedir(dir);
    return count;
}

static long op_readlink(char **args, size_t *size)
{
    long got = result(readlink(args[0], scratch, ROOM));
    *size = got > 0 ? (size_t)got : 0;
    return got;
}

static long op_mkdir(char **args, size_t *size)
{
    (void)size;
    return result(mkdir(args[0], 0755));
}

static long op_unlink(char **args, size_t *size)
{
    (void)size;
    return result(unlink(args[0]));
}

static long op_chmod(char **args, size_t *size)
{
    (void)size;
    return result(chmod(args[0], (mode_t)number(args[1])));
}

static long op_mount(char **args, size_t *size)
{
    (void)size;
    return result(mount(args[0], args[1], args[2], 0, args[3]));
}

static long op_umount(char **args, size_t *size)
{
    (void)size;
    return result(umount2(args[0], MNT_DETACH));
}

static long op_insmod(char **args, size_t *size)
{
    (void)size;
    int fd = open(args[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    long failed = result(syscall(SYS_finit_module, fd, "", 0));
    close(fd);
    return failed;
}

static long op_kill(char **args, size_t *size)
{
    (void)size;
    fflush(stdout);
    return result(kill((pid_t)number(args[0]), (int)number(args[1])));
}

static long op_getpid(char **args, size_t *size)
{
    (void)args;
    (void)size;
    return getpid();
}

static long op_connect(char **args, size_t *size)
{
    (void)size;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(args[1]))};
    inet_pton(AF_INET, args[0], &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    long failed = result(connect(fd, (struct sockaddr *)&address, sizeof address));
    if (failed == -EINPROGRESS) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        int error = ETIMEDOUT;
        socklen_t length = sizeof error;
        if (poll(&wait, 1, 1000) > 0)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
        failed = -error;
    }
    close(fd);
    return failed;
}

/* connect to a Unix socket of that path; abstract when it begins with @ */
static long op_unix(char **args, size_t *size)
{
    (void)size;
    struct {
        sa_family_t family;
        char path[108];
    } address = {.family = AF_UNIX};
    size_t length = strlen(args[0]);
    if (length > sizeof address.path)
        return -ENAMETOOLONG;
    memcpy(address.path, args[0], length);
    if (address.path[0] == '@')
        address.path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    long failed = result(connect(fd, (void *)&address, (socklen_t)(sizeof address.family + length)));
    close(fd);
    return failed;
}

static const struct operation file_operations[] = {
    {"open", 2, op_open},       {"read", 1, op_read},     {"pread", 3, op_pread},   {"write", 2, op_write},
    {"stat", 1, op_stat},       {"ls", 1, op_ls},         {"readlink", 1, op_readlink}, {"mkdir", 1, op_mkdir},
    {"unlink", 1, op_unlink},   {"chmod", 2, op_chmod},   {"mount", 4, op_mount},   {"umount", 1, op_umount},
    {"insmod", 1, op_insmod},   {"kill", 2, op_kill},     {"getpid", 0, op_getpid}, {"connect", 2, op_connect},
    {"unix", 1, op_unix},       {NULL, 0, NULL},
};

static const struct operation *find_operation(const char *name)
{
    static const struct operation *const tables[] = {file_operations, disk_operations};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const struct operation *row = tables[i]; row->name != NULL; row++)
            if (strcmp(row->name, name) == 0)
                return row;
    return NULL;
}

/* ops NAME ARG... [NAME ARG...]...: a line per operation, its result and, in hexadecimal, the data it found */
static int run_operations(int argc, char **argv)
{
    for (int at = 1; at < argc;) {
        const struct operation *operation = find_operation(argv[at]);
        if (operation == NULL || at + operation->args >= argc) {
            fprintf(stderr, "tool: bad operation: %s\n", argv[at]);
            return 64;
        }
        size_t size = 0;
        long value = operation->run(argv + at + 1, &size);
        printf("%ld ", value);
        say_hex(scratch, size);
        putchar('\n');
        at += 1 + operation->args;
    }
    return 0;
}

const struct command report_commands[] = {
    {"argv", say_argv},
    {"env", say_env},
    {"ops", run_operations},
    {NULL, NULL},
};
