/*
 * One guest, several channels: a console for its kernel, and a second device with ports that have names. What the
 * guest writes to the port "answers" goes to standard output, and "questions" is where standard input arrives. The
 * guest finds ports by the names in /sys/class/virtio-ports/<port>/name.
 *
 *   two_consoles ROOT COMMAND [ARG...]
 *
 * Nothing is implicit here: what the command says by itself goes to the first console, to the file console.log.
 */

#include <libkrun.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int32_t check(const char *what, int32_t result)
{
    if (result < 0) {
        fprintf(stderr, "two_consoles: %s: %s\n", what, strerror(-result));
        exit(125);
    }
    return result;
}

int main(int argc, char **argv)
{
    uint32_t ctx, console;
    int log;

    if (argc < 3) {
        fprintf(stderr, "usage: two_consoles ROOT COMMAND [ARG...]\n");
        return 2;
    }
    log = open("console.log", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (log < 0) {
        perror("two_consoles: console.log");
        return 125;
    }
    check("log", krun_init_log(KRUN_LOG_TARGET_DEFAULT, KRUN_LOG_LEVEL_ERROR, KRUN_LOG_STYLE_NEVER, 0));
    ctx = (uint32_t)check("context", krun_create_ctx());
    check("configuration", krun_set_vm_config(ctx, 1, 256));
    check("no implicit console", krun_disable_implicit_console(ctx));
    check("root", krun_set_root(ctx, argv[1]));

    check("first console", krun_add_virtio_console_default(ctx, -1, log, log)); /* hvc0 */
    console = (uint32_t)check("second console", krun_add_virtio_console_multiport(ctx));
    check("questions", krun_add_console_port_inout(ctx, console, "questions", STDIN_FILENO, -1));
    check("answers", krun_add_console_port_inout(ctx, console, "answers", -1, STDOUT_FILENO));
    check("kernel console", krun_set_kernel_console(ctx, "hvc0"));

    check("command", krun_set_exec(ctx, argv[2], (const char *const *)&argv[3], NULL));
    check("start", krun_start_enter(ctx));
    return 125;
}
