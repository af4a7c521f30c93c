/*
 * Boot into the file system on a disk image, with a file in it that is on no disk.
 *
 *   disk_vm [-r] [-t TYPE] [-d DEVICE] IMAGE COMMAND [ARG...]
 *
 *   -r  the image is read only
 *   -t  the type of its file system (found out by the guest)
 *   -d  the disk or partition that holds it (/dev/vda)
 *
 * Init comes from the library and starts in a root of its own, so that the image needs nothing of libkrun's. A greeting
 * shows on the way how a file of memory gets into a guest: it lies in a second file system with the tag "greeting".
 */

#include <libkrun.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int32_t check(const char *what, int32_t result)
{
    if (result < 0) {
        fprintf(stderr, "disk_vm: %s: %s\n", what, strerror(-result));
        exit(125);
    }
    return result;
}

int main(int argc, char **argv)
{
    /* The library does not copy it: it has to stay where it is while the VM lives. */
    static const char greeting[] = "hello from the host's memory\n";
    const char *type = NULL, *device = "/dev/vda";
    int option, is_read_only = 0;
    uint32_t ctx;

    while ((option = getopt(argc, argv, "+rt:d:")) != -1) {
        if (option == 'r')
            is_read_only = 1;
        else if (option == 't')
            type = optarg;
        else if (option == 'd')
            device = optarg;
        else
            argc = 0;
    }
    if (argc - optind < 2) {
        fprintf(stderr, "usage: disk_vm [-r] [-t TYPE] [-d DEVICE] IMAGE COMMAND [ARG...]\n");
        return 2;
    }
    check("log", krun_set_log_level(KRUN_LOG_LEVEL_ERROR));
    ctx = (uint32_t)check("context", krun_create_ctx());
    check("configuration", krun_set_vm_config(ctx, 1, 256));
    check("disk", krun_add_disk3(ctx, "root", argv[optind], KRUN_DISK_FORMAT_RAW, is_read_only, 0, KRUN_SYNC_FULL));
    check("root", krun_set_root_disk_remount(ctx, device, type, is_read_only ? "ro" : NULL));
    check("greeting", krun_add_virtiofs(ctx, "greeting", NULL));
    check("greeting", krun_fs_add_overlay_file(ctx, "greeting", "text", (const uint8_t *)greeting,
                                               sizeof greeting - 1, 0100644, 0));
    check("command",
          krun_set_exec(ctx, argv[optind + 1], (const char *const *)&argv[optind + 2], NULL));
    check("start", krun_start_enter(ctx));
    return 125;
}
