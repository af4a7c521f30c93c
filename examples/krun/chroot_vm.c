/*
 * chroot, but with a kernel of its own: run a command in a directory of this host that has all it needs.
 *
 *   chroot_vm [-v HOST:TAG]... [-p HOST:GUEST]... [-m MIB] [-w DIR] [-f FILES] ROOT COMMAND [ARG...]
 *
 *   -v  share a directory; the command mounts it by its tag: mount -t virtiofs TAG /somewhere
 *   -p  publish a TCP port of the guest
 *   -m  memory in MiB (256)
 *   -w  working directory (/)
 *   -f  how many files the command may have open (1024)
 *
 * The command gets this program's environment, standard streams and, in return, its exit status.
 */

#include <libkrun.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 64

/* End unless a call has worked. */
static int32_t check(const char *what, int32_t result)
{
    if (result < 0) {
        fprintf(stderr, "chroot_vm: %s: %s\n", what, strerror(-result));
        exit(125);
    }
    return result;
}

static void usage(void)
{
    fprintf(stderr,
            "usage: chroot_vm [-v HOST:TAG]... [-p HOST:GUEST]... [-m MIB] [-w DIR] [-f FILES] ROOT COMMAND [ARG...]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    const char *ports[MOST + 1] = {NULL}, *workdir = "/";
    char *volumes[MOST], limit[64] = "7=1024:1024"; /* 7 is RLIMIT_NOFILE */
    const char *limits[] = {limit, NULL};
    int port_count = 0, volume_count = 0, option;
    uint32_t ctx, memory = 256;

    while ((option = getopt(argc, argv, "+v:p:m:w:f:")) != -1) {
        switch (option) {
        case 'v':
            if (volume_count == MOST)
                usage();
            volumes[volume_count++] = optarg;
            break;
        case 'p':
            if (port_count == MOST)
                usage();
            ports[port_count++] = optarg;
            break;
        case 'm':
            memory = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            workdir = optarg;
            break;
        case 'f':
            snprintf(limit, sizeof limit, "7=%s:%s", optarg, optarg);
            break;
        default:
            usage();
        }
    }
    if (argc - optind < 2)
        usage();

    check("log", krun_set_log_level(KRUN_LOG_LEVEL_ERROR));
    ctx = (uint32_t)check("context", krun_create_ctx());
    check("configuration", krun_set_vm_config(ctx, 1, memory));
    check("root", krun_set_root(ctx, argv[optind]));
    for (int i = 0; i < volume_count; i++) {
        char *colon = strrchr(volumes[i], ':');
        if (!colon)
            usage();
        *colon = 0;
        check("volume", krun_add_virtiofs(ctx, colon + 1, volumes[i]));
    }
    check("ports", krun_set_port_map(ctx, ports));
    check("limits", krun_set_rlimits(ctx, limits));
    check("working directory", krun_set_workdir(ctx, workdir));
    check("command",
          krun_set_exec(ctx, argv[optind + 1], (const char *const *)&argv[optind + 2], NULL));
    check("start", krun_start_enter(ctx));
    return 125; /* not reached: a start that works does not return */
}
