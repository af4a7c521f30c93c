/*
 * A shell script in a VM, started from wherever a program may be:
 *
 *   vm plain|thread|fork|chroot|signals|own-handler ROOT SCRIPT
 *   vm kernel ROOT SCRIPT IMAGE COMMAND_LINE
 *   vm memory SHELL SCRIPT          no directory at all: the shell is a file of this process' memory
 *
 * The script has this program's environment.
 */

#include "loaded.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static uint32_t ctx;

static int32_t check(const char *what, int32_t result)
{
    if (result < 0) {
        fprintf(stderr, "vm: %s: %s\n", what, strerror(-result));
        _exit(99);
    }
    return result;
}

static void *start(void *unused)
{
    check("start", krun_start_enter(ctx));
    return unused;
}

static void handler(int number)
{
    (void)number;
    if (write(1, "handled\n", 8) != 8)
        _exit(98);
}

/* A root of which nothing is on a disk. */
static void compose(const char *shell)
{
    static const char *const folders[] = {"dev", "proc", "sys", "bin"};
    struct stat about;
    const uint8_t *init, *content;
    size_t size;
    int file = open(shell, O_RDONLY | O_CLOEXEC);
    check("shell", file < 0 || fstat(file, &about) < 0 ? -errno : 0);
    content = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    check("no implicit init", krun_disable_implicit_init(ctx));
    check("file system", krun_add_virtiofs(ctx, KRUN_FS_ROOT_TAG, NULL));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        check(folders[i], krun_fs_add_overlay_dir(ctx, KRUN_FS_ROOT_TAG, folders[i], 040755));
    check("init", krun_get_default_init(&init, &size));
    check("init", krun_fs_add_overlay_file(ctx, KRUN_FS_ROOT_TAG, "init.krun", init, size, 0100755, 1));
    check("busybox", krun_fs_add_overlay_file(ctx, KRUN_FS_ROOT_TAG, "bin/sh", content, (size_t)about.st_size, 0100755, 0));
}

int main(int argc, char **argv)
{
    const char *way, *root;
    LOAD(argc, argv);
    if (argc < 4)
        return 97;
    way = argv[1];
    root = argv[2];
    const char *const words[] = {"-c", argv[3], "sh", NULL};

    check("log", krun_init_log(2, 2, 2, 1));
    ctx = (uint32_t)check("context", krun_create_ctx());
    check("configuration", krun_set_vm_config(ctx, 1, 192));
    check("no network", krun_disable_implicit_vsock(ctx));
    if (!strcmp(way, "chroot")) {
        check("chroot", chdir(root) || chroot(".") ? -errno : 0);
        root = "/";
        check("no console", krun_disable_implicit_console(ctx));
        check("console", krun_add_virtio_console_default(ctx, -1, 1, 2));
    }
    if (!strcmp(way, "memory"))
        compose(root);
    else
        check("root", krun_set_root(ctx, root));
    if (!strcmp(way, "kernel"))
        check("kernel", krun_set_kernel(ctx, argv[4], 1, NULL, argv[5]));
    check("program", krun_set_exec(ctx, "/bin/sh", words, NULL));
    if (!strcmp(way, "own-handler"))
        signal(SIGTERM, handler);

    if (!strcmp(way, "thread")) {
        pthread_t thread;
        pthread_create(&thread, NULL, start, NULL);
        pthread_join(thread, NULL);
    } else if (!strcmp(way, "fork")) {
        int status = -1;
        pid_t pid = fork();
        if (pid == 0)
            start(NULL);
        waitpid(pid, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 96;
    } else {
        start(NULL);
    }
    return 95;
}
