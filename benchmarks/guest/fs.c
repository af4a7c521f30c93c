/* Works on shared directories, as PID 1 of a guest. It loads the modules in /modules, in order, and then carries out
 * what comes in on the console, a line at a time: words with a tab between. Each line is answered with
 *
 *     = NANOSECONDS        it took that long
 *     ! WHAT: REASON       it failed
 *
 * What the words mean stands at each work below. Everything is bounded by its own arguments; the host bounds the rest. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define WORDS 64
#define SMALL 64

static const char *failed; /* at what; errno says why */

static int fail(const char *what)
{
    if (!failed)
        failed = what;
    return -1;
}

static long number(const char *word)
{
    return word ? strtol(word, NULL, 10) : 0;
}

/* mount TAG DIR */
static int do_mount(char **word)
{
    mkdir(word[1], 0755);
    return mount(word[0], word[1], "virtiofs", 0, NULL) ? fail("mount") : 0;
}

/* readahead DIR KIB: of the file system that a directory lies on */
static int do_readahead(char **word)
{
    char path[128];
    struct stat status;
    FILE *file;
    if (stat(word[0], &status))
        return fail("stat");
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", (unsigned)(status.st_dev >> 8 & 0xfff),
             (unsigned)(status.st_dev & 0xff));
    file = fopen(path, "w");
    if (!file)
        return fail("read_ahead_kb");
    fputs(word[1], file);
    return fclose(file) ? fail("read_ahead_kb") : 0;
}

/* drop DIR: forget everything that may be forgotten, and wait for an answer from the file system's server */
static int do_drop(char **word)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    struct stat status;
    if (fd < 0 || write(fd, "3", 1) != 1)
        return fail("drop_caches");
    close(fd);
    return stat(word[0], &status) ? fail("stat") : 0;
}

/* stat DIR N: each of the files f0, f1, ... once */
static int do_stat(char **word)
{
    char path[256];
    struct stat status;
    for (long i = 0, n = number(word[1]); i < n; i++) {
        snprintf(path, sizeof path, "%s/f%ld", word[0], i);
        if (stat(path, &status))
            return fail("stat");
    }
    return 0;
}

/* missing DIR N TIMES: N names that are not there, TIMES over */
static int do_missing(char **word)
{
    char path[256];
    struct stat status;
    for (long times = number(word[2]); times > 0; times--)
        for (long i = 0, n = number(word[1]); i < n; i++) {
            snprintf(path, sizeof path, "%s/missing%ld", word[0], i);
            if (stat(path, &status) == 0 || errno != ENOENT)
                return fail("a missing file");
        }
    return 0;
}

/* getattr PATH N: of one open file */
static int do_getattr(char **word)
{
    struct stat status;
    int fd = open(word[0], O_RDONLY);
    if (fd < 0)
        return fail("open");
    for (long n = number(word[1]); n > 0; n--)
        if (fstat(fd, &status))
            return fail("fstat");
    close(fd);
    return 0;
}

/* open DIR N TIMES: open, read and close each of the files f0, f1, ..., TIMES over */
static int do_open(char **word)
{
    char path[256], data[SMALL];
    for (long times = number(word[2]); times > 0; times--)
        for (long i = 0, n = number(word[1]); i < n; i++) {
            snprintf(path, sizeof path, "%s/f%ld", word[0], i);
            int fd = open(path, O_RDONLY);
            if (fd < 0 || read(fd, data, sizeof data) <= 0)
                return fail("open and read");
            close(fd);
        }
    return 0;
}

static long block_at(long block, long blocks, int random)
{
    return random ? (block * 7919 + 12345) % blocks : block; /* 7919 is prime: each block comes once */
}

/* read|write PATH BLOCK BLOCKS WAY: WAY has d for O_DIRECT, r for random order */
static int transfer(char **word, int writing)
{
    long size = number(word[1]), blocks = number(word[2]);
    int random = strchr(word[3], 'r') != NULL;
    int flags = (writing ? O_WRONLY | O_CREAT : O_RDONLY) | (strchr(word[3], 'd') ? O_DIRECT : 0);
    char *data;
    int fd = open(word[0], flags, 0644);
    if (fd < 0)
        return fail("open");
    if (posix_memalign((void **)&data, 4096, size))
        return fail("memory");
    memset(data, 'x', size);
    for (long block = 0; block < blocks; block++) {
        off_t offset = block_at(block, blocks, random) * size;
        if ((writing ? pwrite(fd, data, size, offset) : pread(fd, data, size, offset)) != size)
            return fail(writing ? "write" : "read");
    }
    free(data);
    return close(fd) ? fail("close") : 0;
}

static int do_read(char **word)
{
    return transfer(word, 0);
}

static int do_write(char **word)
{
    return transfer(word, 1);
}

/* create DIR N: make the files c0, c1, ... with some bytes, and remove them */
static int do_create(char **word)
{
    char path[256];
    for (long i = 0, n = number(word[1]); i < n; i++) {
        snprintf(path, sizeof path, "%s/c%ld", word[0], i);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0 || write(fd, path, 16) != 16 || close(fd))
            return fail("create");
    }
    for (long i = 0, n = number(word[1]); i < n; i++) {
        snprintf(path, sizeof path, "%s/c%ld", word[0], i);
        if (unlink(path))
            return fail("unlink");
    }
    return 0;
}

/* list DIR N TIMES: its N names, TIMES over; liststat: and the attributes of each */
static int list(char **word, int attributes)
{
    struct stat status;
    for (long times = number(word[2]); times > 0; times--) {
        long names = 0;
        DIR *directory = opendir(word[0]);
        if (!directory)
            return fail("opendir");
        for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
            if (entry->d_name[0] == '.')
                continue;
            names++;
            if (attributes && fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
                return fail("fstatat");
        }
        closedir(directory);
        errno = EIO;
        if (names != number(word[1]))
            return fail("names are missing");
    }
    return 0;
}

static int do_list(char **word)
{
    return list(word, 0);
}

static int do_liststat(char **word)
{
    return list(word, 1);
}

/* The first line of what the program had to say. */
static const char *complaint(void)
{
    static char text[200];
    int fd = open("/errors", O_RDONLY);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return text;
}

/* run ROOT DIR PROGRAM ARG...: execute it with another root and working directory, its output thrown away */
static int do_run(char **word)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR), errors = open("/errors", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (chroot(word[0]) || chdir(word[1]))
            _exit(125);
        dup2(null, 0);
        dup2(null, 1);
        dup2(errors, 2);
        execvp(word[2], word + 2);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return fail("fork");
    if (status == 0)
        return 0;
    fail(complaint());
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    return -1;
}

static const struct {
    const char *name;
    int (*carry_out)(char **word);
} WORKS[] = {
    {"mount", do_mount},     {"readahead", do_readahead}, {"drop", do_drop},   {"stat", do_stat},
    {"missing", do_missing}, {"getattr", do_getattr},     {"open", do_open},   {"read", do_read},
    {"write", do_write},     {"create", do_create},       {"list", do_list},   {"liststat", do_liststat},
    {"run", do_run},
};

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void carry_out(char *line)
{
    char *word[WORDS + 1] = {0};
    int count = 0;
    for (char *rest = line, *next; count < WORDS && (next = strsep(&rest, "\t")) != NULL;)
        word[count++] = next;
    failed = NULL;
    errno = ENOSYS;
    for (unsigned i = 0; i < sizeof WORKS / sizeof *WORKS; i++)
        if (!strcmp(word[0], WORKS[i].name)) {
            long long before = now();
            if (WORKS[i].carry_out(word + 1) == 0) {
                printf("= %lld\n", now() - before);
                return;
            }
        }
    printf("! %s: %s (%d)\n", failed ? failed : word[0], strerror(errno), errno);
}

static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char path[512];
        int fd;
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        fd = open(path, O_RDONLY);
        if (names[i]->d_name[0] != '.' && syscall(SYS_finit_module, fd, "", 0))
            printf("! %s: %s\n", names[i]->d_name, strerror(errno));
        close(fd);
    }
}

int main(void)
{
    static char line[8192];
    struct termios terminal;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (tcgetattr(0, &terminal) == 0) {
        cfmakeraw(&terminal);
        tcsetattr(0, TCSANOW, &terminal);
    }
    setenv("PATH", "/usr/local/bin:/usr/bin:/bin", 1);
    setenv("HOME", "/nonexistent", 1);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    load_modules();
    printf("= 0\n");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        carry_out(line);
    }
    return 1;
}
