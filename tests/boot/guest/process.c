/* Signals, terminals, races, and every way to end. */
#define _GNU_SOURCE
#include "tool.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* exit CODE */
static int leave(int argc, char **argv)
{
    (void)argc;
    return (int)number(argv[1]);
}

/* signal NUMBER: die by it */
static int die(int argc, char **argv)
{
    (void)argc;
    int number_ = (int)number(argv[1]);
    signal(number_, SIG_DFL);
    kill(getpid(), number_);
    return 70;
}

/* sleep SECONDS [TEXT]: say the text first */
static int nap(int argc, char **argv)
{
    if (argc > 2)
        dprintf(1, "%s\n", argv[2]);
    sleep((unsigned)number(argv[1]));
    return 0;
}

static volatile sig_atomic_t arrived[65];

static void note(int signal_)
{
    arrived[signal_]++;
}

static void catch_signals(const int *numbers)
{
    struct sigaction action = {.sa_handler = note};
    for (; *numbers != 0; numbers++)
        sigaction(*numbers, &action, NULL);
}

/* trap COUNT [CODE]: say `ready`, then each signal that arrives; end with CODE after COUNT of them, 0: never */
static int trap(int argc, char **argv)
{
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, 0};
    long left = number(argv[1]);
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    catch_signals(caught);
    dprintf(1, "ready\n");
    for (;;) {
        sigsuspend(&before);
        for (int i = 1; i < 65; i++)
            while (arrived[i] > 0) {
                arrived[i]--;
                dprintf(1, "signal %d\n", i);
                if (--left == 0)
                    return argc > 2 ? (int)number(argv[2]) : 0;
            }
    }
}

static void say_window(const char *what)
{
    struct winsize window = {0};
    int failed = ioctl(0, TIOCGWINSZ, &window);
    dprintf(1, "%s %d %d %d\n", what, failed, window.ws_row, window.ws_col);
}

/* tty: what the terminal is; then report resizes, SIGINT and lines until the line `quit` */
static int tty(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    static const int caught[] = {SIGINT, SIGWINCH, 0};
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    catch_signals(caught);
    dprintf(1, "isatty %d %d %d\n", isatty(0), isatty(1), isatty(2));
    dprintf(1, "leader %d foreground %d\n", getsid(0) == tcgetsid(0), tcgetpgrp(0) == getpgrp());
    say_window("window");
    dprintf(1, "ready\n");
    for (;;) {
        char line[256];
        struct pollfd input = {.fd = 0, .events = POLLIN};
        ssize_t got = ppoll(&input, 1, NULL, &before) < 0 ? -1 : read(0, line, sizeof line - 1);
        if (arrived[SIGINT] > 0) {
            arrived[SIGINT] = 0;
            dprintf(1, "interrupt\n");
        }
        if (arrived[SIGWINCH] > 0) {
            arrived[SIGWINCH] = 0;
            say_window("resize");
        }
        if (got == 0)
            return 3;
        if (got < 0 && errno != EINTR)
            return 4;
        if (got > 0) {
            line[got] = '\0';
            line[strcspn(line, "\n")] = '\0';
            if (strcmp(line, "quit") == 0)
                return 5;
            dprintf(1, "line %s\n", line);
        }
    }
}

static long read_once(const char *path)
{
    char data[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    long got = read(fd, data, sizeof data);
    if (got < 0)
        got = -errno;
    close(fd);
    return got;
}

/* race ROUNDS: two processes open /race/0000, /race/0001, ... at the same moment; a line per round, both results */
static int race(int argc, char **argv)
{
    (void)argc;
    int rounds = (int)number(argv[1]);
    struct shared {
        atomic_int at[2];
        long result[2][4096];
    } *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    int me = child == 0;
    for (int round = 0; round < rounds && round < 4096; round++) {
        char path[32];
        snprintf(path, sizeof path, "/race/%04d", round);
        atomic_store(&shared->at[me], round + 1);
        while (atomic_load(&shared->at[!me]) <= round)
            sched_yield();
        shared->result[me][round] = read_once(path);
    }
    if (me)
        _exit(0);
    waitpid(child, NULL, 0);
    for (int round = 0; round < rounds; round++)
        printf("%ld %ld\n", shared->result[0][round], shared->result[1][round]);
    return 0;
}

/* orphan SECONDS: leave a process behind that holds the streams open, and end at once */
static int orphan(int argc, char **argv)
{
    (void)argc;
    if (fork() == 0) {
        setsid();
        sleep((unsigned)number(argv[1]));
        _exit(0);
    }
    dprintf(1, "parent\n");
    return 9;
}

/* The processes of the machine that have memory, or ended and were not reaped; kernel threads are neither. */
static void count_processes(int *all, int *zombies)
{
    DIR *folder = opendir("/proc");
    struct dirent *entry;
    *all = *zombies = 0;
    while ((entry = readdir(folder)) != NULL) {
        char path[64], line[256], *rest;
        unsigned flags;
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%.20s/stat", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
        if (fd >= 0)
            close(fd);
        if (got <= 0)
            continue; /* reaped meanwhile */
        line[got] = '\0';
        if ((rest = strrchr(line, ')')) == NULL || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
            continue;
        *all += !(flags & 0x200000); /* PF_KTHREAD */
        *zombies += rest[2] == 'Z';
    }
    closedir(folder);
}

/* swarm COUNT EVERY: so many processes lose their parent and end, one after the other. Says the most processes and
 * zombies that a look at every EVERYth saw, and how many were left shortly after. */
static int swarm(int argc, char **argv)
{
    (void)argc;
    int all, zombies, most_all = 0, most_zombies = 0;
    long every = number(argv[2]);
    for (long i = number(argv[1]); i > 0; i--) {
        pid_t middle = fork();
        if (middle == 0) {
            fork();
            _exit(1);
        }
        if (middle < 0)
            return 74;
        waitpid(middle, NULL, 0);
        if (i % every == 0) {
            count_processes(&all, &zombies);
            most_all = all > most_all ? all : most_all;
            most_zombies = zombies > most_zombies ? zombies : most_zombies;
        }
    }
    usleep(200000);
    count_processes(&all, &zombies);
    printf("%d %d %d %d\n", most_all, most_zombies, all, zombies);
    return 17;
}

/* One of the processes that `daemons` leaves: it never ends by itself, and every way of asking it to is ignored. */
static void haunt(int kind)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (int i = 1; i < 65; i++)
        signal(i, SIG_IGN);
    if (kind == 1)
        raise(SIGSTOP);
    for (;;) {
        if (kind == 2 && fork() != 0) /* never the same pid for long */
            _exit(0);
        if (kind == 3)
            write_all(1, "haunted\n", 8);
        usleep(kind < 2 ? 1000000 : 20000);
    }
}

/* haunt: say `ready` and be a workload like that */
static int haunt_openly(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    dprintf(1, "ready\n");
    haunt(0);
    return 77;
}

/* daemons COUNT: leave so many processes behind, each in a session of its own, with the streams open, and end */
static int daemons(int argc, char **argv)
{
    (void)argc;
    for (long i = number(argv[1]); i > 0; i--) {
        pid_t middle = fork();
        if (middle == 0) {
            setsid();
            if (fork() == 0)
                haunt((int)i % 4);
            _exit(0);
        }
        waitpid(middle, NULL, 0);
    }
    dprintf(1, "parent\n");
    return 9;
}

/* clock [SECONDS...]: say the time of day in ns; then set it to each and say it as soon as it is another, or after 20 s */
static int say_clock(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("%lld\n", now.tv_sec * 1000000000ll + now.tv_nsec);
    for (int i = 1; i < argc; i++) {
        struct timespec wrong = {.tv_sec = number(argv[i])};
        if (clock_settime(CLOCK_REALTIME, &wrong) < 0)
            return 75;
        for (int turn = 0; turn < 2000; turn++) {
            usleep(10000);
            clock_gettime(CLOCK_REALTIME, &now);
            if (now.tv_sec < wrong.tv_sec || now.tv_sec > wrong.tv_sec + 30)
                break;
        }
        printf("%lld\n", now.tv_sec * 1000000000ll + now.tv_nsec);
        fflush(stdout);
    }
    return 0;
}

/* children: how many wait(2) knows of that we never made */
static int children(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    usleep(300000);
    if (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD)
        return 76;
    return 0;
}

/* massacre: SIGKILL for everything that can be killed, then go on */
static int massacre(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    kill(-1, SIGKILL);
    return 43;
}

/* panic: make the kernel panic */
static int panic(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    int fd = open("/proc/sysrq-trigger", O_WRONLY);
    if (fd < 0 || write_all(fd, "c", 1) < 0)
        return 71;
    sleep(30);
    return 72;
}

/* reboot-by-sysrq: the machine goes down without a word from init */
static int vanish(int argc, char **argv)
{
    (void)argc;
    int fd = open("/proc/sysrq-trigger", O_WRONLY);
    if (fd < 0 || write_all(fd, argv[1], 1) < 0)
        return 71;
    sleep(30);
    return 72;
}

/* entropy: how long 32 bytes of getrandom took, in ms, and the bytes */
static int entropy(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    unsigned char bytes[32];
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    if (getentropy(bytes, sizeof bytes) < 0)
        return 73;
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("%lld ", (long long)(after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000);
    say_hex(bytes, sizeof bytes);
    printf(" %lld\n", (long long)time(NULL));
    return 0;
}

const struct command process_commands[] = {
    {"exit", leave},     {"signal", die},     {"sleep", nap},   {"trap", trap},     {"tty", tty},
    {"race", race},      {"orphan", orphan},  {"massacre", massacre}, {"panic", panic},
    {"swarm", swarm},    {"daemons", daemons}, {"haunt", haunt_openly}, {"clock", say_clock}, {"children", children},
    {"vanish", vanish},  {"entropy", entropy},
    {NULL, NULL},
};
