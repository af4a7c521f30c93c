/*
 * The same few calls from the places where a program may be: argv[1] says which.
 *
 * plain, thread, fork, fork-thread, fork-twice, contexts, chroot DIR, signals, environment, locale, threads
 * With -DLOADED the library is loaded by dlopen(argv[2], RTLD_LOCAL), and argv[3] is what argv[2] would be.
 */

#include "loaded.h"

#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static int failures;

static void expect(const char *what, long got, long wanted)
{
    if (got != wanted) {
        printf("%s: %ld, not %ld\n", what, got, wanted);
        failures++;
    }
}

/* Fill in a context and see its errors. */
static void fill(uint32_t id)
{
    static const uint8_t content[] = "overlay";
    const char *const arguments[] = {"one", "two", NULL};
    expect("no cpu", krun_set_vm_config(id, 0, 256), -EINVAL);
    expect("config", krun_set_vm_config(id, 1, 256), 0);
    expect("exec", krun_set_exec(id, "/bin/true", arguments, NULL), 0);
    expect("workdir", krun_set_workdir(id, NULL), -EINVAL);
    expect("not utf-8", krun_set_workdir(id, "\xff\xfe"), -EINVAL);
    expect("file system", krun_add_virtiofs(id, "data", NULL), 0);
    expect("overlay", krun_fs_add_overlay_file(id, "data", "file", content, sizeof content, 0644, 0), 0);
    expect("overlay again", krun_fs_add_overlay_file(id, "data", "file", content, sizeof content, 0644, 0), -EEXIST);
    expect("overlay below a file", krun_fs_add_overlay_file(id, "data", "file/x", content, 1, 0644, 0), -ENOTDIR);
}

static void exercise(void)
{
    int32_t id = krun_create_ctx();
    expect("an id", id >= 0, 1);
    expect("no such context", krun_free_ctx(4000000000u), -ENOENT);
    fill((uint32_t)id);
    expect("free", krun_free_ctx((uint32_t)id), 0);
    expect("free again", krun_free_ctx((uint32_t)id), -ENOENT);
}

/* Contexts take a process each, so there are few of them, and many calls of one. */
static void *exercise_often(void *unused)
{
    exercise();
    for (int i = 0; i < 2000; i++) {
        expect("no such context", krun_set_vm_config(4000000000u, 1, 256), -ENOENT);
        expect("no such map", krun_set_port_map(4000000000u, NULL), -ENOENT);
    }
    return unused;
}

static void in_threads(int count)
{
    pthread_t threads[16];
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, exercise_often, NULL);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

/* Fork with `inside` in the child; its failures are ours. */
static void in_child(void (*inside)(void))
{
    int status = -1;
    pid_t pid;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        failures = 0;
        inside();
        fflush(stdout);
        _exit(failures != 0);
    }
    expect("the child", waitpid(pid, &status, 0) == pid ? status : -1, 0);
}

static void *fork_here(void *unused)
{
    in_child(exercise);
    return unused;
}

static void fork_again(void)
{
    exercise();
    in_child(exercise);
    in_threads(2);
}

static volatile int stop;

static void *call_until_stopped(void *unused)
{
    while (!stop)
        expect("no such context", krun_set_vm_config(4000000000u, 1, 256), -ENOENT);
    return unused;
}

static int32_t shared;

static void use_shared(void)
{
    expect("the parent's context", krun_free_ctx((uint32_t)shared), 0);
}

static void handler(int number)
{
    (void)number;
}

/* Signals are handled as before the library was loaded (main's are the default), and as the program says later. */
static void signals(void)
{
    struct sigaction now;
    for (int number = 1; number < 32; number++)
        if (sigaction(number, NULL, &now) == 0)
            expect("the default", now.sa_handler == SIG_DFL, 1);
    signal(SIGINT, handler);
    signal(SIGTERM, handler);
    exercise();
    expect("nothing to start", krun_start_enter(4000000000u), -ENOENT);
    sigaction(SIGINT, NULL, &now);
    expect("SIGINT stays", now.sa_handler == handler, 1);
    sigaction(SIGTERM, NULL, &now);
    expect("SIGTERM stays", now.sa_handler == handler, 1);
}

int main(int argc, char **argv)
{
    static const char *const ports[] = {"8080:80", NULL};
    const uint8_t *data;
    size_t size;
    const char *way;
    LOAD(argc, argv);
    way = argc > 1 ? argv[1] : "plain";
    if (!strcmp(way, "plain")) {
        exercise();
    } else if (!strcmp(way, "thread")) {
        in_threads(1);
    } else if (!strcmp(way, "threads")) {
        in_threads(8);
    } else if (!strcmp(way, "fork")) {
        exercise();
        in_child(exercise);
        exercise();
    } else if (!strcmp(way, "fork-first")) {
        in_child(exercise);
    } else if (!strcmp(way, "fork-twice")) {
        in_child(fork_again);
    } else if (!strcmp(way, "fork-thread")) {
        pthread_t thread;
        pthread_create(&thread, NULL, fork_here, NULL);
        pthread_join(thread, NULL);
        exercise();
    } else if (!strcmp(way, "fork-busy")) {
        pthread_t thread;
        pthread_create(&thread, NULL, call_until_stopped, NULL);
        for (int i = 0; i < 5; i++)
            in_child(exercise);
        stop = 1;
        pthread_join(thread, NULL);
    } else if (!strcmp(way, "contexts")) {
        shared = krun_create_ctx();
        fill((uint32_t)shared);
        in_child(use_shared);
        expect("still there", krun_free_ctx((uint32_t)shared), 0);
    } else if (!strcmp(way, "chroot")) {
        shared = krun_create_ctx();
        expect("chroot", chdir(argv[2]) || chroot("."), 0);
        expect("log", krun_set_log_level(5), 0);
        expect("port map", krun_set_port_map((uint32_t)shared, ports), 0);
        fill((uint32_t)shared);
        expect("no root", krun_start_enter((uint32_t)shared), -EINVAL);
        expect("no engine", krun_get_max_vcpus(), -EINVAL);
        expect("no init", krun_get_default_init(&data, &size), -ENOTSUP);
        expect("no supervisor", krun_create_ctx() < 0, 1);
    } else if (!strcmp(way, "signals")) {
        signals();
    } else if (!strcmp(way, "environment")) {
        clearenv();
        setenv("RUST_LOG", "off", 1);
        expect("log", krun_set_log_level(1), 0);
        exercise();
        expect("one variable", getenv("RUST_LOG") != NULL, 1);
    } else if (!strcmp(way, "locale")) {
        exercise();
        expect("the locale", strcmp(setlocale(LC_ALL, NULL), "C"), 0);
    } else {
        printf("no such way: %s\n", way);
        return 2;
    }
    if (failures == 0)
        printf("fine\n");
    return failures != 0;
}
